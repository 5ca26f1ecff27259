//! Where instances are learnt. A registry does one small thing: it gives the complete set, or an
//! error. Supervision, pacing and the last good set are written once, in [`watch`].
//! Knows nothing of services, balancing or routes.

pub mod consul;
mod http_api;
mod pace;
mod text;
mod usage;
pub mod watch;

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use futures_util::future::BoxFuture;

pub use usage::Usage;

use crate::{config::RegistryKind, instance::InstanceSet};

/// The registry that `[registry.NAME]` describes. Connects to nothing yet.
///
/// # Errors
/// Where its settings cannot be used, such as a TLS file that cannot be read.
pub fn open(name: &str, kind: &RegistryKind) -> Result<Arc<dyn Registry>, BuildError> {
    Ok(match kind {
        RegistryKind::Consul(settings) => Arc::new(consul::Consul::new(name, settings)?),
        // Read as any other client reads it.
        RegistryKind::Embedded(settings) => {
            Arc::new(consul::Consul::new(name, &consul::of_embedded(settings))?)
        }
    })
}

/// One registry, as the watchers see it.
pub trait Registry: Send + Sync + 'static {
    /// A cursor over one service's instances. Costs nothing until it is asked.
    fn service(&self, query: ServiceQuery) -> Box<dyn Source<InstanceSet>>;

    /// A cursor over the names of all services, each with its tags.
    fn catalog(&self) -> Box<dyn Source<Catalog>>;

    /// How its watches stand, where it cannot hold any number of them at once.
    fn watches(&self) -> Option<Watches> {
        None
    }
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
}

/// A registry's service names, each with the tags of its instances.
pub type Catalog = BTreeMap<Arc<str>, Vec<String>>;

/// A sequence of complete states of one thing.
pub trait Source<T>: Send + 'static {
    /// Waits until there is something to say: the first state at once, later ones when they may
    /// differ. May answer the same state again; the watcher compares. After an error it starts
    /// from the beginning. Must be cancel-safe: a dropped future loses nothing.
    fn next(&mut self) -> BoxFuture<'_, Result<T, RegistryError>>;
}

/// Why a registry did not do what it was asked. Never means "no instances".
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct RegistryError {
    /// One line for a person, naming the registry's address, what was asked and what came back.
    pub message: String,
    /// How long the registry asked us to stay away (429 or 503 with `Retry-After`).
    pub retry_after: Option<Duration>,
}

/// Why no client could be made of `[registry.NAME]`.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The address is not an `http://` or `https://` URL.
    #[error("registry.{registry}.address: `{address}` is not an http:// or https:// URL")]
    Address {
        /// The registry's name.
        registry: String,
        /// What stands in its place.
        address: String,
    },
    /// A TLS file cannot be read.
    #[error("registry.{registry}.tls: cannot read {}", path.display())]
    Read {
        /// The registry's name.
        registry: String,
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A TLS file is not what it should be.
    #[error("registry.{registry}.tls: {} holds no {wanted} in PEM form", path.display())]
    Pem {
        /// The registry's name.
        registry: String,
        /// The file.
        path: PathBuf,
        /// "certificate", or "certificate and key".
        wanted: &'static str,
    },
    /// The certificates and the key cannot be used together, or the system has none.
    #[error("registry.{registry}.tls: {}", http_api::root_cause(source))]
    Tls {
        /// The registry's name.
        registry: String,
        /// Why.
        source: reqwest::Error,
    },
    /// What is wanted of the registry is not to be had there.
    #[error("registry.{registry}: {reason}")]
    Unsuited {
        /// The registry's name.
        registry: String,
        /// What, and what to do instead.
        reason: String,
    },
}
