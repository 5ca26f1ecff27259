//! Callboard: a load-balancing reverse proxy that finds its backends in a registry.
//!
//! The modules stand on floors, a line each, and a file imports only from lines below its own
//! (`tests/it/structure.rs` reads this picture, and fails when an import points up):
//!
//! ```text
//! main, fuzzing: the binary; every parser of strangers' bytes
//! cli: run | check | register | demo …
//! app: the process: build → run → drain
//! worker: one core of the data plane
//! listen: the side that clients connect to: accept, limits
//! admin, embedded, register: the admin server; the registry built in; signing in at a registry
//! client, proxy: a call of a program's own; the whole request on one screen
//! discovery: which services there are, and what makes them
//! service: policy + snapshot + balancer + endpoints
//! registry, route, upstream: what is known of instances; of paths; how endpoints are called
//! acme: certificates that the proxy orders itself
//! access_log, saved, tls: a line for each request; what the registries said last, on disk; certificates
//! config: proxy.toml → a Config in which no field can be wrong
//! control, instance: servers of the control plane; what a registry says of one provider
//! backoff, disk, door, error, evidence, grpc, io, metrics, proxy_protocol, scan, term, unix: the ground
//! ```

pub(crate) mod access_log;
pub(crate) mod acme;
pub mod admin;
pub mod app;
pub(crate) mod backoff;
#[cfg(test)]
pub(crate) mod cases;
pub mod cli;
pub mod client;
pub mod config;
pub(crate) mod control;
pub(crate) mod discovery;
pub(crate) mod disk;
pub(crate) mod door;
pub mod embedded;
pub(crate) mod error;
pub(crate) mod evidence;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
pub(crate) mod grpc;
pub mod instance;
pub(crate) mod io;
pub(crate) mod listen;
pub(crate) mod metrics;
pub(crate) mod proxy;
pub(crate) mod proxy_protocol;
pub mod register;
pub mod registry;
pub mod route;
pub(crate) mod saved;
pub(crate) mod scan;
pub mod service;
pub(crate) mod term;
pub(crate) mod tls;
pub(crate) mod unix;
pub(crate) mod upstream;
pub(crate) mod worker;

/// Has the example of the page on the library compiled.
#[cfg(doctest)]
#[doc = include_str!("../docs/library.md")]
pub struct LibraryPage;
