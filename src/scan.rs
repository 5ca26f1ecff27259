//! Whether a byte of many is so, found out many at a time. A loop that ends at the first such byte is
//! run byte by byte; here no byte ends it, and the compiler has a piece looked at in one register.
//! Knows nothing of what the bytes say.

/// Bytes that are looked at together.
const PIECE: usize = 16;

/// Whether one of these bytes is so. The question is of plain comparisons that are joined by `|` and
/// `&`, and asked of every byte.
#[inline]
pub(crate) fn any(bytes: &[u8], is: impl Fn(u8) -> bool) -> bool {
    let Some(last) = bytes.last_chunk() else {
        return bytes.iter().any(|byte| is(*byte));
    };
    // The last piece lies over the one before it, so that nothing is left over.
    let (pieces, _) = bytes.as_chunks();
    pieces
        .iter()
        .fold(is_in(last, &is), |any, piece| any | is_in(piece, &is))
}

/// Never inlined: the compiler would look at the same place of many pieces together, of which there are
/// few.
#[inline(never)]
fn is_in(piece: &[u8; PIECE], is: &impl Fn(u8) -> bool) -> bool {
    piece.iter().fold(false, |any, byte| any | is(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_byte_is_found_wherever_it_stands_among_however_many() {
        for length in 0..70 {
            let mut bytes = vec![b'a'; length];
            assert!(!any(&bytes, |byte| byte != b'a'), "{length}");
            for at in 0..length {
                bytes[at] = b'b';
                assert!(any(&bytes, |byte| byte != b'a'), "{at} of {length}");
                bytes[at] = b'a';
            }
        }
    }
}
