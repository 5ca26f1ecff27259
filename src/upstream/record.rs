//! What one worker has heard of one endpoint: its answers by their class, its failures by their cause,
//! how long it took, and for how long it has been silent while requests wait. Made with the first
//! request, and written by that worker alone; a reader adds the workers' up. Knows nothing of what
//! follows from it.

use std::{
    sync::atomic::{
        AtomicU32, AtomicU64,
        Ordering::{Acquire, Relaxed, Release},
    },
    time::Duration,
};

use http::StatusCode;

use super::FailureKind;
use crate::metrics::{Counter, counted_apart};

/// What one worker has heard of one endpoint. Moments are microseconds since its pool was made.
#[derive(Debug, Default)]
pub(super) struct Record {
    answers: [Counter; 5],
    failures: [Counter; Cause::ALL.len()],
    pub(super) latencies: Latencies,
    pub(super) silence: Silence,
}

impl Record {
    pub(super) fn note_answer(&self, status: StatusCode, waited: Option<u64>, at: u64) {
        let class = usize::from(status.as_u16() / 100).clamp(1, self.answers.len()) - 1;
        self.answers[class].add_one();
        if let Some(took) = waited {
            self.latencies.note(took, at);
        }
        self.silence.note_answer(at);
    }

    pub(super) fn note_failure(&self, kind: &FailureKind) {
        self.failures[Cause::of(kind) as usize].add_one();
    }

    pub(super) fn add_to(&self, sum: &mut Recorded) {
        for (sum, counter) in sum.answers.iter_mut().zip(&self.answers) {
            *sum += counter.value();
        }
        for (sum, counter) in sum.failures.iter_mut().zip(&self.failures) {
            *sum += counter.value();
        }
        self.latencies.add_to(&mut sum.latencies);
    }
}

/// Several workers' records, added up.
#[derive(Clone, Debug, Default)]
pub struct Recorded {
    /// Heads of answers by the class of their status, from 1xx to 5xx.
    pub answers: [u64; 5],
    /// Attempts that failed, in the order of [`Cause::ALL`].
    pub failures: [u64; Cause::ALL.len()],
    /// How long it took lately.
    pub latencies: LatencySum,
}

counted_apart! {
    /// Why an attempt failed, as far as it is counted.
    pub(crate) enum Cause {
        /// It took no connection, or not in time; or other requests opened theirs for too long.
        Connect = "connect",
        /// It took one, and there was no TLS over it.
        Tls = "tls",
        /// It closed the connection, or broke it off, or the request's stream alone.
        Closed = "closed",
        /// Its answer was not there in time, or did not go on.
        Timeout = "timeout",
        /// Its answer was not sound HTTP, or larger than it may be.
        BadAnswer = "bad_answer",
        /// It was removed.
        Removed = "removed",
        /// Its answer was not passed on, since another attempt followed.
        Unwanted = "unwanted",
        /// The request broke off, which was the client's doing.
        Client = "client",
    }
}

impl Cause {
    /// That of this failure.
    pub(crate) fn of(kind: &FailureKind) -> Self {
        match kind {
            FailureKind::Connect(_) | FailureKind::ConnectTimeout | FailureKind::NoTurn => {
                Self::Connect
            }
            FailureKind::Handshake(_) => Self::Tls,
            FailureKind::Closed
            | FailureKind::Io(_)
            | FailureKind::GoAway
            | FailureKind::Refused
            | FailureKind::Reset(_)
            | FailureKind::ProtocolError { is_first: false } => Self::Closed,
            FailureKind::Timeout | FailureKind::TryTimeout => Self::Timeout,
            // One answer, of however many requests it was the end.
            FailureKind::ProtocolError { is_first: true }
            | FailureKind::BadAnswer(_)
            | FailureKind::TooLarge(_)
            | FailureKind::NoHttp2(_) => Self::BadAnswer,
            FailureKind::Removed | FailureKind::Drained => Self::Removed,
            FailureKind::Unwanted(_) | FailureKind::UnwantedGrpc(_) => Self::Unwanted,
            FailureKind::Client(_) => Self::Client,
        }
    }
}

/// Two for each doubling, from 64 µs to some 200 s.
const BUCKETS: usize = 44;

/// The latencies of the last minute, and of the minute before, or of as many answers where there are
/// few: from when the endpoint had all of the request to the head of its answer.
#[derive(Debug)]
pub(super) struct Latencies {
    now: [AtomicU32; BUCKETS],
    before: [AtomicU32; BUCKETS],
    /// In microseconds.
    since: AtomicU64,
}

/// In microseconds.
const MINUTE: u64 = 60 * 1_000_000;
/// What is known is not forgotten for fewer answers than that.
const FEW: u64 = 64;

