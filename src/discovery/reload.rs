//! The directory of another config, around what the one before has: a service that both have goes on
//! with its endpoints, and so does each watcher that would be asked the same. Knows nothing of routes
//! but which services they name.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use tokio::time::Instant;

use super::{
    Directory,
    directory::lock,
    factory::{CatalogView, Found, ServiceFactory, StartError},
    tag_routes::Run,
    watched::Watchers,
};
use crate::{
    config::{self, Origin},
    registry::Registry,
    saved,
    service::{Service, Split},
};

/// What a directory of another config is made of. What can fail of it has been tried.
pub struct Prepared(ServiceFactory);

/// A directory that is to take the place of another one. Until it has, no watcher of a service is given
/// up, and nothing is said to services that both have: requests that go by the old routes call the old
/// endpoints. Routes that tags make change over before, so that none is missing in between.
#[must_use = "the watchers go on only where it has begun"]
pub struct Succession {
    before: Arc<Directory>,
    after: Arc<Directory>,
    renewals: Vec<Renewal>,
}

/// A service that goes on, and where its watchers are found and put.
struct Renewal {
    service: Arc<Service>,
    from: WatchersAt,
    to: WatchersAt,
    anew: Anew,
}

/// Where a directory has the watchers of a service.
#[derive(Clone)]
enum WatchersAt {
    /// By its name in the file.
    Declared(Arc<str>),
    /// By its name in the catalog.
    Found(Arc<str>),
}

/// Which watchers of a service begin anew.
#[derive(Default)]
struct Anew {
    registries: bool,
    checks: bool,
}

/// The services that a directory has, by their names in the file.
type Known = HashMap<Arc<str>, (Arc<Service>, WatchersAt)>;

impl Directory {
    /// What a directory of another config is made of, with these registries. Changes nothing. Must be
    /// called on the control plane's runtime.
    ///
    /// # Errors
    /// As for [`Directory::start`].
    pub fn prepare(
        before: &Self,
        config: &config::Config,
        registries: BTreeMap<Arc<str>, Arc<dyn Registry>>,
    ) -> Result<Prepared, StartError> {
        let maker = ServiceFactory::after(&before.maker, config, registries)?;
        maker.can_make(config)?;
        Ok(Prepared(maker))
    }

    /// The directory of another config. The one before has its watchers until the succession begins,
    /// and answers requests of its generation still. Must be called on the control plane's runtime.
    ///
    /// # Errors
    /// None that [`Directory::prepare`] or `Config` has not ruled out; then nothing has changed.
    pub fn after(
        before: &Arc<Self>,
        config: &config::Config,
        prepared: Prepared,
    ) -> Result<Succession, StartError> {
        let mut directory = Self::empty(prepared.0);
        directory.tagged_changed = Arc::clone(&before.tagged_changed);
        // One look for all that follows: requests find services meanwhile, and others are forgotten.
        let was_found = before.found.load_full();
        let mut known = before.known(&was_found);
        for name in config.declared().filter(|name| !known.contains_key(*name)) {
            directory.declare(name, &saved::Contents::default())?;
        }
        directory.follow_catalogs(config, &saved::Contents::default(), Some(before))?;
        // From here on nothing fails.
        let mut renewals = Vec::new();
        for name in config.declared() {
            if let Some((service, from)) = known.remove(name) {
                let to = WatchersAt::Declared(Arc::clone(name));
                let renewal = directory.renew(before, &service, from, to);
                let service = Arc::clone(&renewal.service);
                service.usage().keep();
                directory.declared.insert(Arc::clone(name), service);
                renewals.push(renewal);
            }
        }
        directory.splits = directory.split_routes(config, Some(before));
        renewals.extend(directory.keep_found(before, &was_found, &mut known));
        for task in std::mem::take(&mut *lock(&before.tasks)) {
            task.abort();
        }
        directory.keep_tagged(before);
        directory.follow_tags_if_any();
        Ok(Succession {
            before: Arc::clone(before),
            after: Arc::new(directory),
            renewals,
        })
    }

    /// Whether a service of this name goes on in the directory of another config. One that a template route has
    /// reached may, where there is such a route; and those of tags, whose routes their registry makes.
    pub fn goes_on(&self, name: &Arc<str>, next: &config::Config) -> bool {
        let mut declared = next.declared();
        let mut routes = next.routes.iter();
        let is_of_tags = || {
            let found = self.found.load();
            let mut found = found.values();
            !self.declared.contains_key(name) && !found.any(|service| service.name() == name)
        };
        declared.any(|declared| declared == name)
            || routes.any(|route| route.goal == config::Goal::Template)
            || is_of_tags()
    }

