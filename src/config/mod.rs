//! What proxy.toml means: a [`Config`] in which no field can be wrong and every default is
//! filled in. Owns the file's syntax and its errors; knows nothing of sockets or tasks.

mod access_log;
mod addresses;
mod changes;
mod document;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod listen;
mod load;
mod registry;
mod route;
mod service;
mod snapshot;
#[cfg(test)]
mod testing;
mod tls;

pub use crate::proxy_protocol::Version as ProxyVersion;
pub use access_log::{AccessLog, Always, LineFormat, LogField, LogTarget, MILLION, Part};
pub use changes::Changes;
pub use document::report::{Diagnostic, Report, Span};
pub use document::secret::Secret;
pub use listen::acme::{Acme, AcmeAccount, Domains};
pub use listen::address::ListenAddress;
pub(crate) use listen::predecessors::predecessors;
pub use listen::tls::{CertificateFiles, ClientCertificates, ListenTls, TlsVersion, UnknownName};
pub(crate) use load::Include;
pub use registry::{
    CalledAt, Consul, Digest, Dns, DnsRecord, Embedded, Etcd, Eureka, Expose, File, FileFormat,
    NamedBy, Registry, RegistryKind, Resolvers, TagRoutes, Warnings, ZooKeeper,
};
pub use route::rate::Rate;
pub use route::split::HEAVIEST_SHARE;
pub use route::urlprefix::TagRoute;
pub use service::balance::{Balance, Hash, HashKey, SameSite, Sticky};
pub use service::health::{Health, HealthAsk, HttpHealth, MOST_OF_A_BODY};
pub use service::methods::Methods;
pub use service::origin::{Combine, Origin};
pub use service::statuses::Statuses;
pub use service::upgrades::Upgrades;
pub use snapshot::SavedSets;
pub use tls::{ClientTls, EndpointTls, Pin};

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    num::NonZeroUsize,
    sync::Arc,
    time::Duration,
};

use http::{HeaderName, Method};
use ipnet::IpNet;

use crate::instance::{HttpVersion, Instance};

/// The whole file.
#[derive(Clone, Debug)]
pub struct Config {
    /// The files that it includes, as errors name them, in their order.
    pub included: Vec<Arc<str>>,
    /// Worker threads; by default the cores this process may use (cgroup quota included).
    pub workers: NonZeroUsize,
    /// Whether the file is read again when it has changed.
    pub watch_config: bool,
    /// Logging.
    pub log: Log,
    /// A line for each request, where that is wanted.
    pub access_log: Option<AccessLog>,
    /// How the process ends.
    pub drain: Drain,
    /// At least one.
    pub listeners: Vec<Listener>,
    /// The admin server.
    pub admin: Admin,
    /// Where the last good sets are kept on disk; `None` where they are not.
    pub snapshot: Option<SavedSets>,
    /// By name; none where the file names none and all instances stand in it.
    pub registries: BTreeMap<Arc<str>, Registry>,
    /// A key of `registries`: the one that is meant where none is named, if there can be no doubt.
    pub default_registry: Option<Arc<str>>,
    /// In the order of the file.
    pub routes: Vec<Route>,
    /// What a service has where `services` does not name it.
    pub defaults: Service,
    /// Every service that a route names outright, a `[service.NAME]` table describes or that is the
    /// fallback of another, with the defaults filled in.
    pub services: BTreeMap<Arc<str>, Arc<Service>>,
}

impl Config {
    /// The services that are called whatever a registry lists: those that routes name outright, and
    /// all fallbacks. A name may come several times.
    pub fn declared(&self) -> impl Iterator<Item = &Arc<str>> {
        let routes = self.routes.iter();
        let routes = routes.flat_map(|route| route.goal.services().chain(&route.fallback));
        let services = self.services.values();
        routes.chain(services.filter_map(|service| service.fallback.as_ref()))
    }

    /// The names that a listener's certificates are ordered for.
    pub fn names_to_order(&self, acme: &Acme) -> BTreeSet<String> {
        acme.names(self.routes.iter().filter_map(|route| match &route.host {
            HostPattern::Exact(host) => Some(&**host),
            _ => None,
        }))
    }
}

/// `[log]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// How lines look.
    pub format: LogFormat,
    /// A `tracing` filter directive, `info` by default.
    pub level: String,
}

/// `log.format`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Text on a terminal, JSON elsewhere.
    Auto,
    /// Readable lines.
    Text,
    /// One JSON object per line.
    Json,
}

/// `[drain]`: what SIGTERM does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drain {
    /// How long the proxy goes on accepting after it has said that it is not ready.
    pub notice: Duration,
    /// How long requests may take to finish after that.
    pub deadline: Duration,
}

