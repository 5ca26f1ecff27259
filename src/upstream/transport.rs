//! How an endpoint is spoken to: over TLS or in the clear, and in which version of HTTP.

use super::Protocol;
use crate::{
    config,
    instance::{HttpVersion, Instance},
};

/// How an endpoint is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Transport {
    /// Whether over TLS.
    pub tls: bool,
    /// In which version of HTTP.
    pub protocol: Protocol,
}

impl Transport {
    /// HTTP/1.1 in the clear.
    #[cfg(test)]
    pub(crate) const PLAIN: Self = Self {
        tls: false,
        protocol: Protocol::Http1,
    };

    /// How an instance is spoken to whose service has this `protocol`: a version that the service names;
    /// else the one that the instance names; else HTTP/1.1 or, where the service leaves it to the
    /// endpoint, what that chooses in the handshake of TLS.
    pub(crate) fn of(instance: &Instance, key: Option<config::Protocol>) -> Self {
        let said = match key {
            Some(config::Protocol::Http1) => Some(HttpVersion::One),
            Some(config::Protocol::Http2) => Some(HttpVersion::Two),
            Some(config::Protocol::Auto) | None => instance.http_version(),
        };
        let protocol = match said {
            Some(HttpVersion::One) => Protocol::Http1,
            Some(HttpVersion::Two) => Protocol::Http2,
            None if key.is_some() && instance.tls => Protocol::Either,
            None => Protocol::Http1,
        };
        Self {
            tls: instance.tls,
            protocol,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::instance::Address;

    #[test]
    fn the_service_says_first_then_the_instance_then_the_handshake() {
        use config::Protocol::{Auto, Http1, Http2};

        for (key, meta, tls, protocol) in [
            (None, None, false, Protocol::Http1),
            (None, None, true, Protocol::Http1),
            (None, Some("h2c"), false, Protocol::Http2),
            (None, Some("http1"), true, Protocol::Http1),
            (Some(Http1), Some("h2c"), false, Protocol::Http1),
            (Some(Http2), Some("http1"), true, Protocol::Http2),
            (Some(Http2), None, false, Protocol::Http2),
            (Some(Auto), None, false, Protocol::Http1),
            (Some(Auto), None, true, Protocol::Either),
            (Some(Auto), Some("h2c"), false, Protocol::Http2),
            (Some(Auto), Some("http1"), true, Protocol::Http1),
        ] {
            let instance = Instance {
                id: "a".into(),
                address: Address::new("10.0.0.1", 80).unwrap(),
                tls,
                healthy: true,
                weight: 1,
                tags: Vec::new(),
                meta: meta
                    .map(|value| ("protocol".to_owned(), value.to_owned()))
                    .into_iter()
                    .collect::<BTreeMap<_, _>>(),
            };
            let transport = Transport::of(&instance, key);
            assert_eq!(transport, Transport { tls, protocol }, "{key:?} {meta:?}");
        }
    }
}
