//! Whom a request goes to, at first and after an attempt that failed, with a seat there where the
//! service has limits. Knows nothing of what becomes of it.

use std::sync::Arc;

use tokio::time::Instant;

use super::{
    queue::{Room, Seat},
    tried::Tried,
};
use crate::service::{PickKey, Service, Shed, View, WorkerEndpoint, endpoint::silence};

impl Service {
    /// The endpoint whose turn it is, with a seat where the service has limits; `None` where there
    /// is no endpoint. Waits for room until `by` at the latest.
    ///
    /// # Errors
    /// Where there is no room, or there was none in time.
    pub async fn seat(
        &self,
        worker: usize,
        view: &View,
        turn: PickKey,
        by: Option<Instant>,
        now: Instant,
    ) -> Result<Option<(Option<Seat>, Arc<WorkerEndpoint>)>, Shed> {
        let tally = &self.lane(worker).tally;
        let Some(limits) = self.limits() else {
            let picked = view.pick(worker, turn, tally, now);
            let line = match picked {
                Some(line) if silence::is_found(self, worker, view, &line, now) => {
                    view.pick(worker, turn, tally, now)
                }
                picked => picked,
            };
            return Ok(line.map(|line| (None, line)));
        };
        let untried = Tried::default();
        let pick =
            |room: Room<'_>, now| view.pick_with_room(worker, turn, &untried, room, tally, now);
        let entered = limits
            .enter(view.number(), pick, by)
            .await
            .inspect_err(|shed| {
                self.lane(worker).shed[shed.index()].add_one();
            });
        let entered = entered?;
        if let Some((_, line)) = &entered {
            // It keeps its seat: the requests after it go elsewhere.
            silence::is_found(self, worker, view, line, now);
        }
        Ok(entered.map(|(seat, line)| (Some(seat), line)))
    }
}

/// Whom a request that was tried goes to. Where all others are full it gives up its seat and waits.
pub(crate) async fn next(
    seat: &mut Option<Seat>,
    view: &View,
    other: impl Fn(Room<'_>, Instant) -> Result<Option<Arc<WorkerEndpoint>>, Shed>,
    by: Option<Instant>,
    now: Instant,
) -> Option<Arc<WorkerEndpoint>> {
    let Some(mut own) = seat.take() else {
        return other(Room::anywhere(), now).ok().flatten();
    };
    let (its, next) = match own.sit(&other) {
        Ok(next) => (own, next?),
        Err(_) => own.wait(view.number(), other, by).await.ok()??,
    };
    *seat = Some(its);
    Some(next)
}

#[cfg(test)]
mod tests {
    use std::{ops::Range, sync::atomic::Ordering::SeqCst, time::Duration};

    use super::*;
    use crate::service::{
        CallPolicy,
        testing::{self, line, update},
    };

    /// One with these limits.
    fn service(limits: &str, ports: Range<u16>) -> Arc<Service> {
        testing::service(&format!("limits = {{ {limits} }}"), ports)
    }

    fn eject(service: &Service, n: usize) {
        let rule = service.policy().eject.clone().unwrap();
        line(service, n).life().eject(&rule, None, Instant::now());
    }

    /// A seat, and whose.
    async fn sit(service: &Service) -> Result<Option<(Option<Seat>, Arc<WorkerEndpoint>)>, Shed> {
        let now = Instant::now();
        let terms = CallPolicy::own(service);
        let turn = terms.view.turn(None, &service.lane(0).tally, now);
        service.seat(0, terms.view, turn, None, now).await
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
        let ejection = line(&service, 1).life().ejection(Instant::now()).unwrap();
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
        assert_eq!(line(&service, 1).life().seats().load(SeqCst), 1);
        assert_eq!(line(&service, 0).life().seats().load(SeqCst), 20);
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
        let (mut seat, tried) = sit(&service).await.unwrap().unwrap();
        let (held, _) = sit(&service).await.unwrap().unwrap();
        let (terms, lane) = (CallPolicy::own(&service), service.lane(0));
        let turn = terms.view.turn(None, &lane.tally, Instant::now());
        let past = Tried::default().with(&tried);
        let other = |room: Room<'_>, now| {
            let view = terms.view;
            view.pick_with_room(0, turn, &past, room, &lane.tally, now)
        };
        let leaves = tokio::spawn(async move {
            tokio::time::sleep(Duration::from_secs(1)).await;
            drop(held);
        });
        let began = Instant::now();
        let line = next(&mut seat, terms.view, other, None, began).await;
        assert!(line.is_some_and(|line| !Arc::ptr_eq(&line, &tried)));
        assert_eq!(began.elapsed(), Duration::from_secs(1));
        leaves.await.unwrap();
        assert_eq!(tried.life().seats().load(SeqCst), 0);
        drop(seat);
        assert_eq!(service.limits().unwrap().status().in_use, 0);
    }
}
