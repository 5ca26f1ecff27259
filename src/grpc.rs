//! The statuses of gRPC: their codes, their names, and how they stand in fields (gRPC over HTTP/2,
//! "Responses"). Knows nothing of messages and methods.

use std::fmt::{self, Write as _};

use http::{HeaderMap, HeaderValue};

/// A status of gRPC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Code(u8);

/// Their names, by their numbers.
const NAMES: [&str; 17] = [
    "ok",
    "cancelled",
    "unknown",
    "invalid-argument",
    "deadline-exceeded",
    "not-found",
    "already-exists",
    "permission-denied",
    "resource-exhausted",
    "failed-precondition",
    "aborted",
    "out-of-range",
    "unimplemented",
    "internal",
    "unavailable",
    "data-loss",
    "unauthenticated",
];

impl Code {
    /// How many there are.
    pub const COUNT: usize = NAMES.len();
    pub(crate) const CANCELLED: Self = Self(1);
    pub(crate) const UNKNOWN: Self = Self(2);
    pub(crate) const DEADLINE_EXCEEDED: Self = Self(4);
    pub(crate) const RESOURCE_EXHAUSTED: Self = Self(8);
    pub(crate) const UNIMPLEMENTED: Self = Self(12);
    pub(crate) const INTERNAL: Self = Self(13);
    pub(crate) const UNAVAILABLE: Self = Self(14);
    const DATA_LOSS: Self = Self(15);

    /// The one that a head or trailers name; a number that is none is `UNKNOWN`, as clients have it.
    pub(crate) fn of_head(headers: &HeaderMap) -> Option<Self> {
        let value = headers.get("grpc-status")?;
        Some(Self::of_value(value.as_bytes()))
    }

    fn of_value(value: &[u8]) -> Self {
        let number = std::str::from_utf8(value).ok();
        let number = number.and_then(|number| number.parse::<u8>().ok());
        let known = number.filter(|number| usize::from(*number) < NAMES.len());
        known.map_or(Self::UNKNOWN, Self)
    }

    /// The one with this name in lower case, but not the first, which is no failure.
    pub(crate) fn of_name(name: &str) -> Option<Self> {
        let number = NAMES.iter().skip(1).position(|known| *known == name)?;
        u8::try_from(number + 1).ok().map(Self)
    }

    /// All of them, by their numbers.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..).map(Self).take(Self::COUNT)
    }

    /// Its name, in lower case.
    pub fn name(self) -> &'static str {
        NAMES[self.index()]
    }

    /// Its place among counters.
    pub(crate) fn index(self) -> usize {
        usize::from(self.0)
    }

    /// Its bit in a set of them.
    pub(crate) fn bit(self) -> u32 {
        1 << self.0
    }

    /// As a field's value.
    pub(crate) fn value(self) -> HeaderValue {
        HeaderValue::from(u16::from(self.0))
    }

    /// Whether it says that its endpoint is ill, as a 5xx does; others are words on the request.
    pub(crate) fn is_ill(self) -> bool {
        let ill = [
            Self::UNKNOWN,
            Self::INTERNAL,
            Self::UNAVAILABLE,
            Self::DATA_LOSS,
        ];
        ill.contains(&self)
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "grpc-{}", self.name())
    }
}

/// Whether a request with this `Content-Type` is one of gRPC over HTTP/2; gRPC-Web is another format.
pub(crate) fn is_content_type(value: &[u8]) -> bool {
    const TYPE: &[u8] = b"application/grpc";
    value.len() >= TYPE.len()
        && value[..TYPE.len()].eq_ignore_ascii_case(TYPE)
        && matches!(value.get(TYPE.len()), None | Some(b'+' | b';' | b' '))
}

/// A text as `grpc-message` has it: what is not printable ASCII, and `%`, is escaped.
pub(crate) fn message(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b' '..=b'~' if byte != b'%' => escaped.push(char::from(byte)),
            // Writing to a String does not fail.
            _ => drop(write!(escaped, "%{byte:02X}")),
        }
    }
    escaped
}

/// What must hold of any bytes: a status is one that has a name or `UNKNOWN`, and is the same when it is
/// read again; a message is a sound value, and the text when it is read.
#[cfg(any(test, fuzzing))]
pub(crate) fn fuzzing(bytes: &[u8]) {
    let code = Code::of_value(bytes);
    assert_eq!(Code::of_value(code.value().as_bytes()), code);
    let name = code.to_string();
    let named = Code::of_name(name.trim_start_matches("grpc-"));
    assert_eq!(named.is_none(), code == Code(0), "{name}");
    assert!(named.is_none_or(|named| named == code));
    is_content_type(bytes);
    if let Ok(text) = std::str::from_utf8(bytes) {
        let escaped = message(text);
        assert!(HeaderValue::from_str(&escaped).is_ok());
        let read = percent_encoding::percent_decode_str(&escaped).decode_utf8();
        assert_eq!(read.ok().as_deref(), Some(text));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_its_number_and_what_is_none_is_unknown() {
        for (value, code) in [
            ("0", Code(0)),
            ("14", Code::UNAVAILABLE),
            ("16", Code(16)),
            ("17", Code::UNKNOWN),
            ("-1", Code::UNKNOWN),
            ("", Code::UNKNOWN),
            ("unavailable", Code::UNKNOWN),
        ] {
            let headers = HeaderMap::from_iter([(
                http::HeaderName::from_static("grpc-status"),
                HeaderValue::from_static(value),
            )]);
            assert_eq!(Code::of_head(&headers), Some(code), "{value}");
        }
        assert_eq!(Code::of_head(&HeaderMap::new()), None);
        assert_eq!(Code::of_name("unavailable"), Some(Code::UNAVAILABLE));
        assert_eq!(
            (Code::of_name("ok"), Code::of_name("UNKNOWN")),
            (None, None)
        );
    }

    #[test]
    fn a_message_is_escaped_and_only_grpc_itself_is_grpc() {
        assert_eq!(message("50 % of `é`\n"), "50 %25 of `%C3%A9`%0A");
        for (value, is) in [
            ("application/grpc", true),
            ("Application/gRPC+proto", true),
            ("application/grpc; charset=utf-8", true),
            ("application/grpc-web", false),
            ("application/grpc-web+proto", false),
            ("application/json", false),
        ] {
            assert_eq!(is_content_type(value.as_bytes()), is, "{value}");
        }
    }
}
