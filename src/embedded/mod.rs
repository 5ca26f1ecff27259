//! The registry built in: one node that speaks the Consul HTTP API (`/v1/agent`, `/v1/catalog`,
//! `/v1/health`), runs its providers' checks and keeps its state on disk. For one machine,
//! development and tests. Knows nothing of the proxy, which reads it over HTTP as it would Consul.

mod api;
mod blocking;
mod checks;
mod decode;
mod duration;
mod fields;
mod guard;
mod journal;
mod model;
mod render;
mod state;
mod store;
mod waiting;

use std::{
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
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
    sync::Semaphore,
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::config;
use api::Context;
use guard::Guard;
use journal::{Journal, OpenError};
use render::Node;
use store::Store;

/// Connections at once. A watcher holds one for as long as it waits.
const CONNECTIONS: usize = 8192;
/// How long a request's head may take, and an idle connection may stay.
const HEAD_TIME: Duration = Duration::from_secs(90);
/// How long requests may take to end once the registry goes down.
const DRAIN: Duration = Duration::from_secs(1);

/// A registry that has its address and its state, and serves nobody yet.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    context: Arc<Context>,
}

/// Why the registry cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The address cannot be listened on; [`io::ErrorKind::AddrInUse`] where it is taken.
    #[error("the registry cannot listen on {address}: {source}")]
    Listen {
        /// What was configured.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// Another process has the folder.
    #[error("the registry's folder {} is used by another process", .0.display())]
    Locked(PathBuf),
    /// The folder or a file in it cannot be read or written.
    #[error("the registry's folder {} cannot be used: {source}", .folder.display())]
    Data {
        /// What was configured.
        folder: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The token cannot be read, or is empty.
    #[error("the registry's token: {0}")]
    Token(String),
}

impl Server {
    /// Listens on the configured address (port 0 takes a free one) and opens the state. What of
    /// it cannot be understood is reported, set aside, and begun anew.
    ///
    /// # Errors
    /// Where the address is taken, the folder is another process's or unusable, or the token
    /// cannot be read.
    pub async fn bind(config: &config::Embedded) -> Result<Self, StartError> {
        let listen = |source| StartError::Listen {
            address: config.address,
            source,
        };
        let listener = TcpListener::bind(config.address).await.map_err(listen)?;
        let address = listener.local_addr().map_err(listen)?;
        let token = config.token.as_ref().map(config::Secret::read).transpose();
        let token = token.map_err(StartError::Token)?;
        if token.as_ref().is_some_and(String::is_empty) {
            return Err(StartError::Token("it is empty".to_owned()));
        }
        if token.is_none() && !address.ip().is_loopback() {
            tracing::warn!(
                %address,
                "the registry listens beyond loopback without a token: it will take no changes"
            );
        }
        let (journal, state) = open(&config.data).await?;
        let node = Node::new(journal.node().to_owned(), address);
        let context = Context {
            store: Store::new(journal, state),
            node,
            guard: Guard::new(address, token),
            address,
        };
        Ok(Self {
            listener,
            address,
            context: Arc::new(context),
        })
    }

    /// Where it listens, with the port that it got.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `shutdown`. Then blocking queries answer, other requests have a second to
    /// end, and every task has ended when this returns. If it is dropped, they end soon after.
    pub async fn run(self, shutdown: CancellationToken) {
        let store = Arc::clone(&self.context.store);
        // A child of the store's, so that connections go down with it and never after it.
        let ending = store.closing().clone();
        let _ends = ending.clone().drop_guard();
        store.start();
        let (connections, places) = (TaskTracker::new(), Arc::new(Semaphore::new(CONNECTIONS)));
        let router = api::router(self.context);
        loop {
            let accepted = tokio::select! {
                () = shutdown.cancelled() => break,
                accepted = accept(&self.listener, &places) => accepted,
            };
            let (stream, place) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of descriptors, most likely: accepting again at once would spin.
                    tracing::warn!(%error, "the registry cannot accept a connection");
                    sleep(Duration::from_millis(50)).await;
                    continue;
                }
            };
            let served = serve(stream, router.clone(), ending.clone());
            connections.spawn(async move {
                served.await;
                drop(place);
            });
        }
        drop(self.listener);
        store.close().await;
        connections.close();
        connections.wait().await;
    }
}

async fn open(folder: &Path) -> Result<(Journal, state::State), StartError> {
    let owned = folder.to_owned();
    let opened = tokio::task::spawn_blocking(move || Journal::open(&owned)).await;
    let opened = opened.unwrap_or_else(|error| Err(OpenError::Io(io::Error::other(error))));
    opened.map_err(|error| match error {
        OpenError::Locked => StartError::Locked(folder.to_owned()),
        OpenError::Io(source) => StartError::Data {
            folder: folder.to_owned(),
            source,
        },
    })
}

async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
) -> io::Result<(TcpStream, tokio::sync::OwnedSemaphorePermit)> {
    let place = Arc::clone(places).acquire_owned().await;
    let place = place.expect("the semaphore is never closed");
    let (stream, _) = listener.accept().await?;
    Ok((stream, place))
}

/// Serves one connection to its end, which comes within [`DRAIN`] once the registry goes down.
async fn serve(stream: TcpStream, router: Router, ending: CancellationToken) {
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
        tracing::debug!(%error, "a registry client's connection broke off");
    }
}
