//! The chunked coding of an answer (RFC 9112 7.1), read strictly: CRLF ends every line, sizes
//! have at most 16 digits, and extensions and trailers are bounded.

use bytes::{Buf, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue};

use super::head::Refused;
use crate::upstream::{
    limits::{FIELDS, TRAILERS, TRAILERS_TOO_LARGE},
    piece::Piece,
};

/// The longest line of a chunk's size, extensions included.
const MAX_SIZE_LINE: usize = 4 * 1024;
/// So many trailers are read without an allocation.
const USUAL_TRAILERS: usize = 32;

#[derive(Debug)]
pub(super) enum Decoder {
    /// Before a chunk's size.
    Size,
    /// In a chunk's data, with this many bytes to come.
    Data(u64),
    /// Before the CRLF that ends a chunk's data.
    DataEnd,
    /// After the last chunk.
    Trailers,
    Done,
}

impl Decoder {
    /// Takes the next piece off `buffer`. Of trailers there may be as many as a head may have fields.
    pub(super) fn decode(
        &mut self,
        buffer: &mut BytesMut,
        most_fields: usize,
    ) -> Result<Piece, Refused> {
        loop {
            match self {
                Self::Size => {
                    let Some(line) = take_line(buffer, MAX_SIZE_LINE, "chunk size line too long")?
                    else {
                        return Ok(Piece::Partial);
                    };
                    *self = match parse_size(&line)? {
                        0 => Self::Trailers,
                        size => Self::Data(size),
                    };
                }
                Self::Data(left) => {
                    if buffer.is_empty() {
                        return Ok(Piece::Partial);
                    }
                    let take =
                        usize::try_from(*left).map_or(buffer.len(), |left| left.min(buffer.len()));
                    *left -= take as u64;
                    if *left == 0 {
                        *self = Self::DataEnd;
                    }
                    return Ok(Piece::Data(buffer.split_to(take).freeze()));
                }
                Self::DataEnd => {
                    if buffer.len() < 2 {
                        return Ok(Piece::Partial);
                    }
                    if &buffer[..2] != b"\r\n" {
                        return Err("no CRLF after a chunk".into());
                    }
                    buffer.advance(2);
                    *self = Self::Size;
                }
                Self::Trailers => {
                    let Some(trailers) = take_trailers(buffer, most_fields)? else {
                        return Ok(Piece::Partial);
                    };
                    *self = Self::Done;
                    return Ok(Piece::End((!trailers.is_empty()).then_some(trailers)));
                }
                Self::Done => return Ok(Piece::End(None)),
            }
        }
    }
}

fn take_line(
    buffer: &mut BytesMut,
    limit: usize,
    too_long: &'static str,
) -> Result<Option<BytesMut>, &'static str> {
    let Some(end) = memchr::memchr(b'\n', buffer) else {
        return if buffer.len() > limit {
            Err(too_long)
        } else {
            Ok(None)
        };
    };
    if end > limit {
        return Err(too_long);
    }
    if end == 0 || buffer[end - 1] != b'\r' {
        return Err("a bare LF in the chunked coding");
    }
    let mut line = buffer.split_to(end + 1);
    line.truncate(end - 1);
    Ok(Some(line))
}

fn parse_size(line: &[u8]) -> Result<u64, &'static str> {
    let digits = line
        .iter()
        .position(|byte| !byte.is_ascii_hexdigit())
        .unwrap_or(line.len());
    let mut rest = &line[digits..];
    // White space of this grammar is these two, and no other (RFC 9110 5.6.3).
    while let [b' ' | b'\t', after @ ..] = rest {
        rest = after;
    }
    let malformed = digits == 0 || digits > 16 || !(rest.is_empty() || rest[0] == b';');
    let is_control = |byte: &u8| byte.is_ascii_control() && *byte != b'\t';
    if malformed || rest.iter().any(is_control) {
        return Err("malformed chunk size");
    }
    std::str::from_utf8(&line[..digits])
        .ok()
        .and_then(|digits| u64::from_str_radix(digits, 16).ok())
        .ok_or("malformed chunk size")
}

fn take_trailers(buffer: &mut BytesMut, most: usize) -> Result<Option<HeaderMap>, Refused> {
    // The section ends with an empty line: at once, or after the last field's own end.
    let end = if buffer.starts_with(b"\r\n") {
        Some(2)
    } else {
        memchr::memmem::find(buffer, b"\r\n\r\n").map(|at| at + 4)
    };
    let end = end.filter(|end| *end <= TRAILERS);
    // httparse takes a bare LF for a line's end, and two for the section's. One is refused as soon as
    // it is there: behind it the end may never come.
    let section = &buffer[..end.unwrap_or(buffer.len())];
    if !memchr::memchr_iter(b'\n', section).all(|at| at > 0 && section[at - 1] == b'\r') {
        return Err("a bare LF in the trailers".into());
    }
    let Some(end) = end else {
        return if buffer.len() > TRAILERS {
            Err(Refused::TooLarge(TRAILERS_TOO_LARGE))
        } else {
            Ok(None)
        };
    };
    let section = buffer.split_to(end);
    let usual = most.min(USUAL_TRAILERS);
    let mut slots = [httparse::EMPTY_HEADER; USUAL_TRAILERS];
    let trailers = match parse_trailers(&section, &mut slots[..usual]) {
        Err(Refused::TooLarge(_)) if most > usual => {
            parse_trailers(&section, &mut vec![httparse::EMPTY_HEADER; most])
        }
        trailers => trailers,
    };
    trailers.map(Some)
}

