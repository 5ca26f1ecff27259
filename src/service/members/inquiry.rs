//! How a service's registry is asked again, beside the watcher that follows it. Knows nothing of why.

use std::{collections::HashSet, fmt, sync::Arc, time::Duration};

use tokio::{sync::watch, time::timeout};

use super::standing::Again;
use crate::{
    evidence::Order,
    instance::{Identity, InstanceSet},
    registry::{
        Registry, ServiceQuery,
        merged::{Merged, Part},
    },
    service::EndpointId,
};

/// How long a registry's second answer is waited for.
const ANSWER: Duration = Duration::from_secs(2);

/// How a service's registry is asked again.
pub(crate) struct Inquiry {
    registry: Arc<dyn Registry>,
    /// The questions that make the set, where the service has several.
    parts: Option<watch::Receiver<Vec<Part>>>,
}

impl Inquiry {
    pub(crate) fn new(
        registry: &Arc<dyn Registry>,
        parts: Option<watch::Receiver<Vec<Part>>>,
    ) -> Self {
        Self {
            registry: Arc::clone(registry),
            parts,
        }
    }

    /// What the registry lists now; `None` where it does not say.
    pub(crate) async fn set(&self, query: ServiceQuery) -> Option<InstanceSet> {
        let mut source = match &self.parts {
            None => self.registry.service(query),
            Some(parts) => {
                let registry = Arc::clone(&self.registry);
                Box::new(Merged::new(registry, parts.clone(), query))
            }
        };
        timeout(ANSWER, source.next()).await.ok()?.ok()
    }

    /// Whether the registry lists no service at all, where that shows a loss of data; Consul lists
    /// itself always. `None` where it does not say.
    pub(crate) async fn is_empty(&self) -> Option<bool> {
        let catalog = self.registry.catalog();
        // One that keeps no list shows nothing by it.
        let Some(mut catalog) = catalog.filter(|_| self.registry.is_lost_when_empty()) else {
            return Some(false);
        };
        let names = timeout(ANSWER, catalog.next()).await.ok()?.ok()?;
        Some(names.keys().all(|name| **name == *"consul"))
    }
}

/// A registry's second answer.
#[derive(Debug)]
pub(crate) struct SecondAnswer {
    /// How it follows the first.
    pub(crate) order: Order,
    /// What it lists that is healthy and wanted, as endpoints are known: by thousands of endpoints
    /// that are held it is asked for under the members' lock.
    pub(crate) listed: HashSet<Identity>,
    /// Whether the registry lists no service at all.
    pub(crate) is_empty: bool,
}

impl SecondAnswer {
    /// What it says of an endpoint.
    pub(crate) fn of(&self, id: &EndpointId) -> Again {
        let identity = (Arc::clone(&id.instance), id.address.clone());
        Again {
            order: self.order,
            lists_it: self.listed.contains(&identity),
            is_empty: self.is_empty,
        }
    }
}

impl fmt::Debug for Inquiry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inquiry").finish_non_exhaustive()
    }
}
