//! The head of a program's request, as it goes to an endpoint: its own fields, with the framing
//! and what belongs to the connection written anew.

use std::net::IpAddr;

use http::{HeaderMap, HeaderValue, Method, Uri, header, request::Parts, uri::PathAndQuery};

use crate::{
    service::{Dispatched, RequestInfo, Service},
    upstream::{Fields, Head},
};

/// A request's head, and its host.
pub(super) struct Outgoing {
    parts: Parts,
    /// Its own; the endpoint's address where it has none.
    host: Option<HeaderValue>,
}

impl Outgoing {
    /// Takes a head, or says why it cannot be sent.
    pub(super) fn new(parts: Parts) -> Result<Self, &'static str> {
        if parts.method == Method::CONNECT {
            return Err("CONNECT asks for a tunnel");
        }
        let mut hosts = parts.headers.get_all(header::HOST).iter();
        let own = hosts.next().cloned();
        if hosts.next().is_some() {
            return Err("there is more than one Host");
        }
        let host = own.or_else(|| {
            let authority = parts.uri.authority()?.as_str();
            // Who asks is no part of a host.
            let host = authority
                .rsplit_once('@')
                .map_or(authority, |(_, host)| host);
            HeaderValue::from_str(host).ok()
        });
        Ok(Self { parts, host })
    }
}

impl RequestInfo for Outgoing {
    fn headers(&self) -> &HeaderMap {
        &self.parts.headers
    }

    fn uri(&self) -> &Uri {
        &self.parts.uri
    }

    /// The client is the program itself, which has no address here.
    fn client(&self) -> Option<IpAddr> {
        None
    }
}

impl Dispatched<'_> for Outgoing {
    /// It says the same to every service.
    fn goes_to(&mut self, _: &Service) {}
}

impl Head for Outgoing {
    fn method(&self) -> &Method {
        &self.parts.method
    }

    fn target(&self) -> [&str; 2] {
        let target = self.parts.uri.path_and_query();
        let target = target.map_or("/", PathAndQuery::as_str);
        let root = if target.starts_with(['/', '*']) {
            ""
        } else {
            "/"
        };
        [root, target]
    }

    fn host(&self) -> Option<&[u8]> {
        self.host.as_ref().map(HeaderValue::as_bytes)
    }

    fn fields(&self, out: &mut Fields<'_>) {
        for (name, value) in &self.parts.headers {
            if !is_written_anew(name.as_str(), value) {
                out.push(name.as_str(), value.as_bytes());
            }
        }
    }

    fn spare_map(&mut self) -> &mut HeaderMap {
        &mut self.parts.headers
    }
}

/// Whether it is the client's to say: the framing, and what belongs to the connection.
fn is_written_anew(name: &str, value: &HeaderValue) -> bool {
    match name {
        "host" | "content-length" | "transfer-encoding" | "connection" | "keep-alive"
        | "proxy-connection" | "upgrade" | "expect" => true,
        // Trailers are understood, and other codings than `chunked` are not.
        "te" => value != "trailers",
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::Request;
    use http_body_util::Full;

    use super::*;
    use crate::{instance::Address, upstream};

    fn written(
        request: http::request::Builder,
        body: &'static str,
    ) -> Result<String, &'static str> {
        let (parts, ()) = request.body(()).unwrap().into_parts();
        let outgoing = Outgoing::new(parts)?;
        let endpoint = Address::new("10.0.0.7", 80).unwrap();
        let request =
            upstream::Request::new(outgoing.method(), Full::new(Bytes::from(body)), false);
        Ok(request.text(&outgoing, &endpoint))
    }

    #[test]
    fn the_host_is_the_requests_own_or_the_endpoints() {
        let host = |request| {
            let head = written(request, "").unwrap();
            head.split("\r\n").nth(1).unwrap().to_owned()
        };
        assert_eq!(host(Request::get("/a")), "host: 10.0.0.7:80");
        assert_eq!(host(Request::get("http://cart/a")), "host: cart");
        assert_eq!(host(Request::get("http://u:p@cart:81/a")), "host: cart:81");
        let own = Request::get("http://cart/a").header("host", "shop");
        assert_eq!(host(own), "host: shop");
    }

    #[test]
    fn the_target_is_a_path_whatever_the_uri_is() {
        for (uri, target) in [
            ("/a?b=c", "/a?b=c"),
            ("http://cart", "/"),
            ("http://cart?b=c", "/?b=c"),
            ("http://cart/a/../b", "/a/../b"),
            ("*", "*"),
        ] {
            let head = written(Request::options(uri), "").unwrap();
            assert!(
                head.starts_with(&format!("OPTIONS {target} HTTP/1.1\r\n")),
                "{head}"
            );
        }
    }

    #[test]
    fn framing_and_the_connections_fields_are_the_clients_own() {
        let request = Request::post("/a")
            .header("content-length", "7")
            .header("transfer-encoding", "gzip")
            .header("connection", "close")
            .header("expect", "100-continue")
            .header("te", "gzip")
            .header("x-a", "1")
            .header("x-a", "2");
        let head = written(request, "abc").unwrap();
        assert_eq!(
            head,
            "POST /a HTTP/1.1\r\nhost: 10.0.0.7:80\r\nx-a: 1\r\nx-a: 2\r\ncontent-length: 3\r\n\r\n"
        );
    }

    #[test]
    fn what_can_be_read_in_two_ways_is_refused() {
        let twice = Request::get("/").header("host", "a").header("host", "b");
        assert!(written(twice, "").is_err());
        let tunnel = Request::connect("cart:80");
        assert!(written(tunnel, "").is_err());
    }
}
