//! What must hold of the header of a connection, whatever its bytes are.

use super::{HeaderError, LONGEST, Parsed, parse};

/// A header is whole at one byte, says the same whatever follows it, and is refused at the first byte
/// that no other could mend.
pub(crate) fn headers(bytes: &[u8]) {
    let result = parse(bytes);
    let mut at = bytes.len();
    if let Ok(Some(Parsed { length, .. })) = result {
        assert!(0 < length && length <= LONGEST && length <= bytes.len());
        assert_eq!(parse(&bytes[..length]), result);
        at = length;
    }
    if result == Ok(None) {
        assert!(bytes.len() < LONGEST);
    }
    let mut refused: Option<HeaderError> = None;
    for end in 0..at.min(LONGEST + 1) {
        match (parse(&bytes[..end]), refused) {
            (Ok(None), None) => {}
            (Err(error), _) => refused = Some(error),
            other => panic!("{end} of {at} bytes: {other:?}"),
        }
    }
    if let Some(refused) = refused {
        assert_eq!(result, Err(refused));
    }
}
