//! All services of a proxy: those that proxy.toml declares, and those that template routes find
//! in a registry's catalog, which are made when the first request names them.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
use parking_lot::{Mutex, MutexGuard};
use tokio::{sync::watch as state, task::JoinHandle, time::Instant};

use super::{
    Tagged,
    factory::{CatalogOrigin, CatalogView, Found, ServiceFactory, StartError},
    tag_routes::{LINGER, Plan, Running},
    watched::{Watched, Watchers},
};
use crate::{
    config,
    registry::{Catalog, Registry, Watches, watch::WatchStatus},
    saved,
    service::{Service, Split, members::restore},
};

/// All services of a proxy, and their watchers.
pub struct Directory {
    pub(super) maker: ServiceFactory,
    /// Those that routes name outright, and fallbacks.
    pub(super) declared: BTreeMap<Arc<str>, Arc<Service>>,
    /// Their watchers.
    pub(super) watchers: Mutex<HashMap<Arc<str>, Watchers>>,
    /// How the requests of routes are parted, by the places of these routes in the file.
    pub(super) splits: BTreeMap<usize, Arc<Split>>,
    /// The catalogs that template routes and tags need, by registry.
    pub(super) catalogs: BTreeMap<Arc<str>, Arc<CatalogView>>,
    /// Those that template routes have reached.
    pub(super) found: ArcSwap<HashMap<Arc<str>, Arc<Service>>>,
    /// Their watchers.
    pub(super) catalog_watchers: Mutex<BTreeMap<Arc<str>, JoinHandle<()>>>,
    /// Serialises changes of `found`.
    pub(super) founding: Mutex<Founding>,
    /// Serialises changes of `tagged`.
    pub(super) running: Mutex<Running>,
    tagged: ArcSwap<Tagged>,
    pub(super) tagged_changed: Arc<state::Sender<()>>,
    pub(super) tasks: Mutex<Vec<JoinHandle<()>>>,
}

#[derive(Default)]
pub(super) struct Founding {
    /// The watchers of services in `found` that are not declared.
    pub(super) watchers: HashMap<Arc<str>, Watchers>,
    unlisted: HashMap<Arc<str>, Instant>,
}

/// What a template route's name leads to.
pub enum Lookup {
    /// A service; it may not have been read yet.
    Found(Arc<Service>),
    /// No such service is registered, or it may not be reached.
    Unknown,
    /// The catalog was never read, so that it is not known whether there is such a service.
    NotRead,
}

impl Directory {
    /// Makes the declared services and begins to watch them, and the catalogs of template routes.
    /// What was saved of before the start counts until the registries say something themselves;
    /// services that template routes had reached are made again of it. Must be called on the
    /// control plane's runtime.
    ///
    /// # Errors
    /// Where a registry is missing, or a service's TLS files cannot be used.
    pub fn start(
        config: &config::Config,
        registries: BTreeMap<Arc<str>, Arc<dyn Registry>>,
        saved: &saved::Contents,
    ) -> Result<Arc<Self>, StartError> {
        let mut directory = Self::empty(ServiceFactory::new(config, registries)?);
        for name in config.declared() {
            directory.declare(name, saved)?;
        }
        directory.splits = directory.split_routes(config, None);
        directory.follow_catalogs(config, saved, None)?;
        let directory = Arc::new(directory);
        directory.look_after_itself();
        directory.make_remembered(saved)?;
        Ok(directory)
    }

    pub(super) fn empty(maker: ServiceFactory) -> Self {
        Self {
            maker,
            declared: BTreeMap::new(),
            watchers: Mutex::default(),
            splits: BTreeMap::new(),
            catalogs: BTreeMap::new(),
            catalog_watchers: Mutex::default(),
            found: ArcSwap::default(),
            founding: Mutex::default(),
            running: Mutex::default(),
            tagged: ArcSwap::default(),
            tagged_changed: Arc::default(),
            tasks: Mutex::default(),
        }
    }

    /// Makes a declared service, unless it is there.
    pub(super) fn declare(
        &mut self,
        name: &Arc<str>,
        saved: &saved::Contents,
    ) -> Result<(), StartError> {
        if !self.declared.contains_key(name) {
            let Watched { service, watchers } = self.maker.make(name, saved)?;
            service.usage().keep();
            lock(&self.watchers).insert(Arc::clone(name), watchers);
            self.declared.insert(Arc::clone(name), service);
        }
        Ok(())
    }

