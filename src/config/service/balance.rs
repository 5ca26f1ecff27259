//! `balance`: how a service's endpoints are picked. Knows nothing of how it is done.

use std::{fmt, time::Duration};

use http::HeaderName;

use crate::config::document::{
    field::Field,
    report::Wrong,
    table::Table,
    value::{self, Zero},
};

/// `balance`
#[derive(Clone, Debug, PartialEq)]
pub enum Balance {
    /// Each in turn.
    RoundRobin,
    /// Each in turn, and as often as its weight asks.
    Weighted,
    /// Anyone.
    Random,
    /// Of all the one that is least busy, by its weight.
    LeastRequest,
    /// Of any two the one that is less busy, by its weight.
    P2c,
    /// Of any two the one that answers faster and is less busy, by its weight.
    PeakEwma {
        /// In which time a latency counts for less by a factor of e.
        decay: Duration,
    },
    /// The one that the request's key leads to.
    Hash(Box<Hash>),
    /// The one that the request's cookie names.
    Sticky(Box<Sticky>),
}

/// `balance` of the kind `hash`.
#[derive(Clone, Debug, PartialEq)]
pub struct Hash {
    /// What the key is.
    pub by: HashKey,
    /// How many times the mean of all an endpoint may have in flight; at least 1. `None` for any
    /// number.
    pub load: Option<f64>,
}

/// Where a request's key stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HashKey {
    /// In a header field; the first of them.
    Header(HeaderName),
    /// In a cookie.
    Cookie(String),
    /// In a parameter of the query, as it stands there.
    Query(String),
    /// It is the client's IP address.
    Client,
    /// It is the path, as the client sent it.
    Path,
}

impl fmt::Display for HashKey {
    /// In words: `header x-user`, `client`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Header(name) => write!(f, "header {name}"),
            Self::Cookie(name) => write!(f, "cookie {name}"),
            Self::Query(name) => write!(f, "query {name}"),
            Self::Client => f.write_str("client"),
            Self::Path => f.write_str("path"),
        }
    }
}

/// `balance` of the kind `sticky`.
#[derive(Clone, Debug, PartialEq)]
pub struct Sticky {
    /// The cookie's name; `None` for one that is made of the service's.
    pub cookie: Option<String>,
    /// The paths that it is sent with.
    pub path: String,
    /// For how long a client keeps it; `None` until it is closed.
    pub max_age: Option<Duration>,
    /// Whether it is sent over TLS only.
    pub secure: bool,
    /// Whether scripts may not read it.
    pub http_only: bool,
    /// With whose requests it is sent.
    pub same_site: SameSite,
    /// How an endpoint is picked for a client whose cookie names none that can be picked.
    pub fallback: Box<Balance>,
}

impl Default for Sticky {
    fn default() -> Self {
        Self {
            cookie: None,
            path: "/".to_owned(),
            max_age: None,
            secure: false,
            http_only: true,
            same_site: SameSite::Lax,
            fallback: Box::new(Balance::RoundRobin),
        }
    }
}

/// `same_site` of a cookie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SameSite {
    /// With requests that its own site makes, and with links to it.
    Lax,
    /// With requests that its own site makes.
    Strict,
    /// With all.
    None,
}

impl SameSite {
    /// As it stands in a cookie.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Lax => "Lax",
            Self::Strict => "Strict",
            Self::None => "None",
        }
    }
}

impl Balance {
    /// As it stands in the file.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::RoundRobin => "round_robin",
            Self::Weighted => "weighted",
            Self::Random => "random",
            Self::LeastRequest => "least_request",
            Self::P2c => "p2c",
            Self::PeakEwma { .. } => "peak_ewma",
            Self::Hash(_) => "hash",
            Self::Sticky(_) => "sticky",
        }
    }

    /// Whether requests that have a key in common go to the same endpoint.
    pub fn is_keyed(&self) -> bool {
        matches!(self, Self::Hash(_) | Self::Sticky(_))
    }

    /// Whether weights count for anything.
    pub fn heeds_weights(&self) -> bool {
        match self {
            Self::RoundRobin | Self::Random => false,
            Self::Weighted
            | Self::LeastRequest
            | Self::P2c
            | Self::PeakEwma { .. }
            | Self::Hash(_) => true,
            Self::Sticky(sticky) => sticky.fallback.heeds_weights(),
        }
    }
}

