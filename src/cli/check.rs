//! `callboard check`: reads a configuration file and says what is wrong with it, and with `--live`
//! with what it names.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::bail;
use clap::Args;
use serde::Serialize;

use super::{
    config_file::ConfigFile,
    live,
    output::{Format, say},
};
use crate::config::{Changes, Config, Diagnostic, Report};

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
    /// Say, too, what a reload would change of a proxy that runs with this other file
    #[arg(long, value_name = "FILE")]
    diff: Option<PathBuf>,
    /// Text for people, errors on stderr; or one JSON object on stdout
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

/// What `--format json` writes.
#[derive(Serialize)]
struct Verdict<'a> {
    ok: bool,
    errors: &'a [Diagnostic],
    #[serde(skip_serializing_if = "Option::is_none")]
    live: Option<&'a live::Found>,
    #[serde(skip_serializing_if = "Option::is_none")]
    changes: Option<&'a Changes>,
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
    let changes = match (&check.diff, &read) {
        (Some(other), Ok(config)) => Some(changes_of(config, other)?),
        _ => None,
    };
    let changes = changes.as_ref();
    let ok = read.is_ok() && live.is_none_or(live::Found::is_well);
    let line = |text: &str| say(&format!("{text}\n")).map(drop);
    match (check.format, &read) {
        (Format::Text, Ok(config)) => {
            line(&format!("{}: {}", path.display(), summary(config)))?;
            if let Some(live) = live {
                line(format!("\n{live}").trim_end())?;
            }
            match changes {
                Some(none) if none.is_empty() => line("a reload would change nothing")?,
                Some(some) => line(some.to_string().trim_end())?,
                None => {}
            }
        }
        (Format::Text, Err(report)) => eprintln!("{report}"),
        (Format::Json, read) => {
            let errors = read.as_ref().map_or_else(Report::diagnostics, |_| &[]);
            let verdict = Verdict {
                ok,
                errors,
                live,
                changes,
            };
            line(&serde_json::to_string(&verdict)?)?;
        }
    }
    Ok(if ok {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// What a reload would change of a proxy that runs with another file.
fn changes_of(config: &Config, other: &Path) -> anyhow::Result<Changes> {
    let running = match Config::load(other) {
        Ok(running) => running,
        Err(report) => bail!("{}", report.in_a_line()),
    };
    match running.refuses(config) {
        Some(why) => bail!("{why}"),
        None => Ok(Changes::between(&running, config)),
    }
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
    let with = match &config.included[..] {
        [] => String::new(),
        files => format!("; with {}", files.join(", ")),
    };
    format!(
        "no errors; {}, {}, {named}{with}",
        counted(config.routes.len(), "route", "routes"),
        counted(config.services.len(), "service", "services"),
    )
}
