//! How long to stay away after a failure: exponential, capped, with full jitter, so that many who
//! failed together do not come back together; and how often to speak of it. Knows nothing of what
//! failed, and does not sleep.

use std::{collections::HashMap, hash::Hash, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::time::Instant;

/// The delays between the attempts at one thing.
#[derive(Clone, Debug)]
pub(crate) struct Backoff {
    base: Duration,
    cap: Duration,
    failures: u32,
    rng: fastrand::Rng,
}

impl Backoff {
    /// The first delay is at most `base`, each later one at most twice the one before, and none
    /// is longer than `cap`.
    pub(crate) fn new(base: Duration, cap: Duration, rng: fastrand::Rng) -> Self {
        Self {
            base,
            cap,
            failures: 0,
            rng,
        }
    }

    /// Counts a failure and says how long to wait: anything from nothing to the present ceiling
    /// with the same likelihood, the "full jitter" of AWS's "Exponential Backoff And Jitter".
    pub(crate) fn delay(&mut self) -> Duration {
        let ceiling = 2u32
            .checked_pow(self.failures)
            .and_then(|factor| self.base.checked_mul(factor))
            .map_or(self.cap, |delay| delay.min(self.cap));
        self.failures = self.failures.saturating_add(1);
        ceiling.mul_f64(self.rng.f64())
    }

    /// Something succeeded: the next failure is a first one.
    pub(crate) fn reset(&mut self) {
        self.failures = 0;
    }
}

/// Between two log lines about one trouble: the first pause, doubled up to the last.
const LOG_PAUSE: Duration = Duration::from_secs(10);
const MAX_LOG_PAUSE: Duration = Duration::from_secs(600);

/// When a log line about a trouble that goes on is due: at once, after 10 s, after 20 s more, and
/// so on up to every ten minutes.
#[derive(Clone, Debug)]
pub(crate) struct Lines {
    next: Instant,
    pause: Duration,
}

impl Lines {
    /// Of a trouble that begins now.
    pub(crate) fn new() -> Self {
        Self {
            next: Instant::now(),
            pause: LOG_PAUSE,
        }
    }

    /// Whether one is due, which is then taken to be written.
    pub(crate) fn is_due(&mut self) -> bool {
        let now = Instant::now();
        if now < self.next {
            return false;
        }
        self.next = now + self.pause;
        self.pause = (self.pause * 2).min(MAX_LOG_PAUSE);
        true
    }
}

impl Default for Lines {
    fn default() -> Self {
        Self::new()
    }
}

/// The log lines about a trouble that several tasks meet, and that comes and goes: as [`Lines`] has
/// them, and from the start again where it did not come for a minute.
#[derive(Debug, Default)]
pub(crate) struct Repeated(Mutex<Option<Trouble>>);

#[derive(Debug)]
struct Trouble {
    lines: Lines,
    last: Instant,
    unsaid: u64,
}

/// Without the trouble for this long, it is over.
const OVER: Duration = Duration::from_secs(60);

impl Repeated {
    /// Counts a time that it came. Where a line is due, the times since the last line.
    pub(crate) fn note(&self) -> Option<u64> {
        let mut trouble = self.0.lock();
        let now = Instant::now();
        let going_on = trouble.take().filter(|trouble| now - trouble.last < OVER);
        let trouble = trouble.insert(going_on.unwrap_or_else(|| Trouble {
            lines: Lines::new(),
            last: now,
            unsaid: 0,
        }));
        trouble.last = now;
        trouble.unsaid += 1;
        let due = trouble.lines.is_due();
        due.then(|| std::mem::take(&mut trouble.unsaid))
    }
}

/// The log lines about things of one kind that may come by the thousand: the first few at once, and
/// then the latest with how many there were, 10 s later, 20 s after that, and so on; from the start again
/// where none came for a minute.
#[derive(Default)]
pub(crate) struct Digest(Mutex<Streak>);

/// Says one of them, and how many it stands for.
type Say = Box<dyn FnOnce(u64) + Send>;

#[derive(Default)]
struct Streak {
    said: u32,
    pause: Option<Duration>,
    last: Option<Instant>,
    unsaid: u64,
    /// Said when the pause is over.
    latest: Option<Say>,
    due: Option<Instant>,
}

impl Digest {
    /// Notes one, of which so many are said at once. Outside of a runtime the count waits for the next.
    pub(crate) fn note(self: &Arc<Self>, at_once: u32, say: impl FnOnce(u64) + Send + 'static) {
        self.note_many(at_once, 1, say);
    }

    /// Notes one that stands for so many.
    pub(crate) fn note_many(
        self: &Arc<Self>,
        at_once: u32,
        times: u64,
        say: impl FnOnce(u64) + Send + 'static,
    ) {
        let mut row = self.0.lock();
        let now = Instant::now();
        let is_over = row.last.is_none_or(|last| now - last >= OVER);
        if is_over && row.latest.is_none() {
            *row = Streak::default();
        }
        row.last = Some(now);
        if row.said < at_once {
            row.said += 1;
            drop(row);
            return say(times);
        }
        row.unsaid += times;
        if row.latest.replace(Box::new(say)).is_some() {
            // A runtime that has ended sums up nothing.
            if row.due.is_some_and(|due| now >= due + LOG_PAUSE) {
                drop(row);
                self.sum_up();
            }
            return;
        }
        let pause = row.pause.map_or(LOG_PAUSE, |pause| pause * 2);
        let pause = pause.min(MAX_LOG_PAUSE);
        row.pause = Some(pause);
        row.due = Some(now + pause);
        drop(row);
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let digest = Arc::clone(self);
            runtime.spawn(async move {
                tokio::time::sleep(pause).await;
                digest.sum_up();
            });
        }
    }

    fn sum_up(&self) {
        let mut row = self.0.lock();
        let (latest, times) = (row.latest.take(), std::mem::take(&mut row.unsaid));
        drop(row);
        if let Some(say) = latest {
            say(times);
        }
    }

    fn is_over(&self) -> bool {
        let row = self.0.lock();
        row.latest.is_none() && row.last.is_none_or(|last| last.elapsed() >= OVER)
    }
}

