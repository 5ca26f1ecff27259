//! That an endpoint is picked by another weight than its own: by which, and for how long. Knows nothing of what
//! follows from it.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::{
    instance::Address,
    term::{Term, TermStatus},
};

/// The endpoints of a service that have another weight for a while, by their addresses.
pub(crate) type OtherWeights = BTreeMap<Address, OtherWeight>;

/// A weight that holds for a while.
#[derive(Debug)]
pub(crate) struct OtherWeight {
    pub(crate) weight: u32,
    pub(super) term: Term,
}

/// A weight that holds for a while, as the admin API shows it.
#[derive(Clone, Debug, Serialize)]
pub struct WeightStatus {
    /// The endpoint's address.
    pub endpoint: Address,
    /// What it is picked by.
    pub weight: u32,
    /// Whether a balance heeds it: not where the file has another one by now.
    pub heeded: bool,
    /// For how long.
    #[serde(flatten)]
    pub term: TermStatus,
}

impl OtherWeight {
    pub(super) fn status(&self, endpoint: &Address, heeded: bool) -> WeightStatus {
        WeightStatus {
            endpoint: endpoint.clone(),
            weight: self.weight,
            heeded,
            term: self.term.status(),
        }
    }
}
