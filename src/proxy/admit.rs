//! Which requests are admitted, by http-rules: what hyper does not look at, and what would make
//! two parties read a request differently. Whatever is refused here was never forwarded.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use http::{HeaderMap, HeaderValue, Method, Version, request::Parts, uri::PathAndQuery};
use http_body::Body;
use hyper::body::Incoming;

use super::{
    Client, RequestBody, RequestStream, body, connection_fields, grpc_timeout,
    grpc_web::{Format, Web},
    local_reply::LocalReply,
    response::RequestLog,
};
use crate::{
    config::{Paths, Underscores},
    grpc, route, scan, upstream,
};

/// What `OPTIONS` has in a path's place where it asks about the server itself (RFC 9110 9.3.7).
pub(super) const ASTERISK: &str = "*";

/// Bytes of a method. The longest that is registered has 17.
const LONGEST_METHOD: usize = 64;

/// Bytes of a host's name; DNS has 253 at the most.
const LONGEST_HOST: usize = 255;

/// A request that may be answered.
pub(super) struct Admitted<'r> {
    pub(super) head: Head<'r>,
    pub(super) request: upstream::Request<RequestBody>,
}

/// A request's head, and its one host.
pub(super) struct Head<'r> {
    /// They are large, and stay where the request's future has them.
    pub(super) parts: &'r mut Parts,
    host: Option<HeaderValue>,
    /// Whether there is a `Connection`, which may name fields that are not to be passed on.
    pub(super) connection: bool,
    /// How long the client waits, where it says so.
    pub(super) deadline: Option<Duration>,
    /// Whether the connection may go over to what `Upgrade` names.
    pub(super) may_upgrade: bool,
    /// How else an endpoint may read the path; mostly in no other way.
    pub(super) readings: Box<[String]>,
}

impl<'p> Head<'p> {
    fn of(parts: &'p mut Parts, checked: Checked) -> Self {
        let Checked {
            host,
            connection,
            deadline,
            may_upgrade,
            readings,
        } = checked;
        Self {
            parts,
            host,
            connection,
            deadline,
            may_upgrade,
            readings,
        }
    }

    /// Whether it is a `CONNECT` of HTTP/2 to another protocol (RFC 8441): its answer has a status of success
    /// where its stream has gone over, and in no other case.
    pub(super) fn is_connect(&self) -> bool {
        self.may_upgrade && self.parts.version == Version::HTTP_2
    }

    /// As the client sent it; `None` in HTTP/1.0 only.
    pub(super) fn host(&self) -> Option<&str> {
        self.host.as_ref()?.to_str().ok()
    }

    /// The same where it is only written: a look at each of its bytes less.
    pub(super) fn host_bytes(&self) -> Option<&[u8]> {
        self.host.as_ref().map(HeaderValue::as_bytes)
    }

    pub(super) fn path(&self) -> &str {
        self.parts.uri.path()
    }

    /// What it is routed by.
    pub(super) fn route_by(&self) -> route::Request<'_> {
        self.route_as(self.path())
    }

    /// What it would be routed by if this were its path.
    pub(super) fn route_as<'r>(&'r self, path: &'r str) -> route::Request<'r> {
        route::Request {
            host: self.host().unwrap_or_default(),
            path,
            method: &self.parts.method,
            headers: &self.parts.headers,
            query: self.parts.uri.query(),
        }
    }
}

