//! One line: what a request has, as JSON or as the text of a template. What strangers chose stands in
//! it so that it forges no line and reaches no terminal.

use std::{
    io::Write as _,
    net::IpAddr,
    time::{Duration, SystemTime},
};

use http::{Method, Version};
use time::OffsetDateTime;

use super::copied::{Copied, Wanted, name_of};
use crate::config::{LineFormat, LogField, Part};

/// A request that is over.
#[derive(Debug)]
pub(crate) struct Line<'l> {
    /// What it has of the request's head.
    pub copied: &'l Copied,
    pub at: SystemTime,
    pub client: IpAddr,
    pub peer: IpAddr,
    pub scheme: &'static str,
    pub version: Version,
    pub method: &'l Method,
    pub status: u16,
    /// Of a call of gRPC, where its answer says one.
    pub grpc_status: Option<&'static str>,
    pub bytes: u64,
    pub is_whole: bool,
    pub took: Duration,
    pub first_byte: Option<Duration>,
    pub queue: Option<Duration>,
    pub connect: Option<Duration>,
    pub route: Option<&'l str>,
    pub service: Option<&'l str>,
    pub endpoint: Option<&'l str>,
    pub attempts: usize,
    /// That of an answer of the proxy's own.
    pub request_id: Option<&'l str>,
    /// Of the client's connection, by TLS.
    pub tls_version: Option<&'static str>,
    pub tls_cipher: Option<&'l str>,
    pub sni: Option<&'l str>,
}

/// What one field of a line says.
enum Value<'v> {
    Text(&'v str),
    Made(String),
    Number(u64),
    /// Milliseconds, to a microsecond.
    Span(Duration),
    Flag(bool),
}

impl Line<'_> {
    /// Writes it without its end.
    pub(super) fn write(&self, format: &LineFormat, wanted: &Wanted, out: &mut Vec<u8>) {
        match format {
            LineFormat::Json(fields) => {
                let mut lead = b'{';
                for field in fields {
                    let Some(value) = self.value(field, wanted) else {
                        continue;
                    };
                    out.push(lead);
                    lead = b',';
                    json_text(&field.name(), out);
                    out.push(b':');
                    value.write(out, json_text);
                }
                out.extend(if lead == b'{' { &b"{}"[..] } else { b"}" });
            }
            LineFormat::Text(parts) => {
                for part in parts {
                    match part {
                        Part::Text(text) => out.extend(text.as_bytes()),
                        Part::Field(field) => match self.value(field, wanted) {
                            Some(value) => value.write(out, plain_text),
                            None => out.push(b'-'),
                        },
                    }
                }
            }
        }
    }

    /// `None` where there is nothing to say.
    fn value(&self, field: &LogField, wanted: &Wanted) -> Option<Value<'_>> {
        let of_head = |field| self.copied.field(wanted, &name_of(field)?);
        Some(match field {
            LogField::Time => Value::Made(iso_time(self.at)),
            LogField::ClfTime => Value::Made(clf_time(self.at)),
            LogField::Client => Value::Made(self.client.to_string()),
            LogField::Peer => Value::Made(self.peer.to_string()),
            LogField::Scheme => Value::Text(self.scheme),
            LogField::Protocol => Value::Text(name_of_version(self.version)),
            LogField::Method => Value::Text(self.method.as_str()),
            LogField::Host => Value::Text(self.copied.host()?),
            LogField::Path => Value::Text(self.copied.path()),
            LogField::Status => Value::Number(self.status.into()),
            LogField::GrpcStatus => Value::Text(self.grpc_status?),
            LogField::Bytes => Value::Number(self.bytes),
            LogField::Whole => Value::Flag(self.is_whole),
            LogField::Ms => Value::Span(self.took),
            LogField::FirstByteMs => Value::Span(self.first_byte?),
            LogField::QueueMs => Value::Span(self.queue?),
            LogField::ConnectMs => Value::Span(self.connect?),
            LogField::Route => Value::Text(self.route?),
            LogField::Service => Value::Text(self.service?),
            LogField::Endpoint => Value::Text(self.endpoint?),
            LogField::Attempts => Value::Number(self.attempts as u64),
            LogField::RequestId => Value::Text(self.request_id.or_else(|| of_head(field))?),
            LogField::TraceId => Value::Text(trace_id(of_head(field)?)?),
            LogField::TlsVersion => Value::Text(self.tls_version?),
            LogField::TlsCipher => Value::Text(self.tls_cipher?),
            LogField::Sni => Value::Text(self.sni?),
            LogField::UserAgent | LogField::Referer | LogField::Header(_) => {
                Value::Text(of_head(field)?)
            }
        })
    }
}

