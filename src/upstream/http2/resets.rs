//! How often requests that had just begun were given up, by which servers know an attack (Rapid Reset,
//! CVE-2023-44487): they end the connection of all (GOAWAY) for what one client does. Knows nothing of streams.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// In a second, and at once. The strictest servers allow some seven a second on average.
const MOST: u64 = 10;
const SECOND: u64 = 1000;

/// Counts by the generic cell rate algorithm (ITU-T I.371). Times are in milliseconds.
#[derive(Debug, Default)]
pub(super) struct ResetRate {
    /// When all that were noted are made up for.
    clear_at: AtomicU64,
}

impl ResetRate {
    /// Notes one. Returns whether there were more of late than there may be.
    pub(super) fn note(&self, now: u64) -> bool {
        let clear_at = self.clear_at.load(Relaxed).max(now) + SECOND / MOST;
        self.clear_at.store(clear_at, Relaxed);
        clear_at - now > SECOND
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_at_once_or_in_each_second_are_no_attack() {
        let rate = ResetRate::default();
        for _ in 0..MOST {
            assert!(!rate.note(5_000));
        }
        assert!(rate.note(5_000));
        let rate = ResetRate::default();
        for n in 0..1_000 {
            assert!(!rate.note(n * SECOND / MOST), "{n}");
        }
        let is_too_much = (0..30).any(|n| rate.note(100_000 + n * SECOND / MOST / 2));
        assert!(is_too_much);
    }
}
