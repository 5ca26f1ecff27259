//! What sets make of endpoints.

use std::time::Duration;

use super::*;
use crate::{
    service::{members::maintenance::testing::maintenance, testing::instance},
    upstream::Tls,
};

fn policy(guard: Option<config::Guard>) -> config::Service {
    let text = "[[route]]\nservice = \"cart\"\n";
    let config = config::Config::parse(text, std::path::Path::new(".")).unwrap();
    config::Service {
        guard,
        ..config.defaults
    }
}

fn guard() -> Option<config::Guard> {
    Some(config::Guard {
        share: 0.5,
        hold: Duration::from_secs(60),
        settle: Duration::from_secs(5),
    })
}

fn empty(guard: Option<config::Guard>) -> EndpointSet {
    let tls = Tls::open(&config::EndpointTls::default()).unwrap();
    let common = Common::new(Arc::new(policy(guard)), Arc::new(tls), 1);
    EndpointSet::new(Arc::new(common), Loads::default())
}

/// A set that may be doubted, without evidence of anything; or one of our own choice.
fn take(members: &mut EndpointSet, set: &[Instance], doubtable: bool) -> bool {
    let ours = Update::ours(set.iter().cloned().map(Arc::new).collect());
    let update = match doubtable {
        true => Update {
            order: Order::Unknown,
            ..ours
        },
        false => ours,
    };
    members.take_over(&update, false)
}

/// Healthy ones that the guard holds where many of them are lost.
fn guarded(numbers: std::ops::Range<u16>) -> EndpointSet {
    let mut members = empty(guard());
    take(&mut members, &healthy(numbers), true);
    members
}

/// As after a publication.
fn retire(members: &mut EndpointSet) {
    for (endpoint, cut_at) in members.take_leaving() {
        endpoint.retire(cut_at);
    }
}

fn snapshot(members: &EndpointSet) -> Snapshot {
    members.snapshot(&Balance::RoundRobin, members.picking(|_| true), |_| true)
}

fn healthy(numbers: std::ops::Range<u16>) -> Vec<Instance> {
    numbers.map(|number| instance(number, true)).collect()
}

fn states(members: &mut EndpointSet) -> Vec<EndpointState> {
    members.forget_the_gone();
    members.states(&[]).map(|(_, state)| state).collect()
}

#[tokio::test]
async fn an_endpoint_that_stays_is_the_same_one_whatever_else_changes() {
    let mut members = guarded(1..4);
    let before = snapshot(&members);
    let mut heavier = healthy(1..5);
    heavier[0].weight = 7;
    take(&mut members, &heavier, true);
    let after = snapshot(&members);
    assert_eq!((before.endpoints.len(), after.endpoints.len()), (3, 4));
    assert!(std::iter::zip(&*before.endpoints, &*after.endpoints).all(|(a, b)| Arc::ptr_eq(a, b)));
}

#[tokio::test]
async fn few_that_leave_are_removed_at_once() {
    let mut members = guarded(1..5);
    let leaves = Arc::clone(&snapshot(&members).endpoints[0]);
    assert!(!take(&mut members, &healthy(2..5), true));
    assert_eq!(snapshot(&members).endpoints.len(), 3);
    assert!(!leaves.pool(0).is_retired(), "it may still be picked");
    retire(&mut members);
    assert!(leaves.pool(0).is_retired());
}

#[tokio::test]
async fn many_that_leave_at_once_are_held() {
    for left in [Vec::new(), healthy(4..5), healthy(11..15)] {
        let mut members = guarded(1..5);
        assert!(take(&mut members, &left, true), "{} left", left.len());
        let pickable = snapshot(&members).endpoints;
        assert!(pickable.len() >= 4);
        assert!(pickable.iter().all(|held| !held.pool(0).is_retired()));
    }
}

#[tokio::test]
async fn without_the_guard_all_that_leave_are_removed() {
    let mut members = empty(None);
    take(&mut members, &healthy(1..5), true);
    assert!(!take(&mut members, &[], true));
    assert!(snapshot(&members).endpoints.is_empty());
}

#[tokio::test]
async fn what_is_given_up_is_not_held() {
    let mut members = guarded(1..5);
    take(&mut members, &healthy(4..5), true);
    assert_eq!(members.held().len(), 3);
    take(&mut members, &[], false);
    assert!(snapshot(&members).endpoints.is_empty() && members.held().is_empty());
    take(&mut members, &healthy(1..5), true);
    assert_eq!(snapshot(&members).endpoints.len(), 4);
}

