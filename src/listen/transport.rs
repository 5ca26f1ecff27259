//! What a client's bytes come and go through, for the protocol above: its socket, in the clear or by TLS.

use tokio_rustls::server::TlsStream;

use super::socket::Socket;
use crate::{
    io::{reads_by, writes_by},
    proxy::TunnelClient,
};

/// What a client's bytes come and go through.
pub(super) enum Transport {
    Clear(Socket),
    /// Boxed, so that a connection in the clear is no larger for it.
    Tls(Box<TlsStream<Socket>>),
}

impl Transport {
    /// The socket below.
    pub(super) fn socket(&mut self) -> &mut Socket {
        match self {
            Self::Clear(socket) => socket,
            Self::Tls(stream) => stream.get_mut().0,
        }
    }
}

impl TunnelClient for Transport {}

reads_by!(Transport: stream of Self::Clear(stream), Self::Tls(stream));
writes_by!(Transport: stream of Self::Clear(stream), Self::Tls(stream));
