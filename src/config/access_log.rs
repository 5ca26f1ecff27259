//! `[access_log]`: which requests are a line, what stands in it, and where it goes. Knows nothing of
//! requests.

use std::{
    collections::BTreeSet,
    fmt,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use http::{HeaderName, header};

use super::{
    Statuses,
    document::{field::Field, report::Wrong, table::Table, value},
    service::statuses,
};

/// `[access_log]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessLog {
    /// Where its lines go.
    pub to: LogTarget,
    /// What a line looks like.
    pub format: LineFormat,
    /// Whether the target has its query.
    pub query: bool,
    /// Parameters of the query whose values are left out.
    pub masked: BTreeSet<String>,
    /// Of a million requests so many are a line.
    pub sample: u32,
    /// Answers that are a line in any case.
    pub always: Always,
}

/// `access_log.always`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Always {
    /// Those with such a status.
    pub status: Statuses,
    /// Those that took longer.
    pub slower_than: Option<Duration>,
}

/// `access_log.to`
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogTarget {
    /// The process's own output.
    Stdout,
    /// A file, which is appended to.
    File(PathBuf),
    /// The socket of a syslog on this machine.
    SyslogSocket(PathBuf),
    /// A syslog that listens for datagrams.
    SyslogUdp(SocketAddr),
}

impl fmt::Display for LogTarget {
    /// As the file has it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stdout => f.write_str("stdout"),
            Self::File(path) => write!(f, "file:{}", path.display()),
            Self::SyslogSocket(path) => write!(f, "syslog:{}", path.display()),
            Self::SyslogUdp(address) => write!(f, "syslog://{address}"),
        }
    }
}

/// `access_log.format`
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LineFormat {
    /// A JSON object with these fields, in their order.
    Json(Vec<LogField>),
    /// These, one after the other.
    Text(Vec<Part>),
}

impl LineFormat {
    /// What it shows.
    pub fn fields(&self) -> impl Iterator<Item = &LogField> {
        let (json, text): (&[LogField], &[Part]) = match self {
            Self::Json(fields) => (fields, &[]),
            Self::Text(parts) => (&[], parts),
        };
        json.iter().chain(text.iter().filter_map(|part| match part {
            Part::Field(field) => Some(field),
            Part::Text(_) => None,
        }))
    }
}

/// A part of a line that is text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// As it stands.
    Text(String),
    /// What the request has.
    Field(LogField),
}