/// One address of a `[[listen]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// Where it listens.
    pub address: ListenAddress,
    /// The permissions of the file of a unix socket.
    pub mode: u32,
    /// Peers whose forwarded headers are believed.
    pub trusted_proxies: Vec<IpNet>,
    /// Whether a connection begins with a header of the PROXY protocol. Then at least one peer is
    /// trusted, and no other may connect.
    pub proxy_protocol: bool,
    /// How long a client may take.
    pub timeout: ListenTimeouts,
    /// How much a client may ask for.
    pub limits: ListenLimits,
    /// Whether a client that closes its sending side still gets its answer.
    pub half_close: bool,
    /// A path that the listener itself answers with 200 while the proxy is ready, 503 otherwise.
    pub health_path: Option<String>,
    /// What becomes of header names with an underscore.
    pub underscores: Underscores,
    /// What becomes of paths that can be read in several ways.
    pub paths: Paths,
    /// How the names of header fields are written, to clients and to endpoints.
    pub header_case: HeaderCase,
    /// How often a request may pass through this proxy; at least once.
    pub max_passes: usize,
    /// Whether calls of gRPC-Web are made calls of gRPC.
    pub grpc_web: bool,
    /// What its clients may speak.
    pub protocol: ListenProtocol,
    /// How TLS is spoken; `None` where it is not.
    pub tls: Option<Arc<ListenTls>>,
    /// The port at which clients are to come again by TLS; `None` where they are served as they come.
    pub redirect_to_https: Option<u16>,
}

impl Listener {
    /// Whether what comes from this address is from a proxy that is believed.
    pub fn trusts(&self, address: IpAddr) -> bool {
        let mut networks = self.trusted_proxies.iter();
        networks.any(|network| network.contains(&address))
    }
}

/// `listen.protocol`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListenProtocol {
    /// HTTP/2 where the client speaks it, else HTTP/1.1 (the default).
    Auto,
    /// HTTP/1.1 alone.
    Http1,
}

/// `listen.paths`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Paths {
    /// They are forwarded as they came where every reading leads to the same route (the default).
    Forward,
    /// They are refused.
    Strict,
}

/// `listen.underscore_headers`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Underscores {
    /// The header is left out of what goes upstream (the default).
    Drop,
    /// The request is answered 400.
    Reject,
    /// The header is forwarded.
    Allow,
}

/// `listen.header_case`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderCase {
    /// `content-length` (the default).
    Lower,
    /// `Content-Length`, for programs that look for it letter by letter.
    Title,
    /// As it came.
    Preserve,
}

/// `listen.timeout`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListenTimeouts {
    /// From a request's first byte (or a connection's start) to the end of its head.
    pub header: Duration,
    /// Between two pieces of a request's body.
    pub body: Duration,
    /// While the client takes no byte of an answer.
    pub write: Duration,
    /// Between two requests on a connection.
    pub idle: Duration,
    /// From a connection's start to the end of its TLS handshake.
    pub handshake: Duration,
    /// For how long a client of HTTP/2 may be silent before it is asked whether it is there.
    pub ping: Duration,
}

/// `listen.limits`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListenLimits {
    /// Connections at once, over all workers.
    pub connections: usize,
    /// The same of one address that is not in `trusted_proxies`.
    pub connections_per_address: usize,
    /// Bytes of a request's head.
    pub header_bytes: usize,
    /// Header fields of a request, at most 100.
    pub headers: usize,
    /// Bytes of a request's target.
    pub target_bytes: usize,
    /// TLS handshakes under way at once, over all workers and all addresses of the table.
    pub handshakes: usize,
    /// Requests at once on a connection of HTTP/2.
    pub streams: usize,
    /// Requests on a connection of HTTP/2, after which its client is to open another.
    pub requests_per_connection: usize,
}

/// `[admin]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admin {
    /// Where it listens; port 0 takes a free one.
    pub address: SocketAddr,
    /// Needed (as `Authorization: Bearer …`) for everything but /live and /ready where the
    /// address is not a loopback one.
    pub token: Option<Secret>,
    /// Names that requests may have as `Host` beside those of loopback and IP addresses.
    pub hosts: Vec<String>,
    /// After this long the proxy is ready even if a declared service was never read.
    pub ready_timeout: Duration,
}

