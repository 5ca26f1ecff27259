//! What was changed of the process at run time, whatever the file says: a reload names it, and an upgrade ends it.

use std::time::{Duration, SystemTime};

use crate::{
    admin::LogLevel,
    config::{Config, Goal},
    discovery::Directory,
    service::{Split, pin_of, unix_seconds},
};

/// A line for each change, of which `next` ends some.
pub(super) fn changes(directory: &Directory, log: &LogLevel, next: &Config) -> Vec<String> {
    let mut lines = Vec::new();
    for split in directory.splits().values() {
        if let Some(term) = split.changed() {
            let (of, shares) = (split.of(), split.in_words());
            lines.push(match stays(split, next) {
                true => format!(
                    "{of}: the shares are {shares} for another {}",
                    left(term.seconds_left)
                ),
                false => format!("{of}: the shares {shares} end, for the file has others"),
            });
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
        if let Some(pin) = pin_of(&service) {
            let left = left(pin.term.seconds_left);
            lines.push(format!(
                "{name}: pinned to set {} for another {left}",
                pin.set
            ));
        }
        for drain in service.drains() {
            let left = left(drain.term.seconds_left);
            lines.push(format!(
                "{name}: {} is drained for another {left}",
                drain.endpoint
            ));
        }
        for other in service.other_weights() {
            let left = left(other.term.seconds_left);
            lines.push(format!(
                "{name}: {} has the weight {} for another {left}",
                other.endpoint, other.weight
            ));
        }
    }
    lines
}

/// Whether a file has the route with the same shares.
fn stays(split: &Split, next: &Config) -> bool {
    let mut routes = next.routes.iter();
    routes.any(|route| match &route.goal {
        Goal::Split(shares) => {
            let shares = shares.iter().map(|share| (&*share.service, share.weight));
            split.is_of(&shares.collect::<Vec<_>>()) && route.matching() == split.of()
        }
        Goal::Service(_) | Goal::Template => false,
    })
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
