//! TLS, from the files that a configuration names: of clients of ours, and of listeners. Knows nothing of
//! sockets.

mod certificate;
mod client;
mod pem;
mod server;
mod stamp;
mod trust;

pub(crate) use certificate::{AlternativeName, Certificate};
pub(crate) use client::client_config;
pub(crate) use pem::TlsError;
pub(crate) use server::{CertificateStatus, Server};