#[tokio::test]
async fn who_is_listed_again_serves_again_as_the_same_one() {
    let mut members = guarded(1..4);
    let before = snapshot(&members);
    take(&mut members, &[], true);
    assert_eq!(states(&mut members), [EndpointState::Held; 3]);
    take(&mut members, &healthy(1..4), true);
    assert_eq!(states(&mut members), [EndpointState::Serving; 3]);
    assert!(Arc::ptr_eq(
        &before.endpoints[0],
        &snapshot(&members).endpoints[0]
    ));
}

fn unhealthy(numbers: std::ops::Range<u16>) -> Vec<Instance> {
    numbers.map(|number| instance(number, false)).collect()
}

#[tokio::test]
async fn who_signs_in_again_stays_held_until_its_check_has_passed() {
    let mut members = guarded(1..4);
    let before = snapshot(&members);
    take(&mut members, &[], true);
    let until = |members: &EndpointSet| -> Vec<_> {
        let held = members.held().into_iter();
        held.map(|(id, held)| (id, held.until)).collect()
    };
    let held = until(&members);
    for signed_in in 2..5 {
        take(&mut members, &unhealthy(1..signed_in), true);
        assert_eq!(states(&mut members), [EndpointState::Held; 3]);
        assert_eq!(until(&members), held, "for no longer than before");
    }
    let mut set = unhealthy(1..4);
    set[1].healthy = true;
    take(&mut members, &set, true);
    let (held, serving) = (EndpointState::Held, EndpointState::Serving);
    assert_eq!(states(&mut members), [held, serving, held]);
    assert!(Arc::ptr_eq(
        &before.endpoints[1],
        &snapshot(&members).endpoints[1]
    ));
    // Its check has passed, and is believed from then on.
    take(&mut members, &unhealthy(1..4), true);
    assert_eq!(states(&mut members), [held, EndpointState::Unhealthy, held]);
}

