//! How a request's body is framed, and the field of its head that says so. Knows nothing of the
//! head's other fields.

use http::Method;
use http_body::Body;

/// How a request's body is framed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::upstream) enum Framing {
    /// There is none.
    None,
    /// `Content-Length`
    Length(u64),
    /// `Transfer-Encoding: chunked`
    Chunked,
}

impl Framing {
    /// What this body needs, of which nothing was read yet.
    pub(in crate::upstream) fn of(body: &impl Body) -> Self {
        if body.is_end_stream() {
            return Self::None;
        }
        match body.size_hint().exact() {
            Some(length) => Self::Length(length),
            None => Self::Chunked,
        }
    }

    /// Whether there are bytes of a body.
    pub(in crate::upstream) fn has_body(self) -> bool {
        !matches!(self, Self::None | Self::Length(0))
    }

    /// The length that a head says, where it says one.
    pub(in crate::upstream) fn length_to_say(self, method: &Method) -> Option<u64> {
        match self {
            Self::None if gives_bodies_a_meaning(method) => Some(0),
            Self::None | Self::Chunked => None,
            Self::Length(length) => Some(length),
        }
    }

    /// Writes the field that says it, where one must.
    pub(super) fn write(self, out: &mut Vec<u8>, method: &Method) {
        match self {
            // A body of no bytes is still one, where the method gives it a meaning.
            Self::None if gives_bodies_a_meaning(method) => {
                field(out, "content-length", b"0");
            }
            Self::None => {}
            Self::Length(length) => {
                let mut digits = itoa::Buffer::new();
                field(out, "content-length", digits.format(length).as_bytes());
            }
            Self::Chunked => field(out, "transfer-encoding", b"chunked"),
        }
    }
}

fn gives_bodies_a_meaning(method: &Method) -> bool {
    matches!(*method, Method::POST | Method::PUT | Method::PATCH)
}

/// Writes one field of a head.
pub(in crate::upstream) fn field(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// Writes one field of a head, whose value is in pieces.
pub(in crate::upstream) fn field_of(out: &mut Vec<u8>, name: &str, value: &[&[u8]]) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    for piece in value {
        out.extend_from_slice(piece);
    }
    out.extend_from_slice(b"\r\n");
}
