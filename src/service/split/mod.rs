//! A route's requests, parted among services by weight: exactly, over each round of turns, and as
//! evenly within one as can be. A retry stays with the service that was chosen. Knows nothing of
//! routes.

mod live;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use super::Service;
use crate::{
    config,
    metrics::{Counter, Padded},
    term::{TermError, TermStatus},
};
use live::Live;

/// Services and their shares.
#[derive(Debug)]
pub struct Split {
    /// What tells it from others: which requests are parted.
    of: String,
    shares: Box<[Share]>,
    live: Arc<Live>,
}

/// One of them.
#[derive(Debug)]
pub struct Share {
    /// Who gets it.
    pub service: Arc<Service>,
    /// What each worker has sent there.
    requests: Arc<[Padded<Counter>]>,
}

/// Why shares stay what they are.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ShareError {
    /// It would last for nothing or for ever.
    #[error(transparent)]
    Time(#[from] TermError),
    /// No part of the split is this service's.
    #[error("`{0}` has no share of it; {1} have")]
    Unknown(String, String),
    /// It is too large.
    #[error("a weight is at most {}", config::HEAVIEST_SHARE)]
    Heavy,
    /// They are those of the file.
    #[error("these are the shares of the file: end others, where others hold")]
    OfFile,
    /// A reload has made the split one of the past.
    #[error("the file was reloaded meanwhile, and has other shares: try again")]
    Past,
    /// All weights would be 0.
    #[error("all weights would be 0, so that no service gets a request")]
    Nothing,
}

impl Split {
    /// Of services with their weights, of which at least one is more than 0; with the counts of the one before,
    /// and its turns where the weights are the same. What was changed of them at run time goes on where
    /// the services are the same as well.
    pub(crate) fn after(
        of: String,
        shares: impl Iterator<Item = (Arc<Service>, u32)>,
        workers: usize,
        before: Option<&Self>,
    ) -> Self {
        let known = |name: &str| {
            let mut shares = before?.shares.iter();
            shares.find(|share| **share.service.name() == *name)
        };
        let (shares, weights): (Vec<Share>, Vec<u32>) = shares
            .map(|(service, weight)| {
                let requests = match known(service.name()) {
                    Some(share) => Arc::clone(&share.requests),
                    None => (0..workers).map(|_| Padded::default()).collect(),
                };
                (Share { service, requests }, weight)
            })
            .unzip();
        let names = shares.iter().map(|share| &**share.service.name());
        let of_file: Vec<_> = names.zip(weights.iter().copied()).collect();
        let same = before.filter(|before| before.is_of(&of_file));
        let live = match same {
            Some(same) => Arc::clone(&same.live),
            None => {
                let before = before.map(|before| &*before.live);
                Arc::new(Live::new(of.clone(), weights.into(), before))
            }
        };
        Self {
            of,
            shares: shares.into(),
            live,
        }
    }

    /// What tells it from others.
    pub fn of(&self) -> &str {
        &self.of
    }

    /// Whether the file has these services with these weights, in this order.
    pub(crate) fn is_of(&self, shares: &[(&str, u32)]) -> bool {
        let own = std::iter::zip(&self.shares, self.live.file());
        let own = own.map(|(share, weight)| (&**share.service.name(), *weight));
        own.eq(shares.iter().copied())
    }

    /// The service whose turn it is; counted as this worker's request.
    pub fn next(&self, worker: usize) -> &Arc<Service> {
        let share = &self.shares[self.live.next()];
        share.requests[worker].add_one();
        &share.service
    }

    /// All shares, in the file's order.
    pub fn shares(&self) -> &[Share] {
        &self.shares
    }

    /// Their weights as they are now.
    pub fn weights(&self) -> Box<[u32]> {
        self.live.weights()
    }

    /// Their weights as the file has them.
    pub fn weights_of_file(&self) -> &[u32] {
        self.live.file()
    }

    /// For how long other weights than the file's hold, where others do.
    pub fn changed(&self) -> Option<TermStatus> {
        self.live.changed()
    }

