//! One service: its name, its policy, its views and the board behind them.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{
            AtomicBool,
            Ordering::{Acquire, Release},
        },
    },
    time::Duration,
};

use tokio::{sync::watch, time::Instant};

use super::{Lane, View, board::Board, listing::Listing};
use crate::{
    config::{self, Subset},
    instance::{Instance, InstanceSet},
    metrics::Padded,
    registry::{
        Usage,
        watch::{Event, WatchStatus},
    },
    upstream::{Pool, Tls},
};

/// A name, a policy and its endpoints.
#[derive(Debug)]
pub struct Service {
    name: Arc<str>,
    policy: config::Service,
    /// All endpoints.
    main: View,
    /// Those of them that routes select.
    views: Box<[View]>,
    lanes: Box<[Arc<Padded<Lane>>]>,
    board: Mutex<Board>,
    /// Whether there is a set: for requests, and for whoever waits for it.
    is_read: AtomicBool,
    read: watch::Sender<bool>,
    listing: Mutex<Listing>,
    /// One for each of its registries, in their order.
    watches: Box<[Arc<WatchStatus>]>,
    usage: Arc<Usage>,
}

impl Service {
    /// A service of which nothing is known yet, for `workers` workers and for routes that want
    /// these subsets. `tls` is what its policy says of it.
    pub fn new(
        name: Arc<str>,
        policy: config::Service,
        tls: Arc<Tls>,
        workers: usize,
        subsets: impl IntoIterator<Item = Arc<Subset>>,
    ) -> Self {
        let view = |subset| View::new(subset, policy.balance);
        Self {
            main: view(None),
            views: subsets.into_iter().map(Some).map(view).collect(),
            lanes: (0..workers)
                .map(|_| Arc::new(Padded(Lane::new(policy.retry, workers))))
                .collect(),
            board: Mutex::new(Board::new(workers, tls)),
            is_read: AtomicBool::new(false),
            read: watch::Sender::new(false),
            listing: Mutex::new(Listing::new(&policy.origin)),
            watches: policy
                .origin
                .registries()
                .iter()
                .map(|registry| WatchStatus::new(Arc::clone(registry), Some(Arc::clone(&name))))
                .map(Arc::new)
                .collect(),
            usage: Arc::default(),
            name,
            policy,
        }
    }

    /// Its name, as routes have it.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// What it does with its requests.
    pub fn policy(&self) -> &config::Service {
        &self.policy
    }

    /// The name that its registry knows it by.
    pub fn registered_name(&self) -> &str {
        self.policy.name.as_deref().unwrap_or(&self.name)
    }

    /// One worker's counters and retry budget.
    pub fn lane(&self, worker: usize) -> &Arc<Padded<Lane>> {
        &self.lanes[worker]
    }

    /// All workers' counters.
    pub fn lanes(&self) -> impl Iterator<Item = &Lane> {
        self.lanes.iter().map(|lane| &***lane)
    }

    /// When it was last called: for its registries, and noted by each request.
    pub fn usage(&self) -> &Arc<Usage> {
        &self.usage
    }

    /// What is known of its watchers, one for each of its registries, in their order.
    pub fn watches(&self) -> &[Arc<WatchStatus>] {
        &self.watches
    }

    /// Whether one of its registries has neither answered nor failed yet.
    pub fn is_awaited(&self) -> bool {
        self.listing().is_awaited()
    }

    /// Whether there is a set, be it empty.
    pub fn is_read(&self) -> bool {
        self.is_read.load(Acquire)
    }

    /// Whether nobody can be picked.
    pub fn is_empty(&self) -> bool {
        self.main.is_empty()
    }

    /// All of its endpoints.
    pub fn main(&self) -> &View {
        &self.main
    }

    /// The subsets of them that routes want.
    pub fn views(&self) -> &[View] {
        &self.views
    }

    /// Waits until the registry was read once, but not for longer than `limit`.
    pub async fn wait_until_read(&self, limit: Duration) {
        let mut read = self.read.subscribe();
        // Too late is as good as read: the snapshot, empty or not, is then what there is.
        let _ = tokio::time::timeout(limit, read.wait_for(|read| *read)).await;
    }

    /// Notes how connecting to an endpoint went that began then. Rare, where connections are kept.
    #[cold]
    pub fn connected(&self, worker: usize, pool: &Arc<Pool>, worked: bool, began: Instant) {
        let snapshot = self.main.snapshot();
        let endpoint = snapshot
            .endpoints
            .iter()
            .find(|endpoint| Arc::ptr_eq(endpoint.pool(worker), pool));
        match endpoint {
            Some(endpoint) if worked => endpoint.connected(),
            Some(endpoint) => endpoint.connect_failed(began, Instant::now()),
            None => {}
        }
    }

    /// Takes over what a registry, by its place in the list, has to say; called by its watcher
    /// alone. Returns whether the guard doubts it, and holds endpoints that must then be watched
    /// over.
    pub(super) fn hear(&self, from: usize, event: Event<InstanceSet>) -> bool {
        if let Event::State(set) = &event {
            self.watches[from].set_skipped(set.skipped.clone());
        }
        // Held until the board has it: what is heard later is taken over later.
        let mut listing = self.listing();
        let update = listing.hear(from, event, &self.policy);
        update.is_some_and(|update| self.update(&update.instances, update.doubtable))
    }

    /// Takes over a set. Returns whether the guard doubts it, and holds endpoints that must then
    /// be watched over.
    pub(super) fn update(&self, instances: &[Instance], doubtable: bool) -> bool {
        let mut board = self.board();
        let doubted = board.take_over(instances, doubtable, &self.policy);
        self.publish(&mut board);
        drop(board);
        self.is_read.store(true, Release);
        self.read.send_replace(true);
        doubted
    }

    /// Publishes what the board has, and then retires who is in no view any more.
    pub(super) fn publish(&self, board: &mut Board) {
        for view in std::iter::once(&self.main).chain(&self.views) {
            view.publish(board);
        }
        board.retire_the_leaving();
    }

    pub(super) fn board(&self) -> MutexGuard<'_, Board> {
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn listing(&self) -> MutexGuard<'_, Listing> {
        self.listing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Closes one worker's idle connections that are too old or were closed by their endpoint.
    pub fn sweep(&self, worker: usize, now: Instant) {
        let snapshot = self.main.snapshot();
        for endpoint in snapshot.endpoints.iter().chain(&snapshot.resting) {
            endpoint.pool(worker).sweep(now);
        }
    }
}