/// Admits a request, or says why not.
pub(super) fn admit<'r>(
    stream: &Arc<RequestStream>,
    record: &mut RequestLog,
    parts: &'r mut Parts,
    incoming: Incoming,
) -> Result<Admitted<'r>, LocalReply> {
    let client = &*stream.client;
    if client.listener.grpc_web {
        record.web = Web::translate(&mut parts.headers);
    }
    let is_text = record.web.is_some_and(|web| web.request == Format::Text);
    let body = body::of_client(incoming, stream, is_text);
    let fields = Fields::read(client, &parts.headers);
    record.wants_json = fields.wants_json;
    // The answer to a call that is refused would be one of success.
    record.is_grpc =
        fields.is_grpc && parts.method != Method::CONNECT && !is_connect(&fields, parts);
    // In HTTP/1.0 it means nothing (RFC 9110 10.1.1).
    let expects_continue = fields.expects && parts.version != Version::HTTP_10;
    if expects_continue {
        stream.rest.waits_to_be_asked();
    }
    let checked = fields.check(client, parts, &body)?;
    if record.web.is_some() {
        Web::ask_for_trailers(&mut parts.headers);
    }
    stream.may_go_over.store(checked.may_upgrade, Relaxed);
    Ok(Admitted {
        request: upstream::Request::new(&parts.method, body, expects_continue),
        head: Head::of(parts, checked),
    })
}

/// The head of a request that is not made, and whose body is only announced; or why it would be refused.
pub(super) fn head_of<'p>(
    client: &Client,
    parts: &'p mut Parts,
    body: &impl Body,
) -> Result<Head<'p>, LocalReply> {
    // As in `admit`: routes see what a call of gRPC-Web becomes.
    let is_web = client.listener.grpc_web && Web::translate(&mut parts.headers).is_some();
    let checked = Fields::read(client, &parts.headers).check(client, parts, body)?;
    if is_web {
        Web::ask_for_trailers(&mut parts.headers);
    }
    Ok(Head::of(parts, checked))
}

/// What of a head goes on with it.
struct Checked {
    host: Option<HeaderValue>,
    connection: bool,
    deadline: Option<Duration>,
    may_upgrade: bool,
    readings: Box<[String]>,
}

/// hyper takes any length, and a body behind a handshake, where the other protocol's first bytes are.
fn check_framing(fields: &Fields<'_>, body: &impl Body) -> Result<(), LocalReply> {
    let length = body.size_hint().exact();
    if length.is_some_and(|length| i64::try_from(length).is_err()) {
        return Err(LocalReply::Malformed(
            "the `Content-Length` is beyond measure",
        ));
    }
    if fields.websocket && !body.is_end_stream() {
        return Err(LocalReply::Malformed("a handshake has no body"));
    }
    Ok(())
}

/// Whether the connection may go over to what `Upgrade` names (RFC 9110 7.8), or in HTTP/2 the stream, if there
/// is no body.
#[cold]
fn may_go_over(parts: &Parts) -> bool {
    parts.version != Version::HTTP_10 && connection_fields::name_upgrade(&parts.headers)
}

/// See [`Head::is_connect`]. In HTTP/2 no other request has an `Upgrade`.
fn is_connect(fields: &Fields<'_>, parts: &Parts) -> bool {
    fields.upgrade && parts.version == Version::HTTP_2
}

/// What the header fields say that matters before a request is routed, gathered in one pass.
#[derive(Default)]
struct Fields<'a> {
    host: Option<&'a HeaderValue>,
    hosts: usize,
    codings: usize,
    connection: bool,
    deadline: Option<Duration>,
    wants_json: bool,
    /// It is a call of gRPC.
    is_grpc: bool,
    /// It waits for a `100 Continue`.
    expects: bool,
    /// There is an `Upgrade`.
    upgrade: bool,
    /// It asks for the WebSocket protocol.
    websocket: bool,
    /// How often it has passed through this proxy.
    passes: usize,
    refusal: Option<LocalReply>,
}

