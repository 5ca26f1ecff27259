//! One endpoint of a service, with what its registry and its checks say of it; and all of them in their
//! order. Small, since there are many. Knows nothing of what makes them come and go.

use std::{slice, sync::Arc};

use super::standing::{Held, Standing};
use crate::{
    instance::Instance,
    service::{Checkup, Endpoint, EndpointId},
};

/// A large registry has 100,000 of them: what few have is boxed, and the identity is the endpoint's.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) endpoint: Arc<Endpoint>,
    pub(crate) instance: Arc<Instance>,
    standing: SmallStanding,
    /// What our own checks of it come to; `None` where there are none, or none has run yet.
    pub(crate) checkup: Option<Box<Checkup>>,
}

/// A standing in a word or two.
#[derive(Debug)]
enum SmallStanding {
    Passing,
    Critical,
    Held(Box<Held>),
    Removed,
}

impl From<Standing> for SmallStanding {
    fn from(standing: Standing) -> Self {
        match standing {
            Standing::Passing => Self::Passing,
            Standing::Critical => Self::Critical,
            Standing::Held(held) => Self::Held(Box::new(held)),
            Standing::Removed => Self::Removed,
        }
    }
}

impl Member {
    pub(super) fn new(
        endpoint: Arc<Endpoint>,
        instance: Arc<Instance>,
        standing: Standing,
    ) -> Self {
        Self {
            endpoint,
            instance,
            standing: standing.into(),
            checkup: None,
        }
    }

    /// Who it is.
    pub(crate) fn id(&self) -> &EndpointId {
        self.endpoint.id()
    }

    /// How it stands.
    pub(crate) fn standing(&self) -> Standing {
        match &self.standing {
            SmallStanding::Passing => Standing::Passing,
            SmallStanding::Critical => Standing::Critical,
            SmallStanding::Held(held) => Standing::Held(**held),
            SmallStanding::Removed => Standing::Removed,
        }
    }

    pub(super) fn stand(&mut self, standing: Standing) {
        self.standing = standing.into();
    }

    pub(super) fn is_removed(&self) -> bool {
        matches!(self.standing, SmallStanding::Removed)
    }

    pub(super) fn fails_checks(&self) -> bool {
        self.checkup
            .as_ref()
            .is_some_and(|checkup| !checkup.passing)
    }

    pub(super) fn may_be_picked(&self, panics: bool) -> bool {
        self.standing().is_pickable() && (panics || !self.fails_checks())
    }
}

/// Members in the order of their identities.
#[derive(Debug, Default)]
pub(super) struct ById(pub(super) Vec<Member>);

impl ById {
    pub(super) fn iter(&self) -> slice::Iter<'_, Member> {
        self.0.iter()
    }

    pub(super) fn get(&self, id: &EndpointId) -> Option<&Member> {
        Some(&self.0[self.place(id).ok()?])
    }

    pub(super) fn get_mut(&mut self, id: &EndpointId) -> Option<&mut Member> {
        let place = self.place(id).ok()?;
        Some(&mut self.0[place])
    }

    fn place(&self, id: &EndpointId) -> Result<usize, usize> {
        self.0.binary_search_by(|member| member.id().cmp(id))
    }

    /// Adds those that are not there yet; of two that are the same, the later one. Takes no more memory
    /// than they need: most sets of a large registry never change.
    pub(super) fn add(&mut self, new: Vec<Member>) {
        if new.is_empty() {
            return;
        }
        self.0.reserve_exact(new.len());
        self.0.extend(new);
        // Both parts are in order, as a rule, which makes this a merge.
        self.0.sort_by(|a, b| a.id().cmp(b.id()));
        self.0.dedup_by(|later, earlier| {
            let same = later.id() == earlier.id();
            if same {
                std::mem::swap(later, earlier);
            }
            same
        });
    }

    pub(super) fn retain(&mut self, stays: impl FnMut(&Member) -> bool) {
        self.0.retain(stays);
        self.0.shrink_to(2 * self.0.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A large registry has 100,000 of them.
    #[test]
    fn a_member_is_small() {
        assert_eq!(size_of::<Member>(), 40);
    }
}
