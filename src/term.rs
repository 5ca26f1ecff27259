//! For how long a change at run time holds. Such a change ends by itself: one that is forgotten is gone within a
//! day. Knows nothing of what is changed.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::Serialize;
use tokio_util::task::AbortOnDropHandle;

/// The longest.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// The time of a change. Dropped, it does not end what it is of.
#[derive(Debug)]
pub(crate) struct Term {
    since: SystemTime,
    time: Duration,
    /// Tells it from a later one of the same thing.
    began: Instant,
    /// `None` for tests alone.
    _expiry: Option<AbortOnDropHandle<()>>,
}

/// A change would last for nothing or for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a change lasts for at least a second and at most 24 hours")]
pub struct TermError;

/// A time of a change, as the admin API shows it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct TermStatus {
    /// When it began, in seconds since 1970.
    pub since: f64,
    /// When it ends by itself, in seconds since 1970.
    pub ends: f64,
    /// Until then.
    pub seconds_left: f64,
}

impl Term {
    /// From now on for so long. Then `end` is called with what tells it from others. Must be called on a
    /// runtime that goes on.
    ///
    /// # Errors
    /// Where that is too short or too long.
    pub(crate) fn begin(
        time: Duration,
        end: impl FnOnce(Instant) + Send + 'static,
    ) -> Result<Self, TermError> {
        if time < Duration::from_secs(1) || time > LONGEST {
            return Err(TermError);
        }
        let began = Instant::now();
        let expiry = tokio::spawn(async move {
            tokio::time::sleep(time).await;
            end(began);
        });
        Ok(Self {
            since: SystemTime::now(),
            time,
            began,
            _expiry: Some(AbortOnDropHandle::new(expiry)),
        })
    }

    /// One that does not end by itself.
    #[cfg(test)]
    pub(crate) fn endless() -> Self {
        Self {
            since: SystemTime::now(),
            time: Duration::from_secs(60),
            began: Instant::now(),
            _expiry: None,
        }
    }

    /// How long it lasts in all.
    pub(crate) fn time(&self) -> Duration {
        self.time
    }

    /// How long it has lasted.
    pub(crate) fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    /// Whether it is the one that began then.
    pub(crate) fn is(&self, began: Instant) -> bool {
        self.began == began
    }

    pub(crate) fn status(&self) -> TermStatus {
        let left = self.time.saturating_sub(self.began.elapsed());
        let seconds = |at: SystemTime| {
            let since = at.duration_since(UNIX_EPOCH);
            since.unwrap_or_default().as_secs_f64()
        };
        let ends = self.ends(SystemTime::now() + left);
        TermStatus {
            since: seconds(self.since),
            ends: seconds(ends),
            seconds_left: left.as_secs_f64(),
        }
    }

    /// When it ends by itself, which is then by the clock as it is now. The clock by which it ends stands still in a
    /// machine that is suspended, and the one that is shown may be set.
    fn ends(&self, now_expected: SystemTime) -> SystemTime {
        /// Less is no difference: each look would find another moment.
        const DIFFERENCE: Duration = Duration::from_secs(1);
        let expected = self.since + self.time;
        let apart = match now_expected.duration_since(expected) {
            Ok(later) => later,
            Err(earlier) => earlier.duration(),
        };
        match apart > DIFFERENCE {
            true => now_expected,
            false => expected,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[tokio::test(start_paused = true)]
    async fn a_term_ends_once_and_not_when_it_was_dropped() {
        let ended = Arc::new(Mutex::new(Vec::new()));
        let begin = |time| {
            let ended = Arc::clone(&ended);
            Term::begin(time, move |began| ended.lock().unwrap().push(began))
        };
        for time in [Duration::ZERO, LONGEST + HOUR] {
            assert_eq!(begin(time).err(), Some(TermError), "{time:?}");
        }
        let first = begin(HOUR).unwrap();
        let second = begin(HOUR).unwrap();
        let status = first.status();
        assert!((status.ends - status.since - 3600.0).abs() < 0.001);
        assert!(status.seconds_left > 0.0 && status.seconds_left <= 3600.0);
        let an_hour_late = first.since + first.time + HOUR;
        assert_eq!(first.ends(an_hour_late), an_hour_late);
        drop(first);
        tokio::time::sleep(2 * HOUR).await;
        let ended = ended.lock().unwrap();
        assert!(ended.len() == 1 && second.is(ended[0]), "{ended:?}");
    }
}