    /// All services but those of tags, where these were found.
    fn known(&self, found: &HashMap<Arc<str>, Arc<Service>>) -> Known {
        let found = found.iter().map(|(listed, service)| {
            let place = WatchersAt::Found(Arc::clone(listed));
            (Arc::clone(service.name()), (Arc::clone(service), place))
        });
        let declared = self.declared.iter().map(|(name, service)| {
            let place = WatchersAt::Declared(Arc::clone(name));
            (Arc::clone(name), (Arc::clone(service), place))
        });
        // A service that is both has its watchers as a declared one.
        found.chain(declared).collect()
    }

    /// A service as this config has it.
    fn renew(
        &self,
        before: &Self,
        service: &Arc<Service>,
        from: WatchersAt,
        to: WatchersAt,
    ) -> Renewal {
        let policy = Arc::clone(self.maker.policy(service.name()));
        let subsets = self.maker.subsets_of(service.name());
        let (service, anew) = self.maker.renew(&before.maker, service, policy, subsets);
        Renewal {
            service,
            from,
            to,
            anew,
        }
    }

    /// Goes on with what template routes have reached, as far as they may reach it still.
    fn keep_found(
        &mut self,
        before: &Self,
        was_found: &HashMap<Arc<str>, Arc<Service>>,
        known: &mut Known,
    ) -> Vec<Renewal> {
        let (mut found, mut renewals) = (HashMap::new(), Vec::new());
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
            } else if let Some((service, from)) = known.remove(name) {
                let to = WatchersAt::Found(Arc::clone(listed));
                let renewal = self.renew(before, &service, from, to);
                found.insert(Arc::clone(listed), Arc::clone(&renewal.service));
                renewals.push(renewal);
            }
        }
        self.found.store(Arc::new(found));
        renewals
    }

    /// Goes on with the routes that tags make, where they are still to make any.
    fn keep_tagged(&self, before: &Self) {
        let mut running = std::mem::take(&mut *lock(&before.running));
        let kept = std::mem::take(&mut running.0).into_iter();
        let kept = kept.filter_map(|(name, run)| {
            let view = self.catalogs.get(&run.wanted.registry);
            if view.is_none_or(|view| !view.for_tags) {
                return None;
            }
            let run = self.maker.renew_tagged(&before.maker, run)?;
            Some((name, run))
        });
        lock(&self.running).0 = kept.collect();
    }

    /// Makes the routes that tags ask for, where some may.
    fn follow_tags_if_any(&self) {
        if self.catalogs.values().any(|view| view.for_tags) {
            self.follow_tags(Instant::now(), &saved::Contents::default());
        }
    }

    /// Gives up the watchers of a service.
    fn take_watchers(&self, from: &WatchersAt) -> Watchers {
        let watchers = match from {
            WatchersAt::Declared(name) => lock(&self.watchers).remove(name),
            WatchersAt::Found(listed) => lock(&self.founding).watchers.remove(listed),
        };
        watchers.unwrap_or_default()
    }

    fn put_watchers(&self, to: WatchersAt, watchers: Watchers) {
        match to {
            WatchersAt::Declared(name) => lock(&self.watchers).insert(name, watchers),
            WatchersAt::Found(listed) => lock(&self.founding).watchers.insert(listed, watchers),
        };
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

    /// A service with this policy, and which of its watchers must begin anew for it.
    fn renew(
        &self,
        before: &Self,
        service: &Arc<Service>,
        policy: Arc<config::Service>,
        subsets: Vec<Arc<config::Subset>>,
    ) -> (Arc<Service>, Anew) {
        let mut names = policy.origin.registries().iter();
        let is_other = names.any(|name| self.is_other_than(before, name));
        if !is_other && service.is_as(&policy, &subsets) {
            return (Arc::clone(service), Anew::default());
        }
        let anew = Anew {
            registries: is_other || service.is_of_other_instances(&policy),
            checks: !are_checked_alike(service.policy(), &policy),
        };
        let tls = self.tls_of(&policy);
        let renewed = service.renewed(policy, tls, subsets, anew.registries);
        (renewed, anew)
    }

    /// The watchers of a service that goes on: those that it had, but for what begins anew. One that
    /// was forgotten meanwhile has none left.
    fn rewatch(&self, service: &Arc<Service>, anew: &Anew, mut watchers: Watchers) -> Watchers {
        let policy = service.policy();
        let has_none = watchers.registries.is_empty() && !policy.origin.registries().is_empty();
        if anew.registries || has_none {
            // There is a registry for each.
            watchers.follow(|| self.watch_all(service).unwrap_or_default());
        }
        if anew.checks || (watchers.checks.is_none() && policy.health.is_some()) {
            watchers.check(|| self.check(service));
        }
        watchers
    }

    /// The same for a route that tags make.
    fn renew_tagged(&self, before: &Self, mut run: Run) -> Option<Run> {
        let policy = Arc::new(self.tagged_policy(&run.wanted)?);
        let Origin::Registries { .. } = &policy.origin else {
            return None;
        };
        let (service, anew) = self.renew(before, &run.service, policy, Vec::new());
        run.service = service;
        if anew.registries {
            let parts = run.parts.subscribe();
            let watch = || self.watch_tagged(&run.service, &run.wanted, parts);
            run.watchers.follow(|| watch().into_iter().collect());
        }
        if anew.checks {
            run.watchers.check(|| self.check(&run.service));
        }
        Some(run)
    }
}

