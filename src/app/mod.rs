//! The process: build → run → drain.

mod at_run_time;
mod certificates;
mod doors;
mod followed;
mod listeners;
mod orders;
mod parts;
mod predecessor;
mod ready;
mod reload;
mod start_error;
mod supervised;
mod supervisor;
mod tasks;
mod upgrade;
mod watchdog;

use std::{
    net::SocketAddr,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use tokio_util::sync::CancellationToken;

use crate::{
    access_log::{AccessLogs, Writing},
    admin::{self, LogLevel, Reload as _, Upgrade as _},
    config::{Config, ListenAddress},
    discovery::Directory,
    proxy::{Generation, Shared, Worker},
    saved::Store,
    worker::Workers,
};
use doors::Doors;
use listeners::Listeners;
use orders::Orders;
use parts::Parts;
use predecessor::Predecessor;
pub use reload::Source;
use reload::{Reloader, forget_past, identities};
pub use start_error::StartError;
use supervisor::Supervisor;
use tasks::ControlTasks;
pub use upgrade::{Complaint, Origin};
use upgrade::{Sockets, Upgrader};

/// A proxy that runs.
pub struct App {
    shared: Arc<Shared>,
    workers: Workers,
    listeners: Arc<Listeners>,
    admin: SocketAddr,
    registry: Option<SocketAddr>,
    /// A successor wants the addresses of one that drains.
    handover: CancellationToken,
    reloader: Reloader,
    log: LogLevel,
    upgrader: Upgrader,
    snapshot: Option<Arc<Store>>,
    supervisor: Supervisor,
    tasks: ControlTasks,
    /// Dropped last: what the workers have logged is written then.
    _writing: Writing,
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
        let log = LogLevel::fixed(&config.log);
        Self::start_as(config, source, Origin::default(), log).await
    }

    /// The same as a process of this origin, whose place a new binary can take, and whose log can go by
    /// another level while it runs. Where it takes another one's, it returns when that one has let go.
    ///
    /// # Errors
    /// As for [`Self::start`], and where the process before has given it up.
    pub async fn start_as(
        config: Config,
        source: Option<Source>,
        mut origin: Origin,
        log: LogLevel,
    ) -> Result<Self, StartError> {
        let config = Arc::new(config);
        let access_logs = start_access_log(&config)?;
        let mut predecessor = Predecessor::of(&mut origin, &config.admin).await?;
        let mut tasks = ControlTasks::default();
        let challenges = Arc::default();
        let doors = Doors::open(&config, &challenges, &mut predecessor, &mut tasks).await?;
        let orders = Orders::new(&config, &challenges);
        let (handover, supervisor) = (CancellationToken::new(), origin.supervisor.clone());
        let snapshot = store(&config);
        let saved = predecessor.sets(&config, snapshot.as_ref()).await;
        let directory = Directory::start(&config, doors.registries.clone(), &saved)?;
        let generation = Generation::new(Arc::clone(&config), directory);
        let shared = Shared::new(generation, Arc::clone(&access_logs));
        let shared = Arc::new(shared.proving(&challenges));
        tasks.follow_tags(&shared);
        // Before clients are this process's: what fails now leaves them to the one before.
        let servers = origin.is_binary().then(|| doors.duplicate(&config));
        let servers = servers.transpose()?.unwrap_or_default();
        let workers = start_workers(&config, &shared)?;
        let (intake, lends) = (workers.intake(), origin.is_binary());
        let (bound, tls) = (&doors.bound, doors.tls);
        let listeners = Listeners::new(&config, bound, tls, challenges, intake, lends)?;
        let listeners = Arc::new(listeners);
        let until_go = predecessor.until_go(&shared, &doors.bound, doors.awaited);
        until_go.await?;
        listeners.begin(doors.bound);
        let parts = Parts::of(&listeners, &workers, &access_logs, &doors.admin, &log);
        let (of, store) = (Arc::clone(&shared), snapshot.clone());
        let (registries, told) = (doors.registries, supervisor.clone());
        let reloader = Reloader::new(source, of, parts, store, registries, told);
        let sockets = Sockets {
            listeners: Arc::clone(&listeners),
            servers,
        };
        let (of, store) = (Arc::clone(&shared), snapshot.clone());
        let upgrader = Upgrader::new(origin, of, store, sockets, handover.clone());
        let app = Self {
            listeners,
            admin: doors.admin.address(),
            registry: doors.registry.map(|registry| registry.address),
            reloader,
            log,
            upgrader,
            shared,
            workers,
            handover,
            snapshot,
            supervisor,
            tasks,
            _writing: Writing(access_logs),
        };
        Ok(app.serve(doors.admin, orders, predecessor).await)
    }

    /// Begins what goes on beside the requests.
    async fn serve(
        mut self,
        admin: admin::Server,
        orders: Orders,
        predecessor: Predecessor<'_>,
    ) -> Self {
        let listeners = || Arc::clone(&self.listeners);
        let (addresses, certificates, leaving) = (listeners(), listeners(), listeners());
        let view = admin::View {
            reload: Box::new(self.reloader.clone()),
            upgrade: Box::new(self.upgrader.clone()),
            changes: Arc::clone(self.upgrader.changes()),
            log: self.log.clone(),
            shared: Arc::clone(&self.shared),
            workers: self.workers.all().to_vec(),
            connections: Box::new(self.workers.connection_count()),
            listeners: Box::new(move || addresses.addresses()),
            leaving: Box::new(move || leaving.leaving()),
            tls: Box::new(move || certificates.certificates()),
            orders: Arc::clone(&orders.board),
            snapshot: self.snapshot.clone(),
            handover: self.handover.clone(),
        };
        self.tasks.spawn(|ending| admin.run(view, ending));
        predecessor.serves().await;
        let supervisor = self.supervisor.clone();
        self.tasks
            .follow(&self.shared, self.snapshot.clone(), supervisor);
        let (supervisor, shared) = (self.supervisor.clone(), Arc::clone(&self.shared));
        let workers = self.workers.all().to_vec();
        self.tasks
            .spawn(|ending| watchdog::keep(supervisor, shared, workers, ending));
        let shared = Arc::clone(&self.shared);
        self.tasks.spawn(|ending| orders.run(shared, ending));
        let following = self.reloader.clone();
        self.tasks.spawn(|ending| following.follow_file(ending));
        let (shared, listeners) = (Arc::clone(&self.shared), Arc::clone(&self.listeners));
        self.tasks
            .spawn(|ending| forget_past(shared, listeners, ending));
        self
    }

    /// Where it listens, in the order of the file.
    pub fn listeners(&self) -> Vec<ListenAddress> {
        self.listeners.addresses()
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

    /// Has the binary that stands at this process's path now take its place, which is to be ready within
    /// this time; what came of that is in the log. There is none where pins, drains,
    /// other weights or other shares would end with it.
    /// Dropped, an upgrade that has begun goes on.
    pub fn upgrade(&self, within: Duration) -> impl Future<Output = ()> + Send + 'static {
        let upgrading = self.upgrader.upgrade(within, false);
        async move {
            let _ = upgrading.await;
        }
    }

    /// Waits until a new process has taken this one's place, which then has to drain.
    pub async fn until_upgraded(&self) {
        self.upgrader.done().cancelled().await;
    }

    /// What has the file of the access log opened anew, for tools that have moved it, also while it
    /// drains; it says whether there is such a file.
    pub fn reopens_access_log(&self) -> impl Fn() -> bool + use<> {
        let logs = Arc::clone(&self.shared.access_logs);
        move || logs.reopen()
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
        let is_upgraded = self.upgrader.end().await;
        self.shared.draining.store(true, Relaxed);
        if is_upgraded {
            // The addresses are the new process's. A balancer that asks here hears that they are alive.
            self.workers.hand_over();
        } else {
            self.shared.ready.store(false, Relaxed);
            self.supervisor.stopping();
        }
        tracing::info!(?notice, ?deadline, "draining");
        let finished = CancellationToken::new();
        let finishing = async {
            let noticed = tokio::time::sleep(notice);
            match is_upgraded {
                // Clients end their idle connections by themselves with the next answer.
                true => noticed.await,
                false => drop(self.handover.run_until_cancelled(noticed).await),
            }
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
            if let Some(store) = &self.snapshot {
                store.hand_over();
            }
        };
        let (cut, ()) = tokio::join!(finishing, ending);
        if cut > 0 {
            tracing::warn!(connections = cut, "cut at the drain deadline");
        }
        tracing::info!("gone");
    }
}

/// Begins the access log, where the file has one.
fn start_access_log(config: &Config) -> Result<Arc<AccessLogs>, StartError> {
    let settings = config.access_log.as_ref();
    let started = AccessLogs::start(settings).map_err(|source| StartError::AccessLog {
        to: settings.map(|log| log.to.to_string()).unwrap_or_default(),
        source,
    });
    started.map(Arc::new)
}

/// Starts the workers, which accept nothing yet.
fn start_workers(config: &Config, shared: &Arc<Shared>) -> Result<Workers, StartError> {
    let workers = 0..config.workers.get();
    let workers = workers.map(|index| Arc::new(Worker::new(index, Arc::clone(shared))));
    Workers::start(workers.collect()).map_err(StartError::Worker)
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
