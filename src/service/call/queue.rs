//! How many requests a service, and each of its endpoints, works on at once: a request that finds
//! no room waits for a while, behind those that waited before it, and is shed where too many wait
//! already or it has waited for too long. A service without limits has none of this.

use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering::Relaxed, Ordering::SeqCst},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use serde::Serialize;
use tokio::{
    sync::Notify,
    time::{Instant, timeout_at},
};

use crate::{
    config,
    metrics::counted_apart,
    service::{WorkerEndpoint, endpoint::health::EndpointHealth},
};

/// A request that waits looks again after so long, though no other has left: an ejection may be over.
const LOOK_AGAIN: Duration = Duration::from_millis(250);
/// A view that was found full is not looked through again for so long, while no request leaves: in
/// an overload the requests that are turned away cost no search each.
const FULL_MILLIS: u32 = 10;

/// A service's limits, and what they are used up by. They stay when the rule changes: requests that
/// work are counted still, and those that wait keep their turn.
#[derive(Debug)]
pub(crate) struct Limits {
    regime: ArcSwap<Regime>,
    in_use: AtomicU32,
    waiting: AtomicU32,
    /// How often a request left, or who may be picked changed.
    changes: AtomicU64,
    epoch: Instant,
}

/// By what they go.
#[derive(Debug)]
struct Regime {
    rule: config::Limits,
    /// By the numbers of the service's views.
    rows: Box<[Arc<Queue>]>,
}

/// Those who wait for the endpoints of one view: where these are full, others may have room.
#[derive(Debug, Default)]
struct Queue {
    waiting: AtomicU32,
    /// Held by the first of them, and had in the order in which they came.
    front: tokio::sync::Mutex<()>,
    /// A request has left, or an endpoint has come; for the first that waits.
    room: Notify,
    /// When all its endpoints were last found full: the changes until then, above the milliseconds
    /// after the limits' epoch. In one word, so that both are of one search.
    full: AtomicU64,
}

/// Which endpoints have room.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Room<'l> {
    most: Option<u32>,
    /// Where the request has a seat already.
    own: Option<&'l EndpointHealth>,
}

impl Room<'_> {
    /// Where there are no limits.
    pub(crate) fn anywhere() -> Self {
        Self {
            most: None,
            own: None,
        }
    }

    pub(crate) fn is_limited(self) -> bool {
        self.most.is_some()
    }

    /// Whether the endpoint of this life has room.
    #[inline]
    pub(crate) fn is_at(self, health: &EndpointHealth) -> bool {
        let is_own = || self.own.is_some_and(|own| std::ptr::eq(own, health));
        self.most
            .is_none_or(|most| health.seats().load(Relaxed) < most || is_own())
    }
}

counted_apart! {
    /// Why a request was shed.
    pub enum Shed {
        /// The service works on as many as it may (`limits.concurrent`).
        Concurrent = "concurrent",
        /// Each endpoint works on as many as it may (`limits.per_endpoint`).
        PerEndpoint = "per_endpoint",
        /// It has waited for as long as it may (`limits.wait`).
        Pending = "pending",
    }
}

/// Limits, and what they are used up by, at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct LimitsStatus {
    /// The most requests that the service works on at once.
    pub concurrent: Option<u32>,
    /// The most that one endpoint works on at once.
    pub per_endpoint: Option<u32>,
    /// Requests that are worked on.
    pub in_use: u32,
    /// Requests that wait.
    pub waiting: u32,
}

/// What a request meets that comes at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outlook {
    /// It is worked on at once.
    Room,
    /// It waits, for so long at most.
    Waits(Duration),
    /// As many wait already as may: it is shed.
    Shed(Shed),
}

/// A request's place among those that are worked on, and at its endpoint. Dropped, it is given up.
#[derive(Debug)]
pub struct Seat {
    limits: Arc<Limits>,
    at: Option<Arc<WorkerEndpoint>>,
    /// Whether it is one of those that the service works on.
    is_counted: bool,
}

/// A seat, and at which endpoint; `None` where there is no endpoint.
type Entered = Result<Option<(Seat, Arc<WorkerEndpoint>)>, Shed>;

