//! What a request knows of where it came from: its worker, and the connection it arrived on.

use std::{
    net::{IpAddr, SocketAddr},
    ops::Deref,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{
            AtomicBool, AtomicU64,
            Ordering::{Acquire, Relaxed, Release},
        },
    },
};

use arc_swap::ArcSwap;
use http::HeaderMap;

use super::{Generation, Rest};
use crate::{config, metrics::Counter, upstream::FieldBlock};

/// What all workers share.
pub struct Shared {
    /// The current generation; see [`Shared::publish`].
    pub generation: ArcSwap<Generation>,
    /// How many there were before it, for workers to find out cheaply whether there is another.
    number: AtomicU64,
    /// Whether the process is on its way out: every answer then ends its connection.
    pub draining: AtomicBool,
    /// Whether the proxy may be sent traffic.
    pub ready: AtomicBool,
    /// Whether each request is logged.
    pub access_log: config::Access,
    /// This proxy's name in `Via`: a request that bears it has been here before.
    pub pseudonym: String,
}

impl Shared {
    /// For a proxy that begins with `generation`.
    pub fn new(generation: Generation, access_log: config::Access) -> Self {
        Self {
            generation: ArcSwap::from_pointee(generation),
            number: AtomicU64::new(0),
            draining: AtomicBool::new(false),
            ready: AtomicBool::new(false),
            access_log,
            pseudonym: format!("callboard-{:08x}", fastrand::u32(..)),
        }
    }

    /// Makes this the current generation.
    pub fn publish(&self, generation: Generation) {
        self.generation.store(Arc::new(generation));
        self.number.fetch_add(1, Release);
    }
}

/// One core of the data plane, as a request sees it.
pub struct Worker {
    /// From 0.
    pub index: usize,
    /// What all workers share.
    pub shared: Arc<Shared>,
    /// Milliseconds since the worker began, as of its last tick, and fewer where it was held up:
    /// exact enough for time-outs of seconds, and free.
    pub clock: AtomicU64,
    /// Requests that no route takes.
    pub unrouted: Counter,
    /// Requests that were refused for what they are.
    pub refused: Counter,
    /// Connections that were not let in, since their address had too many.
    pub turned_away: Counter,
    pinned: Mutex<Arc<Pinned>>,
}

/// A generation, counted by references of one worker's own: the shared count would be fought
/// over by all of them.
pub struct Pinned {
    generation: Arc<Generation>,
    number: u64,
}

impl Pinned {
    fn current(shared: &Shared) -> Self {
        // Before the generation, which is of this number then, or a later one.
        let number = shared.number.load(Acquire);
        Self {
            generation: shared.generation.load_full(),
            number,
        }
    }
}

impl Deref for Pinned {
    type Target = Generation;

    fn deref(&self) -> &Generation {
        &self.generation
    }
}

impl Worker {
    /// The worker with this index.
    pub fn new(index: usize, shared: Arc<Shared>) -> Self {
        Self {
            index,
            pinned: Mutex::new(Arc::new(Pinned::current(&shared))),
            shared,
            clock: AtomicU64::new(0),
            unrouted: Counter::default(),
            refused: Counter::default(),
            turned_away: Counter::default(),
        }
    }

    /// The current generation. The lock is this worker's alone, and so never contended.
    pub fn generation(&self) -> Arc<Pinned> {
        let mut pinned = self.pinned.lock().unwrap_or_else(PoisonError::into_inner);
        if pinned.number != self.shared.number.load(Relaxed) {
            *pinned = Arc::new(Pinned::current(&self.shared));
        }
        Arc::clone(&pinned)
    }
}

/// A client's connection.
pub struct Client {
    /// The worker that serves it.
    pub worker: Arc<Worker>,
    /// The listener's settings.
    pub listener: Arc<config::Listener>,
    /// Who is at the other end.
    pub peer: Peer,
    /// What happens on it.
    pub activity: Activity,
}

