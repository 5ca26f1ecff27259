//! A service: a name, a policy, and the endpoints that its registry says it has. Requests read
//! its snapshot without a lock; the registry's events replace the snapshot. Another policy makes
//! another `Service` around the same endpoints. Knows nothing of clients or routes, or of what a
//! head says.

mod balance;
mod call;
mod endpoint;
pub(crate) mod health;
mod log_lines;
pub(crate) mod members;
mod policy;
mod renewal;
mod snapshot;
mod split;
mod stats;
mod status;
mod view;

pub use crate::term::{TermError, TermStatus};
#[cfg(any(test, fuzzing))]
pub(crate) use balance::fuzzing;
pub use balance::{
    BalanceStats, BalanceStatus, Balancer, PickKey, RequestInfo, ZoneStatus, client_digest,
    key_digest,
};
pub use call::attempts::{Attempt, Attempts};
pub use call::budget::Budget;
pub use call::choose::Chooser;
pub(crate) use call::dispatch::until_read;
pub use call::dispatch::{ANSWERED, Destination, Dispatched, RequestCount, Undelivered, dispatch};
pub use call::outcome::Detector;
pub use call::prospect::{
    EndpointProspect, Event, FollowUp, LimitsProspect, Prospect, RequestShape, Then, prospect,
};
pub use call::queue::{LimitsStatus, Outlook, Seat, Shed};
pub use call::replay::{Keep, Replay, ReplayBody};
pub use call::{AnswerSlot, CallAnswer, CallError};
pub use endpoint::health::{Doubt, Ejection};
pub use endpoint::outlier::Heard;
pub use endpoint::state::EndpointState;
pub use endpoint::{Endpoint, EndpointId, WorkerEndpoint};
pub use health::prober::Checkup;
pub use members::combine::Difference;
pub use members::drain::{DrainError, drain, undrain};
pub(crate) use members::history::unix_seconds;
pub use members::history::{Change, EntryStatus, Why};
pub use members::maintenance::DrainStatus;
pub use members::other_weight::WeightStatus;
pub use members::pin::{PinError, PinStatus, pin, pin_of, unpin};
#[cfg(test)]
use members::testing;
pub use members::weight::{WeightError, reweigh, unweigh};
pub use policy::{CallPolicy, Overridden, over_at, within};
pub use renewal::ServiceRef;
pub use snapshot::Snapshot;
pub use split::{Share, ShareError, Split};
pub use stats::{ServiceStats, StatusClass, TunnelEnd, TunnelStats};
pub use status::{
    EndpointStatus, EndpointTotals, HeldStatus, Latency, Remembered, ServiceStatus, ViewStatus,
    endpoint_totals,
};
pub use view::View;

use std::{
    sync::{
        Arc, OnceLock, Weak,
        atomic::{
            AtomicBool,
            Ordering::{Acquire, Release},
        },
    },
    time::Duration,
};

use parking_lot::{Mutex, MutexGuard};
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};

use balance::Loads;
use call::queue::Limits;
use endpoint::Common;
use endpoint::ejections::Ejections;
use health::refusals::Refusals;
use members::{MemberEvent, Members, inquiry::Inquiry};

use crate::{
    config::{self, Subset},
    instance::Instance,
    metrics::Padded,
    registry::{Usage, watch::WatchStatus},
    upstream::Tls,
};

/// A name, a policy and its endpoints.
#[derive(Debug)]
pub struct Service {
    name: Arc<str>,
    policy: Arc<config::Service>,
    /// All endpoints.
    main: Arc<View>,
    /// Those of them that routes select.
    views: Box<[Arc<View>]>,
    stats: Arc<WorkerStats>,
    tls: Arc<Tls>,
    limits: Option<Arc<Limits>>,
    /// One for each of its registries, in their order.
    watches: Arc<[Arc<WatchStatus>]>,
    /// How each of them is asked again.
    inquiries: Arc<[OnceLock<Inquiry>]>,
    usage: Arc<Usage>,
    state: Arc<ServiceState>,
}

/// Of each worker, from the first request on that it has for this service.
type WorkerStats = [OnceLock<Arc<Padded<ServiceStats>>>];

