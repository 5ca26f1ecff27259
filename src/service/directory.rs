//! All services of a proxy: those that proxy.toml declares, and those that template routes find
//! in a registry's catalog, which are made when the first request names them.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use arc_swap::ArcSwap;
use tokio::{runtime::Handle, sync::watch as state, task::JoinHandle, time::Instant};

use super::{Service, guard};
use crate::{
    config,
    registry::{
        Catalog, Registry, ServiceQuery, Watches,
        watch::{self, Event, WatchStatus},
    },
};

/// A service of a template route that the catalog no longer lists, and that has no endpoint, is
/// still known (503, not 404) for this long: a deploy may leave a moment without any.
const LINGER: Duration = Duration::from_secs(60);

/// All services of a proxy, and their watchers.
pub struct Directory {
    workers: usize,
    control: Handle,
    registries: BTreeMap<Arc<str>, Arc<dyn Registry>>,
    settings: BTreeMap<Arc<str>, config::Registry>,
    defaults: config::Service,
    described: BTreeMap<Arc<str>, config::Service>,
    /// Those that routes name outright.
    declared: BTreeMap<Arc<str>, Arc<Service>>,
    /// The catalogs that template routes need, by registry.
    catalogs: BTreeMap<Arc<str>, Arc<CatalogView>>,
    /// Those that template routes have reached.
    found: ArcSwap<HashMap<Arc<str>, Arc<Service>>>,
    /// Serialises changes of `found`.
    founding: Mutex<Founding>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

#[derive(Default)]
struct Founding {
    /// The watchers of services in `found` that are not declared.
    watchers: HashMap<Arc<str>, JoinHandle<()>>,
    unlisted: HashMap<Arc<str>, Instant>,
}

struct CatalogView {
    expose: config::Expose,
    names: ArcSwap<Catalog>,
    read: state::Sender<bool>,
    status: Arc<WatchStatus>,
}

/// What a template route's name leads to.
pub enum Lookup {
    /// A service; it may not have been read yet.
    Found(Arc<Service>),
    /// No such service is registered, or it may not be reached.
    Unknown,
    /// The catalog was never read: nobody can tell.
    NotRead,
}

/// The registry that a service or a route names does not exist; `Config` rules it out.
#[derive(Debug, thiserror::Error)]
#[error("there is no registry `{0}`")]
pub struct NoSuchRegistry(Arc<str>);

impl Directory {
    /// Makes the services that routes name outright and begins to watch them, and the catalogs
    /// of template routes. Must be called on the control plane's runtime.
    ///
    /// # Errors
    /// Where a registry is missing.
    pub fn start(
        config: &config::Config,
        registries: BTreeMap<Arc<str>, Arc<dyn Registry>>,
    ) -> Result<Arc<Self>, NoSuchRegistry> {
        let mut directory = Self {
            workers: config.workers.get(),
            control: Handle::current(),
            registries,
            settings: config.registries.clone(),
            defaults: config.defaults.clone(),
            described: config.services.clone(),
            declared: BTreeMap::new(),
            catalogs: BTreeMap::new(),
            found: ArcSwap::default(),
            founding: Mutex::default(),
            tasks: Mutex::default(),
        };
        let mut tasks = Vec::new();
        for route in &config.routes {
            match &route.goal {
                config::Goal::Service(name) if !directory.declared.contains_key(name) => {
                    let (service, task) = directory.make(name)?;
                    tasks.push(task);
                    directory.declared.insert(Arc::clone(name), service);
                }
                config::Goal::Template { registry }
                    if !directory.catalogs.contains_key(registry) =>
                {
                    let (view, task) = directory.watch_catalog(registry)?;
                    tasks.push(task);
                    directory.catalogs.insert(Arc::clone(registry), view);
                }
                _ => {}
            }
        }
        let directory = Arc::new(directory);
        if !directory.catalogs.is_empty() {
            tasks.push(tokio::spawn(forget_unlisted(Arc::downgrade(&directory))));
        }
        *lock(&directory.tasks) = tasks;
        Ok(directory)
    }

