//! The directory of another config, around what the one before has: a service that both have goes on
//! with its endpoints, and so does each watcher that would be asked the same. Knows nothing of routes
//! but which services they name.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use tokio::time::Instant;

use super::{
    Directory,
    directory::lock,
    factory::{CatalogView, Found, ServiceFactory, StartError},
    tag_routes::Run,
    watched::Watched,
};
use crate::{
    config::{self, Origin},
    registry::Registry,
    saved,
    service::Split,
};

impl Directory {
    /// The directory of another config, with these registries; the one before gives up its watchers, and
    /// answers requests of its generation still. Must be called on the control plane's runtime.
    ///
    /// # Errors
    /// As for [`Directory::start`]; then nothing has changed.
    pub fn after(
        before: &Self,
        config: &config::Config,
        registries: BTreeMap<Arc<str>, Arc<dyn Registry>>,
    ) -> Result<Arc<Self>, StartError> {
        let maker = ServiceFactory::after(&before.maker, config, registries)?;
        maker.can_make(config)?;
        let mut directory = Self::empty(maker);
        directory.tagged_changed = Arc::clone(&before.tagged_changed);
        let names = before.names();
        for name in config.declared().filter(|name| !names.contains(*name)) {
            directory.declare(name, &saved::Contents::default())?;
        }
        directory.follow_catalogs(config, &saved::Contents::default(), Some(before))?;
        // From here on nothing fails.
        let mut known = before.hand_over(&directory);
        for name in config.declared() {
            if let Some(watched) = known.remove(name) {
                let Watched { service, watchers } = directory.goes_on(before, name, watched);
                service.usage().keep();
                lock(&directory.watchers).insert(Arc::clone(name), watchers);
                directory.declared.insert(Arc::clone(name), service);
            }
        }
        directory.splits = directory.split_routes(config, Some(before));
        directory.keep_found(before, &mut known);
        directory.keep_tagged(before);
        known
            .into_values()
            .for_each(|watched| watched.watchers.abort());
        let directory = Self::begin(directory);
        if directory.catalogs.values().any(|view| view.for_tags) {
            directory.follow_tags(Instant::now(), &saved::Contents::default());
        }
        Ok(directory)
    }

    /// The names of the services that are declared, or that requests have named.
    fn names(&self) -> HashSet<Arc<str>> {
        let found = self.found.load();
        let found = found.values().map(|service| service.name());
        self.declared.keys().chain(found).cloned().collect()
    }

    /// Gives up the watchers of all services, and of the catalogs that the directory `to` has as well;
    /// and ends its own tasks. A service goes by its name in the file.
    fn hand_over(&self, to: &Self) -> HashMap<Arc<str>, Watched> {
        for (registry, view) in &self.catalogs {
            let same = to.catalogs.get(registry);
            if same.is_some_and(|same| Arc::ptr_eq(same, view))
                && let Some(watcher) = lock(&self.catalog_watchers).remove(registry)
            {
                lock(&to.catalog_watchers).insert(Arc::clone(registry), watcher);
            }
        }
        for (_, watcher) in std::mem::take(&mut *lock(&self.catalog_watchers)) {
            watcher.abort();
        }
        for task in std::mem::take(&mut *lock(&self.tasks)) {
            task.abort();
        }
        let mut founding = lock(&self.founding);
        let mut watchers = lock(&self.watchers);
        let mut known = HashMap::new();
        for (name, service) in &self.declared {
            let watched = Watched {
                service: Arc::clone(service),
                watchers: watchers.remove(name).unwrap_or_default(),
            };
            known.insert(Arc::clone(name), watched);
        }
        for (listed, service) in self.found.load().iter() {
            if !known.contains_key(service.name()) {
                let watched = Watched {
                    service: Arc::clone(service),
                    watchers: founding.watchers.remove(listed).unwrap_or_default(),
                };
                known.insert(Arc::clone(service.name()), watched);
            }
        }
        known
    }

    /// A service as this config has it.
    fn goes_on(&self, before: &Self, name: &Arc<str>, watched: Watched) -> Watched {
        let policy = Arc::clone(self.maker.policy(name));
        self.maker.renew(&before.maker, watched, policy, true)
    }

    /// Goes on with what template routes have reached, as far as they may reach it still.
    fn keep_found(&mut self, before: &Self, known: &mut HashMap<Arc<str>, Watched>) {
        let mut found = HashMap::new();
        let was_found = before.found.load();
        let declared = before.declared.keys().map(|name| (name, name));
        let listed = was_found
            .iter()
            .map(|(listed, service)| (listed, service.name()));
        for (listed, name) in listed.chain(declared) {
            let may_be_reached = match self.listing(listed) {
                Found::Exposed(_) => true,
                // It may have endpoints still.
                Found::Absent => {
                    was_found.contains_key(listed) && self.template_catalogs().next().is_some()
                }
                Found::Hidden => false,
            };
            if !may_be_reached || found.contains_key(listed) {
                continue;
            }
            if let Some(service) = self.declared.get(self.maker.as_written(listed)) {
                found.insert(Arc::clone(listed), Arc::clone(service));
            } else if let Some(watched) = known.remove(name) {
                let Watched { service, watchers } = self.goes_on(before, name, watched);
                let mut founding = lock(&self.founding);
                founding.watchers.insert(Arc::clone(listed), watchers);
                found.insert(Arc::clone(listed), service);
            }
        }
        self.found.store(Arc::new(found));
    }

