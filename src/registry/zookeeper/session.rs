//! Sessions with an ensemble. A watcher's holds nothing on the server: one whose connection is lost
//! is not taken up again, since a server that has lost its data refuses it for ever. Knows nothing
//! of what is asked.

use std::{pin::pin, time::Duration};

use futures_util::future::join_all;
use tokio::{
    net::TcpStream,
    sync::Mutex,
    time::{Instant, timeout},
};
use zookeeper_client::{Client, Error, SessionState, StateWatcher};

use super::fault::Fault;
use crate::{
    config::{self, Digest},
    instance::Address,
    registry::RegistryError,
};

/// An attempt that failed stands for this long for all who ask, however many services there are;
/// longer where the fault says so.
const FAILED: Duration = Duration::from_millis(200);

/// A session that is doubted is shared for so long before another is tried.
const DOUBTED: Duration = Duration::from_secs(4);

/// How long a server may take to open a session before the next is tried. One that is asked while it
/// starts may take the connection and never answer, which must not be what one waits for.
const QUICK: Duration = Duration::from_millis(300);
/// The same once all were tried, or a tenth of the session where that is more.
const SLOW: Duration = Duration::from_secs(1);

/// How long a server may take to accept a connection, where we look for what is wrong.
const CONNECT: Duration = Duration::from_secs(1);

/// The servers of `[registry.NAME]`, and the one session that all its watchers share.
#[derive(Debug)]
pub(crate) struct Ensemble {
    registry: String,
    addresses: Vec<Address>,
    /// All of them, for errors.
    shown: String,
    digest: Option<Digest>,
    timeout: Duration,
    shared: Mutex<Shared>,
}

#[derive(Debug, Default)]
enum Shared {
    #[default]
    None,
    Open {
        since: Instant,
        client: Client,
        doubted: bool,
    },
    Failed {
        until: Instant,
        fault: Fault,
    },
}

impl Ensemble {
    /// Connects to nothing yet. Sessions end when nothing was heard of us for `timeout`, within
    /// the server's own limits.
    pub(crate) fn new(registry: &str, settings: &config::ZooKeeper, timeout: Duration) -> Self {
        let addresses: Vec<_> = settings.addresses.iter().map(Address::to_string).collect();
        Self {
            registry: registry.to_owned(),
            addresses: settings.addresses.clone(),
            shown: addresses.join(","),
            digest: settings.digest.clone(),
            timeout,
            shared: Mutex::default(),
        }
    }

    /// The session that all share; a new one where the last is lost. Those who ask while it is
    /// being opened wait for the same attempt.
    pub(super) async fn shared(&self) -> Result<Session, Fault> {
        let mut shared = self.shared.lock().await;
        match &*shared {
            Shared::Open {
                since,
                client,
                doubted,
            } if client.state() == SessionState::SyncConnected
                && !(*doubted && since.elapsed() >= DOUBTED) =>
            {
                return Ok(Session::of(client.clone()));
            }
            Shared::Failed { until, fault } if Instant::now() < *until => {
                return Err(fault.clone());
            }
            _ => {}
        }
        // Lets go of a lost session. It stays so where this future is dropped while a new one is
        // opened.
        *shared = Shared::None;
        match self.open().await {
            Ok(session) => {
                *shared = Shared::Open {
                    since: Instant::now(),
                    client: session.client.clone(),
                    doubted: false,
                };
                Ok(session)
            }
            Err(fault) => {
                let stands = fault.retry_after().unwrap_or(FAILED);
                *shared = Shared::Failed {
                    until: Instant::now() + stands,
                    fault: fault.clone(),
                };
                Err(fault)
            }
        }
    }

    /// After a fault that another session may not have: the next caller of [`Self::shared`] gets a
    /// new session, unless this one is new itself. Cursors that have this one keep it.
    pub(super) async fn doubt(&self) {
        if let Shared::Open { doubted, .. } = &mut *self.shared.lock().await {
            *doubted = true;
        }
    }