/// One `[[route]]`.
#[derive(Clone, Debug)]
pub struct Route {
    /// Which hosts it takes.
    pub host: HostPattern,
    /// The path's prefix.
    pub path: PathPattern,
    /// What else it asks of a request; of most routes that is nothing.
    pub conditions: Option<Box<Conditions>>,
    /// Where it leads.
    pub goal: Goal,
    /// Which of the service's endpoints it calls; `None` is all, as the service has them.
    pub subset: Option<Arc<Subset>>,
    /// What it says of retries and time-outs; most routes say nothing.
    pub overrides: Option<Arc<Overrides>>,
    /// What a client's connection may go over to; `None` is as its service has it.
    pub upgrades: Option<Upgrades>,
    /// The service that is called where the route's own has no endpoint. It takes precedence over
    /// that service's `fallback`.
    pub fallback: Option<Arc<str>>,
    /// How many requests a client may make; `None` for any number.
    pub rate: Option<Rate>,
    /// Whether the prefix is taken off before forwarding (and said in `X-Forwarded-Prefix`).
    pub strip_prefix: bool,
    /// The `Host` that the endpoint sees.
    pub host_header: HostHeader,
    /// Whether its requests are lines of the access log, where there is one.
    pub is_logged: bool,
    /// The file in which it stands, where that is one that is included.
    pub file: Option<Arc<str>>,
    /// Its line in the file, from 1.
    pub line: usize,
}

/// `route.host`, in lower case, without a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostPattern {
    /// Left out.
    Any,
    /// `shop.example.com`
    Exact(String),
    /// `*.example.com`, held as `example.com`
    Wildcard(String),
    /// `{service}.internal`, held as `internal`: one label, which is the service's name.
    Template(String),
}

/// `route.path`, held as its segments: `/cart/items` is `["cart", "items"]`, `/` is `[]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathPattern {
    /// At most one is a template.
    pub segments: Vec<Segment>,
}

/// One segment of a path pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Segment {
    /// As it stands in a request's path.
    Literal(String),
    /// `{service}`
    Service,
}

/// What a route asks of a request beside its host and path: all of it. Two that are equal take the
/// same requests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Conditions {
    /// `route.method`: one of these, in alphabetical order; any where there is none.
    pub methods: Vec<Method>,
    /// `route.header`, in the order of the names.
    pub headers: Vec<(HeaderName, Expected)>,
    /// `route.query`, decoded, in the order of the keys.
    pub queries: Vec<(String, Expected)>,
    /// `route.cookie`, in the order of the names.
    pub cookies: Vec<(String, Expected)>,
}

impl Conditions {
    /// What a route without conditions has.
    pub const NONE: &Self = &Self {
        methods: Vec::new(),
        headers: Vec::new(),
        queries: Vec::new(),
        cookies: Vec::new(),
    };

    /// Whether it asks for nothing.
    pub fn is_empty(&self) -> bool {
        self == Self::NONE
    }
}

impl Route {
    /// Which requests it takes, as a text that no other route has.
    pub fn matching(&self) -> String {
        let (host, path) = (&self.host, &self.path);
        match self.conditions() {
            none if none.is_empty() => format!("{host}{path}"),
            conditions => format!("{host}{path} {conditions:?}"),
        }
    }

    /// Where it stands, in words.
    pub fn place_in_file(&self) -> String {
        match &self.file {
            Some(file) => format!("line {} of {file}", self.line),
            None => format!("line {}", self.line),
        }
    }

    /// What it asks of a request beside its host and path.
    pub fn conditions(&self) -> &Conditions {
        self.conditions.as_deref().unwrap_or(Conditions::NONE)
    }

    /// What it says of retries and time-outs.
    pub fn overrides(&self) -> &Overrides {
        self.overrides.as_deref().unwrap_or(Overrides::NONE)
    }
}

/// What a header, a key of the query or a cookie must be. Of several with the same name one that
/// fits is enough.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expected {
    /// There, whatever its value.
    Present,
    /// Not there.
    Absent,
    /// This value.
    Exactly(String),
    /// A value that begins like this.
    Prefix(String),
}

/// Where a route leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Goal {
    /// A declared service.
    Service(Arc<str>),
    /// One of several declared services, each for its share of the requests. At least one has
    /// more than nothing.
    Split(Vec<Share>),
    /// The service that the host or the path names, of the catalogs of `defaults.origin`.
    Template,
}

/// Those of a service's endpoints that a route calls, and how one of them is picked. Routes that
/// want the same share one.
#[derive(Clone, Debug, PartialEq)]
pub struct Subset {
    /// `route.tags`: an instance must have all of them.
    pub tags: Vec<String>,
    /// `route.meta`: an instance must have all of it.
    pub meta: BTreeMap<String, String>,
    /// `route.balance`; `None` is as the service has it.
    pub balance: Option<Balance>,
}

