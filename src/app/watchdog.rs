//! Signs of life for a supervisor, for as long as every worker gives one. A process of which one core stands
//! still answers some clients and not others: its supervisor had better start it anew.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::supervisor::Supervisor;
use crate::proxy::{Shared, Worker};

/// A worker's clock goes on four times a second; one that did not for so long stands still.
const STILL: Duration = Duration::from_secs(2);

/// Gives signs of life twice in the time that the supervisor waits for one, where it does.
pub(super) async fn keep(
    supervisor: Supervisor,
    shared: Arc<Shared>,
    workers: Vec<Arc<Worker>>,
    ending: CancellationToken,
) {
    let Some(limit) = supervisor.watchdog() else {
        return;
    };
    let mut pulse = Pulse::new(workers.len(), STILL.max(limit / 2));
    let mut tick = interval((limit / 2).max(Duration::from_millis(1)));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut is_told = false;
    while ending.run_until_cancelled(tick.tick()).await.is_some() {
        let clocks = workers.iter().map(|worker| worker.clock.load(Relaxed));
        // A worker that has nothing left ends before the others do.
        if pulse.beats(clocks, Instant::now()) || shared.draining.load(Relaxed) {
            supervisor.alive();
            is_told = false;
        } else if !is_told {
            is_told = true;
            tracing::error!("a worker stands still: the supervisor gets no more signs of life");
        }
    }
}

/// What the workers' clocks were, and since when.
struct Pulse {
    still: Duration,
    seen: Vec<(u64, Instant)>,
}

impl Pulse {
    fn new(workers: usize, still: Duration) -> Self {
        let seen = vec![(u64::MAX, Instant::now()); workers];
        Self { still, seen }
    }

    /// Whether each clock has gone on lately.
    fn beats(&mut self, clocks: impl Iterator<Item = u64>, now: Instant) -> bool {
        for (clock, seen) in clocks.zip(&mut self.seen) {
            if clock != seen.0 {
                *seen = (clock, now);
            }
        }
        let still = self.still;
        self.seen.iter().all(|(_, since)| now - *since <= still)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_clock_that_stands_still_is_no_life_until_it_goes_on() {
        let began = Instant::now();
        let mut pulse = Pulse::new(2, STILL);
        let at = |seconds| began + Duration::from_secs(seconds);
        assert!(pulse.beats([0, 0].into_iter(), at(0)));
        assert!(pulse.beats([1, 1].into_iter(), at(1)));
        assert!(pulse.beats([2, 1].into_iter(), at(3)));
        assert!(!pulse.beats([3, 1].into_iter(), at(4)));
        assert!(pulse.beats([3, 2].into_iter(), at(5)));
    }
}
