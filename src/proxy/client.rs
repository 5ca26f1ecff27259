//! What a request knows of where it came from: the connection that it arrived on, and what is still to
//! come of it there.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
};

use http::{HeaderMap, Version};
use parking_lot::Mutex;

use super::{Rest, Tunnel, Worker, client_certificate};
use crate::{config, metrics::Counter, proxy_protocol::Opener, tls, upstream::FieldBlock};

/// A client's connection.
pub(crate) struct Client {
    /// The worker that serves it.
    pub worker: Arc<Worker>,
    /// The listener's settings.
    pub listener: Arc<config::Listener>,
    /// Who is at the other end, or at that of a connection that is passed on to us.
    pub peer: Peer,
    /// What its requests are made by.
    pub scheme: Scheme,
    /// What is spoken on it: HTTP/2, or HTTP/1.1 where a request may be of 1.0 as well.
    pub version: Version,
    /// What its handshake has come to, where the listener speaks TLS.
    pub tls: Option<Arc<tls::Session>>,
    /// What happens on it.
    pub activity: Activity,
    /// Whether its listener is on its way out.
    leaving: Option<Arc<AtomicBool>>,
}

/// How a client's connection is protected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scheme {
    /// Not at all.
    Http,
    /// By TLS.
    Https,
}

impl Scheme {
    /// As it stands in a URL.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}

/// How a listener knows the client of a connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ClientAddress {
    /// The client's, or that of a proxy in front that does not name its client.
    pub address: SocketAddr,
    /// Whether its forwarded headers are believed.
    pub trusted: bool,
    /// Whether the address is the client's: one at a unix socket has none.
    pub named: bool,
}

/// Who is at a connection's other end.
pub(crate) struct Peer {
    /// Its address.
    pub address: SocketAddr,
    /// Its IP address, as text.
    pub ip: String,
    /// Whether its forwarded headers are believed.
    pub trusted: bool,
    /// Whether the address is its own, and no stand-in.
    named: bool,
    /// The fields that a stranger's requests bear upstream.
    pub(super) introduction: FieldBlock,
    /// Of them the one that says what certificate the peer has shown, if it has.
    pub(super) certificate: FieldBlock,
}

/// What the requests of a connection have in common, noted by them and read by its worker's tick, which
/// finds those that are late. Times are of [`Worker::clock`], plus 1; 0 is "not".
#[derive(Default)]
pub(crate) struct Activity {
    /// Requests whose answers are not over.
    pub requests: Counter,
    /// Pieces of answers that were taken, in HTTP/2.
    pub pieces: Counter,
    /// When the last answer was over.
    pub answered: AtomicU64,
}

/// One request of a connection, as far as the two sides have come with it. Where requests come one after
/// the other, the next one goes on with it.
pub(crate) struct RequestStream {
    /// The client that sends it.
    pub client: Arc<Client>,
    /// Since when the request's body is waited for, by the worker's time.
    pub body_awaited: AtomicU64,
    /// The request is of HTTP/1.0, in which an answer may end with its connection.
    pub http10: AtomicBool,
    /// The answer is not written to its end.
    pub asked: AtomicBool,
    /// What is still to come of the request.
    pub rest: Rest,
    /// The request asks for another protocol, which its answer may go over to.
    pub may_go_over: AtomicBool,
    /// The answer was cut short.
    pub cut_short: AtomicBool,
    /// What came of it before is not written yet.
    pub unwritten: AtomicBool,
    /// The answer says that the connection goes over to another protocol.
    pub has_switched: AtomicBool,
    /// Where the answer says that the connection goes over to another protocol: what it goes over to.
    tunnel: Mutex<Option<Box<Tunnel>>>,
    /// The answer's head was handed over, in HTTP/2: there both directions go on side by side, and the rest
    /// of the request may wait for what is answered.
    pub is_answered: AtomicBool,
    /// Since when a piece of the answer is not taken, in HTTP/2: there a stream may stand still while its
    /// connection goes on.
    pub untaken: AtomicU64,
}

impl RequestStream {
    /// For a client that has not asked yet.
    pub(crate) fn new(client: Arc<Client>) -> Self {
        Self {
            client,
            body_awaited: AtomicU64::new(0),
            http10: AtomicBool::new(false),
            asked: AtomicBool::new(false),
            rest: Rest::default(),
            may_go_over: AtomicBool::new(false),
            cut_short: AtomicBool::new(false),
            unwritten: AtomicBool::new(false),
            has_switched: AtomicBool::new(false),
            tunnel: Mutex::default(),
            is_answered: AtomicBool::new(false),
            untaken: AtomicU64::new(0),
        }
    }

    /// The connection goes over to this when the answer is written.
    pub(super) fn goes_over(&self, tunnel: Tunnel) {
        *self.tunnel.lock() = Some(Box::new(tunnel));
        self.has_switched.store(true, Relaxed);
    }

    /// Takes what the connection goes over to when the answer is written.
    pub(crate) fn take_tunnel(&self) -> Option<Box<Tunnel>> {
        self.tunnel.lock().take()
    }
}

