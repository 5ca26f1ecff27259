//! The head of a request as it goes upstream: written anew, with CRLF always and its framing our
//! own, never copied. Oracle: these bytes parse again to exactly one request, the one that was
//! routed.

use http::{HeaderMap, HeaderName, HeaderValue, Method, header, uri::PathAndQuery};
use http_body::Body;

use super::{Client, RequestBody, request::Head};
use crate::{config::Underscores, upstream::http1::Framing};

/// How the body of a request is framed upstream.
pub(super) fn framing(body: &RequestBody) -> Framing {
    if body.is_end_stream() {
        return Framing::None;
    }
    match body.size_hint().exact() {
        Some(length) => Framing::Length(length),
        None => Framing::Chunked,
    }
}

/// Writes the head for an endpoint that is to see `host`. `strip` is how many bytes of the path
/// are taken off.
pub(super) fn write(
    out: &mut Vec<u8>,
    client: &Client,
    head: &Head,
    framing: Framing,
    host: &str,
    strip: usize,
) {
    let parts = &head.parts;
    out.clear();
    out.extend_from_slice(parts.method.as_str().as_bytes());
    out.push(b' ');
    let target = parts.uri.path_and_query().map_or("/", PathAndQuery::as_str);
    let (prefix, target) = target.split_at(strip);
    if !target.starts_with('/') {
        out.push(b'/');
    }
    out.extend_from_slice(target.as_bytes());
    out.extend_from_slice(b" HTTP/1.1\r\n");
    line(out, "host", host.as_bytes());
    end_to_end(out, client, head);
    forwarded(out, client, head, prefix.as_bytes());
    match framing {
        // A body of no bytes is still one, where the method gives it a meaning.
        Framing::None if matches!(parts.method, Method::POST | Method::PUT | Method::PATCH) => {
            line(out, "content-length", b"0");
        }
        Framing::None => {}
        Framing::Length(length) => {
            line(
                out,
                "content-length",
                itoa::Buffer::new().format(length).as_bytes(),
            );
        }
        Framing::Chunked => line(out, "transfer-encoding", b"chunked"),
    }
    out.extend_from_slice(b"\r\n");
}

fn line(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// The client's fields, without those of its connection and those that are written anew.
fn end_to_end(out: &mut Vec<u8>, client: &Client, head: &Head) {
    let headers = &head.parts.headers;
    for (name, value) in headers {
        let keep = match name.as_str() {
            // Written anew.
            "host" | "content-length" | "transfer-encoding" => false,
            // Of the connection. hyper answers `Expect` itself.
            "connection" | "keep-alive" | "proxy-connection" | "upgrade" | "expect" => false,
            // Between the client and us.
            "proxy-authenticate" | "proxy-authorization" => false,
            "te" => {
                if has_token(value, "trailers") {
                    line(out, "te", b"trailers");
                }
                false
            }
            // Said by us; a stranger's word for it is not passed on.
            "x-forwarded-for" | "x-forwarded-proto" | "x-forwarded-host" | "forwarded"
            | "x-forwarded-prefix" => false,
            // These may not be taken out by naming them.
            "authorization" | "cookie" => true,
            text => {
                !(head.connection && !says_who_asked(text) && is_nominated(headers, name))
                    && (client.listener.underscores == Underscores::Allow || !text.contains('_'))
            }
        };
        if keep {
            line(out, name.as_str(), value.as_bytes());
        }
    }
}

/// Whether a proxy in front may have written it: a client that could take it out, by naming it in
/// `Connection`, would pass for that proxy.
fn says_who_asked(name: &str) -> bool {
    name.starts_with("x-forwarded-") || name == "x-real-ip"
}

fn is_nominated(headers: &HeaderMap, name: &HeaderName) -> bool {
    headers
        .get_all(header::CONNECTION)
        .iter()
        .any(|value| has_token(value, name.as_str()))
}

fn has_token(value: &HeaderValue, token: &str) -> bool {
    value
        .as_bytes()
        .split(|byte| *byte == b',')
        .any(|item| item.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
}

/// Who asked, by what, and through whom.
fn forwarded(out: &mut Vec<u8>, client: &Client, head: &Head, stripped: &[u8]) {
    if client.peer.trusted {
        return forwarded_further(out, client, head, stripped);
    }
    out.extend_from_slice(client.peer.introduction.as_bytes());
    if let Some(host) = head.host() {
        line(out, "x-forwarded-host", host.as_bytes());
    }
    if !stripped.is_empty() {
        line(out, "x-forwarded-prefix", stripped);
    }
}

/// The same for a trusted proxy, whose own words are kept and added to.
fn forwarded_further(out: &mut Vec<u8>, client: &Client, head: &Head, stripped: &[u8]) {
    let said = |name: &str| {
        let values = head.parts.headers.get_all(name).iter();
        let values: Vec<_> = values.map(HeaderValue::as_bytes).collect();
        (!values.is_empty()).then(|| values.join(&b", "[..]))
    };
    let ip = client.peer.ip.as_bytes();
    match said("x-forwarded-for") {
        Some(theirs) => line_of(out, "x-forwarded-for", &[&theirs, b", ", ip]),
        None => line(out, "x-forwarded-for", ip),
    }
    let proto = said("x-forwarded-proto");
    line(
        out,
        "x-forwarded-proto",
        proto.as_deref().unwrap_or(b"http"),
    );
    let theirs = said("x-forwarded-host");
    if let Some(host) = theirs.as_deref().or(head.host().map(str::as_bytes)) {
        line(out, "x-forwarded-host", host);
    }
    if let Some(theirs) = said("forwarded") {
        let (open, close): (&[u8], &[u8]) = if ip.contains(&b':') {
            (b"\"[", b"]\"")
        } else {
            (b"", b"")
        };
        let ours = &[
            &theirs,
            b", for=".as_slice(),
            open,
            ip,
            close,
            b";proto=http",
        ];
        line_of(out, "forwarded", ours);
    }
    let prefix = said("x-forwarded-prefix").unwrap_or_default();
    if !prefix.is_empty() || !stripped.is_empty() {
        line_of(out, "x-forwarded-prefix", &[&prefix, stripped]);
    }
    let pseudonym = client.worker.shared.pseudonym.as_bytes();
    line_of(out, "via", &[b"1.1 ", pseudonym]);
}

fn line_of(out: &mut Vec<u8>, name: &str, values: &[&[u8]]) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    for value in values {
        out.extend_from_slice(value);
    }
    out.extend_from_slice(b"\r\n");
}
