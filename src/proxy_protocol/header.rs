//! What a header says, of either version, or why bytes are none.

use std::net::SocketAddr;

/// A header takes at most so many bytes; one of version 1 takes fewer.
pub(crate) const LONGEST: usize = 4096;

/// What a header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    /// Who has opened the connection that is passed on.
    pub opener: Opener,
    /// The client's connection is protected by TLS, which the proxy has ended.
    pub tls: bool,
}

/// Who has opened a connection that a proxy passes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opener {
    /// The proxy itself, to look whether the server is there.
    Proxy,
    /// A client with this address.
    Client(SocketAddr),
    /// A client of which no IP address is said. It may be anyone.
    Unnamed,
}

impl Opener {
    /// An address of IPv4 that is written as one of IPv6 is one of IPv4: it is compared with networks.
    pub(super) fn client(address: SocketAddr) -> Self {
        Self::Client(SocketAddr::new(address.ip().to_canonical(), address.port()))
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