/// What a route says of `retry` and `timeout`; `None` is as its service has it. The budget of
/// retries is the service's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Overrides {
    /// `retry.attempts`
    pub attempts: Option<u32>,
    /// `retry.on`
    pub on: Option<Statuses>,
    /// `retry.try_timeout`; `Some(None)` is none.
    pub try_timeout: Option<Option<Duration>>,
    /// `retry.methods`
    pub methods: Option<Methods>,
    /// `timeout.connect`
    pub connect: Option<Duration>,
    /// `timeout.response`
    pub response: Option<Duration>,
    /// `timeout.idle`
    pub idle: Option<Duration>,
    /// `timeout.total`; `Some(None)` is none.
    pub total: Option<Option<Duration>>,
    /// `timeout.tunnel`; `Some(None)` is none.
    pub tunnel: Option<Option<Duration>>,
}

/// One of `route.split`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Share {
    /// A declared service.
    pub service: Arc<str>,
    /// Its part of the sum of all weights; 0 is off.
    pub weight: u32,
}

impl Goal {
    /// The services that it names.
    pub fn services(&self) -> impl Iterator<Item = &Arc<str>> {
        let (service, shares) = match self {
            Self::Service(name) => (Some(name), &[][..]),
            Self::Split(shares) => (None, &shares[..]),
            Self::Template => (None, &[][..]),
        };
        let shares = shares.iter().map(|share| &share.service);
        service.into_iter().chain(shares)
    }
}

/// `route.host_header`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostHeader {
    /// As the client sent it (the default).
    Client,
    /// The endpoint's address.
    Endpoint,
    /// The service's name.
    Name,
}

/// What a service does with its requests, with the defaults filled in.
#[derive(Clone, Debug, PartialEq)]
pub struct Service {
    /// Where its instances are learnt.
    pub origin: Origin,
    /// The name in the registry; `None` where it is the service's own.
    pub name: Option<String>,
    /// Tags that an instance must have.
    pub tags: Vec<String>,
    /// Metadata that an instance must have.
    pub meta: BTreeMap<String, String>,
    /// How an endpoint is picked.
    pub balance: Balance,
    /// The proxy's own zone, where its endpoints come first (`prefer = "zone"`).
    pub zone: Option<Arc<str>>,
    /// Attempts and their budget.
    pub retry: Retry,
    /// How long an endpoint may take.
    pub timeout: Timeouts,
    /// In which version of HTTP its endpoints are called; `None` where each says so itself.
    pub protocol: Option<Protocol>,
    /// What a client's connection may go over to.
    pub upgrades: Upgrades,
    /// Connections to its endpoints.
    pub pool: Arc<Pool>,
    /// How the endpoints that speak TLS are called.
    pub tls: EndpointTls,
    /// How many requests are worked on at once.
    pub limits: Limits,
    /// How large the head of an answer may be.
    pub answer_limits: AnswerLimits,
    /// How the proxy itself checks its endpoints; `None` where it does not.
    pub health: Option<Health>,
    /// When an endpoint whose attempts fail is ejected; `None` where none ever is.
    pub eject: Option<Eject>,
    /// Where so few of the endpoints, of a hundred that the registry calls healthy, pass our own
    /// checks, these are not believed.
    pub panic_percent: u32,
    /// For how long an endpoint that is new, or back, has less than its share.
    pub slow_start: Option<Duration>,
    /// The shrink guard; `None` where it is off.
    pub guard: Option<Guard>,
    /// How long a removed endpoint's requests may go on.
    pub drain: Duration,
    /// How long the first request for a service waits for its first set.
    pub discovery_timeout: Duration,
    /// The declared service that is called where this one has no endpoint. The fallback has no
    /// fallback of its own.
    pub fallback: Option<Arc<str>>,
}

impl Service {
    /// In which version of HTTP its endpoints are called; `None` where each says so itself. A connection
    /// that is one client's is of HTTP/1.1.
    pub fn version_of_http(&self) -> Option<Protocol> {
        match self.pool.send_proxy {
            Some(_) => Some(Protocol::Http1),
            None => self.protocol,
        }
    }

    /// Whether an instance is called in another version of HTTP than it says, for the sake of `send_proxy`
    /// alone.
    pub(crate) fn overrules(&self, instance: &Instance) -> bool {
        self.pool.send_proxy.is_some()
            && self.protocol != Some(Protocol::Http1)
            && instance.http_version() == Some(HttpVersion::Two)
    }
}

