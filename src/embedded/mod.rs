//! The registry built in: one node that speaks the Consul HTTP API (`/v1/agent`, `/v1/catalog`,
//! `/v1/health`), runs its providers' checks and keeps its state on disk. For one machine,
//! development and tests. The proxy of this process reads it in place (`reader`), and every other
//! over HTTP, as it would Consul. Knows nothing of the proxy.

mod api;
mod blocking;
mod checks;
mod decode;
mod duration;
mod fields;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod guard;
mod journal;
mod model;
mod reader;
mod render;
mod state;
mod store;
mod waiting;

use std::{
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

use tokio::{net::TcpListener, sync::Semaphore};
use tokio_util::sync::CancellationToken;

use crate::{
    config,
    control::{access::Access, server::serve},
    registry::Registry,
};
use api::Context;
use journal::{Journal, OpenError};
use reader::Reader;
use render::Node;
use store::Store;

/// Connections at once.
const CONNECTIONS: usize = 8192;
/// Those of them on which a watcher may wait for a change: others can always register and ask.
const WAITS: usize = CONNECTIONS - 1024;

/// A registry that has its address and its state, and serves no client yet.
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
    #[error("the registry cannot listen on {address}")]
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
    #[error("the registry's folder {} cannot be used", .folder.display())]
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
            gate: Access::new(address, token).named(&config.hosts),
            address,
            status_page: OnceLock::new(),
            waits: Semaphore::new(WAITS),
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

    /// Says once where the admin server of its proxy listens: who looks for pages here is led there.
    pub fn leads_to(&self, admin: SocketAddr) {
        let _ = self.context.status_page.set(admin);
    }

    /// Reads it in this process, over no connection.
    pub fn reader(&self) -> Arc<dyn Registry> {
        let Context { store, node, .. } = &*self.context;
        Arc::new(Reader::new(Arc::clone(store), node.clone()))
    }

    /// Serves until `shutdown`. Then blocking queries answer, other requests have a second to
    /// end, and every task has ended when this returns. If it is dropped, they end soon after.
    pub async fn run(self, shutdown: CancellationToken) {
        let store = Arc::clone(&self.context.store);
        let ending = store.closing().clone();
        let _ends = ending.clone().drop_guard();
        store.start();
        let router = api::router(self.context);
        let closing = async {
            shutdown.cancelled().await;
            store.close().await;
        };
        tokio::join!(serve(self.listener, router, CONNECTIONS, ending), closing);
        store.release();
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
