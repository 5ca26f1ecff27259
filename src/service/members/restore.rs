//! What a service remembers over a restart: the last good sets of its registries, which it gives to
//! be kept, and takes at the start until the registries say something themselves. Knows nothing of
//! where they are kept.

use std::{
    collections::HashSet,
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::time::Instant;

use super::{MemberEvent, WatchRound, standing::HoldReason};
use crate::{
    evidence::Evidence,
    instance::{Instance, InstanceSet},
    registry::watch::{Event, WatchStatus},
    saved,
    service::Service,
};

/// What a registry, by its place in the list, said before the start, if that is still worth something.
///
/// A set without a healthy instance is worth nothing: a request waits for the registry rather
/// than being told that there is no endpoint. Nor is a set of another name, or one that is too
/// old for the registry's `max_staleness`.
pub(crate) fn remembered(
    service: &Service,
    from: usize,
    set: &saved::Set,
    max_staleness: Option<Duration>,
) -> Option<MemberEvent> {
    let is_stale = left(set.confirmed, max_staleness).is_some_and(|left| left.is_zero());
    let has_healthy = set.instances.iter().any(|instance| instance.healthy);
    if is_stale || !has_healthy || set.name != service.registered_name() {
        return None;
    }
    let instances = InstanceSet {
        evidence: set.evidence.clone(),
        ..InstanceSet::of(set.instances.iter().cloned().map(Ok))
    };
    Some(MemberEvent::Remembered(from, instances, set.confirmed))
}

/// In which round the service is watched now, and whether the set of that registry is the word of a
/// watcher of an earlier round.
pub(crate) fn watched_again(service: &Service, of: usize) -> (WatchRound, bool) {
    let members = service.members();
    (members.watch_round(), members.combiner().has_answered(of))
}

/// How much longer a remembered set counts, where there is one and a limit.
pub(crate) fn counts_for(
    service: &Service,
    of: usize,
    limit: Option<Duration>,
) -> Option<Duration> {
    let confirmed = service.members().combiner().remembered(of)?;
    left(confirmed, limit)
}

fn left(confirmed: SystemTime, limit: Option<Duration>) -> Option<Duration> {
    let age = SystemTime::now().duration_since(confirmed);
    Some(limit?.saturating_sub(age.unwrap_or_default()))
}

/// Why a registry refuses to say anything, where only what it said before the start is known.
pub(crate) fn refusal(service: &Service) -> Option<String> {
    unheard(service).find_map(|watch| watch.refusal())
}

/// Whether a registry of which only that is known has neither answered nor failed.
pub(crate) fn is_unconfirmed(service: &Service) -> bool {
    unheard(service).any(|watch| watch.is_awaited())
}

/// The watchers of registries of which only that is known.
fn unheard(service: &Service) -> impl Iterator<Item = &WatchStatus> {
    let members = service.members();
    let watches = service.watches().iter().enumerate();
    watches
        .filter(move |(of, _)| members.combiner().remembered(*of).is_some())
        .map(|(_, watch)| &**watch)
}

/// Gives up a remembered set, unless its registry has said something since.
pub(crate) fn give_up(service: &Service, of: usize) {
    let members = service.members();
    if members.combiner().remembered(of).is_some() {
        service.watches()[of].gave_up();
        let is_held = service.apply_to(members, MemberEvent::Registry(of, Event::Stale));
        debug_assert!(!is_held, "what is given up is not doubted");
    }
}

/// What is worth keeping of a service: the last good set of each of these registries.
pub(crate) fn to_save(service: &Service, keeps: impl Fn(&str) -> bool) -> Vec<saved::Set> {
    let members = service.members();
    let (combiner, endpoints) = (members.combiner(), members.endpoints());
    // What is held, or pinned, is part of the last good set, although the registry says otherwise.
    let held = endpoints.healthy_instances(members.is_pinned());
    let lost = endpoints.held().into_iter();
    let lost = lost.filter(|(_, held)| matches!(held.reason, HoldReason::Loss(_)));
    let lost: HashSet<_> = lost.map(|(_, held)| held.by).collect();
    // What is kept with those that a loss of data took away is the history that knew them.
    let evidence = |of: usize, now: &Evidence| {
        let before = combiner.before_loss(of).filter(|_| lost.contains(&of));
        before.unwrap_or(now).clone()
    };
    let registries = service.policy().origin.registries();
    let registries = registries.iter().enumerate();
    registries
        .filter(|(_, registry)| keeps(registry))
        .filter_map(|(of, registry)| {
            let set = combiner.set(of)?;
            let held: &[_] = if of == combiner.serving() { &held } else { &[] };
            Some(saved::Set {
                service: Arc::clone(service.name()),
                name: service.registered_name().to_owned(),
                registry: Arc::clone(registry),
                confirmed: combiner
                    .remembered(of)
                    .unwrap_or_else(|| answered(service.watches()[of].answered())),
                instances: with_held(&set.instances, held),
                evidence: evidence(of, &set.evidence),
            })
        })
        .collect()
}

/// A moment of the other clock; now, where a first answer is being taken over.
pub(crate) fn answered(at: Option<Instant>) -> SystemTime {
    let age = at.map_or(Duration::ZERO, |at| at.elapsed());
    let now = SystemTime::now();
    now.checked_sub(age).unwrap_or(now)
}

fn with_held(set: &[Arc<Instance>], held: &[Arc<Instance>]) -> Vec<Arc<Instance>> {
    let ids: HashSet<_> = held.iter().map(|one| one.identity()).collect();
    let others = set.iter().filter(|one| !ids.contains(&one.identity()));
    let all = others.chain(held).cloned();
    InstanceSet::of(all.map(Ok)).instances
}
