//! One host's path prefixes as a tree of segments.

use super::{Map, Match};
use crate::config::{PathPattern, Segment};

/// The prefixes that begin with the segments on the way to this node.
#[derive(Debug, Default)]
pub(super) struct Node {
    /// The route whose prefix ends here.
    route: Option<usize>,
    literal: Map<Box<str>, Node>,
    service: Option<Box<Node>>,
}

impl Node {
    pub(super) fn insert(&mut self, pattern: &PathPattern, route: usize) {
        let mut node = self;
        for segment in &pattern.segments {
            node = match segment {
                Segment::Literal(text) => node.literal.entry(text.as_str().into()).or_default(),
                Segment::Service => node.service.get_or_insert_default(),
            };
        }
        node.route.get_or_insert(route);
    }

    /// The longest prefix of the path. `service` is what the host has captured.
    pub(super) fn find<'p>(&self, path: &'p str, service: Option<&'p str>) -> Option<Match<'p>> {
        let mut best = None;
        self.descend(path, 0, service, &mut best);
        best
    }

    /// `at` is where the prefix up to this node ends, and the next segment's `/` stands. The
    /// literal child goes first and only a longer prefix replaces one that was found, so that a
    /// literal stands before a template, unless it leads less far. Since a pattern has at most
    /// one template, this looks at no more than the square of the tree's depth.
    fn descend<'p>(
        &self,
        path: &'p str,
        at: usize,
        service: Option<&'p str>,
        best: &mut Option<Match<'p>>,
    ) {
        if let Some(route) = self.route
            && best.is_none_or(|best| at > best.prefix_len)
        {
            *best = Some(Match {
                route,
                service,
                prefix_len: at,
            });
        }
        let leaf = self.literal.is_empty() && self.service.is_none();
        if leaf || at == path.len() {
            return;
        }
        let rest = &path[at + 1..];
        let length = rest.bytes().position(|byte| byte == b'/');
        let segment = length.map_or(rest, |length| &rest[..length]);
        let end = at + 1 + segment.len();
        if let Some(child) = self.literal.get(segment) {
            child.descend(path, end, service, best);
        }
        if let Some(child) = &self.service
            && !segment.is_empty()
        {
            child.descend(path, end, Some(segment), best);
        }
    }
}