/// Who is at a connection's other end.
pub struct Peer {
    /// Its address.
    pub address: SocketAddr,
    /// Its IP address, as text.
    pub ip: String,
    /// Whether its forwarded headers are believed.
    pub trusted: bool,
    /// The fields that a stranger's requests bear upstream.
    pub(super) introduction: FieldBlock,
}

impl Peer {
    /// A peer of this listener.
    pub fn new(address: SocketAddr, listener: &config::Listener, shared: &Shared) -> Self {
        let ip = address.ip();
        let text = ip.to_string();
        let via = format!("1.1 {}", shared.pseudonym);
        Self {
            address,
            introduction: FieldBlock::new([
                ("x-forwarded-for", text.as_bytes()),
                ("x-forwarded-proto", b"http"),
                ("via", via.as_bytes()),
            ]),
            ip: text,
            trusted: listener
                .trusted_proxies
                .iter()
                .any(|network| network.contains(&ip)),
        }
    }
}

/// What happens on a connection, noted by its requests and read by its worker's tick, which finds
/// those that are late. Times are of [`Worker::clock`], plus 1; 0 is "not".
#[derive(Default)]
pub struct Activity {
    /// Requests whose answers are not over.
    pub requests: Counter,
    /// Since when a request's body is waited for.
    pub body_awaited: AtomicU64,
    /// When the last answer was over.
    pub answered: AtomicU64,
    /// The client speaks HTTP/1.0, in which an answer may end with its connection.
    pub http10: AtomicBool,
    /// A request's answer is not written to its end.
    pub asked: AtomicBool,
    /// What is still to come of the request.
    pub rest: Rest,
    /// An answer was cut short.
    pub cut_short: AtomicBool,
    /// What came of it before is not written yet.
    pub unwritten: AtomicBool,
}

impl Client {
    /// Who asked: the peer; behind trusted proxies, the last in `X-Forwarded-For` that is none of
    /// them. What stands before that anybody may have written.
    pub(super) fn asker(&self, headers: &HeaderMap) -> IpAddr {
        let mut asker = self.peer.address.ip();
        if !self.peer.trusted {
            return asker;
        }
        let is_trusted = |ip: &IpAddr| {
            let mut networks = self.listener.trusted_proxies.iter();
            networks.any(|network| network.contains(ip))
        };
        let lines = headers.get_all("x-forwarded-for").iter().rev();
        let hops = lines.flat_map(|line| line.as_bytes().rsplit(|byte| *byte == b','));
        for hop in hops {
            let text = std::str::from_utf8(hop.trim_ascii()).ok();
            let Some(ip) = text.and_then(hop_address) else {
                break;
            };
            asker = ip;
            if !is_trusted(&ip) {
                break;
            }
        }
        asker
    }

    /// The worker's time, for [`Activity`].
    pub fn now(&self) -> u64 {
        self.worker.clock.load(Relaxed) + 1
    }
}

/// The address in an element of `X-Forwarded-For`: bare, or as some balancers write it, with the port
/// (`1.2.3.4:4000`) or in brackets (`[2001:db8::1]`, `[2001:db8::1]:4000`).
pub(super) fn hop_address(text: &str) -> Option<IpAddr> {
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
impl Worker {
    /// The worker of a proxy that knows no service and answers with 404.
    pub(crate) fn without_services() -> Arc<Self> {
        use super::Rates;
        use crate::{discovery::Directory, saved};
        let route = "[[route]]\nservice = \"{service}\"\npath = \"/{service}\"\n";
        let mut config = config::Config::parse(route, std::path::Path::new(".")).unwrap();
        config.routes.clear();
        let saved = saved::Contents::default();
        let directory = Directory::start(&config, std::collections::BTreeMap::new(), &saved);
        let generation = Generation::new(&config, directory.unwrap(), &Rates::new(&config));
        let shared = Shared::new(generation, config::Access::Off);
        Arc::new(Self::new(0, Arc::new(shared)))
    }
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
