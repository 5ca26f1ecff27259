//! How a balancer is shown: its settings, and what it has counted.

use serde::Serialize;

use super::{balancer::Balancer, stats::BalanceStats};
use crate::{config::Balance, metrics::Counter};

/// A balancer, for the admin API. What is of another kind is left out.
#[derive(Debug, Default, Serialize)]
pub struct BalanceStatus {
    /// As it stands in the file.
    pub kind: &'static str,
    /// In which time a latency counts for less by a factor of e, in seconds (`peak_ewma`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decay_seconds: Option<f64>,
    /// Where the key stands: `header x-user`, `client` (`hash`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// The bound (`hash`); none where there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub load: Option<f64>,
    /// The cookie's name (`sticky`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cookie: Option<String>,
    /// How an endpoint is picked where the cookie names none (`sticky`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fallback: Option<Box<BalanceStatus>>,
    /// Requests without the key (`hash`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keyless: Option<u64>,
    /// Picks whose key's endpoint was full (`hash` with a bound).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub overflowed: Option<u64>,
    /// Clients that were given another cookie than they had (`sticky`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub moved: Option<u64>,
}

impl BalanceStatus {
    /// One's settings, and what it has counted on each worker.
    pub(in crate::service) fn of<'t>(
        balance: &Balance,
        balancer: &Balancer,
        tallies: impl Iterator<Item = &'t BalanceStats> + Clone,
    ) -> Self {
        let sum =
            |of: fn(&BalanceStats) -> &Counter| tallies.clone().map(|one| of(one).value()).sum();
        let shown = Self {
            kind: balance.as_str(),
            ..Self::default()
        };
        match (balance, balancer) {
            (Balance::PeakEwma { decay }, _) => Self {
                decay_seconds: Some(decay.as_secs_f64()),
                ..shown
            },
            (Balance::Hash(hash), _) => Self {
                by: Some(hash.by.to_string()),
                load: hash.load,
                keyless: Some(sum(|tally| &tally.keyless)),
                overflowed: hash.load.map(|_| sum(|tally| &tally.overflowed)),
                ..shown
            },
            (Balance::Sticky(sticky), Balancer::Sticky(cookie, fallback)) => Self {
                cookie: Some(cookie.name().to_owned()),
                fallback: Some(Box::new(Self::of(
                    &sticky.fallback,
                    fallback,
                    std::iter::empty(),
                ))),
                moved: Some(sum(|tally| &tally.moved)),
                ..shown
            },
            _ => shown,
        }
    }
}
