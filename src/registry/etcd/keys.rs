//! Where in etcd services and instances stand: `PREFIX/NAME/INSTANCE`. The same for both versions
//! of the API, and for who signs in. Knows nothing of values.

/// What stands before the ids of a service's instances; it ends with a slash. `prefix` ends with
/// one, or is empty. A name that begins with a slash is a whole prefix by itself.
pub(crate) fn of_service(prefix: &str, name: &str) -> String {
    let prefix = if name.starts_with('/') { "" } else { prefix };
    format!("{prefix}{}/", name.trim_end_matches('/'))
}

/// The service that a key below the prefix belongs to: the first segment, where another follows.
pub(super) fn service(below: &[u8]) -> Option<&str> {
    let slash = below.iter().position(|byte| *byte == b'/')?;
    std::str::from_utf8(&below[..slash])
        .ok()
        .filter(|name| !name.is_empty())
}

/// The keys from `start` to just before `end`, as API v3 has them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Keys {
    pub(super) start: Vec<u8>,
    pub(super) end: Vec<u8>,
}

impl Keys {
    /// All that begin with a text that ends with a slash; with an empty text, all there are.
    pub(super) fn below(text: &str) -> Self {
        let start = text.as_bytes().to_vec();
        let mut end = start.clone();
        match end.last_mut() {
            // A slash has a successor.
            Some(last) => *last += 1,
            None => {
                return Self {
                    start: vec![0],
                    end: vec![0],
                };
            }
        }
        Self { start, end }
    }

    /// One key.
    pub(crate) fn one(key: &str) -> Self {
        Self {
            start: key.as_bytes().to_vec(),
            end: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_stands_below_the_prefix_or_is_one_itself() {
        for (prefix, name, keys) in [
            ("/services/", "cart", "/services/cart/"),
            ("/services/", "team/cart", "/services/team/cart/"),
            ("/services/", "/other/cart", "/other/cart/"),
            ("/services/", "/other/cart/", "/other/cart/"),
            ("/", "cart", "/cart/"),
            ("", "cart", "cart/"),
        ] {
            assert_eq!(of_service(prefix, name), keys);
        }
    }

    #[test]
    fn a_range_ends_before_a_name_that_only_begins_alike() {
        let keys = Keys::below("/services/foo/");
        let within = |key: &str| {
            keys.start.as_slice() <= key.as_bytes() && key.as_bytes() < keys.end.as_slice()
        };
        assert!(within("/services/foo/1") && within("/services/foo/\u{10ffff}"));
        assert!(!within("/services/foo") && !within("/services/foobar/1"));
        assert_eq!(Keys::below("").end, [0], "all there are");
    }

    #[test]
    fn a_key_names_a_service_where_something_stands_below_it() {
        assert_eq!(service(b"cart/1.2.3.4:80"), Some("cart"));
        assert_eq!(service(b"team/cart/1"), Some("team"));
        for none in [&b"cart"[..], b"/cart/1", b"\xff/1", b""] {
            assert_eq!(service(none), None);
        }
    }
}
