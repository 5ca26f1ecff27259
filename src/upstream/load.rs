//! How busy an endpoint is and how fast it answers, over all workers: for balancers that compare
//! endpoints. Only where one asks for it is it kept, since all workers write to it.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
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
    of_all: OnceLock<Arc<Padded<Counter>>>,
    latency: OnceLock<Latency>,
}

/// Where an exchange was counted when it began; there it is counted off.
#[derive(Clone, Copy, Debug)]
pub(super) struct Counted {
    in_all: bool,
}

impl Load {
    /// One that counts its requests in `of_all` too, and keeps its latency where there is a scale
    /// for it.
    pub fn new(of_all: Option<Arc<Padded<Counter>>>, latency: Option<LatencyScale>) -> Self {
        let load = Self::default();
        load.widen(of_all, latency);
        load
    }

    /// Has it keep this, too, and by this decay.
    pub fn widen(&self, of_all: Option<Arc<Padded<Counter>>>, latency: Option<LatencyScale>) {
        if let Some(all) = of_all {
            self.of_all.get_or_init(|| all);
        }
        if let Some(scale) = latency {
            self.latency
                .get_or_init(|| Latency::new(scale))
                .follow(scale);
        }
    }

    /// Requests that it works on now.
    pub fn in_flight(&self) -> u64 {
        self.in_flight.value()
    }

    /// Requests that all endpoints work on now, those that are on their way out among them; 0 where
    /// that is not counted.
    pub fn of_all(&self) -> u64 {
        self.of_all.get().map_or(0, |all| all.value())
    }

    /// Its latency, as far as it is kept and known.
    pub fn latency(&self) -> Noted {
        let latency = self.latency.get();
        latency.map_or(Noted::default(), |latency| latency.noted())
    }

    /// It took so long to answer, or to be given up.
    pub(super) fn took(&self, began: Instant) {
        if let Some(latency) = self.latency.get() {
            let now = Instant::now();
            latency.note(now.saturating_duration_since(began), now);
        }
    }

    pub(super) fn enter(&self) -> Counted {
        self.in_flight.add_one();
        let all = self.of_all.get();
        if let Some(all) = all {
            all.add_one();
        }
        Counted {
            in_all: all.is_some(),
        }
    }

