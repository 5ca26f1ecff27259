//! `callboard log-level`: shows the level of a running proxy's log, and has it be another one for a while.

use std::{process::ExitCode, time::Duration};

use clap::Args;
use serde_json::{Value, json};

use super::{
    admin_server::AdminServer,
    duration,
    output::say,
    plain::Plain,
    table::{moment, time},
};

#[derive(Args)]
pub(super) struct LogLevel {
    /// The level that holds for a while: one of off, error, warn, info, debug and trace, or a filter as in
    /// `log.level` [default: shows that of now]
    #[arg(value_name = "LEVEL")]
    level: Option<String>,
    /// For how long, up to 24h [default: 30m]
    #[arg(long = "for", value_name = "TIME", value_parser = duration::some, requires = "level")]
    time: Option<Duration>,
    /// Have the log go by `log.level` again
    #[arg(long, conflicts_with = "level")]
    reset: bool,
    #[command(flatten)]
    server: AdminServer,
}

const PATH: [&str; 2] = ["api", "log-level"];

pub(super) fn log_level(log: &LogLevel) -> anyhow::Result<ExitCode> {
    let answer = match (&log.level, log.reset) {
        (Some(level), _) => log
            .server
            .begin(&PATH, json!({ "level": level }), log.time)?,
        (None, true) => log.server.end(&PATH, &[])?,
        (None, false) => log.server.get(&PATH, &[])?,
    };
    let said: Value = answer.good()?;
    let level = Plain(said["level"].as_str().unwrap_or_default());
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let now = now.unwrap_or_default().as_secs_f64();
    let until = said["ends"].as_f64().map(|ends| {
        let left = time((ends - now).max(0.0));
        format!(", for another {left} until {}", moment(ends))
    });
    say(&format!("{level}{}\n", until.unwrap_or_default()))
}
