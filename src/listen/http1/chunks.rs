//! The chunked coding of a request's body (RFC 9112 7.1), followed beside the HTTP library that decodes
//! it. The library takes what another party may read in another way: control bytes in a chunk's extension,
//! and LF for CRLF in the trailers, where two of them end the section for some and not for others. What is
//! sound here ends for the library at the same byte. Data is passed over by its count.

/// The most digits of a size: it fits in 64 bits.
const MOST_DIGITS: u8 = 16;
/// The longest line of a chunk's size, white space and extensions included.
const LONGEST_SIZE_LINE: usize = 4 * 1024;

/// Where in a chunked body the next byte stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Chunks {
    at: At,
    /// Of the chunk whose size is being read; what is left of it in its data.
    size: u64,
    /// Digits of the size.
    digits: u8,
    /// Bytes of the size's line.
    line: usize,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum At {
    #[default]
    Size,
    /// Behind a size: white space, then an extension or the end of the line.
    Blank,
    Extension,
    SizeLf,
    Data,
    DataCr,
    DataLf,
    /// At the start of a trailer, or of the empty line that ends them all.
    Line,
    Trailer,
    TrailerLf,
    EndLf,
    Done,
}

impl Chunks {
    /// How many of these bytes belong to the body and are sound. Those behind them do not belong to it
    /// where it is done, and are not sound where it is not.
    pub(super) fn follow(&mut self, bytes: &[u8]) -> usize {
        let mut at = 0;
        while at < bytes.len() && self.at != At::Done {
            if self.at == At::Data {
                let there = bytes.len() - at;
                let passed = usize::try_from(self.size).map_or(there, |left| left.min(there));
                self.size -= passed as u64;
                at += passed;
                if self.size == 0 {
                    self.at = At::DataCr;
                }
                continue;
            }
            let Some(next) = self.step(bytes[at]) else {
                break;
            };
            self.at = next;
            at += 1;
        }
        at
    }

    /// Whether the body is at its end.
    pub(super) fn is_done(&self) -> bool {
        self.at == At::Done
    }

    /// Where this byte leads; `None` where it may not stand.
    fn step(&mut self, byte: u8) -> Option<At> {
        Some(match (self.at, byte) {
            (At::Size, _) if byte.is_ascii_hexdigit() => self.digit(byte)?,
            (At::Size, _) if self.digits == 0 => return None,
            (At::Size | At::Blank | At::Extension, b'\r') => At::SizeLf,
            (At::Size | At::Blank | At::Extension, _) => self.in_line(byte)?,
            (At::SizeLf, b'\n') => self.begin_chunk(),
            (At::DataCr, b'\r') => At::DataLf,
            (At::DataLf, b'\n') => At::Size,
            (At::Line, b'\r') => At::EndLf,
            (At::Trailer, b'\r') => At::TrailerLf,
            (At::Line | At::Trailer, _) if is_text(byte) => At::Trailer,
            (At::TrailerLf, b'\n') => At::Line,
            (At::EndLf, b'\n') => At::Done,
            _ => return None,
        })
    }

    fn digit(&mut self, byte: u8) -> Option<At> {
        let value = char::from(byte).to_digit(16)?;
        self.digits += 1;
        self.line += 1;
        self.size = self.size << 4 | u64::from(value);
        (self.digits <= MOST_DIGITS).then_some(At::Size)
    }

    /// Behind the digits of a size stands white space, which some pad it with, or an extension.
    fn in_line(&mut self, byte: u8) -> Option<At> {
        self.line += 1;
        let next = match (self.at, byte) {
            (At::Extension, _) if is_text(byte) => At::Extension,
            (At::Size | At::Blank, b';') => At::Extension,
            (At::Size | At::Blank, b' ' | b'\t') => At::Blank,
            _ => return None,
        };
        (self.line <= LONGEST_SIZE_LINE).then_some(next)
    }

    fn begin_chunk(&mut self) -> At {
        (self.digits, self.line) = (0, 0);
        if self.size == 0 { At::Line } else { At::Data }
    }
}

