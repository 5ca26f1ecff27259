//! What must hold of cookies, whatever stands there.

use http::{HeaderMap, HeaderValue, header::COOKIE};

use super::key;

/// Each line is a field: the first cookie of a name is found, as RFC 6265 takes them apart.
pub(crate) fn cookies(bytes: &[u8]) {
    let mut headers = HeaderMap::new();
    let lines = bytes.split(|byte| *byte == b'\n');
    for value in lines.filter_map(|line| HeaderValue::from_bytes(line).ok()) {
        headers.append(COOKIE, value);
    }
    let fields = headers.get_all(COOKIE).iter();
    let mut pairs = fields.flat_map(|field| field.as_bytes().split(|byte| *byte == b';'));
    let first = pairs.find_map(|pair| pair.trim_ascii().strip_prefix(b"a="));
    assert_eq!(key::cookie(&headers, "a"), first);
}
