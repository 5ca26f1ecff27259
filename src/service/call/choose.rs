//! Whom a request goes to, at first and after an attempt that failed, with a seat there where the
//! service has limits. Knows nothing of what becomes of it.

use std::sync::Arc;

use tokio::time::Instant;

use super::{
    outcome::Detector,
    queue::{Room, Seat},
    tried::Tried,
};
use crate::service::{PickKey, Shed, WorkerEndpoint, endpoint::silence};

/// Chooses the endpoints of one request, one after the other.
#[derive(Debug)]
pub struct Chooser<'s> {
    pub(super) detector: Detector<'s>,
    pub(super) key: PickKey,
    /// When the request must be over.
    pub(super) by: Option<Instant>,
    /// Its seat, where the service has limits.
    pub(super) seat: Option<Seat>,
}

impl<'s> Chooser<'s> {
    /// For a request with this key, which must be over `by` then.
    pub fn new(detector: Detector<'s>, key: PickKey, by: Option<Instant>) -> Self {
        Self {
            detector,
            key,
            by,
            seat: None,
        }
    }

    /// The endpoint whose turn it is, and a seat there where the service has limits; `None` where there
    /// is no endpoint. Waits for room.
    ///
    /// # Errors
    /// Where there is no room, or there was none in time.
    pub async fn first(&mut self, now: Instant) -> Result<Option<Arc<WorkerEndpoint>>, Shed> {
        let Detector {
            service,
            view,
            worker,
            stats,
        } = self.detector;
        let (key, tally) = (self.key, &stats.tally);
        let Some(limits) = service.limits() else {
            let picked = view.pick(worker, key, tally, now);
            let is_silent =
                |endpoint| silence::doubt_if_silent(service, worker, view, endpoint, now);
            return Ok(match picked.as_ref().is_some_and(is_silent) {
                true => view.pick(worker, key, tally, now),
                false => picked,
            });
        };
        let untried = Tried::default();
        let pick =
            |room: Room<'_>, now| view.pick_with_room(worker, key, &untried, room, tally, now);
        let entered = limits.enter(view.number(), pick, self.by).await;
        let entered = entered.inspect_err(|shed| stats.shed[*shed as usize].add_one())?;
        Ok(entered.map(|(seat, endpoint)| {
            self.seat = Some(seat);
            // It keeps its seat: the requests after it go elsewhere.
            silence::doubt_if_silent(service, worker, view, &endpoint, now);
            endpoint
        }))
    }

    /// An endpoint beside those that were tried, or the last of these again. Where all are full the
    /// request gives up its seat and waits.
    pub(super) async fn next(
        &mut self,
        tried: &Tried,
        again: Option<&Arc<WorkerEndpoint>>,
        now: Instant,
    ) -> Option<Arc<WorkerEndpoint>> {
        let view = self.detector.view;
        let other = other(self.detector, self.key, tried);
        let other = |room: Room<'_>, now| or_again(other(room, now), again, room);
        let Some(mut own) = self.seat.take() else {
            return other(Room::anywhere(), now).ok().flatten();
        };
        let (its, next) = match own.sit(other) {
            Ok(next) => (own, next?),
            Err(_) => own.wait(view.number(), other, self.by).await.ok()??,
        };
        self.seat = Some(its);
        Some(next)
    }

    /// An endpoint beside those that were tried, if one has room now.
    pub(super) fn other_at_once(
        &mut self,
        tried: &Tried,
        now: Instant,
    ) -> Option<Arc<WorkerEndpoint>> {
        let other = other(self.detector, self.key, tried);
        let other = match &mut self.seat {
            None => other(Room::anywhere(), now),
            Some(seat) => seat.sit(other),
        };
        other.unwrap_or_default()
    }

    /// The time now, for a request that may have waited since.
    pub(super) fn now_after_a_wait(&self, before: Instant) -> Instant {
        match self.seat {
            Some(_) => Instant::now(),
            None => before,
        }
    }
}

