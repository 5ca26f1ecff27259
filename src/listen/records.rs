//! Where in the records of TLS a client's bytes stand, of which TLS does not tell: whether some of one has
//! come, and not all (RFC 8446 5.1).

/// The bytes of a record before its content: its type, a version, and its length in two bytes.
const HEADER: u8 = 5;

/// Where in the stream of records its next byte stands.
#[derive(Default)]
pub(super) struct Records {
    /// Bytes of a header that have come.
    header: u8,
    /// The last two of them.
    length: u16,
    /// Bytes of the content that are still to come.
    left: u16,
}

impl Records {
    /// These have come next.
    pub(super) fn follow(&mut self, mut bytes: &[u8]) {
        while let [first, rest @ ..] = bytes {
            if self.left > 0 {
                let taken = bytes.len().min(usize::from(self.left));
                self.left -= u16::try_from(taken).unwrap_or(self.left);
                bytes = &bytes[taken..];
                continue;
            }
            self.length = self.length << 8 | u16::from(*first);
            self.header += 1;
            if self.header == HEADER {
                (self.header, self.left) = (0, self.length);
            }
            bytes = rest;
        }
    }

    /// Whether some of a record has come, and not all.
    pub(super) fn is_amid_one(&self) -> bool {
        self.header > 0 || self.left > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_followed_however_its_bytes_come() {
        let long = [&[23, 3, 3, 1, 2][..], &[7; 258]].concat();
        let stream = [&[22, 3, 1, 0, 2, 9, 9][..], &[20, 3, 3, 0, 0], &long].concat();
        let ends = [7, 12, stream.len()];
        for step in [1, 2, 5, 64, stream.len()] {
            let (mut records, mut read) = (Records::default(), 0);
            for piece in stream.chunks(step) {
                records.follow(piece);
                read += piece.len();
                assert_eq!(
                    records.is_amid_one(),
                    !ends.contains(&read),
                    "{step} {read}"
                );
            }
        }
    }
}
