//! How many retries a service may make: a part of its requests, and a few a second besides, so
//! that retries cannot multiply an outage. (The rule is that of Finagle's and tower's retry
//! budgets; kept per worker and reckoned only when a retry is wanted, so that a request that
//! needs none pays nothing.)

use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use tokio::time::Instant;

use crate::config;

/// What is saved up tends to this much time's income.
const WINDOW: Duration = Duration::from_secs(10);

/// One worker's share of a service's retries.
#[derive(Debug)]
pub struct Budget(Mutex<Account>);

#[derive(Debug)]
struct Account {
    ratio: f64,
    per_second: f64,
    tokens: f64,
    at: Instant,
    requests: u64,
}

impl Budget {
    pub(crate) fn new(retry: &config::Retry, workers: usize) -> Self {
        let per_second = per_second(retry, workers);
        Self(Mutex::new(Account {
            ratio: retry.budget_ratio,
            per_second,
            tokens: per_second * WINDOW.as_secs_f64(),
            at: Instant::now(),
            requests: 0,
        }))
    }

    /// Has another rule hold from now on; what is saved up stays.
    pub(crate) fn follow(&self, retry: &config::Retry, workers: usize) {
        let mut account = self.account();
        account.ratio = retry.budget_ratio;
        account.per_second = per_second(retry, workers);
    }

    /// Takes one retry out, if one is left. `requests` is how many this worker has counted.
    pub fn withdraw(&self, requests: u64, now: Instant) -> bool {
        let mut account = self.account();
        account.reckon(requests, now);
        let granted = account.tokens >= 1.0;
        if granted {
            account.tokens -= 1.0;
        }
        granted
    }

    /// How many would be granted now.
    pub fn left(&self, requests: u64, now: Instant) -> u64 {
        let mut account = self.account();
        account.reckon(requests, now);
        account.tokens as u64
    }

    fn account(&self) -> MutexGuard<'_, Account> {
        self.0.lock()
    }

    /// Puts back one that was granted and not made.
    pub fn put_back(&self) {
        self.account().tokens += 1.0;
    }
}

impl Account {
    /// What was saved fades with the window, and so does what came in since, which is taken to have
    /// come evenly: at a steady rate the account tends to one window's income.
    fn reckon(&mut self, requests: u64, now: Instant) {
        let elapsed = now.saturating_duration_since(self.at).as_secs_f64();
        let new = requests.saturating_sub(self.requests) as f64;
        let window = WINDOW.as_secs_f64();
        let kept = (-elapsed / window).exp();
        let faded = if elapsed > 0.0 {
            window * (1.0 - kept) / elapsed
        } else {
            1.0
        };
        let income = self.ratio * new + self.per_second * elapsed;
        self.tokens = self.tokens * kept + income * faded;
        self.at = now;
        // Of two threads, the one that counted later may be here first.
        self.requests = self.requests.max(requests);
    }
}

fn per_second(retry: &config::Retry, workers: usize) -> f64 {
    f64::from(retry.budget_per_second) / workers as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget() -> Budget {
        let retry = config::Retry {
            attempts: 3,
            budget_ratio: 0.2,
            budget_per_second: 10,
            on: config::Statuses::default(),
            try_timeout: None,
            methods: config::Methods::IDEMPOTENT,
        };
        Budget::new(&retry, 1)
    }

    /// How many retries are granted in a row.
    fn granted(budget: &Budget, requests: u64, now: Instant) -> usize {
        (0..100_000)
            .take_while(|_| budget.withdraw(requests, now))
            .count()
    }

    #[test]
    fn an_idle_service_has_ten_seconds_of_its_few_a_second() {
        let (budget, start) = (budget(), Instant::now());
        assert_eq!(budget.left(0, start), 100);
        assert!((98..=100).contains(&granted(&budget, 0, start)));
        assert_eq!(budget.left(0, start), 0);
        assert!((9..=10).contains(&granted(&budget, 0, start + Duration::from_secs(1))));
    }

    #[test]
    fn in_an_outage_retries_are_a_fifth_of_the_requests_and_ten_a_second() {
        let (budget, start) = (budget(), Instant::now());
        let _ = granted(&budget, 0, start);
        let (mut requests, mut retries) = (0, 0);
        for tenth in 1..=600 {
            requests += 100;
            retries += granted(
                &budget,
                requests,
                start + Duration::from_millis(100 * tenth),
            );
        }
        // A minute at 1,000 a second: 200 + 10 retries a second.
        let allowed = 60 * 210;
        assert!(
            (allowed * 95 / 100..=allowed).contains(&retries),
            "{retries}"
        );
    }

    #[test]
    fn a_long_calm_saves_up_no_more_than_a_window() {
        let (budget, start) = (budget(), Instant::now());
        let hour = Duration::from_secs(3600);
        let retries = granted(&budget, 3600 * 1000, start + hour);
        assert!((2_000..=2_110).contains(&retries), "{retries}");
    }

    #[test]
    fn what_is_saved_up_stays_under_another_rule() {
        let (budget, start) = (budget(), Instant::now());
        let rule = config::Retry {
            attempts: 3,
            budget_ratio: 0.0,
            budget_per_second: 1,
            on: config::Statuses::default(),
            try_timeout: None,
            methods: config::Methods::IDEMPOTENT,
        };
        budget.follow(&rule, 1);
        assert!((99..=100).contains(&budget.left(0, start)));
        let later = start + Duration::from_secs(100);
        assert!((9..=10).contains(&budget.left(100_000, later)));
    }
}
