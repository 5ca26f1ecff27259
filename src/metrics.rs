//! Counters that cost an atomic addition on a line that no other worker writes: each worker has
//! its own, and a reader sums over them. Knows no names and no exposition.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

/// A count, or a gauge. Any thread may count; it is cheap where that is mostly one thread, as each
/// worker has its own.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds one.
    pub fn add_one(&self) {
        self.add(1);
    }

    /// Adds `n`.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Relaxed);
    }

    /// Takes one off, for gauges.
    pub fn sub_one(&self) {
        self.0.fetch_sub(1, Relaxed);
    }

    /// What was counted until now.
    pub fn value(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Upper bounds of a [`Histogram`]'s buckets, in seconds; one more bucket takes the rest.
pub(crate) const BOUNDS: [f64; 14] = [
    0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];

/// How often a thing took how long.
#[derive(Debug, Default)]
pub struct Histogram {
    buckets: [Counter; BOUNDS.len() + 1],
    micros: Counter,
}

impl Histogram {
    /// Counts one observation. For the owning worker only.
    pub fn observe(&self, took: Duration) {
        let seconds = took.as_secs_f64();
        let bucket = BOUNDS
            .iter()
            .position(|bound| seconds <= *bound)
            .unwrap_or(BOUNDS.len());
        self.buckets[bucket].add_one();
        self.micros
            .add(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
    }

    /// Adds this histogram's counts to `sum`.
    pub fn add_to(&self, sum: &mut HistogramSum) {
        for (total, bucket) in sum.buckets.iter_mut().zip(&self.buckets) {
            *total += bucket.value();
        }
        sum.seconds += self.micros.value() as f64 / 1e6;
    }
}

/// Several workers' histograms, added up.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HistogramSum {
    /// Observations per bucket of [`BOUNDS`] (not cumulative), then those above the last bound.
    pub buckets: [u64; BOUNDS.len() + 1],
    /// All observations' seconds.
    pub seconds: f64,
}

/// Keeps what it holds on cache lines of its own, so that workers do not share one.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Padded<T>(pub T);

impl<T> std::ops::Deref for Padded<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}
