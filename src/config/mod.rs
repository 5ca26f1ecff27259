//! What proxy.toml means: a [`Config`] in which no field can be wrong and every default is
//! filled in. Owns the file's syntax and its errors; knows nothing of sockets or tasks.

mod balance;
mod claims;
mod document;
mod field;
mod listen;
mod origin;
mod pattern;
mod reader;
mod registry;
mod report;
mod route;
mod secret;
mod service;
mod syntax;
#[cfg(test)]
mod testing;
mod tls;
mod urlprefix;
mod value;

pub use balance::{Balance, Hash, HashKey, SameSite, Sticky};
pub use origin::{Combine, Origin};
pub use registry::{
    Consul, Digest, Dns, DnsRecord, Embedded, Etcd, Eureka, Expose, File, FileFormat, NamedBy,
    Registry, RegistryKind, Resolvers, TagRoutes, ZooKeeper,
};
pub use report::{Diagnostic, Place, Report};
pub use secret::Secret;
pub use tls::{ClientTls, EndpointTls};
pub use urlprefix::TagRoute;

use std::{collections::BTreeMap, net::SocketAddr, num::NonZeroUsize, sync::Arc, time::Duration};

use ipnet::IpNet;

/// The whole file.
#[derive(Clone, Debug)]
pub struct Config {
    /// Worker threads; by default the cores this process may use (cgroup quota included).
    pub workers: NonZeroUsize,
    /// Logging.
    pub log: Log,
    /// How the process ends.
    pub drain: Drain,
    /// At least one.
    pub listeners: Vec<Listener>,
    /// The admin server.
    pub admin: Admin,
    /// By name; at least one.
    pub registries: BTreeMap<Arc<str>, Registry>,
    /// A key of `registries`: the one that is meant where none is named, if there can be no doubt.
    pub default_registry: Option<Arc<str>>,
    /// In the order of the file.
    pub routes: Vec<Route>,
    /// What a service has where `services` does not name it.
    pub defaults: Service,
    /// Every service that a route names outright or a `[service.NAME]` table describes, with the
    /// defaults filled in.
    pub services: BTreeMap<Arc<str>, Service>,
}

/// `[log]`
#[derive(Clone, Debug)]
pub struct Log {
    /// How lines look.
    pub format: LogFormat,
    /// A `tracing` filter directive, `info` by default.
    pub level: String,
    /// One line per request.
    pub access: bool,
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
#[derive(Clone, Copy, Debug)]
pub struct Drain {
    /// How long the proxy goes on accepting after it has said that it is not ready.
    pub notice: Duration,
    /// How long requests may take to finish after that.
    pub deadline: Duration,
}

/// One address of a `[[listen]]`.
#[derive(Clone, Debug)]
pub struct Listener {
    /// Where it listens; port 0 takes a free one.
    pub address: SocketAddr,
    /// Peers whose forwarded headers are believed.
    pub trusted_proxies: Vec<IpNet>,
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

/// `listen.timeout`
#[derive(Clone, Copy, Debug)]
pub struct ListenTimeouts {
    /// From a request's first byte (or a connection's start) to the end of its head.
    pub header: Duration,
    /// Between two pieces of a request's body.
    pub body: Duration,
    /// While the client takes no byte of an answer.
    pub write: Duration,
    /// Between two requests on a connection.
    pub idle: Duration,
}

/// `listen.limits`
#[derive(Clone, Copy, Debug)]
pub struct ListenLimits {
    /// Connections at once, over all workers.
    pub connections: usize,
    /// Bytes of a request's head.
    pub header_bytes: usize,
    /// Header fields of a request, at most 100.
    pub headers: usize,
    /// Bytes of a request's target.
    pub target_bytes: usize,
}

/// `[admin]`
#[derive(Clone, Debug)]
pub struct Admin {
    /// Where it listens; port 0 takes a free one.
    pub address: SocketAddr,
    /// Needed (as `Authorization: Bearer …`) for everything but /live and /ready where the
    /// address is not a loopback one.
    pub token: Option<Secret>,
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
    /// Where it leads.
    pub goal: Goal,
    /// Whether the prefix is taken off before forwarding (and said in `X-Forwarded-Prefix`).
    pub strip_prefix: bool,
    /// The `Host` that the endpoint sees.
    pub host_header: HostHeader,
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

/// Where a route leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Goal {
    /// A declared service.
    Service(Arc<str>),
    /// The service that the host or the path names, of the catalogs of `defaults.origin`.
    Template,
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
    /// Attempts and their budget.
    pub retry: Retry,
    /// How long an endpoint may take.
    pub timeout: Timeouts,
    /// Idle connections.
    pub pool: Pool,
    /// How the endpoints that speak TLS are called.
    pub tls: EndpointTls,
    /// The shrink guard; `None` where it is off.
    pub guard: Option<Guard>,
    /// How long a removed endpoint's requests may go on.
    pub drain: Duration,
    /// How long the first request for a service waits for its first set.
    pub discovery_timeout: Duration,
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
}

/// `pool`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pool {
    /// How long an idle connection is kept.
    pub idle: Duration,
    /// Idle connections kept per endpoint and worker.
    pub connections: usize,
}

/// `guard`: an update that takes away too much at once is checked before it is believed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Guard {
    /// The part of a set whose loss at once is doubted, above 0 and below 1. The loss of all is
    /// always doubted.
    pub share: f64,
    /// How long endpoints that still answer are kept.
    pub hold: Duration,
}

/// Reads a duration as the file has it (`500ms`, `30s`, `1m30s`); it may be nothing.
///
/// # Errors
/// What is wrong with the text, in a line.
pub fn duration(text: &str) -> Result<Duration, String> {
    value::duration(text, value::Zero::Allowed).map_err(|wrong| match wrong.suggestion {
        Some(suggestion) => format!("{}; {suggestion}", wrong.message),
        None => wrong.message,
    })
}
