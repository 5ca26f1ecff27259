//! Opening a connection.

use std::{io, time::Duration};

use tokio::net::TcpStream;

use super::{Connection, Failure, FailureKind, Pool, Processed};

/// Opens a connection to the pool's endpoint; `limit` covers the resolving of a name too.
///
/// # Errors
/// Always [`Processed::Never`].
pub async fn connect(pool: &Pool, limit: Duration) -> Result<Connection, Failure> {
    let opening = async {
        let address = pool.address();
        let stream = match address.socket() {
            Some(socket) => TcpStream::connect(socket).await?,
            None => TcpStream::connect((address.host(), address.port())).await?,
        };
        stream.set_nodelay(true)?;
        Ok::<_, io::Error>(stream)
    };
    let kind = match tokio::time::timeout(limit, opening).await {
        Ok(Ok(stream)) => {
            pool.opened.add_one();
            return Ok(Connection::new(stream));
        }
        Ok(Err(error)) => FailureKind::Connect(error),
        Err(_) => FailureKind::ConnectTimeout,
    };
    Err(Failure {
        kind,
        processed: Processed::Never,
    })
}