impl<'a> Fields<'a> {
    fn read(client: &Client, headers: &'a HeaderMap) -> Self {
        let mut fields = Self::default();
        let mut named = 0;
        let rejects_underscores = client.listener.underscores == Underscores::Reject;
        for (name, value) in headers {
            let bytes = value.as_bytes();
            let refusal = match name.as_str() {
                "host" => {
                    fields.host = Some(value);
                    fields.hosts += 1;
                    None
                }
                "accept" => {
                    fields.wants_json |= memchr::memmem::find(bytes, b"json").is_some();
                    None
                }
                "content-type" => {
                    fields.is_grpc = grpc::is_content_type(bytes);
                    None
                }
                "connection" => {
                    fields.connection = true;
                    named += connection_fields::names(bytes).count();
                    (named > connection_fields::MOST)
                        .then_some(LocalReply::Malformed("`Connection` names too many fields"))
                }
                "upgrade" => {
                    fields.upgrade = true;
                    fields.websocket |= bytes.trim_ascii().eq_ignore_ascii_case(b"websocket");
                    None
                }
                "grpc-timeout" => {
                    fields.deadline = grpc_timeout::of(bytes);
                    None
                }
                "transfer-encoding" => {
                    fields.codings += 1;
                    // hyper lets other codings before `chunked` pass.
                    let understood = fields.codings == 1 && bytes.eq_ignore_ascii_case(b"chunked");
                    (!understood).then_some(LocalReply::Coding)
                }
                "expect" => {
                    fields.expects = bytes.eq_ignore_ascii_case(b"100-continue");
                    (!fields.expects).then_some(LocalReply::Expectation)
                }
                "via" => {
                    let pseudonym = client.worker.shared.pseudonym.as_bytes();
                    fields.passes += memchr::memmem::find_iter(bytes, pseudonym).count();
                    (fields.passes >= client.listener.max_passes).then_some(LocalReply::Loop)
                }
                name => (rejects_underscores && name.contains('_'))
                    .then_some(LocalReply::Malformed("a header's name has an underscore")),
            };
            if let Some(refusal) = refusal {
                fields.refusal.get_or_insert(refusal);
            }
        }
        fields
    }

    /// Whether the request may be answered; with what of it was found out on the way.
    fn check(
        mut self,
        client: &Client,
        parts: &Parts,
        body: &impl Body,
    ) -> Result<Checked, LocalReply> {
        let limits = &client.listener.limits;
        match parts.method {
            Method::CONNECT => return Err(LocalReply::Connect),
            Method::TRACE => return Err(LocalReply::Trace),
            _ => {}
        }
        if parts.method.as_str().len() > LONGEST_METHOD {
            return Err(LocalReply::MethodTooLong);
        }
        let target = parts.uri.path_and_query().map_or("", PathAndQuery::as_str);
        if target.len() > limits.target_bytes {
            return Err(LocalReply::TargetTooLong);
        }
        if parts.headers.len() > limits.headers {
            return Err(LocalReply::TooManyHeaders);
        }
        if let Some(refusal) = self.refusal.take() {
            return Err(refusal);
        }
        check_framing(&self, body)?;
        if !matches!(parts.uri.scheme_str(), None | Some("http" | "https")) {
            return Err(LocalReply::Malformed("the target's scheme is not HTTP's"));
        }
        let path = parts.uri.path();
        let readings = match parts.method {
            Method::OPTIONS if path == ASTERISK => Box::default(),
            _ => readings(path, client.listener.paths)?.into(),
        };
        Ok(Checked {
            host: self.host(parts)?,
            connection: self.connection,
            deadline: self.deadline,
            may_upgrade: self.upgrade && body.is_end_stream() && may_go_over(parts),
            readings,
        })
    }

    /// The one host of the request: the authority of an absolute target, else `Host`.
    fn host(&self, parts: &Parts) -> Result<Option<HeaderValue>, LocalReply> {
        if self.hosts > 1 {
            return Err(LocalReply::Malformed("more than one Host"));
        }
        match self.host {
            Some(host) if !is_host(host.as_bytes()) => {
                return Err(LocalReply::Malformed("the Host is malformed"));
            }
            None if parts.version != Version::HTTP_10 => {
                return Err(LocalReply::Malformed("there is no Host"));
            }
            _ => {}
        }
        let Some(authority) = parts.uri.authority() else {
            return Ok(self.host.cloned());
        };
        HeaderValue::from_str(authority.as_str())
            .ok()
            .filter(|authority| is_host(authority.as_bytes()))
            .map(Some)
            .ok_or(LocalReply::Malformed("the target's authority is malformed"))
    }
}

