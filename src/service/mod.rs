//! A service: a name, a policy, and the endpoints that its registry says it has. Requests read
//! its snapshot without a lock; the registry's events replace the snapshot. Knows nothing of
//! clients or routes, or of what a head says.

mod balance;
mod call;
mod endpoint;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
pub(crate) mod health;
mod log_lines;
pub(crate) mod members;
mod policy;
mod snapshot;
mod split;
mod stats;
mod status;
mod view;

pub use balance::{
    BalanceStats, BalanceStatus, Balancer, PickKey, RequestInfo, ZoneStatus, client_digest,
    key_digest,
};
pub use call::attempts::{Attempt, Attempts};
pub use call::budget::Budget;
pub use call::queue::{LimitsStatus, Seat, Shed};
pub use call::replay::{Keep, Replay, ReplayBody};
pub use call::{CallAnswer, CallError};
pub use endpoint::health::{Doubt, Ejection, EndpointState};
pub use endpoint::outlier::Heard;
pub use endpoint::{Endpoint, EndpointId, WorkerEndpoint};
pub use health::prober::Checkup;
pub use members::combine::Difference;
pub use members::history::{Change, EntryStatus, Why};
pub use members::pin::{LONGEST_PIN, PinError, PinStatus};
pub use policy::{CallPolicy, within};
pub use snapshot::Snapshot;
pub use split::{Share, Split};
pub use stats::{ServiceStats, StatusClass};
pub use status::{EndpointStatus, HeldStatus, Latency, Remembered, ServiceStatus, ViewStatus};
pub use view::View;

use std::{
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{
            AtomicBool, AtomicU64,
            Ordering::{Acquire, Relaxed, Release},
        },
    },
    time::Duration,
};

use tokio::{
    sync::{Notify, watch},
    time::Instant,
};

use balance::Loads;
use call::queue::Limits;
use health::prober::Findings;
use members::{
    combine::{Combiner, Update},
    endpoint_set::EndpointSet,
    history::Journal,
    inquiry::Inquiry,
};

use crate::{
    config::{self, Subset},
    instance::InstanceSet,
    metrics::Padded,
    registry::{
        Usage,
        watch::{Event, WatchStatus},
    },
    upstream::Tls,
};

/// A name, a policy and its endpoints.
#[derive(Debug)]
pub struct Service {
    name: Arc<str>,
    policy: Arc<config::Service>,
    /// All endpoints.
    main: View,
    /// Those of them that routes select.
    views: Box<[View]>,
    /// Of each worker, from the first request on that it has for this service.
    lanes: Box<[OnceLock<Arc<Padded<ServiceStats>>>]>,
    board: Mutex<EndpointSet>,
    /// Held by who ejects an endpoint.
    ejecting: Mutex<()>,
    tls: Arc<Tls>,
    limits: Option<Arc<Limits>>,
    /// Told that the endpoints have changed, be it only who is listed; from the first on that waits
    /// for it. Made under the board's lock, as all is published.
    published: OnceLock<watch::Sender<()>>,
    /// How many of our own checks of endpoints passed, and how many did not.
    checks_passed: AtomicU64,
    checks_failed: AtomicU64,
    /// Whether there is a set; said by `published` too, once there is.
    is_read: AtomicBool,
    listing: Mutex<Combiner>,
    journal: Mutex<Journal>,
    /// One for each of its registries, in their order.
    watches: Box<[Arc<WatchStatus>]>,
    /// How each of them is asked again.
    inquiries: Box<[OnceLock<Inquiry>]>,
    usage: Arc<Usage>,
    /// Told whenever its set has changed.
    changes: Arc<Notify>,
    /// Told whenever an endpoint takes no connection, where that is watched.
    refusals: OnceLock<Arc<Notify>>,
    /// What a person could do about endpoints that cannot be reached.
    hint: Mutex<Option<Arc<str>>>,
}

