//! Why a proxy cannot start.

use std::io;

use crate::{admin, discovery, embedded, listen::BindError, registry::BuildError, tls::TlsError};

/// Why a proxy cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A listener's address cannot be had.
    #[error(transparent)]
    Listen(#[from] BindError),
    /// The access log cannot be written.
    #[error("access_log.to: nothing can be written to {to}")]
    AccessLog {
        /// Where it was to go.
        to: String,
        /// Why it cannot.
        source: io::Error,
    },
    /// A listener's certificates cannot be used.
    #[error("listen.tls: {0}")]
    Tls(#[from] TlsError),
    /// The admin server cannot start.
    #[error(transparent)]
    Admin(#[from] admin::StartError),
    /// The embedded registry cannot start.
    #[error(transparent)]
    Embedded(#[from] embedded::StartError),
    /// A registry's settings cannot be used.
    #[error(transparent)]
    Registry(#[from] BuildError),
    /// A service's settings cannot be used.
    #[error(transparent)]
    Service(#[from] discovery::StartError),
    /// The system gives no thread.
    #[error("cannot start a worker: {0}")]
    Worker(io::Error),
    /// The process before this one does not hand over.
    #[error("the process whose place this one was to take: {0}")]
    Upgrade(String),
}
