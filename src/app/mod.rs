//! The process: build → run → drain.

mod certificates;
mod followed;
mod predecessor;
mod reload;

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use tokio::{
    task::JoinHandle,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use crate::{
    access_log::{self, AccessLog},
    admin::{self, Reload as _},
    config::{Config, ListenAddress, RegistryKind},
    discovery::{self, Directory},
    embedded,
    listen::{BindError, Bound},
    proxy::{Generation, Shared, Worker},
    registry::{self, BuildError, Registry},
    saved::Store,
    tls::TlsError,
    worker::Workers,
};
use certificates::Certificates;
use predecessor::Predecessor;
pub use reload::Source;
use reload::{Reloader, forget_generations, identities};

/// A proxy that runs.
pub struct App {
    shared: Arc<Shared>,
    workers: Workers,
    listeners: Vec<ListenAddress>,
    admin: SocketAddr,
    registry: Option<SocketAddr>,
    /// A successor wants the addresses of one that drains.
    handover: CancellationToken,
    reloader: Reloader,
    tasks: ControlTasks,
    /// Dropped last: what the workers have logged is written then.
    _writing: Option<access_log::Writing>,
}

/// Why a proxy cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A listener's address cannot be had.
    #[error(transparent)]
    Listen(#[from] BindError),
    /// The access log cannot be written.
    #[error("access_log.to: nothing can be written to {to}")]
    AccessLog {
        /// Where it was to go.
        to: String,
        /// Why it cannot.
        source: io::Error,
    },
    /// A listener's certificates cannot be used.
    #[error("listen.tls: {0}")]
    Tls(#[from] TlsError),
    /// The admin server cannot start.
    #[error(transparent)]
    Admin(#[from] admin::StartError),
    /// The embedded registry cannot start.
    #[error(transparent)]
    Embedded(#[from] embedded::StartError),
    /// A registry's settings cannot be used.
    #[error(transparent)]
    Registry(#[from] BuildError),
    /// A service's settings cannot be used.
    #[error(transparent)]
    Service(#[from] discovery::StartError),
    /// The system gives no thread.
    #[error("cannot start a worker: {0}")]
    Worker(io::Error),
}

impl App {
    /// Binds everything, begins to watch the registries and to serve. Returns before the
    /// registries are read: requests for a service that was not read yet wait a moment for it.
    ///
    /// # Errors
    /// Among others where a port is taken, also by another Callboard.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        Self::start_of(config, None).await
    }

    /// The same with a configuration that can be read again, for reloads.
    ///
    /// # Errors
    /// As for [`Self::start`].
    pub async fn start_of(config: Config, source: Option<Source>) -> Result<Self, StartError> {
        let config = Arc::new(config);
        let (access_log, writing) = start_access_log(&config)?.unzip();
        let workers = config.workers.get();
        let certificates = Certificates::open(&config)?;
        let mut predecessor = Predecessor::new(&config.admin);
        let bound = bind(&config, &mut predecessor, &certificates).await?;
        let registries = open_registries(&config)?;
        bound.iter().try_for_each(Bound::take_path)?;
        let listeners: Vec<_> = bound.iter().map(|bound| bound.address.clone()).collect();
        let certificates = certificates.shown(&config, &listeners);
        let admin = predecessor
            .after(async || admin::Server::bind(&config.admin).await)
            .await?;
        let admin_at = admin.address();
        let mut tasks = ControlTasks::default();
        let (registries, registry_address) =
            serve_embedded(&config, registries, admin_at, &mut predecessor, &mut tasks).await?;

        let snapshot = store(&config);
        let saved = snapshot.as_ref().map(|store| store.read());
        let directory = Directory::start(&config, registries.clone(), &saved.unwrap_or_default())?;
        let generation = Generation::new(Arc::clone(&config), directory);
        let shared = Arc::new(Shared::new(generation, access_log));
        let workers = (0..workers)
            .map(|index| Arc::new(Worker::new(index, Arc::clone(&shared))))
            .collect();
        let workers = Workers::start(workers, bound).map_err(StartError::Worker)?;

        let handover = CancellationToken::new();
        let reloader = Reloader::new(source, Arc::clone(&shared), snapshot.clone(), registries);
        let view = admin::View {
            reload: Box::new(reloader.clone()),
            shared: Arc::clone(&shared),
            workers: workers.all().to_vec(),
            connections: Box::new(workers.connection_count()),
            listeners: listeners.clone(),
            tls: certificates,
            snapshot: snapshot.clone(),
            handover: handover.clone(),
        };
        tasks.spawn(|ending| admin.run(view, ending));
        tasks.follow(&shared, snapshot);
        let (following, past) = (reloader.clone(), Arc::clone(&shared));
        tasks.spawn(|ending| following.follow_file(ending));
        tasks.spawn(|ending| forget_generations(past, ending));
        Ok(Self {
            reloader,
            shared,
            workers,
            listeners,
            admin: admin_at,
            registry: registry_address,
            handover,
            tasks,
            _writing: writing,
        })
    }

    /// Where it listens, in the order of the file.
    pub fn listeners(&self) -> &[ListenAddress] {
        &self.listeners
    }

    /// Where the admin server listens.
    pub fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// Where the embedded registry listens, if there is one.
    pub fn registry(&self) -> Option<SocketAddr> {
        self.registry
    }

    /// Reads its file again, and has what it says take the place of what runs; what came of that is in
    /// the log. Dropped, a reload that has begun goes on.
    pub fn reload(&self) -> impl Future<Output = ()> + Send + 'static {
        let reloading = self.reloader.reload(false);
        async move {
            let _ = reloading.await;
        }
    }

    /// What has the file of the access log opened anew, for tools that have moved it, also while it
    /// drains; `None` where there is no such file.
    pub fn reopens_access_log(&self) -> Option<impl Fn() + use<>> {
        let log = self.shared.access_log.clone()?;
        log.has_file().then_some(move || log.reopen())
    }

    /// Whether it may be sent traffic.
    pub fn is_ready(&self) -> bool {
        self.shared.ready.load(Relaxed)
    }

    /// Ends it without losing a request: says that it is not ready, lets what runs finish until the
    /// deadline, and stops the watchers last. It goes on accepting for as long as that takes, so
    /// that the address is not dead; a successor that wants the addresses gets them at once.
    pub async fn drain(self) {
        let notice = self.shared.generation.load().config.drain.notice;
        self.drain_after(notice).await;
    }

    /// The same with a notice of its own.
    pub async fn drain_after(self, notice: Duration) {
        let deadline = self.shared.generation.load().config.drain.deadline;
        self.shared.draining.store(true, Relaxed);
        self.shared.ready.store(false, Relaxed);
        tracing::info!(?notice, ?deadline, "draining");
        let noticed = tokio::time::sleep(notice);
        self.handover.run_until_cancelled(noticed).await;
        let finished = CancellationToken::new();
        let finishing = async {
            let cut = self.workers.finish(deadline, &self.handover).await;
            finished.cancel();
            cut
        };
        let ending = async {
            tokio::select! {
                () = self.handover.cancelled() => {
                    tracing::info!("a successor has the addresses now");
                }
                () = finished.cancelled() => {}
            }
            self.shared.directory().stop().await;
            self.tasks.end().await;
        };
        let (cut, ()) = tokio::join!(finishing, ending);
        if cut > 0 {
            tracing::warn!(connections = cut, "cut at the drain deadline");
        }
        tracing::info!("gone");
    }
}

/// The control plane's tasks, but for the watchers of services.
#[derive(Default)]
struct ControlTasks {
    ending: CancellationToken,
    tasks: Vec<JoinHandle<()>>,
}

impl ControlTasks {
    /// Begins a task, which ends when its token is cancelled.
    fn spawn<T>(&mut self, task: impl FnOnce(CancellationToken) -> T)
    where
        T: Future<Output = ()> + Send + 'static,
    {
        self.tasks.push(tokio::spawn(task(self.ending.clone())));
    }

    /// Begins the tasks that follow what the registries say.
    fn follow(&mut self, shared: &Arc<Shared>, snapshot: Option<Arc<Store>>) {
        let state = Arc::clone(shared);
        self.spawn(|ending| follow_tags(state, ending));
        if let Some(store) = snapshot {
            let state = Arc::clone(shared);
            let directory = move || state.directory();
            self.spawn(|ending| discovery::keep(directory, store, ending));
        }
        let state = Arc::clone(shared);
        self.spawn(|ending| become_ready(state, ending));
    }

    /// Ends them all.
    async fn end(self) {
        self.ending.cancel();
        for task in self.tasks {
            if let Err(error) = task.await {
                tracing::error!(%error, "a task of the control plane failed");
            }
        }
    }
}

/// Begins the access log, where the file has one.
fn start_access_log(
    config: &Config,
) -> Result<Option<(Arc<AccessLog>, access_log::Writing)>, StartError> {
    let Some(settings) = &config.access_log else {
        return Ok(None);
    };
    let started = AccessLog::start(settings.clone());
    started.map(Some).map_err(|source| StartError::AccessLog {
        to: settings.to.to_string(),
        source,
    })
}

/// Binds the listeners of the file.
async fn bind(
    config: &Config,
    predecessor: &mut Predecessor<'_>,
    certificates: &Certificates,
) -> Result<Vec<Bound>, BindError> {
    let mut all = Vec::new();
    for listener in &config.listeners {
        let mut bound = predecessor.listener(listener, config.workers.get()).await?;
        bound.entrance.tls = certificates.of(listener);
        all.push(bound);
    }
    Ok(all)
}

/// Registries by their names in the file.
type Registries = BTreeMap<Arc<str>, Arc<dyn Registry>>;

/// Opens the registries of the file that are elsewhere.
fn open_registries(config: &Config) -> Result<Registries, BuildError> {
    let mut registries = Registries::new();
    for (name, registry) in &config.registries {
        if !matches!(registry.kind, RegistryKind::Embedded(_)) {
            let opened = registry::open(name, &registry.kind)?;
            registries.insert(Arc::clone(name), opened);
        }
    }
    Ok(registries)
}

/// Begins to serve the embedded registry, where the file has one, and adds it to the others; it leads to the
/// admin server. Its address is returned with them.
async fn serve_embedded(
    config: &Config,
    mut registries: Registries,
    admin: SocketAddr,
    predecessor: &mut Predecessor<'_>,
    tasks: &mut ControlTasks,
) -> Result<(Registries, Option<SocketAddr>), StartError> {
    let mut embedded_at = None;
    for (name, registry) in &config.registries {
        if let RegistryKind::Embedded(settings) = &registry.kind {
            let server = predecessor
                .after(async || embedded::Server::bind(settings).await)
                .await?;
            embedded_at = Some(server.address());
            server.leads_to(admin);
            registries.insert(Arc::clone(name), server.reader());
            tasks.spawn(|ending| server.run(ending));
        }
    }
    Ok((registries, embedded_at))
}

/// Where the last good sets are kept; nowhere, where no registry can be away without the proxy.
fn store(config: &Config) -> Option<Arc<Store>> {
    let mut registries = config.registries.values();
    let settings = config.snapshot.as_ref()?;
    registries
        .any(|registry| registry.kind.is_elsewhere())
        .then(|| {
            let (file, max_age) = (settings.file.clone(), settings.max_age);
            Arc::new(Store::new(file, max_age, identities(config)))
        })
}

/// Makes a new generation whenever the routes that tags make have changed.
async fn follow_tags(shared: Arc<Shared>, ending: CancellationToken) {
    let mut changes = shared.directory().tagged_changes();
    loop {
        // Once at the beginning, too: something may have changed before this began to listen.
        shared.update(Generation::with_tags_of_now);
        tokio::select! {
            () = ending.cancelled() => return,
            Ok(()) = changes.changed() => {}
        }
    }
}

/// What is known from before the start serves at once, but is ready only when its registry has
/// answered, or failed, or after so long: one that refuses our token is seen by then.
const CONFIRMED: Duration = Duration::from_secs(1);

/// Ready when everything declared was read once; after `admin.ready_timeout` all the same, with the
/// missing ones named, so that one dead registry does not hold the others' traffic.
async fn become_ready(shared: Arc<Shared>, ending: CancellationToken) {
    let began = Instant::now();
    let late = began + shared.generation.load().config.admin.ready_timeout;
    let confirmed = began + CONFIRMED;
    let mut directory = shared.directory();
    let mut heard = directory.heard();
    let mut awaited = directory.awaited();
    loop {
        let now = Instant::now();
        let current = shared.directory();
        if !Arc::ptr_eq(&current, &directory) {
            (awaited, directory) = (current.awaited(), current);
        }
        // What was read once stays so: one that was not is enough to know.
        while awaited.last().is_some_and(|service| service.is_settled()) {
            awaited.pop();
        }
        let is_late = now >= late;
        let unread = match awaited.is_empty() || is_late {
            true => directory.unread(),
            false => Vec::new(),
        };
        let is_read = awaited.is_empty() && unread.is_empty();
        let waits = || now < confirmed && directory.is_unconfirmed();
        if is_late || (is_read && !waits()) {
            if unread.is_empty() {
                tracing::info!("ready");
            } else {
                tracing::warn!(missing = %unread.join(", "), "ready, though not everything could be read");
            }
            if !shared.draining.load(Relaxed) {
                shared.ready.store(true, Relaxed);
            }
            return;
        }
        let next = match now < confirmed {
            true => confirmed.min(late),
            false => late,
        };
        tokio::select! {
            () = ending.cancelled() => return,
            Ok(()) = heard.changed() => {}
            () = sleep_until(next) => {}
        }
    }
}