    pub(super) fn leave(&self, counted: Counted) {
        self.in_flight.sub_one();
        if let Some(all) = self.of_all.get().filter(|_| counted.in_all) {
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

impl LatencyScale {
    /// For each millisecond.
    fn decay_rate(&self) -> f32 {
        1.0 / (self.decay.as_secs_f32() * 1e3)
    }
}

/// A moving average that jumps to a peak at once and comes down from it slowly (Finagle's
/// `PeakEwma`). Without new answers it comes down as well, so that an endpoint which was slow is
/// tried again.
#[derive(Debug)]
struct Latency {
    epoch: Instant,
    /// For each millisecond; the bits of an `f32`.
    decay_rate: AtomicU32,
    /// The latency in microseconds, an `f32`, above the milliseconds after `epoch` at which it was
    /// noted; 0 before the first. In one word, so that a reader sees both of one moment.
    noted: AtomicU64,
}

impl Latency {
    fn new(scale: LatencyScale) -> Self {
        Self {
            epoch: scale.epoch,
            decay_rate: AtomicU32::new(scale.decay_rate().to_bits()),
            noted: AtomicU64::new(0),
        }
    }

    /// Goes by another decay from now on.
    fn follow(&self, scale: LatencyScale) {
        self.decay_rate.store(scale.decay_rate().to_bits(), Relaxed);
    }

    fn decay_rate(&self) -> f32 {
        f32::from_bits(self.decay_rate.load(Relaxed))
    }

    fn noted(&self) -> Noted {
        let (micros, at) = unpack(self.noted.load(Relaxed));
        Noted {
            micros,
            at,
            decay_rate: self.decay_rate(),
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
                let weight = decayed(millis_between(at, now).max(0.0), self.decay_rate());
                latency * weight + took * (1.0 - weight)
            };
            Some(pack(latency, now))
        };
        // It is never refused.
        let _ = self.noted.fetch_update(Relaxed, Relaxed, next);
    }

    fn millis(&self, now: Instant) -> u32 {
        // Goes round after 49 days, and differences go round with it.
        now.saturating_duration_since(self.epoch).as_millis() as u32
    }
}

/// A latency, and when it was noted.
#[derive(Clone, Copy, Debug, Default)]
pub struct Noted {
    micros: f32,
    at: u32,
    decay_rate: f32,
}

impl Noted {
    /// Whether nothing has been noted yet.
    pub fn is_unknown(self) -> bool {
        self.micros == 0.0
    }

    /// Whether this latency, so many times, is more than the other, so many times; at any moment from
    /// now on. What was noted earlier has decayed for longer, and by how much longer is all that
    /// counts.
    pub fn exceeds(self, times: f32, other: Self, other_times: f32) -> bool {
        let left = decayed(millis_between(self.at, other.at), self.decay_rate);
        self.micros * times * left > other.micros * other_times
    }
}

/// Milliseconds from one moment to another, which may be the earlier one; they go round after 49 days.
fn millis_between(from: u32, to: u32) -> f32 {
    to.wrapping_sub(from).cast_signed() as f32
}

/// What is left after so many milliseconds.
fn decayed(millis: f32, rate: f32) -> f32 {
    let x = -millis * rate;
    if x.abs() < 0.125 {
        // As exact as an `f32` is, and a few multiplications: most moments are close together.
        1.0 + x * (1.0 + x * (1.0 / 2.0 + x * (1.0 / 6.0 + x * (1.0 / 24.0 + x * (1.0 / 120.0)))))
    } else {
        x.exp()
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

    #[test]
    fn what_decays_by_a_little_decays_by_as_much() {
        for millis in -2_000..2_000 {
            let left = decayed(millis as f32, 1e-4);
            let exact = (f64::from(-millis) * 1e-4).exp();
            assert!((f64::from(left) / exact - 1.0).abs() < 1e-6, "{millis}");
        }
    }

    fn latency() -> (Latency, Instant) {
        let epoch = Instant::now();
        let decay = Duration::from_secs(10);
        (Latency::new(LatencyScale { epoch, decay }), epoch)
    }

    #[test]
    fn a_peak_counts_at_once_and_is_forgotten_slowly() {
        let (latency, epoch) = latency();
        let at = |seconds| epoch + Duration::from_secs(seconds);
        let noted = || (latency.noted().micros / 1e3).round();
        assert!(latency.noted().is_unknown());
        latency.note(Duration::from_millis(10), at(0));
        assert_eq!(noted(), 10.0);
        latency.note(Duration::from_millis(1000), at(1));
        assert_eq!(noted(), 1000.0);
        // In ten seconds the peak weighs 1/e.
        latency.note(Duration::from_millis(10), at(11));
        assert_eq!(noted(), 374.0);
        latency.note(Duration::ZERO, at(21));
        assert_eq!(noted(), 138.0);
    }

    #[test]
    fn what_was_noted_earlier_counts_for_less() {
        let (one, epoch) = latency();
        let (other, _) = latency();
        one.note(Duration::from_millis(20), epoch);
        other.note(Duration::from_millis(10), epoch);
        let exceeds = |times| one.noted().exceeds(times, other.noted(), 1.0);
        assert!(exceeds(0.51) && !exceeds(0.49));
        other.note(Duration::from_millis(10), epoch + Duration::from_secs(10));
        // Twice as much, less a factor of e.
        assert!(exceeds(1.37) && !exceeds(1.35));
        let others = other.noted().exceeds(1.0, one.noted(), 1.35);
        assert!(others, "it is the same from either side");
    }

    #[test]
    fn a_moment_that_another_worker_has_noted_later_changes_nothing() {
        let (latency, epoch) = latency();
        let (earlier, later) = (
            epoch + Duration::from_secs(1),
            epoch + Duration::from_secs(2),
        );
        latency.note(Duration::from_millis(10), later);
        latency.note(Duration::ZERO, earlier);
        assert_eq!((latency.noted().micros / 1e3).round(), 10.0);
    }

    #[test]
    fn what_is_counted_from_some_moment_on_is_counted_off_by_those_that_came_after_it() {
        let load = Load::default();
        let before = load.enter();
        load.widen(Some(Arc::default()), None);
        let after = load.enter();
        assert_eq!((load.in_flight(), load.of_all()), (2, 1));
        load.leave(before);
        assert_eq!((load.in_flight(), load.of_all()), (1, 1));
        load.leave(after);
        assert_eq!((load.in_flight(), load.of_all()), (0, 0));
    }

    #[test]
    fn what_many_threads_enter_and_leave_comes_to_nothing() {
        let all = Arc::new(Padded(Counter::default()));
        let loads = [(); 3].map(|()| Load::new(Some(Arc::clone(&all)), None));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for load in loads.iter().cycle().take(3000) {
                        let counted = load.enter();
                        assert!(load.in_flight() > 0 && load.of_all() > 0);
                        load.leave(counted);
                    }
                });
            }
        });
        assert_eq!(all.value(), 0);
        assert!(loads.iter().all(|load| load.in_flight() == 0));
    }
}
