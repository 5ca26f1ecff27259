//! `callboard check`: reads a configuration file and says what is wrong with it, and with `--live`
//! with what it names.

use std::{
    io::{Write, stdout},
    process::ExitCode,
};

use anyhow::Context;
use clap::{Args, ValueEnum};
use serde::Serialize;

use super::{config_file::ConfigFile, live};
use crate::config::{Config, Diagnostic, Report};

#[derive(Args)]
pub(super) struct Check {
    #[command(flatten)]
    file: ConfigFile,
    /// Say only what keeps `run` from starting: not what is probably not meant, nor which files and
    /// variables this machine lacks
    #[arg(long)]
    file_only: bool,
    /// Ask each registry, too, and say what it lists of what the file names, and which instances take
    /// no connection
    #[arg(long, conflicts_with = "file_only")]
    live: bool,
    /// Text for people, errors on stderr; or one JSON object on stdout
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

#[derive(Clone, Copy, ValueEnum)]
enum Format {
    Text,
    Json,
}

/// What `--format json` writes.
#[derive(Serialize)]
struct Verdict<'a> {
    ok: bool,
    errors: &'a [Diagnostic],
    #[serde(skip_serializing_if = "Option::is_none")]
    live: Option<&'a live::Found>,
}

pub(super) fn check(check: &Check) -> anyhow::Result<ExitCode> {
    let path = check.file.path();
    let read = if check.file_only {
        Config::load(path)
    } else {
        Config::check(path)
    };
    let config = read.as_ref().ok().filter(|_| check.live);
    let live = config.map(live::look).transpose()?;
    let live = live.as_ref();
    let ok = read.is_ok() && live.is_none_or(live::Found::is_well);
    match (check.format, &read) {
        (Format::Text, Ok(config)) => {
            say(&format!("{}: {}", path.display(), summary(config)))?;
            if let Some(live) = live {
                say(format!("\n{live}").trim_end())?;
            }
        }
        (Format::Text, Err(report)) => eprintln!("{report}"),
        (Format::Json, read) => {
            let errors = read.as_ref().map_or_else(Report::diagnostics, |_| &[]);
            say(&serde_json::to_string(&Verdict { ok, errors, live })?)?;
        }
    }
    Ok(if ok {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Writes a line to stdout. Unlike `println!`, a reader that went away is an error, no panic.
fn say(line: &str) -> anyhow::Result<()> {
    writeln!(stdout(), "{line}").context("cannot write the result")
}

fn summary(config: &Config) -> String {
    let counted = |count: usize, one: &str, several: &str| {
        format!("{count} {}", if count == 1 { one } else { several })
    };
    let registries: Vec<_> = config.registries.keys().map(AsRef::as_ref).collect();
    let named = match &registries[..] {
        [] => "no registry".to_owned(),
        names => {
            let count = counted(names.len(), "registry", "registries");
            format!("{count} ({})", names.join(", "))
        }
    };
    format!(
        "no errors; {}, {}, {named}",
        counted(config.routes.len(), "route", "routes"),
        counted(config.services.len(), "service", "services"),
    )
}
