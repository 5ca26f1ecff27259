//! The registry built in: one node that speaks the Consul HTTP API (`/v1/agent`, `/v1/catalog`,
//! `/v1/health`), runs its providers' checks and keeps its state on disk. For one machine,
//! development and tests. The proxy of this process reads it in place (`reader`), and every other
//! over HTTP, as it would Consul. Knows nothing of the proxy.

mod api;
mod awaited;
mod blocking;
mod checks;
mod decode;
mod duration;
mod fields;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod guard;
mod journal;
mod loan;
mod model;
mod reader;
mod render;
mod state;
mod store;
mod waiting;

use std::{
    io,
    net::{self, SocketAddr},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
    time::Duration,
};

use tokio::{
    net::TcpListener,
    sync::{Semaphore, mpsc, oneshot},
    time::sleep,
};
use tokio_util::sync::CancellationToken;

use crate::{
    backoff::{Backoff, Lines},
    config,
    control::{access::Access, server::serve},
    door::Sharing,
    error::with_causes,
    registry::Registry,
};
use api::Context;
pub(crate) use awaited::Awaited;
use journal::{Journal, OpenError};
pub(crate) use loan::{Lender, Loan};
use reader::Reader;
use render::Node;
use store::Store;

/// Connections at once.
const CONNECTIONS: usize = 8192;
/// Those of them on which a watcher may wait for a change: others can always register and ask.
const WAITS: usize = CONNECTIONS - 1024;
/// Between two tries to have a state back that was lent: the first pause at most, and the longest.
const PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// A registry that has its address and its state, and serves no client yet.
#[derive(Debug)]
pub struct Server {
    /// `None` once it goes down.
    listener: Option<net::TcpListener>,
    address: SocketAddr,
    folder: PathBuf,
    context: Arc<Context>,
    /// Who asks for its state.
    borrowers: mpsc::Receiver<loan::Asked>,
    lender: Lender,
    /// Ends when a state is its own that another process had at the start.
    opened: Option<oneshot::Receiver<()>>,
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
        let listener = listen(config.address).await?;
        Self::at(listener, config, open(&config.data, None).await?)
    }

    fn at(
        listener: net::TcpListener,
        config: &config::Embedded,
        (journal, state): (Journal, state::State),
    ) -> Result<Self, StartError> {
        let listen = |source| StartError::Listen {
            address: config.address,
            source,
        };
        listener.set_nonblocking(true).map_err(listen)?;
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
        let node = Node::new(journal.node().to_owned(), address);
        let context = Context {
            store: Store::new(journal, state),
            node,
            gate: Access::new(address, token).named(&config.hosts),
            address,
            status_page: OnceLock::new(),
            waits: Semaphore::new(WAITS),
        };
        let (lender, borrowers) = Lender::pair();
        Ok(Self {
            listener: Some(listener),
            address,
            folder: config.data.clone(),
            context: Arc::new(context),
            borrowers,
            lender,
            opened: None,
        })
    }

    /// Its socket by another descriptor, for a successor.
    ///
    /// # Errors
    /// Where the process has no descriptor left.
    pub(crate) fn duplicate(&self) -> io::Result<Option<OwnedFd>> {
        let listener = self.listener.as_ref();
        let socket = listener.map(net::TcpListener::try_clone).transpose()?;
        Ok(socket.map(OwnedFd::from))
    }

    /// Who lends its state to a successor while it runs.
    pub(crate) fn lender(&self) -> Lender {
        self.lender.clone()
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
    pub async fn run(mut self, shutdown: CancellationToken) {
        if let Some(opened) = self.opened.take()
            && !matches!(shutdown.run_until_cancelled(opened).await, Some(Ok(())))
        {
            return;
        }
        while let Some(asked) = self.serve(&shutdown).await {
            if !self.lend(asked, &shutdown).await {
                return;
            }
        }
    }

    /// Serves until `shutdown`, or until its state is asked for. It is another process's to open then.
    async fn serve(&mut self, shutdown: &CancellationToken) -> Option<loan::Asked> {
        let again = self.listener.as_ref().map(net::TcpListener::try_clone)?;
        let listener = match again.and_then(TcpListener::from_std) {
            Ok(listener) => listener,
            Err(error) => {
                tracing::error!(%error, "the registry cannot listen any more");
                return None;
            }
        };
        let store = Arc::clone(&self.context.store);
        let ending = store.closing();
        let _ends = ending.clone().drop_guard();
        store.start();
        let router = api::router(Arc::clone(&self.context));
        let sharing = Sharing::default();
        let closing = async {
            let asked = tokio::select! {
                () = shutdown.cancelled() => None,
                asked = self.borrowers.recv() => asked,
            };
            match asked {
                // Clients that come meanwhile wait in the socket's queue.
                Some(_) => sharing.begin(),
                None => self.listener = None,
            }
            store.close().await;
            asked
        };
        let serving = serve(listener, router, CONNECTIONS, &sharing, ending);
        let ((), asked) = tokio::join!(serving, closing);
        store.release();
        asked
    }

    /// Lends its state. Whether it serves again: not where it is told to go down meanwhile.
    async fn lend(&mut self, asked: loan::Asked, shutdown: &CancellationToken) -> bool {
        let lends = async {
            asked.lend().await;
            self.take_back().await;
        };
        shutdown.run_until_cancelled(lends).await.is_some()
    }

    /// Goes on with what another process has left. Tries again for as long as that cannot be read, as where the
    /// other one is not gone yet: clients wait in the socket's queue, and readers hear of it.
    async fn take_back(&self) {
        let mut pauses = Backoff::new(PAUSE, LONGEST_PAUSE, fastrand::Rng::new());
        let mut lines = Lines::new();
        loop {
            let Context { store, node, .. } = &*self.context;
            let error = match open(&self.folder, Some(node.id())).await {
                Ok((journal, state)) => return store.reopen(journal, state),
                Err(error) => with_causes(&error),
            };
            if lines.is_due() {
                tracing::error!(
                    error,
                    "the registry serves no client: its state was lent, and cannot be read again yet"
                );
            }
            store.fail(error);
            sleep(pauses.delay()).await;
        }
    }
}

async fn listen(address: SocketAddr) -> Result<net::TcpListener, StartError> {
    let bound = TcpListener::bind(address).await;
    let bound = bound.and_then(TcpListener::into_std);
    bound.map_err(|source| StartError::Listen { address, source })
}

/// Opens the state in a folder; with this node's id, where there is none.
async fn open(folder: &Path, node: Option<&str>) -> Result<(Journal, state::State), StartError> {
    let (owned, node) = (folder.to_owned(), node.map(str::to_owned));
    let open = move || Journal::open_as(&owned, node.as_deref());
    let opened = tokio::task::spawn_blocking(open).await;
    let opened = opened.unwrap_or_else(|error| Err(OpenError::Io(io::Error::other(error))));
    opened.map_err(|error| unusable(folder, error))
}

fn unusable(folder: &Path, error: OpenError) -> StartError {
    match error {
        OpenError::Locked => StartError::Locked(folder.to_owned()),
        OpenError::Io(source) => StartError::Data {
            folder: folder.to_owned(),
            source,
        },
    }
}
