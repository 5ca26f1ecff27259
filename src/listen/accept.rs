//! The accept loop of one socket.

use std::{collections::VecDeque, io, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tokio_util::sync::CancellationToken;

use crate::{backoff::Repeated, config};

/// How long the loop rests when the process has run out of something.
const REST: Duration = Duration::from_millis(50);

/// What is known of a connection that was accepted.
pub struct Arrival {
    /// Who is at its other end.
    pub peer: SocketAddr,
    /// The settings of the listener that took it.
    pub listener: Arc<config::Listener>,
    /// Given back when the connection ends.
    pub permit: OwnedSemaphorePermit,
}

/// Accepts until `stop`, and then whoever is in the socket's queue still: what was queued on a
/// socket that closes is reset. Those that find no place wait for one until `cut`.
pub async fn accept(
    socket: TcpListener,
    listener: Arc<config::Listener>,
    permits: Arc<Semaphore>,
    troubles: Arc<Repeated>,
    stop: CancellationToken,
    cut: CancellationToken,
    mut seat: impl FnMut(TcpStream, Arrival),
) {
    let mut seat = |stream: TcpStream, peer, permit| {
        // Without it small answers wait for acknowledgements; it fails only on a connection that
        // is gone, which serving it will find out.
        let _ = stream.set_nodelay(true);
        let listener = Arc::clone(&listener);
        seat(
            stream,
            Arrival {
                peer,
                listener,
                permit,
            },
        );
    };
    let permit = async || {
        let permit = Arc::clone(&permits).acquire_owned().await;
        permit.expect("the semaphore is never closed")
    };
    let mut waiting = VecDeque::new();
    let serving = async {
        loop {
            match socket.accept().await {
                Ok(arrived) => {
                    // At the limit whoever came waits, and those behind it in the queue.
                    waiting.push_back(arrived);
                    let permit = permit().await;
                    if let Some((stream, peer)) = waiting.pop_front() {
                        seat(stream, peer, permit);
                    }
                }
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) => {
                    if let Some(times) = troubles.note() {
                        let address = listener.address;
                        tracing::error!(%error, times, %address, "cannot accept");
                    }
                    tokio::time::sleep(REST).await;
                }
            }
        }
    };
    tokio::select! {
        () = serving => {}
        () = stop.cancelled() => {}
    }
    // The kernel is asked, and not the runtime, which may not have heard of the last ones.
    let Ok(socket) = socket.into_std() else {
        return;
    };
    while let Ok((stream, peer)) = socket.accept() {
        let stream = stream
            .set_nonblocking(true)
            .and_then(|()| TcpStream::from_std(stream));
        waiting.extend(stream.map(|stream| (stream, peer)));
    }
    drop(socket);
    for (stream, peer) in waiting {
        let Some(permit) = cut.run_until_cancelled(permit()).await else {
            return;
        };
        seat(stream, peer, permit);
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