/// What of a service goes on under another policy.
#[derive(Debug)]
struct ServiceState {
    members: Mutex<Members>,
    ejections: Ejections,
    /// Told that the endpoints have changed, be it only who is listed; from the first on that waits
    /// for it. Made under the members' lock, as all is published.
    published: OnceLock<watch::Sender<()>>,
    /// Whether there is a set; said by `published` too, once there is.
    is_read: AtomicBool,
    /// Told whenever its set has changed.
    changes: Arc<Notify>,
    /// Of connections to endpoints, where that is watched.
    refusals: OnceLock<Arc<Refusals>>,
    /// The service with the policy that it has now.
    latest: Mutex<Weak<Service>>,
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
        let view = |(number, subset)| View::new(&name, number, subset, &policy, workers);
        let view = |numbered| Arc::new(view(numbered));
        let main = view((0, None));
        let views: Box<[_]> = (1..).zip(subsets.into_iter().map(Some)).map(view).collect();
        let all = || std::iter::once(&main).chain(&views);
        let members = Members::new(
            &name,
            &policy,
            Common::new(Arc::clone(&policy), Arc::clone(&tls), workers),
            Loads::of_all(all().map(|view| view.balance())),
            all().map(Arc::downgrade).collect(),
        );
        Self {
            stats: (0..workers).map(|_| OnceLock::new()).collect(),
            main,
            limits: Limits::new(policy.limits, 1 + views.len()),
            views,
            tls,
            watches: watches_of(&name, &policy),
            inquiries: inquiries_of(&policy),
            usage: Arc::default(),
            state: Arc::new(ServiceState {
                members: Mutex::new(members),
                ejections: Ejections::default(),
                published: OnceLock::new(),
                is_read: AtomicBool::new(false),
                changes,
                refusals: OnceLock::new(),
                latest: Mutex::default(),
            }),
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
    pub fn stats(&self, worker: usize) -> &Arc<Padded<ServiceStats>> {
        self.stats[worker].get_or_init(|| Arc::new(Padded(self.new_stats())))
    }

    fn new_stats(&self) -> ServiceStats {
        ServiceStats::new(&self.policy.retry, self.stats.len())
    }

    /// The counters of the workers that had requests for it.
    pub fn all_stats(&self) -> impl Iterator<Item = &ServiceStats> + Clone {
        let stats = self.stats.iter().filter_map(OnceLock::get);
        stats.map(|stats| &***stats)
    }

    /// How many retries the budgets of all workers would grant now.
    pub fn retries_left(&self, now: Instant) -> u64 {
        let left = |stats: &ServiceStats| stats.retries_left(now);
        let untouched = self.stats.len() - self.all_stats().count();
        let of_new = match untouched {
            0 => 0,
            some => some as u64 * left(&self.new_stats()),
        };
        self.all_stats().map(left).sum::<u64>() + of_new
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

    /// Whether there is a set, and each of its registries has said something of it.
    pub fn is_settled(&self) -> bool {
        self.is_read() && !self.members().combiner().is_awaited()
    }

    /// Whether there is a set, be it empty.
    pub fn is_read(&self) -> bool {
        self.state.is_read.load(Acquire)
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
            .balance_status(self.all_stats().map(|stats| &stats.tally))
    }

    /// All of its endpoints.
    pub fn main(&self) -> &View {
        &self.main
    }

    /// The subsets of them that routes want.
    pub fn views(&self) -> &[Arc<View>] {
        &self.views
    }

    fn subsets(&self) -> Vec<&Subset> {
        let views = self.views.iter();
        views
            .filter_map(|view| view.subset())
            .map(AsRef::as_ref)
            .collect()
    }

    fn all_views(&self) -> impl Iterator<Item = &Arc<View>> {
        std::iter::once(&self.main).chain(&self.views)
    }

    /// The view with this number, if there is one.
    fn view(&self, number: usize) -> Option<&View> {
        let mut views = self.all_views().map(AsRef::as_ref);
        views.find(|view: &&View| view.number() == number)
    }

    /// The highest number of a view.
    fn last_view(&self) -> usize {
        let numbers = self.all_views().map(|view| view.number());
        numbers.max().unwrap_or_default()
    }

    /// Waits until the registry was read once, but not for longer than `limit`.
    pub async fn wait_until_read(&self, limit: Duration) {
        let mut published = self.published();
        let read = async { while !self.is_read() && published.changed().await.is_ok() {} };
        // Too late is as good as read: the snapshot, empty or not, is then what there is.
        let _ = tokio::time::timeout(limit, read).await;
    }

    /// Lets the members follow an event that has the guard hold no endpoint, and does what follows.
    fn apply(&self, event: MemberEvent) {
        let is_held = self.apply_to(self.members(), event);
        debug_assert!(!is_held, "no task would watch over those that are held");
    }

    /// Lets the locked members follow an event, and does what follows from it. Returns whether
    /// endpoints are held that no task watches over yet.
    #[must_use]
    fn apply_to(&self, mut members: MutexGuard<'_, Members>, event: MemberEvent) -> bool {
        let mut effects = members.apply(event);
        members.carry_out(&mut effects, |members| self.publish(members));
        drop(members);
        if effects.save {
            self.state.changes.notify_one();
        }
        effects.starts_guard
    }

    fn publish(&self, members: &Members) {
        members.publish();
        if let Some(limits) = &self.limits {
            limits.tell_of_room();
        }
        self.state.is_read.store(true, Release);
        if let Some(published) = self.state.published.get() {
            published.send_replace(());
        }
    }

    /// What follows events, behind the one lock of a service.
    fn members(&self) -> MutexGuard<'_, Members> {
        self.state.members.lock()
    }

    fn ejections(&self) -> &Ejections {
        &self.state.ejections
    }

    /// How many of the checks of its endpoints passed, and how many did not.
    pub fn checks_run(&self) -> (u64, u64) {
        self.members().checks()
    }

    /// The last changes of its set, the latest first.
    pub fn changes(&self) -> Vec<EntryStatus> {
        self.members().journal().entries()
    }

    /// Whether it stays with a set, whatever its registries say.
    pub fn is_pinned(&self) -> bool {
        self.members().is_pinned()
    }

    /// Its endpoints that a person drains.
    pub fn drains(&self) -> Vec<DrainStatus> {
        self.members().endpoints().drain_statuses(&self.subsets())
    }

    /// Its endpoints that are picked by another weight for a while.
    pub fn other_weights(&self) -> Vec<WeightStatus> {
        let heeds = |instance: Option<&Instance>| self.heeds_weights_of(instance);
        self.members().endpoints().weight_statuses(heeds)
    }

    /// Whether a balance that heeds weights picks of endpoints to which an instance belongs, or of any.
    fn heeds_weights_of(&self, instance: Option<&Instance>) -> bool {
        let mut views = self.all_views();
        views.any(|view| {
            let is_its = instance.is_none_or(|instance| view.wants(instance));
            is_its && view.balance().heeds_weights()
        })
    }

    /// Whether a person has changed anything of it that ends by itself.
    pub fn is_changed_for_a_while(&self) -> bool {
        let members = self.members();
        members.is_pinned() || members.endpoints().is_changed_for_a_while()
    }

    /// An endpoint took no connection.
    fn tell_of_refusal(&self) {
        if let Some(refusals) = self.state.refusals.get() {
            refusals.tell();
        }
    }

    fn refusals(&self) -> Arc<Refusals> {
        Arc::clone(self.state.refusals.get_or_init(Arc::default))
    }

    /// What a person could do about endpoints that take no connection; `None` where nothing is known.
    fn hint(&self) -> Option<Arc<str>> {
        let refusals = self.state.refusals.get();
        refusals.and_then(|refusals| refusals.hint())
    }

    /// Changes of who is listed.
    fn published(&self) -> watch::Receiver<()> {
        if let Some(published) = self.state.published.get() {
            return published.subscribe();
        }
        // The first who waits is not to miss a set that is published meanwhile.
        let _members = self.members();
        let published = &self.state.published;
        let published = published.get_or_init(|| watch::Sender::new(()));
        published.subscribe()
    }

    fn limits(&self) -> Option<&Arc<Limits>> {
        self.limits.as_ref()
    }

    /// With what its endpoints are called that speak TLS.
    fn tls(&self) -> &Tls {
        &self.tls
    }

    /// Closes one worker's idle connections that are too old or were closed by their endpoint.
    pub fn sweep(&self, worker: usize, now: Instant) {
        // What this worker never called it has no connections to; and most services of a large
        // registry are never called.
        if self.stats[worker].get().is_none() {
            return;
        }
        let snapshot = self.main.snapshot();
        for endpoint in snapshot.endpoints.iter().chain(&snapshot.resting) {
            endpoint.sweep(worker, now);
        }
    }
}

/// What is known of the watchers of a service with this policy: nothing yet.
fn watches_of(name: &Arc<str>, policy: &config::Service) -> Arc<[Arc<WatchStatus>]> {
    let registries = policy.origin.registries().iter();
    let watch = |one: &Arc<str>| WatchStatus::new(Arc::clone(one), Some(Arc::clone(name)));
    registries.map(watch).map(Arc::new).collect()
}

/// Room for how each registry of a service with this policy is asked again.
fn inquiries_of(policy: &config::Service) -> Arc<[OnceLock<Inquiry>]> {
    let registries = policy.origin.registries().iter();
    registries.map(|_| OnceLock::new()).collect()
}
