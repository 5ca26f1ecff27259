//! Which questions may wait at the agent. An agent allows a client only so many connections, and a
//! question that waits for a change holds one. Where more services are watched than that, those
//! that are called have the slots. The others are read one after the other, at a pace that costs
//! little. Knows nothing of what is asked.
//!
//! What it costs while nothing changes, with 2,000 services and 100 slots: each slot's question is
//! asked anew once a minute, 1.6 a second; the other 1,900 are read at [`QUIET`] a second, each of
//! them every 95 s. Some 22 small answers a second are most of the 0.8 % of a core that
//! `benches/run --only scale` has measured. A signal that *something* has changed
//! (`/v1/health/state/any`, `/v1/catalog/services`) would save that in a cluster where nothing ever
//! changes, and cost the agent an answer over all services with each change in any other, without a
//! word on which service it is about.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};

use crate::registry::{Usage, Watches, pace::Bucket};

/// A service is called if it was within this time.
const CALLED: Duration = Duration::from_secs(60);

/// How many services without a slot that are not called are read in a second.
const QUIET: u32 = 20;

/// How many services without a slot that are called are read in a second: more are called than there
/// are slots.
const BUSY: u32 = 50;

/// A service without a slot is not read again before this is over.
const QUIET_PAUSE: Duration = Duration::from_secs(10);
const BUSY_PAUSE: Duration = Duration::from_secs(1);

/// The slots of a registry.
#[derive(Debug)]
pub(super) struct Slots {
    limit: usize,
    members: AtomicUsize,
    holders: Mutex<Vec<Arc<Holder>>>,
    quiet: Turn,
    busy: Turn,
}

/// The members without a slot, in the order in which they came.
#[derive(Debug)]
struct Turn(tokio::sync::Mutex<Bucket>);

#[derive(Debug)]
struct Holder {
    usage: Option<Arc<Usage>>,
    /// Another member needs the slot more.
    taken: Notify,
}

/// A question that wants a slot.
#[derive(Debug)]
pub(super) struct Member {
    slots: Arc<Slots>,
    /// `None` for what is always wanted, such as the catalog.
    usage: Option<Arc<Usage>>,
}

/// The right to wait for a change.
#[derive(Debug)]
pub(super) struct Slot {
    slots: Arc<Slots>,
    holder: Arc<Holder>,
}

impl Slots {
    pub(super) fn new(limit: usize) -> Arc<Self> {
        let turn = |per_second| Turn(Bucket::new(1, per_second).into());
        Arc::new(Self {
            limit,
            members: AtomicUsize::new(0),
            holders: Mutex::default(),
            quiet: turn(QUIET),
            busy: turn(BUSY),
        })
    }

    /// One more question that wants a slot; without a usage it always wants one.
    pub(super) fn join(self: &Arc<Self>, usage: Option<Arc<Usage>>) -> Member {
        self.members.fetch_add(1, Relaxed);
        Member {
            slots: Arc::clone(self),
            usage,
        }
    }

    pub(super) fn watches(&self) -> Watches {
        let held = self.holders.lock().len();
        Watches {
            limit: self.limit,
            held,
            in_turn: self.members.load(Relaxed).saturating_sub(held),
        }
    }
}

impl Member {
    /// A slot, if there is one: a free one, or the slot of the service that has gone without a call
    /// for the longest time. Only a service that is called takes such a slot.
    pub(super) fn claim(&self) -> Option<Slot> {
        let mut holders = self.slots.holders.lock();
        if holders.len() >= self.slots.limit {
            if !is_called(self.usage.as_ref()) {
                return None;
            }
            // Clients choose the services that templates lead to. So half of the slots stay with the
            // services that routes name, however seldom these are called.
            let kept = |usage: &Option<Arc<Usage>>| usage.as_ref().is_none_or(|one| one.is_kept());
            let named = holders.iter().filter(|holder| kept(&holder.usage)).count();
            let spares = !kept(&self.usage) && named <= self.slots.limit / 2;
            let quietest = (0..holders.len())
                .filter(|at| !is_called(holders[*at].usage.as_ref()))
                .filter(|at| !(spares && kept(&holders[*at].usage)))
                .max_by_key(|at| idle(holders[*at].usage.as_ref()))?;
            holders.swap_remove(quietest).taken.notify_one();
        }
        let holder = Arc::new(Holder {
            usage: self.usage.clone(),
            taken: Notify::new(),
        });
        holders.push(Arc::clone(&holder));
        Some(Slot {
            slots: Arc::clone(&self.slots),
            holder,
        })
    }

    /// Waits until there is reason to try and claim a slot again, or to read without one what was
    /// read last at that time.
    pub(super) async fn turn(&self, read: Instant) -> Turned {
        let called = is_called(self.usage.as_ref());
        let (turn, pause) = if called {
            (&self.slots.busy, BUSY_PAUSE)
        } else {
            (&self.slots.quiet, QUIET_PAUSE)
        };
        let becomes_called = async {
            match &self.usage {
                Some(usage) if !called => usage.becomes_recent(CALLED).await,
                _ => std::future::pending().await,
            }
        };
        let comes = async {
            // Members get the lock in the order in which they came, which is that in which they
            // were read. So a member whose pause is not over holds up none whose pause is.
            let mut bucket = turn.0.lock().await;
            sleep_until(read + pause).await;
            bucket.take().await;
        };
        tokio::select! {
            biased;
            () = becomes_called => Turned::Called,
            () = comes => Turned::Read,
        }
    }
}

