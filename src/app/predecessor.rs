//! The process that has our addresses. One that has started this one hands its sockets over. A proxy with
//! the same configuration that is on its way out is found by its admin server, and gives its addresses up. A
//! supervisor may have bound some of them.

use std::{future::Future, io, mem, path::Path, sync::Arc, time::Duration};

use reqwest::{Client, Method, RequestBuilder};
use serde_json::Value;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::{
    ready::become_ready,
    reload::identities,
    start_error::StartError,
    supervised::{self, Supervised},
    upgrade::{Origin, Parent},
};
use crate::{
    admin,
    config::{self, Config, ListenAddress, Secret},
    control::server::reachable,
    embedded,
    listen::{self, BindError, Bound, SocketFile},
    proxy::Shared,
    saved::{Contents, Store},
};

/// How long its admin server may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long it may take to give an address up once it said that it would.
const GIVES_UP: Duration = Duration::from_secs(5);
/// Between two tries to have an address that is being given up.
const PAUSE: Duration = Duration::from_millis(10);

/// The process that has our addresses.
pub(super) struct Predecessor<'a> {
    admin: &'a config::Admin,
    /// One that has started this process to take its place.
    parent: Option<Parent>,
    /// The unix sockets whose paths are that one's until this process serves.
    files: Vec<Arc<SocketFile>>,
    /// What a supervisor has bound.
    supervised: Vec<Supervised>,
    /// Whether it goes, once that was asked.
    goes: Option<bool>,
    /// Whether it was told that we are here, and gives them up.
    told: bool,
}

/// An error that says whether an address is another's.
pub(super) trait Taken {
    fn is_taken(&self) -> bool;
}

impl<'a> Predecessor<'a> {
    pub(super) async fn of(
        origin: &mut Origin,
        admin: &'a config::Admin,
    ) -> Result<Self, StartError> {
        Ok(Self {
            admin,
            parent: Parent::of(origin).await?,
            files: Vec::new(),
            supervised: mem::take(&mut origin.sockets),
            goes: None,
            told: false,
        })
    }

    /// Lets go of what a supervisor has bound for no listener.
    pub(super) fn leave_supervised(&mut self) {
        supervised::leave(&mut self.supervised);
    }

    /// The admin server, at the socket that there is already, or at one of its own.
    pub(super) async fn admin_server(&mut self) -> Result<admin::Server, admin::StartError> {
        let config = self.admin;
        let wanted = config.address.to_string();
        let inherited = self.parent.as_mut();
        match inherited.and_then(|parent| parent.admin(&wanted)) {
            Some(socket) => admin::Server::inherit(socket, config),
            None => self.after(async || admin::Server::bind(config).await).await,
        }
    }

    /// The embedded registry, at the socket that there is already, or at one of its own. Beside a process that
    /// hands over it waits for its state until [`Self::until_go`].
    pub(super) async fn registry(
        &mut self,
        settings: &config::Embedded,
    ) -> Result<(embedded::Server, Option<embedded::Awaited>), StartError> {
        let Some(parent) = &mut self.parent else {
            let bind = async || embedded::Server::bind(settings).await;
            return Ok((self.after(bind).await?, None));
        };
        let socket = parent.registry(&settings.address.to_string());
        let (server, awaited) = embedded::Server::beside(socket, settings).await?;
        Ok((server, Some(awaited)))
    }

    /// The last good sets: of the process that hands over, else of the snapshot.
    pub(super) async fn sets(
        &mut self,
        config: &Config,
        snapshot: Option<&Arc<Store>>,
    ) -> Contents {
        let told = match &mut self.parent {
            Some(parent) => parent.sets(identities(config)).await,
            None => None,
        };
        // What became of the file is known in any case.
        let saved = snapshot.map(|store| store.read());
        let told = told.filter(|told| !told.is_empty());
        told.or(saved).unwrap_or_default()
    }

    /// Takes the paths of unix sockets before the process that has them is told to go; one that hands its
    /// sockets over has its paths until clients are ours.
    pub(super) fn take_paths(&self, bound: &[Bound]) -> Result<(), BindError> {
        match &self.parent {
            Some(_) => Ok(()),
            None => bound.iter().try_for_each(Bound::take_path),
        }
    }

    /// Where a process hands over, gets ready first, has the state of the embedded registry, and waits until
    /// clients are ours.
    pub(super) async fn until_go(
        &mut self,
        shared: &Arc<Shared>,
        bound: &[Bound],
        registry: Option<embedded::Awaited>,
    ) -> Result<(), StartError> {
        let Some(parent) = &mut self.parent else {
            return Ok(());
        };
        let timeout = shared.generation.load().config.admin.ready_timeout;
        let timeout = parent.time_left().map_or(timeout, |left| left.min(timeout));
        tokio::select! {
            () = become_ready(Arc::clone(shared), timeout, CancellationToken::new()) => {}
            error = parent.given_up() => return Err(error),
        }
        self.files = bound.iter().filter_map(Bound::file).cloned().collect();
        let unread = shared.directory().unread();
        parent.is_ready(unread, registry.is_some()).await?;
        let opened = match registry {
            Some(registry) => {
                parent.until_lent().await?;
                let opened = registry.open().await?;
                parent.has_state().await?;
                Some(opened)
            }
            None => None,
        };
        parent.until_go().await?;
        if let Some(registry) = opened {
            registry.begin();
        }
        Ok(())
    }

