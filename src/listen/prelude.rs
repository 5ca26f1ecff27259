//! What stands before a connection's first request: the handshake of TLS, who the client is, and what it
//! speaks.

use std::sync::Arc;

use tokio::net::TcpStream;

use super::{Connection, Tls, http1, socket::Socket, transport::Transport};
use crate::proxy::{Client, Scheme};

/// Serves a connection until either side ends it; by TLS where its listener speaks it.
pub(crate) async fn serve(connection: Arc<Connection>, stream: TcpStream, tls: Option<Arc<Tls>>) {
    let socket = Socket::new(stream);
    let (transport, scheme, certificate) = match tls {
        None => (Transport::Clear(socket), Scheme::Http, None),
        Some(tls) => {
            // Boxed, since a handshake needs more than a connection does after it.
            let secured = Box::pin(tls.secure(&connection, socket)).await;
            let Some(secured) = secured else { return };
            let stream = Box::new(secured.stream);
            (Transport::Tls(stream), Scheme::Https, secured.certificate)
        }
    };
    let (worker, listener) = (&connection.worker, &connection.listener);
    let certificate = certificate.as_ref();
    let client = Client::new(worker, listener, connection.address, scheme, certificate);
    http1::serve(connection, client, transport).await;
}