/// A [`Digest`] for each key.
pub(crate) struct Digests<K>(Mutex<HashMap<K, Arc<Digest>>>);

/// With more than this many keys those of which nothing is to be said are forgotten.
const KEYS: usize = 1000;

impl<K> Default for Digests<K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Eq + Hash> Digests<K> {
    /// That of this key.
    pub(crate) fn of(&self, key: K) -> Arc<Digest> {
        let mut all = self.0.lock();
        if all.len() >= KEYS && !all.contains_key(&key) {
            all.retain(|_, digest| !digest.is_over());
        }
        Arc::clone(all.entry(key).or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn of_many_the_first_few_are_said_at_once_and_then_the_latest_with_a_count() {
        let digest = Arc::<Digest>::default();
        let said = Arc::<Mutex<Vec<(u32, u64)>>>::default();
        let note = |n: u32| {
            let said = Arc::clone(&said);
            digest.note(2, move |times| said.lock().push((n, times)));
        };
        let take = || std::mem::take(&mut *said.lock());
        (0..1000).for_each(note);
        assert_eq!(take(), [(0, 1), (1, 1)]);
        tokio::time::sleep(LOG_PAUSE).await;
        tokio::task::yield_now().await;
        assert_eq!(take(), [(999, 998)]);
        (1000..1003).for_each(note);
        tokio::time::sleep(LOG_PAUSE).await;
        tokio::task::yield_now().await;
        assert_eq!(take(), [], "the pace slows");
        tokio::time::sleep(LOG_PAUSE).await;
        tokio::task::yield_now().await;
        assert_eq!(take(), [(1002, 3)]);
        // After a quiet minute it is news again.
        tokio::time::sleep(OVER).await;
        note(7);
        assert_eq!(take(), [(7, 1)]);
    }

    #[tokio::test(start_paused = true)]
    async fn keys_that_are_over_are_forgotten() {
        let digests = Digests::default();
        for n in 0..KEYS {
            digests.of(n).note(1, |_| {});
        }
        tokio::time::sleep(OVER).await;
        digests.of(KEYS).note(1, |_| {});
        assert_eq!(digests.0.lock().len(), 1);
    }

    const BASE: Duration = Duration::from_millis(100);
    const CAP: Duration = Duration::from_secs(10);

    fn longest(failures: usize, samples: u64) -> Duration {
        (0..samples)
            .filter_map(|seed| {
                let mut backoff = Backoff::new(BASE, CAP, fastrand::Rng::with_seed(seed));
                (0..=failures).map(|_| backoff.delay()).last()
            })
            .max()
            .unwrap()
    }

    #[test]
    fn the_ceiling_doubles_up_to_the_cap() {
        for (failures, ceiling) in [
            (0, BASE),
            (1, BASE * 2),
            (5, BASE * 32),
            (7, CAP),
            (90, CAP),
        ] {
            let longest = longest(failures, 500);
            assert!(longest <= ceiling, "{failures}: {longest:?}");
            assert!(longest > ceiling.mul_f64(0.9), "{failures}: {longest:?}");
        }
    }

    #[test]
    fn two_that_failed_together_come_back_apart() {
        let mut one = Backoff::new(BASE, CAP, fastrand::Rng::with_seed(1));
        let mut other = Backoff::new(BASE, CAP, fastrand::Rng::with_seed(2));
        assert_ne!(one.delay(), other.delay());
    }

    #[test]
    fn a_success_starts_again_from_the_base() {
        let mut backoff = Backoff::new(BASE, CAP, fastrand::Rng::with_seed(7));
        for _ in 0..20 {
            backoff.delay();
        }
        backoff.reset();
        assert!(backoff.delay() <= BASE);
    }

    #[tokio::test(start_paused = true)]
    async fn a_line_is_due_when_trouble_begins_and_then_ever_more_rarely() {
        let start = Instant::now();
        let mut lines = Lines::new();
        let mut due = Vec::new();
        while start.elapsed() < Duration::from_secs(3600) {
            if lines.is_due() {
                due.push(start.elapsed().as_secs());
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        let expected = [0, 10, 30, 70, 150, 310, 630, 1230, 1830, 2430, 3030];
        assert_eq!(due, expected);
    }

    #[tokio::test(start_paused = true)]
    async fn a_trouble_that_comes_twenty_times_a_second_is_said_rarely_and_with_its_count() {
        let (start, trouble) = (Instant::now(), Repeated::default());
        let mut said = Vec::new();
        let mut come = async |until: u64| {
            while start.elapsed() < Duration::from_secs(until) {
                let due = trouble.note();
                said.extend(due.map(|count| (start.elapsed().as_secs(), count)));
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        come(60).await;
        tokio::time::sleep(OVER).await;
        come(130).await;
        assert_eq!(said, [(0, 1), (10, 200), (30, 400), (120, 1)]);
    }
}
