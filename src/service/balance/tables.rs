//! What is looked up at a pick, built when a snapshot is: nothing but what its balancer asks for.

use std::sync::Arc;

use super::{loaded::Loaded, order, ring::Ring, tokens::Tokens};
use crate::{config::Balance, service::Endpoint};

/// By the places of a snapshot's endpoints.
#[derive(Debug, Default)]
pub(in crate::service) struct Tables {
    /// The places in the order of their turns, where they do not have one each.
    pub(super) order: Box<[u32]>,
    /// How busy each is.
    pub(super) loads: Box<[Loaded]>,
    /// The weights' sum, where there are loads.
    pub(super) weights: u64,
    /// Who serves a key.
    pub(super) ring: Ring,
    /// Who is named by a cookie.
    pub(super) tokens: Tokens,
}

impl Tables {
    /// Of these endpoints, with their weights.
    pub(in crate::service) fn new(
        balance: &Balance,
        endpoints: &[Arc<Endpoint>],
        weights: &[u32],
    ) -> Self {
        let ids = endpoints.iter().map(|endpoint| endpoint.id());
        match balance {
            Balance::RoundRobin | Balance::Random => Self::default(),
            Balance::Weighted => Self {
                order: order::order(weights),
                ..Self::default()
            },
            Balance::LeastRequest => Self::of_loads(endpoints, weights),
            Balance::P2c | Balance::PeakEwma { .. } => Self {
                order: order::order(weights),
                ..Self::of_loads(endpoints, weights)
            },
            Balance::Hash(hash) => Self {
                ring: Ring::new(ids.zip(weights.iter().copied())),
                ..match hash.load {
                    Some(_) => Self::of_loads(endpoints, weights),
                    None => Self::default(),
                }
            },
            Balance::Sticky(sticky) => Self {
                tokens: Tokens::new(ids),
                ..Self::new(&sticky.fallback, endpoints, weights)
            },
        }
    }

    fn of_loads(endpoints: &[Arc<Endpoint>], weights: &[u32]) -> Self {
        let loaded = |(endpoint, weight): (&Arc<Endpoint>, &u32)| Loaded {
            load: endpoint.load().unwrap_or_default(),
            weight: *weight.max(&1),
        };
        let loads: Box<[_]> = std::iter::zip(endpoints, weights).map(loaded).collect();
        Self {
            weights: loads.iter().map(|one| u64::from(one.weight)).sum(),
            loads,
            ..Self::default()
        }
    }
}