#[tokio::test]
async fn who_is_let_go_rests_if_it_has_signed_in_again_and_is_removed_if_not() {
    for doubtable in [true, false] {
        let mut members = guarded(1..4);
        take(&mut members, &[], true);
        take(&mut members, &unhealthy(1..4), true);
        // One that has signed out again is not listed any more.
        take(&mut members, &unhealthy(1..3), doubtable);
        for (id, held) in members.held() {
            assert!(doubtable, "not held any more");
            members.settle(&id, held, None);
        }
        let snapshot = snapshot(&members);
        assert_eq!((snapshot.endpoints.len(), snapshot.resting.len()), (0, 2));
        assert_eq!(states(&mut members), [EndpointState::Unhealthy; 2]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_removed_endpoint_is_shown_for_as_long_as_it_works_on_something() {
    let mut members = empty(None);
    take(&mut members, &healthy(1..3), true);
    let works = snapshot(&members).endpoints[0].pool(0).enter();
    take(&mut members, &[], true);
    assert_eq!(states(&mut members), [EndpointState::Draining]);
    tokio::time::advance(policy(None).drain * 2).await;
    assert_eq!(states(&mut members), [EndpointState::Draining]);
    drop(works);
    assert_eq!(states(&mut members), []);
}

#[tokio::test]
async fn whose_checks_fail_is_neither_picked_nor_held() {
    let mut members = guarded(1..3);
    let failing = [instance(1, false), instance(2, false)];
    assert!(!take(&mut members, &failing, true));
    let snapshot = snapshot(&members);
    assert_eq!((snapshot.endpoints.len(), snapshot.resting.len()), (0, 2));
    assert_eq!(states(&mut members), [EndpointState::Unhealthy; 2]);
}

#[tokio::test]
async fn who_was_removed_and_comes_back_is_the_same_while_it_works_on_something() {
    let mut members = guarded(1..5);
    let first = |members: &EndpointSet| Arc::clone(&snapshot(members).endpoints[0]);
    for works in [true, false] {
        let before = first(&members);
        let work = works.then(|| before.pool(0).enter());
        take(&mut members, &healthy(2..5), true);
        retire(&mut members);
        assert!(before.pool(0).is_retired());
        take(&mut members, &healthy(1..5), true);
        retire(&mut members);
        let again = first(&members);
        assert_eq!(Arc::ptr_eq(&before, &again), works);
        assert!(before.id() == again.id() && !again.pool(0).is_retired());
        drop(work);
    }
}

#[tokio::test]
async fn who_has_another_id_at_its_address_is_neither_held_nor_lost() {
    let mut members = guarded(1..5);
    let mut renamed = healthy(1..5);
    for instance in &mut renamed {
        instance.id = format!("new {}", instance.id).into();
    }
    assert!(!take(&mut members, &renamed, true));
    let all = snapshot(&members).endpoints;
    assert!(all.iter().all(|one| one.id().instance.starts_with("new")));
    assert_eq!(all.len(), 4);
    // The endpoints that are held until then are let go.
    assert!(take(&mut members, &healthy(5..6), true));
    assert_eq!(members.held().len(), 4);
    take(&mut members, &healthy(1..6), true);
    assert_eq!(members.held().len(), 0);
}

#[tokio::test]
async fn who_has_another_id_at_its_address_is_held_until_the_check_of_that_one_has_passed() {
    let mut members = guarded(1..5);
    let mut renamed = unhealthy(1..5);
    for instance in &mut renamed {
        instance.id = format!("new {}", instance.id).into();
    }
    assert!(take(&mut members, &renamed, true));
    assert_eq!(snapshot(&members).endpoints.len(), 4);
    for passed in 0..4 {
        renamed[passed].healthy = true;
        take(&mut members, &renamed, true);
        assert_eq!(members.held().len(), 3 - passed);
        let addresses = snapshot(&members).endpoints;
        let addresses = addresses.iter().map(|one| one.id().address.clone());
        assert_eq!(addresses.collect::<HashSet<_>>().len(), 4, "each is called");
        assert_eq!(snapshot(&members).endpoints.len(), 4, "once");
    }
}

#[tokio::test]
async fn who_has_moved_to_another_address_is_not_lost_once_it_serves_there() {
    let moved = |set: Vec<Instance>| -> Vec<_> {
        let moved = set.into_iter().map(|instance| Instance {
            address: Address::new("10.0.0.2", instance.address.port().into()).unwrap(),
            ..instance
        });
        moved.collect()
    };
    let after = |before: &[Instance], set: &[Instance]| {
        let mut members = empty(guard());
        take(&mut members, before, true);
        let doubted = take(&mut members, set, true);
        (
            doubted,
            members.held().len(),
            snapshot(&members).endpoints.len(),
        )
    };
    let before = healthy(1..5);
    assert_eq!(after(&before, &moved(healthy(1..5))), (false, 0, 4));
    // A new check fails until it has run.
    assert_eq!(after(&before, &moved(unhealthy(1..5))), (true, 4, 4));
    // Of several that have an id one has moved at the most, and where is not said.
    let named = |set: Vec<Instance>| -> Vec<_> {
        let named = set.into_iter().map(|instance| Instance {
            id: "web".into(),
            ..instance
        });
        named.collect()
    };
    let one = moved(healthy(1..2));
    assert!(after(&named(healthy(1..5)), &named(one)).0);
    // Several that come at one address are no evidence of a way there.
    let together = |set: Vec<Instance>| -> Vec<_> {
        let together = set.into_iter().map(|instance| Instance {
            address: Address::new("10.0.0.2", 8080).unwrap(),
            ..instance
        });
        together.collect()
    };
    assert!(after(&before, &together(healthy(1..5))).0);
    // What has been at the other address for long has not moved there.
    let both = [before, moved(healthy(1..5))].concat();
    assert_eq!(after(&both, &moved(healthy(1..3))), (true, 6, 8));
}

#[tokio::test]
async fn who_changes_to_tls_or_back_is_a_new_one_and_the_guard_holds_nobody() {
    let mut members = empty(guard());
    let mut set = healthy(1..5);
    for tls in [false, true, false] {
        let before = snapshot(&members).endpoints;
        for instance in &mut set {
            instance.tls = tls;
        }
        assert!(!take(&mut members, &set, true));
        retire(&mut members);
        let after = snapshot(&members).endpoints;
        assert_eq!(states(&mut members), [EndpointState::Serving; 4]);
        assert!(std::iter::zip(&*before, &*after).all(|(a, b)| !Arc::ptr_eq(a, b)));
        assert!(before.iter().all(|gone| gone.pool(0).is_retired()));
        assert!(after.iter().all(|there| !there.pool(0).is_retired()));
    }
}

#[tokio::test]
async fn one_that_is_drained_is_picked_only_where_no_other_can_be_and_it_is_not_forced() {
    let ports = |members: &EndpointSet| -> Vec<_> {
        let endpoints = snapshot(members).endpoints;
        endpoints
            .iter()
            .map(|one| one.id().address.port())
            .collect()
    };
    let drain = |members: &mut EndpointSet, forced| {
        let address = instance(1, true).address;
        members.drain(address, maintenance(forced));
    };
    let mut members = empty(None);
    take(&mut members, &healthy(1..4), true);
    drain(&mut members, false);
    assert_eq!(ports(&members), [2, 3]);
    assert_eq!(snapshot(&members).resting.len(), 1);
    let (serving, maintained) = (EndpointState::Serving, EndpointState::Maintenance);
    let ill = EndpointState::Unhealthy;
    assert_eq!(states(&mut members), [maintained, serving, serving]);
    // Gone, and back; others are ill, and gone.
    take(&mut members, &healthy(2..4), true);
    take(&mut members, &healthy(1..4), true);
    assert_eq!(ports(&members), [2, 3]);
    take(
        &mut members,
        &[healthy(1..2), unhealthy(2..4)].concat(),
        true,
    );
    assert_eq!(ports(&members), [1], "there is no other");
    assert!(!members.drain_statuses(&[])[0].holds);
    assert_eq!(states(&mut members), [serving, ill, ill], "and is shown so");
    drain(&mut members, true);
    assert!(ports(&members).is_empty());
    assert!(members.drain_statuses(&[])[0].holds);
    take(&mut members, &healthy(1..3), true);
    assert_eq!(ports(&members), [2]);
    assert!(members.undrain(&instance(1, true).address));
    assert!(!members.undrain(&instance(1, true).address));
    assert_eq!(ports(&members), [1, 2]);
}

#[tokio::test]
async fn one_whose_drain_ends_warms_up_as_one_that_is_new() {
    let tls = Tls::open(&config::EndpointTls::default()).unwrap();
    let mut policy = policy(None);
    policy.slow_start = Some(Duration::from_secs(30));
    let common = Common::new(Arc::new(policy), Arc::new(tls), 1);
    let mut members = EndpointSet::new(Arc::new(common), Loads::default());
    take(&mut members, &healthy(1..3), true);
    let warmth = |members: &EndpointSet| {
        let first = &snapshot(members).endpoints[0];
        first.health().warmth(tokio::time::Instant::now())
    };
    assert_eq!(warmth(&members), None);
    let address = instance(1, true).address;
    members.drain(address.clone(), maintenance(false));
    assert!(members.undrain(&address));
    assert!(warmth(&members).is_some());
}

#[tokio::test]
async fn a_panic_neither_counts_nor_calls_one_that_is_drained() {
    let mut members = empty(None);
    take(&mut members, &healthy(1..4), true);
    let check = |members: &mut EndpointSet, of: std::ops::Range<usize>| {
        let all: Vec<_> = members.members.iter().collect();
        let all: Vec<_> = all[of]
            .iter()
            .map(|one| Arc::clone(&one.endpoint))
            .collect();
        for endpoint in all {
            let (passing, error) = (false, None);
            members.check(&endpoint, Checkup { passing, error });
        }
    };
    // Two of three fail, and are fewer than half without the one that is drained.
    check(&mut members, 0..2);
    assert!(members.panics());
    members.drain(instance(1, true).address, maintenance(false));
    assert!(!members.panics());
    check(&mut members, 2..3);
    assert!(members.panics());
    assert_eq!(snapshot(&members).endpoints.len(), 2);
}

#[tokio::test]
async fn the_last_that_passes_its_checks_is_not_drained_for_those_that_fail_them() {
    let ports = |members: &EndpointSet| -> Vec<_> {
        let endpoints = snapshot(members).endpoints;
        let endpoints = endpoints.iter();
        endpoints.map(|one| one.id().address.port()).collect()
    };
    let at = |port| instance(port, true).address;
    let mut members = empty(None);
    take(&mut members, &healthy(1..3), true);
    members.drain(at(1), maintenance(false));
    assert_eq!(ports(&members), [2]);
    check_one(&mut members, 1, false);
    assert!(!members.panics(), "half of those that are called pass");
    assert_eq!(ports(&members), [1]);
    assert!(!members.drain_statuses(&[])[0].holds);
    let (serving, failing) = (EndpointState::Serving, EndpointState::Failing);
    assert_eq!(states(&mut members), [serving, failing]);
    // One that fails as the others do can be done without.
    check_one(&mut members, 0, false);
    assert!(members.panics());
    assert_eq!(ports(&members), [2]);
    assert!(members.drain_statuses(&[])[0].holds);
    check_one(&mut members, 0, true);
    members.drain(at(1), maintenance(true));
    assert_eq!(ports(&members), [2], "a panic calls what is left");
    // Of three in a panic the only one that passes is not taken.
    assert!(members.undrain(&at(1)));
    take(&mut members, &healthy(1..4), true);
    check_one(&mut members, 2, false);
    assert!(members.panics());
    assert!(members.is_last(&at(1), |_| true));
    assert!(!members.is_last(&at(2), |_| true));
}

fn check_one(members: &mut EndpointSet, place: usize, passing: bool) {
    let endpoint = members.members.iter().nth(place);
    let endpoint = Arc::clone(&endpoint.unwrap().endpoint);
    let error = None;
    members.check(&endpoint, Checkup { passing, error });
}

#[tokio::test]
async fn the_last_that_can_be_picked_is_known() {
    let mut members = empty(None);
    take(
        &mut members,
        &[healthy(1..3), unhealthy(3..4)].concat(),
        true,
    );
    let at = |port| instance(port, true).address;
    assert!(!members.is_last(&at(1), |_| true));
    assert!(members.is_last(&at(1), |one| one.address.port() != 2));
    assert!(!members.is_last(&at(3), |_| true), "it is not picked");
    // One that takes no connection now could not stand in.
    let second = members.members.iter().nth(1).unwrap();
    let second = Arc::clone(&second.endpoint);
    let now = Instant::now();
    assert!(second.health().connect_failed(now, now));
    assert!(members.is_last(&at(1), |_| true));
    assert!(!members.is_last(&at(2), |_| true), "the other one can");
    second.health().recovered();
    assert!(!members.is_last(&at(1), |_| true));
    members.drain(at(2), maintenance(true));
    assert!(members.is_last(&at(1), |_| true));
    assert!(!members.is_last(&at(2), |_| true), "it is not picked");
    assert_eq!(members.address_of("10.0.0.1:1"), Some(at(1)));
    assert_eq!(members.address_of("none"), None);
}

fn checked(members: &mut EndpointSet, passing: bool) {
    let all: Vec<_> = members.members.iter().collect();
    let endpoints: Vec<_> = all.iter().map(|one| Arc::clone(&one.endpoint)).collect();
    for endpoint in endpoints {
        let error = None;
        members.check(&endpoint, Checkup { passing, error });
    }
}

#[tokio::test]
async fn in_a_panic_all_are_picked_but_those_that_are_ill_or_gone() {
    let ports = |members: &EndpointSet| -> Vec<_> {
        let endpoints = snapshot(members);
        let endpoints = endpoints.endpoints.iter();
        endpoints.map(|one| one.id().address.port()).collect()
    };
    let mut members = guarded(1..8);
    let leaves = Arc::clone(&members.members.iter().next().unwrap().endpoint);
    let _works = leaves.pool(0).enter();
    // The first has left, and works on something; the second is ill; five are lost, and held.
    take(&mut members, &healthy(2..8), true);
    take(&mut members, &unhealthy(2..3), true);
    checked(&mut members, true);
    assert!(!members.panics());
    assert_eq!(ports(&members), [3, 4, 5, 6, 7], "held, and no others");
    checked(&mut members, false);
    assert!(members.panics());
    assert_eq!(ports(&members), [3, 4, 5, 6, 7], "be they held");
    // A pin's set is what it was, with whom our own checks find fault.
    take(&mut members, &healthy(3..5), false);
    assert_eq!(ports(&members), [3, 4]);
    checked(&mut members, true);
    assert_eq!(ports(&members), [3, 4]);
}
