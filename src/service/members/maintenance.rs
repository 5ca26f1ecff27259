//! That a person works on an endpoint: since when, and for how long. Knows nothing of what follows from it.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::{
    config::Subset,
    instance::Address,
    term::{Term, TermStatus},
};

/// What is left to requests besides the endpoints that are drained, from the least on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Others {
    /// Nothing.
    None,
    /// Endpoints that fail our own checks: a panic calls them at the most.
    Failing,
    /// An endpoint that passes them, or that is not checked.
    Passing,
}

impl Others {
    /// Whether an endpoint can be done without.
    pub(super) fn replace(self, fails_checks: bool) -> bool {
        match self {
            Self::None => false,
            Self::Failing => fails_checks,
            Self::Passing => true,
        }
    }
}

/// The endpoints of a service that are drained, by their addresses.
pub(crate) type Drains = BTreeMap<Address, Maintenance>;

/// What an endpoint is in that is drained.
#[derive(Debug)]
pub(crate) struct Maintenance {
    pub(super) term: Term,
    /// Whether it holds where no other endpoint could be picked, too.
    pub(crate) forced: bool,
}

/// A drain, as the admin API shows it.
#[derive(Clone, Debug, Serialize)]
pub struct DrainStatus {
    /// The endpoint's address.
    pub endpoint: Address,
    /// For how long.
    #[serde(flatten)]
    pub term: TermStatus,
    /// Whether it takes the last endpoint, too.
    pub forced: bool,
    /// Whether it keeps all requests away: one that is not forced does not where no other endpoint
    /// could be picked, or where it passes its checks and no other does.
    pub holds: bool,
    /// Subsets that have no other endpoint: their requests still come. Empty where all do.
    pub yields_for: Vec<String>,
}

impl Maintenance {
    /// Whether it keeps requests from an endpoint where these others are.
    pub(super) fn holds(&self, fails_checks: bool, others: Others) -> bool {
        self.forced || others.replace(fails_checks)
    }
}

impl DrainStatus {
    /// It does not hold where it yields for any, of which `None` is all requests.
    pub(super) fn of<'s>(
        endpoint: &Address,
        maintenance: &Maintenance,
        yields_for: impl IntoIterator<Item = Option<&'s Subset>>,
    ) -> Self {
        let yields_for: Vec<_> = yields_for.into_iter().collect();
        let holds = yields_for.is_empty();
        let subsets: Option<BTreeSet<_>> = yields_for
            .into_iter()
            .map(|subset| subset.map(ToString::to_string))
            .collect();
        Self {
            endpoint: endpoint.clone(),
            term: maintenance.term.status(),
            forced: maintenance.forced,
            holds,
            yields_for: subsets.into_iter().flatten().collect(),
        }
    }
}

#[cfg(test)]
pub(crate) mod testing {
    use super::*;

    /// Without an end of its own.
    pub(crate) fn maintenance(forced: bool) -> Maintenance {
        let term = Term::endless();
        Maintenance { term, forced }
    }
}
