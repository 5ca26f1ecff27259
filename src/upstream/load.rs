//! How busy an endpoint is and how fast it answers, over all workers: for balancers that compare
//! endpoints. Only where one asks for it is it kept, since all workers write to it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::time::Instant;

use crate::metrics::{Counter, Padded};

/// What is kept of one endpoint.
#[derive(Debug, Default)]
pub struct Load {
    in_flight: Counter,
    /// Of all endpoints together.
    of_all: Option<Arc<Padded<Counter>>>,
    latency: Option<Latency>,
}

impl Load {
    /// One that counts its requests in `of_all` too, and keeps its latency where there is a scale
    /// for it.
    pub fn new(of_all: Option<Arc<Padded<Counter>>>, latency: Option<LatencyScale>) -> Self {
        Self {
            in_flight: Counter::default(),
            of_all,
            latency: latency.map(Latency::new),
        }
    }

    /// Requests that it works on now.
    pub fn in_flight(&self) -> u64 {
        self.in_flight.value()
    }

    /// Requests that all endpoints work on now, those that are on their way out among them; 0 where
    /// that is not counted.
    pub fn of_all(&self) -> u64 {
        self.of_all.as_ref().map_or(0, |all| all.value())
    }

    /// What the next request to it costs: its latency times its load. 0 where no latency is kept.
    pub fn cost(&self, now: Instant) -> f32 {
        let latency = self.latency.as_ref();
        latency.map_or(0.0, |latency| latency.cost(self.in_flight(), now))
    }

    /// It took so long to answer, or to be given up.
    pub(super) fn took(&self, began: Instant) {
        if let Some(latency) = &self.latency {
            let now = Instant::now();
            latency.note(now.saturating_duration_since(began), now);
        }
    }

    pub(super) fn enter(&self) {
        self.in_flight.add_one();
        if let Some(all) = &self.of_all {
            all.add_one();
        }
    }

    pub(super) fn leave(&self) {
        self.in_flight.sub_one();
        if let Some(all) = &self.of_all {
            all.sub_one();
        }
    }
}

/// Against what latencies are kept; one for all endpoints of a service.
#[derive(Clone, Copy, Debug)]
pub struct LatencyScale {
    /// Counted from here, so that a moment fits beside its latency.
    pub epoch: Instant,
    /// In which time a latency that was noted weighs less by a factor of e.
    pub decay: Duration,
}

/// A moving average that jumps to a peak at once and comes down from it slowly (Finagle's
/// `PeakEwma`). Without new answers it comes down as well, so that an endpoint which was slow is
/// tried again.
#[derive(Debug)]
struct Latency {
    epoch: Instant,
    /// In milliseconds.
    decay: f32,
    /// The latency in microseconds, an `f32`, above the milliseconds after `epoch` at which it was
    /// noted; 0 before the first. In one word, so that whoever reads sees both of one moment.
    noted: AtomicU64,
}

/// What an endpoint costs that works on its first request, of which nothing is known yet: more than
/// any other, so that it is sent no second before it has answered.
const UNKNOWN: f32 = 1e30;

impl Latency {
    fn new(scale: LatencyScale) -> Self {
        Self {
            epoch: scale.epoch,
            decay: scale.decay.as_secs_f32() * 1e3,
            noted: AtomicU64::new(0),
        }
    }

    /// The latency times the requests that would then be in flight.
    fn cost(&self, in_flight: u64, now: Instant) -> f32 {
        let (latency, at) = unpack(self.noted.load(Relaxed));
        if latency > 0.0 {
            let since = self.millis(now).wrapping_sub(at);
            latency * self.weight_after(since) * (in_flight + 1) as f32
        } else if in_flight == 0 {
            0.0
        } else {
            UNKNOWN * in_flight as f32
        }
    }

    fn note(&self, took: Duration, now: Instant) {
        let took = (took.as_secs_f32() * 1e6).max(1.0);
        let now = self.millis(now);
        let next = |noted| {
            let (latency, at) = unpack(noted);
            let latency = if took >= latency {
                took
            } else {
                let weight = self.weight_after(now.wrapping_sub(at));
                latency * weight + took * (1.0 - weight)
            };
            Some(pack(latency, now))
        };
        // It is never refused.
        let _ = self.noted.fetch_update(Relaxed, Relaxed, next);
    }

    fn weight_after(&self, millis: u32) -> f32 {
        // Another worker may have noted it a moment later than "now".
        if millis > u32::MAX / 2 {
            return 1.0;
        }
        (-(millis as f32) / self.decay).exp()
    }

    fn millis(&self, now: Instant) -> u32 {
        // Goes round after 49 days, and differences go round with it.
        now.saturating_duration_since(self.epoch).as_millis() as u32
    }
}

fn pack(latency: f32, at: u32) -> u64 {
    u64::from(latency.to_bits()) << 32 | u64::from(at)
}

fn unpack(noted: u64) -> (f32, u32) {
    (f32::from_bits((noted >> 32) as u32), noted as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn latency() -> (Latency, Instant) {
        let epoch = Instant::now();
        let decay = Duration::from_secs(10);
        (Latency::new(LatencyScale { epoch, decay }), epoch)
    }

    #[test]
    fn a_peak_counts_at_once_and_is_forgotten_slowly() {
        let (latency, epoch) = latency();
        let at = |seconds| epoch + Duration::from_secs(seconds);
        let millis = |cost: f32| (cost / 1e3).round();
        latency.note(Duration::from_millis(10), at(0));
        assert_eq!(millis(latency.cost(0, at(0))), 10.0);
        assert_eq!(millis(latency.cost(3, at(0))), 40.0);
        latency.note(Duration::from_millis(1000), at(1));
        assert_eq!(millis(latency.cost(0, at(1))), 1000.0);
        // In ten seconds the peak weighs 1/e.
        latency.note(Duration::from_millis(10), at(11));
        assert_eq!(millis(latency.cost(0, at(11))), 374.0);
        // And so it does where nothing is noted.
        assert_eq!(millis(latency.cost(0, at(21))), 138.0);
    }

    #[test]
    fn who_is_not_known_yet_is_asked_once_and_waited_for() {
        let (latency, epoch) = latency();
        assert_eq!(latency.cost(0, epoch), 0.0);
        let (waited_for, worse) = (latency.cost(1, epoch), latency.cost(2, epoch));
        assert!(waited_for > 1e12 && worse > waited_for && worse.is_finite());
        latency.note(Duration::ZERO, epoch);
        assert!(latency.cost(1, epoch) > 0.0);
        assert!(latency.cost(1, epoch) < waited_for);
    }

    #[test]
    fn a_moment_that_another_worker_has_noted_later_changes_nothing() {
        let (latency, epoch) = latency();
        latency.note(Duration::from_millis(10), epoch + Duration::from_secs(2));
        let cost = latency.cost(0, epoch + Duration::from_secs(1));
        assert_eq!((cost / 1e3).round(), 10.0);
    }

    #[test]
    fn what_many_threads_enter_and_leave_comes_to_nothing() {
        let all = Arc::new(Padded(Counter::default()));
        let loads = [(); 3].map(|()| Load::new(Some(Arc::clone(&all)), None));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for load in loads.iter().cycle().take(3000) {
                        load.enter();
                        assert!(load.in_flight() > 0 && load.of_all() > 0);
                        load.leave();
                    }
                });
            }
        });
        assert_eq!(all.value(), 0);
        assert!(loads.iter().all(|load| load.in_flight() == 0));
    }
}
