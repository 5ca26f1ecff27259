//! `health`: how endpoints are checked by the proxy itself.

use std::{collections::BTreeMap, time::Duration};

use http::{HeaderName, HeaderValue};

use super::statuses::{self, Statuses};
use crate::config::document::{report::Wrong, table::Table, value};

/// How a service's endpoints are checked. Services whose checks are alike share them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Health {
    /// What is asked, and what is expected.
    pub ask: HealthAsk,
    /// Where, if not at the instance's own port.
    pub port: Option<u16>,
    /// From one check to the next, give or take a tenth.
    pub interval: Duration,
    /// How long a check may take.
    pub timeout: Duration,
    /// So many in a row must pass before one that failed is picked again.
    pub rise: u32,
    /// So many in a row must fail before one that passed is picked no more.
    pub fall: u32,
}

/// What a check asks.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum HealthAsk {
    /// An answer to a GET.
    Http(HttpHealth),
    /// A connection.
    Tcp,
    /// `SERVING`, from gRPC's health service (`grpc.health.v1`).
    Grpc {
        /// The service that is asked for; empty for the server as a whole.
        service: String,
    },
}

/// A GET and the answer that is expected.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HttpHealth {
    /// The path, with its query.
    pub path: String,
    /// The `Host` that is sent; the endpoint's address where it is left out.
    pub host: Option<String>,
    /// The statuses that are well.
    pub status: Statuses,
    /// Fields that the answer must have, with these values.
    pub header: BTreeMap<String, String>,
    /// What the first 64 KiB of the body must hold.
    pub body: Option<String>,
}

/// Reads `health`; `base` is what the defaults say.
pub(crate) fn read(table: &mut Table<'_>, base: Option<&Health>) -> Option<Health> {
    match table.take("health") {
        None => base.cloned(),
        Some(field) if field.is_false() => None,
        Some(_) => Some(table.within("health", |table| health(table, base))),
    }
}

/// The kinds, as the file names them.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Http,
    Tcp,
    Grpc,
}

fn health(table: &mut Table<'_>, base: Option<&Health>) -> Health {
    let same = base.map_or(Kind::Http, |base| match base.ask {
        HealthAsk::Http(_) => Kind::Http,
        HealthAsk::Tcp => Kind::Tcp,
        HealthAsk::Grpc { .. } => Kind::Grpc,
    });
    let kinds = [
        ("http", Kind::Http),
        ("tcp", Kind::Tcp),
        ("grpc", Kind::Grpc),
    ];
    let kind = table.choice("kind", &kinds, same);
    let ask = match (kind, base.map(|base| &base.ask)) {
        (Kind::Tcp, _) => HealthAsk::Tcp,
        (Kind::Http, Some(HealthAsk::Http(base))) => HealthAsk::Http(http(table, Some(base))),
        (Kind::Http, _) => HealthAsk::Http(http(table, None)),
        (Kind::Grpc, base) => {
            let same = match base {
                Some(HealthAsk::Grpc { service }) => service.clone(),
                _ => String::new(),
            };
            HealthAsk::Grpc {
                service: table.text("service", "\"shop.Cart\"").unwrap_or(same),
            }
        }
    };
    let port = table
        .take("port")
        .and_then(|field| field.count(1..=65_535, 8081));
    Health {
        ask,
        port: port.map_or(base.and_then(|base| base.port), |port| Some(port as u16)),
        interval: table.duration("interval", base.map_or(INTERVAL, |base| base.interval)),
        timeout: table.duration("timeout", base.map_or(TIMEOUT, |base| base.timeout)),
        rise: table.count("rise", 1..=100, base.map_or(2, |base| base.rise)),
        fall: table.count("fall", 1..=100, base.map_or(3, |base| base.fall)),
    }
}

const INTERVAL: Duration = Duration::from_secs(5);
const TIMEOUT: Duration = Duration::from_secs(2);

fn http(table: &mut Table<'_>, base: Option<&HttpHealth>) -> HttpHealth {
    let example = "\"/healthz\"";
    let path = match table.take("path") {
        Some(field) => field.parse("a path", example, path),
        None => base.map(|base| base.path.clone()),
    };
    if path.is_none() && !table.has("path") {
        table.absent(
            "path",
            Wrong::new("the key `path` is missing").suggest(format!("write `path = {example}`")),
        );
    }
    let header = table.map("header", "{ x-ready = \"yes\" }", header_field);
    HttpHealth {
        path: path.unwrap_or_default(),
        host: match table.take("host") {
            Some(field) => field.parse("a host", "\"shop.example.com\"", host),
            None => base.and_then(|base| base.host.clone()),
        },
        status: statuses::read_http(table, "status")
            .or_else(|| base.map(|base| base.status))
            .unwrap_or_else(|| Statuses::class(2)),
        header: if header.is_empty() {
            base.map(|base| base.header.clone()).unwrap_or_default()
        } else {
            header
        },
        body: match table.take("body") {
            Some(field) => field.parse("a text", "\"ok\"", body),
            None => base.and_then(|base| base.body.clone()),
        },
    }
}

