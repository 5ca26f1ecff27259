//! Where the log goes and how its lines look.

use std::io::{IsTerminal, Write};

use anyhow::Context;
use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::{EnvFilter, Layer, fmt, layer::SubscriberExt, util::SubscriberInitExt};

use crate::config::{Log, LogFormat};

/// ZooKeeper's client tells of every attempt, which the watchers do at a slowing pace. A level for
/// it in `log.level` stands before this.
const QUIET: &str = "zookeeper_client=off";

/// Sends the log there from now on. What is still in the buffer is written when the guard
/// goes, so it is kept until the process ends.
///
/// # Errors
/// Where there is a log already.
pub(super) fn start(
    log: &Log,
    out: impl Write + IsTerminal + Send + 'static,
) -> anyhow::Result<WorkerGuard> {
    let terminal = out.is_terminal();
    let json = match log.format {
        LogFormat::Auto => !terminal,
        LogFormat::Text => false,
        LogFormat::Json => true,
    };
    // Lines go through a buffer to a thread of their own: one that nobody reads loses lines,
    // but never holds up a request.
    let (writer, guard) = NonBlockingBuilder::default()
        .lossy(true)
        .thread_name("log")
        .finish(out);
    let lines = fmt::layer().with_writer(writer);
    let lines = if json {
        lines.json().flatten_event(true).boxed()
    } else {
        let colours = terminal && std::env::var_os("NO_COLOR").is_none();
        lines.with_ansi(colours).boxed()
    };
    let filter = format!("{QUIET},{}", log.level);
    let filter = EnvFilter::try_new(filter).context("the log level")?;
    tracing_subscriber::registry()
        .with(lines.with_filter(filter))
        .try_init()
        .context("cannot start the log")?;
    Ok(guard)
}
