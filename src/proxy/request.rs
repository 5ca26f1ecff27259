//! Which requests are admitted, by http-rules: what hyper does not look at, and what would make
//! two parties read a request differently. Whatever is refused here was never forwarded.

use std::sync::Arc;

use http::{HeaderValue, Method, Request, Version, header, request::Parts, uri::PathAndQuery};
use hyper::body::Incoming;

use super::{Client, Refusal, RequestBody};
use crate::config::Underscores;

/// A request that may be routed.
pub(super) struct Admitted {
    pub(super) head: Head,
    pub(super) body: RequestBody,
    /// Whether it may be sent again though it may have been processed (RFC 9110 9.2.2).
    pub(super) idempotent: bool,
}

/// A request's head, and its one host.
pub(super) struct Head {
    pub(super) parts: Parts,
    host: Option<HeaderValue>,
}

impl Head {
    /// As the client sent it; `None` in HTTP/1.0 only.
    pub(super) fn host(&self) -> Option<&str> {
        self.host.as_ref()?.to_str().ok()
    }

    pub(super) fn path(&self) -> &str {
        self.parts.uri.path()
    }
}

/// Admits a request, or says why not.
pub(super) fn admit(client: &Arc<Client>, request: Request<Incoming>) -> Result<Admitted, Refusal> {
    let (parts, incoming) = request.into_parts();
    let limits = &client.listener.limits;
    match parts.method {
        Method::CONNECT | Method::TRACE => return Err(Refusal::Method),
        _ => {}
    }
    let target = parts.uri.path_and_query().map_or("", PathAndQuery::as_str);
    if target.len() > limits.target_bytes {
        return Err(Refusal::TargetTooLong);
    }
    if parts.headers.len() > limits.headers {
        return Err(Refusal::TooManyHeaders);
    }
    check_path(parts.uri.path())?;
    let host = host(&parts)?;
    check_headers(client, &parts)?;
    let idempotent = is_idempotent(&parts.method);
    Ok(Admitted {
        body: RequestBody::new(incoming, Arc::clone(client), idempotent),
        head: Head { parts, host },
        idempotent,
    })
}

fn is_idempotent(method: &Method) -> bool {
    matches!(
        *method,
        Method::GET | Method::HEAD | Method::OPTIONS | Method::PUT | Method::DELETE
    )
}

/// One documented rule instead of a normalisation: a path that two parties could resolve
/// differently is refused, so that what is matched is what is forwarded, byte for byte.
fn check_path(path: &str) -> Result<(), Refusal> {
    if !path.starts_with('/') {
        return Err(Refusal::Malformed("the request's target is not a path"));
    }
    let bytes = path.as_bytes();
    for (at, byte) in bytes.iter().enumerate() {
        let rest = &bytes[at + 1..];
        let refused = match byte {
            b'\\' => true,
            b'/' => rest.first() == Some(&b'/') || is_dots(rest),
            b'%' => encodes_separator(rest),
            _ => false,
        };
        if refused {
            return Err(Refusal::Malformed(
                "the path holds `//`, `\\`, a `.` or `..` segment, or a percent-encoded `.`, `/` or `\\`",
            ));
        }
    }
    Ok(())
}

/// Whether the next segment is `.` or `..`.
fn is_dots(rest: &[u8]) -> bool {
    let dots = rest.iter().take_while(|byte| **byte == b'.').count();
    (dots == 1 || dots == 2) && rest.get(dots).is_none_or(|byte| *byte == b'/')
}

/// `%2e`, `%2f`, `%5c`, and an escape that is none.
fn encodes_separator(rest: &[u8]) -> bool {
    match rest {
        [b'2', b'e' | b'E' | b'f' | b'F', ..] | [b'5', b'c' | b'C', ..] | [b'0', b'0', ..] => true,
        [high, low, ..] => !(high.is_ascii_hexdigit() && low.is_ascii_hexdigit()),
        _ => true,
    }
}

