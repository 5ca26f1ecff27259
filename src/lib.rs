//! Callboard: a load-balancing reverse proxy that finds its backends in a registry.
//!
//! The modules stand on floors; a file imports only from lower ones
//! (`tests/it/structure.rs` holds the list and fails when an import points up):
//!
//! ```text
//! 8  main  cli  app      run | check | register | demo; build → run → drain
//! 7  worker  listen      one core of the data plane; accept, limits
//!    admin  embedded     the admin server; the registry built in
//!    register            signing in at a registry, and staying there
//! 6  proxy               the whole request on one screen
//!    client              the same for a program that calls services itself
//! 5  discovery           which services there are, and what makes them
//! 4  service             policy + snapshot + balancer + endpoints
//! 3  registry  upstream  route
//! 2  config  tls         proxy.toml → a Config in which no field can be wrong; its TLS files
//!    saved               what the registries said last, on disk
//! 1  instance  evidence  backoff  control  disk  error  metrics
//! ```

pub mod admin;
pub mod app;
pub mod backoff;
pub mod cli;
pub mod client;
pub mod config;
pub mod control;
pub mod discovery;
pub mod disk;
pub mod embedded;
pub mod error;
pub mod evidence;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
pub mod instance;
pub mod listen;
pub mod metrics;
pub mod proxy;
pub mod register;
pub mod registry;
pub mod route;
pub mod saved;
pub mod service;
pub mod tls;
pub mod upstream;
pub mod worker;