/// Whether the proxy's own checks of an endpoint are the same by both.
fn are_checked_alike(one: &config::Service, other: &config::Service) -> bool {
    let by = |policy: &config::Service| (policy.health.clone(), policy.pool.send_proxy);
    by(one) == by(other) && one.tls == other.tls
}

impl Succession {
    /// The directory that takes the place.
    pub fn directory(&self) -> Arc<Directory> {
        Arc::clone(&self.after)
    }

    /// Goes on with the watchers, once requests go by the new directory, and begins those that are
    /// asked for something else. The others end.
    pub fn begin(self) {
        let Self {
            before,
            after,
            renewals,
        } = self;
        for Renewal {
            service,
            from,
            to,
            anew,
        } in renewals
        {
            let watchers = before.take_watchers(&from);
            after.put_watchers(to, after.maker.rewatch(&service, &anew, watchers));
        }
        for (registry, view) in &before.catalogs {
            let same = after.catalogs.get(registry);
            if same.is_some_and(|same| Arc::ptr_eq(same, view))
                && let Some(watcher) = lock(&before.catalog_watchers).remove(registry)
            {
                lock(&after.catalog_watchers).insert(Arc::clone(registry), watcher);
            }
        }
        let splits = after.splits.values();
        let splits: HashMap<_, _> = splits.map(|split| (split.of(), split)).collect();
        for split in before.splits.values() {
            let after = splits.get(split.of());
            if !after.is_some_and(|after| after.goes_on_from(split)) {
                split.retire();
            }
        }
        before.abort();
        after.look_after_itself();
        // A catalog may have been read since the routes of its tags were made.
        after.follow_tags_if_any();
    }
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

#[cfg(test)]
mod tests {
    use std::{path::Path, time::Duration};

    use super::*;
    use crate::service::{drain, undrain};

    const HOUR: Duration = Duration::from_secs(3600);

    type Registries = BTreeMap<Arc<str>, Arc<dyn Registry>>;

    fn config(text: &str, base: &Path) -> config::Config {
        config::Config::parse(text, base).unwrap()
    }

    fn opened(config: &config::Config) -> Registries {
        let open = |(name, settings): (&Arc<str>, &config::Registry)| {
            let registry = crate::registry::open(name, &settings.kind).unwrap();
            (Arc::clone(name), registry)
        };
        config.registries.iter().map(open).collect()
    }

    fn start(config: &config::Config) -> (Arc<Directory>, Registries) {
        let registries = opened(config);
        let saved = saved::Contents::default();
        let directory = Directory::start(config, registries.clone(), &saved).unwrap();
        (directory, registries)
    }

    fn after(
        before: &Arc<Directory>,
        config: &config::Config,
        registries: &Registries,
    ) -> Succession {
        let prepared = Directory::prepare(before, config, registries.clone()).unwrap();
        Directory::after(before, config, prepared).unwrap()
    }

    fn ports(directory: &Directory, name: &str) -> Vec<u16> {
        let snapshot = directory.service(name).unwrap().main().snapshot();
        let endpoints = snapshot.endpoints.iter();
        endpoints.map(|one| one.id().address.port()).collect()
    }

    const LIST: &str = "[registry.list]\nkind = \"file\"\npath = \"list.toml\"\n";

    #[tokio::test]
    async fn other_endpoints_of_the_file_serve_once_requests_go_by_its_routes() {
        let folder = tempfile::tempdir().unwrap();
        let of = |port: u16| {
            let service = format!("[service.cart]\nendpoints = [\"127.0.0.1:{port}\"]\n");
            let text = format!("{LIST}{service}[[route]]\nservice = \"cart\"\n");
            config(&text, folder.path())
        };
        let (before, registries) = start(&of(1));
        let succession = after(&before, &of(2), &registries);
        let directory = succession.directory();
        assert_eq!(
            (ports(&before, "cart"), ports(&directory, "cart")),
            (vec![1], vec![1])
        );
        succession.begin();
        assert_eq!(ports(&directory, "cart"), [2]);
    }

