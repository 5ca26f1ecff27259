//! Routes that the tags of instances make, as fabio's users know them: each is a service of its
//! own, whose instances are all that have the tag, whatever service they belong to. Knows nothing
//! of how a request is matched.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use serde::Serialize;
use tokio::{sync::watch, time::Instant};

use super::watched::{Watched, Watchers};
use crate::{
    config::{HostHeader, HostPattern, PathPattern, TagRoute},
    registry::{Catalog, merged::Part},
    service::Service,
};

/// A service that no catalog lists any more, and that has no endpoint, is still known (503, not 404)
/// for this long: a deploy may leave a moment without endpoints.
pub(super) const LINGER: Duration = Duration::from_secs(60);

/// The routes that tags make now.
#[derive(Debug, Default)]
pub struct Tagged {
    /// In the order of host and path.
    pub routes: Vec<TaggedRoute>,
    /// Tags that make none.
    pub quarantined: Vec<Quarantined>,
}

/// A route that tags have made.
#[derive(Clone, Debug)]
pub struct TaggedRoute {
    /// Which hosts it takes.
    pub host: HostPattern,
    /// The path's prefix.
    pub path: PathPattern,
    /// Bytes that are taken off the path.
    pub strip: usize,
    /// The `Host` that the endpoint sees.
    pub host_header: HostHeader,
    /// All who have the tag.
    pub service: Arc<Service>,
    /// Whose instances have it, by their names in the registry.
    pub tagged_by: Vec<Arc<str>>,
}

/// A tag that makes no route, and touches nothing else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Quarantined {
    /// The registry where it stands.
    pub registry: Arc<str>,
    /// The service that has it.
    pub service: Arc<str>,
    /// As it stands there.
    pub tag: String,
    /// Why it makes no route.
    pub reason: String,
}

/// What the catalogs ask for.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Plan {
    /// By the routes' names: host and path.
    wanted: BTreeMap<Arc<str>, Wanted>,
    quarantined: Vec<Quarantined>,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Wanted {
    pub(super) registry: Arc<str>,
    /// The first tag that asks for it: the others agree with it.
    tag: TagRoute,
    tagged_by: Vec<Arc<str>>,
    parts: Vec<Part>,
}

impl Plan {
    /// Takes over one registry's catalog.
    pub(super) fn add(&mut self, registry: &Arc<str>, catalog: &Catalog) {
        for (service, tags) in catalog {
            for text in tags {
                let Some(read) = TagRoute::parse(text) else {
                    continue;
                };
                let taken = read.and_then(|tag| self.want(registry, service, text, tag));
                if let Err(reason) = taken {
                    self.quarantined.push(Quarantined {
                        registry: Arc::clone(registry),
                        service: Arc::clone(service),
                        tag: text.clone(),
                        reason,
                    });
                }
            }
        }
    }

    fn want(
        &mut self,
        registry: &Arc<str>,
        service: &Arc<str>,
        text: &str,
        tag: TagRoute,
    ) -> Result<(), String> {
        let part = Part {
            service: service.to_string(),
            tags: [text.to_owned()]
                .into_iter()
                .chain(tag.tags.clone())
                .collect(),
            tls: tag.tls,
            weight: tag.weight,
        };
        // Also the name of the route's service: `shop.example.com/cart`, or `/cart`.
        let name: Arc<str> = format!("{}{}", tag.host, tag.path).into();
        let wanted = self.wanted.entry(name).or_insert_with(|| Wanted {
            registry: Arc::clone(registry),
            tag: tag.clone(),
            tagged_by: Vec::new(),
            parts: Vec::new(),
        });
        if wanted.registry != *registry {
            return Err(format!("the registry `{}` has this route", wanted.registry));
        }
        if (wanted.tag.strip, wanted.tag.host_header) != (tag.strip, tag.host_header) {
            let other = wanted.tagged_by.first().unwrap_or(service);
            return Err(format!(
                "`strip` and `host` are not those of the same route's tag on `{other}`"
            ));
        }
        if !wanted.tagged_by.contains(service) {
            wanted.tagged_by.push(Arc::clone(service));
        }
        wanted.parts.push(part);
        Ok(())
    }
}

/// The routes that run, by name.
#[derive(Default)]
pub(super) struct Running(pub(super) BTreeMap<Arc<str>, Run>);

pub(super) struct Run {
    pub(super) wanted: Wanted,
    pub(super) parts: watch::Sender<Vec<Part>>,
    pub(super) service: Arc<Service>,
    pub(super) watchers: Watchers,
    /// Since when no tag asks for the route and its service has no endpoint.
    deserted: Option<Instant>,
}

