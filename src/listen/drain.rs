//! The way out of a listener that a reload has taken out of the file: it accepts no more, and its
//! connections end as they do when the process does. Knows nothing of files.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Stop;

/// Whether a listener is on its way out, and how far. Each of its connections has a share of it.
#[derive(Debug, Default)]
pub(crate) struct Drain {
    /// Its clients are told with each answer.
    has_begun: Arc<AtomicBool>,
    /// Ends accepting.
    closing: CancellationToken,
    course: OnceLock<Course>,
    /// Connections that were cut at its end.
    cut: AtomicU64,
}

#[derive(Debug)]
struct Course {
    /// From here on connections are to finish.
    finish: Instant,
    /// From here on those that are left are cut.
    cut: Instant,
}

impl Drain {
    /// Begins it: `notice` is how long clients are told and idle ones are left alone, and `deadline` how long
    /// requests may take after that.
    pub(crate) fn begin(&self, notice: Duration, deadline: Duration) {
        let finish = Instant::now() + notice;
        let cut = finish + deadline;
        // It begins once.
        let _ = self.course.set(Course { finish, cut });
        self.has_begun.store(true, Relaxed);
        self.closing.cancel();
    }

    /// Whether it has begun, for those that answer its clients.
    pub(super) fn flag(&self) -> &Arc<AtomicBool> {
        &self.has_begun
    }

    /// What ends accepting.
    pub(crate) fn closing(&self) -> &CancellationToken {
        &self.closing
    }

    /// What its connections are told at this moment, and since when.
    pub(crate) fn order(&self, now: Instant) -> Option<(Stop, Instant)> {
        let course = self.course.get()?;
        if now >= course.cut {
            return Some((Stop::Cut, course.cut));
        }
        (now >= course.finish).then_some((Stop::Finish, course.finish))
    }

    /// How long it is until those that are left are cut; none where it has not begun, or is over.
    pub(crate) fn left(&self) -> Duration {
        let course = self.course.get();
        course.map_or(Duration::ZERO, |course| {
            course.cut.saturating_duration_since(Instant::now())
        })
    }

    /// Counts a connection that is cut.
    pub(crate) fn count_cut(&self) {
        self.cut.fetch_add(1, Relaxed);
    }

    /// How many connections were cut.
    pub(crate) fn cut(&self) -> u64 {
        self.cut.load(Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn clients_are_told_first_and_then_to_finish_and_cut_at_the_deadline() {
        let drain = Drain::default();
        let order = || drain.order(Instant::now()).map(|(order, _)| order);
        assert_eq!(order(), None);
        drain.begin(Duration::from_secs(3), Duration::from_secs(5));
        assert!(drain.flag().load(Relaxed) && drain.closing().is_cancelled());
        assert_eq!(order(), None);
        tokio::time::advance(Duration::from_secs(3)).await;
        assert_eq!(order(), Some(Stop::Finish));
        assert_eq!(drain.left(), Duration::from_secs(5));
        tokio::time::advance(Duration::from_secs(5)).await;
        assert_eq!(order(), Some(Stop::Cut));
    }
}