    /// Goes on with the routes that tags make, where they are still to make any.
    fn keep_tagged(&self, before: &Self) {
        let mut running = std::mem::take(&mut *lock(&before.running));
        let kept = std::mem::take(&mut running.0).into_iter();
        let kept = kept.filter_map(|(name, run)| {
            let view = self.catalogs.get(&run.wanted.registry);
            if view.is_none_or(|view| !view.for_tags) {
                run.watchers.abort();
                return None;
            }
            let run = self.maker.renew_tagged(&before.maker, run)?;
            Some((name, run))
        });
        lock(&self.running).0 = kept.collect();
    }

    /// The split of a route, with the counts and turns of the one before.
    pub(super) fn split_after(
        &self,
        of: String,
        before: Option<&Split>,
        shares: &[config::Share],
    ) -> Split {
        let shares = shares.iter().map(|share| {
            let service = Arc::clone(&self.declared[&share.service]);
            (service, share.weight)
        });
        self.maker.split(of, shares, before)
    }
}

impl ServiceFactory {
    /// What the services of another config are made of, with these registries.
    fn after(
        before: &Self,
        config: &config::Config,
        registries: BTreeMap<Arc<str>, Arc<dyn Registry>>,
    ) -> Result<Self, StartError> {
        let mut factory = Self::with_tls(config, registries, &before.tls)?;
        factory.prober = Arc::clone(&before.prober);
        factory.changes = Arc::clone(&before.changes);
        factory.heard = Arc::clone(&before.heard);
        Ok(factory)
    }

    /// Whether there is a registry for each service that may be called.
    fn can_make(&self, config: &config::Config) -> Result<(), StartError> {
        let mut routes = config.routes.iter();
        let any = routes.any(|route| route.goal == config::Goal::Template);
        let reached = any.then_some(&config.defaults).into_iter();
        let described = config.services.values().filter(|_| any);
        let reached = reached.chain(described.map(AsRef::as_ref));
        let declared = config.declared().map(|name| &**self.policy(name));
        let policies = declared.chain(reached);
        let mut names = policies.flat_map(|policy| policy.origin.registries());
        names.try_for_each(|name| self.registry(name).map(|_| ()))
    }

    /// Whether what a registry says of a service is to be watched anew: it is another one than before, or
    /// is followed in another way.
    pub(super) fn is_other_than(&self, before: &Self, registry: &str) -> bool {
        let opened = |factory: &Self| factory.registries.get(registry).cloned();
        let staleness = |factory: &Self| {
            let settings = factory.settings.get(registry);
            settings.map(|settings| settings.max_staleness)
        };
        let is_same = match (opened(before), opened(self)) {
            (Some(before), Some(now)) => Arc::ptr_eq(&before, &now),
            _ => false,
        };
        !is_same || staleness(before) != staleness(self)
    }

    /// A service with this policy, which is watched anew where that must be.
    fn renew(
        &self,
        before: &Self,
        watched: Watched,
        policy: Arc<config::Service>,
        has_subsets: bool,
    ) -> Watched {
        let Watched {
            service,
            mut watchers,
        } = watched;
        let subsets = match has_subsets {
            true => self.subsets_of(service.name()),
            false => Vec::new(),
        };
        let mut names = policy.origin.registries().iter();
        let is_other = names.any(|name| self.is_other_than(before, name));
        if !is_other && service.is_as(&policy, &subsets) {
            return Watched { service, watchers };
        }
        let is_asked_otherwise = is_other || service.is_of_other_instances(&policy);
        let has_other_checks = !are_checked_alike(service.policy(), &policy);
        let tls = self.tls_of(&policy);
        let renewed = service.renewed(policy, tls, subsets, is_asked_otherwise);
        if is_asked_otherwise {
            watchers.registries.drain(..).for_each(|task| task.abort());
            // There is a registry for each.
            watchers.registries = self.watch_all(&renewed).unwrap_or_default();
        }
        if has_other_checks {
            watchers.checks.take().iter().for_each(|task| task.abort());
            watchers.checks = self.check(&renewed);
        }
        Watched {
            service: renewed,
            watchers,
        }
    }

    /// The same for a route that tags make.
    fn renew_tagged(&self, before: &Self, run: Run) -> Option<Run> {
        let policy = Arc::new(self.tagged_policy(&run.wanted)?);
        let Origin::Registries { names, .. } = &policy.origin else {
            return None;
        };
        let is_other = names.iter().any(|name| self.is_other_than(before, name));
        let mut run = run;
        if !is_other && run.service.is_as(&policy, &[]) {
            return Some(run);
        }
        let has_other_checks = !are_checked_alike(run.service.policy(), &policy);
        let tls = self.tls_of(&policy);
        run.service = run.service.renewed(policy, tls, [], is_other);
        if is_other {
            let tasks = &mut run.watchers.registries;
            tasks.drain(..).for_each(|task| task.abort());
            let parts = run.parts.subscribe();
            tasks.extend(self.watch_tagged(&run.service, &run.wanted, parts));
        }
        if has_other_checks {
            let checks = &mut run.watchers.checks;
            checks.take().iter().for_each(|task| task.abort());
            *checks = self.check(&run.service);
        }
        Some(run)
    }
}

/// Whether the proxy's own checks of an endpoint are the same by both.
fn are_checked_alike(one: &config::Service, other: &config::Service) -> bool {
    let by = |policy: &config::Service| (policy.health.clone(), policy.pool.send_proxy);
    by(one) == by(other) && one.tls == other.tls
}

impl CatalogView {
    /// Whether it is followed for the same, and shows the same.
    pub(super) fn is_for(
        &self,
        for_templates: bool,
        for_tags: bool,
        settings: &config::Registry,
    ) -> bool {
        (self.for_templates, self.for_tags) == (for_templates, for_tags)
            && self.exposes_as(settings)
    }
}
