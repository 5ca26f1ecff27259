//! Whom of a service a route calls, and how one of them is picked: all of its endpoints, or those
//! with tags and metadata, with turns of their own. All views of a service share its endpoints, so
//! that connections, doubts, counts and drains are an endpoint's, whichever route calls it. Knows
//! nothing of routes.

use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::time::Instant;

use super::{Balancer, Endpoint, Line, Snapshot, Turn, board::Board};
use crate::config::{self, Balance, Subset};

/// Some of a service's endpoints, or all.
#[derive(Debug)]
pub struct View {
    /// `None` is all of them.
    subset: Option<Arc<Subset>>,
    balance: Balance,
    snapshot: ArcSwap<Snapshot>,
    balancer: Balancer,
}

impl View {
    /// One that nobody is in yet; `balance` is the service's.
    pub(super) fn new(subset: Option<Arc<Subset>>, balance: Balance) -> Self {
        let own = subset.as_ref().and_then(|subset| subset.balance);
        let balance = own.unwrap_or(balance);
        Self {
            subset,
            balance,
            snapshot: ArcSwap::default(),
            balancer: Balancer::new(balance),
        }
    }

    /// Whether it is of this one, which the config has once.
    pub(super) fn is_of(&self, subset: &Arc<Subset>) -> bool {
        self.subset
            .as_ref()
            .is_some_and(|own| Arc::ptr_eq(own, subset))
    }

    /// What it is a view of; `None` is all.
    pub fn subset(&self) -> Option<&Arc<Subset>> {
        self.subset.as_ref()
    }

    /// How it picks.
    pub fn balance(&self) -> Balance {
        self.balance
    }

    /// Who is in it now.
    pub fn snapshot(&self) -> arc_swap::Guard<Arc<Snapshot>> {
        self.snapshot.load()
    }

    /// Whether nobody can be picked.
    pub fn is_empty(&self) -> bool {
        self.snapshot.load().endpoints.is_empty()
    }

    /// Takes a request's turn.
    pub fn turn(&self) -> Turn {
        self.balancer.turn()
    }

    /// Picks the endpoint whose turn it is, without a lock, and returns this worker's way to it.
    pub fn pick(&self, worker: usize, turn: Turn, now: Instant) -> Option<Arc<Line>> {
        self.balancer
            .pick(&self.snapshot.load(), turn, now)
            .map(|endpoint| Arc::clone(endpoint.line(worker)))
    }

    /// The same for a request that was tried with these already; `None` where there is no other.
    pub fn pick_other(
        &self,
        worker: usize,
        turn: Turn,
        tried: &[Arc<Line>],
        now: Instant,
    ) -> Option<Arc<Line>> {
        let was_tried = |endpoint: &Endpoint| is_among(tried, endpoint.line(worker));
        self.balancer
            .pick_other(&self.snapshot.load(), turn, was_tried, now)
            .map(|endpoint| Arc::clone(endpoint.line(worker)))
    }

    /// Whether there is somebody other than these, and this one, to pick.
    pub(super) fn has_other(
        &self,
        worker: usize,
        tried: &[Arc<Line>],
        this: Option<&Arc<Line>>,
    ) -> bool {
        let snapshot = self.snapshot.load();
        let lines = snapshot.endpoints.iter().map(|one| one.line(worker));
        let mut others = lines.filter(|line| this.is_none_or(|this| !Arc::ptr_eq(this, line)));
        others.any(|line| !is_among(tried, line))
    }

    /// Takes over what the board has, if it differs.
    pub(super) fn publish(&self, board: &Board, policy: &config::Service) {
        let snapshot = match self.subset.as_deref() {
            None => board.snapshot(policy, self.balance, |_| true),
            Some(Subset { tags, meta, .. }) => {
                board.snapshot(policy, self.balance, |instance| instance.has(tags, meta))
            }
        };
        let current = self.snapshot.load();
        let same = |a: &[Arc<Endpoint>], b: &[Arc<Endpoint>]| {
            a.len() == b.len() && std::iter::zip(a, b).all(|(a, b)| Arc::ptr_eq(a, b))
        };
        if !same(&current.endpoints, &snapshot.endpoints)
            || !same(&current.resting, &snapshot.resting)
            || current.order != snapshot.order
        {
            self.snapshot.store(Arc::new(snapshot));
        }
    }
}

