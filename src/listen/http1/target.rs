//! The target of a request that the HTTP library would not take: what clients send raw in a query, and
//! other proxies pass on, is escaped before the library sees it. Knows only the first line of a head.

use crate::scan;

/// No byte of a target: the library answers 400.
pub(super) const WRONG: u8 = 0x7f;

/// What the first line of a head is like.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Looked {
    /// It is not there as a whole, or is empty.
    Partial,
    /// The library takes it, or refuses it, as it is.
    Fit,
    /// What was read, with a first line that is.
    Mended(Vec<u8>),
}

/// Looks at what was read where a head begins.
pub(super) fn look(read: &[u8]) -> Looked {
    match memchr::memchr(b'\n', read) {
        None => Looked::Partial,
        Some(end) if matches!(read[..end], [] | [b'\r']) => Looked::Partial,
        Some(end) if !scan::any(&read[..end], is_odd) => Looked::Fit,
        Some(end) => mended(read, end).map_or(Looked::Fit, Looked::Mended),
    }
}

/// What was read, when its first line, which ends there, has a target that the library does not take as
/// it is: raw quotes, angle brackets and bytes that are no UTF-8 in the query are escaped; a fragment, which
/// the library would drop in silence, is made an error.
fn mended(read: &[u8], end: usize) -> Option<Vec<u8>> {
    let line = &read[..end];
    let start = memchr::memchr(b' ', line)? + 1;
    let length = memchr::memchr(b' ', &line[start..])?;
    let (target, version) = line[start..].split_at(length);
    if !version.starts_with(b" HTTP/1.") {
        return None;
    }
    let mut mended = read[..start].to_vec();
    let query = memchr::memchr(b'?', target).unwrap_or(length);
    let is_utf8 = std::str::from_utf8(&target[query..]).is_ok();
    for (at, &byte) in target.iter().enumerate() {
        match byte {
            b'#' => mended.push(WRONG),
            b'"' | b'<' | b'>' if at > query => escape(byte, &mut mended),
            0x80.. if at > query && !is_utf8 => escape(byte, &mut mended),
            _ => mended.push(byte),
        }
    }
    mended.extend_from_slice(&read[start + length..]);
    (mended != read).then_some(mended)
}

/// A quote, an angle bracket, a fragment's sign, or what is not ASCII.
fn is_odd(byte: u8) -> bool {
    // Two of them at a time: they differ in one bit.
    (byte & 0xfe == b'"') | (byte & 0xfd == b'<') | (byte >= 0x80)
}

fn escape(byte: u8, out: &mut Vec<u8>) {
    out.extend_from_slice(format!("%{byte:02X}").as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_have_to_be_mended_is_odd() {
        for byte in 0..=u8::MAX {
            let is_wanted = matches!(byte, b'"' | b'<' | b'>' | b'#' | 0x80..);
            assert_eq!(is_odd(byte), is_wanted, "{byte:#x}");
        }
    }

    #[test]
    fn a_query_is_escaped_where_the_library_would_not_take_it() {
        let line = |target: &[u8]| [b"GET ", target, b" HTTP/1.1\r\nA: \"#\"\r\n\r\n\"#"].concat();
        for (target, expected) in [
            (&b"/a?up{job=\"x\"}"[..], &b"/a?up{job=%22x%22}"[..]),
            (b"/a?<b>", b"/a?%3Cb%3E"),
            (b"/a?caf\xe9", b"/a?caf%E9"),
            (b"http://h/a?\"", b"http://h/a?%22"),
            (b"/a#b", b"/a\x7fb"),
            (b"/a?b#\"", b"/a?b\x7f%22"),
        ] {
            let expected = Looked::Mended(line(expected));
            assert_eq!(look(&line(target)), expected);
        }
        // What it takes, and what is no query.
        for target in [&b"/a?b={}|^'"[..], "/a?é".as_bytes(), b"/a\"b", b"/caf\xe9"] {
            assert_eq!(look(&line(target)), Looked::Fit);
        }
        for read in [&b"GET /a?\" b HTTP/1.1\r\n"[..], b"A: ?\"\r\n"] {
            assert_eq!(look(read), Looked::Fit);
        }
        // What is no whole first line.
        for read in [&b"GET /a?\""[..], b"\r\nGET /#\r\n", b"\n", b""] {
            assert_eq!(look(read), Looked::Partial);
        }
    }
}