impl Service {
    /// A service of which nothing is known yet, for `workers` workers and for routes that want
    /// these subsets. `tls` is what its policy says of it; `changes` is told when its set has
    /// changed.
    pub(crate) fn new(
        name: Arc<str>,
        policy: impl Into<Arc<config::Service>>,
        tls: Arc<Tls>,
        workers: usize,
        subsets: impl IntoIterator<Item = Arc<Subset>>,
        changes: Arc<Notify>,
    ) -> Self {
        let policy = policy.into();
        let view = |(number, subset)| View::new(&name, number, subset, &policy);
        let main = view((0, None));
        let views: Box<[_]> = (1..).zip(subsets.into_iter().map(Some)).map(view).collect();
        let balances = std::iter::once(&main).chain(&views).map(View::balance);
        Self {
            lanes: (0..workers).map(|_| OnceLock::new()).collect(),
            board: Mutex::new(EndpointSet::new(
                workers,
                Arc::clone(&tls),
                Loads::of_all(balances),
            )),
            main,
            limits: Limits::new(policy.limits, 1 + views.len()),
            views,
            tls,
            ejecting: Mutex::default(),
            published: OnceLock::new(),
            checks_passed: AtomicU64::new(0),
            checks_failed: AtomicU64::new(0),
            is_read: AtomicBool::new(false),
            listing: Mutex::new(Combiner::new(&policy.origin)),
            journal: Mutex::new(Journal::of(Arc::clone(&name))),
            watches: policy
                .origin
                .registries()
                .iter()
                .map(|registry| WatchStatus::new(Arc::clone(registry), Some(Arc::clone(&name))))
                .map(Arc::new)
                .collect(),
            inquiries: policy
                .origin
                .registries()
                .iter()
                .map(|_| OnceLock::new())
                .collect(),
            usage: Arc::default(),
            changes,
            refusals: OnceLock::new(),
            hint: Mutex::default(),
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
    pub fn lane(&self, worker: usize) -> &Arc<Padded<ServiceStats>> {
        self.lanes[worker].get_or_init(|| Arc::new(Padded(self.new_lane())))
    }

    fn new_lane(&self) -> ServiceStats {
        ServiceStats::new(&self.policy.retry, self.lanes.len(), 1 + self.views.len())
    }

    /// The counters of the workers that had requests for it.
    pub fn lanes(&self) -> impl Iterator<Item = &ServiceStats> + Clone {
        let lanes = self.lanes.iter().filter_map(OnceLock::get);
        lanes.map(|lane| &***lane)
    }

    /// How many retries the budgets of all workers would grant now.
    pub fn retries_left(&self, now: Instant) -> u64 {
        let left = |lane: &ServiceStats| lane.retries_left(now);
        let untouched = self.lanes.len() - self.lanes().count();
        let of_new = match untouched {
            0 => 0,
            some => some as u64 * left(&self.new_lane()),
        };
        self.lanes().map(left).sum::<u64>() + of_new
    }

    /// When it was last called: for its registries, and noted by each request.
    pub fn usage(&self) -> &Arc<Usage> {
        &self.usage
    }

    /// What is known of its watchers, one for each of its registries, in their order.
    pub fn watches(&self) -> &[Arc<WatchStatus>] {
        &self.watches
    }

    /// How one of its registries is asked again, beside its watcher.
    fn inquiry(&self, of: usize) -> Option<&Inquiry> {
        self.inquiries.get(of)?.get()
    }

    /// Once for each of its registries, before it is watched.
    pub(crate) fn may_ask_again(&self, of: usize, inquiry: Inquiry) {
        if let Some(place) = self.inquiries.get(of) {
            place.get_or_init(|| inquiry);
        }
    }

    /// Whether one of its registries has neither answered nor failed yet.
    pub fn is_awaited(&self) -> bool {
        self.listing().is_awaited()
    }

    /// Whether there is a set, and each of its registries has said something of it.
    pub fn is_settled(&self) -> bool {
        self.is_read() && !self.is_awaited()
    }

    /// Whether there is a set, be it empty.
    pub fn is_read(&self) -> bool {
        self.is_read.load(Acquire)
    }

    /// Whether all of its registries were read, and none of them knows an instance of it, be it ill:
    /// it is misspelt, or was never there.
    pub fn is_unregistered(&self) -> bool {
        let mut watches = self.watches.iter();
        !self.watches.is_empty() && watches.all(|watch| watch.lists_nothing())
    }

    /// Whether no endpoint can be picked.
    pub fn is_empty(&self) -> bool {
        self.main.is_empty()
    }

    /// How it picks, and what was unusual of it.
    fn balance(&self) -> BalanceStatus {
        self.main
            .balance_status(self.lanes().map(|lane| &lane.tally))
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
        let mut published = self.published();
        let read = async { while !self.is_read() && published.changed().await.is_ok() {} };
        // Too late is as good as read: the snapshot, empty or not, is then what there is.
        let _ = tokio::time::timeout(limit, read).await;
    }

    /// Takes over what a registry, by its place in the list, has to say; called by its watcher
    /// alone. Returns whether the guard doubts it, and holds endpoints that must then be watched
    /// over.
    pub(crate) fn hear(&self, from: usize, event: Event<InstanceSet>) -> bool {
        let registry = Arc::clone(&self.policy.origin.registries()[from]);
        let why = match &event {
            Event::State(set) => {
                self.watches[from].note_state(set.instances.len(), set.skipped.clone());
                let revision = set.evidence.revision();
                Why::Registry { registry, revision }
            }
            Event::Failed | Event::Stale => Why::Away { registry },
        };
        // Held until the board has it: what is heard later is taken over later.
        let mut listing = self.listing();
        self.board().expects_new = listing.has_answered(from);
        let update = listing.hear(from, event, &self.policy);
        update.is_some_and(|update| self.update(&update, why))
    }

    /// Takes over a set, unless it is pinned to another: then it is only noted. Returns whether the
    /// guard doubts it, and holds endpoints that must then be watched over.
    pub(crate) fn update(&self, update: &Update, why: Why) -> bool {
        let mut board = self.board();
        let mut journal = self.journal();
        if journal.pin.is_some() {
            journal.note_told(why, &update.instances);
            self.changes.notify_one();
            return false;
        }
        let doubted = board.take_over(update, &self.policy);
        self.publish(&mut board);
        journal.note(why, board.standings());
        if !self.is_read.swap(true, Release) {
            self.tell_published();
        }
        drop((board, journal));
        self.changes.notify_one();
        doubted
    }

    /// Publishes what the board has, and then retires who is in no view any more.
    fn publish(&self, board: &mut EndpointSet) {
        for view in std::iter::once(&self.main).chain(&self.views) {
            view.publish(board, &self.policy);
        }
        board.retire_the_leaving();
        if let Some(limits) = &self.limits {
            limits.tell_of_room();
        }
        self.tell_published();
    }

    fn tell_published(&self) {
        if let Some(published) = self.published.get() {
            published.send_replace(());
        }
    }

    /// Takes over what our own checks of an endpoint come to.
    fn take_over_check(&self, endpoint: &Arc<Endpoint>, findings: Findings) {
        self.checks_passed.fetch_add(findings.passed, Relaxed);
        self.checks_failed.fetch_add(findings.failed, Relaxed);
        let Some(checkup) = findings.checkup else {
            return;
        };
        let mut board = self.board();
        let panicked = board.panics(&self.policy);
        if !board.check(endpoint, checkup.clone()) {
            return;
        }
        self.publish(&mut board);
        let panics = board.panics(&self.policy);
        drop(board);
        let service = &self.name;
        let error = checkup.error.map(|error| error.to_string());
        log_lines::checked(service, &endpoint.id().address, error);
        if panics && !panicked {
            tracing::warn!(%service, "so few endpoints pass their checks that all are called");
        }
    }

    /// How many of the checks of its endpoints passed, and how many did not.
    pub fn checks_run(&self) -> (u64, u64) {
        let [passed, failed] = [&self.checks_passed, &self.checks_failed];
        (passed.load(Relaxed), failed.load(Relaxed))
    }

    /// Tells what keeps sets on disk that this one has changed.
    fn tell_of_change(&self) {
        self.changes.notify_one();
    }

    /// An endpoint took no connection.
    fn tell_of_refusal(&self) {
        if let Some(refusals) = self.refusals.get() {
            refusals.notify_one();
        }
    }

    fn refusals(&self) -> Arc<Notify> {
        Arc::clone(self.refusals.get_or_init(Arc::default))
    }

    /// What a person could do about endpoints that cannot be reached, where that is known.
    fn hint(&self) -> Option<Arc<str>> {
        let hint = self.hint.lock();
        hint.unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_hint(&self, hint: Option<Arc<str>>) {
        *self.hint.lock().unwrap_or_else(PoisonError::into_inner) = hint;
    }

    /// Changes of who is listed.
    fn published(&self) -> watch::Receiver<()> {
        let _board = self.board();
        let published = self.published.get_or_init(|| watch::Sender::new(()));
        published.subscribe()
    }

    fn limits(&self) -> Option<&Arc<Limits>> {
        self.limits.as_ref()
    }

    /// With what its endpoints are called that speak TLS.
    fn tls(&self) -> &Tls {
        &self.tls
    }

    fn board(&self) -> MutexGuard<'_, EndpointSet> {
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What became of its set. Locked after the listing and the board, where they are.
    fn journal(&self) -> MutexGuard<'_, Journal> {
        self.journal.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ejecting(&self) -> MutexGuard<'_, ()> {
        self.ejecting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn listing(&self) -> MutexGuard<'_, Combiner> {
        self.listing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Closes one worker's idle connections that are too old or were closed by their endpoint.
    pub fn sweep(&self, worker: usize, now: Instant) {
        let snapshot = self.main.snapshot();
        for endpoint in snapshot.endpoints.iter().chain(&snapshot.resting) {
            endpoint.sweep(worker, now);
        }
    }
}

#[cfg(test)]
mod testing {
    use std::{collections::BTreeMap, ops::Range};

    use super::*;
    use super::{
        WorkerEndpoint,
        members::{combine::Update, history::Why},
    };
    use crate::{
        config::Config,
        evidence::Order,
        instance::{Address, Instance},
    };

    /// One of a worker's, with these lines of configuration, whose endpoints have these ports.
    pub(in crate::service) fn service(lines: &str, ports: Range<u16>) -> Arc<Service> {
        let text =
            format!("[service.cart]\nguard = false\n{lines}\n[[route]]\nservice = \"cart\"\n");
        let config = Config::parse(&text, std::path::Path::new(".")).unwrap();
        let policy = config.services["cart"].clone();
        let tls = Arc::new(Tls::open(&policy.tls).unwrap());
        let service = Service::new("cart".into(), policy, tls, 1, [], Arc::default());
        update(&service, ports);
        Arc::new(service)
    }

    /// They have these now.
    pub(in crate::service) fn update(service: &Service, ports: Range<u16>) {
        let instances = ports.map(|port| Instance {
            id: format!("i{port}").into(),
            address: Address::new("10.0.0.1", port.into()).unwrap(),
            tls: false,
            healthy: true,
            weight: 1,
            tags: vec![],
            meta: BTreeMap::new(),
        });
        let update = Update {
            order: Order::Forward,
            ..Update::ours(instances.map(Arc::new).collect())
        };
        service.update(&update, Why::ProxyToml);
    }

    /// The way to one of those that may be picked.
    pub(in crate::service) fn line(service: &Service, n: usize) -> Arc<WorkerEndpoint> {
        Arc::clone(service.main().snapshot().endpoints[n].line(0))
    }
}
