//! What one reading of proxy.toml makes: the routes and where they lead. Swapped as a whole, so
//! that no request sees half of a change.

use std::sync::Arc;

use crate::{
    config::{self, HostHeader},
    route::Table,
    service::{Directory, Service},
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
    /// Whether the matched prefix is taken off.
    pub strip_prefix: bool,
    /// The `Host` that the endpoint sees.
    pub host_header: HostHeader,
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
    /// Joins the routes to the services of the directory that was started from the same config.
    pub fn new(config: &config::Config, directory: Arc<Directory>) -> Self {
        let target = |route: &config::Route| Target {
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
            strip_prefix: route.strip_prefix,
            host_header: route.host_header,
        };
        Self {
            routes: Table::new(&config.routes),
            targets: config.routes.iter().map(target).collect(),
            directory,
        }
    }
}
