//! A `Host` header's value → the name that is looked up. Allocates nothing.

use crate::scan;

/// The longest name that is looked up, in bytes: DNS stops at 253.
pub(super) const LONGEST: usize = 256;

/// The host without its port, its brackets and one trailing dot.
pub(super) fn bare(host: &str) -> &str {
    if let Some(inner) = host.strip_prefix('[') {
        return inner.split_once(']').map_or(host, |(address, _)| address);
    }
    let colon = memchr::memchr(b':', host.as_bytes());
    let name = colon.map_or(host, |colon| &host[..colon]);
    name.strip_suffix('.').unwrap_or(name)
}

/// An IPv6 address of the config, which may or may not be in brackets; other names as they are.
pub(super) fn unbracketed(name: &str) -> &str {
    name.strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .unwrap_or(name)
}

/// The name in lower case, of the same length, or an empty one where it is too long to be a name.
pub(super) fn lower<'a>(name: &'a str, buffer: &'a mut [u8; LONGEST]) -> &'a [u8] {
    let Some(lowered) = buffer.get_mut(..name.len()) else {
        return &[];
    };
    if !scan::any(name.as_bytes(), |byte| byte.is_ascii_uppercase()) {
        return name.as_bytes();
    }
    lowered.copy_from_slice(name.as_bytes());
    lowered.make_ascii_lowercase();
    lowered
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn port_dot_and_brackets_are_seen_through() {
        for (host, name) in [
            ("a.example", "a.example"),
            ("a.example:80", "a.example"),
            ("a.example.", "a.example"),
            ("a.example.:80", "a.example"),
            ("[::1]", "::1"),
            ("[::1]:80", "::1"),
            ("[::1", "[::1"),
            ("127.0.0.1:8080", "127.0.0.1"),
            (":80", ""),
            ("", ""),
        ] {
            assert_eq!(bare(host), name, "{host}");
        }
    }

    #[test]
    fn a_name_is_lowered_up_to_the_longest() {
        let mut buffer = [0; LONGEST];
        assert_eq!(lower("Shop.EXAMPLE", &mut buffer), b"shop.example");
        let longest = "A".repeat(LONGEST);
        assert_eq!(lower(&longest, &mut buffer), "a".repeat(LONGEST).as_bytes());
        assert_eq!(lower(&"a".repeat(LONGEST + 1), &mut buffer), b"");
    }
}