fn parse_trailers<'a>(
    section: &'a [u8],
    slots: &mut [httparse::Header<'a>],
) -> Result<HeaderMap, Refused> {
    let fields = match httparse::parse_headers(section, slots) {
        Ok(httparse::Status::Complete((_, fields))) => fields,
        Err(httparse::Error::TooManyHeaders) => return Err(Refused::TooLarge(FIELDS)),
        Ok(httparse::Status::Partial) | Err(_) => return Err("malformed trailers".into()),
    };
    let mut trailers = HeaderMap::new();
    for field in fields {
        let name =
            HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| "malformed trailers")?;
        let value = HeaderValue::from_bytes(field.value).map_err(|_| "malformed trailers")?;
        trailers.append(name, value);
    }
    Ok(trailers)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: usize = 1000;

    /// Decodes `wire` in pieces of `step` bytes.
    fn decode(wire: &[u8], step: usize) -> Result<(Vec<u8>, Option<HeaderMap>), Refused> {
        let mut decoder = Decoder::Size;
        let mut buffer = BytesMut::new();
        let mut body = Vec::new();
        for piece in wire.chunks(step) {
            buffer.extend_from_slice(piece);
            loop {
                match decoder.decode(&mut buffer, MOST)? {
                    Piece::Partial => break,
                    Piece::Data(data) => body.extend_from_slice(&data),
                    Piece::End(trailers) => {
                        return if buffer.is_empty() {
                            Ok((body, trailers))
                        } else {
                            Err("bytes after the end".into())
                        };
                    }
                }
            }
        }
        Err(UNFINISHED)
    }

    const UNFINISHED: Refused = Refused::Unsound("unfinished");

    #[test]
    fn the_same_body_however_the_bytes_arrive() {
        let wire = b"5;a=b\r\nhello\r\n00000001\r\n!\r\n0\r\nX-Sum: 6\r\n\r\n";
        for step in 1..=wire.len() {
            let (body, trailers) = decode(wire, step).unwrap();
            assert_eq!(body, b"hello!");
            assert_eq!(trailers.unwrap()["x-sum"], "6");
        }
        assert_eq!(decode(b"0\r\n\r\n", 1).unwrap(), (vec![], None));
    }

    #[test]
    fn as_many_trailers_pass_as_a_head_may_have_fields() {
        for most in [0, 1, USUAL_TRAILERS, MOST] {
            let of = |fields: usize| {
                let fields: String = (0..fields).map(|n| format!("X-{n}: a\r\n")).collect();
                let mut buffer = BytesMut::from(format!("{fields}\r\n").as_str());
                take_trailers(&mut buffer, most)
            };
            assert_eq!(of(most).unwrap().unwrap().len(), most);
            assert_eq!(of(most + 1), Err(Refused::TooLarge(FIELDS)));
        }
    }

    #[test]
    fn white_space_after_a_size_is_spaces_and_tabs() {
        let wire = b"5 \t;a=\"b\tc\"\r\nhello\r\n0\t\r\n\r\n";
        assert_eq!(decode(wire, 1).unwrap().0, b"hello");
    }

    #[test]
    fn what_is_not_quite_chunked_is_refused() {
        for wire in [
            &b"5\nhello\r\n0\r\n\r\n"[..],
            b"5\r\nhello0\r\n\r\n",
            b"5\r\nhello\n0\r\n\r\n",
            b"0x5\r\nhello\r\n0\r\n\r\n",
            b"+5\r\nhello\r\n0\r\n\r\n",
            b"\r\nhello\r\n0\r\n\r\n",
            b"5 x\r\nhello\r\n0\r\n\r\n",
            b"5\r\r\nhello\r\n0\r\n\r\n",
            b"5\r;a\r\nhello\r\n0\r\n\r\n",
            b"5\x0c\r\nhello\r\n0\r\n\r\n",
            b"5\x0b;a\r\nhello\r\n0\r\n\r\n",
            b"5;a\0\r\nhello\r\n0\r\n\r\n",
            b"11111111111111111\r\nhello\r\n0\r\n\r\n",
            b"0\r\nno field\r\n\r\n",
            b"0\r\n : x\r\n\r\n",
            b"0\r\nA: b\n\nHTTP/1.1 200 OK\nX: y\r\n\r\n",
            b"0\r\nA: b\nC: d\r\n\r\n",
            // At once, though the end is not there.
            b"0\r\n\n",
            b"0\r\nA: b\n",
        ] {
            let result = decode(wire, 1);
            assert!(
                result.is_err() && result != Err(UNFINISHED),
                "{:?}: {result:?}",
                String::from_utf8_lossy(wire)
            );
        }
        let mut long = b"5;".to_vec();
        long.resize(MAX_SIZE_LINE + 10, b'a');
        assert_eq!(decode(&long, 64), Err("chunk size line too long".into()));
        let mut long = b"0\r\nA: ".to_vec();
        long.resize(TRAILERS + 10, b'a');
        let too_large = Refused::TooLarge(TRAILERS_TOO_LARGE);
        assert_eq!(decode(&long, 64), Err(too_large));
    }
}
