//! Makes services and catalogs, and lets them have what their registries say. Knows nothing of which
//! services there are.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use arc_swap::ArcSwap;
use tokio::{runtime::Handle, sync::watch as state, task::JoinHandle};

use super::{
    Service, guard,
    tagged::{Made, Wanted},
};
use crate::{
    config::{self, Origin},
    instance::InstanceSet,
    registry::{
        Catalog, Registry, ServiceQuery, Source, Watches,
        merged::{Merged, Part},
        watch::{self, Event, WatchStatus},
    },
    tls::TlsError,
    upstream::Tls,
};

/// What services and catalogs are made of.
pub(super) struct Maker {
    workers: usize,
    control: Handle,
    registries: BTreeMap<Arc<str>, Arc<dyn Registry>>,
    settings: BTreeMap<Arc<str>, config::Registry>,
    /// What services have where nothing else is said.
    pub(super) defaults: config::Service,
    described: BTreeMap<Arc<str>, config::Service>,
    /// One for all services with the same settings.
    tls: HashMap<config::EndpointTls, Arc<Tls>>,
}

/// A registry's catalog, and what of it may be reached.
pub(super) struct CatalogView {
    /// Whether template routes reach what it lists.
    pub(super) for_templates: bool,
    /// Whether its tags make routes.
    pub(super) for_tags: bool,
    expose: config::Expose,
    pub(super) names: ArcSwap<Catalog>,
    pub(super) read: state::Sender<bool>,
    pub(super) status: Arc<WatchStatus>,
}

/// Why the services cannot be made. `Config` rules out all but the last.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// There is no registry of that name.
    #[error("there is no registry `{0}`")]
    NoSuchRegistry(Arc<str>),
    /// Tags make routes of the list of services, and the registry keeps none.
    #[error("the registry `{0}` does not list its services")]
    NoCatalog(Arc<str>),
    /// A service's `tls` cannot be used.
    #[error("{table}.tls: {error}")]
    Tls {
        /// Where it stands in the file.
        table: String,
        /// Why.
        error: TlsError,
    },
}

impl Maker {
    /// What is watched is watched on the runtime in which this is called.
    pub(super) fn new(
        config: &config::Config,
        registries: BTreeMap<Arc<str>, Arc<dyn Registry>>,
    ) -> Result<Self, StartError> {
        Ok(Self {
            workers: config.workers.get(),
            control: Handle::current(),
            registries,
            settings: config.registries.clone(),
            defaults: config.defaults.clone(),
            described: config.services.clone(),
            tls: open_tls(config)?,
        })
    }

    /// A service, and its watchers.
    pub(super) fn make(
        &self,
        name: &Arc<str>,
    ) -> Result<(Arc<Service>, Vec<JoinHandle<()>>), StartError> {
        let service = Arc::new(self.service(name, self.policy(name).clone()));
        let origin = &service.policy().origin;
        if let Origin::Inline(instances) = origin {
            service.update(instances, false);
        }
        let watchers = origin
            .registries()
            .iter()
            .enumerate()
            .map(|(place, registry)| self.watch(&service, place, registry))
            .collect::<Result<_, _>>()?;
        Ok((service, watchers))
    }

    /// Begins to watch what one of a service's registries says of it.
    fn watch(
        &self,
        service: &Arc<Service>,
        place: usize,
        registry: &Arc<str>,
    ) -> Result<JoinHandle<()>, StartError> {
        let (registry, settings) = self.registry(registry)?;
        let source = registry.service(ServiceQuery {
            name: service.registered_name().to_owned(),
            tags: service.policy().tags.clone(),
            usage: Arc::clone(service.usage()),
        });
        Ok(self.take_over(service, place, source, settings))
    }

    /// Lets a service have what a source says, as the registry at that place of its list.
    fn take_over(
        &self,
        service: &Arc<Service>,
        place: usize,
        source: Box<dyn Source<InstanceSet>>,
        settings: &config::Registry,
    ) -> JoinHandle<()> {
        let status = Arc::clone(&service.watches()[place]);
        let heard = Arc::clone(service);
        let watching = watch::watch(source, status, settings.max_staleness, move |event| {
            if heard.hear(place, event) {
                guard::watch_over(&heard);
            }
        });
        self.control.spawn(watching)
    }