    /// Begins to watch the catalogs that are needed; or goes on with one that another directory has.
    pub(super) fn follow_catalogs(
        &mut self,
        config: &config::Config,
        saved: &saved::Contents,
        before: Option<&Self>,
    ) -> Result<(), StartError> {
        let mut routes = config.routes.iter();
        let has_templates = routes.any(|route| route.goal == config::Goal::Template);
        for (registry, settings) in &config.registries {
            let is_default = config.defaults.origin.registries().contains(registry);
            let for_templates = has_templates && is_default && settings.kind.lists_services();
            let for_tags = settings.routes.is_some();
            if !for_templates && !for_tags {
                continue;
            }
            let same = before.filter(|before| !self.maker.is_other_than(&before.maker, registry));
            let known = same.and_then(|before| before.catalogs.get(registry));
            let goes_on = known.filter(|view| view.is_for(for_templates, for_tags, settings));
            if let Some(view) = goes_on {
                self.catalogs.insert(Arc::clone(registry), Arc::clone(view));
                continue;
            }
            let last = before.and_then(|before| before.catalogs.get(registry));
            let origin = match last {
                Some(last) => CatalogOrigin::Before(last),
                None => CatalogOrigin::Saved(saved.catalog(registry)),
            };
            let purpose = (for_templates, for_tags);
            let (view, task) = self.maker.watch_catalog(registry, purpose, origin)?;
            lock(&self.catalog_watchers).insert(Arc::clone(registry), task);
            self.catalogs.insert(Arc::clone(registry), view);
        }
        Ok(())
    }

    /// Begins the tasks that make and forget services.
    pub(super) fn look_after_itself(self: &Arc<Self>) {
        let mut tasks = Vec::new();
        if !self.catalogs.is_empty() {
            tasks.push(tokio::spawn(forget_unlisted(Arc::downgrade(self))));
        }
        for view in self.catalogs.values().filter(|view| view.for_tags) {
            let follow = follow_tags(Arc::downgrade(self), view.read.subscribe());
            tasks.push(tokio::spawn(follow));
        }
        *lock(&self.tasks) = tasks;
    }

    /// Makes what template routes had reached before the start, and what tags had made, as far as
    /// they may be reached still.
    fn make_remembered(&self, saved: &saved::Contents) -> Result<(), StartError> {
        let reached = saved.sets.iter().map(|set| &set.service);
        let undeclared = reached.filter(|name| !self.declared.contains_key(*name));
        for name in undeclared {
            if let Found::Exposed(name) = self.listing(name) {
                self.made(&name, saved)?;
            }
        }
        if self.catalogs.values().any(|view| view.for_tags) {
            self.follow_tags(Instant::now(), saved);
        }
        Ok(())
    }

    pub(super) fn split_routes(
        &self,
        config: &config::Config,
        before: Option<&Self>,
    ) -> BTreeMap<usize, Arc<Split>> {
        let known = before.map(|before| before.splits.values().map(|split| (split.of(), split)));
        let known: HashMap<_, _> = known.into_iter().flatten().collect();
        let routes = std::iter::zip(0.., &config.routes);
        let split = |(place, route): (usize, &config::Route)| {
            let config::Goal::Split(shares) = &route.goal else {
                return None;
            };
            let of = route.matching();
            let before = known.get(&*of).map(AsRef::as_ref);
            Some((place, Arc::new(self.split_after(of, before, shares))))
        };
        routes.filter_map(split).collect()
    }

    /// Ends all watchers, and waits until they have ended. Dropped, it ends them too.
    pub async fn stop(&self) {
        for task in self.abort() {
            // Aborted: that it says so is no news.
            let _ = task.await;
        }
    }

    pub(super) fn abort(&self) -> Vec<JoinHandle<()>> {
        let mut tasks = std::mem::take(&mut *lock(&self.tasks));
        tasks.extend(std::mem::take(&mut *lock(&self.catalog_watchers)).into_values());
        let declared = std::mem::take(&mut *lock(&self.watchers));
        let found = std::mem::take(&mut lock(&self.founding).watchers);
        let made = declared.into_values().chain(found.into_values());
        tasks.extend(made.flat_map(Watchers::all));
        tasks.extend(lock(&self.running).stop().flat_map(Watchers::all));
        for task in &tasks {
            task.abort();
        }
        tasks
    }

