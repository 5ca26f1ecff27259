//! What stands before a connection's first request: who the client is, and what it speaks.

use std::sync::Arc;

use tokio::net::TcpStream;

use super::{Connection, http1, socket::Socket, transport::Transport};
use crate::proxy::{Client, Scheme};

/// Serves a connection until either side ends it.
pub async fn serve(connection: Arc<Connection>, stream: TcpStream) {
    let transport = Transport::Clear(Socket::new(stream));
    let (worker, listener) = (&connection.worker, &connection.listener);
    let client = Client::new(worker, listener, connection.address, Scheme::Http);
    http1::serve(connection, client, transport).await;
}