impl Default for Latencies {
    fn default() -> Self {
        Self {
            now: std::array::from_fn(|_| AtomicU32::new(0)),
            before: std::array::from_fn(|_| AtomicU32::new(0)),
            since: AtomicU64::new(0),
        }
    }
}

impl Latencies {
    fn note(&self, took: u64, at: u64) {
        if at.saturating_sub(self.since.load(Relaxed)) >= MINUTE {
            self.turn_over(at);
        }
        let count = &self.now[bucket_of(took)];
        // Its worker alone counts.
        count.store(count.load(Relaxed).wrapping_add(1), Relaxed);
    }

    #[cold]
    fn turn_over(&self, at: u64) {
        let counts = self.now.iter().map(|count| u64::from(count.load(Relaxed)));
        if counts.sum::<u64>() < FEW {
            return;
        }
        for (before, now) in self.before.iter().zip(&self.now) {
            before.store(now.swap(0, Relaxed), Relaxed);
        }
        self.since.store(at, Relaxed);
    }

    pub(super) fn add_to(&self, sum: &mut LatencySum) {
        for (sum, counts) in sum.0.iter_mut().zip(self.now.iter().zip(&self.before)) {
            *sum += u64::from(counts.0.load(Relaxed)) + u64::from(counts.1.load(Relaxed));
        }
    }
}

/// A time as it is noted.
pub(super) fn micros(time: Duration) -> u64 {
    let seconds = time.as_secs().saturating_mul(1_000_000);
    seconds.saturating_add(u64::from(time.subsec_micros()))
}

fn bucket_of(micros: u64) -> usize {
    let Some(doublings) = micros.max(1).ilog2().checked_sub(6) else {
        return 0;
    };
    let half = (micros >> (doublings + 5)) & 1;
    (1 + 2 * doublings as usize + half as usize).min(BUCKETS - 1)
}

/// The least that is in a bucket.
fn bound(bucket: usize) -> Duration {
    match bucket.checked_sub(1) {
        None => Duration::ZERO,
        Some(halves) => Duration::from_micros((64 + 32 * (halves as u64 % 2)) << (halves / 2)),
    }
}

/// Several workers' latencies of late.
#[derive(Clone, Debug)]
pub struct LatencySum([u64; BUCKETS]);

impl Default for LatencySum {
    fn default() -> Self {
        Self([0; BUCKETS])
    }
}

impl LatencySum {
    /// How many there are.
    pub fn count(&self) -> u64 {
        self.0.iter().sum()
    }

    /// How many took that long, or may have.
    pub fn at_least(&self, time: Duration) -> u64 {
        self.0[bucket_of(micros(time))..].iter().sum()
    }

    /// What this part of them took at most, as far as the buckets tell; `None` where there are none.
    pub fn quantile(&self, part: f64) -> Option<Duration> {
        let wanted = part * self.count() as f64;
        let mut below = 0.0;
        for (bucket, count) in self.0.iter().enumerate().filter(|(_, count)| **count > 0) {
            let count = *count as f64;
            if below + count >= wanted {
                let (from, to) = (bound(bucket), bound(bucket + 1));
                return Some(
                    from + (to - from).mul_f64(((wanted - below) / count).clamp(0.0, 1.0)),
                );
            }
            below += count;
        }
        None
    }
}

/// For how long nothing was heard, and how many requests were sent in that time and wait.
#[derive(Debug, Default)]
pub(super) struct Silence {
    /// Requests that wait and were sent after the last answer.
    waiting: AtomicU32,
    /// When the first of them was sent, in microseconds, as all moments here.
    from: AtomicU64,
    /// When the last answer came; 0 before the first.
    heard: AtomicU64,
    /// Two moments since then, each with how many waited. The later one is replaced where it is old
    /// enough beside the silence, so that the earlier one is at half of it, or before.
    marks: [Mark; 2],
}

#[derive(Debug, Default)]
struct Mark {
    at: AtomicU64,
    waiting: AtomicU32,
}

/// A silence is looked at so often at first, and then less and less often. In microseconds.
const LOOK: u64 = 25_000;

impl Silence {
    pub(super) fn note_request(&self, at: u64) {
        let before = self.waiting.load(Relaxed);
        if before == 0 {
            self.from.store(at, Relaxed);
            for mark in &self.marks {
                mark.at.store(at, Relaxed);
                mark.waiting.store(0, Relaxed);
            }
        }
        self.waiting.store(before + 1, Release);
    }

    fn note_answer(&self, at: u64) {
        self.heard.store(at, Relaxed);
        self.waiting.store(0, Release);
    }

    /// A request that waited is given up.
    pub(super) fn note_loss(&self) {
        let left = self.waiting.load(Relaxed).saturating_sub(1);
        self.waiting.store(left, Release);
    }

