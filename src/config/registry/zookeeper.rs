//! `kind = "zookeeper"`: an ensemble, and below which path its services stand.

use std::{net::Ipv4Addr, ops::RangeInclusive, path::Path, time::Duration};

use super::servers;
use crate::{
    config::{
        Secret,
        document::{
            field::Field,
            report::Wrong,
            table::Table,
            value::{self, Zero},
        },
    },
    instance::Address,
};

const PORT: u16 = 2181;
const SESSION: Duration = Duration::from_secs(10);
/// What a server could hold to; by default it grants 4 to 40 s.
const SESSIONS: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(3600);

/// `[registry.zookeeper]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ZooKeeper {
    /// The ensemble's servers; at least one.
    pub addresses: Vec<Address>,
    /// Below which path all others stand; empty for the root, else without a trailing slash.
    pub chroot: String,
    /// Whose children are the services.
    pub path: String,
    /// As whom it is asked; as a stranger where this is left out.
    pub digest: Option<Digest>,
    /// How long the server keeps a session that says nothing.
    pub session_timeout: Duration,
}

/// A user of ZooKeeper's `digest` scheme.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Digest {
    /// The user's name.
    pub user: String,
    /// The user's password.
    pub password: Secret,
}

pub(super) fn read(table: &mut Table<'_>, base: &Path) -> ZooKeeper {
    let chroot = node(table, "chroot", "\"/prod\"").unwrap_or_default();
    ZooKeeper {
        addresses: addresses(table),
        // The root is no place below another.
        chroot: chroot.trim_end_matches('/').to_owned(),
        path: node(table, "path", "\"/services\"").unwrap_or_else(|| "/services".to_owned()),
        digest: digest(table, base),
        session_timeout: session_timeout(table),
    }
}

fn addresses(table: &mut Table<'_>) -> Vec<Address> {
    const EXAMPLE: &str = "\"127.0.0.1:2181\"";
    let fields = table.take("address").map(|field| {
        let fields = field.one_or_more(EXAMPLE);
        if fields.is_empty() {
            field.wrong(
                Wrong::new("there is no server in it").suggest("name one, or leave the key out"),
            );
        }
        fields
    });
    let parse = |field: &Field<'_>| field.parse("a host with its port", EXAMPLE, server);
    let read: Vec<_> = fields.iter().flatten().filter_map(parse).collect();
    if !read.is_empty() {
        return read;
    }
    let local = Address::new(&Ipv4Addr::LOCALHOST.to_string(), PORT.into());
    vec![local.expect("loopback can be called")]
}

/// `host:port`, with an IPv6 address in brackets.
fn server(text: &str) -> Result<Address, Wrong> {
    let wrong = || Wrong::new(format!("`{text}` is not a host with its port"));
    if text.contains(',') {
        return Err(wrong().suggest("write an array, with one text for each server"));
    }
    if text.contains('/') {
        let wrong = wrong();
        return Err(wrong.suggest("write it like \"127.0.0.1:2181\"; a path belongs into `chroot`"));
    }
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !host.ends_with(':') => (host, port.parse().ok()),
        _ => (text, None),
    };
    // Two colons are an IPv6 address, which has brackets where a port follows.
    let bare = host.contains(':') && !host.starts_with('[');
    match port.map(|port| Address::new(host, port)) {
        Some(Ok(address)) if !bare => Ok(address),
        _ => Err(match Address::new(text, PORT.into()) {
            Ok(meant) => wrong().suggest(format!("did you mean \"{meant}\"?")),
            Err(_) => wrong().suggest("write it like \"127.0.0.1:2181\" or \"[::1]:2181\""),
        }),
    }
}

/// A node's path, if there is one.
fn node(table: &mut Table<'_>, key: &'static str, example: &str) -> Option<String> {
    table.take(key)?.parse("a node's path", example, |text| {
        let wrong = Wrong::new(format!("`{text}` is not the path of a node"));
        let names = text.trim_matches('/');
        let mut parts = names.split('/');
        if names.chars().any(char::is_control)
            || parts.any(|part| matches!(part, "" | "." | "..")) && text != "/"
        {
            return Err(wrong.suggest(format!("write it like {example}")));
        }
        if text != format!("/{names}") {
            return Err(wrong.suggest(format!("did you mean \"/{names}\"?")));
        }
        Ok(text.to_owned())
    })
}

fn digest(table: &mut Table<'_>, base: &Path) -> Option<Digest> {
    let user = table.take("user").and_then(|field| {
        field.parse("a text", "\"callboard\"", |text| {
            if text.contains(':') {
                let wrong = Wrong::new("a user's name has no colon");
                return Err(wrong.suggest("the password stands in `password`"));
            }
            value::filled(text)
        })
    });
    let password = table.secret("password", base);
    table.pair([("user", "\"…\""), ("password", servers::PASSWORD)]);
    Some(Digest {
        user: user?,
        password: password?,
    })
}

