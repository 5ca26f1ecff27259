//! Makes services and catalogs, and lets them have what their registries say. Knows nothing of which
//! services there are.

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::SystemTime,
};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::{
    runtime::Handle,
    sync::{Notify, watch as state},
    task::JoinHandle,
};

use super::{
    tag_routes::Wanted,
    watched::{Watched, Watchers},
};
use crate::{
    config::{self, Origin, Subset},
    instance::{InstanceSet, in_any_case},
    registry::{
        Catalog, Registry, ServiceQuery, Source, Watches,
        consul::in_one_spelling,
        merged::{Merged, Part},
        watch::{self, Event, Staleness, WatchStatus},
    },
    saved,
    service::{
        Service, Split,
        health::{elsewhere, follow, prober::Prober},
        members::{
            MemberEvent,
            inquiry::Inquiry,
            restore::{self, answered},
            shrink_guard,
        },
    },
    tls::TlsError,
    upstream::Tls,
};

/// What services and catalogs are made of.
pub(super) struct ServiceFactory {
    workers: usize,
    control: Handle,
    pub(super) registries: BTreeMap<Arc<str>, Arc<dyn Registry>>,
    pub(super) settings: BTreeMap<Arc<str>, config::Registry>,
    /// What services have where nothing else is said.
    pub(super) defaults: Arc<config::Service>,
    described: BTreeMap<Arc<str>, Arc<config::Service>>,
    /// The names in the file that have capital letters, by the one that stands for all spellings,
    /// where a template's registry takes any.
    spellings: BTreeMap<String, Arc<str>>,
    /// Which subsets routes want, of whom.
    subsets: Vec<(config::Goal, Arc<Subset>)>,
    /// One for all services with the same settings.
    pub(super) tls: HashMap<config::EndpointTls, Arc<Tls>>,
    pub(super) prober: Arc<Prober>,
    /// Told whenever a set or a catalog has changed.
    pub(super) changes: Arc<Notify>,
    /// Told whenever a registry has said something, be it that it cannot be read.
    pub(super) heard: Arc<state::Sender<()>>,
}

/// A registry's catalog, and what of it may be reached.
pub(super) struct CatalogView {
    /// Whether template routes reach what it lists.
    pub(super) for_templates: bool,
    /// Whether its tags make routes.
    pub(super) for_tags: bool,
    expose: config::Expose,
    /// Whether names are to be compared in any case, as the registry does.
    any_case: bool,
    pub(super) names: ArcSwap<Catalog>,
    pub(super) read: state::Sender<bool>,
    /// When the registry said what is in `names`, where that was before the start.
    remembered: Mutex<Option<SystemTime>>,
    pub(super) status: Arc<WatchStatus>,
}

