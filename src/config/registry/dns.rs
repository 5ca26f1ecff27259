//! `kind = "dns"`: which resolvers are asked, for which name and record, and how often.

use std::{
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
    time::Duration,
};

use crate::config::document::{field::Field, report::Wrong, table::Table};

/// What stands for the service's name in `query`.
const SERVICE: &str = "{service}";

/// Where a resolver listens that names no port.
const PORT: u16 = 53;

/// `[registry.dns]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dns {
    /// Who is asked.
    pub resolvers: Resolvers,
    /// The name that is asked for; holds `{service}`, and is a full one, with or without its last
    /// dot.
    pub query: String,
    /// Which records make the instances.
    pub record: DnsRecord,
    /// The shortest and the longest time for which an answer is believed, whatever its TTL.
    pub ttl: RangeInclusive<Duration>,
    /// How long one resolver may take to answer one query.
    pub timeout: Duration,
}

/// `address`
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resolvers {
    /// Those of /etc/resolv.conf, as it is when they are asked.
    System,
    /// These, at least one, in this order.
    Listed(Vec<SocketAddr>),
}

/// `record`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DnsRecord {
    /// SRV, which names each instance's host and port.
    Srv,
    /// A and AAAA: each address is an instance, on this port.
    Address {
        /// Never 0.
        port: u16,
    },
}

pub(super) fn read(table: &mut Table<'_>) -> Dns {
    let query = table
        .take("query")
        .and_then(|field| field.parse("a name", "\"_http._tcp.{service}.example.com\"", query));
    Dns {
        resolvers: resolvers(table),
        query: query.unwrap_or_else(|| SERVICE.to_owned()),
        record: record(table),
        ttl: table.within("ttl", ttl),
        timeout: table.duration("timeout", Duration::from_secs(2)),
    }
}

fn resolvers(table: &mut Table<'_>) -> Resolvers {
    const EXAMPLE: &str = "\"127.0.0.1:8600\"";
    let Some(field) = table.take("address") else {
        return Resolvers::System;
    };
    let fields = field.one_or_more(EXAMPLE);
    if field.is_empty_array() {
        let wrong = Wrong::new("there is no resolver in this array");
        field.wrong(wrong.suggest("name one, or leave the key out for those of /etc/resolv.conf"));
    }
    let parse = |field: &Field<'_>| field.parse("a resolver's address", EXAMPLE, resolver);
    Resolvers::Listed(fields.iter().filter_map(parse).collect())
}

/// An IP address, with or without a port.
fn resolver(text: &str) -> Result<SocketAddr, Wrong> {
    let bare = || {
        let bare = text
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'));
        let ip = bare.unwrap_or(text).parse::<IpAddr>().ok()?;
        Some(SocketAddr::new(ip, PORT))
    };
    text.parse()
        .ok()
        .or_else(bare)
        .filter(|address: &SocketAddr| address.port() != 0)
        .ok_or_else(|| {
            Wrong::new(format!("`{text}` is not the IP address of a resolver"))
                .suggest("write it like \"127.0.0.1:8600\", \"10.0.0.53\" or \"[::1]:53\"")
        })
}

fn query(text: &str) -> Result<String, Wrong> {
    if !text.contains(SERVICE) {
        return Err(Wrong::new(format!(
            "the name `{text}` holds no `{SERVICE}`, so every service would be the same"
        ))
        .suggest(format!(
            "write it like \"{SERVICE}.{}\"",
            text.trim_matches('.')
        )));
    }
    let name = text.replace(SERVICE, "x");
    let name = name.strip_suffix('.').unwrap_or(&name);
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    let is_label = |label: &str| (1..=63).contains(&label.len()) && label.bytes().all(is_plain);
    if name.len() > 253 || !name.split('.').all(is_label) {
        return Err(Wrong::new(format!("`{text}` is not a name of the DNS"))
            .suggest("write it like \"_http._tcp.{service}.example.com\""));
    }
    Ok(text.to_owned())
}

fn record(table: &mut Table<'_>) -> DnsRecord {
    #[derive(Clone, Copy, PartialEq)]
    enum Word {
        Srv,
        Address,
    }
    let words = [("srv", Word::Srv), ("address", Word::Address)];
    let word = table.choice("record", &words, Word::Srv);
    let field = table.take("port");
    match (word, field) {
        (Word::Srv, None) => DnsRecord::Srv,
        (Word::Srv, Some(field)) => {
            let wrong = Wrong::new("SRV records name their own ports");
            field.wrong(wrong.suggest("leave `port` out, or write `record = \"address\"`"));
            DnsRecord::Srv
        }
        (Word::Address, field) => {
            if field.is_none() {
                let wrong = Wrong::new("addresses have no port of their own");
                table.absent("port", wrong.suggest("write, say, `port = 8080`"));
            }
            let port = field.and_then(|field| field.count(1..=u32::from(u16::MAX), 8080));
            DnsRecord::Address {
                port: port.and_then(|port| port.try_into().ok()).unwrap_or(8080),
            }
        }
    }
}