/// The one host of the request: the authority of an absolute target, else `Host`.
fn host(parts: &Parts) -> Result<Option<HeaderValue>, Refusal> {
    let mut fields = parts.headers.get_all(header::HOST).iter();
    let field = fields.next();
    if fields.next().is_some() {
        return Err(Refusal::Malformed("more than one Host"));
    }
    let host = match (parts.uri.authority(), field) {
        (Some(authority), _) => Some(
            HeaderValue::from_str(authority.as_str())
                .map_err(|_| Refusal::Malformed("the target's authority is malformed"))?,
        ),
        (None, field) => field.cloned(),
    };
    match &host {
        Some(host) if !is_host(host.as_bytes()) => Err(Refusal::Malformed("the Host is malformed")),
        None if parts.version != Version::HTTP_10 => Err(Refusal::Malformed("there is no Host")),
        _ => Ok(host),
    }
}

/// `name`, `name:port`, `[ipv6]:port`; no userinfo, no path, no list.
fn is_host(host: &[u8]) -> bool {
    let (name, port) = match host {
        [b'[', rest @ ..] => match rest.iter().position(|byte| *byte == b']') {
            Some(end) => {
                let is_ipv6 = rest[..end]
                    .iter()
                    .all(|byte| byte.is_ascii_hexdigit() || matches!(byte, b':' | b'.'));
                if !is_ipv6 {
                    return false;
                }
                (&rest[..end], &rest[end + 1..])
            }
            None => return false,
        },
        _ => {
            let end = host
                .iter()
                .position(|byte| *byte == b':')
                .unwrap_or(host.len());
            let is_name = host[..end]
                .iter()
                .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_'));
            if !is_name {
                return false;
            }
            host.split_at(end)
        }
    };
    !name.is_empty()
        && match port {
            [] => true,
            [b':', digits @ ..] => digits.len() <= 5 && digits.iter().all(u8::is_ascii_digit),
            _ => false,
        }
}

fn check_headers(client: &Client, parts: &Parts) -> Result<(), Refusal> {
    for (name, value) in &parts.headers {
        match name.as_str() {
            // hyper lets other codings before `chunked` pass.
            "transfer-encoding" if !value.as_bytes().eq_ignore_ascii_case(b"chunked") => {
                return Err(Refusal::Coding);
            }
            "expect" if !value.as_bytes().eq_ignore_ascii_case(b"100-continue") => {
                return Err(Refusal::Expectation);
            }
            "via" if passed_here(client, value) => return Err(Refusal::Loop),
            name if client.listener.underscores == Underscores::Reject && name.contains('_') => {
                return Err(Refusal::Malformed("a header's name has an underscore"));
            }
            _ => {}
        }
    }
    let codings = parts.headers.get_all(header::TRANSFER_ENCODING).iter();
    if codings.count() > 1 {
        return Err(Refusal::Coding);
    }
    Ok(())
}

fn passed_here(client: &Client, via: &HeaderValue) -> bool {
    let pseudonym = client.worker.shared.pseudonym.as_bytes();
    memchr::memmem::find(via.as_bytes(), pseudonym).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_that_can_be_read_in_two_ways_are_refused() {
        for path in [
            "/a/../b",
            "/..",
            "/.",
            "/a/./b",
            "//",
            "/a//b",
            "/a\\b",
            "/%2e%2e/b",
            "/a%2Fb",
            "/a%5cb",
            "/a%",
            "/a%2",
            "/a%zz",
            "/a%00",
            "*",
            "a",
        ] {
            assert!(check_path(path).is_err(), "{path}");
        }
        for path in [
            "/",
            "/a",
            "/a/",
            "/...",
            "/.well-known/x",
            "/a.b/c..d",
            "/%20",
            "/a%3Fb",
        ] {
            assert!(check_path(path).is_ok(), "{path}");
        }
    }

    #[test]
    fn a_host_is_a_name_or_an_address_with_perhaps_a_port() {
        for host in [
            "a",
            "a.b:80",
            "10.0.0.1",
            "[::1]",
            "[::1]:8080",
            "a_b",
            "a:",
        ] {
            assert!(is_host(host.as_bytes()), "{host}");
        }
        for host in [
            "", ":80", "u@a", "a,b", "a b", "a/b", "[::1", "[::1]x", "[]", "a:b", "a:123456",
        ] {
            assert!(!is_host(host.as_bytes()), "{host}");
        }
    }
}
