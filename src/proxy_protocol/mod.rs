//! The PROXY protocol, by which a proxy tells the next one whose connection it passes on: what the header
//! of a connection says, read and written. Knows no sockets.
//!
//! Source: <https://www.haproxy.org/download/3.2/doc/proxy-protocol.txt>

#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod header;
mod v1;
mod v2;
mod write;

pub(crate) use header::{Header, HeaderError, LONGEST, Opener, Parsed};
pub use write::Version;
pub(crate) use write::write;

/// Reads the header that these bytes begin with; `None` where it goes on behind them.
///
/// # Errors
/// As soon as no byte more could make it good.
pub(crate) fn parse(bytes: &[u8]) -> Result<Option<Parsed>, HeaderError> {
    let begins_with = |signature: &[u8]| {
        let there = bytes.len().min(signature.len());
        bytes[..there] == signature[..there]
    };
    if begins_with(v2::SIGNATURE) {
        v2::parse(bytes)
    } else if begins_with(v1::SIGNATURE) {
        v1::parse(bytes)
    } else {
        Err(HeaderError::Missing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_begins_like_a_header_may_become_one_and_a_request_cannot() {
        for begun in [&b""[..], b"P", b"PROXY", b"\r", b"\r\n\r\n\0\r\nQUIT"] {
            assert_eq!(parse(begun), Ok(None), "{begun:?}");
        }
        for other in [
            &b"G"[..],
            b"PRI * HTTP/2.0",
            b"PROPFIND",
            b"\r\nG",
            b"\x16\x03",
        ] {
            assert_eq!(parse(other), Err(HeaderError::Missing), "{other:?}");
        }
    }
}
