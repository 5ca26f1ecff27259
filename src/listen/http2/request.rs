//! A request of HTTP/2, made one of HTTP/1.1 in all but its version: so that one path serves both, and the
//! same is seen of it by routes, by the log and by endpoints (RFC 9113 8.2.3 and 8.3.1). Refuses nothing
//! itself: what cannot be understood in one way stays what `proxy` refuses.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::{HeaderMap, HeaderValue, Method, Request, Uri, header, request::Parts, uri};
use hyper::ext::Protocol;

/// Whether it is a `CONNECT` to another protocol than HTTP (RFC 8441).
pub(super) fn goes_over<B>(request: &Request<B>) -> bool {
    request.method() == Method::CONNECT && request.extensions().get::<Protocol>().is_some()
}

/// The same request with its target in origin-form, its authority as its one `Host`, and its cookies in one
/// field. Where a `Host` names another authority, both stand there. A `CONNECT` to another protocol asks for an
/// upgrade.
pub(super) fn as_http1<B>(request: Request<B>) -> Request<B> {
    let (mut parts, body) = request.into_parts();
    join_cookies(&mut parts.headers);
    let is_of_http = matches!(parts.uri.scheme_str(), None | Some("http" | "https"));
    // One without a path is a `CONNECT` of the old kind; another scheme is refused.
    if is_of_http && parts.uri.path_and_query().is_some() {
        ask_to_go_over(&mut parts);
        let uri::Parts {
            authority,
            path_and_query,
            ..
        } = parts.uri.into_parts();
        parts.uri = path_and_query.map_or_else(Uri::default, Uri::from);
        if let Some(authority) = authority {
            name_host(&mut parts.headers, authority.as_str());
        }
    }
    Request::from_parts(parts, body)
}

/// Has a `CONNECT` to another protocol ask for it as HTTP/1.1 does (RFC 8441 5): by a `GET`, and for WebSocket by a
/// key, which HTTP/2 has none of.
fn ask_to_go_over(parts: &mut Parts) {
    let Some(protocol) = parts.extensions.get::<Protocol>() else {
        return;
    };
    // What is no name of a protocol stays what is refused.
    let is_name = !protocol.as_str().contains([',', ' ', '\t']);
    let Some(upgrade) = HeaderValue::from_str(protocol.as_str())
        .ok()
        .filter(|_| is_name)
    else {
        return;
    };
    let headers = &mut parts.headers;
    headers.remove(header::SEC_WEBSOCKET_KEY);
    if protocol.as_str().eq_ignore_ascii_case("websocket") {
        let key = STANDARD.encode(fastrand::u128(..).to_ne_bytes());
        if let Ok(key) = HeaderValue::from_str(&key) {
            headers.insert(header::SEC_WEBSOCKET_KEY, key);
        }
    }
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, upgrade);
    parts.method = Method::GET;
}

/// Crumbs of cookies are no lists: they are joined as HTTP/1.1 has them in one field.
fn join_cookies(headers: &mut HeaderMap) {
    let mut crumbs = headers.get_all(header::COOKIE).iter();
    let (Some(first), Some(_)) = (crumbs.next(), crumbs.next()) else {
        return;
    };
    let mut joined = first.as_bytes().to_vec();
    for crumb in headers.get_all(header::COOKIE).iter().skip(1) {
        joined.extend_from_slice(b"; ");
        joined.extend_from_slice(crumb.as_bytes());
    }
    // What fields may hold, and a separator, may stand in one.
    if let Ok(mut joined) = HeaderValue::from_bytes(&joined) {
        joined.set_sensitive(true);
        headers.insert(header::COOKIE, joined);
    }
}

fn name_host(headers: &mut HeaderMap, authority: &str) {
    let Ok(host) = HeaderValue::from_str(authority) else {
        return;
    };
    let named = headers.get(header::HOST).map(HeaderValue::as_bytes);
    let is_same = named.is_none_or(|named| named.eq_ignore_ascii_case(authority.as_bytes()));
    if is_same && headers.get_all(header::HOST).iter().count() <= 1 {
        headers.insert(header::HOST, host);
    } else {
        headers.append(header::HOST, host);
    }
}