/// What a member without a slot is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turned {
    /// It is called, as it was not before: it has a claim to a slot.
    Called,
    /// It is its turn.
    Read,
}

impl Slot {
    /// Waits until another member has it.
    pub(super) async fn is_taken(&self) {
        self.holder.taken.notified().await;
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut holders = self.slots.holders.lock();
        holders.retain(|holder| !Arc::ptr_eq(holder, &self.holder));
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.slots.members.fetch_sub(1, Relaxed);
    }
}

fn is_called(usage: Option<&Arc<Usage>>) -> bool {
    usage.is_none_or(|usage| usage.is_recent(CALLED))
}

/// How long it was not called.
fn idle(usage: Option<&Arc<Usage>>) -> Duration {
    usage.map_or(Duration::ZERO, |usage| {
        usage.idle().unwrap_or(Duration::MAX)
    })
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    fn service(slots: &Arc<Slots>) -> (Member, Arc<Usage>) {
        let usage = Arc::new(Usage::default());
        (slots.join(Some(Arc::clone(&usage))), usage)
    }

    fn counts(slots: &Slots) -> (usize, usize) {
        let watches = slots.watches();
        (watches.held, watches.in_turn)
    }

    #[tokio::test(start_paused = true)]
    async fn seats_are_given_while_there_are_any_and_come_back() {
        let slots = Slots::new(2);
        let [(a, _), (b, _), (c, _)] = std::array::from_fn(|_| service(&slots));
        let (first, second) = (a.claim().unwrap(), b.claim().unwrap());
        assert!(c.claim().is_none());
        assert_eq!(counts(&slots), (2, 1));
        drop(first);
        let third = c.claim().unwrap();
        assert_eq!(counts(&slots), (2, 1));
        drop((second, third, a, b));
        assert_eq!(counts(&slots), (0, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_called_takes_the_seat_of_the_one_that_was_not_for_the_longest_time() {
        let slots = Slots::new(3);
        let catalog = slots.join(None);
        let [(never, _), (long_ago, usage), (called, calls)] =
            std::array::from_fn(|_| service(&slots));
        let _catalog = catalog.claim().unwrap();
        let (of_never, of_long_ago) = (never.claim().unwrap(), long_ago.claim().unwrap());
        usage.note(Instant::now());
        tokio::time::advance(CALLED * 2).await;
        assert!(called.claim().is_none(), "it is not called");

        calls.note(Instant::now());
        let _first = called.claim().unwrap();
        of_never.is_taken().await;
        drop(of_never);
        assert_eq!(counts(&slots), (3, 1), "the slot is the other's now");
        let (another, calls) = service(&slots);
        calls.note(Instant::now());
        let _second = another.claim().unwrap();
        of_long_ago.is_taken().await;

        let (late, calls) = service(&slots);
        calls.note(Instant::now());
        assert!(late.claim().is_none(), "all slots are of those in use");
    }

    #[tokio::test(start_paused = true)]
    async fn strangers_who_call_whatever_there_is_leave_half_of_the_seats_to_what_routes_name() {
        let slots = Slots::new(4);
        let named: [_; 4] = std::array::from_fn(|_| service(&slots));
        named.iter().for_each(|(_, usage)| usage.keep());
        let mut held: Vec<_> = named
            .iter()
            .map(|(member, _)| member.claim().unwrap())
            .collect();
        let strangers: [_; 4] = std::array::from_fn(|_| service(&slots));
        let mut taken = Vec::new();
        for (member, usage) in &strangers {
            usage.note(Instant::now());
            taken.extend(member.claim());
        }
        assert_eq!(taken.len(), 2);
        let lost = held
            .iter()
            .filter(|slot| slot.is_taken().now_or_never().is_some());
        assert_eq!(lost.count(), 2);
        // One that routes name is called: of the strangers' the quietest goes, in time.
        let (late, usage) = service(&slots);
        usage.keep();
        tokio::time::advance(CALLED * 2).await;
        usage.note(Instant::now());
        held.extend(late.claim());
        assert_eq!(held.len(), 5);
    }

    #[tokio::test(start_paused = true)]
    async fn those_without_a_seat_have_their_turns_at_a_bounded_rate() {
        let slots = Slots::new(1);
        let start = Instant::now();
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..100 {
            let (member, _) = service(&slots);
            tasks.spawn(async move { member.turn(Instant::now()).await });
        }
        assert_eq!(tasks.join_next().await.unwrap().unwrap(), Turned::Read);
        assert!(start.elapsed() >= QUIET_PAUSE);
        tasks.join_all().await;
        let took = start.elapsed() - QUIET_PAUSE;
        let round = Duration::from_secs(100) / QUIET;
        assert!(
            took.abs_diff(round) < Duration::from_millis(200),
            "{took:?}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_ends_the_wait_for_a_turn_at_once() {
        let slots = Slots::new(1);
        let (member, usage) = service(&slots);
        let start = Instant::now();
        let turn = tokio::spawn(async move { (member.turn(Instant::now()).await, member) });
        tokio::time::sleep(Duration::from_millis(5)).await;
        usage.note(Instant::now());
        let (turned, member) = turn.await.unwrap();
        assert_eq!(turned, Turned::Called);
        assert!(start.elapsed() < Duration::from_millis(10));
        // It has found no slot, and goes on being called.
        let read = Instant::now();
        assert_eq!(member.turn(read).await, Turned::Read);
        assert!(read.elapsed() >= BUSY_PAUSE && read.elapsed() < QUIET_PAUSE);
    }
}
