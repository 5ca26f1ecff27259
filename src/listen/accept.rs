//! The accept loop of one socket.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tokio_util::sync::CancellationToken;

use crate::config;

/// How long the loop rests when the process has run out of something.
const REST: Duration = Duration::from_millis(50);

/// A connection that was accepted.
pub struct Arrival {
    /// The connection.
    pub stream: TcpStream,
    /// Who is at its other end.
    pub peer: SocketAddr,
    /// The settings of the listener that took it.
    pub listener: Arc<config::Listener>,
    /// Given back when the connection ends.
    pub permit: OwnedSemaphorePermit,
}

/// Accepts until `stop`, and then whoever is in the socket's queue still: what was queued on a
/// socket that closes is reset.
pub async fn accept(
    socket: TcpListener,
    listener: Arc<config::Listener>,
    permits: Arc<Semaphore>,
    stop: CancellationToken,
    mut seat: impl FnMut(Arrival),
) {
    loop {
        let stopping = stop.is_cancelled();
        let next = async {
            // At the limit whoever comes next waits in the queue.
            let permit = Arc::clone(&permits)
                .acquire_owned()
                .await
                .expect("the semaphore is never closed");
            socket
                .accept()
                .await
                .map(|(stream, peer)| (stream, peer, permit))
        };
        let accepted = tokio::select! {
            biased;
            accepted = next => accepted,
            () = std::future::ready(()), if stopping => return,
            () = stop.cancelled(), if !stopping => continue,
        };
        match accepted {
            Ok((stream, peer, permit)) => {
                // Without it small answers wait for acknowledgements; it fails only on a
                // connection that is gone, which serving it will find out.
                let _ = stream.set_nodelay(true);
                seat(Arrival {
                    stream,
                    peer,
                    listener: Arc::clone(&listener),
                    permit,
                });
            }
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                tracing::error!(%error, "cannot accept");
                tokio::time::sleep(REST).await;
            }
        }
    }
}

/// Whether the error is of the connection that would have been accepted, not of the process.
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
    )
}
