//! What one reading of proxy.toml makes: the routes and where they lead. Swapped as a whole, so
//! that no request sees half of a change.

use std::{collections::HashMap, sync::Arc};

use super::Rate;
use crate::{
    config::{self, Conditions, HostHeader, Overrides, Subset, Upgrades},
    discovery::{Directory, TaggedRoute},
    route::Table,
    service::{Service, Split},
};

/// The routes and where they lead.
pub struct Generation {
    /// What it is made of.
    pub config: Arc<config::Config>,
    rates: Rates,
    /// Finds the index of a route.
    pub routes: Table,
    /// By that index.
    pub targets: Vec<Target>,
    /// Where template routes look.
    pub directory: Arc<Directory>,
}

/// Where a route leads.
pub struct Target {
    /// The route's host and path, for people.
    pub name: Arc<str>,
    /// Whether its requests are lines of the access log.
    pub is_logged: bool,
    /// To whom.
    pub goal: Goal,
    /// Which of the service's endpoints it calls; `None` is all.
    pub subset: Option<Arc<Subset>>,
    /// Its own retries and time-outs, where it has some.
    pub overrides: Option<Arc<Overrides>>,
    /// What a client's connection may go over to; `None` is as its service has it.
    pub upgrades: Option<Upgrades>,
    /// The service that is called where the route's own has no endpoint. It takes precedence over
    /// that service's `fallback`.
    pub fallback: Option<Arc<Service>>,
    /// How many requests a client may make.
    pub rate: Option<Arc<Rate>>,
    /// What is taken off the path.
    pub strip: Strip,
    /// The `Host` that the endpoint sees.
    pub host_header: HostHeader,
}

impl Target {
    /// Its own retries and time-outs.
    pub fn overrides(&self) -> &Overrides {
        self.overrides.as_deref().unwrap_or(Overrides::NONE)
    }
}

/// What a route takes off the path of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strip {
    /// Nothing.
    Nothing,
    /// The prefix that was matched.
    Matched,
    /// So many bytes, which every path that is matched has at least.
    First(usize),
}

impl Strip {
    /// Bytes that are taken off, where the matched prefix has that many.
    pub fn bytes(self, matched: usize) -> usize {
        match self {
            Self::Nothing => 0,
            Self::Matched => matched,
            Self::First(bytes) => bytes,
        }
    }
}

/// The limits of the routes in the file, by their places, with what is used up of them.
type Rates = Arc<[Option<Arc<Rate>>]>;

/// To whom a route leads.
pub enum Goal {
    /// To a service that it names.
    Service(Arc<Service>),
    /// To one of several, each for its share.
    Split(Arc<Split>),
    /// To the service that the request names.
    Template {
        /// Whether it is the host that names it, and not the path.
        by_host: bool,
    },
}

impl Generation {
    /// The first of a process.
    pub fn new(config: Arc<config::Config>, directory: Arc<Directory>) -> Self {
        let rate = |route: &config::Route| Some(Arc::new(Rate::new(route.rate.clone()?)));
        let rates = config.routes.iter().map(rate).collect();
        Self::of(config, directory, rates)
    }

    /// The same with the routes that tags make now.
    pub fn with_tags_of_now(&self) -> Self {
        let directory = Arc::clone(&self.directory);
        Self::of(Arc::clone(&self.config), directory, Arc::clone(&self.rates))
    }

    /// That of another config, whose routes go on with what is used up of their limits; a limit with
    /// other numbers begins anew.
    pub fn after(before: &Self, config: Arc<config::Config>, directory: Arc<Directory>) -> Self {
        let limited = std::iter::zip(&before.config.routes, &*before.rates);
        let limited = limited.filter_map(|(route, rate)| Some((route.matching(), rate.as_ref()?)));
        let known: HashMap<_, _> = limited.collect();
        let rate = |route: &config::Route| {
            let rule = route.rate.as_ref()?;
            Some(match known.get(&route.matching()) {
                Some(same) if same.rule() == rule => Arc::clone(same),
                Some(other) => Arc::new(Rate::after(other, rule.clone())),
                None => Arc::new(Rate::new(rule.clone())),
            })
        };
        let rates = config.routes.iter().map(rate).collect();
        Self::of(config, directory, rates)
    }

    /// Joins the routes of the file, and then those that tags make now, to the services of the
    /// directory that was started from the same config. Of two routes that take the same requests
    /// the file's counts.
    fn of(config: Arc<config::Config>, directory: Arc<Directory>, rates: Rates) -> Self {
        let declared = |name: &Arc<str>| {
            let service = directory.declared(name);
            Arc::clone(service.expect("the directory has every service that a route names"))
        };
        let written = |(place, route): (usize, &config::Route)| Target {
            name: format!("{}{}", route.host, route.path).into(),
            is_logged: route.is_logged,
            goal: match &route.goal {
                config::Goal::Service(name) => Goal::Service(declared(name)),
                config::Goal::Split(_) => Goal::Split(Arc::clone(&directory.splits()[&place])),
                config::Goal::Template => Goal::Template {
                    by_host: matches!(route.host, config::HostPattern::Template(_)),
                },
            },
            subset: route.subset.clone(),
            overrides: route.overrides.clone(),
            upgrades: route.upgrades.clone(),
            fallback: route.fallback.as_ref().map(declared),
            rate: rates[place].clone(),
            strip: if route.strip_prefix {
                Strip::Matched
            } else {
                Strip::Nothing
            },
            host_header: route.host_header,
        };
        let by_tags = |route: &TaggedRoute| Target {
            name: format!("{}{}", route.host, route.path).into(),
            is_logged: true,
            goal: Goal::Service(Arc::clone(&route.service)),
            subset: None,
            overrides: None,
            upgrades: None,
            fallback: None,
            rate: None,
            strip: Strip::First(route.strip),
            host_header: route.host_header,
        };
        let tagged = directory.tagged();
        let in_file = config.routes.iter();
        let in_file = in_file.map(|route| (&route.host, &route.path, route.conditions()));
        let in_tags = tagged.routes.iter();
        let in_tags = in_tags.map(|route| (&route.host, &route.path, Conditions::NONE));
        let targets = config.routes.iter().enumerate().map(written);
        Self {
            routes: Table::new(in_file.chain(in_tags)),
            targets: targets.chain(tagged.routes.iter().map(by_tags)).collect(),
            config,
            rates,
            directory,
        }
    }

    /// The service that is called where a route's own has no endpoint, if there is one.
    pub fn fallback<'g>(
        &'g self,
        target: &'g Target,
        service: &Service,
    ) -> Option<&'g Arc<Service>> {
        let own = service.policy().fallback.as_ref();
        let own = || own.and_then(|name| self.directory.declared(name));
        let fallback = target.fallback.as_ref().or_else(own)?;
        // A template, or a share, may lead to the fallback itself.
        (**fallback.name() != **service.name()).then_some(fallback)
    }
}
