//! How many requests clients may make: a bucket for each of them, which fills at a steady rate and
//! of which each request takes one. Kept as the moment at which it will be full again (the generic
//! cell rate algorithm of ATM's traffic control), so that a bucket is one number, and one that is
//! full need not be kept. The buckets are all workers'; they are this proxy's own.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use http::{HeaderMap, HeaderName, HeaderValue, header};
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::{
    config,
    service::{RequestInfo, client_digest, key_digest},
};

/// Parts with a lock of their own, held for a few instructions: workers seldom meet.
const SHARDS: usize = 64;
/// Buckets that each part keeps. Where more clients than that are short of requests at once, those
/// that come then share one bucket.
const PER_SHARD: usize = 2_048;
/// The bucket that they share.
const SHARED: u64 = 0;

/// `draft-ietf-httpapi-ratelimit-headers`
const LIMIT: HeaderName = HeaderName::from_static("ratelimit");
const POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// The limit of one route, and its buckets.
#[derive(Debug)]
pub struct Rate {
    rule: config::Rate,
    /// Random, so that no client can know whose keys share a bucket.
    seed: u64,
    epoch: Instant,
    /// The time that one request is for.
    step: Duration,
    policy: HeaderValue,
    shards: Box<[Mutex<Buckets>]>,
    limited: AtomicU64,
}

/// One part of the buckets.
#[derive(Debug, Default)]
struct Buckets {
    /// When each is full again, in nanoseconds after the epoch.
    full_at: HashMap<u64, u64>,
    /// When those that are full may be looked for again: not for each of a crowd.
    next_sweep: u64,
}

impl Buckets {
    /// The bucket that a request with this key counts in: its own, unless there is no place for one more,
    /// nor would be if those that are full were looked for.
    fn key_of(&self, key: u64, now: u64) -> u64 {
        let has_place = self.full_at.len() < PER_SHARD;
        let may_sweep = || now >= self.next_sweep;
        let left = || self.full_at.values().filter(|full_at| **full_at > now);
        let is_own = has_place
            || self.full_at.contains_key(&key)
            || (may_sweep() && left().count() < PER_SHARD);
        if is_own { key } else { SHARED }
    }
}

/// At least so long between two looks for buckets that are full.
const SWEEP: u64 = 1_000_000_000;

/// What a bucket holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Level {
    /// Requests that may be made at once.
    remaining: u32,
    /// Until it is full.
    full_in: Duration,
}

/// A request that there was nothing left for.
#[derive(Debug)]
pub(super) struct Limited {
    /// Until there is.
    pub(super) wait: Duration,
    rate: Arc<Rate>,
}

impl Rate {
    /// A limit of which nothing is used up.
    pub(super) fn new(rule: config::Rate) -> Self {
        let policy = format!(
            "\"route\";q={};w={}",
            rule.burst,
            whole_seconds(rule.per * rule.burst / rule.requests).max(1)
        );
        Self {
            seed: fastrand::u64(..),
            epoch: Instant::now(),
            step: rule.per / rule.requests,
            policy: HeaderValue::from_str(&policy).expect("digits and signs"),
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            limited: AtomicU64::new(0),
            rule,
        }
    }

    /// A limit of the same route with another rule: nothing is used up of it, and the count of
    /// requests goes on.
    pub(super) fn after(before: &Self, rule: config::Rate) -> Self {
        Self {
            limited: AtomicU64::new(before.limited()),
            ..Self::new(rule)
        }
    }

    /// As the file has it.
    pub fn rule(&self) -> &config::Rate {
        &self.rule
    }

    /// Requests that there was nothing left for.
    pub fn limited(&self) -> u64 {
        self.limited.load(Relaxed)
    }

    /// Takes one for this request out of its client's bucket.
    pub(super) fn take(
        self: &Arc<Self>,
        asked: &dyn RequestInfo,
        now: Instant,
    ) -> Result<Level, Limited> {
        self.take_of(self.key(asked), now).map_err(|wait| {
            self.limited.fetch_add(1, Relaxed);
            Limited {
                wait,
                rate: Arc::clone(self),
            }
        })
    }

    /// How many requests like this one may be made at once now; takes none.
    pub(super) fn left(&self, asked: &dyn RequestInfo, now: Instant) -> u32 {
        let key = self.key(asked);
        let now = self.nanos_at(now);
        let buckets = self.shards[key as usize % SHARDS].lock();
        let key = buckets.key_of(key, now);
        let full_at = buckets.full_at.get(&key).copied().unwrap_or(now);
        self.remaining(full_at.max(now), now)
    }