impl Client {
    /// A client of this listener, whose connection a worker serves, and who speaks this version. `address` is its own also where a proxy in front has passed its connection
    /// on.
    pub(crate) fn new(
        worker: &Arc<Worker>,
        listener: &Arc<config::Listener>,
        address: ClientAddress,
        scheme: Scheme,
        version: Version,
        tls: Option<Arc<tls::Session>>,
    ) -> Self {
        let ClientAddress {
            address,
            trusted,
            named,
        } = address;
        let text = address.ip().to_string();
        let via = format!("{} {}", received_by(version), worker.shared.pseudonym);
        let certificate = tls
            .as_ref()
            .and_then(|session| session.certificate.as_ref());
        let certificate = certificate.map(client_certificate::element);
        let certificate = certificate.as_deref().map(str::as_bytes);
        let certificate = certificate.map(|element| (client_certificate::NAME, element));
        let fields = [
            ("x-forwarded-for", text.as_bytes()),
            ("x-forwarded-proto", scheme.as_str().as_bytes()),
            ("via", via.as_bytes()),
        ];
        Self {
            worker: Arc::clone(worker),
            listener: Arc::clone(listener),
            peer: Peer {
                address,
                introduction: FieldBlock::new(fields.into_iter().chain(certificate)),
                certificate: FieldBlock::new(certificate),
                ip: text,
                trusted,
                named,
            },
            scheme,
            version,
            tls,
            activity: Activity::default(),
            leaving: None,
        }
    }

    /// The same on a listener that is on its way out as soon as this is set.
    pub(crate) fn leaves_with(self, leaving: &Arc<AtomicBool>) -> Self {
        let leaving = Some(Arc::clone(leaving));
        Self { leaving, ..self }
    }

    /// Whether every answer ends its connection: the process, or its listener, is on its way out.
    pub(super) fn is_to_leave(&self) -> bool {
        self.worker.shared.draining.load(Relaxed) || self.is_listener_leaving()
    }

    /// Whether its listener is on its way out.
    pub(super) fn is_listener_leaving(&self) -> bool {
        let leaving = self.leaving.as_ref();
        leaving.is_some_and(|leaving| leaving.load(Relaxed))
    }

    /// Who asked: the peer; behind trusted proxies, the client that they forward for.
    pub(super) fn asker(&self, headers: &HeaderMap) -> IpAddr {
        let forwarded = self.forwarded_for(headers);
        forwarded.unwrap_or_else(|| self.peer.address.ip())
    }

    /// The same as an endpoint is told it. What stands for a client that has no address would be taken for
    /// one of this machine.
    pub(super) fn opener(&self, headers: &HeaderMap) -> Opener {
        match self.forwarded_for(headers) {
            Some(ip) => Opener::Client((ip, 0).into()),
            None if self.peer.named => Opener::Client((self.peer.address.ip(), 0).into()),
            None => Opener::Unnamed,
        }
    }

    /// The last in `X-Forwarded-For` that is no trusted proxy, where one of those says so. What stands before
    /// that anybody may have written.
    fn forwarded_for(&self, headers: &HeaderMap) -> Option<IpAddr> {
        let mut forwarded = None;
        if !self.peer.trusted {
            return None;
        }
        let lines = headers.get_all("x-forwarded-for").iter().rev();
        let hops = lines.flat_map(|line| line.as_bytes().rsplit(|byte| *byte == b','));
        for hop in hops {
            let text = std::str::from_utf8(hop.trim_ascii()).ok();
            let Some(ip) = text.and_then(hop_address) else {
                break;
            };
            forwarded = Some(ip);
            if !self.listener.trusts(ip) {
                break;
            }
        }
        forwarded
    }

    /// What its requests were received by, as `Via` has it.
    pub(super) fn received_by(&self) -> &'static str {
        received_by(self.version)
    }

    /// The worker's time, for [`Activity`].
    pub(crate) fn now(&self) -> u64 {
        self.worker.now()
    }
}

fn received_by(version: Version) -> &'static str {
    match version {
        Version::HTTP_2 => "2.0",
        _ => "1.1",
    }
}

/// The address in an element of `X-Forwarded-For`: bare, or as some balancers write it, with the port
/// (`1.2.3.4:4000`) or in brackets (`[2001:db8::1]`, `[2001:db8::1]:4000`). An address of IPv4 that is
/// written as one of IPv6 is one of IPv4: it is compared with networks.
pub(super) fn hop_address(text: &str) -> Option<IpAddr> {
    written_address(text).map(|ip| ip.to_canonical())
}

fn written_address(text: &str) -> Option<IpAddr> {
    if let Ok(ip) = text.parse() {
        return Some(ip);
    }
    if let Ok(socket) = text.parse::<SocketAddr>() {
        return Some(socket.ip());
    }
    let bare = text.strip_prefix('[')?.strip_suffix(']')?;
    bare.parse().ok().map(IpAddr::V6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hop_is_an_address_with_or_without_port_and_brackets() {
        for (text, expected) in [
            ("1.2.3.4", Some("1.2.3.4")),
            ("1.2.3.4:4000", Some("1.2.3.4")),
            ("2001:db8::1", Some("2001:db8::1")),
            ("[2001:db8::1]", Some("2001:db8::1")),
            ("[2001:db8::1]:4000", Some("2001:db8::1")),
            ("::ffff:1.2.3.4", Some("1.2.3.4")),
            ("[::ffff:1.2.3.4]", Some("1.2.3.4")),
            ("[::ffff:1.2.3.4]:4000", Some("1.2.3.4")),
            // All of it is the address.
            ("2001:db8::1:4000", Some("2001:db8::1:4000")),
            ("[1.2.3.4]", None),
            ("1.2.3.4:", None),
            ("1.2.3.4:65536", None),
            ("1.2.3.4:http", None),
            ("[2001:db8::1", None),
            ("unknown", None),
            ("", None),
        ] {
            let expected = expected.map(|ip| ip.parse().unwrap());
            assert_eq!(hop_address(text), expected, "{text}");
        }
    }
}
