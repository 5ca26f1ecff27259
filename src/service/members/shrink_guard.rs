//! The shrink guard's questions. A registry that restarts without its data answers an empty list
//! with status 200; before endpoints are dropped that must not be, they are asked whether they are
//! there, and their registry whether it means it. What follows from the answers is in `members`.

use std::{
    collections::{HashMap, HashSet},
    io,
    sync::Arc,
    time::Duration,
};

use futures_util::{
    StreamExt as _,
    future::{join, join_all},
    stream,
};
use parking_lot::MutexGuard;
use tokio::time::{Instant, timeout};

use super::{
    MemberEvent, Members, WatchRound,
    inquiry::SecondAnswer,
    standing::{Held, HoldReason},
};
use crate::{
    registry::ServiceQuery,
    service::{EndpointId, Service, ServiceRef},
    upstream::{is_for_want_of_descriptors, reach},
};

/// How often those that are held are asked.
const EVERY: Duration = Duration::from_secs(1);

/// So many of a service are asked at once: a registry's loss holds all that it listed.
const AT_ONCE: usize = 64;

/// Lets a service follow an event of its members, and watches over the endpoints that are held since,
/// until none is: one that does not take a connection is let go at once, one that does when its
/// registry has confirmed that it is gone, or at the guard's deadline.
pub(crate) fn apply(service: &Arc<Service>, event: MemberEvent) {
    apply_to(service.members(), service, event);
}

/// Like [`apply`], of what a watcher says that began in that round: the late word of one of a round
/// before says nothing of what is asked for now.
pub(crate) fn hear(service: &Arc<Service>, round: WatchRound, event: MemberEvent) {
    let members = service.members();
    if members.watch_round() == round {
        apply_to(members, service, event);
    }
}

/// Like [`apply`], where the service's members are locked already.
pub(crate) fn apply_to(
    members: MutexGuard<'_, Members>,
    service: &Arc<Service>,
    event: MemberEvent,
) {
    if service.apply_to(members, event) {
        // Ends by itself: with the service, with the last held endpoint, or at the deadline.
        tokio::spawn(run(service.reference()));
    }
}

async fn run(service: ServiceRef) {
    let mut seen = HashSet::new();
    loop {
        let Some(service) = service.upgrade() else {
            return;
        };
        let held = service.members().next_to_ask();
        if held.is_empty() {
            return;
        }
        log(&service, &held, &seen);
        let asking: Vec<_> = held.iter().map(|(id, _)| answers(&service, id)).collect();
        let answers = stream::iter(asking).buffered(AT_ONCE).collect::<Vec<_>>();
        let (answers, again) = join(answers, ask_again(&service, &held, &seen)).await;
        seen = held.iter().map(key).collect();
        let asked = std::iter::zip(held, answers);
        let asked = asked.map(|((id, held), answers)| (id, held, answers));
        service.apply(MemberEvent::Asked(asked.collect(), again));
        drop(service);
        tokio::time::sleep(EVERY).await;
    }
}

/// What tells one time that an endpoint is held from another.
fn key((id, held): &(EndpointId, Held)) -> (EndpointId, Instant) {
    (id.clone(), held.until)
}

type Seen = HashSet<(EndpointId, Instant)>;

fn log(service: &Service, held: &[(EndpointId, Held)], seen: &Seen) {
    let mut new = HashMap::<String, (usize, HoldReason)>::new();
    for one in held.iter().filter(|one| !seen.contains(&key(one))) {
        let reason = one.1.reason;
        new.entry(reason.to_string()).or_insert((0, reason)).0 += 1;
    }
    let name = service.name();
    for (why, (held, reason)) in new {
        match reason {
            HoldReason::Unconfirmed(_) => {
                tracing::info!(service = %name, held, why, "the registry took away instances that it is asked about again");
            }
            HoldReason::Loss(_) | HoldReason::Many => {
                tracing::warn!(service = %name, held, why, "the registry lost many instances at once; those that still answer are kept for a while");
            }
        }
    }
}

/// Asks those registries again that have dropped endpoints and may be right: once at once, for what
/// shows a loss of data may not show for long, and once when they are to be believed.
async fn ask_again(
    service: &Service,
    held: &[(EndpointId, Held)],
    seen: &Seen,
) -> HashMap<usize, SecondAnswer> {
    let now = Instant::now();
    let is_due = |one: &&(EndpointId, Held)| match one.1.reason {
        HoldReason::Unconfirmed(settled) => now >= settled || !seen.contains(&key(one)),
        HoldReason::Loss(_) | HoldReason::Many => false,
    };
    let of: HashSet<_> = held
        .iter()
        .filter(is_due)
        .map(|(_, held)| held.by)
        .collect();
    let second = |of: usize| async move {
        let inquiry = service.inquiry(of)?;
        // Before it is asked: the watcher may hear something later meanwhile.
        let before = service.members().combiner().set(of)?.evidence.clone();
        let policy = service.policy();
        let query = ServiceQuery {
            name: service.registered_name().to_owned(),
            tags: policy.tags.clone(),
            usage: Arc::clone(service.usage()),
            consistent: true,
        };
        let set = inquiry.set(query).await?;
        let is_empty = inquiry.is_empty().await?;
        let listed = set.instances.iter().filter(|one| one.healthy);
        let listed = listed.filter(|one| one.has(&policy.tags, &policy.meta));
        let listed: Vec<_> = listed.map(|one| one.identity()).collect();
        let members = service.members();
        let known = listed
            .into_iter()
            .map(|one| members.combiner().known_as(one));
        let second = SecondAnswer {
            order: set.evidence.after(&before),
            listed: known.collect(),
            is_empty,
        };
        Some((of, second))
    };
    let seconds = join_all(of.into_iter().map(second)).await;
    seconds.into_iter().flatten().collect()
}

async fn answers(service: &Service, id: &EndpointId) -> bool {
    let limit = service.policy().timeout.connect;
    let connected = timeout(limit, reach(&id.address)).await;
    connected.is_ok_and(|connected| shows_no_death(&connected))
}

/// What this process lacks says nothing of the endpoint.
fn shows_no_death<S>(connected: &io::Result<S>) -> bool {
    connected
        .as_ref()
        .map_or_else(is_for_want_of_descriptors, |_| true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_not_asked_for_want_of_descriptors_is_not_let_go() {
        use nix::errno::Errno::{ECONNREFUSED, EHOSTUNREACH, EMFILE, ENFILE};
        for (errno, alive) in [
            (EMFILE, true),
            (ENFILE, true),
            (ECONNREFUSED, false),
            (EHOSTUNREACH, false),
        ] {
            let failed = io::Error::from_raw_os_error(errno as i32);
            assert_eq!(shows_no_death::<()>(&Err(failed)), alive, "{errno}");
        }
        assert!(shows_no_death(&Ok(())));
    }
}