impl Limits {
    /// Those of a service with so many views; `None` where the rule sets none.
    pub(crate) fn new(rule: config::Limits, views: usize) -> Option<Arc<Self>> {
        is_limit(rule).then(|| {
            let regime = Regime {
                rule,
                rows: (0..views).map(|_| Arc::default()).collect(),
            };
            Arc::new(Self {
                regime: ArcSwap::from_pointee(regime),
                in_use: AtomicU32::new(0),
                waiting: AtomicU32::new(0),
                // Not 0, which a row says of no search at all.
                changes: AtomicU64::new(1),
                epoch: Instant::now(),
            })
        })
    }

    /// Those of the same service when it has this rule and so many views. The rule holds at once, for
    /// requests that wait, too.
    pub(crate) fn after(
        before: Option<&Arc<Self>>,
        rule: config::Limits,
        views: usize,
    ) -> Option<Arc<Self>> {
        let Some(same) = before else {
            return Self::new(rule, views);
        };
        same.follow(rule, views);
        is_limit(rule).then(|| Arc::clone(same))
    }

    fn follow(&self, rule: config::Limits, views: usize) {
        let regime = self.regime.load();
        if regime.rule == rule && regime.rows.len() >= views {
            return;
        }
        let rows = regime.rows.iter().cloned();
        let new = (regime.rows.len()..views).map(|_| Arc::default());
        let rows = rows.chain(new).collect();
        self.regime.store(Arc::new(Regime { rule, rows }));
        // Those that wait may have room now.
        self.tell_of_room();
    }