impl Value<'_> {
    fn write(&self, out: &mut Vec<u8>, text: fn(&str, &mut Vec<u8>)) {
        // Memory takes what is written to it.
        let _ = match self {
            Self::Text(value) => return text(value, out),
            Self::Made(value) => return text(value, out),
            Self::Number(number) => write!(out, "{number}"),
            Self::Flag(flag) => write!(out, "{flag}"),
            Self::Span(span) => {
                let micros = span.as_micros();
                write!(out, "{}.{:03}", micros / 1000, micros % 1000)
            }
        };
    }
}

fn name_of_version(version: Version) -> &'static str {
    match version {
        Version::HTTP_2 => "HTTP/2.0",
        Version::HTTP_10 => "HTTP/1.0",
        _ => "HTTP/1.1",
    }
}

/// That of a `traceparent` (W3C Trace Context).
fn trace_id(parent: &str) -> Option<&str> {
    let id = parent.split('-').nth(1)?;
    let is_one = id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_one.then_some(id)
}

/// Whether a terminal would do something with it, or show what follows in another order.
fn is_control(char: char) -> bool {
    char.is_control()
        || matches!(char, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn json_text(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    let mut plain = 0;
    for (at, char) in text.char_indices() {
        if !matches!(char, '"' | '\\') && !is_control(char) {
            continue;
        }
        out.extend(&text.as_bytes()[plain..at]);
        plain = at + char.len_utf8();
        let _ = match char {
            '"' | '\\' => write!(out, "\\{char}"),
            // All of them are one unit of UTF-16.
            _ => write!(out, "\\u{:04x}", u32::from(char)),
        };
    }
    out.extend(&text.as_bytes()[plain..]);
    out.push(b'"');
}

/// As nginx has it: what is no printable ASCII, quotes and backslashes as `\xHH`.
fn plain_text(text: &str, out: &mut Vec<u8>) {
    if text.is_empty() {
        out.push(b'-');
    }
    for byte in text.bytes() {
        if matches!(byte, b' '..=b'~') && byte != b'"' && byte != b'\\' {
            out.push(byte);
        } else {
            let _ = write!(out, "\\x{byte:02X}");
        }
    }
}

const MONTHS: [&str; 12] = [
    "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
];

fn month(at: OffsetDateTime) -> &'static str {
    MONTHS[usize::from(u8::from(at.month())) - 1]
}

/// To a millisecond, in UTC.
fn iso_time(at: SystemTime) -> String {
    let at = OffsetDateTime::from(at);
    let (year, month, day) = at.to_calendar_date();
    let (hour, minute, second, milli) = at.to_hms_milli();
    let month = u8::from(month);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{milli:03}Z")
}

/// As NCSA's servers wrote it, in UTC.
fn clf_time(at: SystemTime) -> String {
    let at = OffsetDateTime::from(at);
    let (hour, minute, second) = at.to_hms();
    let (day, month, year) = (at.day(), month(at), at.year());
    format!("{day:02}/{month}/{year:04}:{hour:02}:{minute:02}:{second:02} +0000")
}

/// As RFC 3164 has it, in UTC.
pub(super) fn syslog_time(at: SystemTime) -> String {
    let at = OffsetDateTime::from(at);
    let (hour, minute, second) = at.to_hms();
    let (day, month) = (at.day(), month(at));
    format!("{month} {day:2} {hour:02}:{minute:02}:{second:02}")
}

#[cfg(test)]
mod tests {
    use http::{Request, request::Parts};

    use super::*;
    use crate::access_log::tests::line;

    fn request(target: &str, fields: &[(&str, &str)]) -> Parts {
        let mut request = Request::builder().uri(target).header("host", "shop");
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    fn written(log: &crate::config::AccessLog, request: &Parts) -> String {
        let wanted = Wanted::by(&log.format);
        let copied = Copied::of(request, &wanted, log);
        let mut out = Vec::new();
        line(&copied).write(&log.format, &wanted, &mut out);
        String::from_utf8(out).unwrap()
    }

    fn in_file(keys: &str) -> crate::config::AccessLog {
        let text = format!(
            "[access_log]\n{keys}\n[[route]]\npath = \"/cart\"\nservice = \"cart\"\n\
             [service.cart]\nendpoints = [\"127.0.0.1:1\"]\n"
        );
        let config = crate::config::Config::parse(&text, std::path::Path::new("/"));
        config.unwrap().access_log.unwrap()
    }

    #[test]
    fn a_line_of_json_has_all_that_is_known_in_its_order() {
        let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let fields = [
            ("user-agent", "curl/8"),
            ("traceparent", parent),
            ("x-request-id", "r1"),
        ];
        let text = written(&in_file(""), &request("/cart?a=b", &fields));
        assert_eq!(
            text,
            "{\"time\":\"1970-01-01T00:00:00.000Z\",\"client\":\"127.0.0.1\",\"scheme\":\"http\",\
             \"protocol\":\"HTTP/1.1\",\"method\":\"GET\",\"host\":\"shop\",\"path\":\"/cart?a=b\",\
             \"status\":200,\"bytes\":4,\"whole\":true,\"ms\":1.500,\"attempts\":1,\
             \"request_id\":\"r1\",\"trace_id\":\"0af7651916cd43dd8448eb211c80319c\",\
             \"user_agent\":\"curl/8\"}"
        );
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(json["ms"], 1.5);
    }

    #[test]
    fn a_combined_line_is_what_readers_of_such_logs_expect() {
        let log = in_file("format = \"combined\"");
        let fields = [("user-agent", "a \"b\" \\ \u{e9}")];
        assert_eq!(
            written(&log, &request("/cart", &fields)),
            "127.0.0.1 - - [01/Jan/1970:00:00:00 +0000] \"GET /cart HTTP/1.1\" 200 4 \"-\" \
             \"a \\x22b\\x22 \\x5C \\xC3\\xA9\""
        );
    }

    #[test]
    fn the_query_and_its_masked_parameters_are_left_out() {
        let target = "/cart?token=s3cret&a=b&tok%65n=s3cret&token";
        let format = "format = \"{path}\"\n";
        for (keys, expected) in [
            ("", target),
            ("query = false", "/cart"),
            (
                "masked = [\"token\"]",
                "/cart?token=***&a=b&tok%65n=***&token",
            ),
        ] {
            let log = in_file(&format!("{format}{keys}"));
            assert_eq!(written(&log, &request(target, &[])), expected);
        }
    }

    #[test]
    fn a_long_value_is_cut() {
        let log = in_file("format = \"{user_agent}\"");
        let long = "x".repeat(5_000);
        let text = written(&log, &request("/", &[("user-agent", &long)]));
        assert_eq!(text.len(), 1024);
    }

    #[test]
    fn no_text_ends_a_line_or_reaches_a_terminal() {
        let texts = ["a\nb", "\u{1b}[31m", "\u{9b}31m", "\u{202e}x", "\"}", "\\"];
        for text in texts {
            let mut out = Vec::new();
            json_text(text, &mut out);
            let json = String::from_utf8(out).unwrap();
            assert_eq!(serde_json::from_str::<String>(&json).unwrap(), text);
            let mut out = Vec::new();
            plain_text(text, &mut out);
            let plain = String::from_utf8(out).unwrap();
            assert!(!json.chars().any(is_control), "{json}");
            assert!(plain.bytes().all(|byte| (b' '..=b'~').contains(&byte)));
            assert!(!plain.contains('"'), "{plain}");
        }
    }

    #[test]
    fn days_of_one_digit_are_padded_in_a_syslogs_time() {
        assert_eq!(syslog_time(SystemTime::UNIX_EPOCH), "Jan  1 00:00:00");
    }
}