    /// Which bucket a request is counted in.
    fn key(&self, asked: &dyn RequestInfo) -> u64 {
        match &self.rule.by {
            None => 1,
            Some(by) => Some(by)
                .filter(|by| **by != config::HashKey::Client)
                .and_then(|by| key_digest(by, self.seed, asked))
                .or_else(|| {
                    Some(client_digest(
                        asked.client()?,
                        self.rule.ipv6_prefix,
                        self.seed,
                    ))
                })
                .unwrap_or(1),
        }
    }

    fn nanos_at(&self, now: Instant) -> u64 {
        nanos(now.saturating_duration_since(self.epoch))
    }

    /// When a bucket is full again of which all is taken.
    fn most(&self, now: u64) -> u64 {
        now + nanos(self.step) * u64::from(self.rule.burst)
    }

    /// What is left in a bucket that is full at that moment.
    fn remaining(&self, full_at: u64, now: u64) -> u32 {
        (self.most(now).saturating_sub(full_at) / nanos(self.step).max(1)) as u32
    }

    /// Takes one out of the bucket with this key. Where there is none left, the time until there is.
    fn take_of(&self, key: u64, now: Instant) -> Result<Level, Duration> {
        let now = self.nanos_at(now);
        let shard = &self.shards[key as usize % SHARDS];
        let mut buckets = shard.lock();
        let is_new = !buckets.full_at.contains_key(&key);
        if is_new && buckets.full_at.len() >= PER_SHARD && now >= buckets.next_sweep {
            buckets.full_at.retain(|_, full_at| *full_at > now);
            buckets.next_sweep = now + SWEEP;
        }
        let key = buckets.key_of(key, now);
        let full_at = buckets.full_at.entry(key).or_insert(now);
        let after = (*full_at).max(now) + nanos(self.step);
        let most = self.most(now);
        if after > most {
            return Err(Duration::from_nanos(after - most));
        }
        *full_at = after;
        Ok(Level {
            remaining: self.remaining(after, now),
            full_in: Duration::from_nanos(after - now),
        })
    }

    /// Says how much is left, in an answer's fields.
    pub(super) fn note(&self, level: Level, headers: &mut HeaderMap) {
        let Level { remaining, full_in } = level;
        let left = format!("\"route\";r={remaining};t={}", whole_seconds(full_in));
        headers.append(POLICY, self.policy.clone());
        headers.append(
            LIMIT,
            HeaderValue::from_str(&left).expect("digits and signs"),
        );
    }
}

impl Limited {
    /// Says when to come again, in an answer's fields.
    pub(super) fn note(&self, headers: &mut HeaderMap) {
        headers.insert(header::RETRY_AFTER, whole_seconds(self.wait).max(1).into());
        let level = Level {
            remaining: 0,
            full_in: self.wait,
        };
        self.rate.note(level, headers);
    }
}