/// Picks an endpoint beside those that were tried.
fn other<'o>(
    detector: Detector<'o>,
    key: PickKey,
    tried: &'o Tried,
) -> impl Fn(Room<'_>, Instant) -> Result<Option<Arc<WorkerEndpoint>>, Shed> + 'o {
    let Detector {
        view,
        worker,
        stats,
        ..
    } = detector;
    move |room, now| view.pick_with_room(worker, key, tried, room, &stats.tally, now)
}

/// Another endpoint, else the last again where it may be, if that one has room.
fn or_again(
    other: Result<Option<Arc<WorkerEndpoint>>, Shed>,
    again: Option<&Arc<WorkerEndpoint>>,
    room: Room<'_>,
) -> Result<Option<Arc<WorkerEndpoint>>, Shed> {
    match (other, again) {
        (Ok(Some(other)), _) => Ok(Some(other)),
        (_, Some(again)) if room.is_at(again.health()) => Ok(Some(Arc::clone(again))),
        (_, Some(_)) => Err(Shed::PerEndpoint),
        (other, None) => other,
    }
}

#[cfg(test)]
mod tests {
    use std::{ops::Range, sync::atomic::Ordering::SeqCst, time::Duration};

    use super::*;
    use crate::service::{
        Service,
        testing::{self, line, update},
    };

    /// One with these limits.
    fn service(limits: &str, ports: Range<u16>) -> Arc<Service> {
        testing::service(&format!("limits = {{ {limits} }}"), ports)
    }

    fn eject(service: &Service, n: usize) {
        let rule = service.policy().eject.clone().unwrap();
        line(service, n).health().eject(&rule, None, Instant::now());
    }

    fn chooser(service: &Service) -> Chooser<'_> {
        let detector = Detector::new(service, service.main(), 0);
        let tally = &detector.stats.tally;
        let key = detector.view.turn(None, tally, Instant::now());
        Chooser::new(detector, key, None)
    }

    /// A seat, and whose.
    async fn sit(service: &Service) -> Result<Option<(Option<Seat>, Arc<WorkerEndpoint>)>, Shed> {
        let mut chooser = chooser(service);
        let first = chooser.first(Instant::now()).await?;
        Ok(first.map(|first| (chooser.seat, first)))
    }

    fn spawn_sitting(service: &Arc<Service>) -> tokio::task::JoinHandle<Option<Seat>> {
        let service = Arc::clone(service);
        tokio::spawn(async move { sit(&service).await.unwrap().unwrap().0 })
    }

    async fn seats(service: &Service, count: usize) -> Vec<(Option<Seat>, Arc<WorkerEndpoint>)> {
        let mut seats = Vec::new();
        while seats.len() < count {
            seats.extend(sit(service).await.unwrap_or_default());
        }
        seats
    }

    #[tokio::test(start_paused = true)]
    async fn of_those_who_waited_one_tries_who_was_ejected() {
        let service = service("per_endpoint = 20, pending = 100, wait = \"2s\"", 1..3);
        eject(&service, 1);
        let ejection = line(&service, 1).health().ejection(Instant::now()).unwrap();
        let mut held = seats(&service, 20).await;
        let almost = Duration::from_secs_f64(ejection.seconds_left - 1.0);
        tokio::time::advance(almost).await;
        let waiting: Vec<_> = (0..30).map(|_| spawn_sitting(&service)).collect();
        tokio::task::yield_now().await;
        tokio::time::advance(Duration::from_millis(1100)).await;
        held.pop();
        for _ in 0..200 {
            tokio::task::yield_now().await;
        }
        assert_eq!(line(&service, 1).health().seats().load(SeqCst), 1);
        assert_eq!(line(&service, 0).health().seats().load(SeqCst), 20);
        drop(waiting);
    }

    #[tokio::test(start_paused = true)]
    async fn a_trial_that_is_due_is_made_though_others_are_full() {
        for _ in 0..20 {
            let service = service("per_endpoint = 1, pending = 0", 1..5);
            eject(&service, 3);
            let _held = seats(&service, 3).await;
            assert_eq!(sit(&service).await.unwrap_err(), Shed::PerEndpoint);
            tokio::time::advance(Duration::from_secs(34)).await;
            let (_, tried) = sit(&service).await.unwrap().unwrap();
            assert!(Arc::ptr_eq(&tried, &line(&service, 3)));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn where_all_are_ejected_whoever_has_room_is_asked() {
        for _ in 0..20 {
            let service = service("per_endpoint = 1, pending = 0", 1..3);
            (0..2).for_each(|n| eject(&service, n));
            let held = seats(&service, 2).await;
            assert!(!Arc::ptr_eq(&held[0].1, &held[1].1));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_has_a_new_endpoint_at_once_and_one_that_was_ejected_soon() {
        let service = service("per_endpoint = 1, pending = 5, wait = \"60s\"", 1..2);
        let _held = seats(&service, 1).await;
        let waiting = spawn_sitting(&service);
        tokio::task::yield_now().await;
        let began = Instant::now();
        update(&service, 1..3);
        let _second = waiting.await.unwrap();
        assert_eq!(began.elapsed(), Duration::ZERO);

        update(&service, 1..4);
        eject(&service, 2);
        let _third = spawn_sitting(&service).await.unwrap();
        let waited = began.elapsed().as_secs_f64();
        assert!((30.0..33.3).contains(&waited), "{waited}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_retry_waits_for_room_as_others_do() {
        let service = service("per_endpoint = 1, pending = 5, wait = \"2s\"", 1..3);
        let mut chooser = chooser(&service);
        let tried = chooser.first(Instant::now()).await.unwrap().unwrap();
        let (held, _) = sit(&service).await.unwrap().unwrap();
        let past = Tried::default().with(&tried);
        let leaves = tokio::spawn(async move {
            tokio::time::sleep(Duration::from_secs(1)).await;
            drop(held);
        });
        let began = Instant::now();
        let line = chooser.next(&past, None, began).await;
        assert!(line.is_some_and(|line| !Arc::ptr_eq(&line, &tried)));
        assert_eq!(began.elapsed(), Duration::from_secs(1));
        leaves.await.unwrap();
        assert_eq!(tried.health().seats().load(SeqCst), 0);
        drop(chooser);
        assert_eq!(service.limits().unwrap().status().in_use, 0);
    }
}
