//! A reload: the file is read again, and what it says takes the place of what runs. All or nothing:
//! whatever can fail comes first, and a file with an error changes nothing.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant, SystemTime},
};

use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::{task::spawn_blocking, time::interval};
use tokio_util::sync::CancellationToken;

use super::{
    at_run_time,
    followed::{Followed, Stamps, is_due},
    listeners::Listeners,
    parts::Parts,
    supervisor::Supervisor,
};
use crate::{
    admin::{LastReload, Reload, ReloadError, ReloadStatus},
    config::{Changes, Config, Report},
    discovery::Directory,
    proxy::{Generation, Shared},
    registry::{self, Registry},
    saved::Store,
};

/// How often it is looked whether the file has changed, where that is wanted, and whether a generation
/// of the past is used by no request any more.
const PACE: Duration = Duration::from_secs(1);

/// Where a configuration comes from, to be read again.
pub struct Source {
    path: PathBuf,
    read: Box<Read>,
    /// The file, and those that it includes, as they were before they were read the first time. What changes
    /// between that and the first look, as while a new process waits for the one before, is a change.
    found: (Followed, Stamps),
}

/// Reads a configuration file.
type Read = dyn Fn(&Path) -> Result<Config, Report> + Send + Sync;

impl Source {
    /// A file, which is read in this way. Looks at it, and is to be made before it is read.
    pub fn new(
        path: PathBuf,
        read: impl Fn(&Path) -> Result<Config, Report> + Send + Sync + 'static,
    ) -> Self {
        Self {
            found: Followed::new(&path).look_now(),
            read: Box::new(read),
            path,
        }
    }

    /// The same, where what was read is changed by this.
    pub fn then(self, change: impl Fn(&mut Config) + Send + Sync + 'static) -> Self {
        let read = self.read;
        let read = move |path: &Path| {
            let mut config = read(path)?;
            change(&mut config);
            Ok(config)
        };
        Self {
            read: Box::new(read),
            ..self
        }
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What it says now.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn read(&self) -> Result<Config, Report> {
        (self.read)(&self.path)
    }
}

/// Reloads, one at a time.
#[derive(Clone)]
pub(super) struct Reloader(Arc<Inner>);

struct Inner {
    source: Option<Source>,
    shared: Arc<Shared>,
    parts: Parts,
    snapshot: Option<Arc<Store>>,
    /// Those that are open, by name. Held while a reload is under way.
    registries: Mutex<BTreeMap<Arc<str>, Arc<dyn Registry>>>,
    status: Mutex<ReloadStatus>,
    supervisor: Supervisor,
}

impl Reloader {
    pub(super) fn new(
        source: Option<Source>,
        shared: Arc<Shared>,
        parts: Parts,
        snapshot: Option<Arc<Store>>,
        registries: BTreeMap<Arc<str>, Arc<dyn Registry>>,
        supervisor: Supervisor,
    ) -> Self {
        Self(Arc::new(Inner {
            source,
            shared,
            parts,
            snapshot,
            registries: Mutex::new(registries),
            status: Mutex::default(),
            supervisor,
        }))
    }

    /// Reloads whenever the file, or one that it includes, is another one, while `watch_config` is set.
    pub(super) async fn follow_file(self, ending: CancellationToken) {
        let Some(source) = &self.0.source else {
            return;
        };
        // A disk that does not answer holds no exit up.
        ending.run_until_cancelled(self.follow(source)).await;
    }

    async fn follow(&self, source: &Source) {
        let mut tick = interval(PACE);
        let (mut followed, mut used) = source.found.clone();
        let mut seen = used.clone();
        loop {
            tick.tick().await;
            if !self.0.shared.generation.load().config.watch_config {
                continue;
            }
            let now;
            (followed, now) = followed.look().await;
            let is_due = is_due(source.path(), &used, &seen, &now);
            seen = now;
            // An upgrade that fails leaves the file to this process.
            let is_upgrading = self.0.parts.listeners.turn.try_lock().is_err();
            if is_due && !is_upgrading {
                // What came of it is in the log.
                let done = self.reload(false).await;
                if !matches!(done, Err(ReloadError::Upgrading)) {
                    used.clone_from(&seen);
                }
            }
        }
    }
}

impl Reload for Reloader {
    fn reload(&self, dry_run: bool) -> BoxFuture<'static, Result<Changes, ReloadError>> {
        let inner = Arc::clone(&self.0);
        Box::pin(async move {
            // Reading a large file takes its time.
            let reloading = spawn_blocking(move || inner.reload(dry_run));
            let failed =
                |panic: tokio::task::JoinError| Err(ReloadError::Failed(panic.to_string()));
            reloading.await.unwrap_or_else(failed)
        })
    }

    fn status(&self) -> ReloadStatus {
        self.0.status.lock().clone()
    }
}

impl Inner {
    fn reload(&self, dry_run: bool) -> Result<Changes, ReloadError> {
        let mut registries = self.registries.lock();
        let began = Instant::now();
        if dry_run {
            return self.take_over(&mut registries, dry_run);
        }
        // One that is not ready yet has not told its supervisor of its start.
        let is_told = self.shared.ready.load(Relaxed) && !self.shared.draining.load(Relaxed);
        if is_told {
            self.supervisor.reloading();
        }
        let done = self.take_over(&mut registries, dry_run);
        self.note(&done, began.elapsed());
        if is_told && !self.shared.draining.load(Relaxed) {
            self.supervisor.ready();
        }
        done
    }