    /// Ends all watchers.
    pub async fn stop(&self) {
        let mut tasks = std::mem::take(&mut *lock(&self.tasks));
        tasks.extend(std::mem::take(&mut lock(&self.founding).watchers).into_values());
        for task in &tasks {
            task.abort();
        }
        for task in tasks {
            // Aborted: that it says so is no news.
            let _ = task.await;
        }
    }

    /// A service that a route names outright.
    pub fn declared(&self, name: &str) -> Option<&Arc<Service>> {
        self.declared.get(name)
    }

    /// The service that a template route's request names.
    pub fn lookup(&self, registry: &str, name: &str) -> Lookup {
        if let Some(service) = self.found.load().get(name) {
            return Lookup::Found(Arc::clone(service));
        }
        let Some(catalog) = self.catalogs.get(registry) else {
            return Lookup::Unknown;
        };
        if !*catalog.read.borrow() {
            return Lookup::NotRead;
        }
        let names = catalog.names.load();
        match names.get_key_value(name) {
            Some((name, tags)) if catalog.exposes(name, tags) => self.found_now(name),
            _ => Lookup::Unknown,
        }
    }

    /// Waits until a registry's catalog was read once, but not for longer than `limit`.
    pub async fn wait_for_catalog(&self, registry: &str, limit: Duration) {
        if let Some(catalog) = self.catalogs.get(registry) {
            let mut read = catalog.read.subscribe();
            // Too late is answered by the next lookup.
            let _ = tokio::time::timeout(limit, read.wait_for(|read| *read)).await;
        }
    }

    /// What services have where nothing else is said.
    pub fn defaults(&self) -> &config::Service {
        &self.defaults
    }

    /// All services, the declared ones first.
    pub fn services(&self) -> Vec<Arc<Service>> {
        let found = self.found.load();
        let mut made: Vec<_> = found
            .iter()
            .filter(|(name, _)| !self.declared.contains_key(*name))
            .map(|(_, service)| Arc::clone(service))
            .collect();
        made.sort_by(|a, b| a.name().cmp(b.name()));
        self.declared.values().cloned().chain(made).collect()
    }

    /// The catalogs that are watched: the registry's name, its watcher and the services it lists.
    pub fn catalogs(&self) -> impl Iterator<Item = (&Arc<str>, &WatchStatus, Arc<Catalog>)> {
        self.catalogs
            .iter()
            .map(|(name, view)| (name, &*view.status, view.names.load_full()))
    }

    /// How the watches of each registry stand that cannot hold any number of them.
    pub fn watches(&self) -> impl Iterator<Item = (&Arc<str>, Watches)> {
        let registries = self.registries.iter();
        registries.filter_map(|(name, registry)| Some((name, registry.watches()?)))
    }

    /// What was never read: declared services by name, catalogs by their registry's.
    pub fn unread(&self) -> Vec<String> {
        let services = self
            .declared
            .values()
            .filter(|service| !service.is_read())
            .map(|service| format!("service {}", service.name()));
        let catalogs = self
            .catalogs
            .iter()
            .filter(|(_, view)| !*view.read.borrow())
            .map(|(name, _)| format!("catalog of {name}"));
        services.chain(catalogs).collect()
    }

    fn found_now(&self, name: &Arc<str>) -> Lookup {
        let mut founding = lock(&self.founding);
        // Another request may have been first.
        if let Some(service) = self.found.load().get(name) {
            return Lookup::Found(Arc::clone(service));
        }
        let service = if let Some(declared) = self.declared.get(name) {
            Arc::clone(declared)
        } else {
            let Ok((service, watcher)) = self.make(name) else {
                return Lookup::Unknown;
            };
            founding.watchers.insert(Arc::clone(name), watcher);
            service
        };
        let mut found = HashMap::clone(&self.found.load());
        found.insert(Arc::clone(name), Arc::clone(&service));
        self.found.store(Arc::new(found));
        Lookup::Found(service)
    }

