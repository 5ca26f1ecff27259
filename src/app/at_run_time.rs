//! What was changed of the process at run time, whatever the file says: a reload names it, and an upgrade ends it.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use crate::{
    admin::LogLevel,
    config::{Config, Goal, Share},
    discovery::Directory,
    service::{Service, Split, pin_of, unix_seconds},
};

/// A line for each change, of which `next` ends some.
pub(super) fn changes(directory: &Directory, log: &LogLevel, next: &Config) -> Vec<String> {
    let mut lines = Vec::new();
    for split in directory.splits().values() {
        if let Some(term) = split.changed() {
            lines.push(of_shares(split, term.seconds_left, next));
        }
    }
    let log = log.status();
    if let Some(ends) = log.ends {
        let left = left(ends - unix_seconds(SystemTime::now()));
        lines.push(format!(
            "the log's level is {} for another {left}",
            log.level
        ));
    }
    for service in directory.services() {
        let name = service.name();
        let ends = (!directory.goes_on(name, next)).then_some("the file has no such service");
        of_service(&service, |is, what, seconds| {
            lines.push(match ends {
                None => format!("{name}: {is} for another {}", left(seconds)),
                Some(why) => format!("{name}: {what} ends, for {why}"),
            });
        });
    }
    lines
}

/// What was changed of a service: how it is, what that is called, and how many seconds are left.
fn of_service(service: &Arc<Service>, mut say: impl FnMut(String, String, f64)) {
    if let Some(pin) = pin_of(service) {
        let (is, what) = (
            format!("pinned to set {}", pin.set),
            format!("the pin to set {}", pin.set),
        );
        say(is, what, pin.term.seconds_left);
    }
    for drain in service.drains() {
        let endpoint = &drain.endpoint;
        let (is, what) = (
            format!("{endpoint} is drained"),
            format!("the drain of {endpoint}"),
        );
        say(is, what, drain.term.seconds_left);
    }
    for other in service.other_weights() {
        let (endpoint, weight) = (&other.endpoint, other.weight);
        let effect = match other.heeded {
            true => "",
            false => ", without effect,",
        };
        let (is, what) = (
            format!("{endpoint} has the weight {weight}{effect}"),
            format!("the weight {weight} of {endpoint}"),
        );
        say(is, what, other.term.seconds_left);
    }
}

fn of_shares(split: &Split, seconds_left: f64, next: &Config) -> String {
    let (of, shares) = (split.of(), split.in_words());
    let mut routes = next.routes.iter();
    let route = routes.find(|route| route.matching() == of);
    match route.map(|route| &route.goal) {
        Some(Goal::Split(wanted)) if has(split, wanted) => format!(
            "{of}: the shares are {shares} for another {}",
            left(seconds_left)
        ),
        Some(Goal::Split(_)) => {
            format!("{of}: the shares {shares} end, for the file has others")
        }
        Some(Goal::Service(_) | Goal::Template) => {
            format!("{of}: the shares {shares} end, for the route of the file has none")
        }
        None => format!("{of}: the shares {shares} end, for the file has no such route"),
    }
}

/// Whether a split has these shares in the file.
fn has(split: &Split, wanted: &[Share]) -> bool {
    let wanted = wanted.iter().map(|share| (&*share.service, share.weight));
    split.is_of(&wanted.collect::<Vec<_>>())
}

/// A time as durations are written in proxy.toml, to the second.
fn left(seconds: f64) -> String {
    let seconds = Duration::from_secs_f64(seconds.max(0.0)).as_secs();
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    match (hours, minutes) {
        (0, 0) => format!("{seconds}s"),
        (0, _) => format!("{minutes}m{seconds}s"),
        _ => format!("{hours}h{minutes}m{seconds}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_written_as_in_proxy_toml() {
        for (seconds, text) in [
            (-1.0, "0s"),
            (59.9, "59s"),
            (61.0, "1m1s"),
            (7200.0, "2h0m0s"),
        ] {
            assert_eq!(left(seconds), text);
        }
    }
}
