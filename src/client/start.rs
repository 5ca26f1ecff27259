//! A client: the registries of a configuration, and the services that a program asks for.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Weak},
    time::Duration,
};

use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::task::AbortOnDropHandle;

use super::{
    Balancer, Caller, Endpointer, Instancer, SetupError,
    held::{HeldService, Shared},
};
use crate::{
    config::Config,
    discovery::{self, Directory},
    registry::{self, Registry, ServiceQuery},
    saved,
    service::ServiceStatus,
};

/// How often idle connections are looked at.
const SWEEP: Duration = Duration::from_secs(1);

/// Calls services by their names. Cheap to clone; a program needs one.
#[derive(Clone)]
pub struct Client(Arc<Shared>);

impl Client {
    /// Opens the registries of a configuration, mostly one of [`Config::parse_for_client`]. Asks
    /// them nothing yet: a service is watched from the moment at which it is first asked for.
    /// `workers` is into how many parts a service's connections and counters are divided, which
    /// threads share; by default as many as there are cores. Routes are not looked at, and an
    /// embedded registry is one that runs elsewhere, at its `address`. Nothing is kept on disk.
    ///
    /// Must be called in a tokio runtime, which goes on with the watching.
    ///
    /// # Errors
    /// Where a registry's or a service's settings cannot be used, such as a TLS file that cannot be
    /// read.
    pub fn start(mut config: Config) -> Result<Self, SetupError> {
        config.routes.clear();
        let mut registries: BTreeMap<Arc<str>, Arc<dyn Registry>> = BTreeMap::new();
        for (name, settings) in &mut config.registries {
            settings.routes = None;
            registries.insert(Arc::clone(name), registry::open(name, &settings.kind)?);
        }
        let directory = Directory::start(&config, registries.clone(), &saved::Contents::default())?;
        let sweeping = tokio::spawn(sweep(Arc::downgrade(&directory), config.workers.get()));
        Ok(Self(Arc::new(Shared {
            config,
            registries,
            directory,
            _sweeping: AbortOnDropHandle::new(sweeping),
        })))
    }

    /// What sends requests to a service. The same name is the same service, however often it is
    /// asked for: its endpoints are watched once, from now until the client is gone. So names must
    /// be the program's own, and none that strangers make up.
    ///
    /// # Errors
    /// Where there are several registries, and it is not said which one knows the service.
    pub fn service(&self, name: &str) -> Result<Caller, SetupError> {
        let held = self.hold(name)?;
        let fallback = held.service.policy().fallback.as_ref();
        let fallback = fallback.map(|name| self.hold(name)).transpose()?;
        Ok(Caller::new(held, fallback))
    }

    /// What a service's endpoints are and how they stand.
    ///
    /// # Errors
    /// As for [`Self::service`].
    pub fn endpointer(&self, name: &str) -> Result<Endpointer, SetupError> {
        Ok(Endpointer::new(self.hold(name)?))
    }

    /// Who of a service's endpoints is next, for those who speak another protocol than HTTP.
    ///
    /// # Errors
    /// As for [`Self::service`].
    pub fn balancer(&self, name: &str) -> Result<Balancer, SetupError> {
        Ok(Balancer::new(self.hold(name)?))
    }

    /// What one registry says of a service, by the name that it has there; a watch of its own.
    ///
    /// # Errors
    /// Where there is no registry of that name.
    pub fn instancer(&self, registry: &str, name: &str) -> Result<Instancer, SetupError> {
        let known = self.0.registries.get_key_value(registry);
        let settings = self.0.config.registries.get(registry);
        let ((registry, opened), settings) = known
            .zip(settings)
            .ok_or_else(|| discovery::StartError::NoSuchRegistry(registry.into()))?;
        let query = ServiceQuery {
            name: name.to_owned(),
            ..ServiceQuery::default()
        };
        let staleness = settings.max_staleness;
        Ok(Instancer::start(registry, &**opened, query, staleness))
    }

    /// How everything that was asked for stands.
    pub fn status(&self) -> Vec<ServiceStatus> {
        let services = self.0.directory.services();
        let status = services.iter().map(|service| ServiceStatus::of(service));
        status.collect()
    }

    /// Ends the watchers, and waits until they have ended. What was asked for before can still be
    /// called, at the endpoints that were known last.
    pub async fn close(&self) {
        self.0.directory.stop().await;
    }

    fn hold(&self, name: &str) -> Result<HeldService, SetupError> {
        let config = &self.0.config;
        let name: Arc<str> = name.into();
        // Those that the file describes say it, or `Config` would not be.
        if config.default_registry.is_none() && !config.services.contains_key(&name) {
            return Err(SetupError::WhichRegistry(name));
        }
        Ok(HeldService {
            service: self.0.directory.named(&name)?,
            shared: Arc::clone(&self.0),
        })
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let registries = self.0.registries.keys();
        f.debug_list().entries(registries).finish()
    }
}

/// Closes idle connections that are too old, or that their endpoints have closed.
async fn sweep(directory: Weak<Directory>, slots: usize) {
    let mut tick = tokio::time::interval(SWEEP);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let Some(directory) = directory.upgrade() else {
            return;
        };
        let now = Instant::now();
        for service in directory.services() {
            for slot in 0..slots {
                service.sweep(slot, now);
            }
        }
    }
}
