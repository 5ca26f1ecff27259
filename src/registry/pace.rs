//! A token bucket: single steps are never delayed, and a loop that runs hot is bounded. Knows
//! nothing of what the steps are.

use std::time::Duration;

use tokio::time::Instant;

/// Steps that may be taken now, refilled with time.
#[derive(Debug)]
pub(super) struct Bucket {
    tokens: f64,
    burst: u32,
    per_second: u32,
    filled: Instant,
}

impl Bucket {
    /// A full bucket of `burst` steps, refilled at `per_second`.
    pub(super) fn new(burst: u32, per_second: u32) -> Self {
        Self {
            tokens: f64::from(burst),
            burst,
            per_second,
            filled: Instant::now(),
        }
    }

    /// Takes one step, waiting until there is one.
    pub(super) async fn take(&mut self) {
        let now = Instant::now();
        let per_second = f64::from(self.per_second);
        let gained = (now - self.filled).as_secs_f64() * per_second;
        self.tokens = (self.tokens + gained).min(self.burst.into()) - 1.0;
        self.filled = now;
        if self.tokens < 0.0 {
            // Boxed, as what is seldom waited for: each watcher has a bucket.
            let wait = Duration::from_secs_f64(-self.tokens / per_second);
            Box::pin(tokio::time::sleep(wait)).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn time_for(bucket: &mut Bucket, steps: u32) -> Duration {
        let start = Instant::now();
        for _ in 0..steps {
            bucket.take().await;
        }
        start.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_passes_at_once_and_a_hot_loop_at_the_rate() {
        let mut bucket = Bucket::new(50, 20);
        assert_eq!(time_for(&mut bucket, 50).await, Duration::ZERO);
        let hot = time_for(&mut bucket, 200).await;
        assert!((9.9..10.2).contains(&hot.as_secs_f64()), "{hot:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn quiet_refills_it_and_never_beyond_the_burst() {
        let mut bucket = Bucket::new(50, 20);
        time_for(&mut bucket, 50).await;
        tokio::time::sleep(Duration::from_secs(3600)).await;
        assert_eq!(time_for(&mut bucket, 50).await, Duration::ZERO);
        assert!(time_for(&mut bucket, 1).await > Duration::ZERO);
    }
}
