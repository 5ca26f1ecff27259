//! What a service remembers over a restart: the last good sets of its registries, which it gives to
//! be kept, and takes at the start until the registries say something themselves. Knows nothing of
//! where they are kept.

use std::{
    collections::HashSet,
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::time::Instant;

use super::history::Why;
use crate::{
    evidence::Evidence,
    instance::{Instance, InstanceSet},
    registry::watch::Event,
    saved,
    service::Service,
};

impl Service {
    /// Takes over what a registry, by its place in the list, said before the start.
    ///
    /// A set without a healthy instance is worth nothing: a request waits for the registry rather
    /// than being told that there is no endpoint. Nor is a set of another name, or one that is too
    /// old for the registry's `max_staleness`.
    pub(crate) fn remember(&self, from: usize, set: &saved::Set, max_staleness: Option<Duration>) {
        let age = SystemTime::now().duration_since(set.confirmed);
        let is_stale = max_staleness.is_some_and(|limit| age.unwrap_or_default() >= limit);
        let has_healthy = set.instances.iter().any(|instance| instance.healthy);
        if is_stale || !has_healthy || set.name != self.registered_name() {
            return;
        }
        let instances = InstanceSet {
            evidence: set.evidence.clone(),
            ..InstanceSet::of(set.instances.iter().cloned().map(Ok))
        };
        let mut listing = self.listing();
        let update = listing.remember(from, instances, set.confirmed, self.policy());
        if let Some(update) = update {
            let registry = Arc::clone(&set.registry);
            self.update(&update, Why::Snapshot { registry });
        }
    }

    /// How much longer a remembered set counts, where there is one and a limit.
    pub(crate) fn remembers_for(&self, of: usize, limit: Option<Duration>) -> Option<Duration> {
        let confirmed = self.listing().remembered(of)?;
        let age = SystemTime::now().duration_since(confirmed);
        Some(limit?.saturating_sub(age.unwrap_or_default()))
    }

    /// Why a registry refuses to say anything, where only what it said before the start is known.
    pub(crate) fn refusal(&self) -> Option<String> {
        let listing = self.listing();
        let watches = self.watches().iter().enumerate();
        let mut remembered = watches.filter(|(of, _)| listing.remembered(*of).is_some());
        remembered.find_map(|(_, watch)| watch.refusal())
    }

    /// Whether a registry of which only that is known has neither answered nor failed.
    pub(crate) fn is_unconfirmed(&self) -> bool {
        let listing = self.listing();
        let mut watches = self.watches().iter().enumerate();
        watches.any(|(of, watch)| listing.remembered(of).is_some() && watch.is_awaited())
    }

    /// Gives up a remembered set, unless its registry has said something since.
    pub(crate) fn forget_remembered(&self, of: usize) {
        let mut listing = self.listing();
        if listing.remembered(of).is_none() {
            return;
        }
        self.watches()[of].gave_up();
        if let Some(update) = listing.hear(of, Event::Stale, self.policy()) {
            let registry = Arc::clone(&self.policy().origin.registries()[of]);
            self.update(&update, Why::Away { registry });
        }
    }

    /// What is worth keeping of it: the last good set of each of these registries.
    pub(crate) fn to_save(&self, keeps: impl Fn(&str) -> bool) -> Vec<saved::Set> {
        let listing = self.listing();
        // What is held, or pinned, is part of the last good set, although the registry says
        // otherwise.
        let board = self.board();
        let held = board.healthy_instances(self.journal().pin.is_some());
        let lost: HashSet<_> = board.held_for_a_loss().collect();
        drop(board);
        // What is kept with those that a loss of data took away is the history that knew them.
        let evidence = |of: usize, now: &Evidence| {
            let before = listing.before_loss(of).filter(|_| lost.contains(&of));
            before.unwrap_or(now).clone()
        };
        let registries = self.policy().origin.registries();
        let registries = registries.iter().enumerate();
        registries
            .filter(|(_, registry)| keeps(registry))
            .filter_map(|(of, registry)| {
                let set = listing.set(of)?;
                let held: &[_] = if of == listing.serving() { &held } else { &[] };
                Some(saved::Set {
                    service: Arc::clone(self.name()),
                    name: self.registered_name().to_owned(),
                    registry: Arc::clone(registry),
                    confirmed: listing
                        .remembered(of)
                        .unwrap_or_else(|| answered(self.watches()[of].answered())),
                    instances: with_held(&set.instances, held),
                    evidence: evidence(of, &set.evidence),
                })
            })
            .collect()
    }
}

/// A moment of the other clock; now, where a first answer is being taken over.
pub(crate) fn answered(at: Option<Instant>) -> SystemTime {
    let age = at.map_or(Duration::ZERO, |at| at.elapsed());
    let now = SystemTime::now();
    now.checked_sub(age).unwrap_or(now)
}

fn with_held(set: &[Arc<Instance>], held: &[Arc<Instance>]) -> Vec<Arc<Instance>> {
    let same = |a: &Instance, b: &Instance| (&a.id, &a.address) == (&b.id, &b.address);
    let is_held = |instance: &Instance| held.iter().any(|held| same(held, instance));
    let others = set.iter().filter(|instance| !is_held(instance));
    let all = others.chain(held).cloned();
    InstanceSet::of(all.map(Ok)).instances
}
