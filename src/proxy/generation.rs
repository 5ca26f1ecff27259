//! What one reading of proxy.toml makes: the routes and where they lead. Swapped as a whole, so
//! that no request sees half of a change.

use std::sync::Arc;

use crate::{
    config::{self, Conditions, HostHeader},
    route::Table,
    service::{Directory, Service, TaggedRoute},
};

/// The routes and where they lead.
pub struct Generation {
    /// Finds the index of a route.
    pub routes: Table,
    /// By that index.
    pub targets: Vec<Target>,
    /// Where template routes look.
    pub directory: Arc<Directory>,
}

/// Where a route leads.
pub struct Target {
    /// To whom.
    pub goal: Goal,
    /// What is taken off the path.
    pub strip: Strip,
    /// The `Host` that the endpoint sees.
    pub host_header: HostHeader,
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

/// To whom a route leads.
pub enum Goal {
    /// To a service that it names.
    Service(Arc<Service>),
    /// To the service that the request names.
    Template {
        /// Whether it is the host that names it, and not the path.
        by_host: bool,
    },
}

impl Generation {
    /// Joins the routes of the file, and then those that tags make now, to the services of the
    /// directory that was started from the same config. Of two routes that take the same requests
    /// the file's counts.
    pub fn new(config: &config::Config, directory: Arc<Directory>) -> Self {
        let written = |route: &config::Route| Target {
            goal: match &route.goal {
                config::Goal::Service(name) => Goal::Service(Arc::clone(
                    directory
                        .declared(name)
                        .expect("the directory has every service that a route names"),
                )),
                config::Goal::Template => Goal::Template {
                    by_host: matches!(route.host, config::HostPattern::Template(_)),
                },
            },
            strip: if route.strip_prefix {
                Strip::Matched
            } else {
                Strip::Nothing
            },
            host_header: route.host_header,
        };
        let by_tags = |route: &TaggedRoute| Target {
            goal: Goal::Service(Arc::clone(&route.service)),
            strip: Strip::First(route.strip),
            host_header: route.host_header,
        };
        let tagged = directory.tagged();
        let none = Conditions::default();
        let in_file = config.routes.iter();
        let in_file = in_file.map(|route| (&route.host, &route.path, &route.conditions));
        let in_tags = tagged.routes.iter();
        let in_tags = in_tags.map(|route| (&route.host, &route.path, &none));
        let targets = config.routes.iter().map(written);
        Self {
            routes: Table::new(in_file.chain(in_tags)),
            targets: targets.chain(tagged.routes.iter().map(by_tags)).collect(),
            directory,
        }
    }
}