    fn make(&self, name: &Arc<str>) -> Result<(Arc<Service>, JoinHandle<()>), NoSuchRegistry> {
        let policy = self.described.get(name).unwrap_or(&self.defaults).clone();
        let (registry, settings) = self.registry(&policy.registry)?;
        let max_staleness = settings.max_staleness;
        let service = Arc::new(Service::new(Arc::clone(name), policy, self.workers));
        let source = registry.service(ServiceQuery {
            name: service.registered_name().to_owned(),
            tags: service.policy().tags.clone(),
            usage: Arc::clone(service.usage()),
        });
        let status = Arc::clone(service.watch());
        let updated = Arc::clone(&service);
        let watching = watch::watch(source, status, max_staleness, move |event| match event {
            Event::State(set) => {
                if updated.update(set) {
                    guard::watch_over(&updated);
                }
            }
            Event::Failed => {}
            Event::Stale => updated.give_up(),
        });
        let task = self.control.spawn(watching);
        Ok((service, task))
    }

    fn watch_catalog(
        &self,
        name: &Arc<str>,
    ) -> Result<(Arc<CatalogView>, JoinHandle<()>), NoSuchRegistry> {
        let (registry, settings) = self.registry(name)?;
        let view = Arc::new(CatalogView {
            expose: settings.expose.clone(),
            names: ArcSwap::default(),
            read: state::Sender::new(false),
            status: Arc::new(WatchStatus::new(Arc::clone(name), None)),
        });
        let read = Arc::clone(&view);
        // Never given up: that a service is known, and has nobody, says more than a 404.
        let status = Arc::clone(&view.status);
        let watching = watch::watch(registry.catalog(), status, None, move |event| {
            if let Event::State(names) = event {
                read.names.store(Arc::new(names));
                read.read.send_replace(true);
            }
        });
        Ok((view, self.control.spawn(watching)))
    }

    fn registry(
        &self,
        name: &Arc<str>,
    ) -> Result<(&dyn Registry, &config::Registry), NoSuchRegistry> {
        let registry = self.registries.get(name).map(|registry| &**registry);
        registry
            .zip(self.settings.get(name))
            .ok_or_else(|| NoSuchRegistry(Arc::clone(name)))
    }

    /// Forgets services that no catalog lists, at once where they may no longer be reached, and
    /// after [`LINGER`] where they have no endpoint any more.
    fn forget(&self, now: Instant) {
        let mut founding = lock(&self.founding);
        let found = self.found.load_full();
        let gone: Vec<_> = found
            .iter()
            .filter(|(name, service)| match self.listing(name) {
                Listing::Exposed => {
                    founding.unlisted.remove(*name);
                    false
                }
                Listing::Hidden => true,
                Listing::Absent if service.is_empty() => {
                    let since = *founding.unlisted.entry(Arc::clone(name)).or_insert(now);
                    now.saturating_duration_since(since) >= LINGER
                }
                Listing::Absent => false,
            })
            .map(|(name, _)| Arc::clone(name))
            .collect();
        if gone.is_empty() {
            return;
        }
        let mut left = HashMap::clone(&found);
        for name in gone {
            left.remove(&name);
            founding.unlisted.remove(&name);
            if let Some(watcher) = founding.watchers.remove(&name) {
                watcher.abort();
            }
        }
        self.found.store(Arc::new(left));
    }

    fn listing(&self, name: &str) -> Listing {
        let mut listing = Listing::Absent;
        for catalog in self.catalogs.values() {
            if let Some(tags) = catalog.names.load().get(name) {
                if catalog.exposes(name, tags) {
                    return Listing::Exposed;
                }
                listing = Listing::Hidden;
            }
        }
        listing
    }
}

enum Listing {
    Exposed,
    Hidden,
    Absent,
}

impl CatalogView {
    fn exposes(&self, name: &str, tags: &[String]) -> bool {
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

async fn forget_unlisted(directory: std::sync::Weak<Directory>) {
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let Some(directory) = directory.upgrade() else {
            return;
        };
        directory.forget(Instant::now());
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
