//! What a header says, of either version, or why bytes are none.

use std::net::SocketAddr;

/// A header takes at most so many bytes; one of version 1 takes fewer.
pub(crate) const LONGEST: usize = 4096;

/// What a header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    /// Who has opened the connection that is passed on; `None` where that is the proxy itself, or of
    /// no IP address.
    pub client: Option<SocketAddr>,
    /// The client's connection is protected by TLS, which the proxy has ended.
    pub tls: bool,
}

impl Header {
    /// Of a connection of the proxy's own, and of one that it says nothing of.
    pub(super) const LOCAL: Self = Self {
        client: None,
        tls: false,
    };

    /// An address of IPv4 that is written as one of IPv6 is one of IPv4: it is compared with networks.
    pub(super) fn of(client: SocketAddr, tls: bool) -> Self {
        let client = SocketAddr::new(client.ip().to_canonical(), client.port());
        Self {
            client: Some(client),
            tls,
        }
    }
}

/// A header that is whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Parsed {
    /// What it says.
    pub header: Header,
    /// How many bytes it takes.
    pub length: usize,
}

/// Why bytes are no header, whatever follows them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HeaderError {
    /// They begin as no header does.
    #[error("no PROXY header")]
    Missing,
    /// They begin like one.
    #[error("a PROXY header that is not one")]
    Malformed,
    /// It would take more than it may.
    #[error("a PROXY header that is too large")]
    TooLarge,
}
