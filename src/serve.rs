//! The HTTP server of the control plane, which the admin server and the embedded registry share:
//! its connections begin, and all end together. Knows nothing of what they ask for.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::backoff::Repeated;

/// How long a request's head may take, and an idle connection may stay.
const HEAD_TIME: Duration = Duration::from_secs(90);
/// How long requests may take to end once the server goes down.
const DRAIN: Duration = Duration::from_secs(1);

/// Answers with `router`, on at most so many connections at once, until `ending`. Then requests
/// have a second to end, and every connection has ended when this returns. If it is dropped, they
/// end soon after.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    connections: usize,
    ending: CancellationToken,
) {
    let ending = ending.child_token();
    let _ends = ending.clone().drop_guard();
    let troubles = Repeated::default();
    let (tasks, places) = (TaskTracker::new(), Arc::new(Semaphore::new(connections)));
    while let Some(accepted) = ending.run_until_cancelled(accept(&listener, &places)).await {
        match accepted {
            Ok((stream, place)) => {
                let served = converse(stream, router.clone(), ending.clone());
                tasks.spawn(async move {
                    served.await;
                    drop(place);
                });
            }
            Err(error) => {
                // Out of descriptors, most likely: accepting again at once would spin.
                if let Some(times) = troubles.note() {
                    tracing::warn!(%error, times, "the control plane cannot accept a connection");
                }
                sleep(Duration::from_millis(50)).await;
            }
        }
    }
    drop(listener);
    tasks.close();
    tasks.wait().await;
}

/// Where a program on this machine reaches a server that listens at `address`.
pub fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address {
        SocketAddr::V4(v4) if v4.ip().is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        SocketAddr::V6(v6) if v6.ip().is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        bound => bound.ip(),
    };
    SocketAddr::new(ip, address.port())
}

async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
) -> io::Result<(TcpStream, OwnedSemaphorePermit)> {
    let place = Arc::clone(places).acquire_owned().await;
    let place = place.expect("the semaphore is never closed");
    let (stream, _) = listener.accept().await?;
    Ok((stream, place))
}

/// Serves one connection to its end, which comes within [`DRAIN`] once the server goes down.
async fn converse(stream: TcpStream, router: Router, ending: CancellationToken) {
    if stream.set_nodelay(true).is_err() {
        return; // It is gone already.
    }
    let service = TowerToHyperService::new(router);
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = ending.cancelled() => {
            connection.as_mut().graceful_shutdown();
            match timeout(DRAIN, connection).await {
                Ok(ended) => ended,
                Err(_) => return,
            }
        }
    };
    if let Err(error) = ended {
        // The other side's doing: it went away, or spoke no HTTP.
        tracing::debug!(%error, "a connection of the control plane broke off");
    }
}