    /// A service that a route names outright, or that is a fallback.
    pub fn declared(&self, name: &str) -> Option<&Arc<Service>> {
        self.declared.get(name)
    }

    /// How the requests of routes are parted among services, by the places of these routes in the
    /// file. They go on with their turns for as long as the directory lives.
    pub fn splits(&self) -> &BTreeMap<usize, Arc<Split>> {
        &self.splits
    }

    /// The service that a template route's request names: one that some catalog lists and
    /// exposes.
    pub fn lookup(&self, name: &str) -> Lookup {
        self.resolve(name).unwrap_or_else(|listed| {
            // `Config` has ruled out that it names a registry that is none.
            let found = self.named(&listed);
            found.map_or(Lookup::Unknown, Lookup::Found)
        })
    }

    /// What [`Self::lookup`] leads to, of one that asks and makes no request: no service is made that
    /// would be watched from then on.
    ///
    /// # Errors
    /// A service like the one that the first request would make, which is not watched.
    pub fn peek(&self, name: &str) -> Result<Lookup, Arc<Service>> {
        self.resolve(name).or_else(|listed| {
            let written = self.maker.as_written(&listed);
            match self.declared.get(written) {
                Some(declared) => Ok(Lookup::Found(Arc::clone(declared))),
                None => Err(self.maker.unwatched(written)),
            }
        })
    }

    /// What a name leads to, without a service being made for it.
    ///
    /// # Errors
    /// The name as a catalog has it, where no request has named the service yet.
    fn resolve(&self, name: &str) -> Result<Lookup, Arc<str>> {
        if let Some(service) = self.found.load().get(name) {
            return Ok(Lookup::Found(Arc::clone(service)));
        }
        for catalog in self.template_catalogs() {
            if let Found::Exposed(listed) = catalog.find(name) {
                // In the letter case of a catalog it may have been named before.
                return match self.found.load().get(&listed) {
                    Some(service) => Ok(Lookup::Found(Arc::clone(service))),
                    None => Err(listed),
                };
            }
        }
        let mut catalogs = self.template_catalogs();
        Ok(match catalogs.all(|catalog| *catalog.read.borrow()) {
            true => Lookup::Unknown,
            false => Lookup::NotRead,
        })
    }

    /// Waits until every catalog was read once, but not for longer than `limit`.
    pub async fn wait_for_catalogs(&self, limit: Duration) {
        self.wait_for_catalogs_of(|_| true, limit).await;
    }

    /// The same for catalogs of these registries alone.
    pub(crate) async fn wait_for_catalogs_of(
        &self,
        which: impl Fn(&Arc<str>) -> bool,
        limit: Duration,
    ) {
        let all_read = async {
            let catalogs = self.catalogs.iter();
            let catalogs = catalogs.filter(|(name, view)| view.for_templates && which(name));
            for (_, catalog) in catalogs {
                // Its sender lives as long as the directory.
                let _ = catalog.read.subscribe().wait_for(|read| *read).await;
            }
        };
        // Too late is answered by the next lookup.
        let _ = tokio::time::timeout(limit, all_read).await;
    }

    /// The catalogs that template routes look into.
    pub(super) fn template_catalogs(&self) -> impl Iterator<Item = &Arc<CatalogView>> {
        self.catalogs
            .values()
            .filter(|catalog| catalog.for_templates)
    }

    /// The routes that tags make now.
    pub fn tagged(&self) -> Arc<Tagged> {
        self.tagged.load_full()
    }

    /// Wakes whenever the routes that tags make have changed.
    pub fn tagged_changes(&self) -> state::Receiver<()> {
        self.tagged_changed.subscribe()
    }

    /// Wakes whenever a registry has said something, be it that it cannot be read.
    pub fn heard(&self) -> state::Receiver<()> {
        self.maker.heard.subscribe()
    }

    /// What services have where nothing else is said.
    pub fn defaults(&self) -> &config::Service {
        &self.maker.defaults
    }

    /// The service of this name, if a route or a request has named it.
    pub fn service(&self, name: &str) -> Option<Arc<Service>> {
        let known = self.declared.get(name).cloned();
        known
            .or_else(|| self.found.load().get(name).cloned())
            .or_else(|| {
                let tagged = self.tagged.load();
                let services = tagged.routes.iter().map(|route| &route.service);
                let mut services = services.filter(|service| **service.name() == *name);
                services.next().cloned()
            })
    }

