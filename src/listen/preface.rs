//! How a client begins that speaks HTTP/2, perhaps without having said so before (RFC 9113 3.3 and 3.4).
//! Knows nothing of what follows.

use bytes::Bytes;

use super::transport::Transport;

/// The first bytes of a client's connection.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Bytes of it.
pub(super) const LENGTH: usize = PREFACE.len();

/// A connection on which HTTP/2 is spoken, and what was read of it already.
pub(super) struct Begun {
    pub(super) transport: Transport,
    pub(super) read: Bytes,
}

/// What the first bytes of a connection are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Preface {
    /// Something else.
    Other,
    /// The start of it, and not more.
    Begun,
    /// It is there, and perhaps more.
    Whole,
}

/// What the first bytes are, of which some came before.
pub(super) fn of(before: &[u8], read: &[u8]) -> Preface {
    let expected = PREFACE.get(before.len()..).unwrap_or_default();
    let both = expected.len().min(read.len());
    match (expected[..both] == read[..both], read.len()) {
        (false, _) | (_, 0) => Preface::Other,
        (true, length) if length < expected.len() => Preface::Begun,
        (true, _) => Preface::Whole,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_preface_is_known_by_all_of_its_bytes_however_they_come() {
        for cut in 1..LENGTH {
            let (first, second) = PREFACE.split_at(cut);
            assert_eq!(of(b"", first), Preface::Begun);
            assert_eq!(of(first, second), Preface::Whole);
            assert_eq!(of(first, &[second, b"more"].concat()), Preface::Whole);
            let mut wrong = second.to_vec();
            *wrong.last_mut().unwrap() ^= 1;
            assert_eq!(of(first, &wrong), Preface::Other);
            assert_eq!(of(first, b""), Preface::Other);
        }
        assert_eq!(of(b"", PREFACE), Preface::Whole);
        for other in [
            &b"GET / HTTP/1.1\r\n"[..],
            b"POST /",
            b"PRI * HTTP/1.1\r\n\r\n",
            b"",
        ] {
            assert_eq!(of(b"", other), Preface::Other);
        }
    }
}
