//! How busy endpoints are, as balancers compare them.

use std::sync::Arc;

use tokio::time::Instant;

use crate::{
    config::{Balance, Hash},
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
        let with_one = |one: &Self| one.load.in_flight() + 1;
        with_one(self) * u64::from(other.weight) > with_one(other) * u64::from(self.weight)
    }

    /// What the next request to it costs, by weight.
    pub(super) fn cost(&self, now: Instant) -> f32 {
        self.load.cost(now) / self.weight as f32
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
            Balance::Hash(Hash { load: None, .. }) => Self::default(),
            Balance::Hash(_) => Self {
                of_all: Some(Arc::default()),
                ..compared
            },
            Balance::Sticky(sticky) => Self::of(&sticky.fallback),
        }
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