fn session_timeout(table: &mut Table<'_>) -> Duration {
    let Some(field) = table.take("session_timeout") else {
        return SESSION;
    };
    let timeout = field.duration(Zero::Refused).unwrap_or(SESSION);
    if !SESSIONS.contains(&timeout) {
        let wrong = Wrong::new("a session's time-out is neither that short nor that long");
        field.wrong(wrong.suggest("write a duration from \"1s\" to \"1h\""));
    }
    timeout
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        cases::cases,
        config::{
            RegistryKind,
            testing::{ROUTE, config, errors},
        },
    };

    fn zookeeper(text: &str) -> ZooKeeper {
        let registries = config(&format!("[registry.zookeeper]\n{text}\n{ROUTE}")).registries;
        match &registries["zookeeper"].kind {
            RegistryKind::ZooKeeper(zookeeper) => zookeeper.clone(),
            other => panic!("{other:?}"),
        }
    }

    fn addresses(zookeeper: &ZooKeeper) -> Vec<String> {
        zookeeper.addresses.iter().map(Address::to_string).collect()
    }

    #[test]
    fn what_is_left_out_is_one_server_on_this_machine() {
        let zookeeper = zookeeper("");
        assert_eq!(addresses(&zookeeper), ["127.0.0.1:2181"]);
        assert_eq!((&*zookeeper.chroot, &*zookeeper.path), ("", "/services"));
        assert_eq!(zookeeper.digest, None);
        assert_eq!(zookeeper.session_timeout, Duration::from_secs(10));
    }

    #[test]
    fn all_of_its_keys_are_read() {
        let zookeeper = zookeeper(
            "address = [\"zk1:2181\", \"10.0.0.2:2182\", \"[::1]:2183\"]\nchroot = \"/prod/eu\"\npath = \"/\"\n\
             user = \"callboard\"\npassword = { file = \"zk-password\" }\nsession_timeout = \"30s\"",
        );
        assert_eq!(
            addresses(&zookeeper),
            ["zk1:2181", "10.0.0.2:2182", "[::1]:2183"]
        );
        assert_eq!((&*zookeeper.chroot, &*zookeeper.path), ("/prod/eu", "/"));
        let digest = Digest {
            user: "callboard".to_owned(),
            password: Secret::File("/etc/callboard/zk-password".into()),
        };
        assert_eq!(zookeeper.digest, Some(digest));
        assert_eq!(zookeeper.session_timeout, Duration::from_secs(30));
    }

    #[test]
    fn one_address_and_the_root_as_chroot_will_do() {
        let zookeeper = zookeeper("address = \"zk1:2181\"\nchroot = \"/\"");
        assert_eq!(addresses(&zookeeper), ["zk1:2181"]);
        assert_eq!(zookeeper.chroot, "");
    }

    #[test]
    fn every_wrong_value_is_named() {
        for (line, says) in cases(
            r#"
            address = "zk1"
            => address: `zk1` is not a host with its port; did you mean "zk1:2181"?
            address = "::1"
            => address: `::1` is not a host with its port; did you mean "[::1]:2181"?
            address = "fd00::1:2181"
            => address: `fd00::1:2181` is not a host with its port; did you mean "[fd00::1:2181]:2181"?
            address = "zk1:0"
            => address: `zk1:0` is not a host with its port; write it like "127.0.0.1:2181" or "[::1]:2181"
            address = "a:2181,b:2181"
            => address: `a:2181,b:2181` is not a host with its port; write an array, with one text for each server
            address = "zk://a:2181"
            => address: `zk://a:2181` is not a host with its port; write it like "127.0.0.1:2181"; a path belongs into `chroot`
            address = [] => address: there is no server in it; name one, or leave the key out
            address = 7
            => address: expected a host with its port, found the number 7; write `address = "127.0.0.1:2181"`
            chroot = "prod/" => chroot: `prod/` is not the path of a node; did you mean "/prod"?
            path = "/a//b" => path: `/a//b` is not the path of a node; write it like "/services"
            path = "/a/.." => path: `/a/..` is not the path of a node; write it like "/services"
            path = "" => path: `` is not the path of a node; write it like "/services"
            user = "a"
            => password: `user` is of no use without `password`; add `password = { file = "…" }`
            password = { env = "P" }
            => user: `password` is of no use without `user`; add `user = "…"`
            user = "a:b"
            password = { env = "P" }
            => user: a user's name has no colon; the password stands in `password`
            session_timeout = "500ms"
            => session_timeout: a session's time-out is neither that short nor that long; write a duration from "1s" to "1h"
            session_timeout = "2h"
            => session_timeout: a session's time-out is neither that short nor that long; write a duration from "1s" to "1h"
            "#,
        ) {
            let found = errors(&format!("[registry.zookeeper]\n{line}\n{ROUTE}"));
            assert_eq!(found.len(), 1, "{line}: {found:#?}");
            let (_, found) = found[0].split_once("registry.zookeeper.").unwrap();
            assert_eq!(found, says);
        }
    }
}
