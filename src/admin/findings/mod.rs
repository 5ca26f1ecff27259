//! What is unusual, in plain words: what a person who opens the page at night wants to know first. Says
//! what is so, and never what to make of it. Knows nothing of how it is shown.

mod finding;
mod process;
mod service;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, sync::Arc};

use crate::registry::watch::WatchSnapshot;
pub(super) use finding::Finding;
use finding::{Level, count, time};
pub(super) use process::{ChangedShares, ProcessFacts};
pub(super) use service::{ServiceFacts, reason};

/// As many are said; of more it is said that there are more.
const MOST: usize = 200;

/// All that is unusual, what matters most first.
pub(super) fn findings<'a>(
    process: &ProcessFacts<'_>,
    services: impl Iterator<Item = ServiceFacts<'a>>,
) -> Vec<Finding> {
    let mut all = process::of_process(process);
    let mut away = Away::default();
    for watch in process.catalogs {
        away.note(watch);
    }
    for facts in services {
        for watch in &facts.status.watches {
            away.note(watch);
        }
        all.extend(service::of_service(&facts, &process.readiness.unregistered));
    }
    all.extend(away.findings());
    all.sort_by_key(|finding| finding.level);
    if all.len() > MOST {
        let more = all.len() - MOST;
        all.truncate(MOST);
        let text = format!("and {more} more");
        all.push(Finding::of_proxy(Level::Note, "more", text));
    }
    all
}

/// Registries that cannot be read, each with how much of it cannot.
#[derive(Default)]
struct Away(BTreeMap<Arc<str>, AwayRegistry>);

#[derive(Default)]
struct AwayRegistry {
    watches: usize,
    seconds: Option<f64>,
    error: String,
    was_read: bool,
}

impl Away {
    fn note(&mut self, watch: &WatchSnapshot) {
        let Some(error) = watch.error.as_ref().filter(|_| !watch.healthy) else {
            return;
        };
        let registry = self.0.entry(Arc::clone(&watch.registry)).or_default();
        registry.watches += 1;
        registry.was_read |= watch.read;
        if registry.error.is_empty() {
            registry.error.clone_from(error);
        }
        let age = watch.age.map(|age| age.as_secs_f64());
        if age > registry.seconds {
            registry.seconds = age;
        }
    }

    fn findings(self) -> impl Iterator<Item = Finding> {
        self.0.into_iter().map(|(name, away)| {
            let since = match away.seconds {
                Some(seconds) => format!("has not answered for {}", time(seconds)),
                None => "has never answered".to_owned(),
            };
            let watches = count(away.watches, "watcher");
            let (level, so) = match away.was_read {
                true => (Level::Warning, "what it said last stays"),
                false => (Level::Bad, "nothing of it is known"),
            };
            let text = format!("registry {name} {since} ({watches}): {}; {so}", away.error);
            Finding::of_proxy(level, "registry_away", text)
        })
    }
}
