//! A service with another policy, around what it has: its endpoints with their connections and doubts,
//! its counters, its journal, and those of its views that pick as before. Knows nothing of why the
//! policy is another.

use std::{
    collections::HashSet,
    sync::{Arc, Weak},
};

use super::{
    Service, ServiceState, View,
    balance::Loads,
    call::queue::Limits,
    inquiries_of,
    members::{Members, is_of_other_instances},
    watches_of,
};
use crate::{
    config::{self, Subset},
    upstream::Tls,
};

/// A service, whatever policy it has by then: for tasks that outlive a policy.
#[derive(Clone, Debug)]
pub struct ServiceRef(Weak<ServiceState>);

impl ServiceRef {
    /// The service with its present policy, if there is one still.
    pub(crate) fn upgrade(&self) -> Option<Arc<Service>> {
        let state = self.0.upgrade()?;
        let latest = state.latest.lock();
        latest.upgrade()
    }
}

/// The views of a policy.
struct PolicyViews {
    /// All endpoints.
    main: Arc<View>,
    /// Those that routes select.
    views: Box<[Arc<View>]>,
    /// Those of all these that the policy before has not.
    new: Vec<Weak<View>>,
}

impl Service {
    /// A reference that outlives this policy.
    pub(crate) fn reference(self: &Arc<Self>) -> ServiceRef {
        let mut latest = self.state.latest.lock();
        if latest.strong_count() == 0 {
            *latest = Arc::downgrade(self);
        }
        ServiceRef(Arc::downgrade(&self.state))
    }

    /// Whether it has this policy, for routes that want these subsets.
    pub(crate) fn is_as(&self, policy: &config::Service, subsets: &[Arc<Subset>]) -> bool {
        *self.policy == *policy
            && self.views.len() == subsets.len()
            && std::iter::zip(&self.views, subsets).all(|(view, subset)| view.is_of(subset))
    }

    /// Whether this policy may lead to other instances.
    pub(crate) fn is_of_other_instances(&self, policy: &config::Service) -> bool {
        is_of_other_instances(&self.policy, policy)
    }

    /// This service with another policy and for routes that want these subsets, whose registries may
    /// be about to be watched anew. What it has goes on. Requests that go by the policy before find
    /// the endpoints of the moment, too.
    pub(crate) fn renewed(
        &self,
        policy: Arc<config::Service>,
        tls: Arc<Tls>,
        subsets: impl IntoIterator<Item = Arc<Subset>>,
        is_watched_anew: bool,
    ) -> Arc<Self> {
        let mut members = self.members();
        let PolicyViews { main, views, new } = self.views_by(&policy, members.views(), subsets);
        let balances = std::iter::once(&main).chain(&views);
        let loads = Loads::of_all(balances.map(|view| view.balance()));
        let mut effects = members.follow_policy(&policy, &tls, (new, loads), is_watched_anew);
        members.carry_out(&mut effects, Members::publish);
        let budgets = self.all_stats().map(|stats| &stats.budget);
        budgets.for_each(|budget| budget.follow(&policy.retry, self.stats.len()));
        let numbers = std::iter::once(&main).chain(&views);
        let numbers = numbers.map(|view| view.number() + 1).max();
        let limits = Limits::after(
            self.limits.as_ref(),
            policy.limits,
            numbers.unwrap_or_default(),
        );
        let is_of_others = self.is_of_other_instances(&policy);
        let renewed = Arc::new(Self {
            name: Arc::clone(&self.name),
            main,
            views,
            stats: Arc::clone(&self.stats),
            tls,
            limits,
            watches: match is_of_others {
                true => watches_of(&self.name, &policy),
                false => Arc::clone(&self.watches),
            },
            inquiries: match is_of_others || is_watched_anew {
                true => inquiries_of(&policy),
                false => Arc::clone(&self.inquiries),
            },
            usage: Arc::clone(&self.usage),
            state: Arc::clone(&self.state),
            policy,
        });
        *self.state.latest.lock() = Arc::downgrade(&renewed);
        drop(members);
        self.state.changes.notify_one();
        if let Some(published) = self.state.published.get() {
            published.send_replace(());
        }
        renewed
    }