/// Each kind by its name, with its defaults. A hash has no key to begin with, and needs one.
fn kinds() -> [(&'static str, Balance); 8] {
    let hash = Hash {
        by: HashKey::Client,
        load: None,
    };
    let kinds = [
        Balance::RoundRobin,
        Balance::Weighted,
        Balance::Random,
        Balance::LeastRequest,
        Balance::P2c,
        Balance::PeakEwma { decay: DECAY },
        Balance::Hash(Box::new(hash)),
        Balance::Sticky(Box::default()),
    ];
    kinds.map(|kind| (kind.as_str(), kind))
}

const HASH: &str = "{ kind = \"hash\", by = { header = \"x-user\" } }";

/// As in Finagle.
const DECAY: Duration = Duration::from_secs(10);

/// Reads `balance`: a kind's name, or a table with its name and its settings. What a table leaves
/// out has that kind's defaults.
pub(crate) fn read(table: &mut Table<'_>, base: &Balance) -> Balance {
    one_of(table, "balance", &kinds()).unwrap_or_else(|| base.clone())
}

/// Reads the `balance` of some of a service's endpoints; `None` where it is the service's.
pub(crate) fn of_subset(table: &mut Table<'_>) -> Option<Balance> {
    let balance = one_of(table, "balance", &kinds())?;
    let is_fine = refuse_bound(table, &balance, "a route's `hash`");
    is_fine.then_some(balance)
}

/// A bound is of all that a service has in flight, and of no part of it. Returns whether there is
/// none here.
pub(crate) fn refuse_bound(table: &mut Table<'_>, balance: &Balance, whose: &str) -> bool {
    let has_bound = matches!(&balance, Balance::Hash(hash) if hash.load.is_some());
    let field = table.take("balance").or_else(|| table.take("prefer"));
    if let (true, Some(field)) = (has_bound, field) {
        let wrong = Wrong::new(format!("the bound of {whose} is not known"));
        field.wrong(wrong.suggest("leave `load` out, or balance the whole service so"));
        return false;
    }
    true
}

fn one_of(table: &mut Table<'_>, key: &'static str, kinds: &[(&str, Balance)]) -> Option<Balance> {
    let field = table.take(key)?;
    if !field.is_table() {
        let kind = field.choice(kinds)?;
        if let Balance::Hash(_) = kind {
            let wrong = Wrong::new("`hash` needs to know what the key is");
            field.wrong(wrong.suggest(format!("write `{key} = {HASH}`")));
            return None;
        }
        return Some(kind);
    }
    table.within(key, |table| {
        let kind = table.required("kind", "\"p2c\"");
        match kind.and_then(|field| field.choice(kinds)) {
            Some(Balance::PeakEwma { decay }) => Some(Balance::PeakEwma {
                decay: table.duration("decay", decay),
            }),
            Some(Balance::Hash(_)) => hash(table),
            Some(Balance::Sticky(base)) => Some(sticky(table, *base)),
            None => {
                table.ignore_rest();
                None
            }
            kind => kind,
        }
    })
}

fn hash(table: &mut Table<'_>) -> Option<Balance> {
    let load = match table.take("load") {
        Some(field) if !field.is_false() => field.fraction(
            |load| (1.0..=100.0).contains(&load),
            "a number from 1 to 100, or false",
            1.25,
        ),
        _ => None,
    };
    table.required("by", "{ header = \"x-user\" }")?;
    let by = key_of(table, "by")?;
    Some(Balance::Hash(Box::new(Hash { by, load })))
}

/// Reads where a request's key stands.
pub(crate) fn key_of(table: &mut Table<'_>, name: &'static str) -> Option<HashKey> {
    let by = table.take(name)?;
    if by.is_table() {
        return table.within(name, |table| key(table, &by));
    }
    by.choice(&[("client", HashKey::Client), ("path", HashKey::Path)])
}

fn key(table: &mut Table<'_>, by: &Field<'_>) -> Option<HashKey> {
    let header = table.take("header");
    let header = header.map(|field| {
        let name = field.parse("a header's name", "\"x-user\"", header_name);
        name.map(HashKey::Header)
    });
    let cookie = table.take("cookie");
    let cookie = cookie.map(|field| {
        let name = field.parse("a cookie's name", "\"session\"", cookie_name);
        name.map(HashKey::Cookie)
    });
    let query = table.take("query");
    let query = query.map(|field| {
        let name = field.parse("a parameter's name", "\"user\"", value::filled);
        name.map(HashKey::Query)
    });
    let mut said = [header, cookie, query].into_iter().flatten();
    match (said.next(), said.next()) {
        (Some(key), None) => key,
        _ => {
            let wrong = Wrong::new("a key stands in one place");
            by.wrong(wrong.suggest(
                "write one of `{ header = \"…\" }`, `{ cookie = \"…\" }`, `{ query = \"…\" }`, \
                 \"client\" and \"path\"",
            ));
            None
        }
    }
}

fn sticky(table: &mut Table<'_>, base: Sticky) -> Balance {
    let named = table.take("cookie");
    let cookie = named.as_ref();
    let cookie = cookie.and_then(|field| field.parse("a cookie's name", "\"shop\"", cookie_name));
    let path = table.take("path");
    let path = path.and_then(|field| field.parse("a path", "\"/\"", cookie_path));
    let path = path.unwrap_or(base.path);
    let max_age = table.take("max_age").filter(|field| !field.is_false());
    let secure = table.flag("secure", base.secure);
    if let (Some(field), Some(name)) = (&named, &cookie) {
        must_be_taken(field, name, secure, &path);
    }
    let same_site = table.take("same_site");
    let sites = [
        ("lax", SameSite::Lax),
        ("strict", SameSite::Strict),
        ("none", SameSite::None),
    ];
    let chosen = same_site.as_ref().and_then(|field| field.choice(&sites));
    if let (Some(field), Some(SameSite::None), false) = (&same_site, chosen, secure) {
        let wrong = Wrong::new("browsers take a cookie for all sites over TLS only");
        field.wrong(wrong.suggest("add `secure = true`"));
    }
    // One that needs no key of its own.
    let fallbacks = kinds().into_iter().filter(|(_, kind)| !kind.is_keyed());
    let fallbacks: Vec<_> = fallbacks.collect();
    Balance::Sticky(Box::new(Sticky {
        cookie,
        path,
        max_age: max_age.and_then(|field| field.duration(Zero::Refused)),
        secure,
        http_only: table.flag("http_only", base.http_only),
        same_site: chosen.unwrap_or(base.same_site),
        fallback: one_of(table, "fallback", &fallbacks).map_or(base.fallback, Box::new),
    }))
}

/// Browsers take cookies whose names begin like this, in any letter case, only if they are as strict
/// as that says (RFC 6265bis 4.1.3). None of ours has a `Domain`, which the first must not.
fn must_be_taken(field: &Field<'_>, name: &str, secure: bool, path: &str) {
    let begins = |prefix: &str| {
        let start = name.as_bytes().get(..prefix.len());
        start.is_some_and(|start| start.eq_ignore_ascii_case(prefix.as_bytes()))
    };
    let is_hosts = begins("__Host-");
    if !secure && (is_hosts || begins("__Secure-")) {
        let wrong = Wrong::new("browsers take a cookie of this name over TLS only");
        field.wrong(wrong.suggest("add `secure = true`"));
    }
    if is_hosts && path != "/" {
        let wrong = Wrong::new("browsers take a cookie of this name for all paths only");
        field.wrong(wrong.suggest("leave `path` out"));
    }
}

fn header_name(text: &str) -> Result<HeaderName, Wrong> {
    text.parse()
        .map_err(|_| Wrong::new(format!("`{text}` is not the name of a header")))
}

/// A token (RFC 6265 4.1.1, RFC 9110 5.6.2).
fn cookie_name(text: &str) -> Result<String, Wrong> {
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    if text.is_empty() || !text.bytes().all(is_token) {
        let wrong = Wrong::new(format!("`{text}` is not the name of a cookie"));
        return Err(wrong.suggest("write letters, digits, `-` and `_`"));
    }
    Ok(text.to_owned())
}

fn cookie_path(text: &str) -> Result<String, Wrong> {
    let may_stand = |byte: u8| matches!(byte, b' '..=b'~') && byte != b';';
    if !text.starts_with('/') || !text.bytes().all(may_stand) {
        let wrong = Wrong::new(format!("`{text}` is not a cookie's path"));
        return Err(wrong.suggest("write it like \"/shop\""));
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::testing::{ROUTE, assert_errors, config, error, errors};

    fn read(balance: &str) -> Balance {
        config(&format!("[defaults]\nbalance = {balance}\n{ROUTE}"))
            .defaults
            .balance
    }

    #[test]
    fn a_kind_is_a_word_or_a_table() {
        for (word, kind) in kinds() {
            if word == "hash" {
                continue;
            }
            let balance = read(&format!("\"{word}\""));
            assert_eq!(balance, kind);
            assert_eq!(balance, read(&format!("{{ kind = \"{word}\" }}")));
        }
        let decay = Duration::from_secs(2);
        assert_eq!(
            read("{ kind = \"peak_ewma\", decay = \"2s\" }"),
            Balance::PeakEwma { decay }
        );
        assert_eq!(config(ROUTE).defaults.balance, Balance::RoundRobin);
    }

    #[test]
    fn a_hash_has_its_key_and_perhaps_a_bound() {
        let hash = |by: &str| read(&format!("{{ kind = \"hash\", by = {by} }}"));
        let of = |by| Balance::Hash(Box::new(Hash { by, load: None }));
        let user = HeaderName::from_static("x-user");
        assert_eq!(hash("{ header = \"X-User\" }"), of(HashKey::Header(user)));
        assert_eq!(hash("{ cookie = \"s\" }"), of(HashKey::Cookie("s".into())));
        assert_eq!(hash("{ query = \"u\" }"), of(HashKey::Query("u".into())));
        assert_eq!(hash("\"client\""), of(HashKey::Client));
        assert_eq!(hash("\"path\""), of(HashKey::Path));
        for (text, load) in [("1.25", Some(1.25)), ("2", Some(2.0)), ("false", None)] {
            let by = HashKey::Path;
            assert_eq!(
                read(&format!(
                    "{{ kind = \"hash\", by = \"path\", load = {text} }}"
                )),
                Balance::Hash(Box::new(Hash { by, load }))
            );
        }
    }

    #[test]
    fn a_cookie_has_sane_defaults_and_any_other_settings() {
        let Balance::Sticky(plain) = read("\"sticky\"") else {
            panic!("it is sticky");
        };
        assert_eq!(
            (plain.cookie, &*plain.path, plain.max_age),
            (None, "/", None)
        );
        assert!(plain.http_only && !plain.secure);
        assert_eq!(plain.same_site, SameSite::Lax);
        assert_eq!(*plain.fallback, Balance::RoundRobin);
        let set = "{ kind = \"sticky\", cookie = \"shop\", path = \"/cart\", max_age = \"1h\", \
             secure = true, http_only = false, same_site = \"none\", fallback = \"p2c\" }";
        assert_eq!(
            read(set),
            Balance::Sticky(Box::new(Sticky {
                cookie: Some("shop".into()),
                path: "/cart".into(),
                max_age: Some(Duration::from_secs(3600)),
                secure: true,
                http_only: false,
                same_site: SameSite::None,
                fallback: Box::new(Balance::P2c),
            }))
        );
    }

    #[test]
    fn a_services_own_stands_before_the_defaults_as_a_whole() {
        let config = config(&format!(
            "[defaults]\nbalance = {{ kind = \"peak_ewma\", decay = \"2s\" }}\n\
             [service.cart]\nbalance = \"peak_ewma\"\n[service.hat]\n{ROUTE}"
        ));
        let decay = |name| match config.services[name].balance {
            Balance::PeakEwma { decay } => decay.as_secs(),
            _ => 0,
        };
        assert_eq!((decay("cart"), decay("hat")), (10, 2));
    }

    #[test]
    fn every_wrong_setting_is_named() {
        assert_errors(
            r#"
            "hash"
            => 2:1 defaults.balance: `hash` needs to know what the key is; write `balance = { kind = "hash", by = { header = "x-user" } }`
            { kind = "p2d", decay = 1 }
            => 2:13 defaults.balance.kind: `p2d` is not known here; did you mean "p2c"?
            { decay = "1s" }
            => 2:1 defaults.balance.kind: the key `kind` is missing; write `kind = "p2c"`
            { kind = "p2c", decay = "1s" }
            => 2:27 defaults.balance.decay: unknown key `decay`; it may be `kind`
            { kind = "hash", load = 0.5, by = { header = "x y" } }
            => 2:28 defaults.balance.load: expected a number from 1 to 100, or false, found the number 0.5; write `load = 1.25`
            => 2:47 defaults.balance.by.header: `x y` is not the name of a header
            { kind = "hash", by = {} }
            => 2:28 defaults.balance.by: a key stands in one place; write one of `{ header = "…" }`, `{ cookie = "…" }`, `{ query = "…" }`, "client" and "path"
            { kind = "hash", by = { header = "a", query = "b" } }
            => 2:28 defaults.balance.by: a key stands in one place; write one of `{ header = "…" }`, `{ cookie = "…" }`, `{ query = "…" }`, "client" and "path"
            { kind = "hash" }
            => 2:1 defaults.balance.by: the key `by` is missing; write `by = { header = "x-user" }`
            { kind = "sticky", cookie = "a b", path = "shop", same_site = "none", fallback = "hash" }
            => 2:30 defaults.balance.cookie: `a b` is not the name of a cookie; write letters, digits, `-` and `_`
            => 2:46 defaults.balance.path: `shop` is not a cookie's path; write it like "/shop"
            => 2:61 defaults.balance.same_site: browsers take a cookie for all sites over TLS only; add `secure = true`
            => 2:81 defaults.balance.fallback: `hash` is not known here; for now it may be `round_robin`, `weighted`, `random`, `least_request`, `p2c` or `peak_ewma`
            "#,
            |balance| format!("[defaults]\nbalance = {balance}\n{ROUTE}"),
        );
        let tls = "browsers take a cookie of this name over TLS only; add `secure = true`";
        let paths = "browsers take a cookie of this name for all paths only; leave `path` out";
        for (settings, expected) in [
            ("\"__Secure-a\"", &[tls][..]),
            ("\"__Secure-a\", path = \"/a\", secure = true", &[]),
            ("\"__Host-a\"", &[tls]),
            ("\"__host-a\"", &[tls]),
            ("\"__Host-a\", path = \"/a\"", &[tls, paths]),
            ("\"__Host-a\", path = \"/a\", secure = true", &[paths]),
            ("\"__Host-a\", path = \"/\", secure = true", &[]),
            ("\"__Hosts\"", &[]),
        ] {
            let settings = format!("{{ kind = \"sticky\", cookie = {settings} }}");
            let text = format!("[defaults]\nbalance = {settings}\n{ROUTE}");
            if expected.is_empty() {
                config(&text);
                continue;
            }
            let place = "2:30 defaults.balance.cookie";
            let expected = expected.iter().map(|wrong| format!("{place}: {wrong}"));
            assert_eq!(errors(&text), expected.collect::<Vec<_>>(), "{settings}");
        }
        assert!(error(&format!("[defaults]\nbalance = 7\n{ROUTE}")).contains("found the number 7"));
    }
}
