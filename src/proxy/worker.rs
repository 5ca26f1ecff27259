//! What a request knows of the process and of the core that serves it.

use std::{
    convert::Infallible,
    ops::Deref,
    sync::{
        Arc,
        atomic::{
            AtomicBool, AtomicU64,
            Ordering::{Acquire, Relaxed, Release},
        },
    },
};

use arc_swap::{ArcSwap, ArcSwapOption};
use parking_lot::Mutex;

use super::{Generation, header_counts::HeaderCounts};
use crate::{
    access_log::{AccessLogs, Lines},
    acme::Challenges,
    discovery::Directory,
    metrics::Counter,
};

/// What all workers share.
pub struct Shared {
    /// The current generation; see [`Shared::update`].
    pub generation: ArcSwap<Generation>,
    /// How many there were before it, for workers to find out cheaply whether there is another.
    number: AtomicU64,
    /// Has changes of the generation come one after the other.
    updating: Mutex<()>,
    /// Those before it, which requests may still use. The control plane lets go of them: no worker
    /// has the time to.
    past: Mutex<Vec<Arc<Generation>>>,
    /// Whether the process is on its way out: every answer then ends its connection.
    pub draining: AtomicBool,
    /// Whether the proxy may be sent traffic.
    pub ready: AtomicBool,
    /// The access log, where there is one.
    pub(crate) access_logs: Arc<AccessLogs>,
    /// The proofs that an authority may ask for.
    pub(crate) challenges: Arc<Challenges>,
    /// This proxy's name in `Via`: a request that bears it has been here before.
    pub pseudonym: String,
}

impl Shared {
    /// For a proxy that begins with `generation`.
    pub(crate) fn new(generation: Generation, access_logs: Arc<AccessLogs>) -> Self {
        Self {
            generation: ArcSwap::from_pointee(generation),
            number: AtomicU64::new(0),
            updating: Mutex::default(),
            past: Mutex::default(),
            draining: AtomicBool::new(false),
            ready: AtomicBool::new(false),
            access_logs,
            challenges: Arc::default(),
            pseudonym: format!("callboard-{:08x}", fastrand::u32(..)),
        }
    }

    /// The same, with listeners that give these proofs to an authority of certificates.
    pub(crate) fn proving(self, challenges: &Arc<Challenges>) -> Self {
        let challenges = Arc::clone(challenges);
        Self { challenges, ..self }
    }

    /// Has another generation take the place of the current one, of which it is made.
    pub fn update(&self, make: impl FnOnce(&Generation) -> Generation) {
        let made: Result<(), Infallible> = self.try_update(|current| Ok((make(current), ())));
        let Ok(()) = made;
    }

    /// The same where it may be that there can be none. What is made with it is returned once requests
    /// go by it.
    ///
    /// # Errors
    /// Why not; then nothing has changed.
    pub fn try_update<T, E>(
        &self,
        make: impl FnOnce(&Generation) -> Result<(Generation, T), E>,
    ) -> Result<T, E> {
        let _turn = self.updating.lock();
        let current = self.generation.load_full();
        let (next, with_it) = make(&current)?;
        self.past.lock().push(current);
        self.generation.store(Arc::new(next));
        self.number.fetch_add(1, Release);
        Ok(with_it)
    }

    /// Lets go of those before the current generation that no request uses any more.
    pub fn forget_past(&self) {
        let is_over = |past: &mut Arc<Generation>| Arc::strong_count(past) == 1;
        // Dropped outside of the lock: that of many routes takes a while.
        let over: Vec<_> = self.past.lock().extract_if(.., is_over).collect();
        drop(over);
    }

    /// All services of the current generation.
    pub fn directory(&self) -> Arc<Directory> {
        Arc::clone(&self.generation.load().directory)
    }
}