/// One documented rule instead of a normalisation, so that what is matched is what is forwarded, byte for
/// byte: a path that goes up, in whatever way it is read, is refused; and one that can be read in several
/// ways has all of them looked at. With [`Paths::Strict`] it is refused.
fn readings(path: &str, rule: Paths) -> Result<Vec<String>, LocalReply> {
    if !path.starts_with('/') {
        return Err(LocalReply::Malformed("the request's target is not a path"));
    }
    let bytes = path.as_bytes();
    if is_plain(bytes) {
        return Ok(Vec::new());
    }
    let (mut refused, mut several) = (false, false);
    for (at, byte) in bytes.iter().enumerate() {
        if !matches!(byte, b'/' | b'\\' | b'%' | b';') {
            continue;
        }
        let rest = &bytes[at + 1..];
        match byte {
            b'/' => {
                refused |= is_dots(rest);
                several |= rest.first() == Some(&b'/');
            }
            b'%' => {
                refused |= !is_escape(rest);
                several |= rule == Paths::Forward || is_of_a_separator(rest);
            }
            b';' => several |= rule == Paths::Forward,
            _ => refused = true,
        }
    }
    if refused || (several && rule == Paths::Strict) {
        return Err(LocalReply::Malformed(match rule {
            Paths::Forward => ASTRAY,
            Paths::Strict => STRICT,
        }));
    }
    if !several {
        return Ok(Vec::new());
    }
    route::readings(path).map_err(|route::Astray| LocalReply::Malformed(ASTRAY))
}

/// Whether a path has one reading at first sight, as most have. No byte ends the loop, though the first
/// that is odd could: so many are looked at at once.
fn is_plain(path: &[u8]) -> bool {
    let is_odd = |byte: u8| (byte == b'\\') | (byte == b'%') | (byte == b';');
    let begins_oddly = |byte: u8| (byte == b'/') | (byte == b'.');
    let Some((last, others)) = path.split_last() else {
        return false;
    };
    let pairs = others.iter().zip(&path[1..]);
    !pairs.fold(is_odd(*last), |odd, (this, next)| {
        odd | is_odd(*this) | (*this == b'/') & begins_oddly(*next)
    })
}

const ASTRAY: &str = "the path holds, or may be read to hold, a `.` or `..` segment, a backslash or a \
                      NUL; or a `%` that is no escape";
const STRICT: &str = "the path holds `//`, `\\`, a `.` or `..` segment, or a percent-encoded `.`, `/` \
                      or `\\`";

/// Whether the next segment is `.` or `..`, perhaps with parameters.
fn is_dots(rest: &[u8]) -> bool {
    let dots = rest.iter().take_while(|byte| **byte == b'.').count();
    (dots == 1 || dots == 2) && matches!(rest.get(dots), None | Some(b'/' | b';'))
}

/// What may follow a `%`: not a NUL, nor a backslash.
fn is_escape(rest: &[u8]) -> bool {
    match rest {
        [b'0', b'0', ..] | [b'5', b'c' | b'C', ..] => false,
        [high, low, ..] => high.is_ascii_hexdigit() && low.is_ascii_hexdigit(),
        _ => false,
    }
}

/// `%2e` and `%2f`.
fn is_of_a_separator(rest: &[u8]) -> bool {
    matches!(rest, [b'2', b'e' | b'E' | b'f' | b'F', ..])
}

/// Whether a host's name may have this byte.
fn is_of_name(byte: u8) -> bool {
    let is_letter = (byte | 0x20).wrapping_sub(b'a') < 26;
    let is_digit = byte.wrapping_sub(b'0') < 10;
    is_letter | is_digit | (byte == b'-') | (byte == b'.') | (byte == b'_')
}