    fn service(&self, name: &Arc<str>, policy: config::Service) -> Service {
        let tls = self.tls.get(&policy.tls);
        let tls = Arc::clone(tls.expect("opened for the defaults and each described service"));
        Service::new(Arc::clone(name), policy, tls, self.workers)
    }

    pub(super) fn policy(&self, name: &str) -> &config::Service {
        self.described.get(name).unwrap_or(&self.defaults)
    }

    /// The service of a route that tags make.
    pub(super) fn make_tagged(
        &self,
        name: &Arc<str>,
        wanted: &Wanted,
        parts: state::Receiver<Vec<Part>>,
    ) -> Option<Made> {
        let registry = self.registries.get(&wanted.registry)?;
        let settings = self.settings.get(&wanted.registry)?;
        let own = self.policy(wanted.first_service()?);
        let policy = config::Service {
            origin: Origin::Registries {
                names: vec![Arc::clone(&wanted.registry)],
                combine: config::Combine::Union,
            },
            // What is asked for has them already.
            tags: Vec::new(),
            balance: if wanted.is_weighted() {
                config::Balance::Weighted
            } else {
                own.balance.clone()
            },
            ..own.clone()
        };
        let service = Arc::new(self.service(name, policy));
        let source = Box::new(Merged::new(
            Arc::clone(registry),
            parts,
            Arc::clone(service.usage()),
        ));
        let watcher = self.take_over(&service, 0, source, settings);
        Some(Made { service, watcher })
    }

    /// A registry's catalog, and its watcher.
    pub(super) fn watch_catalog(
        &self,
        name: &Arc<str>,
        for_templates: bool,
        for_tags: bool,
    ) -> Result<(Arc<CatalogView>, JoinHandle<()>), StartError> {
        let (registry, settings) = self.registry(name)?;
        let catalog = registry
            .catalog()
            .ok_or_else(|| StartError::NoCatalog(Arc::clone(name)))?;
        let view = Arc::new(CatalogView {
            for_templates,
            for_tags,
            expose: settings.expose.clone(),
            names: ArcSwap::default(),
            read: state::Sender::new(false),
            status: Arc::new(WatchStatus::new(Arc::clone(name), None)),
        });
        let read = Arc::clone(&view);
        // Never given up: that a service is known, and has nobody, says more than a 404.
        let status = Arc::clone(&view.status);
        let watching = watch::watch(catalog, status, None, move |event| {
            if let Event::State(names) = event {
                read.names.store(Arc::new(names));
                read.read.send_replace(true);
            }
        });
        Ok((view, self.control.spawn(watching)))
    }

    /// How the watches of each registry stand that holds a limited number.
    pub(super) fn watches(&self) -> impl Iterator<Item = (&Arc<str>, Watches)> {
        let registries = self.registries.iter();
        registries.filter_map(|(name, registry)| Some((name, registry.watches()?)))
    }

    fn registry(&self, name: &Arc<str>) -> Result<(&dyn Registry, &config::Registry), StartError> {
        let registry = self.registries.get(name).map(|registry| &**registry);
        registry
            .zip(self.settings.get(name))
            .ok_or_else(|| StartError::NoSuchRegistry(Arc::clone(name)))
    }
}

impl CatalogView {
    pub(super) fn exposes(&self, name: &str, tags: &[String]) -> bool {
        let config::Expose {
            tags: wanted,
            services,
            not,
        } = &self.expose;
        name != "consul"
            && !not.iter().any(|not| not == name)
            && (services.is_empty() || services.iter().any(|service| service == name))
            && (wanted.is_empty() || wanted.iter().any(|tag| tags.contains(tag)))
    }
}

/// Reads the TLS files of all services, each once.
fn open_tls(config: &config::Config) -> Result<HashMap<config::EndpointTls, Arc<Tls>>, StartError> {
    let defaults = ("defaults".to_owned(), &config.defaults);
    let services = config.services.iter();
    let services = services.map(|(name, service)| (format!("service.{name}"), service));
    let mut opened = HashMap::new();
    for (table, service) in std::iter::once(defaults).chain(services) {
        if !opened.contains_key(&service.tls) {
            let tls = Tls::open(&service.tls).map_err(|error| StartError::Tls { table, error })?;
            opened.insert(service.tls.clone(), Arc::new(tls));
        }
    }
    Ok(opened)
}
