//! `upgrades`: the protocols that a client's connection may go over to, by the names that `Upgrade` has
//! for them (RFC 9110 7.8).

use std::sync::Arc;

use crate::config::document::{report::Wrong, table::Table};

/// The protocols that a connection may go over to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upgrades(Arc<[Box<str>]>);

impl Upgrades {
    /// What holds where nothing is said.
    pub(super) fn by_default() -> Self {
        Self(["websocket".into()].into())
    }

    /// Whether it is one of them. Letter case counts for nothing.
    pub fn contains(&self, protocol: &str) -> bool {
        let mut all = self.0.iter();
        all.any(|allowed| allowed.eq_ignore_ascii_case(protocol))
    }
}

/// Reads them; `None` where the key is left out.
pub(crate) fn read(table: &mut Table<'_>) -> Option<Upgrades> {
    let field = table.take("upgrades")?;
    let named = field.one_or_more(EXAMPLE);
    let read = named
        .iter()
        .filter_map(|field| field.parse("a protocol", EXAMPLE, protocol));
    Some(Upgrades(read.collect()))
}

const EXAMPLE: &str = "\"websocket\"";

fn protocol(text: &str) -> Result<Box<str>, Wrong> {
    let (name, version) = text.split_once('/').unwrap_or((text, "1"));
    if !is_token(name) || !is_token(version) {
        let wrong = Wrong::new(format!("`{text}` is no name of a protocol"));
        return Err(wrong.suggest(format!("write it like {EXAMPLE}")));
    }
    let name = name.to_ascii_lowercase();
    if matches!(&*name, "h2c" | "h2" | "http" | "tls") {
        let wrong = Wrong::new(format!(
            "a connection never goes over to `{text}`: the requests behind it would not be seen"
        ));
        return Err(wrong.suggest("leave it out"));
    }
    Ok(text.into())
}

/// Whether it is a token (RFC 9110 5.6.2).
fn is_token(text: &str) -> bool {
    let is_of_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !text.is_empty() && text.bytes().all(is_of_token)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::testing::{config, errors};

    const CART: &str = "[[route]]\nservice = \"cart\"\n";

    #[test]
    fn by_default_it_is_websocket_and_a_route_stands_before_its_service() {
        let plain = config(CART);
        assert_eq!(plain.routes[0].upgrades, None);
        let text = format!(
            "[defaults]\nupgrades = \"spdy/3.1\"\n{CART}upgrades = []\n\
             [service.cart]\nupgrades = [\"websocket\", \"tcp\"]\n\
             [[route]]\npath = \"/a\"\nservice = \"other\"\n[service.other]\n"
        );
        let config = config(&text);
        let may = |upgrades: &Upgrades| {
            ["WebSocket", "tcp", "SPDY/3.1", "spdy"].map(|protocol| upgrades.contains(protocol))
        };
        assert_eq!(may(&Upgrades::by_default()), [true, false, false, false]);
        let of = |service: &str| may(&config.services[service].upgrades);
        assert_eq!(of("cart"), [true, true, false, false]);
        assert_eq!(of("other"), [false, false, true, false]);
        let route = config.routes[0].upgrades.as_ref();
        assert_eq!(route.map(may), Some([false; 4]));
    }

    #[test]
    fn what_would_carry_requests_past_the_proxy_is_refused() {
        for (text, says) in [
            ("\"h2c\"", "never goes over to `h2c`"),
            ("\"HTTP/2.0\"", "never goes over to `HTTP/2.0`"),
            ("[\"TLS/1.0\"]", "never goes over to `TLS/1.0`"),
            ("\"a b\"", "`a b` is no name of a protocol"),
            ("\"\"", "`` is no name of a protocol"),
            ("\"a/\"", "`a/` is no name of a protocol"),
            ("true", "expected a protocol"),
        ] {
            let found = errors(&format!("{CART}upgrades = {text}\n"));
            assert!(found[0].contains(says), "{text}: {found:?}");
        }
    }
}
