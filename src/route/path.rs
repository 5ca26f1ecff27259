//! One host's path prefixes as a tree of segments, and what is found in it.

use std::collections::HashMap;

use rustc_hash::FxBuildHasher;

use super::condition::{Request, Unmet};
use crate::config::{Conditions, PathPattern, Segment};

/// A hash map whose keys all come from the config. The hasher is quick and not keyed, which is
/// safe here: a stranger's names are only looked up, never inserted, so they cannot fill a bucket.
pub(super) type Map<K, V> = HashMap<K, V, FxBuildHasher>;

/// The route that takes a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Match<'p> {
    /// Its index in the routes that the table was built from.
    pub route: usize,
    /// What `{service}` stands for, as the client wrote it: not percent-decoded, and out of a
    /// host in any letter case.
    pub service: Option<&'p str>,
    /// How many bytes of the path the prefix took: 5 for `/cart` of `/cart/7`, 0 for `/`.
    pub prefix_len: usize,
}

/// A route whose host and path fit a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fitting<'t, 'p> {
    /// What it would make of the request.
    pub would_be: Match<'p>,
    /// The condition of its own that does not hold, if there is one.
    pub unmet: Option<Unmet<'t>>,
}

/// A node: the prefixes that begin with the segments on the way to it.
#[derive(Debug, Default)]
pub(super) struct Prefixes {
    /// The routes whose prefix ends here, and that have conditions.
    conditional: Vec<(Conditions, usize)>,
    /// The one that has none.
    route: Option<usize>,
    literal: Map<Box<str>, Prefixes>,
    service: Option<Box<Prefixes>>,
}

impl Prefixes {
    pub(super) fn insert(&mut self, pattern: &PathPattern, conditions: &Conditions, route: usize) {
        let mut node = self;
        for segment in &pattern.segments {
            node = match segment {
                Segment::Literal(text) => node.literal.entry(text.as_str().into()).or_default(),
                Segment::Service => node.service.get_or_insert_default(),
            };
        }
        if conditions.is_empty() {
            node.route.get_or_insert(route);
        } else {
            node.conditional.push((conditions.clone(), route));
        }
    }

    /// The longest prefix of the path. `service` is what the host has captured.
    pub(super) fn find<'r>(
        &self,
        request: &Request<'r>,
        service: Option<&'r str>,
    ) -> Option<Match<'r>> {
        let mut best: Option<Match<'r>> = None;
        // Only a longer prefix replaces one that was found.
        let visit = &mut |node: &Self, prefix_len, service| {
            if best.is_none_or(|best| prefix_len > best.prefix_len)
                && let Some(route) = node.ending_here(request)
            {
                best = Some(Match {
                    route,
                    service,
                    prefix_len,
                });
            }
        };
        self.descend(request, 0, service, visit);
        best
    }

    /// All routes whose prefix the path has, in the order in which [`Self::find`] prefers them.
    pub(super) fn fitting<'t, 'r>(
        &'t self,
        request: &Request<'r>,
        service: Option<&'r str>,
    ) -> Vec<Fitting<'t, 'r>> {
        let mut found = Vec::new();
        let visit = &mut |node: &'t Self, prefix_len, service| {
            let conditional = node.conditional.iter();
            let conditional = conditional.map(|(conditions, route)| (*route, Some(conditions)));
            let others = node.route.map(|route| (route, None));
            found.extend(
                conditional
                    .chain(others)
                    .map(|(route, conditions)| Fitting {
                        would_be: Match {
                            route,
                            service,
                            prefix_len,
                        },
                        unmet: conditions.and_then(|conditions| request.unmet(conditions)),
                    }),
            );
        };
        self.descend(request, 0, service, visit);
        // Stable: of those as long as each other the first visited stands first.
        found.sort_by_key(|one| std::cmp::Reverse(one.would_be.prefix_len));
        found
    }

    /// Of the routes whose prefix ends here, the one that takes the request.
    fn ending_here(&self, request: &Request<'_>) -> Option<usize> {
        let mut conditional = self.conditional.iter();
        let met = conditional.find(|(conditions, _)| request.meets(conditions));
        met.map(|(_, route)| *route).or(self.route)
    }

    /// Visits the nodes that the path leads to. `at` is where the prefix up to this node ends, and the
    /// next segment's `/` stands. The literal child goes first, so that a literal stands before a
    /// template, unless it leads less far. Since a pattern has at most one template, this looks at no
    /// more than the square of the tree's depth.
    fn descend<'t, 'r>(
        &'t self,
        request: &Request<'r>,
        at: usize,
        service: Option<&'r str>,
        visit: &mut impl FnMut(&'t Self, usize, Option<&'r str>),
    ) {
        visit(self, at, service);
        let leaf = self.literal.is_empty() && self.service.is_none();
        let path = request.path;
        if leaf || at == path.len() {
            return;
        }
        let rest = &path[at + 1..];
        let length = rest.bytes().position(|byte| byte == b'/');
        let segment = length.map_or(rest, |length| &rest[..length]);
        let end = at + 1 + segment.len();
        if let Some(child) = self.literal.get(segment) {
            child.descend(request, end, service, visit);
        }
        if let Some(child) = &self.service
            && !segment.is_empty()
        {
            child.descend(request, end, Some(segment), visit);
        }
    }
}
