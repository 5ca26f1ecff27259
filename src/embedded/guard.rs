//! Who is answered: a `Host` that is the registry's own, and for changes whoever has the token.
//! Knows nothing of what is asked for.

use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, Uri, header, uri::Authority};

/// The rules of one listening address.
#[derive(Clone, Debug)]
pub(super) struct Guard {
    address: SocketAddr,
    token: Option<String>,
}

impl Guard {
    pub(super) fn new(address: SocketAddr, token: Option<String>) -> Self {
        Self { address, token }
    }

    /// Whether the request was meant for this registry. A web page that has its name resolve to
    /// this machine (DNS rebinding) sends that name as `Host`.
    pub(super) fn knows_host(&self, uri: &Uri, headers: &HeaderMap) -> bool {
        let mut named = headers.get_all(header::HOST).iter();
        let host = named
            .next()
            .and_then(|host| Authority::try_from(host.as_bytes()).ok());
        if named.next().is_some() {
            return false;
        }
        let Some(authority) = uri.authority().or(host.as_ref()) else {
            return false;
        };
        let host = authority.host();
        let ip = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'))
            .unwrap_or(host)
            .parse::<IpAddr>()
            .ok();
        if authority.as_str().contains('@') {
            return false;
        }
        // Beyond loopback the address that a client uses is not known here (a published port, a
        // second interface); an IP address cannot be rebound, whichever it is.
        if !self.address.ip().is_loopback() {
            return ip.is_some() || host.eq_ignore_ascii_case("localhost");
        }
        let own = match ip {
            Some(ip) => ip.is_loopback(),
            None => host.eq_ignore_ascii_case("localhost"),
        };
        own && authority.port_u16().unwrap_or(80) == self.address.port()
    }

    /// Whether a change may be made, or why not.
    pub(super) fn allows_change(&self, headers: &HeaderMap) -> Result<(), &'static str> {
        let Some(token) = &self.token else {
            return if self.address.ip().is_loopback() {
                Ok(())
            } else {
                Err(
                    "Permission denied: a registry that listens beyond loopback takes changes \
                     only with a token, and none is set (registry.embedded.token)",
                )
            };
        };
        match sent_token(headers) {
            Some(sent) if same(sent.as_bytes(), token.as_bytes()) => Ok(()),
            Some(_) => Err("Permission denied: the token is not the registry's"),
            None => Err("Permission denied: changes need the registry's token"),
        }
    }
}

fn sent_token(headers: &HeaderMap) -> Option<&str> {
    if let Some(token) = headers.get("x-consul-token") {
        return token.to_str().ok().filter(|token| !token.is_empty());
    }
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// Compares in a time that does not tell how much of it was right.
fn same(sent: &[u8], token: &[u8]) -> bool {
    if token.is_empty() {
        return false;
    }
    let differing = (0..sent.len()).fold(sent.len() ^ token.len(), |differing, at| {
        // Every byte that was sent is compared, whatever the token's length.
        differing | usize::from(sent[at] ^ token[at % token.len()])
    });
    differing == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn knows(listens: &str, host: &str) -> bool {
        let guard = Guard::new(listens.parse().unwrap(), None);
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, host.parse().unwrap());
        guard.knows_host(&Uri::from_static("/v1/agent/self"), &headers)
    }

    #[test]
    fn on_loopback_only_loopbacks_own_names_are_known() {
        for host in [
            "127.0.0.1:8500",
            "localhost:8500",
            "LocalHost:8500",
            "[::1]:8500",
        ] {
            assert!(knows("127.0.0.1:8500", host), "{host}");
        }
        for host in [
            "evil.example:8500",
            "localhost.evil.example:8500",
            "127.0.0.1:9",
            "127.0.0.1",
            "localhost",
            "10.0.0.1:8500",
            "user@127.0.0.1:8500",
            "",
            "a b",
        ] {
            assert!(!knows("127.0.0.1:8500", host), "{host}");
        }
        assert!(knows("127.0.0.1:80", "localhost"));
    }

    #[test]
    fn beyond_loopback_any_ip_address_is_known_and_no_name() {
        for host in [
            "10.0.0.1:8500",
            "10.0.0.1:18500",
            "192.0.2.9",
            "[2001:db8::1]:8500",
            "localhost:1",
        ] {
            assert!(knows("0.0.0.0:8500", host), "{host}");
        }
        for host in ["evil.example:8500", "evil.example"] {
            assert!(!knows("0.0.0.0:8500", host), "{host}");
        }
    }

    #[test]
    fn the_targets_authority_stands_before_host_and_two_hosts_are_none() {
        let guard = Guard::new("127.0.0.1:8500".parse().unwrap(), None);
        let mut headers = HeaderMap::new();
        let evil = Uri::from_static("http://evil.example:8500/v1");
        let none = Uri::from_static("/v1");
        assert!(!guard.knows_host(&none, &headers));
        headers.insert(header::HOST, "127.0.0.1:8500".parse().unwrap());
        assert!(guard.knows_host(&none, &headers));
        assert!(!guard.knows_host(&evil, &headers));
        headers.append(header::HOST, "127.0.0.1:8500".parse().unwrap());
        assert!(!guard.knows_host(&none, &headers));
    }

    fn allows(listens: &str, token: Option<&str>, sent: Option<(&'static str, &str)>) -> bool {
        let guard = Guard::new(listens.parse().unwrap(), token.map(str::to_owned));
        let mut headers = HeaderMap::new();
        if let Some((name, value)) = sent {
            headers.insert(name, value.parse().unwrap());
        }
        guard.allows_change(&headers).is_ok()
    }

    #[test]
    fn changes_need_the_token_where_there_is_one_and_beyond_loopback_always() {
        let (near, far) = ("127.0.0.1:1", "0.0.0.0:1");
        assert!(allows(near, None, None));
        assert!(!allows(far, None, None));
        for address in [near, far] {
            let token = Some("s3cret");
            assert!(allows(address, token, Some(("x-consul-token", "s3cret"))));
            assert!(allows(
                address,
                token,
                Some(("authorization", "bearer s3cret"))
            ));
            assert!(!allows(address, token, None));
            for wrong in ["", "s3cre", "s3crets", "s3crets3cret", "S3cret"] {
                assert!(
                    !allows(address, token, Some(("x-consul-token", wrong))),
                    "{wrong}"
                );
            }
            assert!(!allows(
                address,
                token,
                Some(("authorization", "Basic s3cret"))
            ));
        }
        assert!(!allows(far, Some(""), Some(("x-consul-token", "x"))));
    }
}
