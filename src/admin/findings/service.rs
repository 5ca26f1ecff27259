//! What is unusual of a service.

use std::{cmp::Ordering, collections::BTreeMap};

use super::finding::{Finding, Level, time};
use crate::{
    admin::history::{Recent, RecentOfEndpoint},
    service::{EndpointState, EndpointStatus, ServiceStatus},
};

/// Fewer requests of a minute than these say nothing of shares.
const ENOUGH: u64 = 20;
/// A share of errors from which on it is unusual.
const MANY: f32 = 0.05;

/// What is known of a service.
pub(in crate::admin) struct ServiceFacts<'a> {
    pub(in crate::admin) status: &'a ServiceStatus,
    pub(in crate::admin) retries_left: u64,
    pub(in crate::admin) recent: Recent,
    /// Of its endpoints, in their order.
    pub(in crate::admin) endpoints: Vec<RecentOfEndpoint>,
}

pub(super) fn of_service(facts: &ServiceFacts<'_>, unregistered: &[String]) -> Vec<Finding> {
    let status = facts.status;
    let mut all = Vec::new();
    let mut say = |level, kind, text: String| {
        all.push(Finding::of_service(&status.name, level, kind, &text));
    };
    if let Some((level, text)) = emptiness(status, unregistered) {
        say(level, "empty", text);
    } else {
        of_states(status, &mut say);
    }
    if status.panic {
        let text = "so few endpoints pass the proxy's checks that the checks are not believed";
        say(Level::Bad, "panic", text.to_owned());
    }
    of_answers(facts, &mut say);
    if let Some((level, text)) = fullness(status) {
        say(level, "full", text);
    }
    if facts.retries_left == 0 && facts.recent.retries_per_second > 0.0 {
        let text = "its retry budget is spent: what fails is not tried again";
        say(Level::Warning, "retry_budget", text.to_owned());
    }
    if let Some(pin) = &status.pin {
        let left = time(pin.term.seconds_left);
        let text = format!("pinned to set {} for another {left}", pin.set);
        say(Level::Note, "pinned", text);
    }
    of_drains(status, &mut say);
    for other in &status.weights {
        let (weight, left) = (other.weight, time(other.term.seconds_left));
        let effect = match other.heeded {
            true => "",
            false => ", without effect: no balance heeds it",
        };
        let text = format!(
            "{} has the weight {weight} for another {left}{effect}",
            other.endpoint
        );
        say(Level::Note, "weight", text);
    }
    of_registries(status, &mut say);
    if let Some(hint) = &status.hint {
        say(Level::Note, "hint", hint.to_string());
    }
    all
}

/// That no endpoint can be picked, and why.
fn emptiness(status: &ServiceStatus, unregistered: &[String]) -> Option<(Level, String)> {
    use EndpointState::{Draining, Failing, Maintenance, Unhealthy};
    let present = status.endpoints.iter().filter(|one| one.state != Draining);
    let mut out = BTreeMap::<_, usize>::new();
    for endpoint in present {
        match endpoint.state {
            Unhealthy => *out.entry("unhealthy").or_default() += 1,
            Failing if !status.panic => *out.entry("failing").or_default() += 1,
            Maintenance => *out.entry("in maintenance").or_default() += 1,
            _ => return None,
        }
    }
    let instead = match &status.fallback {
        Some(fallback) => format!("; requests go to {fallback}"),
        None => String::new(),
    };
    let level = match status.fallback {
        Some(_) => Level::Warning,
        None => Level::Bad,
    };
    let of = out.values().sum::<usize>();
    let states: Vec<_> = out
        .into_iter()
        .map(|(state, count)| format!("{count} {state}"))
        .collect();
    let unread = status.watches.iter().any(|watch| !watch.read);
    let text = match of {
        0 if unread => return None, // Its registry is what is said to be away, or not ready.
        0 if unregistered.iter().any(|name| **name == *status.name) => {
            format!("no registry knows a service of this name{instead}")
        }
        0 => format!("it has no endpoint{instead}"),
        1 => format!("its one endpoint cannot be picked: {}{instead}", states[0]),
        _ => format!(
            "none of its {of} endpoints can be picked: {}{instead}",
            states.join(", ")
        ),
    };
    Some((level, text))
}

