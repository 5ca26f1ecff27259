//! One service: its name, its policy, its snapshot and the board behind it.

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

use arc_swap::ArcSwap;
use tokio::{sync::watch, time::Instant};

use super::{Balancer, Endpoint, Lane, Snapshot, board::Board};

use crate::{
    config,
    instance::InstanceSet,
    metrics::Padded,
    registry::{Usage, watch::WatchStatus},
    upstream::Pool,
};

/// A name, a policy and its endpoints.
#[derive(Debug)]
pub struct Service {
    name: Arc<str>,
    policy: config::Service,
    snapshot: ArcSwap<Snapshot>,
    balancer: Balancer,
    lanes: Box<[Arc<Padded<Lane>>]>,
    board: Mutex<Board>,
    /// Whether the registry was ever read: for requests, and for whoever waits for it.
    is_read: AtomicBool,
    read: watch::Sender<bool>,
    watch: Arc<WatchStatus>,
    usage: Arc<Usage>,
}

impl Service {
    /// A service of which nothing is known yet, for `workers` workers.
    pub fn new(name: Arc<str>, policy: config::Service, workers: usize) -> Self {
        Self {
            snapshot: ArcSwap::default(),
            balancer: Balancer::new(policy.balance),
            lanes: (0..workers)
                .map(|_| Arc::new(Padded(Lane::new(policy.retry, workers))))
                .collect(),
            board: Mutex::new(Board::new(workers)),
            is_read: AtomicBool::new(false),
            read: watch::Sender::new(false),
            watch: Arc::new(WatchStatus::new(
                Arc::clone(&policy.registry),
                Some(Arc::clone(&name)),
            )),
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

    /// When it was last called: for its registry, and noted by each request.
    pub fn usage(&self) -> &Arc<Usage> {
        &self.usage
    }

    /// What is known of its watcher.
    pub fn watch(&self) -> &Arc<WatchStatus> {
        &self.watch
    }

    /// Whether the registry was ever read.
    pub fn is_read(&self) -> bool {
        self.is_read.load(Acquire)
    }

    /// Whether nobody can be picked.
    pub fn is_empty(&self) -> bool {
        self.snapshot.load().endpoints.is_empty()
    }

    /// Waits until the registry was read once, but not for longer than `limit`.
    pub async fn wait_until_read(&self, limit: Duration) {
        let mut read = self.read.subscribe();
        // Too late is as good as read: the snapshot, empty or not, is then what there is.
        let _ = tokio::time::timeout(limit, read.wait_for(|read| *read)).await;
    }

    /// Picks an endpoint other than those of `tried`, without a lock, and returns its pool on
    /// this worker. `None` where there is no other.
    pub fn pick(&self, worker: usize, tried: &[Arc<Pool>], now: Instant) -> Option<Arc<Pool>> {
        let snapshot = self.snapshot.load();
        let was_tried = |endpoint: &Endpoint| {
            tried
                .iter()
                .any(|pool| Arc::ptr_eq(pool, endpoint.pool(worker)))
        };
        // The pool's count of references is this worker's alone; the endpoint's would be shared.
        self.balancer
            .pick(&snapshot, was_tried, now)
            .map(|endpoint| Arc::clone(endpoint.pool(worker)))
    }

    /// Notes how connecting to an endpoint went that began then.
    pub fn connected(&self, worker: usize, pool: &Arc<Pool>, worked: bool, began: Instant) {
        let snapshot = self.snapshot.load();
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

    /// Takes over what the registry says; called by the watcher alone. Returns whether the guard
    /// doubts it, and holds endpoints that must then be watched over.
    pub(super) fn update(&self, set: InstanceSet) -> bool {
        let mut board = self.board();
        let doubted = board.take_over(&set.instances, &self.policy);
        self.publish(&board);
        drop(board);
        self.watch.set_skipped(set.skipped);
        self.is_read.store(true, Release);
        self.read.send_replace(true);
        doubted
    }

    /// What its registry said last is too old to be believed: nobody is left.
    pub(super) fn give_up(&self) {
        let mut board = self.board();
        board.give_up(&self.policy);
        self.publish(&board);
    }

    /// Publishes what the board has, if it differs.
    pub(super) fn publish(&self, board: &Board) {
        let snapshot = board.snapshot();
        let current = self.snapshot.load();
        let same = |a: &[Arc<Endpoint>], b: &[Arc<Endpoint>]| {
            a.len() == b.len() && std::iter::zip(a, b).all(|(a, b)| Arc::ptr_eq(a, b))
        };
        if !same(&current.endpoints, &snapshot.endpoints)
            || !same(&current.resting, &snapshot.resting)
        {
            self.snapshot.store(Arc::new(snapshot));
        }
    }

    pub(super) fn board(&self) -> MutexGuard<'_, Board> {
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Closes one worker's idle connections that are too old or were closed by their endpoint.
    pub fn sweep(&self, worker: usize, now: Instant) {
        let snapshot = self.snapshot.load();
        for endpoint in snapshot.endpoints.iter().chain(&snapshot.resting) {
            endpoint.pool(worker).sweep(now);
        }
    }
}