    /// Does something with each service, in any order, and returns how many there are. Makes no
    /// list of them.
    pub fn each(&self, mut act: impl FnMut(&Service)) -> u64 {
        let (found, tagged) = (self.found.load(), self.tagged.load());
        let made = found.iter();
        let made = made.filter(|(name, _)| !self.declared.contains_key(*name));
        let services = self.declared.values().chain(made.map(|(_, made)| made));
        let services = services.chain(tagged.routes.iter().map(|route| &route.service));
        services.map(|service| act(service)).count() as u64
    }

    /// The declared services of which nothing was read yet, or not all.
    pub fn awaited(&self) -> Vec<Arc<Service>> {
        let declared = self.declared.values();
        let awaited = declared.filter(|service| !service.is_settled());
        awaited.cloned().collect()
    }

    /// All services, the declared ones first.
    pub fn services(&self) -> Vec<Arc<Service>> {
        let found = self.found.load();
        let mut made: Vec<_> = found
            .values()
            .filter(|service| !self.declared.contains_key(service.name()))
            .cloned()
            .collect();
        made.sort_by(|a, b| a.name().cmp(b.name()));
        let tagged = self.tagged.load();
        let tagged = tagged.routes.iter().map(|route| Arc::clone(&route.service));
        let declared = self.declared.values().cloned();
        declared.chain(made).chain(tagged).collect()
    }

    /// The catalogs that are watched: the registry's name, its watcher and the services it lists.
    pub fn catalogs(&self) -> impl Iterator<Item = (&Arc<str>, &WatchStatus, Arc<Catalog>)> {
        self.catalogs
            .iter()
            .map(|(name, view)| (name, &*view.status, view.names.load_full()))
    }

    /// When a registry's catalog was confirmed, where what is known of it is from before the start.
    pub fn remembered_catalog(&self, registry: &str) -> Option<SystemTime> {
        self.catalogs.get(registry)?.remembered()
    }

    /// How the watches of each registry stand that cannot hold any number of them.
    pub fn watches(&self) -> impl Iterator<Item = (&Arc<str>, Watches)> {
        self.maker.watches()
    }

    /// Wakes when a set or a catalog has changed; one who waits, once.
    pub(super) async fn changed(&self) {
        self.maker.changes.notified().await;
    }

    /// What is worth keeping over a restart.
    pub(crate) fn to_save(&self) -> saved::Contents {
        let services = self.services();
        let keeps = |registry: &str| self.maker.keeps(registry);
        let catalogs = self.catalogs.iter();
        saved::Contents {
            sets: services
                .iter()
                .flat_map(|service| restore::to_save(service, keeps))
                .collect(),
            catalogs: catalogs
                .filter(|(registry, _)| keeps(registry))
                .filter_map(|(registry, view)| view.to_save(registry))
                .collect(),
            // The store knows them.
            registries: BTreeMap::new(),
        }
    }

    /// Declared services of which their registries have never heard.
    pub fn unregistered(&self) -> Vec<String> {
        let services = self.declared.values();
        let services = services.filter(|service| service.is_unregistered());
        services.map(|service| service.name().to_string()).collect()
    }

    /// What was never read: declared services by name, catalogs by their registry's. What is known
    /// from before the start counts as read, unless its registry refuses to say more.
    pub fn unread(&self) -> Vec<String> {
        let named = |what: String, is_known: bool, refusal: Option<String>| match refusal {
            Some(why) => Some(format!("{what} ({why})")),
            None => (!is_known).then_some(what),
        };
        let services = self.declared.values().filter_map(|service| {
            let what = format!("service {}", service.name());
            named(what, service.is_settled(), restore::refusal(service))
        });
        let catalogs = self.catalogs.iter().filter_map(|(name, view)| {
            let refusal = view.remembered().and_then(|_| view.status.refusal());
            named(format!("catalog of {name}"), view.is_known(), refusal)
        });
        services.chain(catalogs).collect()
    }

    /// Whether some of what is known from before the start is not confirmed or refuted yet: its
    /// registry was asked, and nothing came of that so far.
    pub fn is_unconfirmed(&self) -> bool {
        let mut services = self.declared.values();
        let mut catalogs = self.catalogs.values();
        services.any(|service| restore::is_unconfirmed(service))
            || catalogs.any(|view| view.remembered().is_some() && view.status.is_awaited())
    }

