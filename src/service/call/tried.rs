//! The endpoints that a request was tried with. A pick asks of every candidate whether it is one of
//! them: a few are compared, and of more than a few there is a set. Knows nothing of how they fared.

use std::sync::Arc;

use rustc_hash::FxHashSet;

use crate::service::{WorkerEndpoint, endpoint::health::EndpointHealth};

/// So many are compared one by one.
const FEW: usize = 8;

/// The endpoints that a request was tried with, in their order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tried {
    lines: Vec<Arc<WorkerEndpoint>>,
    /// Where their lives are, once they are more than a few.
    #[allow(
        clippy::box_collection,
        reason = "each request has room for it, and few are tried so often"
    )]
    set: Option<Box<FxHashSet<usize>>>,
}

impl Tried {
    pub(crate) fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    pub(crate) fn last(&self) -> Option<&Arc<WorkerEndpoint>> {
        self.lines.last()
    }

    pub(crate) fn add(&mut self, line: Arc<WorkerEndpoint>) {
        self.lines.push(line);
        if self.lines.len() > FEW {
            let new = match self.set {
                None => &self.lines[..],
                Some(_) => &self.lines[self.lines.len() - 1..],
            };
            let set = self.set.get_or_insert_default();
            set.extend(new.iter().map(|line| place_of(line.health())));
        }
    }

    /// These, and one more.
    pub(crate) fn with(&self, line: &Arc<WorkerEndpoint>) -> Self {
        let mut more = self.clone();
        more.add(Arc::clone(line));
        more
    }

    /// Whether the endpoint that has this life is one of them.
    pub(crate) fn has(&self, health: &EndpointHealth) -> bool {
        match &self.set {
            None => {
                let mut lines = self.lines.iter();
                lines.any(|line| std::ptr::eq(line.health(), health))
            }
            Some(set) => set.contains(&place_of(health)),
        }
    }
}

/// An endpoint has one life, which stays where it is for as long as a line to it is held.
fn place_of(health: &EndpointHealth) -> usize {
    std::ptr::from_ref(health).addr()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::endpoint::testing::endpoint;

    #[test]
    fn those_that_were_added_are_in_it_and_no_others_be_they_few_or_many() {
        let endpoints: Vec<_> = (0..3 * FEW).map(|n| endpoint(n, None)).collect();
        let mut tried = Tried::default();
        for count in 0..endpoints.len() {
            for (n, one) in endpoints.iter().enumerate() {
                assert_eq!(tried.has(one.health()), n < count, "{n} of {count}");
            }
            let more = tried.with(endpoints[count].of_worker(0));
            assert!(more.has(endpoints[count].health()) && !tried.has(endpoints[count].health()));
            tried = more;
        }
        assert!(Arc::ptr_eq(
            tried.last().unwrap(),
            endpoints.last().unwrap().of_worker(0)
        ));
    }
}
