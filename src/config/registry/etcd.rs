//! `kind = "etcd"` and `kind = "etcd2"`: a cluster's members, and where in it services stand. Both
//! versions of the API have the same keys.

use std::path::Path;

use super::servers;
use crate::config::{
    ClientTls, Secret,
    document::{report::Wrong, table::Table, value},
    tls,
};

const DEFAULT: &str = "http://127.0.0.1:2379";

/// `[registry.etcd]`, `[registry.etcd2]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Etcd {
    /// The members' base URLs, without a trailing slash; at least one.
    pub addresses: Vec<String>,
    /// The user and the password.
    pub credentials: Option<(String, Secret)>,
    /// What stands before a service's name in its keys: it ends with a slash, or is empty.
    pub prefix: String,
    /// TLS to the members.
    pub tls: ClientTls,
}

pub(super) fn read(table: &mut Table<'_>, base: &Path) -> Etcd {
    let addresses = servers::urls(table, DEFAULT, member);
    // The one that `tls` does not fit, if there is such.
    let plain = addresses.iter().find(|one| !one.starts_with("https://"));
    Etcd {
        credentials: servers::login(table, base, "\"…\""),
        prefix: table
            .take("prefix")
            .and_then(|field| field.parse("a text", "\"/services\"", prefix))
            .unwrap_or_else(|| "/services/".to_owned()),
        tls: tls::of_url(table, base, plain.unwrap_or(&addresses[0])),
        addresses,
    }
}

/// A member's base URL. Members are told apart by host and port alone.
fn member(text: &str) -> Result<String, Wrong> {
    let url = value::base_url(text)?;
    let rest = text.split_once("://").map_or(text, |(_, rest)| rest);
    let (_, path) = rest.split_once('/').unwrap_or((rest, ""));
    if !path.trim_matches('/').is_empty() {
        return Err(
            Wrong::new(format!("`{text}` holds more than a member's host and port"))
                .suggest("where services stand in etcd is said by `prefix`"),
        );
    }
    Ok(url)
}

/// With a slash at its end, so that `/foo` does not take what is below `/foobar`.
fn prefix(text: &str) -> Result<String, Wrong> {
    if text.is_empty() {
        return Ok(String::new());
    }
    Ok(format!("{}/", text.trim_end_matches('/')))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::config::{
        RegistryKind,
        testing::{ROUTE, config, error, errors},
    };

    fn etcd(text: &str) -> Etcd {
        let registries = config(&format!("[registry.etcd]\n{text}\n{ROUTE}")).registries;
        match &registries["etcd"].kind {
            RegistryKind::Etcd(etcd) => etcd.clone(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_left_out_has_its_default() {
        let etcd = etcd("");
        assert_eq!(etcd.addresses, ["http://127.0.0.1:2379"]);
        assert_eq!(etcd.prefix, "/services/");
        assert_eq!((etcd.credentials, etcd.tls), (None, ClientTls::default()));
    }

    #[test]
    fn all_keys_are_read_by_both_kinds() {
        for kind in ["etcd", "etcd2"] {
            let text = format!(
                r#"
                [registry.old]
                kind = "{kind}"
                address = ["https://a:2379/", "https://b:2379"]
                user = "callboard"
                password = {{ file = "secret" }}
                prefix = "/discovery/eu/"
                tls = {{ ca = "ca.pem", certificate = "/c.pem", key = "k.pem" }}
                {ROUTE}"#
            );
            let registry = config(&text).registries.remove("old").unwrap();
            assert_eq!(registry.kind.as_str(), kind);
            let (RegistryKind::Etcd(etcd) | RegistryKind::Etcd2(etcd)) = registry.kind else {
                panic!("{:?}", registry.kind);
            };
            assert_eq!(etcd.addresses, ["https://a:2379", "https://b:2379"]);
            let secret = Secret::File("/etc/callboard/secret".into());
            assert_eq!(etcd.credentials, Some(("callboard".to_owned(), secret)));
            assert_eq!(etcd.prefix, "/discovery/eu/");
            let identity = ("/c.pem".into(), "/etc/callboard/k.pem".into());
            assert_eq!(etcd.tls.ca, Some(PathBuf::from("/etc/callboard/ca.pem")));
            assert_eq!(etcd.tls.identity, Some(identity));
        }
    }

    #[test]
    fn a_prefix_ends_where_a_name_begins() {
        for (written, read) in [
            ("", ""),
            ("/", "/"),
            ("/foo", "/foo/"),
            ("/foo//", "/foo/"),
            ("foo", "foo/"),
        ] {
            assert_eq!(etcd(&format!("prefix = \"{written}\"")).prefix, read);
        }
    }

    #[test]
    fn every_wrong_value_is_named() {
        let text = "[registry.etcd]\n\
            address = [\"http://a:1\", \"127.0.0.1:2379\", \"http://a:1/services\", \"http://u:p@a:1\"]\n\
            user = \"callboard\"\n\
            tls = { ca = \"ca.pem\" }\n\
            prefixes = \"x\"\n\
            [registry.b]\nkind = \"etcd2\"\naddress = []\npassword = { env = \"P\" }\n\
            [defaults]\nregistry = \"b\"\n";
        assert_eq!(
            errors(&format!("{text}{ROUTE}")),
            [
                "1:1 registry.etcd.password: `user` is of no use without `password`; add `password = { file = \"…\" }`",
                "2:26 registry.etcd.address: `127.0.0.1:2379` is not the URL of an HTTP API; did you mean \"http://127.0.0.1:2379\"?",
                "2:44 registry.etcd.address: `http://a:1/services` holds more than a member's host and port; where services stand in etcd is said by `prefix`",
                "2:67 registry.etcd.address: a URL here holds no user and no password; write `user = \"…\"` and `password = { file = \"…\" }`",
                "4:1 registry.etcd.tls: `tls` needs an address of https; write `address = \"https://a:1\"`",
                "5:1 registry.etcd.prefixes: unknown key `prefixes`; did you mean `prefix`?",
                "6:1 registry.b.user: `password` is of no use without `user`; add `user = \"…\"`",
                "8:1 registry.b.address: there is no address here; write `address = \"http://127.0.0.1:2379\"`",
            ]
        );
    }

    #[test]
    fn a_password_in_the_text_is_refused() {
        let text = format!("[registry.etcd]\nuser = \"u\"\npassword = \"hunter2\"\n{ROUTE}");
        assert!(error(&text).starts_with("3:1 registry.etcd.password: a secret does not stand"));
    }
}
