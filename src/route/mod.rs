//! Which route takes a request: a request's head in, an index into the list of routes out. Owns the
//! order in which patterns are tried; knows nothing of services or the proxy, and of the config
//! only its pattern types.
//!
//! The order: the exact host, then a template host (`{service}.internal`), then wildcards from the
//! longest to the shortest, then any host. Within a host the longest path prefix that ends on a
//! segment boundary wins, and among prefixes of the same length a literal segment stands before
//! `{service}`. Of routes with the same host and path those with conditions come first, in the
//! order of the list, and then the one without. **A host whose paths do not match does not end the
//! search**, nor does a path whose conditions do not hold: it goes on with the next in this order,
//! so that a route without a host is a default for every host.
//!
//! A search costs one hash lookup for the host, one more per dot of it where there are wildcards,
//! and one per path segment as deep as there are prefixes; it depends neither on the number of
//! hosts nor on the number of prefixes, and allocates nothing. Conditions cost where the path leads
//! past them, and no other search.

mod condition;
mod host;
mod path;
mod reading;
#[cfg(test)]
mod tests;

use crate::config::{Conditions, HostPattern, PathPattern, Segment};
pub use condition::{Request, Unmet};
pub use path::{Fitting, Match};
use path::{Map, Prefixes};
pub use reading::{Astray, readings};

/// All routes of one generation, immutable.
#[derive(Debug, Default)]
pub struct Table {
    exact: Map<Box<[u8]>, Prefixes>,
    /// By what follows the `{service}.`
    template: Map<Box<[u8]>, Prefixes>,
    /// By what follows the `*.`
    wildcard: Map<Box<[u8]>, Prefixes>,
    /// Bytes of the longest key of `wildcard`: longer ends of a host need no lookup.
    longest_wildcard: usize,
    any: Prefixes,
    /// The table for decoded readings of a path, where a pattern is written with escapes.
    decoded: Option<Box<Table>>,
}

impl Table {
    /// Builds the table of what routes take. Of two that take the same, the first counts.
    pub fn new<'r>(
        routes: impl IntoIterator<Item = (&'r HostPattern, &'r PathPattern, &'r Conditions)>,
    ) -> Self {
        let routes: Vec<_> = routes.into_iter().collect();
        let mut table = Self::default();
        for (index, (host, path, conditions)) in routes.iter().enumerate() {
            table.paths_of(host).insert(path, conditions, index);
        }
        if routes.iter().any(|(_, path, _)| is_escaped(path)) {
            let mut decoded = Self::default();
            for (index, (host, path, conditions)) in routes.iter().enumerate() {
                decoded
                    .paths_of(host)
                    .insert(&canonical(path), conditions, index);
            }
            table.decoded = Some(Box::new(decoded));
        }
        table
    }

    fn paths_of(&mut self, host: &HostPattern) -> &mut Prefixes {
        let (map, name) = match host {
            HostPattern::Any => return &mut self.any,
            HostPattern::Exact(name) => (&mut self.exact, host::unbracketed(name)),
            HostPattern::Template(end) => (&mut self.template, end.as_str()),
            HostPattern::Wildcard(end) => {
                self.longest_wildcard = self.longest_wildcard.max(end.len());
                (&mut self.wildcard, end.as_str())
            }
        };
        map.entry(name.as_bytes().into()).or_default()
    }

    /// Finds the route for a request. Its host is as the client sent it (any letter case; a port, a
    /// trailing dot and IPv6 brackets are seen through). A path that does not begin with `/`
    /// matches nothing; a host longer than DNS allows, or none, only routes for any host.
    pub fn find<'r>(&self, request: &Request<'r>) -> Option<Match<'r>> {
        self.in_order(request, |paths, service| paths.find(request, service))
    }

    /// All routes whose host and path fit a request, in the order in which [`Self::find`] prefers them:
    /// it takes the first of them that is not unmet.
    pub fn fitting<'t, 'r>(&'t self, request: &Request<'r>) -> Vec<Fitting<'t, 'r>> {
        let mut found = Vec::new();
        let none: Option<()> = self.in_order(request, |paths, service| {
            found.extend(paths.fitting(request, service));
            None
        });
        debug_assert!(none.is_none());
        found
    }

    /// Looks at the paths of each host that fits, with what that host has captured, until there is an
    /// answer.
    fn in_order<'t, 'r, T>(
        &'t self,
        request: &Request<'r>,
        mut look: impl FnMut(&'t Prefixes, Option<&'r str>) -> Option<T>,
    ) -> Option<T> {
        if !request.path.starts_with('/') {
            return None;
        }
        let written = host::bare(request.host);
        let mut buffer = [0; host::LONGEST];
        let name = host::lower(written, &mut buffer);
        if let Some(paths) = self.exact.get(name)
            && let Some(found) = look(paths, None)
        {
            return Some(found);
        }
        let by_end = self.by_end(written, name, &mut look);
        by_end.or_else(|| look(&self.any, None))
    }

    /// Finds the route for another reading of a request's path, one of [`readings`].
    pub fn find_reading<'r>(&self, request: &Request<'r>) -> Option<Match<'r>> {
        self.decoded.as_deref().unwrap_or(self).find(request)
    }

    /// Tries what follows each dot of the host's name, the longest end first. A template fits the
    /// first dot alone, where no wildcard can be longer.
    fn by_end<'t, 'r, T>(
        &'t self,
        written: &'r str,
        name: &[u8],
        look: &mut impl FnMut(&'t Prefixes, Option<&'r str>) -> Option<T>,
    ) -> Option<T> {
        if self.template.is_empty() && self.wildcard.is_empty() {
            return None;
        }
        let mut dots = (0..name.len()).filter(|&at| name[at] == b'.');
        let first = dots.next().filter(|&at| at > 0)?;
        if let Some(paths) = self.template.get(&name[first + 1..])
            && let Some(found) = look(paths, Some(&written[..first]))
        {
            return Some(found);
        }
        let mut wild = |dot: usize| {
            let end = &name[dot + 1..];
            let paths = (end.len() <= self.longest_wildcard).then(|| self.wildcard.get(end))??;
            look(paths, None)
        };
        wild(first).or_else(|| dots.find_map(wild))
    }
}

fn is_escaped(path: &PathPattern) -> bool {
    let mut segments = path.segments.iter();
    segments.any(|segment| matches!(segment, Segment::Literal(text) if text.contains('%')))
}

/// A pattern as a path is when its escapes are decoded.
fn canonical(path: &PathPattern) -> PathPattern {
    let segments = path.segments.iter().map(|segment| match segment {
        Segment::Literal(text) => Segment::Literal(reading::canonical(text)),
        Segment::Service => Segment::Service,
    });
    PathPattern {
        segments: segments.collect(),
    }
}
