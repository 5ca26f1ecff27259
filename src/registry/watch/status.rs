//! What is known of a watcher.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use parking_lot::{Mutex, MutexGuard};
use serde::{Serialize, Serializer};
use tokio::time::Instant;

use crate::{instance::Skipped, registry::RegistryError};

/// What is known of one watcher, for people and metrics; no request ever looks at it.
#[derive(Debug)]
pub struct WatchStatus {
    pub(super) registry: Arc<str>,
    pub(super) service: Option<Arc<str>>,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    answered: Option<Instant>,
    changed: Option<SystemTime>,
    /// The error of the last attempt; `None` after a success.
    error: Option<String>,
    /// Whether the last attempt was refused for what is wrong with who asks.
    refused: bool,
    failures: u64,
    updates: u64,
    entries: usize,
    skipped: Vec<Skipped>,
    given_up: bool,
}

/// A [`WatchStatus`] at one moment.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct WatchSnapshot {
    /// The registry's name in proxy.toml.
    pub registry: Arc<str>,
    /// The service's name; `None` where the registry's catalog is watched.
    pub service: Option<Arc<str>>,
    /// Whether it was ever read.
    pub read: bool,
    /// Whether it was read and the last attempt did not fail. An attempt that still waits for a
    /// change has not failed.
    pub healthy: bool,
    /// Since the last answer; in JSON, seconds. While nothing changes this grows up to the time
    /// that a query may wait, so it says something only where `healthy` is false.
    #[serde(rename = "age_seconds", serialize_with = "seconds")]
    pub age: Option<Duration>,
    /// When the last state was published; in JSON, Unix time in seconds.
    #[serde(serialize_with = "unix_seconds")]
    pub last_change: Option<SystemTime>,
    /// Why the last attempt failed.
    pub error: Option<String>,
    /// Failed attempts, in all.
    pub failures: u64,
    /// Published states, in all.
    pub updates: u64,
    /// How many the last state lists.
    pub entries: usize,
    /// The entries of the last state that could not be understood.
    pub skipped: Vec<Skipped>,
    /// Whether the last state was given up after `max_staleness`.
    pub given_up: bool,
}

impl WatchStatus {
    /// Of a watcher that has not asked yet; without a service, of the registry's catalog.
    pub fn new(registry: impl Into<Arc<str>>, service: Option<Arc<str>>) -> Self {
        Self {
            registry: registry.into(),
            service,
            known: Mutex::default(),
        }
    }

    /// The registry's name, and the service's.
    pub(super) fn names(&self) -> (Arc<str>, Option<Arc<str>>) {
        (Arc::clone(&self.registry), self.service.clone())
    }

    /// What is known now.
    pub fn snapshot(&self) -> WatchSnapshot {
        let known = self.known();
        WatchSnapshot {
            registry: self.registry.clone(),
            service: self.service.clone(),
            read: known.answered.is_some(),
            healthy: known.answered.is_some() && known.error.is_none(),
            age: known.answered.map(|answered| answered.elapsed()),
            last_change: known.changed,
            error: known.error.clone(),
            failures: known.failures,
            updates: known.updates,
            entries: known.entries,
            skipped: known.skipped.clone(),
            given_up: known.given_up,
        }
    }

    /// Whether it was read, and the last state has no entry, not even one that is not understood.
    pub fn lists_nothing(&self) -> bool {
        let known = self.known();
        known.answered.is_some() && known.entries == 0 && known.skipped.is_empty()
    }

    /// Notes how many entries a published state lists, and which it left out. The publisher calls
    /// this, as it alone knows what a state is.
    pub fn note_state(&self, entries: usize, skipped: Vec<Skipped>) {
        let mut known = self.known();
        known.entries = entries;
        known.skipped = skipped;
    }

    pub(super) fn succeeded(&self, changed: bool) {
        let mut known = self.known();
        known.answered = Some(Instant::now());
        known.error = None;
        known.refused = false;
        known.given_up = false;
        if changed {
            known.changed = Some(SystemTime::now());
            known.updates += 1;
        }
    }

    pub(super) fn failed(&self, error: RegistryError) {
        let mut known = self.known();
        known.refused = error.refused;
        known.error = Some(error.message);
        known.failures += 1;
    }

    /// Notes that the last state is too old to count; until the next success.
    pub fn gave_up(&self) {
        self.known().given_up = true;
    }

    /// Why the registry refuses who asks, where it did so the last time.
    pub fn refusal(&self) -> Option<String> {
        let known = self.known();
        known.error.clone().filter(|_| known.refused)
    }

    /// Whether nothing came of any attempt yet, be it good or bad.
    pub fn is_awaited(&self) -> bool {
        let known = self.known();
        known.answered.is_none() && known.failures == 0
    }

    /// When the registry answered last; `None` where it never has.
    pub fn answered(&self) -> Option<Instant> {
        self.known().answered
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        // Every field is true on its own, whatever a panicking thread left undone.
        self.known.lock()
    }
}

fn seconds<S: Serializer>(age: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    age.map(|age| age.as_secs_f64()).serialize(serializer)
}

fn unix_seconds<S: Serializer>(at: &Option<SystemTime>, serializer: S) -> Result<S::Ok, S::Error> {
    at.and_then(|at| at.duration_since(UNIX_EPOCH).ok())
        .map(|since| since.as_secs_f64())
        .serialize(serializer)
}
