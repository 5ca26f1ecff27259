//! `callboard run`: the configuration, the log, and then the proxy until it ends.

use std::{path::Path, process::ExitCode};

use super::logging;
use crate::config::Config;

pub(super) fn run(path: &Path) -> anyhow::Result<ExitCode> {
    let config = match Config::load(path) {
        Ok(config) => config,
        Err(report) => {
            eprintln!("{report}");
            return Ok(ExitCode::FAILURE);
        }
    };
    let _flushed_at_exit = logging::start(&config.log)?;
    serve(config)?;
    Ok(ExitCode::SUCCESS)
}

fn serve(_config: Config) -> anyhow::Result<()> {
    anyhow::bail!("not built yet")
}
