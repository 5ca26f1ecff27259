//! Whom a server of the control plane answers: requests that were meant for it, and where it
//! matters those who have its token. Knows nothing of what is asked for.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
};

use aws_lc_rs::constant_time::verify_slices_are_equal;
use http::{HeaderMap, Uri, header, uri::Authority};

/// The rules of one listening address.
#[derive(Clone)]
pub(crate) struct Access {
    address: SocketAddr,
    token: Option<String>,
    hosts: Vec<String>,
}

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Denied {
    /// The server listens beyond loopback, and has no token that could be sent.
    NoneSet,
    /// No token was sent.
    Missing,
    /// Another token was sent.
    Wrong,
}

impl Access {
    /// For a server that listens at `address`. A token that is set is always needed. Where none is
    /// set, a server beyond loopback refuses every request.
    pub(crate) fn new(address: SocketAddr, token: Option<String>) -> Self {
        Self {
            address,
            token,
            hosts: Vec::new(),
        }
    }

    /// Adds names of the server, which are taken with any port.
    pub(crate) fn named(mut self, hosts: &[String]) -> Self {
        self.hosts = hosts.to_vec();
        self
    }

    /// Whether requests need the token that they need by the other.
    pub(crate) fn has_token_of(&self, other: &Self) -> bool {
        self.token == other.token
    }

    /// Whether the request names no host at all, as probes of HTTP/1.0 do (HAProxy's `httpchk`), and
    /// no browser does.
    pub(crate) fn is_nameless(uri: &Uri, headers: &HeaderMap) -> bool {
        uri.authority().is_none() && !headers.contains_key(header::HOST)
    }

    /// Whether the request was meant for this server: it has one of its names as `Host`, or it
    /// bears the token. A web page that has its name resolve to this machine (DNS rebinding)
    /// sends that name, and has no token.
    pub(crate) fn is_meant(&self, uri: &Uri, headers: &HeaderMap, sent: Option<&str>) -> bool {
        self.knows_host(uri, headers) || (self.token.is_some() && self.admit(sent).is_ok())
    }

    fn knows_host(&self, uri: &Uri, headers: &HeaderMap) -> bool {
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
        if self
            .hosts
            .iter()
            .any(|name| name.eq_ignore_ascii_case(host))
        {
            return true;
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

    /// Whether a request with this token, or without any, may do what needs the token.
    ///
    /// # Errors
    /// Why not.
    pub(crate) fn admit(&self, sent: Option<&str>) -> Result<(), Denied> {
        match (&self.token, sent) {
            (None, _) if self.address.ip().is_loopback() => Ok(()),
            (None, _) => Err(Denied::NoneSet),
            (Some(_), None) => Err(Denied::Missing),
            (Some(token), Some(sent)) if same(sent.as_bytes(), token.as_bytes()) => Ok(()),
            (Some(_), Some(_)) => Err(Denied::Wrong),
        }
    }
}

impl fmt::Debug for Access {
    /// Without the token.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Access")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

/// The token of `Authorization: Bearer TOKEN`.
pub(crate) fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// Compares in a time that does not tell how much of it was right. No token is the empty one.
fn same(sent: &[u8], token: &[u8]) -> bool {
    !token.is_empty() && verify_slices_are_equal(sent, token).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn knows(listens: &str, host: &str) -> bool {
        let gate = Access::new(listens.parse().unwrap(), None);
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, host.parse().unwrap());
        gate.knows_host(&Uri::from_static("/v1/agent/self"), &headers)
    }

    #[test]
    fn whoever_has_the_token_may_use_any_name() {
        let gate = Access::new("0.0.0.0:9900".parse().unwrap(), Some("secret".to_owned()));
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, "callboard:9900".parse().unwrap());
        let meant = |sent| gate.is_meant(&Uri::from_static("/metrics"), &headers, sent);
        assert!(meant(Some("secret")));
        assert!(!meant(Some("other")) && !meant(None));
    }

    #[test]
    fn names_that_were_given_are_known_at_any_port() {
        for listens in ["127.0.0.1:9900", "0.0.0.0:9900"] {
            let gate = Access::new(listens.parse().unwrap(), None);
            let gate = gate.named(&["callboard".to_owned()]);
            let knows = |host: &str| {
                let mut headers = HeaderMap::new();
                headers.insert(header::HOST, host.parse().unwrap());
                gate.knows_host(&Uri::from_static("/metrics"), &headers)
            };
            assert!(knows("callboard:9900") && knows("Callboard") && knows("callboard:1"));
            assert!(!knows("x.callboard:9900") && !knows("callboard.evil.example"));
            assert!(!knows("u@callboard:9900"));
        }
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
        let gate = Access::new("127.0.0.1:8500".parse().unwrap(), None);
        let mut headers = HeaderMap::new();
        let evil = Uri::from_static("http://evil.example:8500/v1");
        let none = Uri::from_static("/v1");
        assert!(!gate.knows_host(&none, &headers));
        headers.insert(header::HOST, "127.0.0.1:8500".parse().unwrap());
        assert!(gate.knows_host(&none, &headers));
        assert!(!gate.knows_host(&evil, &headers));
        headers.append(header::HOST, "127.0.0.1:8500".parse().unwrap());
        assert!(!gate.knows_host(&none, &headers));
    }

    #[test]
    fn a_token_is_needed_where_there_is_one_and_beyond_loopback_always() {
        let gate = |listens: &str, token: Option<&str>| {
            Access::new(listens.parse().unwrap(), token.map(str::to_owned))
        };
        let (near, far) = ("127.0.0.1:1", "0.0.0.0:1");
        assert_eq!(gate(near, None).admit(None), Ok(()));
        assert_eq!(gate(far, None).admit(None), Err(Denied::NoneSet));
        assert_eq!(gate(far, None).admit(Some("x")), Err(Denied::NoneSet));
        for address in [near, far] {
            let gate = gate(address, Some("s3cret"));
            assert_eq!(gate.admit(Some("s3cret")), Ok(()));
            assert_eq!(gate.admit(None), Err(Denied::Missing));
            for wrong in ["", "s3cre", "s3crets", "s3crets3cret", "S3cret"] {
                assert_eq!(gate.admit(Some(wrong)), Err(Denied::Wrong), "{wrong}");
            }
        }
        assert_eq!(gate(far, Some("")).admit(Some("")), Err(Denied::Wrong));
    }

    #[test]
    fn a_bearer_token_is_found_however_the_scheme_is_spelled() {
        let sent = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::AUTHORIZATION, value.parse().unwrap());
            bearer(&headers).map(str::to_owned)
        };
        assert_eq!(sent("Bearer s3cret").as_deref(), Some("s3cret"));
        assert_eq!(sent("bearer  s3cret ").as_deref(), Some("s3cret"));
        assert_eq!(sent("Basic s3cret"), None);
        assert_eq!(sent("s3cret"), None);
    }

    #[test]
    fn the_token_is_never_printed() {
        let gate = Access::new("127.0.0.1:1".parse().unwrap(), Some("s3cret".to_owned()));
        assert!(!format!("{gate:?}").contains("s3cret"));
    }
}