/// What may stand in a line: no control byte but a tab.
fn is_text(byte: u8) -> bool {
    !byte.is_ascii_control() || byte == b'\t'
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Follows `wire` in pieces of `step` bytes: how far, and whether that is the body's end.
    fn follow(wire: &[u8], step: usize) -> (usize, bool) {
        let mut chunks = Chunks::default();
        let mut at = 0;
        for piece in wire.chunks(step) {
            let sound = chunks.follow(piece);
            at += sound;
            if sound < piece.len() {
                break;
            }
        }
        (at, chunks.is_done())
    }

    #[test]
    fn a_sound_body_ends_where_it_ends_however_it_comes() {
        for body in [
            "0\r\n\r\n",
            "5\r\nhello\r\n0\r\n\r\n",
            "5;a=b\r\nhello\r\n00000001\r\n!\r\n0\r\nX-Sum: 6\r\n\r\n",
            "5 \t;a=\"b\tc\"\r\nhello\r\n0\t\r\n\r\n",
            "5  \r\n\r\n\0\r\n\r\n000\r\n\r\n",
            "a\r\n0123456789\r\nA\r\n0123456789\r\n0\r\nA: b\r\nC:\t\r\n\r\n",
            "1;é\r\na\r\n0;a;b=\"c;d\"\r\nD: é\r\n\r\n",
            "0000000000000001\r\na\r\n0000000000000000\r\n\r\n",
        ] {
            let wire = [body.as_bytes(), b"GET / HTTP/1.1\r\n\r\n"].concat();
            for step in 1..=wire.len() {
                assert_eq!(follow(&wire, step), (body.len(), true), "{body:?}");
            }
        }
    }

    #[test]
    fn what_is_not_quite_chunked_is_followed_up_to_its_first_odd_byte() {
        for (sound, odd) in [
            ("", "\r\n"),
            ("", "\n"),
            ("", " 1\r\na\r\n"),
            ("", "+1\r\na\r\n"),
            ("", "-1\r\na\r\n"),
            ("", ";a\r\n"),
            ("", "g\r\n"),
            ("0", "x1\r\na\r\n"),
            ("1", "\na\r\n"),
            ("1", "_0\r\n"),
            ("1", "\x0b\r\na\r\n"),
            ("1", "\x0c\r\na\r\n"),
            ("1 ", "1\r\na\r\n"),
            ("1 ", "\n"),
            ("1\r", "\r\na\r\n"),
            ("1\r", ";a\r\n"),
            ("1;a", "\0b\r\na\r\n0\r\n\r\n"),
            ("1;a", "\nb\r\na\r\n0\r\n\r\n"),
            ("1;a", "\x7f\r\na\r\n"),
            ("1;a\r", "b\r\na\r\n"),
            ("1\r\na", "0\r\n\r\n"),
            ("1\r\na", "b\r\n"),
            ("1\r\na", "\n0\r\n\r\n"),
            ("1\r\na\r", "\r\n"),
            ("1\r\na\r\n", "\r\n0\r\n\r\n"),
            ("0000000000000000", "0\r\n\r\n"),
            ("ffffffffffffffff", "f\r\n"),
            ("0\r\n", "\n"),
            ("0\r\n\r", "a"),
            ("0\r\n\r", "\r\n"),
            ("0\r\nX-Tail: a", "\n\n"),
            ("0\r\nX-Tail: a", "\n\r\n"),
            ("0\r\nX-Tail: a\r\n", "\n"),
            ("0\r\nX-Tail: a\r\n\r", "X"),
            ("0\r\nX-Tail: a\r", "b\r\n\r\n"),
            ("0\r\nX-Tail: a", "\0\r\n\r\n"),
        ] {
            let wire = [sound, odd].concat();
            for step in 1..=wire.len() {
                let followed = follow(wire.as_bytes(), step);
                assert_eq!(followed, (sound.len(), false), "{wire:?}");
            }
        }
    }

    #[test]
    fn a_line_of_a_size_is_bounded_and_begins_anew_with_each_chunk() {
        for filler in [b' ', b'a'] {
            let mut wire = b"1;".to_vec();
            if filler == b' ' {
                wire.pop();
            }
            wire.resize(LONGEST_SIZE_LINE, filler);
            let chunk = [&wire[..], b"\r\na\r\n"].concat();
            let whole = [&chunk[..], &chunk, b"0\r\n\r\n"].concat();
            assert_eq!(follow(&whole, 100), (whole.len(), true));
            wire.resize(LONGEST_SIZE_LINE + 10, filler);
            assert_eq!(follow(&wire, 100), (LONGEST_SIZE_LINE, false));
        }
    }
}