    /// The views of another policy. One that picks as one of this policy's does is that one. The
    /// numbers of those that are new are no other view's that is `read` still.
    fn views_by(
        &self,
        policy: &config::Service,
        read: impl Iterator<Item = Arc<View>>,
        subsets: impl IntoIterator<Item = Arc<Subset>>,
    ) -> PolicyViews {
        let mut taken: HashSet<usize> = read.map(|view| view.number()).collect();
        let mut new = Vec::new();
        let mut view = |subset| {
            let number = (0..).find(|number| !taken.contains(number));
            let number = number.unwrap_or_default();
            let view = View::new(&self.name, number, subset, policy, self.stats.len());
            let mut known = self.all_views();
            let same = known.find(|known| self.policy.zone == policy.zone && known.is_like(&view));
            if let Some(same) = same {
                return Arc::clone(same);
            }
            taken.insert(number);
            let view = Arc::new(view);
            new.push(Arc::downgrade(&view));
            view
        };
        let main = view(None);
        let views = subsets.into_iter().map(Some).map(view).collect();
        PolicyViews { main, views, new }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::Instant;

    use super::*;
    use crate::{
        instance::{Instance, InstanceSet},
        registry::watch::Event,
        service::{
            CallPolicy, WeightError,
            members::{MemberEvent, shrink_guard},
            reweigh,
            testing::{following as service, instance, lists, ports, said as policy},
        },
    };

    fn renewed(before: &Service, lines: &str) -> Arc<Service> {
        let (policy, tls, subsets) = policy(lines);
        before.renewed(policy, tls, subsets, false)
    }

    fn says(service: &Service, ports: &[u16]) {
        let tag = |port: u16| ["even", "odd"][usize::from(port % 2)].to_owned();
        let instances = ports.iter().map(|port| Instance {
            tags: vec![tag(*port)],
            ..instance(*port, true)
        });
        lists(service, instances);
    }

    const EVEN: &str = "[[route]]\npath = \"/even\"\ntags = [\"even\"]\nservice = \"cart\"\n";
    const ODD: &str = "[[route]]\npath = \"/odd\"\ntags = [\"odd\"]\nservice = \"cart\"\n";
    const NO_GUARD: &str = "[service.cart]\nguard = false\n";

    #[tokio::test]
    async fn endpoints_counts_and_doubts_go_on_and_both_policies_follow_the_registry() {
        let before = service(NO_GUARD);
        says(&before, &[1, 2]);
        let endpoint = Arc::clone(&before.main().snapshot().endpoints[0]);
        before.stats(0).requests.add_one();
        let now = Instant::now();
        endpoint.health().connect_failed(now, now);
        let after = renewed(
            &before,
            &format!("{NO_GUARD}drain = \"1s\"\npool = {{ connections = 3 }}\n"),
        );
        assert_eq!(after.policy().drain, Duration::from_secs(1));
        assert!(after.is_read() && after.stats(0).requests.value() == 1);
        assert!(Arc::ptr_eq(
            &after.main().snapshot().endpoints[0],
            &endpoint
        ));
        assert!(after.main().snapshot().endpoints[0].health().has_refused());
        assert!(Arc::ptr_eq(&after.main, &before.main), "it picks as before");
        says(&after, &[2, 3]);
        assert_eq!(
            (ports(after.main()), ports(before.main())),
            (vec![2, 3], vec![2, 3])
        );
        assert!(endpoint.pool(0).is_retired());
    }

    #[tokio::test]
    async fn a_weight_goes_on_without_effect_where_no_balance_heeds_it_any_more() {
        const HOUR: Duration = Duration::from_secs(3600);
        let weighted = service(&format!("{NO_GUARD}balance = \"weighted\"\n"));
        says(&weighted, &[1, 2]);
        reweigh(&weighted, "i1", 9, HOUR).unwrap();
        assert!(weighted.other_weights()[0].heeded);
        let plain = renewed(&weighted, NO_GUARD);
        let other = &plain.other_weights()[0];
        assert!(!other.heeded && other.weight == 9);
        let route = "[[route]]\npath = \"/odd\"\nservice = \"cart\"\ntags = [\"odd\"]\n";
        let odd = renewed(
            &plain,
            &format!("{NO_GUARD}{route}balance = \"weighted\"\n"),
        );
        assert!(odd.other_weights()[0].heeded);
        // Of the routes that call the other one none heeds weights.
        let refused = reweigh(&odd, "i2", 9, HOUR).unwrap_err();
        assert_eq!(refused, WeightError::Elsewhere("i2".to_owned()));
        reweigh(&odd, "i1", 8, HOUR).unwrap();
    }

    #[tokio::test]
    async fn a_reference_leads_to_the_latest_policy_and_a_pin_ends_under_it() {
        let before = service(NO_GUARD);
        let reference = before.reference();
        says(&before, &[1, 2]);
        crate::service::pin(&before, None, Duration::from_secs(60)).unwrap();
        let after = renewed(
            &before,
            "[service.cart]\nguard = false\nbalance = \"random\"\n",
        );
        drop(before);
        assert!(Arc::ptr_eq(&reference.upgrade().unwrap(), &after) && after.is_pinned());
        says(&after, &[3]);
        assert_eq!(ports(after.main()), [1, 2]);
        assert!(crate::service::unpin(&after));
        assert_eq!(ports(after.main()), [3]);
        drop(after);
        assert!(reference.upgrade().is_none());
    }

    #[tokio::test]
    async fn views_are_the_same_where_they_pick_alike_and_requests_under_way_have_theirs() {
        let before = service(&format!("{NO_GUARD}{EVEN}"));
        says(&before, &[1, 2, 3, 4]);
        let after = renewed(&before, &format!("{NO_GUARD}{ODD}{EVEN}"));
        assert!(Arc::ptr_eq(&after.views[1], &before.views[0]));
        assert_eq!(
            (ports(&after.views[0]), ports(&after.views[1])),
            (vec![1, 3], vec![2, 4])
        );
        let last = renewed(&after, &format!("{NO_GUARD}{ODD}"));
        let numbers: Vec<_> = last.all_views().map(|view| view.number()).collect();
        assert_eq!(numbers, [0, 2]);
        says(&last, &[2, 5]);
        assert_eq!(
            (ports(&last.views[0]), ports(&before.views[0])),
            (vec![5], vec![2])
        );
        drop((before, after));
        // The number of the view that is read no more is free again.
        let other = renewed(&last, &format!("{NO_GUARD}{EVEN}{ODD}"));
        let numbers: Vec<_> = other.all_views().map(|view| view.number()).collect();
        assert_eq!(numbers, [0, 1, 2]);
        assert_eq!(ports(&other.views[0]), [2]);
        // A request by a subset of another generation finds none, and panics nowhere.
        let (.., subsets) = policy(EVEN);
        let by = CallPolicy::of(&other, subsets.first(), None);
        assert!(by.is_none());
    }

    #[tokio::test]
    async fn another_origin_takes_over_once_it_has_said_who_is_there() {
        let before = service("[service.cart]\n");
        says(&before, &[1, 2, 3, 4]);
        let other = "[service.cart]\nregistry = \"b\"\n";
        let after = renewed(&before, other);
        assert_eq!(
            ports(after.main()),
            [1, 2, 3, 4],
            "nothing is known of it yet"
        );
        shrink_guard::apply(&after, MemberEvent::Registry(0, Event::Failed));
        assert_eq!(ports(after.main()), [1, 2, 3, 4]);
        // An answer that a watcher of two registries brings late changes nothing.
        shrink_guard::apply(&after, MemberEvent::Registry(1, Event::Failed));
        says(&after, &[7]);
        assert_eq!(
            ports(after.main()),
            [7],
            "the guard doubts no set of another registry"
        );
    }

    #[tokio::test]
    async fn a_pin_that_ends_before_another_origin_has_answered_leaves_the_endpoints() {
        let before = service(NO_GUARD);
        says(&before, &[1, 2]);
        let pinned = |service: &Arc<Service>| {
            crate::service::pin(service, None, Duration::from_secs(60)).unwrap();
        };
        pinned(&before);
        let after = renewed(&before, "[service.cart]\nguard = false\nregistry = \"b\"\n");
        assert!(crate::service::unpin(&after));
        assert_eq!(ports(after.main()), [1, 2]);
        says(&after, &[3]);
        assert_eq!(ports(after.main()), [3]);
        pinned(&after);
        let fixed = "[service.cart]\nendpoints = [\"10.0.0.1:7\"]\n";
        let after = renewed(&after, fixed);
        let (policy, ..) = policy(fixed);
        let config::Origin::Inline(instances) = &policy.origin else {
            panic!("it stands in the file");
        };
        shrink_guard::apply(&after, MemberEvent::Fixed(instances.clone()));
        assert_eq!(ports(after.main()), [3]);
        assert!(crate::service::unpin(&after));
        assert_eq!(ports(after.main()), [7]);
    }

    #[tokio::test]
    async fn the_late_word_of_a_watcher_of_before_is_not_taken_for_the_new_ones() {
        let before = service(NO_GUARD);
        says(&before, &[1, 2]);
        let hear = |service: &Arc<Service>, round, port| {
            let set = InstanceSet::of([Ok(instance(port, true))]);
            let event = MemberEvent::Registry(0, Event::State(set.into()));
            shrink_guard::hear(service, round, event);
            ports(service.main())
        };
        let old = before.members().watch_round();
        let (policy, tls, subsets) = policy(NO_GUARD);
        let after = before.renewed(policy, tls, subsets, true);
        assert_eq!(hear(&after, old, 3), [1, 2]);
        let new = after.members().watch_round();
        assert_eq!(hear(&after, new, 4), [4]);
        // Another policy alone ends no watcher.
        let last = renewed(&after, &format!("{NO_GUARD}drain = \"1s\"\n"));
        assert_eq!(hear(&last, new, 5), [5]);
        let other = renewed(&last, "[service.cart]\nguard = false\nregistry = \"b\"\n");
        assert_eq!(hear(&other, new, 6), [5]);
    }

    #[tokio::test]
    async fn endpoints_go_on_with_what_they_have_where_a_balancer_compares_them_from_then_on() {
        let before = service(NO_GUARD);
        says(&before, &[1, 2]);
        let endpoint = Arc::clone(&before.main().snapshot().endpoints[0]);
        let now = Instant::now();
        endpoint.health().connect_failed(now, now);
        let under_way = endpoint.pool(0).enter();
        let p2c = "[[route]]\npath = \"/v2\"\nservice = \"cart\"\nbalance = \"p2c\"\n";
        let ewma =
            "[service.cart]\nguard = false\nbalance = { kind = \"peak_ewma\", decay = \"3s\" }\n";
        for lines in [
            format!("{NO_GUARD}{p2c}"),
            ewma.to_owned(),
            ewma.replace("3s", "7s"),
            NO_GUARD.to_owned(),
        ] {
            let after = renewed(&before, &lines);
            let same = Arc::clone(&after.main().snapshot().endpoints[0]);
            assert!(Arc::ptr_eq(&same, &endpoint), "{lines}");
            assert!(!endpoint.pool(0).is_retired() && endpoint.health().has_refused());
            // One that was never called has it from its first call on.
            for endpoint in &after.main().snapshot().endpoints {
                let load = endpoint.load().unwrap();
                let counted = endpoint.pool(0).enter();
                assert_eq!(load.in_flight(), 1);
                drop(counted);
                assert_eq!(load.in_flight(), 0);
            }
        }
        let load = endpoint.load().unwrap();
        drop(under_way);
        assert_eq!((load.in_flight(), endpoint.in_flight()), (0, 0));
    }
}