/// One core of the data plane, as a request sees it.
pub struct Worker {
    /// From 0.
    pub index: usize,
    /// What all workers share.
    pub shared: Arc<Shared>,
    /// Milliseconds since the worker began, as of its last tick, and fewer where it was held up:
    /// exact enough for time-outs of seconds, and free.
    pub clock: AtomicU64,
    /// Requests that no route takes.
    pub unrouted: Counter,
    /// Requests that were refused for what they are.
    pub refused: Counter,
    /// Connections that were not let in, since their address had too many.
    pub turned_away: Counter,
    /// What is spoken of HTTP/2.
    pub http2: Http2Counts,
    /// What became of the PROXY headers of its connections.
    pub proxy_headers: HeaderCounts,
    /// Its lines of the access log, where there is one; see [`Worker::follow_access_log`].
    pub(crate) access_log: ArcSwapOption<Lines>,
    /// Whether there may be one: a look at it costs nothing, and taking it does.
    may_log: AtomicBool,
    /// Lines of the access log that were made.
    pub logged: Counter,
    pinned: Mutex<Arc<Pinned>>,
}

/// Clients of HTTP/2, and what becomes of them.
#[derive(Debug, Default)]
pub struct Http2Counts {
    /// Connections that are open.
    pub connections: Counter,
    /// Requests whose streams are open.
    pub streams: Counter,
    /// Requests in all.
    pub requests: Counter,
    /// Streams that were ended, since their clients were late with a request's body, or did not take their
    /// answers.
    pub late: Counter,
    /// Connections that were ended for a flood of frames that ask for nothing.
    pub floods: Counter,
}

/// A generation, counted by references of one worker's own: the shared count would be fought
/// over by all of them.
pub struct Pinned {
    generation: Arc<Generation>,
    number: u64,
}

impl Pinned {
    fn current(shared: &Shared) -> Self {
        // Before the generation, which is of this number then, or a later one.
        let number = shared.number.load(Acquire);
        Self {
            generation: shared.generation.load_full(),
            number,
        }
    }
}

impl Deref for Pinned {
    type Target = Generation;

    fn deref(&self) -> &Generation {
        &self.generation
    }
}

impl Worker {
    /// The worker with this index.
    pub fn new(index: usize, shared: Arc<Shared>) -> Self {
        let lines = shared.access_logs.lines();
        Self {
            index,
            pinned: Mutex::new(Arc::new(Pinned::current(&shared))),
            shared,
            clock: AtomicU64::new(0),
            unrouted: Counter::default(),
            refused: Counter::default(),
            turned_away: Counter::default(),
            http2: Http2Counts::default(),
            proxy_headers: HeaderCounts::default(),
            may_log: AtomicBool::new(lines.is_some()),
            access_log: ArcSwapOption::new(lines),
            logged: Counter::default(),
        }
    }

    /// Has its new requests go by the access log of the moment. Those under way go on by the one before.
    pub(crate) fn follow_access_log(&self) {
        let lines = self.shared.access_logs.lines();
        let may_log = lines.is_some();
        let before = self.access_log.swap(lines);
        self.may_log.store(may_log, Relaxed);
        if let Some(lines) = before {
            lines.retire();
        }
    }

    /// The lines of the access log that a new request goes by.
    pub(super) fn lines(&self) -> Option<Arc<Lines>> {
        let may_log = self.may_log.load(Relaxed);
        may_log.then(|| self.access_log.load_full()).flatten()
    }

    /// The current generation: a request goes by one alone. The lock is this worker's alone, and so never contended.
    pub fn generation(&self) -> Arc<Pinned> {
        let mut pinned = self.pinned.lock();
        if pinned.number != self.shared.number.load(Relaxed) {
            *pinned = Arc::new(Pinned::current(&self.shared));
        }
        Arc::clone(&pinned)
    }

    /// The worker's time, for what is noted of connections: 0 is never now.
    pub fn now(&self) -> u64 {
        self.clock.load(Relaxed) + 1
    }
}

#[cfg(test)]
impl Worker {
    /// The worker of a proxy that knows no service and answers with 404.
    pub(crate) fn without_services() -> Arc<Self> {
        use crate::{config::Config, saved};
        let route = "[[route]]\nservice = \"{service}\"\npath = \"/{service}\"\n";
        let mut config = Config::parse(route, std::path::Path::new(".")).unwrap();
        config.routes.clear();
        let saved = saved::Contents::default();
        let directory = Directory::start(&config, std::collections::BTreeMap::new(), &saved);
        let generation = Generation::new(Arc::new(config), directory.unwrap());
        let shared = Shared::new(generation, Arc::default());
        Arc::new(Self::new(0, Arc::new(shared)))
    }
}