fn header_field(name: &str, value: &str) -> Result<(), Wrong> {
    if name.parse::<HeaderName>().is_err() {
        return Err(Wrong::new(format!("`{name}` is no header's name")));
    }
    value.parse::<HeaderValue>().map(drop).map_err(|_| {
        Wrong::new(format!("no header's value is {value:?}"))
            .suggest("leave out what is not printed")
    })
}

/// As much of an answer's body as a check looks at.
pub const MOST_OF_A_BODY: usize = 64 * 1024;

fn body(text: &str) -> Result<String, Wrong> {
    if text.len() > MOST_OF_A_BODY {
        let wrong = Wrong::new(format!(
            "this text has {} bytes, and of an answer's body the first 64 KiB are read",
            text.len()
        ));
        return Err(wrong.suggest("look for a part of it"));
    }
    value::filled(text)
}

fn path(text: &str) -> Result<String, Wrong> {
    let is_path = text.starts_with('/') && text.parse::<http::uri::PathAndQuery>().is_ok();
    if is_path {
        return Ok(text.to_owned());
    }
    let wrong = Wrong::new(format!("`{text}` is no path"));
    Err(wrong.suggest("a path begins with a slash and has no spaces: \"/healthz\""))
}

fn host(text: &str) -> Result<String, Wrong> {
    let text = value::filled(text)?;
    match text.parse::<http::uri::Authority>() {
        Ok(_) => Ok(text),
        Err(_) => Err(Wrong::new(format!("`{text}` is no host"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::testing::{ROUTE, config, errors};

    fn of_cart(text: &str) -> Option<Health> {
        let text = format!("{text}\n[[route]]\nservice = \"cart\"\n");
        config(&text).services["cart"].health.clone()
    }

    #[test]
    fn each_kind_has_its_keys_and_the_rest_has_defaults() {
        let health = of_cart("[service.cart]\nhealth = { path = \"/up?x=1\" }").unwrap();
        let HealthAsk::Http(http) = &health.ask else {
            panic!("{health:?}");
        };
        assert_eq!((&*http.path, http.body.as_deref()), ("/up?x=1", None));
        assert!(http.status.contains(http::StatusCode::NO_CONTENT));
        assert_eq!((health.rise, health.fall, health.port), (2, 3, None));
        let health = of_cart("[service.cart]\nhealth = { kind = \"tcp\", port = 81, rise = 1 }");
        let health = health.unwrap();
        assert_eq!(
            (health.ask, health.port, health.rise),
            (HealthAsk::Tcp, Some(81), 1)
        );
        let health = of_cart("[service.cart]\nhealth = { kind = \"grpc\", service = \"a.B\" }");
        let service = "a.B".to_owned();
        assert_eq!(health.unwrap().ask, HealthAsk::Grpc { service });
        assert_eq!(of_cart(""), None);
    }

    #[test]
    fn a_service_takes_over_what_the_defaults_say() {
        let defaults = "[defaults]\nhealth = { path = \"/up\", status = [204], fall = 9 }\n";
        let health = of_cart(&format!("{defaults}[service.cart]\nhealth.fall = 2")).unwrap();
        let HealthAsk::Http(http) = &health.ask else {
            panic!("{health:?}");
        };
        assert_eq!((&*http.path, health.fall), ("/up", 2));
        assert!(!http.status.contains(http::StatusCode::OK));
        assert_eq!(
            of_cart(&format!("{defaults}[service.cart]\nhealth = false")),
            None
        );
    }

    #[test]
    fn what_is_wrong_is_said() {
        let wrong = |text: &str| errors(&format!("{ROUTE}[defaults]\n{text}\n"));
        assert_eq!(
            wrong("health = {}")[0].split(": ").nth(1),
            Some("the key `path` is missing; write `path = \"/healthz\"`")
        );
        assert!(wrong("health = { path = \"up\" }")[0].contains("begins with a slash"));
        let body = |length| {
            format!(
                "health = {{ path = \"/\", body = \"{}\" }}",
                "a".repeat(length)
            )
        };
        assert_eq!(
            wrong(&body(65_537)),
            [
                "5:24 defaults.health.body: this text has 65537 bytes, and of an answer's body the first 64 KiB are read; look for a part of it"
            ]
        );
        config(&format!("{ROUTE}[defaults]\n{}\n", body(65_536)));
        assert!(wrong("health = { kind = \"tcp\", path = \"/up\" }")[0].contains("unknown key"));
        assert!(
            wrong("health = { path = \"/\", header = { \"a b\" = \"c\" } }")[0]
                .contains("no header")
        );
    }
}