/// `name`, `name:port`, `[ipv6]:port`; no userinfo, no path, no list.
pub(super) fn is_host(host: &[u8]) -> bool {
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
            // Mostly there is nothing else.
            let end = match scan::any(host, |byte| !is_of_name(byte)) {
                true => host.iter().position(|byte| !is_of_name(*byte)),
                false => None,
            };
            host.split_at(end.unwrap_or(host.len()))
        }
    };
    !name.is_empty()
        && name.len() <= LONGEST_HOST
        && match port {
            [] | [b':'] => true,
            [b':', digits @ ..] => {
                let port = std::str::from_utf8(digits).ok();
                digits.iter().all(u8::is_ascii_digit)
                    && port.is_some_and(|port| port.parse::<u16>().is_ok())
            }
            _ => false,
        }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_that_go_up_are_refused_by_either_rule() {
        for path in [
            "/a/../b",
            "/..",
            "/.",
            "/a/./b",
            "/a\\b",
            "/%2e%2e/b",
            "/a/..;/b",
            "/a/.;x",
            "/a%5cb",
            "/a%",
            "/a%2",
            "/a%zz",
            "/a%00",
            "*",
            "a",
        ] {
            assert!(readings(path, Paths::Forward).is_err(), "{path}");
            assert!(readings(path, Paths::Strict).is_err(), "{path}");
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
            "/a;b",
        ] {
            assert!(
                readings(path, Paths::Strict).is_ok_and(|others| others.is_empty()),
                "{path}"
            );
            assert!(readings(path, Paths::Forward).is_ok(), "{path}");
        }
    }

    #[test]
    fn a_path_with_one_reading_at_first_sight_has_no_other() {
        let mut random = fastrand::Rng::with_seed(3);
        let pieces = [
            "/", "a", ".", "..", "b.c", "%2f", "%41", ";", "\\", "-", "0",
        ];
        let mut plain = 0;
        for _ in 0..20_000 {
            let count = random.usize(..6);
            let piece = |_| *random.choice(pieces.iter()).unwrap();
            let path = format!("/{}", (0..count).map(piece).collect::<String>());
            if is_plain(path.as_bytes()) {
                plain += 1;
                // What follows would be looked at byte by byte.
                assert!(!path.contains(['\\', '%', ';']), "{path}");
                assert!(!path.contains("//") && !path.contains("/."), "{path}");
                assert_eq!(route::readings(&path).map(|all| all.len()), Ok(0), "{path}");
            } else {
                assert!(
                    path.contains(['\\', '%', ';']) || path.contains("//") || path.contains("/."),
                    "{path}"
                );
            }
        }
        assert!(plain > 1_000);
    }

    #[test]
    fn paths_that_can_be_read_in_two_ways_are_refused_by_the_strict_rule_alone() {
        for path in ["//", "/a//b", "/a%2Fb", "/a%2eb"] {
            assert!(readings(path, Paths::Strict).is_err(), "{path}");
            let others = readings(path, Paths::Forward);
            assert!(others.is_ok_and(|others| !others.is_empty()), "{path}");
        }
    }

    #[test]
    fn a_name_has_letters_digits_and_three_signs() {
        for byte in 0..=u8::MAX {
            let is_sign = matches!(byte, b'-' | b'.' | b'_');
            let expected = is_sign || byte.is_ascii_alphanumeric();
            assert_eq!(is_of_name(byte), expected, "{byte:#x}");
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
            "a:65535",
            "a:00080",
            &"a".repeat(255),
        ] {
            assert!(is_host(host.as_bytes()), "{host}");
        }
        for host in [
            "",
            ":80",
            "u@a",
            "a,b",
            "a b",
            "a/b",
            "[::1",
            "[::1]x",
            "[]",
            "a:b",
            "a:123456",
            "a:65536",
            "a:+80",
            &"a".repeat(256),
        ] {
            assert!(!is_host(host.as_bytes()), "{host}");
        }
    }
}
