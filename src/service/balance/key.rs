//! A request's key: what it has in common with those that go to the same endpoint. Read only where a
//! balancer asks for it.

use std::net::IpAddr;

use http::{HeaderMap, Uri, header};
use tokio::time::Instant;

use super::digest::digest;
use crate::{config::HashKey, proxy_protocol::Opener};

/// What of a request may be asked for.
pub trait RequestInfo {
    /// Its fields, as the client sent them.
    fn headers(&self) -> &HeaderMap;

    /// Its target, as the client sent it.
    fn uri(&self) -> &Uri;

    /// Who sent it, if that is known.
    fn client(&self) -> Option<IpAddr>;

    /// The same as an endpoint is told it by a PROXY header. No port is known of it.
    fn opener(&self) -> Opener {
        self.client()
            .map_or(Opener::Proxy, |ip| Opener::Client((ip, 0).into()))
    }

    /// Hears that an attempt begins.
    fn attempt_begins(&mut self, _at: Instant) {}

    /// Hears that its new connection is there, or cannot be had.
    fn has_dialled(&mut self, _at: Instant) {}
}

/// The digest of a request's key. An empty one is none.
pub(super) fn of(by: &HashKey, asked: &dyn RequestInfo) -> Option<u64> {
    key_digest(by, 0, asked)
}

/// The digest of a request's key, another one with each seed. An empty key is none.
pub fn key_digest(by: &HashKey, seed: u64, asked: &dyn RequestInfo) -> Option<u64> {
    let bytes = match by {
        HashKey::Header(name) => asked.headers().get(name)?.as_bytes(),
        HashKey::Cookie(name) => cookie(asked.headers(), name)?,
        HashKey::Query(name) => parameter(asked.uri().query()?, name)?,
        HashKey::Path => asked.uri().path().as_bytes(),
        HashKey::Client => {
            return Some(client_digest(asked.client()?, 128, seed));
        }
    };
    (!bytes.is_empty()).then(|| digest(seed, bytes))
}

/// The digest of a client's address, of which so many leading bits count where it is one of IPv6: there
/// a network, and not an address, is what one client has.
pub fn client_digest(client: IpAddr, ipv6_prefix: u8, seed: u64) -> u64 {
    match client.to_canonical() {
        IpAddr::V4(address) => digest(seed, &address.octets()),
        IpAddr::V6(address) => {
            let left = 128_u32.saturating_sub(ipv6_prefix.into());
            let network = u128::MAX.checked_shl(left).unwrap_or(0) & address.to_bits();
            digest(seed, &network.to_be_bytes())
        }
    }
}

/// The value of the first cookie of this name (RFC 6265 5.4).
pub(super) fn cookie<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h [u8]> {
    let mut lines = headers.get_all(header::COOKIE).iter();
    lines.find_map(|line| of_pairs(line.as_bytes(), b';', name))
}

/// The value of the first parameter of this name.
fn parameter<'q>(query: &'q str, name: &str) -> Option<&'q [u8]> {
    of_pairs(query.as_bytes(), b'&', name)
}

fn of_pairs<'p>(mut pairs: &'p [u8], between: u8, name: &str) -> Option<&'p [u8]> {
    loop {
        let end = memchr::memchr(between, pairs).unwrap_or(pairs.len());
        let pair = pairs[..end].trim_ascii();
        if let Some(value) = pair.strip_prefix(name.as_bytes())
            && let [b'=', value @ ..] = value
        {
            return Some(value);
        }
        pairs = pairs.get(end + 1..)?;
    }
}

#[cfg(test)]
pub(super) mod testing {
    use super::*;

    /// A request's head.
    pub(in crate::service::balance) struct Request(
        pub(crate) http::Request<()>,
        pub(crate) Option<IpAddr>,
    );

    impl RequestInfo for Request {
        fn headers(&self) -> &HeaderMap {
            self.0.headers()
        }

        fn uri(&self) -> &Uri {
            self.0.uri()
        }

        fn client(&self) -> Option<IpAddr> {
            self.1
        }
    }
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn key(by: &HashKey, request: http::request::Builder) -> Option<u64> {
        let client = Some([10, 0, 0, 7].into());
        of(by, &testing::Request(request.body(()).unwrap(), client))
    }

    #[test]
    fn it_is_taken_from_where_it_is_said_to_stand() {
        let expected = Some(digest(0, b"ann"));
        let header = HashKey::Header("x-user".parse().unwrap());
        let request = Request::get("/")
            .header("x-user", "ann")
            .header("x-user", "bob");
        assert_eq!(key(&header, request), expected);

        let cookie = HashKey::Cookie("user".into());
        for line in [
            "user=ann",
            "a=b; user=ann",
            "xuser=x;user=ann ; user=y",
            "user; user=ann",
        ] {
            let request = Request::get("/")
                .header("cookie", "c=d")
                .header("cookie", line);
            assert_eq!(key(&cookie, request), expected, "{line}");
        }

        let query = HashKey::Query("user".into());
        for target in [
            "/?user=ann",
            "/?xuser=bob&user=ann&user=cid",
            "/a?b=c&user=ann",
        ] {
            assert_eq!(key(&query, Request::get(target)), expected, "{target}");
        }

        let path = key(&HashKey::Path, Request::get("/ann?user=bob"));
        assert_eq!(path, Some(digest(0, b"/ann")));
        let client = key(&HashKey::Client, Request::get("/"));
        assert_eq!(client, Some(digest(0, &[10, 0, 0, 7])));
    }

    #[test]
    fn an_ipv6_client_is_its_network() {
        let of = |address: &str, prefix| client_digest(address.parse().unwrap(), prefix, 0);
        assert_eq!(of("2001:db8::1", 64), of("2001:db8::ffff:0:0:2", 64));
        assert_ne!(of("2001:db8::1", 64), of("2001:db8:0:1::1", 64));
        assert_ne!(of("2001:db8::1", 128), of("2001:db8::2", 128));
        assert_eq!(of("::ffff:10.0.0.7", 64), of("10.0.0.7", 64));
        assert_ne!(of("10.0.0.7", 1), of("10.0.0.8", 1));
    }

    #[test]
    fn an_empty_key_is_none() {
        let header = HashKey::Header("x-user".parse().unwrap());
        assert_eq!(key(&header, Request::get("/").header("x-user", "")), None);
        assert_eq!(key(&header, Request::get("/")), None);
        let query = HashKey::Query("user".into());
        for target in ["/", "/?", "/?user", "/?user=", "/?users=ann"] {
            assert_eq!(key(&query, Request::get(target)), None, "{target}");
        }
        let cookie = HashKey::Cookie("user".into());
        for line in ["user=", "user", "", ";;", "users=ann"] {
            let request = Request::get("/").header("cookie", line);
            assert_eq!(key(&cookie, request), None, "{line}");
        }
    }
}
