//! What the tests of this folder share.

use std::sync::Arc;

use tokio::net::{TcpListener, TcpStream};

use super::Connection;
use crate::{config, proxy::Worker};

/// A client, its connection, and the socket at the proxy's side.
pub(super) async fn connected() -> (TcpStream, Arc<Connection>, TcpStream) {
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpStream::connect(socket.local_addr().unwrap());
    let (client, accepted) = tokio::join!(client, socket.accept());
    let (stream, peer) = accepted.unwrap();
    let (worker, listener) = (Worker::without_services(), config::Listener::default());
    let connection = Connection::new(worker, Arc::new(listener), peer);
    (client.unwrap(), Arc::new(connection), stream)
}
