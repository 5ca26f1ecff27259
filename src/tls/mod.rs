//! TLS, from the files that a configuration names: of clients of ours, and of listeners. Knows nothing of
//! sockets.

mod certificate;
mod client;
mod pem;
mod server;
mod stamp;
mod trust;

pub use certificate::{AlternativeName, Certificate};
pub use client::client_config;
pub use pem::TlsError;
pub use server::{CertificateStatus, Handshakes, Reloads, Server};
