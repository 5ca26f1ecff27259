//! Where the log goes and how its lines look.

use std::io::{IsTerminal, Write};

use anyhow::Context;
use tracing::field::{Field, Visit};
use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::{
    EnvFilter, Layer,
    field::RecordFields,
    fmt::{self, FormatFields, format::Writer},
    layer::SubscriberExt,
    reload,
    util::SubscriberInitExt,
};

use super::plain::Plain;
use crate::{
    admin::LogLevel,
    config::{Log, LogFormat},
};

/// ZooKeeper's client tells of every attempt, which the watchers do at a slowing pace; that of HTTP/2, of
/// frames that the other side may send as often as it likes. A level for them in `log.level`
/// stands before this.
const QUIET: &str = "zookeeper_client=off,h2=error";

/// Lines that wait to be written. One may be as long as a request's target.
const WAITING: usize = 32 * 1024;

/// The log of a process.
pub(super) struct Logging {
    /// What is still in the buffer is written when this goes, so it is kept until the process ends.
    pub(super) flushed_at_exit: WorkerGuard,
    /// What it goes by.
    pub(super) level: LogLevel,
}

/// Sends the log there from now on.
///
/// # Errors
/// Where there is a log already.
pub(super) fn start(
    log: &Log,
    out: impl Write + IsTerminal + Send + 'static,
) -> anyhow::Result<Logging> {
    let is_terminal = out.is_terminal();
    // Lines go through a buffer to a thread of their own. Where the log's reader is too slow, lines
    // are lost, but no request is held up.
    let (writer, guard) = NonBlockingBuilder::default()
        .lossy(true)
        .buffered_lines_limit(WAITING)
        .thread_name("log")
        .finish(out);
    let [as_text, as_json] = filters(log, is_terminal)?;
    // A layer cannot become another one, but the filter of each can: one lets nothing through.
    let (as_text, text) = reload::Layer::new(as_text);
    let (as_json, json) = reload::Layer::new(as_json);
    let colours = is_terminal && std::env::var_os("NO_COLOR").is_none();
    let lines = fmt::layer().with_writer(writer.clone());
    let lines = lines.with_ansi(colours).fmt_fields(PlainFields);
    let objects = fmt::layer().with_writer(writer).json().flatten_event(true);
    tracing_subscriber::registry()
        .with(lines.with_filter(as_text))
        .with(objects.with_filter(as_json))
        .try_init()
        .context("cannot start the log")?;
    let go_by = move |log: &Log| {
        // A level is read before it is set; and a process has its log to its end.
        if let Ok([as_text, as_json]) = filters(log, is_terminal) {
            let _ = text.reload(as_text);
            let _ = json.reload(as_json);
        }
    };
    Ok(Logging {
        flushed_at_exit: guard,
        level: LogLevel::new(log, go_by),
    })
}

/// What becomes a line of text, and what a JSON object.
fn filters(log: &Log, is_terminal: bool) -> anyhow::Result<[EnvFilter; 2]> {
    let is_json = match log.format {
        LogFormat::Auto => !is_terminal,
        LogFormat::Text => false,
        LogFormat::Json => true,
    };
    let filter = format!("{QUIET},{}", log.level);
    let filter = EnvFilter::builder().with_regex(false).parse(filter);
    let filter = filter.context("the log level")?;
    let nothing = EnvFilter::new("off");
    Ok(match is_json {
        false => [filter, nothing],
        true => [nothing, filter],
    })
}

/// The fields of an event on one line, whatever stands in them: `text name=value name=value`.
struct PlainFields;

impl<'writer> FormatFields<'writer> for PlainFields {
    fn format_fields<R: RecordFields>(
        &self,
        writer: Writer<'writer>,
        fields: R,
    ) -> std::fmt::Result {
        let mut line = Line {
            writer,
            written: false,
            result: Ok(()),
        };
        fields.record(&mut line);
        line.result
    }
}

struct Line<'writer> {
    writer: Writer<'writer>,
    written: bool,
    result: std::fmt::Result,
}

impl Line<'_> {
    fn add(&mut self, field: &Field, value: impl std::fmt::Display) {
        let gap = if self.written { " " } else { "" };
        self.written = true;
        let added = match (field.name(), self.writer.has_ansi_escapes()) {
            ("message", _) => write!(self.writer, "{gap}{value}"),
            (name, false) => write!(self.writer, "{gap}{name}={value}"),
            // In italics, and the sign faint, as `tracing` has them.
            (name, true) => {
                let style = ["\u{1b}[3m", "\u{1b}[0m\u{1b}[2m", "\u{1b}[0m"];
                let [italic, faint, plain] = style;
                write!(self.writer, "{gap}{italic}{name}{faint}={plain}{value}")
            }
        };
        self.result = self.result.and(added);
    }
}

impl Visit for Line<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            self.add(field, Plain(value));
        } else {
            self.record_debug(field, &value);
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.add(field, format_args!("{:?}", Plain(value)));
    }
}