impl Running {
    /// Does what the plan wants. A route that no tag asks for any more goes on with what it has: a
    /// registry that lost its data lists no tags either, and endpoints that answer must still be
    /// reached. The route is forgotten when it has had no endpoint for [`LINGER`].
    pub(super) fn follow(
        &mut self,
        plan: &Plan,
        now: Instant,
        mut make: impl FnMut(&Arc<str>, &Wanted, watch::Receiver<Vec<Part>>) -> Option<Watched>,
    ) {
        for (name, wanted) in &plan.wanted {
            if let Some(run) = self.0.get_mut(name)
                && run.wanted.registry == wanted.registry
            {
                run.deserted = None;
                run.parts.send_if_modified(|parts| {
                    let differ = *parts != wanted.parts;
                    parts.clone_from(&wanted.parts);
                    differ
                });
                run.wanted = wanted.clone();
                continue;
            }
            let (parts, receiver) = watch::channel(wanted.parts.clone());
            if let Some(Watched { service, watchers }) = make(name, wanted, receiver) {
                let run = Run {
                    wanted: wanted.clone(),
                    parts,
                    service,
                    watchers,
                    deserted: None,
                };
                self.0.insert(Arc::clone(name), run);
            }
        }
        self.0.retain(|name, run| {
            if plan.wanted.contains_key(name) || !run.service.is_empty() {
                run.deserted = None;
                return true;
            }
            let since = *run.deserted.get_or_insert(now);
            now.saturating_duration_since(since) < LINGER
        });
    }

    /// What it is now.
    pub(super) fn tagged(&self, plan: &Plan) -> Tagged {
        let routes = self.0.values().map(|run| TaggedRoute {
            host: run.wanted.tag.host.clone(),
            path: run.wanted.tag.path.clone(),
            strip: run.wanted.tag.strip,
            host_header: run.wanted.tag.host_header,
            service: Arc::clone(&run.service),
            tagged_by: run.wanted.tagged_by.clone(),
        });
        Tagged {
            routes: routes.collect(),
            quarantined: plan.quarantined.clone(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Ends all of them, and gives their watchers to be waited for.
    pub(super) fn stop(&mut self) -> impl Iterator<Item = Watchers> {
        let all = std::mem::take(&mut self.0);
        all.into_values().map(|run| run.watchers)
    }
}

impl Wanted {
    /// Whose policy its requests have: that of the first service with the tag.
    pub(super) fn first_service(&self) -> Option<&Arc<str>> {
        self.tagged_by.first()
    }

    /// Whether some tag asks for a part of all requests.
    pub(super) fn is_weighted(&self) -> bool {
        self.parts.iter().any(|part| part.weight.is_some())
    }
}

impl Tagged {
    /// Whether requests are routed alike.
    pub(super) fn routes_like(&self, other: &Self) -> bool {
        let like = |a: &TaggedRoute, b: &TaggedRoute| {
            Arc::ptr_eq(&a.service, &b.service)
                && (a.strip, a.host_header) == (b.strip, b.host_header)
        };
        self.routes.len() == other.routes.len()
            && std::iter::zip(&self.routes, &other.routes).all(|(a, b)| like(a, b))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of instances' services: the registry, the name, and the tags.
    fn plan(services: &[(&str, &str, &[&str])]) -> Plan {
        let mut catalogs = BTreeMap::<&str, Catalog>::new();
        for (registry, name, tags) in services {
            let tags = tags.iter().map(|tag| (*tag).to_owned());
            let catalog = catalogs.entry(registry).or_default();
            catalog.insert((*name).into(), tags.collect());
        }
        let mut plan = Plan::default();
        for (registry, catalog) in &catalogs {
            plan.add(&(*registry).into(), catalog);
        }
        plan
    }

    #[test]
    fn who_has_the_same_route_shares_it_with_options_of_their_own() {
        let plan = plan(&[
            ("consul", "cart", &["v1", "urlprefix-/cart strip=/cart"]),
            (
                "consul",
                "canary",
                &["urlprefix-/cart strip=/cart weight=0.1 tags=new"],
            ),
        ]);
        assert_eq!(plan.quarantined, []);
        let wanted = &plan.wanted["/cart"];
        assert!(wanted.is_weighted());
        assert_eq!(wanted.tagged_by, ["canary".into(), "cart".into()]);
        let parts = wanted.parts.iter();
        let parts: Vec<_> = parts
            .map(|part| (&*part.service, part.tags.join("|"), part.weight))
            .collect();
        assert_eq!(
            parts,
            [
                (
                    "canary",
                    "urlprefix-/cart strip=/cart weight=0.1 tags=new|new".to_owned(),
                    Some(0.1)
                ),
                ("cart", "urlprefix-/cart strip=/cart".to_owned(), None),
            ]
        );
    }

    #[test]
    fn a_bad_tag_is_quarantined_and_touches_nothing_else() {
        let plan = plan(&[
            (
                "a",
                "bad",
                &[
                    "urlprefix-nonsense",
                    "urlprefix-/x strip=/y",
                    "urlprefix-/good",
                ],
            ),
            ("a", "cart", &["urlprefix-/cart strip=/cart"]),
            ("a", "other", &["urlprefix-/cart"]),
            ("b", "cart", &["urlprefix-/cart strip=/cart"]),
        ]);
        let names: Vec<_> = plan.wanted.keys().map(|name| &**name).collect();
        assert_eq!(names, ["/cart", "/good"]);
        let reasons: Vec<_> = plan
            .quarantined
            .iter()
            .map(|bad| (&*bad.registry, &*bad.service, bad.reason.as_str()))
            .collect();
        assert_eq!(
            reasons,
            [
                ("a", "bad", "`nonsense` has no path: write `nonsense/`"),
                ("a", "bad", "`strip=/y` is not the beginning of its path"),
                (
                    "a",
                    "other",
                    "`strip` and `host` are not those of the same route's tag on `cart`"
                ),
                ("b", "cart", "the registry `a` has this route"),
            ]
        );
    }
}