#[cfg(test)]
mod tests {
    use http::Version;

    use super::*;

    fn hosts(request: &Request<()>) -> Vec<&str> {
        let hosts = request.headers().get_all(header::HOST).iter();
        hosts.map(|host| host.to_str().unwrap()).collect()
    }

    #[test]
    fn the_authority_is_the_host_and_another_host_stands_beside_it() {
        for (uri, said, expected) in [
            ("https://a.example/x?y", &[][..], &["a.example"][..]),
            ("http://a.example:81/", &["A.Example:81"], &["a.example:81"]),
            (
                "https://a.example/",
                &["b.example"],
                &["b.example", "a.example"],
            ),
            (
                "https://a.example/",
                &["a.example", "a.example"],
                &["a.example", "a.example", "a.example"],
            ),
            ("/x", &["a.example"], &["a.example"]),
            ("/x", &[], &[]),
        ] {
            let mut request = Request::builder().uri(uri).version(Version::HTTP_2);
            for host in said {
                request = request.header(header::HOST, *host);
            }
            let request = as_http1(request.body(()).unwrap());
            assert_eq!(hosts(&request), expected, "{uri} {said:?}");
            assert!(request.uri().to_string().starts_with('/'), "{uri}");
            assert_eq!(request.version(), Version::HTTP_2);
        }
    }

    #[test]
    fn what_is_to_be_refused_stays_as_it_is() {
        for uri in ["ftp://a.example/x", "a.example:443"] {
            let request = Request::builder().uri(uri).body(()).unwrap();
            assert_eq!(as_http1(request).uri(), uri);
        }
    }

    #[test]
    fn a_connect_to_another_protocol_asks_for_an_upgrade_with_a_key_of_its_own() {
        let connect = |protocol: &'static str| {
            let mut request = Request::connect("https://a.example/chat?x")
                .body(())
                .unwrap();
            let headers = request.headers_mut();
            headers.insert("sec-websocket-key", HeaderValue::from_static("theirs"));
            headers.insert("sec-websocket-version", HeaderValue::from_static("13"));
            let protocol = Protocol::from_static(protocol);
            request.extensions_mut().insert(protocol);
            assert!(goes_over(&request));
            as_http1(request)
        };
        let mut keys = Vec::new();
        for protocol in ["websocket", "WebSocket"] {
            let request = connect(protocol);
            assert_eq!(
                (request.method(), request.uri().path()),
                (&Method::GET, "/chat")
            );
            let headers = request.headers();
            assert_eq!(headers["connection"], "upgrade");
            assert_eq!(headers["upgrade"], protocol);
            assert_eq!(headers["sec-websocket-version"], "13");
            keys.push(STANDARD.decode(&headers["sec-websocket-key"]).unwrap());
        }
        assert!(keys[0].len() == 16 && keys[0] != keys[1]);
        let other = connect("connect-udp");
        assert_eq!(other.headers()["upgrade"], "connect-udp");
        assert!(!other.headers().contains_key("sec-websocket-key"));
        for wrong in ["websocket, tcp", "web socket"] {
            let request = connect(wrong);
            assert_eq!(request.method(), Method::CONNECT, "{wrong}");
            assert!(!request.headers().contains_key("upgrade"), "{wrong}");
        }
    }

    #[test]
    fn crumbs_of_cookies_are_one_field() {
        let request = Request::builder().uri("/");
        let request = request.header("cookie", "a=1").header("x", "y");
        let request = request.header("cookie", "b=2; c=3").header("cookie", "d=4");
        let request = as_http1(request.body(()).unwrap());
        let cookies: Vec<_> = request.headers().get_all(header::COOKIE).iter().collect();
        assert_eq!(cookies, ["a=1; b=2; c=3; d=4"]);
        assert_eq!(request.headers().len(), 2);
    }
}