macro_rules! log_fields {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)+) => {
        /// What a line says of a request.
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub enum LogField {
            $($(#[$doc])* $variant,)+
            /// A field of its head.
            Header(HeaderName),
        }

        /// All but the fields of its head, by their names.
        const FIELDS: &[(&str, LogField)] = &[$(($name, LogField::$variant),)+];
    };
}

log_fields! {
    /// When its head was whole, in UTC.
    Time = "time",
    /// The same as servers of old wrote it.
    ClfTime = "clf_time",
    /// Who asked: behind trusted proxies, the client that they speak for.
    Client = "client",
    /// The address at the other end of the connection.
    Peer = "peer",
    /// `http` or `https`.
    Scheme = "scheme",
    /// `HTTP/1.0`, `HTTP/1.1` or `HTTP/2.0`.
    Protocol = "protocol",
    /// Its method.
    Method = "method",
    /// The host that it names.
    Host = "host",
    /// Its target.
    Path = "path",
    /// The status of its answer; 499 for a client that did not wait.
    Status = "status",
    /// Of a call of gRPC: the status that its answer says.
    GrpcStatus = "grpc_status",
    /// Of its answer's body.
    Bytes = "bytes",
    /// Whether the answer was sent to its end.
    Whole = "whole",
    /// From its head to the end of its answer.
    Ms = "ms",
    /// From its head to the head of its answer.
    FirstByteMs = "first_byte_ms",
    /// Of that, what passed before the last attempt began: waiting for room, and attempts before.
    QueueMs = "queue_ms",
    /// How long that attempt waited for a new connection; nothing where it had one.
    ConnectMs = "connect_ms",
    /// The route's host and path.
    Route = "route",
    /// The service that answered, or was to.
    Service = "service",
    /// The endpoint that answered.
    Endpoint = "endpoint",
    /// How many attempts it took.
    Attempts = "attempts",
    /// The `X-Request-Id` of the request, or of an answer of the proxy's own.
    RequestId = "request_id",
    /// That of its `traceparent`.
    TraceId = "trace_id",
    /// Of the client's connection, as `TLSv1.3`.
    TlsVersion = "tls_version",
    /// Of the client's connection: IANA's name of its suite.
    TlsCipher = "tls_cipher",
    /// The host that the client's connection has asked for.
    Sni = "sni",
    /// Its `User-Agent`.
    UserAgent = "user_agent",
    /// Its `Referer`.
    Referer = "referer",
}

/// What a line of JSON has that is not told otherwise: all but what other fields say.
fn json_fields() -> Vec<LogField> {
    let all = FIELDS.iter().map(|(_, field)| field.clone());
    all.filter(|field| !matches!(field, LogField::Peer | LogField::ClfTime))
        .collect()
}

/// As NCSA's servers wrote it, and what reads their logs expects.
const COMBINED: &str = "{client} - - [{clf_time}] \"{method} {path} {protocol}\" {status} {bytes} \
    \"{referer}\" \"{user_agent}\"";

impl LogField {
    /// As the file and a line of JSON have it.
    pub fn name(&self) -> String {
        match self {
            Self::Header(name) => format!("header.{name}"),
            other => {
                let mut known = FIELDS.iter();
                let found = known.find(|(_, field)| field == other);
                found.map_or_else(String::new, |(name, _)| (*name).to_owned())
            }
        }
    }

    fn read(name: &str) -> Result<Self, Wrong> {
        if let Some(header) = name.strip_prefix("header.") {
            return header_field(header);
        }
        if let Some((_, field)) = FIELDS.iter().find(|(known, _)| *known == name) {
            return Ok(field.clone());
        }
        let wrong = Wrong::new(format!("`{name}` is nothing that is known of a request"));
        let names = FIELDS.iter().map(|(name, _)| *name);
        Err(match value::meant(name, names.clone()) {
            Some(meant) => wrong.suggest(format!("did you mean `{meant}`?")),
            None => {
                let names: Vec<_> = names.chain(["header.NAME"]).collect();
                wrong.suggest(format!("it may be {}", value::list(&names)))
            }
        })
    }
}

/// Fields that a client proves by who it is.
const CREDENTIALS: [HeaderName; 3] = [
    header::AUTHORIZATION,
    header::COOKIE,
    header::PROXY_AUTHORIZATION,
];

fn header_field(name: &str) -> Result<LogField, Wrong> {
    let Ok(name) = HeaderName::from_bytes(name.as_bytes()) else {
        return Err(Wrong::new(format!("`{name}` can be no field of a head")));
    };
    match name {
        header::USER_AGENT => Ok(LogField::UserAgent),
        header::REFERER => Ok(LogField::Referer),
        name if CREDENTIALS.contains(&name) => Err(Wrong::new(format!(
            "`{name}` has credentials, which stand in no log"
        ))),
        name => Ok(LogField::Header(name)),
    }
}

/// Reads it; `None` where the file has none.
pub(super) fn read(top: &mut Table<'_>, base: &Path) -> Option<AccessLog> {
    let is_there = top.has("access_log");
    let log = top.within("access_log", |table| one(table, base));
    is_there.then_some(log)
}

fn one(table: &mut Table<'_>, base: &Path) -> AccessLog {
    let to = table
        .take("to")
        .and_then(|field| field.parse("where it goes", "\"stdout\"", |text| target(text, base)));
    let format = format(table);
    let query = table.flag("query", true);
    let masked = table.texts("masked", "\"token\"").unwrap_or_default();
    if !query && !masked.is_empty() {
        table.absent(
            "masked",
            Wrong::new("without its query the path has nothing to mask"),
        );
    }
    let share = table.fraction(
        "sample",
        |share| (0.0..=1.0).contains(&share),
        "a number from 0 to 1",
        1.0,
    );
    let always = table.within("always", |table| Always {
        status: statuses::read_http(table, "status").unwrap_or_default(),
        slower_than: table.optional("slower_than", None),
    });
    // No more than a million, as was tested.
    let sample = (share * 1e6).ceil() as u32;
    if always != Always::default() && sample == MILLION {
        let wrong = Wrong::new("every request is a line already");
        table.absent("always", wrong.suggest("add `sample = 0.01`"));
    }
    AccessLog {
        to: to.unwrap_or(LogTarget::Stdout),
        format,
        query,
        masked: masked.into_iter().collect(),
        sample,
        always,
    }
}

/// A sample of all.
pub const MILLION: u32 = 1_000_000;

fn target(text: &str, base: &Path) -> Result<LogTarget, Wrong> {
    let syslog = text.strip_prefix("syslog:");
    match (text, text.strip_prefix("file:"), syslog) {
        ("stdout", ..) => Ok(LogTarget::Stdout),
        (_, Some(path), _) if !path.is_empty() => Ok(LogTarget::File(base.join(path))),
        (_, _, Some(path)) if path.starts_with('/') && !path.starts_with("//") => {
            Ok(LogTarget::SyslogSocket(PathBuf::from(path)))
        }
        (_, _, Some(address)) => match address.trim_start_matches('/').parse() {
            Ok(address) => Ok(LogTarget::SyslogUdp(address)),
            Err(_) => Err(Wrong::new(format!("`{address}` is no address of a syslog"))
                .suggest("write `syslog:/dev/log`, or `syslog://127.0.0.1:514`")),
        },
        _ => Err(Wrong::new(format!("`{text}` is no place for it")).suggest(
            "write `stdout`, `file:access.log`, `syslog:/dev/log` or `syslog://127.0.0.1:514`",
        )),
    }
}

fn format(table: &mut Table<'_>) -> LineFormat {
    let format = table.take("format").and_then(|field| {
        field.parse("a format", "\"json\"", |text| match text {
            "json" => Ok(None),
            "combined" => template(COMBINED).map(Some),
            text if text.contains('{') => template(text).map(Some),
            text => Err(Wrong::new(format!("`{text}` is no format"))
                .suggest("write \"json\", \"combined\", or a text such as \"{method} {path}\"")),
        })
    });
    let fields = table.take("fields");
    match (format.flatten(), fields) {
        (None, None) => LineFormat::Json(json_fields()),
        (None, Some(fields)) => LineFormat::Json(listed(&fields)),
        (Some(parts), fields) => {
            if let Some(fields) = fields {
                let wrong = Wrong::new("they are those of a line of JSON");
                fields.wrong(wrong.suggest("leave it out, or `format`"));
            }
            LineFormat::Text(parts)
        }
    }
}

fn listed(field: &Field<'_>) -> Vec<LogField> {
    let elements = field.elements("\"path\"");
    let mut fields: Vec<LogField> = Vec::new();
    for element in &elements {
        let read = element.parse("a field", "\"path\"", LogField::read);
        match read {
            Some(read) if fields.contains(&read) => {
                element.wrong(Wrong::new("it stands here twice"));
            }
            read => fields.extend(read),
        }
    }
    if elements.is_empty() {
        field.wrong(Wrong::new("a line has something in it").suggest("leave the key out"));
    }
    fields
}

/// The parts of a text with `{fields}`; `{{` is a brace.
fn template(text: &str) -> Result<Vec<Part>, Wrong> {
    let mut parts = Vec::new();
    let mut plain = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(['{', '}', '\n', '\r']) {
        plain.push_str(&rest[..at]);
        let from = &rest[at..];
        if let Some(after) = from.strip_prefix("{{").or_else(|| from.strip_prefix("}}")) {
            plain.push_str(&from[..1]);
            rest = after;
        } else if let Some((name, after)) = from
            .strip_prefix('{')
            .and_then(|inner| inner.split_once('}'))
        {
            if !plain.is_empty() {
                parts.push(Part::Text(std::mem::take(&mut plain)));
            }
            parts.push(Part::Field(LogField::read(name)?));
            rest = after;
        } else if from.starts_with(['\n', '\r']) {
            return Err(Wrong::new("a line has no end amid it"));
        } else {
            let wrong = Wrong::new(format!("`{}` stands alone", &from[..1]));
            return Err(wrong.suggest("write `{field}`; `{{` and `}}` are braces"));
        }
    }
    plain.push_str(rest);
    if !plain.is_empty() {
        parts.push(Part::Text(plain));
    }
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::testing::{ROUTE, config, error};

    fn log(text: &str) -> AccessLog {
        config(&format!("[access_log]\n{text}\n{ROUTE}"))
            .access_log
            .unwrap()
    }

    #[test]
    fn a_file_without_the_table_has_none_and_an_empty_one_is_json_to_stdout() {
        assert_eq!(config(ROUTE).access_log, None);
        let plain = log("");
        assert_eq!((&plain.to, plain.sample), (&LogTarget::Stdout, MILLION));
        assert!(plain.query && plain.always == Always::default());
        assert_eq!(plain.format, LineFormat::Json(json_fields()));
    }

    #[test]
    fn it_goes_where_it_is_told() {
        for (text, expected) in [
            ("stdout", LogTarget::Stdout),
            ("file:a.log", LogTarget::File("/etc/callboard/a.log".into())),
            ("file:/b.log", LogTarget::File("/b.log".into())),
            (
                "syslog:/dev/log",
                LogTarget::SyslogSocket("/dev/log".into()),
            ),
            (
                "syslog://[::1]:514",
                LogTarget::SyslogUdp("[::1]:514".parse().unwrap()),
            ),
        ] {
            let to = log(&format!("to = \"{text}\"")).to;
            assert_eq!(to, expected, "{text}");
            assert_eq!(
                to.to_string(),
                text.replace("file:a", "file:/etc/callboard/a")
            );
        }
    }

    #[test]
    fn a_template_has_texts_and_fields_in_their_order() {
        let LineFormat::Text(parts) =
            log("format = \"{{{method}}} {header.X-Shop} {header.referer}!\"").format
        else {
            panic!("it is text");
        };
        let text = |text: &str| Part::Text(text.to_owned());
        assert_eq!(
            parts,
            [
                text("{"),
                Part::Field(LogField::Method),
                text("} "),
                Part::Field(LogField::Header(HeaderName::from_static("x-shop"))),
                text(" "),
                Part::Field(LogField::Referer),
                text("!"),
            ]
        );
        assert!(template(COMBINED).is_ok());
    }

    #[test]
    fn the_page_has_each_field_and_no_other() {
        let page = include_str!("../../docs/access-log.md");
        let (_, table) = page.split_once("## What a line says").unwrap();
        let (table, _) = table.split_once("\n## ").unwrap();
        let rows = table.lines().filter_map(|line| line.strip_prefix("| `"));
        let rows: Vec<_> = rows.filter_map(|row| row.split('`').next()).collect();
        let known = FIELDS.iter().map(|(name, _)| *name);
        assert_eq!(rows, known.chain(["header.NAME"]).collect::<Vec<_>>());
    }

    #[test]
    fn what_is_wrong_is_said_at_its_key() {
        for (text, said) in [
            ("to = \"stdot\"", "is no place for it"),
            ("to = \"file:\"", "is no place for it"),
            ("to = \"syslog:here\"", "is no address of a syslog"),
            ("format = \"jsn\"", "is no format"),
            ("format = \"{methd}\"", "did you mean `method`?"),
            ("format = \"{method\"", "`{` stands alone"),
            ("format = \"{method} }\"", "`}` stands alone"),
            ("format = \"{method}\\n\"", "no end amid it"),
            ("fields = []", "a line has something in it"),
            ("fields = [\"path\", \"path\"]", "it stands here twice"),
            ("fields = [\"header.cookie\"]", "has credentials"),
            ("format = \"combined\"\nfields = [\"path\"]", "line of JSON"),
            ("sample = 1.5", "a number from 0 to 1"),
            (
                "always = { status = 500 }",
                "every request is a line already",
            ),
            ("query = false\nmasked = [\"token\"]", "nothing to mask"),
        ] {
            let found = error(&format!("[access_log]\n{text}\n{ROUTE}"));
            assert!(found.contains("access_log."), "{found}");
            assert!(found.contains(said), "{text}: {found}");
        }
        let found = error(&format!("[log]\naccess = true\n{ROUTE}"));
        assert!(found.contains("[access_log]"), "{found}");
    }
}