/// Rounded up: who comes then comes late enough.
fn whole_seconds(time: Duration) -> u64 {
    time.as_secs() + u64::from(time.subsec_nanos() > 0)
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Unknown(HeaderMap, http::Uri);

    impl RequestInfo for Unknown {
        fn headers(&self) -> &HeaderMap {
            &self.0
        }

        fn uri(&self) -> &http::Uri {
            &self.1
        }

        fn client(&self) -> Option<std::net::IpAddr> {
            None
        }
    }

    fn rate(requests: u32, per_millis: u64, burst: u32) -> Rate {
        Rate::new(config::Rate {
            requests,
            per: Duration::from_millis(per_millis),
            burst,
            by: None,
            ipv6_prefix: 64,
        })
    }

    fn taken(rate: &Rate, key: u64, at_millis: u64, tries: usize) -> usize {
        let at = rate.epoch + Duration::from_millis(at_millis);
        (0..tries).filter(|_| rate.take_of(key, at).is_ok()).count()
    }

    #[test]
    fn a_bucket_gives_its_burst_and_then_what_flows_in() {
        let rate = rate(10, 1_000, 20);
        assert_eq!(taken(&rate, 7, 0, 50), 20);
        assert_eq!(taken(&rate, 8, 0, 50), 20, "another client's own");
        assert_eq!(taken(&rate, 7, 99, 50), 0);
        assert_eq!(taken(&rate, 7, 100, 50), 1);
        assert_eq!(taken(&rate, 7, 600, 50), 5);
        assert_eq!(
            taken(&rate, 7, 60_000, 50),
            20,
            "and never more than its burst"
        );
        let in_a_minute: usize = (0..600).map(|tenth| taken(&rate, 9, tenth * 100, 5)).sum();
        assert_eq!(in_a_minute, 20 + 599);
    }

    #[test]
    fn what_is_left_is_what_can_be_taken_and_looking_takes_none() {
        let asked = Unknown(HeaderMap::new(), http::Uri::from_static("/"));
        let rate = rate(10, 1_000, 20);
        for (at, takes) in [(0, 5), (0, 3), (300, 0), (300, 100), (450, 0), (9_000, 0)] {
            taken(&rate, 1, at, takes);
            let at_moment = rate.epoch + Duration::from_millis(at);
            let left = rate.left(&asked, at_moment);
            assert_eq!(rate.left(&asked, at_moment), left);
            let again = Rate::new(rate.rule.clone());
            *again.shards[1].lock() = Buckets {
                full_at: rate.shards[1].lock().full_at.clone(),
                next_sweep: 0,
            };
            let at_moment = again.epoch + Duration::from_millis(at);
            let can_be_taken = (0..100)
                .filter(|_| again.take_of(1, at_moment).is_ok())
                .count();
            assert_eq!(left as usize, can_be_taken, "at {at} ms");
        }
    }

    #[test]
    fn where_no_bucket_is_free_what_is_left_is_that_of_the_bucket_that_is_shared() {
        let asked = Unknown(HeaderMap::new(), http::Uri::from_static("/"));
        let rate = rate(10, 1_000, 20);
        let shard = &rate.shards[1];
        let others = (100..).take(PER_SHARD).map(|key| (key, u64::MAX));
        shard.lock().full_at.extend(others);
        assert_eq!(rate.left(&asked, rate.epoch), 20);
        assert_eq!(taken(&rate, 1, 0, 15), 15);
        assert!(!shard.lock().full_at.contains_key(&1));
        assert_eq!(rate.left(&asked, rate.epoch), 5);
        // Buckets that are full again leave a place, once they may be looked for.
        shard.lock().full_at.extend([(100, 0), (101, 0)]);
        let later = rate.epoch + Duration::from_nanos(SWEEP);
        assert_eq!(rate.left(&asked, later), 20);
        assert_eq!(taken(&rate, 1, 1_000, 50), 20);
    }

    #[test]
    fn the_largest_bucket_gives_what_it_says() {
        let rate = rate(1, 24 * 3600 * 1000, 365);
        assert_eq!(taken(&rate, 7, 0, 1_000), 365);
        let rate = self::rate(1_000_000, 1, 1_000_000);
        assert_eq!(taken(&rate, 7, 0, 1_000_100), 1_000_000);
    }

    #[test]
    fn it_says_what_is_left_and_when_to_come_again() {
        let rate = Arc::new(rate(1, 2_000, 3));
        let at = rate.epoch;
        let levels = [(); 3].map(|()| rate.take_of(7, at).unwrap());
        assert_eq!(levels.map(|level| level.remaining), [2, 1, 0]);
        assert_eq!(levels[2].full_in, Duration::from_secs(6));
        assert_eq!(rate.take_of(7, at), Err(Duration::from_secs(2)));
        let mut headers = HeaderMap::new();
        rate.note(levels[0], &mut headers);
        assert_eq!(headers["ratelimit"], "\"route\";r=2;t=2");
        assert_eq!(headers["ratelimit-policy"], "\"route\";q=3;w=6");
        let mut headers = HeaderMap::new();
        let limited = Limited {
            wait: Duration::from_millis(1_001),
            rate,
        };
        limited.note(&mut headers);
        assert_eq!(headers["retry-after"], "2");
        assert_eq!(headers["ratelimit"], "\"route\";r=0;t=2");
    }

    #[test]
    fn full_buckets_are_forgotten_and_a_crowd_shares_one() {
        let rate = rate(1, 1_000, 1);
        let keys = |from: u64| (from..).map(|n| 1 + n * SHARDS as u64).take(PER_SHARD);
        assert!(keys(0).all(|key| taken(&rate, key, 0, 2) == 1));
        let crowd = keys(1_000_000).map(|key| taken(&rate, key, 500, 1));
        assert_eq!(crowd.sum::<usize>(), 1);
        assert!(rate.shards[1].lock().full_at.len() <= PER_SHARD + 1);
        assert!(keys(2_000_000).all(|key| taken(&rate, key, 2_000, 1) == 1));
        assert!(rate.shards[1].lock().full_at.len() <= PER_SHARD + 1);
    }
}