    /// Whether it is time to look at this silence again.
    #[inline]
    pub(super) fn is_due(&self, at: impl FnOnce() -> u64) -> bool {
        if self.waiting.load(Relaxed) == 0 {
            return false;
        }
        let at = at();
        let since = |moment: &AtomicU64| at.saturating_sub(moment.load(Relaxed));
        let [_, late] = &self.marks;
        since(&late.at) >= LOOK.max(since(&self.from) / 4)
    }

    /// Notes that it was looked at. For its worker only.
    #[cold]
    pub(super) fn note_look(&self, at: u64) {
        let [early, late] = &self.marks;
        early.at.store(late.at.load(Relaxed), Relaxed);
        early.waiting.store(late.waiting.load(Relaxed), Relaxed);
        late.at.store(at, Relaxed);
        late.waiting.store(self.waiting.load(Relaxed), Relaxed);
    }

    /// What is known of it, from the last look and the one before.
    pub(super) fn observed(&self, at: u64) -> Quiet {
        let waiting = self.waiting.load(Acquire);
        let [early, _] = &self.marks;
        let since =
            |moment: &AtomicU64| Duration::from_micros(at.saturating_sub(moment.load(Relaxed)));
        let heard = self.heard.load(Relaxed);
        Quiet {
            heard: (heard != 0).then(|| since(&self.heard)),
            waits: (waiting != 0).then(|| since(&self.from)),
            waiting: early.waiting.load(Relaxed).min(waiting),
            for_at_least: since(&early.at),
        }
    }
}

/// What one worker knows of an endpoint's silence at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quiet {
    /// How long ago it last answered; `None` where it never did.
    pub heard: Option<Duration>,
    /// For how long a request has waited that was sent after that; `None` where there is none.
    pub waits: Option<Duration>,
    /// So many have waited …
    pub waiting: u32,
    /// … for so long at least.
    pub for_at_least: Duration,
}

/// What others test with.
#[cfg(test)]
pub(crate) mod testing {
    use super::*;

    /// Latencies, so many of each.
    pub(crate) fn latencies(of: &[(Duration, u64)]) -> LatencySum {
        let mut sum = LatencySum::default();
        of.iter()
            .for_each(|(took, count)| sum.0[bucket_of(micros(*took))] += count);
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn millis(millis: u64) -> u64 {
        millis * 1_000
    }

    #[test]
    fn buckets_are_in_order_and_a_latency_is_in_its_own() {
        for bucket in 0..BUCKETS - 1 {
            assert!(bound(bucket) < bound(bucket + 1));
            assert_eq!(bucket_of(micros(bound(bucket))), bucket);
            assert_eq!(bucket_of(micros(bound(bucket + 1)) - 1), bucket);
        }
        assert_eq!(bucket_of(micros(Duration::MAX)), BUCKETS - 1);
    }

    #[test]
    fn quantiles_are_those_of_late() {
        let latencies = Latencies::default();
        let quantiles = || {
            let mut sum = LatencySum::default();
            latencies.add_to(&mut sum);
            let part = |part| sum.quantile(part).map(|time| time.as_millis());
            (
                part(0.5),
                part(0.99),
                sum.at_least(Duration::from_millis(400)),
            )
        };
        assert_eq!(quantiles(), (None, None, 0));
        (0..98).for_each(|_| latencies.note(millis(10), millis(1)));
        (0..2).for_each(|_| latencies.note(millis(500), millis(1)));
        let (half, most, long) = quantiles();
        assert!((8..=12).contains(&half.unwrap()) && (390..=530).contains(&most.unwrap()));
        assert_eq!(long, 2);
        // What is two minutes old is forgotten, once there is enough that is newer.
        latencies.note(millis(10), MINUTE * 100);
        assert_eq!(quantiles().2, 2);
        (0..100).for_each(|_| latencies.note(millis(10), MINUTE * 100));
        latencies.note(millis(10), MINUTE * 102);
        assert_eq!(quantiles().2, 0);
    }

    #[test]
    fn a_silence_begins_with_the_first_request_after_an_answer_and_ends_with_the_next() {
        let silence = Silence::default();
        let look = |at| {
            let looks = silence.is_due(|| millis(at));
            let quiet = silence.observed(millis(at));
            if looks {
                silence.note_look(millis(at));
            }
            looks.then_some((quiet.waiting, quiet.for_at_least.as_millis()))
        };
        silence.note_answer(millis(1));
        assert_eq!(look(10_000), None, "no request waits");
        let mut looks = Vec::new();
        for at in (10_000..10_200).step_by(10) {
            looks.extend(look(at));
            silence.note_request(millis(at));
        }
        // A request every 10 ms: those that have waited for half of the time and more.
        assert_eq!(looks, [(0, 30), (0, 60), (3, 60), (6, 60), (9, 70)]);
        silence.note_answer(millis(10_200));
        assert_eq!(look(11_000), None);
    }
}
