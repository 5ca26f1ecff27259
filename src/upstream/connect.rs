//! Opening a connection.

use std::time::Duration;

use tokio::net::TcpStream;

use super::{Connection, Failure, FailureKind, Pool, Processed, connect_to, stream::Stream};

/// Opens a connection to the pool's endpoint; `limit` covers the resolving of a name and the
/// handshake of TLS too.
///
/// # Errors
/// Always [`Processed::Never`].
pub(crate) async fn connect(pool: &Pool, limit: Duration) -> Result<Connection, Failure> {
    let opening = async {
        let address = pool.address();
        let socket = match address.socket() {
            Some(socket) => TcpStream::connect(socket).await,
            None => connect_to(&address.host(), address.port()).await,
        };
        let socket = socket.map_err(FailureKind::Connect)?;
        socket.set_nodelay(true).map_err(FailureKind::Connect)?;
        let Some(handshake) = pool.handshake() else {
            return Ok(Stream::Plain(socket));
        };
        let secured = handshake.over(socket).await;
        secured.map(Stream::secured).map_err(FailureKind::Handshake)
    };
    let kind = match tokio::time::timeout(limit, opening).await {
        Ok(Ok(stream)) => {
            pool.opened.add_one();
            return Ok(Connection::new(stream));
        }
        Ok(Err(kind)) => kind,
        Err(_) => FailureKind::ConnectTimeout,
    };
    Err(Failure {
        kind,
        processed: Processed::Never,
    })
}