fn ttl(table: &mut Table<'_>) -> RangeInclusive<Duration> {
    let min = table.duration("min", Duration::from_secs(1));
    let max = table.duration("max", Duration::from_secs(60).max(min));
    if min > max {
        let wrong = Wrong::new("`min` is more than `max`");
        table.wrong(wrong.suggest("write the shorter time as `min`"));
    }
    min..=max
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        cases::cases,
        config::{
            RegistryKind,
            testing::{config, error, errors},
        },
    };

    const ROUTE: &str = "[[route]]\nservice = \"cart\"\n";

    fn dns(keys: &str) -> Dns {
        let config = config(&format!("[registry.dns]\n{keys}\n{ROUTE}"));
        match &config.registries["dns"].kind {
            RegistryKind::Dns(dns) => dns.clone(),
            other => panic!("{other:?}"),
        }
    }

    fn wrong(keys: &str) -> String {
        let error = error(&format!("[registry.dns]\n{keys}\n{ROUTE}"));
        let (_, said) = error.split_once("registry.dns.").unwrap();
        said.to_owned()
    }

    #[test]
    fn left_to_itself_it_asks_the_systems_resolvers_for_srv() {
        let seconds = Duration::from_secs;
        assert_eq!(
            dns(""),
            Dns {
                resolvers: Resolvers::System,
                query: "{service}".to_owned(),
                record: DnsRecord::Srv,
                ttl: seconds(1)..=seconds(60),
                timeout: seconds(2),
            }
        );
    }

    #[test]
    fn all_keys_are_read() {
        let dns = dns(r#"
            address = ["127.0.0.1:8600", "10.0.0.53", "::1", "[::1]:54", "[::1]"]
            query = "{service}.service.consul."
            record = "address"
            port = 8080
            ttl = { min = "500ms", max = "5s" }
            timeout = "1s"
            "#);
        let Resolvers::Listed(resolvers) = &dns.resolvers else {
            panic!("{dns:?}");
        };
        let resolvers: Vec<_> = resolvers.iter().map(ToString::to_string).collect();
        assert_eq!(
            resolvers,
            [
                "127.0.0.1:8600",
                "10.0.0.53:53",
                "[::1]:53",
                "[::1]:54",
                "[::1]:53"
            ]
        );
        assert_eq!(dns.query, "{service}.service.consul.");
        assert_eq!(dns.record, DnsRecord::Address { port: 8080 });
        let ttl = Duration::from_millis(500)..=Duration::from_secs(5);
        assert_eq!((dns.ttl, dns.timeout), (ttl, Duration::from_secs(1)));
    }

    #[test]
    fn one_resolver_needs_no_array_and_a_long_floor_lifts_the_ceiling() {
        let dns = dns("address = \"127.0.0.1:8600\"\nttl = { min = \"2m\" }");
        assert_eq!(
            dns.resolvers,
            Resolvers::Listed(vec!["127.0.0.1:8600".parse().unwrap()])
        );
        let minutes = Duration::from_secs(120);
        assert_eq!(dns.ttl, minutes..=minutes);
    }

    #[test]
    fn every_wrong_value_is_named() {
        for (keys, said) in cases(
            r#"
            address = "ns1.example.com"
            => address: `ns1.example.com` is not the IP address of a resolver; write it like "127.0.0.1:8600", "10.0.0.53" or "[::1]:53"
            address = "10.0.0.53:0"
            => address: `10.0.0.53:0` is not the IP address of a resolver; write it like "127.0.0.1:8600", "10.0.0.53" or "[::1]:53"
            address = []
            => address: there is no resolver in this array; name one, or leave the key out for those of /etc/resolv.conf
            query = ".example.com"
            => query: the name `.example.com` holds no `{service}`, so every service would be the same; write it like "{service}.example.com"
            query = "{service}..com"
            => query: `{service}..com` is not a name of the DNS; write it like "_http._tcp.{service}.example.com"
            query = "{service}.{dc}.consul"
            => query: `{service}.{dc}.consul` is not a name of the DNS; write it like "_http._tcp.{service}.example.com"
            record = "a" => record: `a` is not known here; for now it may be `srv` or `address`
            record = "address"
            => port: addresses have no port of their own; write, say, `port = 8080`
            record = "address"
            port = 0 => port: 0 is out of range; write a number from 1 to 65535
            port = 80
            => port: SRV records name their own ports; leave `port` out, or write `record = "address"`
            ttl = { min = "5s", max = "1s" }
            => ttl: `min` is more than `max`; write the shorter time as `min`
            timeout = "0s" => timeout: this duration must be more than nothing
            "#,
        ) {
            assert_eq!(wrong(&keys), said, "{keys}");
        }
        assert_eq!(
            errors(&format!("[registry.dns]\nadress = \"::1\"\n{ROUTE}")),
            ["2:1 registry.dns.adress: unknown key `adress`; did you mean `address`?"]
        );
    }
}
