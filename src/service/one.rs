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
use http::HeaderValue;
use tokio::{sync::watch, time::Instant};

use super::{
    Asked, BalanceStatus, Balancer, Endpoint, Lane, Snapshot, Tally, Turn, balance::Loads,
    board::Board, listing::Listing,
};

use crate::{
    config,
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
    snapshot: ArcSwap<Snapshot>,
    balancer: Balancer,
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
    /// A service of which nothing is known yet, for `workers` workers. `tls` is what its policy
    /// says of it.
    pub fn new(name: Arc<str>, policy: config::Service, tls: Arc<Tls>, workers: usize) -> Self {
        Self {
            snapshot: ArcSwap::default(),
            balancer: Balancer::new(&name, &policy.balance),
            lanes: (0..workers)
                .map(|_| Arc::new(Padded(Lane::new(policy.retry, workers))))
                .collect(),
            board: Mutex::new(Board::new(workers, tls, Loads::of(&policy.balance))),
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
        self.snapshot.load().endpoints.is_empty()
    }

    /// Waits until the registry was read once, but not for longer than `limit`.
    pub async fn wait_until_read(&self, limit: Duration) {
        let mut read = self.read.subscribe();
        // Too late is as good as read: the snapshot, empty or not, is then what there is.
        let _ = tokio::time::timeout(limit, read.wait_for(|read| *read)).await;
    }

    /// Takes a turn: that of a request, if it is one.
    pub fn turn(&self, worker: usize, asked: Option<&dyn Asked>) -> Turn {
        self.balancer.turn(asked, &self.lanes[worker].tally)
    }

    /// Picks the endpoint whose turn it is, without a lock, and returns its pool on this worker.
    pub fn pick(&self, worker: usize, turn: Turn, now: Instant) -> Option<Arc<Pool>> {
        let tally = &self.lanes[worker].tally;
        // The pool's count of references is this worker's alone; the endpoint's would be shared.
        self.balancer
            .pick(&self.snapshot.load(), turn, tally, now)
            .map(|endpoint| Arc::clone(endpoint.pool(worker)))
    }

    /// The same for a request that was tried with these already; `None` where there is no other.
    pub fn pick_other(
        &self,
        worker: usize,
        turn: Turn,
        tried: &[Arc<Pool>],
        now: Instant,
    ) -> Option<Arc<Pool>> {
        let tally = &self.lanes[worker].tally;
        let was_tried = |endpoint: &Endpoint| is_among(tried, endpoint.pool(worker));
        self.balancer
            .pick_other(&self.snapshot.load(), turn, was_tried, tally, now)
            .map(|endpoint| Arc::clone(endpoint.pool(worker)))
    }

    /// What the answer to a request sets its cookie to, where that must change. Costs nothing where
    /// there are none.
    pub(super) fn cookie(
        &self,
        worker: usize,
        turn: Turn,
        answered: &Arc<Pool>,
    ) -> Option<HeaderValue> {
        if !matches!(self.balancer, Balancer::Sticky(..)) {
            return None;
        }
        let tally = &self.lanes[worker].tally;
        let has_answered = |endpoint: &Endpoint| Arc::ptr_eq(endpoint.pool(worker), answered);
        self.balancer
            .cookie(&self.snapshot.load(), turn, has_answered, tally)
    }

    /// How it picks, and what was unusual of it.
    pub(super) fn balance(&self) -> BalanceStatus {
        BalanceStatus::of(&self.policy.balance, &self.balancer, self.tallies())
    }

    /// What its picks have counted, on each worker.
    fn tallies(&self) -> impl Iterator<Item = &Tally> + Clone {
        self.lanes.iter().map(|lane| &lane.tally)
    }

    /// Whether there is somebody other than these to pick.
    pub fn has_other(&self, worker: usize, tried: &[Arc<Pool>]) -> bool {
        let snapshot = self.snapshot.load();
        let mut endpoints = snapshot.endpoints.iter();
        endpoints.any(|endpoint| !is_among(tried, endpoint.pool(worker)))
    }

    /// Notes how connecting to an endpoint went that began then. Rare, where connections are kept.
    #[cold]
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

    /// Publishes what the board has, if it differs, and then retires who is not in it any more.
    pub(super) fn publish(&self, board: &mut Board) {
        let snapshot = board.snapshot(&self.policy.balance);
        if !self.snapshot.load().is_like(&snapshot) {
            self.snapshot.store(Arc::new(snapshot));
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
        let snapshot = self.snapshot.load();
        for endpoint in snapshot.endpoints.iter().chain(&snapshot.resting) {
            endpoint.pool(worker).sweep(now);
        }
    }
}

fn is_among(tried: &[Arc<Pool>], pool: &Arc<Pool>) -> bool {
    tried.iter().any(|one| Arc::ptr_eq(one, pool))
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, path::Path, sync::atomic::AtomicUsize};

    use super::*;
    use crate::instance::Address;

    fn service(balance: &str) -> Service {
        let text =
            format!("[defaults]\nbalance = {balance}\nguard = false\n[[route]]\nservice = \"a\"\n");
        let config = config::Config::parse(&text, Path::new(".")).unwrap();
        let tls = Tls::open(&config::EndpointTls::default()).unwrap();
        Service::new("cart".into(), config.defaults, Arc::new(tls), 2)
    }

    /// Instances with these ports.
    fn set(ports: std::ops::Range<usize>) -> Vec<Instance> {
        ports
            .map(|port| Instance {
                id: port.to_string().into(),
                address: Address::new("10.0.0.1", port as i64).unwrap(),
                tls: false,
                healthy: true,
                weight: 1 + port as u32 % 3,
                tags: Vec::new(),
                meta: BTreeMap::new(),
            })
            .collect()
    }

    #[test]
    fn what_is_picked_while_the_set_is_swapped_is_of_this_set_or_the_one_before() {
        for balance in [
            "\"round_robin\"",
            "\"weighted\"",
            "\"random\"",
            "\"least_request\"",
            "\"p2c\"",
            "\"peak_ewma\"",
            "{ kind = \"hash\", by = \"path\", load = 1.1 }",
            "{ kind = \"sticky\", fallback = \"p2c\" }",
        ] {
            let service = &service(balance);
            // Each set is ten ports above the one before, of which it has half.
            let ports = |n: usize| 1 + n * 10..21 + n * 10;
            service.update(&set(ports(0)), false);
            let current = &AtomicUsize::new(0);
            let (over, picked) = (&AtomicBool::new(false), &AtomicUsize::new(0));
            std::thread::scope(|scope| {
                let mut pickers = Vec::new();
                for worker in 0..2 {
                    let picker = scope.spawn(move || {
                        let mut in_flight = Vec::new();
                        while !over.load(Acquire) {
                            let before = current.load(Acquire);
                            let pool =
                                service.pick(worker, service.turn(worker, None), Instant::now());
                            let after = current.load(Acquire);
                            // The next set may be there before its number is.
                            let may_be = ports(before).start..ports(after + 1).end;
                            picked.fetch_add(1, Release);
                            let Some(pool) = pool else { return Err(None) };
                            let port = usize::from(pool.address().port());
                            if !may_be.contains(&port) {
                                return Err(Some((port, may_be)));
                            }
                            in_flight.push(pool.enter());
                            if in_flight.len() > 50 {
                                in_flight.clear();
                            }
                        }
                        Ok(())
                    });
                    pickers.push(picker);
                }
                for n in 1..100 {
                    let seen = picked.load(Acquire);
                    service.update(&set(ports(n)), false);
                    current.store(n, Release);
                    while picked.load(Acquire) < seen + 10
                        && pickers.iter().any(|picker| !picker.is_finished())
                    {
                        std::thread::yield_now();
                    }
                }
                over.store(true, Release);
                for picker in pickers {
                    assert_eq!(picker.join().unwrap(), Ok(()), "{balance}");
                }
            });
            let endpoints = &service.snapshot.load().endpoints;
            assert_eq!(endpoints.len(), 20);
            assert!(endpoints.iter().all(|endpoint| endpoint.in_flight() == 0));
        }
    }

    #[test]
    fn an_update_that_changes_nothing_leaves_the_snapshot_and_one_of_weights_does_where_none_count()
    {
        for (balance, stays) in [("\"round_robin\"", true), ("\"p2c\"", false)] {
            let service = service(balance);
            service.update(&set(1..4), false);
            let first = service.snapshot.load_full();
            service.update(&set(1..4), false);
            assert!(Arc::ptr_eq(&first, &service.snapshot.load()));
            let mut heavier = set(1..4);
            heavier[0].weight = 9;
            service.update(&heavier, false);
            let second = service.snapshot.load_full();
            assert_eq!(Arc::ptr_eq(&first, &second), stays, "{balance}");
            assert!(Arc::ptr_eq(&first.endpoints[0], &second.endpoints[0]));
        }
    }
}