    /// A session that is not shared, with one of the servers. It is closed when its last clone is
    /// dropped.
    pub(crate) async fn open(&self) -> Result<Session, Fault> {
        let digest = match &self.digest {
            Some(digest) => {
                let password = digest.password.read_aside().await;
                let password = password.map_err(Fault::Password)?;
                Some(format!("{}:{password}", digest.user))
            }
            None => None,
        };
        // In any order, so that the servers share the load of all clients.
        let mut addresses = self.addresses.clone();
        fastrand::shuffle(&mut addresses);
        let slow = (self.timeout / 10).max(SLOW);
        for limit in [QUICK, slow] {
            for address in &addresses {
                let mut connector = Client::connector()
                    .with_session_timeout(self.timeout)
                    // The watcher above tries again.
                    .with_fail_eagerly();
                if let Some(digest) = &digest {
                    connector = connector.with_auth("digest", digest.as_bytes());
                }
                let server = address.to_string();
                match timeout(limit, connector.connect(&server)).await {
                    Ok(Ok(client)) => return self.up_to_date(client).await,
                    Ok(Err(Error::AuthFailed)) => return Err(Fault::Unknown),
                    Ok(Err(_)) | Err(_) => {}
                }
            }
        }
        Err(Fault::Away(self.diagnosis().await))
    }

    /// A server may lag behind what another has told us before.
    async fn up_to_date(&self, client: Client) -> Result<Session, Fault> {
        let mut session = Session::of(client.clone());
        let caught_up = session.during(client.sync("/")).await?;
        caught_up.map_err(|error| self.fault("/", error))?;
        Ok(session)
    }

    /// What came of a request about this node.
    pub(crate) fn fault(&self, path: &str, error: Error) -> Fault {
        let user = self.digest.as_ref().map(|digest| &*digest.user);
        Fault::of(path, user, error)
    }

    /// The error for a question that failed: "cannot be asked for service `cart`".
    pub(crate) fn explain(&self, wanted: &str, fault: &Fault) -> RegistryError {
        fault.explain(&self.registry, &self.shown, wanted)
    }

    /// What each server does instead of opening a session.
    async fn diagnosis(&self) -> String {
        let seen = self.addresses.iter().map(|address| async move {
            let host = address.host();
            let connect = TcpStream::connect((&*host, address.port()));
            let seen = match timeout(CONNECT, connect).await {
                Ok(Ok(_)) => "takes connections, and opens no session".to_owned(),
                Ok(Err(error)) => error.to_string(),
                Err(_) => "does not answer".to_owned(),
            };
            format!("{address}: {seen}")
        });
        join_all(seen).await.join(", ")
    }
}

/// A session, for as long as its connection stands.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) client: Client,
    states: StateWatcher,
}

impl Session {
    fn of(client: Client) -> Self {
        Self {
            states: client.state_watcher(),
            client,
        }
    }

    /// Whether its connection stands.
    pub(crate) fn stands(&self) -> bool {
        self.states.peek_state() == SessionState::SyncConnected
    }

    /// Does something that needs the connection; without it the client would wait, and say
    /// nothing, until the session is over.
    pub(crate) async fn during<T>(&mut self, work: impl Future<Output = T>) -> Result<T, Fault> {
        if !self.stands() {
            return Err(Fault::Lost);
        }
        tokio::select! {
            biased;
            // A connection that is back already was away all the same.
            _ = self.states.changed() => Err(Fault::Lost),
            done = pin!(work) => Ok(done),
        }
    }

    /// Whether the connection comes back, with all that the session holds, within this time.
    pub(crate) async fn returns(&mut self, within: Duration) -> bool {
        let returns = async {
            loop {
                match self.states.state() {
                    SessionState::SyncConnected => return true,
                    state if state.is_terminated() => return false,
                    _ => drop(self.states.changed().await),
                }
            }
        };
        timeout(within, returns).await.unwrap_or(false)
    }
}
