//! `kind = "eureka"`: one or more servers, and how their answers are read.

use std::{path::Path, time::Duration};

use super::servers;
use crate::config::{
    ClientTls, Secret,
    document::{report::Wrong, table::Table, value},
    tls,
};

const DEFAULT_ADDRESS: &str = "http://127.0.0.1:8761/eureka";
const DEFAULT_POLL: Duration = Duration::from_secs(5);
/// A server that is asked more often would do little else.
const SHORTEST_POLL: Duration = Duration::from_millis(100);

/// `[registry.NAME]` with `kind = "eureka"`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Eureka {
    /// The servers' base URLs, without a trailing slash; at least one.
    pub addresses: Vec<String>,
    /// How long after an answer the next one is asked for.
    pub poll: Duration,
    /// What a service's name is there.
    pub by: NamedBy,
    /// Where an instance is called.
    pub host: CalledAt,
    /// Where not empty: only instances of the first of these zones that has a healthy one.
    pub zones: Vec<String>,
    /// A user and the password, for servers that ask for such.
    pub login: Option<(String, Secret)>,
    /// Whether the changes are asked for, and not everything each time.
    pub delta: bool,
    /// TLS to the servers.
    pub tls: ClientTls,
}

/// `by`: what a service's name is in Eureka.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NamedBy {
    /// The application's name.
    Application,
    /// A VIP address.
    Vip,
}

/// `host`: where an instance is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CalledAt {
    /// At its `ipAddr`, as go-kit's registrars mean it.
    Address,
    /// At its `hostName`, as Spring's and Netflix's clients do.
    Name,
}

pub(super) fn read(table: &mut Table<'_>, base: &Path) -> Eureka {
    let addresses = servers::urls(table, DEFAULT_ADDRESS, value::base_url);
    // Where several are mixed, one of https is enough for `tls` to mean something.
    let https = addresses.iter().find(|url| url.starts_with("https://"));
    let tls = tls::of_url(table, base, https.unwrap_or(&addresses[0]));
    Eureka {
        addresses,
        poll: poll(table),
        by: table.choice(
            "by",
            &[("application", NamedBy::Application), ("vip", NamedBy::Vip)],
            NamedBy::Application,
        ),
        host: table.choice(
            "host",
            &[("address", CalledAt::Address), ("name", CalledAt::Name)],
            CalledAt::Address,
        ),
        zones: table.texts("zones", "\"zone-a\"").unwrap_or_default(),
        login: servers::login(table, base, "\"callboard\""),
        delta: table.flag("delta", true),
        tls,
    }
}

fn poll(table: &mut Table<'_>) -> Duration {
    let Some(field) = table.take("poll") else {
        return DEFAULT_POLL;
    };
    let poll = field.duration(value::Zero::Refused);
    if poll.is_some_and(|poll| poll < SHORTEST_POLL) {
        let wrong = Wrong::new("a server is not asked that often");
        field.wrong(wrong.suggest("write a longer duration, at least \"100ms\""));
    }
    poll.unwrap_or(DEFAULT_POLL)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{
        RegistryKind,
        testing::{ROUTE, config, error, errors},
    };

    fn eureka(text: &str) -> Eureka {
        let text = format!("[registry.eureka]\n{text}\n{ROUTE}");
        match &config(&text).registries["eureka"].kind {
            RegistryKind::Eureka(eureka) => eureka.clone(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_left_out_has_its_default() {
        let eureka = eureka("");
        assert_eq!(eureka.addresses, ["http://127.0.0.1:8761/eureka"]);
        assert_eq!(eureka.poll, Duration::from_secs(5));
        assert_eq!(eureka.by, NamedBy::Application);
        assert_eq!(eureka.host, CalledAt::Address);
        assert_eq!((eureka.zones.len(), eureka.login), (0, None));
        assert!(eureka.delta);
        assert_eq!(eureka.tls, ClientTls::default());
    }

    #[test]
    fn all_of_its_keys_are_read() {
        let eureka = eureka(
            r#"
            address = ["http://a:8761/eureka/", "https://b:8761/eureka"]
            poll = "30s"
            by = "vip"
            host = "name"
            zones = ["a", "b"]
            user = "proxy"
            password = { file = "password" }
            delta = false
            tls = { ca = "ca.pem" }
            "#,
        );
        let servers = ["http://a:8761/eureka", "https://b:8761/eureka"];
        assert_eq!(eureka.addresses, servers);
        assert_eq!(eureka.poll, Duration::from_secs(30));
        assert_eq!(eureka.by, NamedBy::Vip);
        assert_eq!(eureka.host, CalledAt::Name);
        assert_eq!(eureka.zones, ["a", "b"]);
        let password = Secret::File("/etc/callboard/password".into());
        assert_eq!(eureka.login, Some(("proxy".to_owned(), password)));
        assert!(!eureka.delta);
        assert!(eureka.tls.ca.is_some());
    }

    #[test]
    fn one_address_needs_no_array() {
        let eureka = eureka("address = \"http://a/eureka/v2\"");
        assert_eq!(eureka.addresses, ["http://a/eureka/v2"]);
    }

    #[test]
    fn every_wrong_value_is_named() {
        let text = "[registry.eureka]\n\
            address = [\"10.0.0.1:8761/eureka\", 7]\n\
            poll = \"1ms\"\n\
            by = \"name\"\n\
            host = \"hostName\"\n\
            zone = \"a\"\n\
            user = \"proxy\"\n\
            tls = { ca = \"ca.pem\" }\n\
            [registry.b]\nkind = \"eureka\"\naddress = []\npassword = \"hunter2\"\n\
            [defaults]\nregistry = \"b\"\n";
        assert_eq!(
            errors(&format!("{text}{ROUTE}")),
            [
                "1:1 registry.eureka.password: `user` is of no use without `password`; add `password = { file = \"…\" }`",
                "2:12 registry.eureka.address: `10.0.0.1:8761/eureka` is not the URL of an HTTP API; did you mean \"http://10.0.0.1:8761/eureka\"?",
                "2:36 registry.eureka.address: expected a URL, found the number 7; write `\"http://127.0.0.1:8761/eureka\"`",
                "3:1 registry.eureka.poll: a server is not asked that often; write a longer duration, at least \"100ms\"",
                "4:1 registry.eureka.by: `name` is not known here; for now it may be `application` or `vip`",
                "5:1 registry.eureka.host: `hostName` is not known here; for now it may be `address` or `name`",
                "6:1 registry.eureka.zone: unknown key `zone`; did you mean `zones`?",
                "8:1 registry.eureka.tls: `tls` needs an address of https; write `address = \"https://127.0.0.1:8761/eureka\"`",
                "9:1 registry.b.user: `password` is of no use without `user`; add `user = \"callboard\"`",
                "11:1 registry.b.address: there is no address here; write `address = \"http://127.0.0.1:8761/eureka\"`",
                "12:1 registry.b.password: a secret does not stand in this file; write `password = { file = \"…\" }` or `password = { env = \"…\" }`",
            ]
        );
    }

    #[test]
    fn a_password_in_a_url_is_kept_out_of_the_report() {
        let address = "address = \"http://proxy:hunter2@a/eureka\"";
        let text = format!("[registry.eureka]\n{address}\n{ROUTE}");
        assert_eq!(
            error(&text),
            "2:1 registry.eureka.address: a URL here holds no user and no password; write `user = \"…\"` and `password = { file = \"…\" }`"
        );
        let report = crate::config::Config::parse(&text, Path::new("")).unwrap_err();
        assert!(!report.to_string().contains("hunter2"), "{report}");
    }
}