    #[tokio::test]
    async fn a_found_service_is_watched_though_it_was_forgotten_while_the_file_declares_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("list.toml");
        std::fs::write(path, "[cart]\nendpoints = [\"127.0.0.1:1\"]\n").unwrap();
        let template =
            format!("{LIST}[[route]]\npath = \"/{{service}}\"\nservice = \"{{service}}\"\n");
        let (before, registries) = start(&config(&template, folder.path()));
        before.named(&"cart".into()).unwrap();
        let declares = format!("{template}[[route]]\npath = \"/c\"\nservice = \"cart\"\n");
        let next = config(&declares, folder.path());
        let succession = after(&before, &next, &registries);
        assert_eq!(
            lock(&before.founding).watchers.len(),
            1,
            "nothing is given up yet"
        );
        before.found.store(Arc::default());
        lock(&before.founding).watchers.clear();
        let directory = succession.directory();
        succession.begin();
        let watched = |directory: &Directory| lock(&directory.watchers)["cart"].registries.len();
        assert_eq!(watched(&directory), 1);
        // Where nothing has changed these go on.
        let again = after(&directory, &next, &registries);
        let latest = again.directory();
        again.begin();
        assert_eq!(watched(&latest), 1);
        assert!(lock(&directory.watchers).is_empty());
    }

    async fn until(is: impl Fn() -> bool) {
        while !is() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    #[tokio::test]
    async fn a_service_that_is_drained_is_not_forgotten_though_no_catalog_lists_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("list.toml");
        let two = "[cart]\nendpoints = [\"127.0.0.1:1\"]\n[hat]\nendpoints = [\"127.0.0.1:2\"]\n";
        std::fs::write(&path, two).unwrap();
        let text = format!(
            "{LIST}[defaults]\nguard = false\n\
             [[route]]\npath = \"/{{service}}\"\nservice = \"{{service}}\"\n"
        );
        let (directory, _) = start(&config(&text, folder.path()));
        let [cart, hat] = ["cart", "hat"].map(|name| directory.named(&name.into()).unwrap());
        until(|| !cart.is_empty() && !hat.is_empty()).await;
        drain(&cart, "127.0.0.1:1", HOUR, true).unwrap();
        std::fs::write(&path, "[other]\nendpoints = []\n").unwrap();
        let is_absent = |name| matches!(directory.listing(name), Found::Absent);
        until(|| is_absent("cart") && is_absent("hat") && cart.is_unregistered()).await;
        until(|| hat.is_empty()).await;
        let left = || {
            let now = Instant::now();
            directory.forget(now);
            directory.forget(now + HOUR);
            directory.found.load().keys().cloned().collect::<Vec<_>>()
        };
        assert_eq!(left(), ["cart".into()]);
        undrain(&cart, "127.0.0.1:1");
        assert!(left().is_empty());
    }

    #[tokio::test]
    async fn a_service_goes_on_where_the_file_names_it_or_a_template_may_reach_it() {
        let folder = tempfile::tempdir().unwrap();
        let of = |routes: &str| config(&format!("{LIST}{routes}"), folder.path());
        let (cart, hat) = (
            "[[route]]\npath = \"/c\"\nservice = \"cart\"\n",
            "[[route]]\npath = \"/h\"\nservice = \"hat\"\n",
        );
        let template = "[[route]]\npath = \"/{service}\"\nservice = \"{service}\"\n";
        let (directory, _) = start(&of(cart));
        for (routes, goes_on) in [(cart, true), (hat, false), (template, true)] {
            assert_eq!(directory.goes_on(&"cart".into(), &of(routes)), goes_on);
        }
    }

    #[tokio::test]
    async fn a_directory_that_does_not_come_to_its_place_leaves_the_watchers_where_they_are() {
        let folder = tempfile::tempdir().unwrap();
        let of = |drain: &str| {
            let text = format!(
                "{LIST}[service.cart]\ndrain = \"{drain}\"\n[[route]]\nservice = \"cart\"\n"
            );
            config(&text, folder.path())
        };
        let (before, registries) = start(&of("1s"));
        drop(after(&before, &of("2s"), &registries));
        assert_eq!(lock(&before.watchers)["cart"].registries.len(), 1);
        assert!(!lock(&before.watchers)["cart"].registries[0].is_finished());
    }
}