    fn take_over(
        &self,
        opened: &mut BTreeMap<Arc<str>, Arc<dyn Registry>>,
        dry_run: bool,
    ) -> Result<Changes, ReloadError> {
        if self.shared.draining.load(Relaxed) {
            return Err(ReloadError::Draining);
        }
        let source = self.source.as_ref().ok_or(ReloadError::NoFile)?;
        let read = source.read().map_err(ReloadError::File)?;
        // Reading may have taken long.
        if self.shared.draining.load(Relaxed) {
            return Err(ReloadError::Draining);
        }
        let turn = self.parts.listeners.turn.try_lock();
        let _turn = turn.map_err(|_| ReloadError::Upgrading)?;
        let running = Arc::clone(&self.shared.generation.load().config);
        if let Some(why) = running.refuses(&read) {
            return Err(ReloadError::Refused(why));
        }
        let mut changes = Changes::between(&running, &read);
        changes.note_snapshot_of_none(self.snapshot.is_some(), &read);
        let next = Arc::new(read.in_place_of(&running));
        let registries = open(&running, &next, opened)?;
        let failed = |error: crate::discovery::StartError| ReloadError::Failed(error.to_string());
        let directory = self.shared.directory();
        changes.at_run_time = at_run_time::changes(&directory, &self.parts.log, &next);
        let prepared = Directory::prepare(&directory, &next, registries.clone()).map_err(failed)?;
        if dry_run {
            return self.parts.try_next(&next).map(|()| changes);
        }
        // Last of all that can fail: clients come from here on.
        let beside = self.parts.open(&next)?;
        // So may the disk have taken long by now, and a successor comes for the addresses.
        if self.shared.draining.load(Relaxed) {
            return Err(ReloadError::Draining);
        }
        let succession = self.shared.try_update(|current| {
            let succession = Directory::after(&current.directory, &next, prepared);
            let succession = succession.map_err(failed)?;
            let directory = succession.directory();
            let generation = Generation::after(current, Arc::clone(&next), directory);
            Ok((generation, succession))
        })?;
        self.parts.change(beside, &next);
        succession.begin();
        *opened = registries;
        if let Some(store) = &self.snapshot {
            store.follow(identities(&next));
        }
        Ok(changes)
    }

    fn note(&self, done: &Result<Changes, ReloadError>, took: Duration) {
        let mut status = self.status.lock();
        match done {
            Ok(changes) => {
                status.applied += 1;
                tracing::info!(
                    milliseconds = took.as_millis() as u64,
                    added = changes.added.len(),
                    removed = changes.removed.len(),
                    changed = changes.changed.len(),
                    "reloaded"
                );
                if !changes.at_run_time.is_empty() {
                    let what = changes.at_run_time.join("; ");
                    tracing::warn!(what, "changed at run time, which the file does not say");
                }
                if !changes.at_next_start.is_empty() {
                    let what = changes.at_next_start.join(", ");
                    tracing::warn!(
                        what,
                        "changed in the file, and takes effect at the next start"
                    );
                }
            }
            Err(error) => {
                status.failed += 1;
                let error = error.in_a_line();
                tracing::error!(error, "not reloaded: what ran before goes on");
            }
        }
        status.last = Some(LastReload {
            at: SystemTime::now(),
            took,
            error: done.as_ref().err().map(ReloadError::in_a_line),
            changes: done.as_ref().ok().cloned(),
        });
    }
}

/// The registries of the next config: those with the same settings as they are, and the others anew.
fn open(
    running: &Config,
    next: &Config,
    opened: &BTreeMap<Arc<str>, Arc<dyn Registry>>,
) -> Result<BTreeMap<Arc<str>, Arc<dyn Registry>>, ReloadError> {
    let mut registries = BTreeMap::new();
    for (name, settings) in &next.registries {
        let before = running.registries.get(name);
        let is_same = before.is_some_and(|before| before.kind == settings.kind);
        let registry = match opened.get(name).filter(|_| is_same) {
            Some(same) => Arc::clone(same),
            None => registry::open(name, &settings.kind)
                .map_err(|error| ReloadError::Failed(format!("registry.{name}: {error}")))?,
        };
        registries.insert(Arc::clone(name), registry);
    }
    Ok(registries)
}

/// Which registry has which name.
pub(super) fn identities(config: &Config) -> BTreeMap<Arc<str>, String> {
    let named = config.registries.iter();
    let named = named.map(|(name, registry)| (Arc::clone(name), registry.kind.identity()));
    named.collect()
}

/// Lets go of the generations that no request uses any more, and of the listeners whose last connection is
/// gone.
pub(super) async fn forget_past(
    shared: Arc<Shared>,
    listeners: Arc<Listeners>,
    ending: CancellationToken,
) {
    let mut tick = interval(PACE);
    while ending.run_until_cancelled(tick.tick()).await.is_some() {
        shared.forget_past();
        listeners.forget_gone();
    }
}