    /// Has services have other weights for so long; those that are not named have the file's. An earlier
    /// change ends. Must be called on a runtime that goes on.
    ///
    /// # Errors
    /// Why not; then nothing has changed.
    pub fn change(
        &self,
        wanted: &BTreeMap<String, u32>,
        time: Duration,
    ) -> Result<TermStatus, ShareError> {
        let mut weights: Box<[u32]> = self.live.file().into();
        for (name, weight) in wanted {
            let mut shares = self.shares.iter();
            let Some(place) = shares.position(|share| **share.service.name() == **name) else {
                let names = self
                    .shares
                    .iter()
                    .map(|share| format!("`{}`", share.service.name()));
                let names = names.collect::<Vec<_>>().join(", ");
                return Err(ShareError::Unknown(name.clone(), names));
            };
            if *weight > config::HEAVIEST_SHARE {
                return Err(ShareError::Heavy);
            }
            weights[place] = *weight;
        }
        if weights.iter().all(|weight| *weight == 0) {
            return Err(ShareError::Nothing);
        }
        if *weights == *self.live.file() {
            return Err(ShareError::OfFile);
        }
        let term = Live::change(&self.live, weights, time)?.ok_or(ShareError::Past)?;
        let shares = self.in_words();
        tracing::warn!(
            route = self.of,
            shares,
            seconds = time.as_secs(),
            "the shares of a route are others for a while"
        );
        Ok(term)
    }

    /// Has the file's weights hold again. Returns whether others did.
    pub fn restore(&self) -> bool {
        self.live.restore()
    }

    /// Whether it goes on with what holds of one before, for the file says the same.
    pub(crate) fn goes_on_from(&self, before: &Self) -> bool {
        Arc::ptr_eq(&self.live, &before.live)
    }

    /// The file has other shares, or no such route: what was changed ends, and no more is changed.
    pub(crate) fn retire(&self) {
        self.live.retire();
    }

    /// The weights that hold now, for people: `cart=95, cart-v2=5`.
    pub fn in_words(&self) -> String {
        let shares = std::iter::zip(&self.shares, self.weights());
        let words = shares.map(|(share, weight)| format!("{}={weight}", share.service.name()));
        words.collect::<Vec<_>>().join(", ")
    }
}