    /// The service of this name. The first request for it has it made, whether a catalog lists it or
    /// not.
    ///
    /// # Errors
    /// Where its registry is missing.
    pub fn named(&self, name: &Arc<str>) -> Result<Arc<Service>, StartError> {
        self.made(name, &saved::Contents::default())
    }

    fn made(&self, name: &Arc<str>, saved: &saved::Contents) -> Result<Arc<Service>, StartError> {
        // Other requests ask for it in another letter case than the catalog has it.
        if let Some(service) = self.found.load().get(name) {
            return Ok(Arc::clone(service));
        }
        let mut founding = lock(&self.founding);
        // Another request may have been first.
        if let Some(service) = self.found.load().get(name) {
            return Ok(Arc::clone(service));
        }
        let written = self.maker.as_written(name);
        let service = if let Some(declared) = self.declared.get(written) {
            Arc::clone(declared)
        } else {
            let Watched { service, watchers } = self.maker.make(written, saved)?;
            founding.watchers.insert(Arc::clone(name), watchers);
            service
        };
        let mut found = HashMap::clone(&self.found.load());
        found.insert(Arc::clone(name), Arc::clone(&service));
        self.found.store(Arc::new(found));
        Ok(service)
    }

    /// Makes the routes that the catalogs' tags ask for now, and says so where they differ.
    pub(super) fn follow_tags(&self, now: Instant, saved: &saved::Contents) {
        let mut plan = Plan::default();
        let views = self.catalogs.iter().filter(|(_, view)| view.for_tags);
        for (registry, view) in views {
            let mut names = Catalog::clone(&view.names.load());
            names.retain(|name, tags| view.exposes(name, tags));
            plan.add(registry, &names);
        }
        let mut running = lock(&self.running);
        running.follow(&plan, now, |name, wanted, parts| {
            self.maker.make_tagged(name, wanted, parts, saved)
        });
        let tagged = running.tagged(&plan);
        let before = self.tagged.swap(Arc::new(tagged));
        if !before.routes_like(&self.tagged.load()) {
            self.tagged_changed.send_replace(());
        }
    }

    /// Forgets services that no catalog lists, at once where they may no longer be reached, and
    /// after [`LINGER`] where they have no endpoint any more, and nothing of them was changed for a while.
    pub(super) fn forget(&self, now: Instant) {
        let mut founding = lock(&self.founding);
        let found = self.found.load_full();
        let gone: Vec<_> = found
            .iter()
            .filter(|(name, service)| match self.listing(name) {
                Found::Exposed(_) => {
                    founding.unlisted.remove(*name);
                    false
                }
                Found::Hidden => true,
                // With it a drain of an endpoint would end that may come back.
                Found::Absent if service.is_changed_for_a_while() => {
                    founding.unlisted.remove(*name);
                    false
                }
                Found::Absent if service.is_empty() => {
                    let since = *founding.unlisted.entry(Arc::clone(name)).or_insert(now);
                    now.saturating_duration_since(since) >= LINGER
                }
                Found::Absent => false,
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
            founding.watchers.remove(&name);
        }
        self.found.store(Arc::new(left));
    }

    pub(super) fn listing(&self, name: &str) -> Found {
        let mut listing = Found::Absent;
        for catalog in self.template_catalogs() {
            match catalog.find(name) {
                exposed @ Found::Exposed(_) => return exposed,
                Found::Hidden => listing = Found::Hidden,
                Found::Absent => {}
            }
        }
        listing
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        self.abort();
    }
}

async fn forget_unlisted(directory: std::sync::Weak<Directory>) {
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let Some(directory) = directory.upgrade() else {
            return;
        };
        directory.forget(Instant::now());
        if !lock(&directory.running).is_empty() {
            directory.follow_tags(Instant::now(), &saved::Contents::default());
        }
    }
}

/// Makes the routes of the tags anew whenever a catalog was read.
async fn follow_tags(directory: std::sync::Weak<Directory>, mut read: state::Receiver<bool>) {
    // Its sender lives as long as the directory.
    while read.changed().await.is_ok() {
        let Some(directory) = directory.upgrade() else {
            return;
        };
        directory.follow_tags(Instant::now(), &saved::Contents::default());
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock()
}
