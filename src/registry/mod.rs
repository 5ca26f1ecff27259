//! Where instances are learnt. A registry does one small thing: it gives the complete set, or an
//! error. Supervision, pacing and the last good set are written once, in [`watch`].
//! Knows nothing of services, balancing or routes.

mod bounded;
pub mod consul;
pub mod dns;
mod error;
pub mod etcd;
pub mod etcd2;
pub mod eureka;
pub mod file;
mod formats;
#[cfg(any(test, fuzzing))]
mod fuzzing;
mod http_api;
mod kinds;
pub mod merged;
mod pace;
mod room;
mod text;
mod trouble;
mod usage;
pub mod watch;
pub mod zookeeper;

use std::{collections::BTreeMap, sync::Arc};

use futures_util::future::BoxFuture;

use crate::instance::InstanceSet;

pub use error::{BuildError, RegistryError};
pub use kinds::open;
pub use usage::Usage;

/// One registry, as the watchers see it.
pub trait Registry: Send + Sync + 'static {
    /// A cursor over one service's instances. Costs nothing until it is asked.
    fn service(&self, query: ServiceQuery) -> Box<dyn Source<InstanceSet>>;

    /// A cursor over the names of all services, each with its tags; `None` where the registry
    /// keeps no list of them.
    fn catalog(&self) -> Option<Box<dyn Source<Catalog>>>;

    /// Whether listing no service at all shows that it has lost its data.
    fn is_lost_when_empty(&self) -> bool {
        true
    }

    /// How its watches stand, where it cannot hold any number of them at once.
    fn watches(&self) -> Option<Watches> {
        None
    }

    /// Where its instances have another host besides the one at which they are called.
    fn other_host(&self) -> Option<OtherHost> {
        None
    }
}

/// A host of an instance at which it is not called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OtherHost {
    /// The key of an instance's metadata that holds it.
    pub meta: &'static str,
    /// What in the registry's table makes it the one at which an instance is called.
    pub setting: &'static str,
}

/// The watches of a registry that holds a limited number at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Watches {
    /// As many can be held at once.
    pub limit: usize,
    /// Those that are held: a change is seen at once.
    pub held: usize,
    /// The others, which are read one after the other.
    pub in_turn: usize,
}

/// Which instances are wanted.
#[derive(Clone, Debug, Default)]
pub struct ServiceQuery {
    /// The name in the registry.
    pub name: String,
    /// Tags that each must have.
    pub tags: Vec<String>,
    /// Whether the service is called: a registry that cannot watch everything at once watches
    /// what is.
    pub usage: Arc<Usage>,
    /// Whether the first answer must be no older than anything that the registry said before,
    /// whatever else it is told to read.
    pub consistent: bool,
}

/// A registry's service names, each with the tags of its instances.
pub type Catalog = BTreeMap<Arc<str>, Vec<String>>;

/// A complete state of one thing, as a watcher follows it. Two that show the same are equal.
pub trait State: PartialEq + Send + Sync + 'static {
    /// Notes which state the same source gave before, and shares with it what both have.
    fn follow(&mut self, _before: &Self) {}
}

impl State for Catalog {}

impl State for InstanceSet {
    fn follow(&mut self, before: &Self) {
        self.evidence.follow(&before.evidence);
        self.share_with(before);
    }
}

/// A sequence of complete states of one thing.
pub trait Source<T>: Send + 'static {
    /// Waits until there is something to say: the first state at once, later ones when they may
    /// differ. May answer the same state again; the watcher compares. After an error it starts
    /// from the beginning. Must be cancel-safe: a dropped future loses nothing.
    fn next(&mut self) -> BoxFuture<'_, Result<T, RegistryError>>;
}