/// Endpoints that are not picked, or only where there is no other.
fn of_states(status: &ServiceStatus, say: &mut impl FnMut(Level, &'static str, String)) {
    use EndpointState::{Doubted, Draining, Ejected, Failing, Held, Unhealthy};
    let all = status.endpoints.iter();
    let all = all.filter(|one| one.state != Draining).count();
    for state in [Ejected, Failing, Unhealthy, Doubted, Held] {
        let those = status.endpoints.iter().filter(|one| one.state == state);
        let those: Vec<_> = those.collect();
        let Some(first) = those.first() else { continue };
        let reason = reason(first).map_or(String::new(), |reason| format!(": {reason}"));
        let (is, which) = match those.len() {
            1 => ("is", format!(" ({})", first.address)),
            _ => ("are", String::new()),
        };
        let n = those.len();
        let endpoints = if all == 1 { "endpoint" } else { "endpoints" };
        let text = format!(
            "{n} of {all} {endpoints} {is} {}{reason}{which}",
            state.as_str()
        );
        say(Level::Warning, state.as_str(), text);
    }
}

/// Endpoints that a person drains.
fn of_drains(status: &ServiceStatus, say: &mut impl FnMut(Level, &'static str, String)) {
    for drain in &status.drains {
        let left = time(drain.term.seconds_left);
        let text = format!("{} is drained for another {left}", drain.endpoint);
        if drain.holds {
            say(Level::Note, "drained", text);
            continue;
        }
        let whose = match &*drain.yields_for {
            [] => String::new(),
            subsets => format!(" for {}", subsets.join("; ")),
        };
        let text = format!("{text}, and called all the same{whose}: no other can take its place");
        say(Level::Warning, "drained", text);
    }
}

/// Why an endpoint is in the state that it is in, in words.
pub(in crate::admin) fn reason(endpoint: &EndpointStatus) -> Option<String> {
    let held = endpoint.held.as_ref().map(|held| held.why.clone());
    let ejection = || Some(endpoint.ejection.as_ref()?.reason.to_string());
    let doubt = || Some(endpoint.doubt?.reason.to_owned());
    let check = || {
        let check = endpoint.check.as_ref().filter(|check| !check.passing)?;
        Some(check.error.as_deref()?.to_owned())
    };
    match endpoint.state {
        EndpointState::Held => held,
        EndpointState::Ejected => ejection(),
        EndpointState::Doubted => doubt(),
        EndpointState::Failing => check(),
        EndpointState::Unhealthy => Some("its registry's checks do not pass".to_owned()),
        _ => None,
    }
}

/// Endpoints that answer badly, or the service where it is no one endpoint's doing.
fn of_answers(facts: &ServiceFacts<'_>, say: &mut impl FnMut(Level, &'static str, String)) {
    let all = std::iter::zip(&facts.status.endpoints, &facts.endpoints);
    let ill: Vec<_> = all
        .filter(|(_, recent)| recent.attempts >= ENOUGH && recent.errors >= Some(MANY))
        .collect();
    let endpoints = facts.status.endpoints.len();
    if let Some((worst, recent)) = ill
        .iter()
        .max_by(|(_, a), (_, b)| a.errors.partial_cmp(&b.errors).unwrap_or(Ordering::Equal))
    {
        let does = match recent.failures * 2
            > (recent.attempts as f32 * recent.errors.unwrap_or(0.0)) as u64
        {
            true => "fails",
            false => "answers 5xx to",
        };
        let share = percent(recent.errors.unwrap_or_default());
        let text = match (ill.len(), endpoints) {
            (1, 1) => format!("its one endpoint {does} {share} of its requests"),
            (1, all) => format!(
                "1 of {all} endpoints {does} {share} of its requests ({})",
                worst.address
            ),
            (n, all) => {
                let does = does.replace("fails", "fail").replace("answers", "answer");
                format!("{n} of {all} endpoints {does} up to {share} of their requests")
            }
        };
        say(Level::Bad, "ill_endpoint", text);
    } else if facts.recent.requests >= ENOUGH && facts.recent.errors >= Some(MANY) {
        let share = percent(facts.recent.errors.unwrap_or_default());
        let text = format!("{share} of its requests of the last minute ended in a 5xx");
        say(Level::Bad, "errors", text);
    }
}

fn fullness(status: &ServiceStatus) -> Option<(Level, String)> {
    let limits = status.limits.as_ref()?;
    let waits = |count| match count {
        1 => "1 request waits".to_owned(),
        n => format!("{n} requests wait"),
    };
    match limits.concurrent {
        Some(most) if limits.in_use >= most => {
            let text = format!("its limit is full: {} of {most} requests", limits.in_use);
            Some(match limits.waiting {
                0 => (Level::Warning, text),
                waiting => (Level::Bad, format!("{text}, and {}", waits(waiting))),
            })
        }
        _ if limits.waiting > 0 => {
            let text = format!("{} for room at an endpoint", waits(limits.waiting));
            Some((Level::Warning, text))
        }
        _ => None,
    }
}

/// What does not come from its registries as it should.
fn of_registries(status: &ServiceStatus, say: &mut impl FnMut(Level, &'static str, String)) {
    for watch in &status.watches {
        let registry = &watch.registry;
        if watch.given_up {
            let text = format!("what {registry} said last was given up, since it is too old");
            say(Level::Bad, "given_up", text);
        }
        if let Some(first) = watch.skipped.first() {
            let entries = match watch.skipped.len() {
                1 => "an entry that cannot be called".to_owned(),
                n => format!("{n} entries that cannot be called"),
            };
            let text = format!("{registry} lists {entries}: {}: {}", first.id, first.reason);
            say(Level::Warning, "skipped", text);
        }
    }
    for from in &status.from_snapshot {
        let age = time(from.age_seconds);
        let registry = &from.registry;
        let text = format!("it goes by the snapshot of what {registry} said {age} ago");
        say(Level::Warning, "from_snapshot", text);
    }
    let first = status.watches.first().map(|watch| &watch.registry);
    if let (Some(chosen), Some(first)) = (&status.chosen, first)
        && chosen != first
    {
        let text = format!("{chosen} serves, since {first} cannot");
        say(Level::Warning, "failed_over", text);
    }
}

fn percent(share: f32) -> String {
    format!("{:.0} %", share * 100.0)
}
