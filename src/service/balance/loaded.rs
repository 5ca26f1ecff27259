//! How busy endpoints are, as balancers compare them.

use std::sync::Arc;

use tokio::time::Instant;

use crate::{
    config::Balance,
    metrics::{Counter, Padded},
    upstream::{LatencyScale, Load},
};

/// One endpoint's load, and how much of it is its due.
#[derive(Debug)]
pub(super) struct Loaded {
    pub(super) load: Arc<Load>,
    pub(super) weight: u32,
}

impl Loaded {
    /// Whether it would be the busier one if each had one request more, by weight: of weights 2 and
    /// 1 the first may have twice as many.
    pub(super) fn is_busier_than(&self, other: &Self) -> bool {
        self.with_one(other) > other.with_one(self)
    }

    /// Whether an answer from it is to be waited for longer, by weight: its latency times what it
    /// would then have in flight.
    pub(super) fn is_slower_than(&self, other: &Self) -> bool {
        let (latency, others) = (self.load.latency(), other.load.latency());
        // Who is not known yet is sent a request before all others, and no second before it has
        // answered.
        match (latency.is_unknown(), others.is_unknown()) {
            (false, false) => {
                let (busy, others_busy) = (self.with_one(other), other.with_one(self));
                latency.exceeds(busy as f32, others, others_busy as f32)
            }
            (true, false) => self.load.in_flight() > 0,
            (false, true) => other.load.in_flight() == 0,
            (true, true) => self.is_busier_than(other),
        }
    }

    /// What it has in flight with one request more, against the other's weight.
    fn with_one(&self, other: &Self) -> u64 {
        (self.load.in_flight() + 1) * u64::from(other.weight)
    }
}

/// Makes the loads of a service's endpoints: none where no balancer would look at them.
#[derive(Debug, Default)]
pub(in crate::service) struct Loads {
    compared: bool,
    of_all: Option<Arc<Padded<Counter>>>,
    latency: Option<LatencyScale>,
}

impl Loads {
    /// What this way of balancing looks at.
    fn of(balance: &Balance) -> Self {
        let compared = Self {
            compared: true,
            ..Self::default()
        };
        match balance {
            Balance::RoundRobin | Balance::Weighted | Balance::Random => Self::default(),
            Balance::LeastRequest | Balance::P2c => compared,
            Balance::PeakEwma { decay } => Self {
                latency: Some(LatencyScale {
                    epoch: Instant::now(),
                    decay: *decay,
                }),
                ..compared
            },
            Balance::Hash(hash) if hash.load.is_none() => Self::default(),
            Balance::Hash(_) => Self {
                of_all: Some(Arc::default()),
                ..compared
            },
            Balance::Sticky(sticky) => Self::of(&sticky.fallback),
        }
    }

    /// What others look at is kept, too, and latencies by their decay. What is kept already goes on,
    /// be it that none looks at it now.
    pub(in crate::service) fn follow(&mut self, others: Self) {
        self.compared |= others.compared;
        self.of_all = self.of_all.take().or(others.of_all);
        // Moments that were noted are counted from the epoch of before.
        self.latency = match (self.latency, others.latency) {
            (Some(own), Some(other)) => Some(LatencyScale {
                epoch: own.epoch,
                ..other
            }),
            (own, other) => own.or(other),
        };
    }

    /// Has an endpoint's load keep what is looked at now.
    pub(in crate::service) fn widen(&self, load: &Load) {
        load.widen(self.of_all.clone(), self.latency);
    }

    /// What any of these looks at. A latency's scale is the first one's: an endpoint has one.
    pub(in crate::service) fn of_all<'b>(balances: impl Iterator<Item = &'b Balance>) -> Self {
        balances
            .map(Self::of)
            .fold(Self::default(), |all, one| Self {
                compared: all.compared || one.compared,
                of_all: all.of_all.or(one.of_all),
                latency: all.latency.or(one.latency),
            })
    }

    /// That of a new endpoint.
    pub(in crate::service) fn load(&self) -> Option<Arc<Load>> {
        let load = || Arc::new(Load::new(self.of_all.clone(), self.latency));
        self.compared.then(load)
    }
}