    /// Which endpoints have room for a request that has no seat.
    pub(crate) fn room(&self) -> Room<'static> {
        Room {
            most: self.rule().per_endpoint,
            own: None,
        }
    }

    fn rule(&self) -> config::Limits {
        self.regime.load().rule
    }

    /// The queue of the view with that number.
    fn row(&self, view: usize) -> Arc<Queue> {
        Arc::clone(&self.regime.load().rows[view])
    }

    pub(crate) fn status(&self) -> LimitsStatus {
        let rule = self.rule();
        LimitsStatus {
            concurrent: rule.concurrent,
            per_endpoint: rule.per_endpoint,
            in_use: self.in_use.load(Relaxed),
            waiting: self.waiting.load(Relaxed),
        }
    }

    /// The most requests that may wait.
    pub(crate) fn pending(&self) -> u32 {
        self.rule().pending
    }

    /// What a request meets that comes now, where `picked` says whether an endpoint of the view with that
    /// number has room. It takes no seat.
    pub(crate) fn outlook(&self, view: usize, picked: Result<(), Shed>) -> Outlook {
        let rule = self.rule();
        let first = || match self.works_on_all(rule) {
            true => Err(Shed::Concurrent),
            false => picked,
        };
        match self.at_once(&self.row(view), first) {
            Ok(()) => Outlook::Room,
            Err(_) if self.waiting.load(SeqCst) < rule.pending => Outlook::Waits(rule.wait),
            Err(why) => Outlook::Shed(why),
        }
    }

    fn works_on_all(&self, rule: config::Limits) -> bool {
        let most = rule.concurrent.unwrap_or(u32::MAX);
        self.in_use.load(SeqCst) >= most
    }

    /// Takes a seat, at the endpoint that `pick` names of those of one view that have room; `None`
    /// where the view has no endpoint to name. Waits until `by` at the latest.
    ///
    /// # Errors
    /// Where there is no room, or there was none in time.
    pub(crate) async fn enter(
        self: &Arc<Self>,
        view: usize,
        pick: impl Fn(Room<'_>, Instant) -> Result<Option<Arc<WorkerEndpoint>>, Shed>,
        by: Option<Instant>,
    ) -> Entered {
        let entered = {
            let regime = self.regime.load();
            let row = &regime.rows[view];
            self.at_once(row, || self.try_unless_full(row, &pick))
        };
        match entered {
            // Apart, so that a request which need not wait has no room for it.
            Err(why) => Box::pin(self.wait(view, why, pick, by)).await,
            entered => entered,
        }
    }

    /// A seat by this try, where no other request waits: none goes past those that do.
    fn at_once<T>(&self, row: &Queue, first: impl FnOnce() -> Result<T, Shed>) -> Result<T, Shed> {
        if row.waiting.load(SeqCst) == 0 {
            return first();
        }
        Err(match self.rule().concurrent {
            Some(_) => Shed::Concurrent,
            None => Shed::PerEndpoint,
        })
    }

    /// A seat by waiting for one; where too many wait, it is said `why` there is none.
    async fn wait(
        self: &Arc<Self>,
        view: usize,
        why: Shed,
        pick: impl Fn(Room<'_>, Instant) -> Result<Option<Arc<WorkerEndpoint>>, Shed>,
        by: Option<Instant>,
    ) -> Entered {
        let (rule, row) = (self.rule(), self.row(view));
        let Some(_place) = Waiter::take(self, &row, rule.pending) else {
            return Err(why);
        };
        let limit = Instant::now() + rule.wait;
        let limit = by.map_or(limit, |by| by.min(limit));
        let in_front = timeout_at(limit, row.front.lock()).await;
        let _front = in_front.map_err(|_| Shed::Pending)?;
        loop {
            let mut left = pin!(row.room.notified());
            // A request that leaves from here on is heard of.
            left.as_mut().enable();
            let entered = self.try_enter(&pick);
            if entered.is_ok() {
                return entered;
            }
            let again = limit.min(Instant::now() + LOOK_AGAIN);
            if timeout_at(again, left).await.is_err() && again == limit {
                return Err(Shed::Pending);
            }
        }
    }

    /// Without a search where the last one, a moment ago, has found all full, and no request has
    /// left since.
    fn try_unless_full(
        self: &Arc<Self>,
        row: &Queue,
        pick: impl Fn(Room<'_>, Instant) -> Result<Option<Arc<WorkerEndpoint>>, Shed>,
    ) -> Entered {
        // Before the search: what changes during it is a change after it.
        let changes = self.changes.load(SeqCst) as u32;
        let now = self.epoch.elapsed().as_millis() as u32;
        let full = row.full.load(Relaxed);
        if (full >> 32) as u32 == changes && now.wrapping_sub(full as u32) < FULL_MILLIS {
            return Err(Shed::PerEndpoint);
        }
        let entered = self.try_enter(pick);
        if matches!(entered, Err(Shed::PerEndpoint)) {
            let full = u64::from(changes) << 32 | u64::from(now);
            row.full.store(full, Relaxed);
        }
        entered
    }

    /// Has nothing in hand that it does not keep, unless another request has just taken what was
    /// free: so none finds full what is not, and those that wait need not take turns.
    fn try_enter(
        self: &Arc<Self>,
        pick: impl Fn(Room<'_>, Instant) -> Result<Option<Arc<WorkerEndpoint>>, Shed>,
    ) -> Entered {
        let rule = self.rule();
        if self.works_on_all(rule) {
            return Err(Shed::Concurrent);
        }
        let Some(line) = claim_line(rule, None, pick)? else {
            return Ok(None);
        };
        let mut seat = Seat {
            limits: Arc::clone(self),
            at: rule.per_endpoint.map(|_| Arc::clone(&line)),
            is_counted: false,
        };
        if !claim(&self.in_use, rule.concurrent.unwrap_or(u32::MAX)) {
            return Err(Shed::Concurrent);
        }
        seat.is_counted = true;
        Ok(Some((seat, line)))
    }

    /// A request has left, or which endpoints may be picked has changed.
    pub(crate) fn tell_of_room(&self) {
        self.changes.fetch_add(1, SeqCst);
        let regime = self.regime.load();
        let rows = regime.rows.iter();
        rows.filter(|row| row.waiting.load(SeqCst) > 0)
            .for_each(|row| row.room.notify_one());
    }
}

impl Seat {
    /// Goes over to the endpoint that `pick` names of those with room.
    ///
    /// # Errors
    /// Where none of them has room.
    pub(crate) fn sit(
        &mut self,
        pick: impl Fn(Room<'_>, Instant) -> Result<Option<Arc<WorkerEndpoint>>, Shed>,
    ) -> Result<Option<Arc<WorkerEndpoint>>, Shed> {
        let rule = self.limits.rule();
        let line = claim_line(rule, self.at.as_ref(), pick)?;
        if let Some(line) = &line
            && rule.per_endpoint.is_some()
            && !self.at.as_ref().is_some_and(|own| Arc::ptr_eq(own, line))
        {
            self.stand_up();
            self.at = Some(Arc::clone(line));
            self.limits.tell_of_room();
        }
        Ok(line)
    }

    /// Gives it up, and waits behind all others for one at the endpoint that `pick` names of those
    /// with room.
    ///
    /// # Errors
    /// Where there was none in time.
    pub(crate) async fn wait(
        self,
        view: usize,
        pick: impl Fn(Room<'_>, Instant) -> Result<Option<Arc<WorkerEndpoint>>, Shed>,
        by: Option<Instant>,
    ) -> Entered {
        let limits = Arc::clone(&self.limits);
        drop(self);
        match limits.at_once(&limits.row(view), || limits.try_enter(&pick)) {
            Err(why) => limits.wait(view, why, pick, by).await,
            entered => entered,
        }
    }

    fn stand_up(&mut self) {
        if let Some(line) = self.at.take() {
            line.health().seats().fetch_sub(1, SeqCst);
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.stand_up();
        if self.is_counted {
            self.limits.in_use.fetch_sub(1, SeqCst);
        }
        self.limits.tell_of_room();
    }
}

/// A place among those who wait.
struct Waiter<'l> {
    limits: &'l Limits,
    row: &'l Queue,
}

impl<'l> Waiter<'l> {
    fn take(limits: &'l Limits, row: &'l Queue, most: u32) -> Option<Self> {
        claim(&limits.waiting, most).then(|| {
            row.waiting.fetch_add(1, SeqCst);
            Self { limits, row }
        })
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        self.row.waiting.fetch_sub(1, SeqCst);
        self.limits.waiting.fetch_sub(1, SeqCst);
        // It may have been told of room that it does not take.
        self.limits.tell_of_room();
    }
}

/// The endpoint that `pick` names of those with room, one seat of which is taken then; at `own`
/// there is one already.
fn claim_line(
    rule: config::Limits,
    own: Option<&Arc<WorkerEndpoint>>,
    pick: impl Fn(Room<'_>, Instant) -> Result<Option<Arc<WorkerEndpoint>>, Shed>,
) -> Result<Option<Arc<WorkerEndpoint>>, Shed> {
    let most = rule.per_endpoint;
    let room = Room {
        most,
        own: own.map(|own| own.health()),
    };
    let now = Instant::now();
    while let Some(line) = pick(room, now)? {
        let is_own = own.is_some_and(|own| Arc::ptr_eq(own, &line));
        if is_own || most.is_none_or(|most| claim(line.health().seats(), most)) {
            return Ok(Some(line));
        }
        // Another request has just had the last seat there.
    }
    Ok(None)
}

fn is_limit(rule: config::Limits) -> bool {
    rule.concurrent.is_some() || rule.per_endpoint.is_some()
}

fn claim(count: &AtomicU32, most: u32) -> bool {
    let one_more = |count| (count < most).then(|| count + 1);
    count.fetch_update(SeqCst, SeqCst, one_more).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(concurrent: u32, pending: u32) -> Arc<Limits> {
        let rule = config::Limits {
            concurrent: Some(concurrent),
            per_endpoint: None,
            pending,
            wait: Duration::from_secs(1),
        };
        Limits::new(rule, 1).unwrap()
    }

    /// At an endpoint that counts for nothing: what is claimed is the service's seat alone.
    async fn enter(limits: &Arc<Limits>) -> Result<Option<Seat>, Shed> {
        let line = crate::service::endpoint::testing::line();
        let entered = limits
            .enter(0, |_, _| Ok(Some(Arc::clone(&line))), None)
            .await?;
        Ok(entered.map(|(seat, _)| seat))
    }

    /// Two views, of an endpoint each that works on one request at a time.
    fn one_for_each_of_two_views(pending: u32) -> (Arc<Limits>, [Arc<WorkerEndpoint>; 2]) {
        let rule = config::Limits {
            concurrent: None,
            per_endpoint: Some(1),
            pending,
            wait: Duration::from_secs(1),
        };
        let lines = [(); 2].map(|()| crate::service::endpoint::testing::line());
        (Limits::new(rule, 2).unwrap(), lines)
    }

    /// The first of these that has room.
    fn first_with_room(
        lines: &[Arc<WorkerEndpoint>],
        room: Room<'_>,
    ) -> Result<Option<Arc<WorkerEndpoint>>, Shed> {
        let first = lines.iter().find(|line| room.is_at(line.health()));
        first.cloned().map(Some).ok_or(Shed::PerEndpoint)
    }

    fn enter_view(
        limits: &Arc<Limits>,
        view: usize,
        line: &Arc<WorkerEndpoint>,
    ) -> impl Future<Output = Result<Option<(Seat, Arc<WorkerEndpoint>)>, Shed>> + use<> {
        let (limits, line) = (Arc::clone(limits), Arc::clone(line));
        let pick = move |room: Room<'_>, _| first_with_room(std::slice::from_ref(&line), room);
        async move { limits.enter(view, pick, None).await }
    }

    #[tokio::test(start_paused = true)]
    async fn so_many_are_let_in_so_many_wait_and_the_rest_is_shed() {
        let limits = limits(2, 1);
        let seats = [enter(&limits).await.unwrap(), enter(&limits).await.unwrap()];
        let waits = tokio::spawn({
            let limits = Arc::clone(&limits);
            async move { enter(&limits).await }
        });
        tokio::task::yield_now().await;
        assert_eq!(enter(&limits).await.unwrap_err(), Shed::Concurrent);
        assert_eq!((limits.status().in_use, limits.status().waiting), (2, 1));
        drop(seats);
        let seat = waits.await.unwrap().unwrap();
        assert_eq!((limits.status().in_use, limits.status().waiting), (1, 0));
        drop(seat);
        assert_eq!(limits.status().in_use, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_for_too_long_is_shed_and_leaves_no_trace() {
        let limits = limits(1, 5);
        let seat = enter(&limits).await.unwrap();
        assert_eq!(enter(&limits).await.unwrap_err(), Shed::Pending);
        // One that goes away by itself.
        let gone = tokio::time::timeout(Duration::from_millis(1), enter(&limits));
        assert!(gone.await.is_err());
        assert_eq!(limits.status().waiting, 0);
        drop(seat);
        assert!(enter(&limits).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_keeps_its_turn_under_another_rule_which_holds_for_it_at_once() {
        let limits = limits(1, 5);
        let seat = enter(&limits).await.unwrap();
        let began = Instant::now();
        let (enters, mut entered) = tokio::sync::mpsc::unbounded_channel();
        let wait = |number: usize, limits: &Arc<Limits>| {
            let (limits, enters) = (Arc::clone(limits), enters.clone());
            tokio::spawn(async move { enters.send((number, enter(&limits).await)).unwrap() });
            tokio::task::yield_now()
        };
        wait(1, &limits).await;
        // A route more has a view of its own.
        let rule = limits.rule();
        let after = Limits::after(Some(&limits), rule, 2).unwrap();
        wait(2, &after).await;
        drop(seat);
        let mut seats = Vec::new();
        for number in [1, 2] {
            let (turn, seat) = entered.recv().await.unwrap();
            assert_eq!(turn, number);
            assert_eq!(after.status().in_use, 1);
            seats.push(seat.unwrap());
            if number == 1 {
                seats.clear();
            }
        }
        wait(3, &after).await;
        assert_eq!((after.status().in_use, after.status().waiting), (1, 1));
        let more = config::Limits {
            concurrent: Some(2),
            ..rule
        };
        let after = Limits::after(Some(&after), more, 2).unwrap();
        seats.push(entered.recv().await.unwrap().1.unwrap());
        assert_eq!((after.status().in_use, after.status().waiting), (2, 0));
        wait(4, &after).await;
        let none = config::Limits {
            concurrent: None,
            ..rule
        };
        assert!(Limits::after(Some(&after), none, 2).is_none());
        assert!(entered.recv().await.unwrap().1.is_ok());
        assert_eq!(began.elapsed(), Duration::ZERO);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn there_are_never_more_than_the_limit_and_nobody_is_forgotten() {
        let limits = limits(3, 1_000);
        let (now, most) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
        let tasks: Vec<_> = (0..400)
            .map(|_| {
                let (limits, now, most) =
                    (Arc::clone(&limits), Arc::clone(&now), Arc::clone(&most));
                tokio::spawn(async move {
                    let seat = enter(&limits).await.unwrap();
                    most.fetch_max(now.fetch_add(1, SeqCst) + 1, SeqCst);
                    tokio::task::yield_now().await;
                    now.fetch_sub(1, SeqCst);
                    drop(seat);
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        assert!((1..=3).contains(&most.load(SeqCst)));
        assert_eq!((limits.status().in_use, limits.status().waiting), (0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn an_endpoint_that_is_full_is_gone_past_and_where_all_are_one_waits() {
        let rule = config::Limits {
            concurrent: None,
            per_endpoint: Some(1),
            pending: 1,
            wait: Duration::from_secs(1),
        };
        let limits = Limits::new(rule, 1).unwrap();
        let lines = [(); 2].map(|()| crate::service::endpoint::testing::line());
        let pick = |room: Room<'_>, _| first_with_room(&lines, room);
        let enter = || limits.enter(0, pick, None);
        let (mut first, a) = enter().await.unwrap().unwrap();
        let (second, b) = enter().await.unwrap().unwrap();
        assert!(Arc::ptr_eq(&a, &lines[0]) && Arc::ptr_eq(&b, &lines[1]));
        assert_eq!(enter().await.unwrap_err(), Shed::Pending);
        let others = |room: Room<'_>, _| first_with_room(&lines[1..], room);
        assert_eq!(first.sit(others).unwrap_err(), Shed::PerEndpoint);
        let same = first.sit(pick).unwrap().unwrap();
        assert!(Arc::ptr_eq(&same, &lines[0]), "it has a seat there");
        drop(second);
        // A retry takes the other's seat, and leaves its own.
        let to = first.sit(others).unwrap();
        assert!(Arc::ptr_eq(&to.unwrap(), &lines[1]));
        assert!(enter().await.unwrap().is_some());
        assert!(
            limits
                .enter(0, |_, _| Ok(None), None)
                .await
                .unwrap()
                .is_none()
        );
        drop(first);
        assert_eq!(limits.status().in_use, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_is_served_in_turn_though_there_was_no_room_when_it_was_told() {
        let (limits, lines) = one_for_each_of_two_views(5);
        let enter = |view: usize| {
            let entering = enter_view(&limits, view, &lines[view]);
            async { entering.await.unwrap().unwrap().0 }
        };
        let (mut seat, elsewhere) = (enter(0).await, enter(1).await);
        let (enters, mut entered) = tokio::sync::mpsc::unbounded_channel();
        for number in 0..5 {
            let (entering, enters) = (enter(0), enters.clone());
            tokio::spawn(async move { enters.send((number, entering.await)).unwrap() });
            tokio::task::yield_now().await;
        }
        // They are told, and what they wait for is still full.
        drop(elsewhere);
        tokio::task::yield_now().await;
        for number in 0..5 {
            drop(seat);
            let (next, its) = entered.recv().await.unwrap();
            assert_eq!(next, number);
            seat = its;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_for_a_view_that_is_full_takes_no_notice_and_no_room_of_another() {
        let (limits, lines) = one_for_each_of_two_views(2);
        let enter = |view: usize| enter_view(&limits, view, &lines[view]);
        let _full = enter(0).await.unwrap().unwrap();
        let seat = enter(1).await.unwrap().unwrap();
        let first = tokio::spawn(enter(0));
        tokio::task::yield_now().await;
        let second = tokio::spawn(enter(1));
        tokio::task::yield_now().await;
        let began = Instant::now();
        drop(seat);
        assert!(second.await.unwrap().unwrap().is_some());
        assert_eq!(began.elapsed(), Duration::ZERO);
        // As many wait as may, and none of them for this one's endpoint, which has room.
        let other = tokio::spawn(enter(0));
        tokio::task::yield_now().await;
        assert_eq!(limits.status().waiting, 2);
        assert!(enter(1).await.unwrap().is_some());
        assert!(first.await.unwrap().is_err() && other.await.unwrap().is_err());
    }
    #[tokio::test(start_paused = true)]
    async fn a_search_that_found_all_full_is_not_made_again_until_a_request_leaves_or_time_passes()
    {
        let (limits, [line, _]) = one_for_each_of_two_views(0);
        let searches = std::cell::Cell::new(0);
        let enter = || {
            let pick = |room: Room<'_>, _| {
                searches.set(searches.get() + 1);
                first_with_room(std::slice::from_ref(&line), room)
            };
            limits.enter(0, pick, None)
        };
        let seat = enter().await.unwrap();
        for _ in 0..1000 {
            assert_eq!(enter().await.unwrap_err(), Shed::PerEndpoint);
        }
        assert_eq!(searches.replace(0), 2);
        drop(seat);
        let _seat = enter().await.unwrap().unwrap();
        assert_eq!(enter().await.unwrap_err(), Shed::PerEndpoint);
        // An ejection may be over.
        tokio::time::advance(Duration::from_millis(FULL_MILLIS.into())).await;
        assert_eq!(enter().await.unwrap_err(), Shed::PerEndpoint);
        assert_eq!(searches.get(), 3);
        // Of another view it says nothing.
        assert!(limits.enter(1, |_, _| Ok(None), None).await.is_ok());
    }
}
