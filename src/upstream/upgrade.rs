//! What a request asks its connection to go over to (RFC 9110 7.8). Knows nothing of connections.

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::{Engine as _, engine::general_purpose::STANDARD};

/// What a server of WebSocket puts behind a client's key (RFC 6455 1.3).
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// What a request asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upgrade {
    /// The protocols, as `Upgrade` has them.
    protocols: String,
    /// What the endpoint has to make of the key of WebSocket's handshake, where that is the proxy's.
    accept: Option<String>,
}

impl Upgrade {
    /// Those that these lines of `Upgrade` name and that are allowed, each once and in their order;
    /// `None` where that is none.
    pub fn of<'l>(
        lines: impl Iterator<Item = &'l [u8]>,
        allowed: impl Fn(&str) -> bool,
    ) -> Option<Box<Self>> {
        let mut asked = Self {
            protocols: String::new(),
            accept: None,
        };
        for protocol in lines.flat_map(|line| line.split(|byte| *byte == b',')) {
            let Ok(protocol) = std::str::from_utf8(protocol.trim_ascii()) else {
                continue;
            };
            if allowed(protocol) && !asked.names(protocol.as_bytes()) {
                if !asked.protocols.is_empty() {
                    asked.protocols.push_str(", ");
                }
                asked.protocols.push_str(protocol);
            }
        }
        (!asked.protocols.is_empty()).then(|| Box::new(asked))
    }

    /// The endpoint has to prove that it has read this key, which the proxy has made: no client will look.
    #[must_use]
    pub fn by_key(mut self: Box<Self>, key: &[u8]) -> Box<Self> {
        let digest = digest(&SHA1_FOR_LEGACY_USE_ONLY, &[key, GUID].concat());
        self.accept = Some(STANDARD.encode(digest));
        self
    }

    /// Whether this is what the endpoint has to make of the key.
    pub(super) fn accepts(&self, accept: Option<&[u8]>) -> bool {
        let expected = self.accept.as_deref();
        expected.is_none_or(|expected| accept == Some(expected.as_bytes()))
    }

    /// Whether it asks for this protocol.
    pub(super) fn names(&self, protocol: &[u8]) -> bool {
        let mut asked = self.protocols.split(", ");
        !protocol.is_empty() && asked.any(|one| one.as_bytes().eq_ignore_ascii_case(protocol))
    }

    /// As the field has it.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        self.protocols.as_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_reduced_to_what_is_allowed_each_once() {
        for (lines, expected) in [
            (&["websocket"][..], Some("websocket")),
            (&["WebSocket"], Some("WebSocket")),
            (
                &["h2c, websocket", " tcp ,, websocket"],
                Some("websocket, tcp"),
            ),
            (&["websocket;q=1"], None),
            (&["h2c"], None),
            (&["", " , "], None),
            (&["web socket"], None),
        ] {
            let allowed = |protocol: &str| {
                let mut all = ["websocket", "tcp"].into_iter();
                all.any(|allowed| allowed.eq_ignore_ascii_case(protocol))
            };
            let lines = lines.iter().map(|line| line.as_bytes());
            let asked = Upgrade::of(lines, allowed);
            assert_eq!(asked.map(|asked| asked.protocols).as_deref(), expected);
        }
    }

    #[test]
    fn what_was_asked_for_is_named_whole_and_in_any_letters() {
        let asked = Upgrade::of([&b"websocket, spdy/3.1"[..]].into_iter(), |_| true).unwrap();
        for named in ["websocket", "WebSocket", "SPDY/3.1"] {
            assert!(asked.names(named.as_bytes()), "{named}");
        }
        for other in ["", "web", "spdy", "websocket, spdy/3.1", "websocket "] {
            assert!(!asked.names(other.as_bytes()), "{other:?}");
        }
    }

    #[test]
    fn what_is_made_of_a_key_is_looked_at_where_the_key_is_the_proxys() {
        let asked = Upgrade::of([&b"websocket"[..]].into_iter(), |_| true).unwrap();
        assert!(asked.accepts(None) && asked.accepts(Some(b"any")));
        // The example of RFC 6455 1.3.
        let asked = asked.by_key(b"dGhlIHNhbXBsZSBub25jZQ==");
        assert!(asked.accepts(Some(b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")));
        assert!(!asked.accepts(Some(b"any")) && !asked.accepts(None));
    }
}
