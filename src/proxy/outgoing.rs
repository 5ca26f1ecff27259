//! The head of a request as it goes upstream: written anew, and never copied. Oracle: what is written
//! parses again to exactly one request, the one that was routed.

use std::{net::IpAddr, sync::Arc};

use http::{HeaderMap, HeaderValue, Method, Uri, header, uri::PathAndQuery};
use tokio::time::Instant;

use super::{
    Client, HeadText, Target,
    access::Access,
    admit::{Head, is_host},
    client_certificate,
    connection_fields::Nominated,
    local_reply::LocalReply,
};
use crate::{
    config::{HeaderCase, HostHeader, Subset, Underscores},
    proxy_protocol::Opener,
    service::{CallPolicy, Dispatched, RequestInfo, Service},
    upstream::{self, Fields, Upgrade},
};

/// A client's request on its way out.
pub(super) struct Outgoing<'a, 'r, 's> {
    pub(super) client: &'a Client,
    pub(super) head: &'a mut Head<'r>,
    /// The service that it goes to.
    pub(super) service: &'s Service,
    /// Its line of the access log.
    pub(super) access: Option<&'a mut Access>,
    /// Where its route leads.
    pub(super) target: &'a Target,
    /// How many bytes of the path are taken off.
    pub(super) strip: usize,
}

/// A request before it is known where it goes.
pub(super) struct Asking<'r>(pub(super) &'r Client, pub(super) &'r Head<'r>);

impl RequestInfo for Asking<'_> {
    fn headers(&self) -> &HeaderMap {
        &self.1.parts.headers
    }

    fn uri(&self) -> &Uri {
        &self.1.parts.uri
    }

    fn client(&self) -> Option<IpAddr> {
        Some(self.0.asker(&self.1.parts.headers))
    }
}

impl RequestInfo for Outgoing<'_, '_, '_> {
    fn headers(&self) -> &HeaderMap {
        &self.head.parts.headers
    }

    fn uri(&self) -> &Uri {
        &self.head.parts.uri
    }

    fn client(&self) -> Option<IpAddr> {
        Some(self.client.asker(&self.head.parts.headers))
    }

    fn opener(&self) -> Opener {
        self.client.opener(&self.head.parts.headers)
    }

    fn attempt_begins(&mut self, at: Instant) {
        if let Some(access) = &mut self.access {
            access.attempt_begins(at);
        }
    }

    fn has_dialled(&mut self, at: Instant) {
        if let Some(access) = &mut self.access {
            access.has_dialled(at);
        }
    }
}

impl<'s> Dispatched<'s> for Outgoing<'_, '_, 's> {
    fn goes_to(&mut self, service: &'s Service) {
        self.service = service;
        if let Some(access) = &mut self.access {
            access.goes_to(service);
        }
    }
}

impl upstream::Head for Outgoing<'_, '_, '_> {
    fn method(&self) -> &Method {
        &self.head.parts.method
    }

    fn target(&self) -> [&str; 2] {
        let target = self.split_target().1;
        let root = if target.starts_with('/') { "" } else { "/" };
        [root, target]
    }

    /// `None` where each endpoint sees its own address: by setting, where a client of HTTP/1.0 sent no
    /// host, or where the service's name can be none.
    fn host(&self) -> Option<&[u8]> {
        let name = self.service.name();
        match self.target.host_header {
            HostHeader::Client => self.head.host_bytes(),
            HostHeader::Name => is_host(name.as_bytes()).then_some(name.as_bytes()),
            HostHeader::Endpoint => None,
        }
    }

    fn fields(&self, out: &mut Fields<'_>) {
        let stripped = self.split_target().0;
        end_to_end(out, self.client, self.head);
        forwarded(out, self.client, self.head, stripped.as_bytes());
    }

    fn upgrade(&self) -> Option<Box<Upgrade>> {
        self.upgrade_at(self.service)
    }

    fn spell(&self, text: &mut [u8]) {
        match self.client.listener.header_case {
            HeaderCase::Lower => {}
            HeaderCase::Title => title_case(text),
            HeaderCase::Preserve => {
                if let Some(names) = self.head.parts.extensions.get::<HeadText>() {
                    names.spell(text);
                }
            }
        }
    }

    fn spare_map(&mut self) -> &mut HeaderMap {
        &mut self.head.parts.headers
    }
}

impl<'s> Outgoing<'_, '_, 's> {
    /// Refuses a `CONNECT` to what nothing may go over to at the service that is called, its own or the fallback:
    /// it is no request without that.
    pub(super) fn check_connect(
        &self,
        fallback: impl FnOnce() -> Option<&'s Arc<Service>>,
    ) -> Result<(), LocalReply> {
        if !self.head.is_connect() {
            return Ok(());
        }
        let is_empty = has_no_endpoint(self.service, self.target.subset.as_ref());
        let other = is_empty.then(fallback).flatten();
        let called = other.map_or(self.service, |other| &**other);
        match self.upgrade_at(called) {
            Some(_) => Ok(()),
            None => Err(LocalReply::NoUpgrade),
        }
    }

    /// What it asks this service to go over to.
    fn upgrade_at(&self, service: &Service) -> Option<Box<Upgrade>> {
        if !self.head.may_upgrade {
            return None;
        }
        let upgrades = self.target.upgrades.as_ref();
        let allowed = upgrades.unwrap_or(&service.policy().upgrades);
        let lines = self.head.parts.headers.get_all(header::UPGRADE).iter();
        let lines = lines.map(HeaderValue::as_bytes);
        let upgrade = Upgrade::of(lines, |protocol| allowed.contains(protocol))?;
        let key = self.head.parts.headers.get(header::SEC_WEBSOCKET_KEY);
        Some(match key {
            Some(key) if self.head.is_connect() => upgrade.by_key(key.as_bytes()),
            _ => upgrade,
        })
    }

