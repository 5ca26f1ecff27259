//! What stands before a connection's first request: the PROXY header and the handshake of TLS, who the
//! client is, and what it speaks. In the clear, a client that speaks HTTP/2 is known by its first bytes,
//! which `http1` reads.

use std::sync::Arc;

use bytes::Bytes;
use http::Version;
use tokio::net::TcpStream;

use super::{
    Addresses, Connection, Tls, http1, http2, preface::Begun, proxied, socket::Socket,
    transport::Transport,
};
use crate::proxy::{Client, ClientAddress, Scheme};

/// Serves a connection until either side ends it; by TLS where its listener speaks it. Where a proxy says
/// first whose connection it is, the client counts in `addresses`.
pub(crate) async fn serve(
    connection: Arc<Connection>,
    stream: TcpStream,
    tls: Option<Arc<Tls>>,
    addresses: Option<Arc<Addresses>>,
) {
    let mut socket = Socket::new(stream);
    let mut proxied = None;
    if let Some(addresses) = &addresses {
        // Boxed, since few listeners need it.
        let received = proxied::receive(&connection, &mut socket, addresses, tls.is_none());
        proxied = Box::pin(received).await;
        if proxied.is_none() {
            return;
        }
    }
    let (transport, scheme, version, session) = match tls {
        None => {
            let ended_before = proxied.as_ref().is_some_and(|proxied| proxied.tls);
            let scheme = match ended_before {
                true => Scheme::Https,
                false => Scheme::Http,
            };
            (Transport::Clear(socket), scheme, Version::HTTP_11, None)
        }
        Some(tls) => {
            // Boxed, since a handshake needs more than a connection does after it.
            let secured = Box::pin(tls.secure(&connection, socket)).await;
            let Some(secured) = secured else { return };
            let transport = Transport::Tls(Box::new(secured.stream));
            (
                transport,
                Scheme::Https,
                secured.version,
                Some(Arc::new(secured.session)),
            )
        }
    };
    let address = proxied.as_ref().map(|proxied| proxied.client);
    let address = address.unwrap_or_else(|| own_address(&connection));
    let client = |version| {
        let (worker, listener) = (&connection.worker, &connection.listener);
        let client = Client::new(worker, listener, address, scheme, version, session.clone());
        client.leaves_with(connection.drain.flag())
    };
    let begun = if version == Version::HTTP_2 {
        let read = Bytes::new();
        Some(Begun { transport, read })
    } else {
        http1::serve(&connection, client(version), transport).await
    };
    if let Some(begun) = begun {
        let client = client(Version::HTTP_2);
        // Boxed, so that a connection of HTTP/1.1 is no larger for it.
        Box::pin(http2::serve(Arc::clone(&connection), client, begun)).await;
    }
}

/// How the client is known of which no proxy says who it is.
fn own_address(connection: &Connection) -> ClientAddress {
    let address = connection.address;
    ClientAddress {
        address,
        trusted: connection.listener.trusts(address.ip()),
        // At a path it is none.
        named: connection.listener.address.tcp().is_some(),
    }
}
