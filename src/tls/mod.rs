//! TLS, from the files that a configuration names: of clients of ours, and of listeners. Knows nothing of
//! sockets.

mod by_name;
mod certificate;
mod client;
mod client_authorities;
mod followed;
mod identity;
mod ordered;
mod pem;
mod server;
mod session;
mod stamp;
mod stand_in;
#[cfg(test)]
mod testing;
mod tickets;
mod trust;

pub(crate) use certificate::{AlternativeName, Certificate};
pub(crate) use client::{Client, client_config};
pub(crate) use ordered::Ordered;
pub(crate) use pem::TlsError;
pub(crate) use server::{CertificateStatus, HTTP2, Server, TicketStatus};
pub(crate) use session::Session;
pub(crate) use stamp::{Stamp, stamp};
#[cfg(test)]
pub(crate) use testing::Folder;
