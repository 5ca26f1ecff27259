//! What a request asks its connection to go over to (RFC 9110 7.8). Knows nothing of connections.

/// The protocols that a request asks for, as its `Upgrade` has them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upgrade(String);

impl Upgrade {
    /// Those that these lines of `Upgrade` name and that are allowed, each once and in their order;
    /// `None` where that is none.
    pub fn of<'l>(
        lines: impl Iterator<Item = &'l [u8]>,
        allowed: impl Fn(&str) -> bool,
    ) -> Option<Box<Self>> {
        let mut asked = Self(String::new());
        for protocol in lines.flat_map(|line| line.split(|byte| *byte == b',')) {
            let Ok(protocol) = std::str::from_utf8(protocol.trim_ascii()) else {
                continue;
            };
            if allowed(protocol) && !asked.names(protocol.as_bytes()) {
                if !asked.0.is_empty() {
                    asked.0.push_str(", ");
                }
                asked.0.push_str(protocol);
            }
        }
        (!asked.0.is_empty()).then(|| Box::new(asked))
    }

    /// Whether it asks for this protocol.
    pub(super) fn names(&self, protocol: &[u8]) -> bool {
        let mut asked = self.0.split(", ");
        !protocol.is_empty() && asked.any(|one| one.as_bytes().eq_ignore_ascii_case(protocol))
    }

    /// As the field has it.
    pub(super) fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
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
            assert_eq!(asked.map(|asked| asked.0).as_deref(), expected);
        }
    }

    #[test]
    fn what_was_asked_for_is_named_whole_and_in_any_letters() {
        let asked = Upgrade("websocket, spdy/3.1".to_owned());
        for named in ["websocket", "WebSocket", "SPDY/3.1"] {
            assert!(asked.names(named.as_bytes()), "{named}");
        }
        for other in ["", "web", "spdy", "websocket, spdy/3.1", "websocket "] {
            assert!(!asked.names(other.as_bytes()), "{other:?}");
        }
    }
}
