//! `[[listen]]`: where clients come in, and what they may do. Knows nothing of sockets.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use super::{
    ListenLimits, ListenTimeouts, Listener, Underscores, claims::Claims, pattern, reader::Table,
    value,
};

/// Reads all listeners; where there is none, the default one.
pub(super) fn read<'a>(top: &mut Table<'a>, claims: &mut Claims<'a>) -> Vec<Listener> {
    let written = top.has("listen");
    let mut listeners = top.each("listen", |table| one(table, claims)).concat();
    if !written {
        let listener = Listener::default();
        claims.add(listener.address, OWNER, None);
        listeners.push(listener);
    }
    listeners
}

const OWNER: &str = "a listener";

/// One table, which is a listener for each of its addresses.
fn one<'a>(table: &mut Table<'a>, claims: &mut Claims<'a>) -> Vec<Listener> {
    let default = Listener::default();
    let example = format!("\"{}\"", default.address);
    let mut addresses = Vec::new();
    if let Some(field) = table.required("address", &example) {
        for field in field.one_or_more(&example) {
            if let Some(address) = field.parse("an address", &example, value::listen_address) {
                claims.add(address, OWNER, Some(field));
                addresses.push(address);
            }
        }
    }
    let listener = Listener {
        trusted_proxies: table
            .take("trusted_proxies")
            .map(|field| field.elements("\"10.0.0.0/8\""))
            .unwrap_or_default()
            .iter()
            .filter_map(|field| field.parse("a network", "\"10.0.0.0/8\"", value::network))
            .collect(),
        timeout: table.within("timeout", |table| ListenTimeouts {
            header: table.duration("header", default.timeout.header),
            body: table.duration("body", default.timeout.body),
            write: table.duration("write", default.timeout.write),
            idle: table.duration("idle", default.timeout.idle),
        }),
        limits: table.within("limits", |table| limits(table, default.limits)),
        half_close: table.flag("half_close", default.half_close),
        health_path: table
            .take("health_path")
            .and_then(|field| field.parse("a path", "\"/health\"", pattern::literal_path)),
        underscores: table.choice(
            "underscore_headers",
            &[
                ("drop", Underscores::Drop),
                ("reject", Underscores::Reject),
                ("allow", Underscores::Allow),
            ],
            default.underscores,
        ),
        ..default
    };
    let at = |address| Listener {
        address,
        ..listener.clone()
    };
    addresses.into_iter().map(at).collect()
}

fn limits(table: &mut Table<'_>, default: ListenLimits) -> ListenLimits {
    ListenLimits {
        connections: table.size("connections", 1..=10_000_000, default.connections),
        // The HTTP parser's buffer is never smaller than 8 KiB.
        header_bytes: table.size("header_bytes", 8192..=1_048_576, default.header_bytes),
        headers: table.size("headers", 1..=100, default.headers),
        // A request's target cannot be longer than this in the `http` crate.
        target_bytes: table.size("target_bytes", 1..=65_534, default.target_bytes),
    }
}

impl Default for Listener {
    /// What a `[[listen]]` has where it says nothing: port 8080 of every IPv4 address.
    fn default() -> Self {
        Self {
            address: SocketAddr::from((Ipv4Addr::UNSPECIFIED, 8080)),
            trusted_proxies: Vec::new(),
            timeout: ListenTimeouts {
                header: Duration::from_secs(10),
                body: Duration::from_secs(30),
                write: Duration::from_secs(30),
                idle: Duration::from_secs(75),
            },
            limits: ListenLimits {
                connections: 20_000,
                header_bytes: 65_536,
                headers: 100,
                target_bytes: 8192,
            },
            half_close: false,
            health_path: None,
            underscores: Underscores::Drop,
        }
    }
}