    /// What is taken off the path, and what is left of it with the query.
    fn split_target(&self) -> (&str, &str) {
        let target = self.head.parts.uri.path_and_query();
        target
            .map_or("/", PathAndQuery::as_str)
            .split_at(self.strip)
    }
}

/// Whether a service is known to have no endpoint to call, of those that a route wants.
pub(super) fn has_no_endpoint(service: &Service, subset: Option<&Arc<Subset>>) -> bool {
    let policy = CallPolicy::of(service, subset, None);
    service.is_read() && policy.is_none_or(|policy| policy.view.is_empty())
}

/// Writes the names of a head's fields as `Content-Length`.
#[cold]
fn title_case(head: &mut [u8]) {
    for line in head.split_mut(|byte| *byte == b'\n').skip(1) {
        let mut begins = true;
        for byte in line.iter_mut().take_while(|byte| **byte != b':') {
            if begins {
                byte.make_ascii_uppercase();
            }
            begins = *byte == b'-';
        }
    }
}

/// The client's fields, without those of its connection and those that are written anew.
fn end_to_end(out: &mut Fields<'_>, client: &Client, head: &Head<'_>) {
    let headers = &head.parts.headers;
    let nominated = head.connection.then(|| Nominated::of(headers));
    let is_nominated = |name| nominated.as_ref().is_some_and(|named| named.contains(name));
    for (name, value) in headers {
        let keep = match name.as_str() {
            "te" => {
                if has_token(value, "trailers") {
                    out.push("te", b"trailers");
                }
                false
            }
            text if is_the_proxys(text) => false,
            // These may not be taken out by naming them.
            "authorization" | "cookie" => true,
            text => {
                (!is_nominated(text) || says_who_asked(text))
                    && (!text.contains('_') || may_pass(client.listener.underscores, text))
            }
        };
        if keep {
            out.push(name.as_str(), value.as_bytes());
        }
    }
}

/// Whether a field is the proxy's to write, or to leave out.
fn is_the_proxys(name: &str) -> bool {
    match name {
        // Written anew.
        "host" | "content-length" | "transfer-encoding" => true,
        // Of the connection, or written anew.
        "connection" | "keep-alive" | "proxy-connection" | "upgrade" | "expect" => true,
        // Between the client and us.
        "proxy-authenticate" | "proxy-authorization" => true,
        // Said by us; a stranger's word for it is not passed on.
        "x-forwarded-for"
        | "x-forwarded-proto"
        | "x-forwarded-host"
        | "forwarded"
        | "x-forwarded-prefix"
        | client_certificate::NAME => true,
        _ => false,
    }
}

/// Whether a field passes in whose name there is an underscore. Many servers give programs both letters
/// as one (RFC 3875 4.1.18), so that the name of a field of the proxy's is the proxy's in either.
#[cold]
fn may_pass(underscores: Underscores, name: &str) -> bool {
    underscores == Underscores::Allow && !is_the_proxys(&name.replace('_', "-"))
}

/// Whether a proxy in front may have written it: a client that could take it out, by naming it in
/// `Connection`, would pass for that proxy.
fn says_who_asked(name: &str) -> bool {
    name.starts_with("x-forwarded-") || name == "x-real-ip"
}

fn has_token(value: &HeaderValue, token: &str) -> bool {
    value
        .as_bytes()
        .split(|byte| *byte == b',')
        .any(|item| item.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
}

/// Who asked, by what, and through whom.
fn forwarded(out: &mut Fields<'_>, client: &Client, head: &Head<'_>, stripped: &[u8]) {
    if client.peer.trusted {
        return forwarded_further(out, client, head, stripped);
    }
    out.push_block(&client.peer.introduction);
    if let Some(host) = head.host_bytes() {
        out.push("x-forwarded-host", host);
    }
    if !stripped.is_empty() {
        out.push("x-forwarded-prefix", stripped);
    }
}

/// The same for a trusted proxy, whose own words are kept and added to.
fn forwarded_further(out: &mut Fields<'_>, client: &Client, head: &Head<'_>, stripped: &[u8]) {
    let said = |name: &str| {
        let values = head.parts.headers.get_all(name).iter();
        let values: Vec<_> = values.map(HeaderValue::as_bytes).collect();
        (!values.is_empty()).then(|| values.join(&b", "[..]))
    };
    let ip = client.peer.ip.as_bytes();
    match said("x-forwarded-for") {
        Some(theirs) => out.push_pieces("x-forwarded-for", &[&theirs, b", ", ip]),
        None => out.push("x-forwarded-for", ip),
    }
    let proto = said("x-forwarded-proto");
    let own = client.scheme.as_str().as_bytes();
    out.push("x-forwarded-proto", proto.as_deref().unwrap_or(own));
    let theirs = said("x-forwarded-host");
    if let Some(host) = theirs.as_deref().or(head.host_bytes()) {
        out.push("x-forwarded-host", host);
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
            b";proto=",
            client.scheme.as_str().as_bytes(),
        ];
        out.push_pieces("forwarded", ours);
    }
    let prefix = said("x-forwarded-prefix").unwrap_or_default();
    if !prefix.is_empty() || !stripped.is_empty() {
        out.push_pieces("x-forwarded-prefix", &[&prefix, stripped]);
    }
    // Not theirs: a proxy that knows nothing of the field passes a stranger's word for it on.
    out.push_block(&client.peer.certificate);
    let pseudonym = client.worker.shared.pseudonym.as_bytes();
    let version = client.received_by().as_bytes();
    out.push_pieces("via", &[version, b" ", pseudonym]);
}