/// What a catalog is until its registry lists its services.
pub(super) enum CatalogOrigin<'a> {
    /// What was saved of it before the start, if anything was.
    Saved(Option<&'a saved::Catalog>),
    /// What another view of it shows.
    Before(&'a CatalogView),
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

impl ServiceFactory {
    /// What is watched is watched on the runtime in which this is called.
    pub(super) fn new(
        config: &config::Config,
        registries: BTreeMap<Arc<str>, Arc<dyn Registry>>,
    ) -> Result<Self, StartError> {
        Self::with_tls(config, registries, &HashMap::new())
    }

    /// The same with files that were read before, where the settings are the same.
    pub(super) fn with_tls(
        config: &config::Config,
        registries: BTreeMap<Arc<str>, Arc<dyn Registry>>,
        opened: &HashMap<config::EndpointTls, Arc<Tls>>,
    ) -> Result<Self, StartError> {
        Ok(Self {
            workers: config.workers.get(),
            control: Handle::current(),
            registries,
            settings: config.registries.clone(),
            defaults: Arc::new(config.defaults.clone()),
            described: config.services.clone(),
            spellings: spellings(config),
            subsets: wanted_subsets(config),
            tls: open_tls(config, opened)?,
            prober: Arc::default(),
            changes: Arc::default(),
            heard: Arc::default(),
        })
    }

    /// A service, and its watchers. Until its registries say something it has what was saved.
    pub(super) fn make(
        &self,
        name: &Arc<str>,
        saved: &saved::Contents,
    ) -> Result<Watched, StartError> {
        let subsets = self.subsets_of(name);
        let service = self.service(name, Arc::clone(self.policy(name)), subsets);
        self.remember(&service, saved);
        let registries = self.watch_all(&service)?;
        let checks = self.check(&service);
        Ok(Watched {
            service,
            watchers: Watchers::new(registries, checks),
        })
    }

    /// The service that [`Self::make`] would make, without what its registries say.
    pub(super) fn unwatched(&self, name: &Arc<str>) -> Arc<Service> {
        let service = self.service(name, Arc::clone(self.policy(name)), self.subsets_of(name));
        Self::fix(&service);
        service
    }

    /// Lets a service have what stands in the file.
    fn fix(service: &Arc<Service>) {
        if let Origin::Inline(instances) = &service.policy().origin {
            shrink_guard::apply(service, MemberEvent::Fixed(instances.clone()));
        }
    }

    /// Lets a service have what its origin says: at once what stands in the file, and what its
    /// registries say from now on.
    pub(super) fn watch_all(
        &self,
        service: &Arc<Service>,
    ) -> Result<Vec<JoinHandle<()>>, StartError> {
        let origin = &service.policy().origin;
        Self::fix(service);
        let mut watchers = origin
            .registries()
            .iter()
            .enumerate()
            .map(|(place, registry)| self.watch(service, place, registry))
            .collect::<Result<Vec<_>, _>>()?;
        for name in origin.registries() {
            let (registry, _) = self.registry(name)?;
            if let Some(other) = registry.other_host() {
                let of = service.reference();
                let looking = elsewhere::watch(of, Arc::clone(name), other);
                watchers.push(self.control.spawn(looking));
            }
        }
        Ok(watchers)
    }

    /// Begins the service's own checks of its endpoints, where it has any.
    pub(super) fn check(&self, service: &Arc<Service>) -> Option<JoinHandle<()>> {
        let health = service.policy().health.clone()?;
        let prober = Arc::clone(&self.prober);
        // Ends with the service, too.
        let checking = follow::run(service.reference(), health, prober);
        Some(self.control.spawn(checking))
    }

    fn remember(&self, service: &Arc<Service>, saved: &saved::Contents) {
        let registries = service.policy().origin.registries();
        for (place, registry) in registries.iter().enumerate() {
            let settings = self.settings.get(registry);
            if let (Some(settings), Some(set)) = (settings, saved.set(service.name(), registry)) {
                let event = restore::remembered(service, place, set, settings.max_staleness);
                if let Some(event) = event {
                    shrink_guard::apply(service, event);
                }
            }
        }
    }

    /// Whether what this registry says is worth keeping: the embedded one keeps it itself.
    pub(super) fn keeps(&self, registry: &str) -> bool {
        let settings = self.settings.get(registry);
        settings.is_some_and(|settings| settings.kind.is_elsewhere())
    }

    /// Begins to watch what one of a service's registries says of it.
    fn watch(
        &self,
        service: &Arc<Service>,
        place: usize,
        registry: &Arc<str>,
    ) -> Result<JoinHandle<()>, StartError> {
        let (registry, settings) = self.registry(registry)?;
        service.may_ask_again(place, Inquiry::new(registry, None));
        let source = registry.service(ServiceQuery {
            name: service.registered_name().to_owned(),
            tags: service.policy().tags.clone(),
            usage: Arc::clone(service.usage()),
            consistent: false,
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
        let (follows, known) = (service.reference(), Arc::clone(&status));
        let heard = Arc::clone(&self.heard);
        let (round, has_earlier_word) = restore::watched_again(service, place);
        let staleness = Staleness {
            max: settings.max_staleness,
            has_earlier_word,
        };
        let watching = watch::watch(source, status, staleness, move |event| {
            if let Event::State(set) = &event {
                known.note_state(set.instances.len(), set.skipped.clone());
            }
            if let Some(service) = follows.upgrade() {
                shrink_guard::hear(&service, round, MemberEvent::Registry(place, event));
            }
            heard.send_replace(());
        });
        let Some(left) = restore::counts_for(service, place, settings.max_staleness) else {
            return self.control.spawn(watching);
        };
        let (remembers, heard_of_that) = (service.reference(), Arc::clone(&self.heard));
        self.control.spawn(async move {
            let forgets = async {
                tokio::time::sleep(left).await;
                if let Some(service) = remembers.upgrade() {
                    restore::give_up(&service, place);
                    heard_of_that.send_replace(());
                }
            };
            tokio::join!(watching, forgets);
        })
    }

    fn service(
        &self,
        name: &Arc<str>,
        policy: impl Into<Arc<config::Service>>,
        subsets: Vec<Arc<Subset>>,
    ) -> Arc<Service> {
        let policy = policy.into();
        let tls = self.tls_of(&policy);
        let changes = Arc::clone(&self.changes);
        let service = Service::new(
            Arc::clone(name),
            policy,
            tls,
            self.workers,
            subsets,
            changes,
        );
        Arc::new(service)
    }

    /// How the endpoints of a service with this policy are called that speak TLS.
    pub(super) fn tls_of(&self, policy: &config::Service) -> Arc<Tls> {
        let tls = self.tls.get(&policy.tls);
        Arc::clone(tls.expect("opened for the defaults and each described service"))
    }

    /// Each subset once that some route wants of a service. A template may lead to any.
    pub(super) fn subsets_of(&self, name: &str) -> Vec<Arc<Subset>> {
        let mut subsets: Vec<Arc<Subset>> = Vec::new();
        for (goal, subset) in &self.subsets {
            let leads_here = *goal == config::Goal::Template
                || goal.services().any(|service| **service == *name);
            if leads_here && !subsets.iter().any(|known| Arc::ptr_eq(known, subset)) {
                subsets.push(Arc::clone(subset));
            }
        }
        subsets
    }

    /// How a route's requests are parted among these services.
    pub(super) fn split(
        &self,
        of: String,
        shares: impl Iterator<Item = (Arc<Service>, u32)>,
        before: Option<&Split>,
    ) -> Split {
        Split::after(of, shares, self.workers, before)
    }

    pub(super) fn policy(&self, name: &str) -> &Arc<config::Service> {
        self.described.get(name).unwrap_or(&self.defaults)
    }

    /// The name of a listed service as proxy.toml has it, where it has it in another letter case and
    /// the registry takes any: what the file says of a service holds however it is asked for.
    pub(super) fn as_written<'a>(&'a self, listed: &'a Arc<str>) -> &'a Arc<str> {
        if self.spellings.is_empty() || self.described.contains_key(listed) {
            return listed;
        }
        self.spellings.get(&*in_any_case(listed)).unwrap_or(listed)
    }

    /// The service of a route that tags make.
    pub(super) fn make_tagged(
        &self,
        name: &Arc<str>,
        wanted: &Wanted,
        parts: state::Receiver<Vec<Part>>,
        saved: &saved::Contents,
    ) -> Option<Watched> {
        let service = self.service(name, self.tagged_policy(wanted)?, Vec::new());
        service.usage().keep();
        self.remember(&service, saved);
        let registries = vec![self.watch_tagged(&service, wanted, parts)?];
        let checks = self.check(&service);
        Some(Watched {
            service,
            watchers: Watchers::new(registries, checks),
        })
    }

    /// The policy of the service of a route that tags make.
    pub(super) fn tagged_policy(&self, wanted: &Wanted) -> Option<config::Service> {
        let own = self.policy(wanted.first_service()?);
        Some(config::Service {
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
            ..config::Service::clone(own)
        })
    }

    /// Begins to watch what makes the endpoints of such a service.
    pub(super) fn watch_tagged(
        &self,
        service: &Arc<Service>,
        wanted: &Wanted,
        parts: state::Receiver<Vec<Part>>,
    ) -> Option<JoinHandle<()>> {
        let (registry, settings) = self.registry(&wanted.registry).ok()?;
        let inquiry = Inquiry::new(registry, Some(parts.clone()));
        service.may_ask_again(0, inquiry);
        let query = ServiceQuery {
            usage: Arc::clone(service.usage()),
            ..ServiceQuery::default()
        };
        let source = Box::new(Merged::new(Arc::clone(registry), parts, query));
        Some(self.take_over(service, 0, source, settings))
    }

    /// A registry's catalog, and its watcher. Until the registry lists its services it is what was
    /// saved.
    pub(super) fn watch_catalog(
        &self,
        name: &Arc<str>,
        (for_templates, for_tags): (bool, bool),
        origin: CatalogOrigin<'_>,
    ) -> Result<(Arc<CatalogView>, JoinHandle<()>), StartError> {
        let (registry, settings) = self.registry(name)?;
        let catalog = registry
            .catalog()
            .ok_or_else(|| StartError::NoCatalog(Arc::clone(name)))?;
        let any_case = settings.kind.takes_any_case();
        let (names, is_read, confirmed) = match origin {
            CatalogOrigin::Before(view) => {
                let is_read = *view.read.borrow();
                (view.names.load_full(), is_read, view.remembered())
            }
            CatalogOrigin::Saved(saved) => {
                let names = saved.map(|saved| remembered(&saved.services, any_case));
                let confirmed = saved.map(|saved| saved.confirmed);
                (names.unwrap_or_default().into(), false, confirmed)
            }
        };
        let view = Arc::new(CatalogView {
            for_templates,
            for_tags,
            expose: exposed(&settings.expose, any_case),
            any_case,
            names: ArcSwap::new(names),
            read: state::Sender::new(is_read),
            remembered: Mutex::new(confirmed),
            status: Arc::new(WatchStatus::new(Arc::clone(name), None)),
        });
        let read = Arc::clone(&view);
        // What was read is kept however old it is: a 503 for a service that is known, and has no
        // endpoint, says more than a 404.
        let status = Arc::clone(&view.status);
        let (changes, heard) = (Arc::clone(&self.changes), Arc::clone(&self.heard));
        let watching = watch::watch(catalog, status, Staleness::default(), move |event| {
            if let Event::State(names) = event {
                read.status.note_state(names.len(), Vec::new());
                read.names.store(names);
                *read.remembered.lock() = None;
                read.read.send_replace(true);
                changes.notify_one();
            }
            heard.send_replace(());
        });
        Ok((view, self.control.spawn(watching)))
    }

    /// How the watches of each registry stand that holds a limited number.
    pub(super) fn watches(&self) -> impl Iterator<Item = (&Arc<str>, Watches)> {
        let registries = self.registries.iter();
        registries.filter_map(|(name, registry)| Some((name, registry.watches()?)))
    }

    pub(super) fn registry(
        &self,
        name: &Arc<str>,
    ) -> Result<(&Arc<dyn Registry>, &config::Registry), StartError> {
        let registry = self.registries.get(name);
        registry
            .zip(self.settings.get(name))
            .ok_or_else(|| StartError::NoSuchRegistry(Arc::clone(name)))
    }
}

impl CatalogView {
    /// Whether these settings have the same of it reached.
    pub(super) fn exposes_as(&self, settings: &config::Registry) -> bool {
        let any_case = settings.kind.takes_any_case();
        self.expose == exposed(&settings.expose, any_case) && self.any_case == any_case
    }

    /// When the registry listed what is known, where that was before the start.
    pub(super) fn remembered(&self) -> Option<SystemTime> {
        *self.remembered.lock()
    }

    /// Whether anything is known, be it from before the start.
    pub(super) fn is_known(&self) -> bool {
        *self.read.borrow() || self.remembered().is_some()
    }

    /// What is worth keeping of it.
    pub(super) fn to_save(&self, registry: &Arc<str>) -> Option<saved::Catalog> {
        self.is_known().then(|| saved::Catalog {
            registry: Arc::clone(registry),
            confirmed: self
                .remembered()
                .unwrap_or_else(|| answered(self.status.answered())),
            services: Catalog::clone(&self.names.load()),
        })
    }

    /// A service that it lists and exposes, by its name as a request has it.
    pub(super) fn find(&self, name: &str) -> Found {
        let name = if self.any_case {
            Cow::Owned(in_any_case(name))
        } else {
            Cow::Borrowed(name)
        };
        match self.names.load().get_key_value(&*name) {
            None => Found::Absent,
            Some((name, tags)) if self.exposes(name, tags) => Found::Exposed(Arc::clone(name)),
            Some(_) => Found::Hidden,
        }
    }

    /// Whether a service that it lists may be reached.
    pub(super) fn exposes(&self, name: &str, tags: &[String]) -> bool {
        let config::Expose {
            tags: wanted,
            services,
            not,
        } = &self.expose;
        name != "consul"
            && !not.iter().any(|not| not == name)
            && (services.is_empty() || services.iter().any(|service| service == name))
            && (wanted.is_empty() || wanted.iter().any(|tag| has_tag(tags, tag)))
    }
}

/// What a catalog has under a name.
pub(super) enum Found {
    /// A service that may be reached, by the name in the catalog.
    Exposed(Arc<str>),
    /// One that may not.
    Hidden,
    Absent,
}

/// What was saved of a catalog, with names as they are in it now: an older version kept them as they
/// were registered.
fn remembered(saved: &Catalog, any_case: bool) -> Catalog {
    if !any_case {
        return saved.clone();
    }
    let services = saved.iter();
    in_one_spelling(services.map(|(name, tags)| (&**name, tags.iter().cloned())))
}

/// As all tags are compared: in any letter case.
fn has_tag(tags: &[String], wanted: &str) -> bool {
    let wanted = wanted.to_lowercase();
    tags.iter().any(|tag| tag.to_lowercase() == wanted)
}

/// With names as they are in the catalog.
fn exposed(expose: &config::Expose, any_case: bool) -> config::Expose {
    let mut expose = expose.clone();
    if any_case {
        for name in expose.services.iter_mut().chain(&mut expose.not) {
            *name = in_any_case(name);
        }
    }
    expose
}

fn spellings(config: &config::Config) -> BTreeMap<String, Arc<str>> {
    let mut registries = config.defaults.origin.registries().iter();
    let takes_any = registries.any(|name| {
        let settings = config.registries.get(name);
        settings.is_some_and(|settings| settings.kind.takes_any_case())
    });
    let names = config.declared().chain(config.services.keys());
    names
        .filter(|_| takes_any)
        .map(|name| (in_any_case(name), Arc::clone(name)))
        .filter(|(any, name)| **any != **name)
        .collect()
}

fn wanted_subsets(config: &config::Config) -> Vec<(config::Goal, Arc<Subset>)> {
    let routes = config.routes.iter();
    routes
        .filter_map(|route| Some((route.goal.clone(), route.subset.clone()?)))
        .collect()
}

/// Reads the TLS files of all services, each once, but for those that are read already.
fn open_tls(
    config: &config::Config,
    before: &HashMap<config::EndpointTls, Arc<Tls>>,
) -> Result<HashMap<config::EndpointTls, Arc<Tls>>, StartError> {
    let defaults = ("defaults".to_owned(), &config.defaults);
    let services = config.services.iter();
    let services = services.map(|(name, service)| (format!("service.{name}"), &**service));
    let mut opened = HashMap::new();
    for (table, service) in std::iter::once(defaults).chain(services) {
        if opened.contains_key(&service.tls) {
            continue;
        }
        if let Some(tls) = before.get(&service.tls) {
            opened.insert(service.tls.clone(), Arc::clone(tls));
        } else {
            let tls = Tls::open(&service.tls).map_err(|error| StartError::Tls { table, error })?;
            opened.insert(service.tls.clone(), Arc::new(tls));
        }
    }
    Ok(opened)
}