/// `protocol`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// As the instance says; else, over TLS, what the endpoint chooses in the handshake.
    Auto,
    /// HTTP/1.1
    Http1,
    /// HTTP/2: in the clear with prior knowledge.
    Http2,
}

/// `retry`
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Retry {
    /// In all, the first included; at least 1. Who takes no connection is not counted.
    pub attempts: u32,
    /// Retries allowed per request, on average: 0.2 is one in five.
    pub budget_ratio: f64,
    /// Retries a second allowed whatever the load.
    pub budget_per_second: u32,
    /// Answers after which a request that may be repeated is made to another endpoint.
    pub on: Statuses,
    /// How long an attempt that may be repeated may take to the head of its answer.
    pub try_timeout: Option<Duration>,
    /// Which requests may be repeated though they may have been processed.
    pub methods: Methods,
}

/// `limits`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The most requests that the service works on at once.
    pub concurrent: Option<u32>,
    /// The most that one endpoint works on at once.
    pub per_endpoint: Option<u32>,
    /// The most that wait for room.
    pub pending: u32,
    /// How long each of them waits at most.
    pub wait: Duration,
}

/// `limits.answer_…`: how large the head of an endpoint's answer may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AnswerLimits {
    /// The most fields.
    pub headers: usize,
    /// The most bytes.
    pub header_bytes: usize,
}

/// `eject`: an endpoint is passed over after failures in a row.
#[derive(Clone, Debug, PartialEq)]
pub struct Eject {
    /// How many, at least 1.
    pub failures: u32,
    /// For how long the first time; as many times as long with each ejection in close succession.
    pub time: Duration,
    /// The longest ejection.
    pub max_time: Duration,
    /// Of a hundred endpoints, how many may be ejected at once; never the last one.
    pub max_percent: u32,
    /// Answers that are failures too.
    pub statuses: Statuses,
    /// Whether one is ejected that fails or answers 5xx far more often than its peers.
    pub answers: bool,
    /// Whether one is doubted that is silent while its peers answer.
    pub silence: bool,
}

/// `timeout`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// To connect.
    pub connect: Duration,
    /// From the request's start upstream to the head of its answer.
    pub response: Duration,
    /// Between two pieces of an answer's body.
    pub idle: Duration,
    /// Over all attempts, to the answer's end.
    pub total: Option<Duration>,
    /// While a tunnel moves no byte, either way.
    pub tunnel: Option<Duration>,
}

/// `pool`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pool {
    /// How long an idle connection is kept.
    pub idle: Duration,
    /// Idle connections kept per endpoint and worker.
    pub connections: usize,
    /// Streams at once on one connection of HTTP/2, where the endpoint does not want fewer; at least 1.
    pub streams: usize,
    /// After how much silence a connection of HTTP/2 on which requests wait is asked for a sign of life;
    /// `None` for never.
    pub ping: Option<Duration>,
    /// How old a connection to an endpoint that is called by a name may be used again: the name may
    /// lead elsewhere by then.
    pub max_age: Option<Duration>,
    /// `send_proxy`: in which version an endpoint is told whose connection it has; `None` where it is
    /// not told. A connection then carries one client's requests.
    pub send_proxy: Option<ProxyVersion>,
}

/// `guard`: an update that takes away too much at once is checked before it is believed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Guard {
    /// The part of a set whose loss at once is doubted, above 0 and below 1. The loss of all is
    /// always doubted.
    pub share: f64,
    /// How long endpoints that still answer are kept, where their registry has lost data, or
    /// nothing shows whether it has.
    pub hold: Duration,
    /// For how long a registry that took away many at once, and shows no loss of data, must go on
    /// saying so; not longer than `hold`.
    pub settle: Duration,
}

/// Reads an address to listen on as the file has it; port 0 takes a free one.
///
/// # Errors
/// What is wrong with the text, in a line.
pub fn listen_address(text: &str) -> Result<SocketAddr, String> {
    document::value::listen_address(text).map_err(document::report::Wrong::into_line)
}

/// Reads a filter of the log as the file has it (`info`, `info,callboard::registry=debug`).
///
/// # Errors
/// What is wrong with the text, in a line.
pub fn log_level(text: &str) -> Result<String, String> {
    document::value::log_level(text).map_err(document::report::Wrong::into_line)
}

/// Reads a duration as the file has it (`500ms`, `30s`, `1m30s`); it may be nothing.
///
/// # Errors
/// What is wrong with the text, in a line.
pub fn duration(text: &str) -> Result<Duration, String> {
    document::value::duration(text, document::value::Zero::Allowed)
        .map_err(document::report::Wrong::into_line)
}