fn is_among(tried: &[Arc<Line>], line: &Arc<Line>) -> bool {
    tried.iter().any(|one| Arc::ptr_eq(one, line))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::{
        config::{Config, Overrides},
        instance::{Address, Instance},
        service::{Service, journal::Why, listing::Update},
        upstream::Tls,
    };

    /// A service with the subsets of these routes.
    fn service(routes: &str) -> (Service, Config) {
        let config = Config::parse(routes, std::path::Path::new(".")).unwrap();
        let policy = config.services["cart"].clone();
        let tls = Arc::new(Tls::open(&policy.tls).unwrap());
        let subsets = config
            .routes
            .iter()
            .filter_map(|route| route.subset.clone());
        (
            Service::new("cart".into(), policy, tls, 1, subsets, Arc::default()),
            config,
        )
    }

    fn update(service: &Service, instances: Vec<Instance>) {
        let update = Update {
            instances,
            doubtable: true,
        };
        service.update(&update, Why::ProxyToml);
    }

    fn instance(port: u16, healthy: bool, tag: &str) -> Instance {
        Instance {
            id: format!("i{port}").into(),
            address: Address::new("10.0.0.1", port.into()).unwrap(),
            tls: false,
            healthy,
            weight: u32::from(port),
            tags: vec![tag.to_owned()],
            meta: BTreeMap::new(),
        }
    }

    fn ports(view: &View) -> Vec<u16> {
        let snapshot = view.snapshot();
        let endpoints = snapshot.endpoints.iter();
        endpoints
            .map(|endpoint| endpoint.id().address.port())
            .collect()
    }

    const TWO: &str = "[service.cart]\nguard = false\n\
        [[route]]\nservice = \"cart\"\n\
        [[route]]\npath = \"/v2\"\ntags = [\"V2\"]\nservice = \"cart\"\n\
        [[route]]\npath = \"/w\"\nbalance = \"weighted\"\nservice = \"cart\"\n";

    #[tokio::test]
    async fn a_view_has_the_services_own_endpoints_and_follows_its_updates() {
        let (service, config) = service(TWO);
        let view = |route: usize| {
            let subset = config.routes[route].subset.as_ref();
            service.terms(subset, &Overrides::default()).view
        };
        update(
            &service,
            vec![
                instance(1, true, "v1"),
                instance(2, true, "v2"),
                instance(3, false, "v2"),
            ],
        );
        assert_eq!((ports(view(0)), ports(view(1))), (vec![1, 2], vec![2]));
        let [all, some] = [view(0).snapshot(), view(1).snapshot()];
        assert!(Arc::ptr_eq(&all.endpoints[1], &some.endpoints[0]));
        // One that gets another tag is the same endpoint all the same.
        update(
            &service,
            vec![instance(1, true, "v2"), instance(2, true, "v1")],
        );
        assert_eq!((ports(view(0)), ports(view(1))), (vec![1, 2], vec![1]));
        assert!(Arc::ptr_eq(
            &view(1).snapshot().endpoints[0],
            &all.endpoints[0]
        ));
        assert!(!all.endpoints[1].pool(0).is_retired());
        // And one that leaves is retired when no view has it any more.
        update(&service, vec![instance(2, true, "v1")]);
        assert!(ports(view(1)).is_empty() && all.endpoints[0].pool(0).is_retired());
    }

    #[tokio::test]
    async fn a_view_balances_as_its_route_says() {
        let (service, config) = service(TWO);
        update(&service, vec![instance(1, true, ""), instance(3, true, "")]);
        let subset = config.routes[2].subset.as_ref();
        let weighted = service.terms(subset, &Overrides::default()).view;
        assert_eq!(
            (
                service.main().snapshot().turns(),
                weighted.snapshot().turns()
            ),
            (2, 4)
        );
    }
}