impl Share {
    /// Requests that were sent there.
    pub fn requests(&self) -> u64 {
        self.requests.iter().map(|counter| counter.value()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config::Config, upstream::Tls};

    fn split(weights: &[u32]) -> Split {
        let config = Config::parse("[[route]]\nservice = \"a\"\n", std::path::Path::new("."));
        let policy = config.unwrap().defaults;
        let tls = Arc::new(Tls::open(&policy.tls).unwrap());
        let service = |(weight, n): (&u32, usize)| {
            let (policy, tls) = (policy.clone(), Arc::clone(&tls));
            let service = Service::new(n.to_string().into(), policy, tls, 2, [], Arc::default());
            (Arc::new(service), *weight)
        };
        let shares = std::iter::zip(weights, 0..).map(service);
        Split::after(String::new(), shares, 2, None)
    }

    fn counts(split: &Split) -> Vec<u64> {
        split.shares().iter().map(Share::requests).collect()
    }

    #[test]
    fn shares_are_exact_whoever_asks() {
        for (weights, expected) in [
            (&[95, 5][..], &[950, 50][..]),
            (&[1, 1, 0, 2], &[250, 250, 0, 500]),
            (&[7], &[1000]),
            (&[0, 3, 3], &[0, 500, 500]),
        ] {
            let split = split(weights);
            std::thread::scope(|scope| {
                for worker in 0..2 {
                    let split = &split;
                    scope.spawn(move || {
                        for _ in 0..500 {
                            split.next(worker);
                        }
                    });
                }
            });
            assert_eq!(counts(&split), expected, "{weights:?}");
        }
    }

    #[test]
    fn a_small_share_is_spread_and_not_had_at_once() {
        let split = split(&[95, 5]);
        let small = |_| usize::from(&**split.next(0).name() == "1");
        for _ in 0..50 {
            let had: usize = (0..20).map(small).sum();
            assert_eq!(had, 1, "one of any twenty");
        }
    }

    /// The same services with other weights in the file.
    fn renewed(before: &Split, weights: [u32; 2]) -> Split {
        let services = before
            .shares()
            .iter()
            .map(|share| Arc::clone(&share.service));
        Split::after(String::new(), services.zip(weights), 2, Some(before))
    }

    fn wanted(weights: &[(&str, u32)]) -> BTreeMap<String, u32> {
        let weights = weights.iter();
        weights
            .map(|(name, weight)| ((*name).to_owned(), *weight))
            .collect()
    }

    /// How many of a hundred requests each gets.
    fn of_a_hundred(split: &Split) -> Vec<u64> {
        let before = counts(split);
        (0..100).for_each(|_| drop(Arc::clone(split.next(0))));
        let now = counts(split);
        std::iter::zip(now, before)
            .map(|(now, before)| now - before)
            .collect()
    }

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn counts_go_on_after_a_change_and_turns_where_the_weights_are_the_same() {
        let before = split(&[2, 1]);
        (0..5).for_each(|_| drop(Arc::clone(before.next(0))));
        let sent = counts(&before);
        let same = renewed(&before, [2, 1]);
        assert!(Arc::ptr_eq(&same.live, &before.live));
        assert_eq!(counts(&same), sent);
        let other = renewed(&same, [0, 1]);
        other.next(1);
        assert_eq!(counts(&other), [sent[0], sent[1] + 1]);
    }

    #[tokio::test(start_paused = true)]
    async fn other_shares_hold_for_a_while_and_over_a_reload_of_the_same_ones() {
        let first = split(&[95, 5]);
        assert_eq!(of_a_hundred(&first), [95, 5]);
        first.change(&wanted(&[("1", 0)]), HOUR).unwrap();
        assert_eq!(of_a_hundred(&first), [100, 0]);
        tokio::time::sleep(HOUR / 2).await;
        first
            .change(&wanted(&[("0", 50), ("1", 50)]), HOUR)
            .unwrap();
        assert_eq!(first.in_words(), "0=50, 1=50");
        let after = renewed(&first, [95, 5]);
        assert_eq!(of_a_hundred(&after), [50, 50]);
        assert!(after.changed().is_some());
        assert_eq!(after.weights_of_file(), [95, 5]);
        tokio::time::sleep(HOUR * 3 / 4).await;
        assert_eq!(of_a_hundred(&after), [50, 50], "the second one holds");
        tokio::time::sleep(HOUR / 2).await;
        for split in [&first, &after] {
            assert_eq!(of_a_hundred(split), [95, 5]);
            assert_eq!(split.changed(), None);
        }
        assert!(!after.restore());
        after.change(&wanted(&[("0", 1)]), HOUR).unwrap();
        assert!(after.restore());
        assert_eq!(of_a_hundred(&after), [95, 5]);
    }

    #[tokio::test(start_paused = true)]
    async fn other_shares_end_with_a_file_that_has_others() {
        let first = split(&[95, 5]);
        first.change(&wanted(&[("1", 95)]), HOUR).unwrap();
        let after = renewed(&first, [90, 10]);
        assert_eq!(after.changed(), None);
        assert_eq!(of_a_hundred(&after), [90, 10]);
    }

    #[tokio::test(start_paused = true)]
    async fn other_shares_of_a_file_of_the_past_end_with_it_and_no_more_are_taken() {
        let first = split(&[95, 5]);
        first.change(&wanted(&[("1", 95)]), HOUR).unwrap();
        let after = renewed(&first, [90, 10]);
        assert!(!after.goes_on_from(&first));
        first.retire();
        assert_eq!(first.changed(), None);
        assert_eq!(of_a_hundred(&first), [95, 5]);
        let late = first.change(&wanted(&[("1", 95)]), HOUR);
        assert_eq!(late.unwrap_err(), ShareError::Past);
        after.change(&wanted(&[("1", 90)]), HOUR).unwrap();
        assert!(renewed(&after, [90, 10]).goes_on_from(&after));
    }

    #[tokio::test]
    async fn what_is_no_share_changes_nothing() {
        let split = split(&[95, 5]);
        let unknown = ShareError::Unknown("2".to_owned(), "`0`, `1`".to_owned());
        for (weights, time, error) in [
            (wanted(&[("2", 5)]), HOUR, unknown),
            (wanted(&[("1", 10_001)]), HOUR, ShareError::Heavy),
            (wanted(&[("0", 0), ("1", 0)]), HOUR, ShareError::Nothing),
            (wanted(&[]), HOUR, ShareError::OfFile),
            (wanted(&[("1", 5)]), HOUR, ShareError::OfFile),
            (wanted(&[("1", 1)]), HOUR * 25, ShareError::Time(TermError)),
        ] {
            assert_eq!(split.change(&weights, time).unwrap_err(), error);
        }
        assert_eq!(split.changed(), None);
        assert_eq!(of_a_hundred(&split), [95, 5]);
    }
}
