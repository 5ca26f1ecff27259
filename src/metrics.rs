//! Counters that cost an atomic addition on a line that no other worker writes: each worker has
//! its own, and a reader sums over them. Knows no exposition.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

/// An enum of what is counted apart, each with its name: `ALL` of them, and the name as a text.
macro_rules! counted_apart {
    (
        $(#[$of_all:meta])*
        $vis:vis enum $name:ident { $($(#[$of_one:meta])* $one:ident = $text:literal,)+ }
    ) => {
        $(#[$of_all])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        $vis enum $name {
            $($(#[$of_one])* $one,)+
        }

        impl $name {
            /// All of them.
            $vis const ALL: [Self; [$($text),+].len()] = [$(Self::$one),+];

            /// As the API and the metrics have it.
            $vis fn as_str(self) -> &'static str {
                match self {
                    $(Self::$one => $text,)+
                }
            }
        }
    };
}

pub(crate) use counted_apart;

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

impl HistogramSum {
    /// What was observed after `before`, which is the same histogram earlier.
    pub(crate) fn since(&self, before: &Self) -> Self {
        let mut since = self.clone();
        for (count, before) in since.buckets.iter_mut().zip(&before.buckets) {
            *count = count.saturating_sub(*before);
        }
        since.seconds = (self.seconds - before.seconds).max(0.0);
        since
    }

    /// Adds another histogram's counts.
    pub(crate) fn add(&mut self, other: &Self) {
        for (count, more) in self.buckets.iter_mut().zip(&other.buckets) {
            *count += more;
        }
        self.seconds += other.seconds;
    }

    /// What this part of the observations took at most, in seconds: as far as the buckets tell, between
    /// whose bounds it goes up in a straight line. The last bound for what is above it; `None` where
    /// nothing was observed.
    pub(crate) fn quantile(&self, part: f64) -> Option<f64> {
        let wanted = part * self.buckets.iter().sum::<u64>() as f64;
        let (mut below, mut from) = (0.0, 0.0);
        for (bucket, count) in self.buckets.iter().enumerate() {
            let to = BOUNDS.get(bucket).copied().unwrap_or(from);
            let count = *count as f64;
            if count > 0.0 && below + count >= wanted {
                return Some(from + (to - from) * ((wanted - below) / count).clamp(0.0, 1.0));
            }
            below += count;
            from = to;
        }
        None
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_lies_between_the_bounds_of_its_bucket() {
        let histogram = Histogram::default();
        let sum = |histogram: &Histogram| {
            let mut sum = HistogramSum::default();
            histogram.add_to(&mut sum);
            sum
        };
        assert_eq!(sum(&histogram).quantile(0.5), None);
        for _ in 0..90 {
            histogram.observe(Duration::from_millis(4));
        }
        let before = sum(&histogram);
        for _ in 0..10 {
            histogram.observe(Duration::from_secs(60));
        }
        let all = sum(&histogram);
        let half = all.quantile(0.5).unwrap();
        assert!((0.002_5..=0.005).contains(&half), "{half}");
        assert_eq!(all.quantile(0.99), Some(10.0));
        assert_eq!(all.since(&before).quantile(0.01), Some(10.0));
        let mut twice = before.clone();
        twice.add(&before);
        assert_eq!(twice.buckets[3], 180);
    }
}