    /// Tells a process that hands over that this one serves, and waits until it has let go.
    pub(super) async fn serves(self) {
        let Some(parent) = self.parent else { return };
        // Nothing is left that can fail: a start that comes to nothing must leave the paths alone.
        for file in self.files {
            if let Err(error) = file.take_path() {
                tracing::warn!(%error, "the permissions of a unix socket cannot be set");
            }
        }
        parent.serves().await;
    }

    /// Binds a listener: beside a predecessor that goes, so that no connection is refused between
    /// the two; else only where there is none.
    pub(super) async fn listener(
        &mut self,
        settings: &config::Listener,
        workers: usize,
    ) -> Result<Bound, BindError> {
        let inherited = self.parent.as_mut();
        if let Some(sockets) = inherited.and_then(|parent| parent.listener(&settings.address)) {
            return listen::inherit(settings.clone(), sockets, workers);
        }
        if let Some(socket) = supervised::take(&mut self.supervised, &settings.address) {
            return listen::inherit(settings.clone(), socket, workers);
        }
        let bind = || listen::bind(settings.clone(), workers);
        match bind() {
            Err(error) if error.is_taken() && self.has(&settings.address).await => {}
            done => return done,
        }
        match listen::bind_beside(settings.clone(), workers) {
            // Another user's, or an older version's: it has to close first.
            Err(_) => self.after(async || bind()).await,
            bound => bound,
        }
    }

    /// Does what needs an address, when a predecessor that has it has given it up.
    pub(super) async fn after<T, E: Taken, F: Future<Output = Result<T, E>>>(
        &mut self,
        take: impl Fn() -> F,
    ) -> Result<T, E> {
        let done = take().await;
        if !done.as_ref().is_err_and(Taken::is_taken) || !self.give_up().await {
            return done;
        }
        let end = Instant::now() + GIVES_UP;
        loop {
            match take().await {
                Err(error) if error.is_taken() && Instant::now() < end => sleep(PAUSE).await,
                done => return done,
            }
        }
    }

    /// Whether it goes, and the address that is taken is its own, and not a third process's: a path could
    /// be had from any, and an address of IP is not given up by one that has others.
    async fn has(&mut self, address: &ListenAddress) -> bool {
        if !self.goes().await {
            return false;
        }
        let listed = self.listeners().await;
        let is_it = |own: &str| match address {
            ListenAddress::Tcp(wanted) => {
                let port = own.rsplit(':').next();
                port.and_then(|port| port.parse().ok()) == Some(wanted.port())
            }
            ListenAddress::Unix(wanted) => {
                let path = own.strip_prefix("unix:").map(Path::new);
                path.is_some_and(|path| listen::is_one_socket(path, wanted))
            }
        };
        listed.iter().filter_map(Value::as_str).any(is_it)
    }

    /// Where it listens, by its own word.
    async fn listeners(&self) -> Vec<Value> {
        let answer = async {
            let answer = self.ask(Method::GET, "/api/status")?.send().await.ok()?;
            let mut status: Value = answer.json().await.ok()?;
            Some(status["listeners"].take())
        };
        match answer.await {
            Some(Value::Array(listeners)) => listeners,
            _ => Vec::new(),
        }
    }

    /// Tells one that goes that its addresses are ours now; whether it gives them up.
    pub(super) async fn give_up(&mut self) -> bool {
        if !self.told && self.goes().await {
            let answer = match self.ask(Method::POST, "/api/handover") {
                Some(request) => request.json(&serde_json::json!({})).send().await.ok(),
                None => None,
            };
            self.told = answer.is_some_and(|answer| answer.status().is_success());
            if self.told {
                tracing::info!("another Callboard is on its way out, and hands its addresses over");
            }
        }
        self.told
    }

    /// Whether a Callboard is at our admin address that is on its way out.
    async fn goes(&mut self) -> bool {
        if let Some(goes) = self.goes {
            return goes;
        }
        let answer = async {
            let answer = self.ask(Method::GET, "/ready")?.send().await.ok()?;
            answer.text().await.ok()
        };
        let goes = answer
            .await
            .is_some_and(|text| text == crate::admin::DRAINING);
        self.goes = Some(goes);
        goes
    }

    fn ask(&self, method: Method, path: &str) -> Option<RequestBuilder> {
        let address = reachable(self.admin.address);
        if address.port() == 0 {
            return None;
        }
        let client = Client::builder()
            .no_proxy()
            .timeout(PATIENCE)
            .tls_certs_only([])
            .build()
            .ok()?;
        let request = client.request(method, format!("http://{address}{path}"));
        let token = self.admin.token.as_ref().map(Secret::read);
        Some(match token {
            Some(token) => request.bearer_auth(token.ok()?),
            None => request,
        })
    }
}

fn is_in_use(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::AddrInUse
}

impl Taken for BindError {
    fn is_taken(&self) -> bool {
        is_in_use(&self.source)
    }
}

impl Taken for crate::admin::StartError {
    fn is_taken(&self) -> bool {
        matches!(self, Self::Bind(_, error) if is_in_use(error))
    }
}

impl Taken for embedded::StartError {
    fn is_taken(&self) -> bool {
        match self {
            Self::Listen { source, .. } => is_in_use(source),
            Self::Locked(_) => true,
            _ => false,
        }
    }
}
