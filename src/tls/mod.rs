//! TLS, from the files that a configuration names. Knows nothing of sockets.

mod client;
mod pem;
mod trust;

pub use client::client_config;
pub use pem::TlsError;
