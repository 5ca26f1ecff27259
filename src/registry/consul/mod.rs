//! Consul, as a [`Registry`]: blocking queries over its HTTP API. Owns what is asked. How it is
//! asked is in `client` (over the connections of `wire`, with the `token`, heeding the `gate`), who
//! may wait for a change in `slots`, the rules of the index in `cursor`, several datacenters in
//! `datacenters`, errors in `fault`, the JSON in `parse`. Knows nothing of pacing or retrying, which
//! [`watch`](super::watch) does for every registry.

mod agent;
mod breaker;
mod client;
mod cursor;
mod datacenters;
mod fault;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod http;
mod parse;
mod slots;
mod token;

use std::{sync::Arc, time::Duration};

pub(crate) use agent::{Agent, Registered};
pub(crate) use parse::in_one_spelling;

use super::{BuildError, Catalog, Registry, ServiceQuery, Source, Watches};
use crate::{
    config,
    control::server::reachable,
    instance::{InstanceSet, Skipped},
};
use client::{Answer, Client, Question};
use cursor::Cursor;
use datacenters::{First, Leg, Union};
use slots::Slots;

/// The agents of a Consul.
#[derive(Clone, Debug)]
pub struct Consul {
    client: Arc<Client>,
    slots: Arc<Slots>,
    settings: Arc<config::Consul>,
}

impl Consul {
    /// Prepares a client for `[registry.NAME]`; reads the TLS files, and connects to nothing yet.
    ///
    /// # Errors
    /// Where an address is no URL, or a TLS file cannot be read or used.
    pub fn new(name: &str, settings: &config::Consul) -> Result<Self, BuildError> {
        Ok(Self {
            client: Arc::new(Client::new(name, settings)?),
            slots: Slots::new(settings.max_watches),
            settings: Arc::new(settings.clone()),
        })
    }

    /// The parameters that every query has; one that must be `consistent` asks the leader.
    fn parameters<'a>(&'a self, datacenter: Option<&'a str>, consistent: bool) -> Parameters<'a> {
        let settings = &*self.settings;
        let named = [
            ("dc", datacenter),
            ("ns", settings.namespace.as_deref()),
            ("partition", settings.partition.as_deref()),
        ];
        let mode = match (consistent, settings.stale) {
            (true, _) => Some(("consistent", None)),
            (false, stale) => stale.then_some(("stale", None)),
        };
        named
            .into_iter()
            .filter(|(_, value)| value.is_some())
            .chain(mode)
            .collect()
    }

    fn service_in(
        &self,
        query: &ServiceQuery,
        datacenter: Option<&str>,
    ) -> Box<dyn Source<InstanceSet>> {
        let settings = &*self.settings;
        let mut parameters = self.parameters(datacenter, query.consistent);
        // These speak of instances: the catalog would not understand them.
        let named = [("near", &settings.near), ("filter", &settings.filter)];
        parameters.extend(
            named
                .into_iter()
                .filter_map(|(key, value)| Some((key, Some(value.as_deref()?)))),
        );
        let tags = settings.tags.iter().chain(&query.tags);
        parameters.extend(tags.map(|tag| ("tag", Some(&**tag))));
        let subject = subject(format!("service `{}`", query.name), datacenter);
        let warnings = settings.warnings;
        let part = datacenter.unwrap_or_default().to_owned();
        Box::new(Cursor::new(
            Arc::clone(&self.client),
            Question::new(
                subject,
                &["v1", "health", "service", &query.name],
                parameters,
            ),
            self.slots.join(Some(Arc::clone(&query.usage))),
            move |answer: &Answer| {
                let mut set = parse::instances(&answer.body, warnings)?;
                if answer.may_hide && set == InstanceSet::default() {
                    set.skipped.push(Skipped {
                        id: "token".to_owned(),
                        reason: "Consul denies by default, and no token is set: it may hide \
                                 instances"
                            .to_owned(),
                    });
                }
                Ok(set.with(answer.index.mark(&part)))
            },
        ))
    }

    fn catalog_in(&self, datacenter: Option<&str>) -> Box<dyn Source<Catalog>> {
        let tags = self.settings.tags.clone();
        let subject = subject("the catalog".to_owned(), datacenter);
        let path = ["v1", "catalog", "services"];
        let mut parameters = self.parameters(datacenter, false);
        parameters.push(("filter", Some(NOT_OF_THE_MESH)));
        Box::new(Cursor::new(
            Arc::clone(&self.client),
            Question::new(subject, &path, parameters),
            self.slots.join(None),
            move |answer: &Answer| parse::catalog(&answer.body, &tags),
        ))
    }

    /// One leg for each datacenter, of which `open` asks.
    fn legs<T: Send + 'static>(
        &self,
        open: impl Fn(&Self, &str) -> Box<dyn Source<T>> + Clone + Send + Sync + 'static,
    ) -> Vec<Leg<T>> {
        let leg = |datacenter: &String| {
            let (consul, named, open) = (self.clone(), datacenter.clone(), open.clone());
            Leg::new(datacenter, move || open(&consul, &named))
        };
        self.settings.datacenters.iter().map(leg).collect()
    }
}

/// What the catalog is to list: no sidecars and gateways. A Consul that is too old to filter its
/// catalog lists them, without an instance.
pub(crate) const NOT_OF_THE_MESH: &str = "ServiceKind == \"\"";

/// Parameters of a query; one without a value is a flag.
type Parameters<'a> = Vec<(&'a str, Option<&'a str>)>;

/// What a question is about, where it may be about one of several datacenters.
fn subject(what: String, datacenter: Option<&str>) -> String {
    match datacenter {
        Some(datacenter) => format!("{what} in {datacenter}"),
        None => what,
    }
}

/// How the embedded registry is reached as a Consul.
pub fn of_embedded(settings: &config::Embedded) -> config::Consul {
    config::Consul {
        addresses: vec![format!("http://{}", reachable(settings.address))],
        token: settings.token.clone(),
        datacenters: Vec::new(),
        namespace: None,
        partition: None,
        tags: Vec::new(),
        near: None,
        filter: None,
        stale: false,
        warnings: config::Warnings::Critical,
        wait: Duration::from_secs(60),
        // The embedded registry does not bound the watches of one client.
        max_watches: 100_000,
        tls: config::ClientTls::default(),
    }
}

impl Registry for Consul {
    fn service(&self, query: ServiceQuery) -> Box<dyn Source<InstanceSet>> {
        match &self.settings.datacenters[..] {
            [] => self.service_in(&query, None),
            [only] => self.service_in(&query, Some(only)),
            _ => Box::new(First::new(self.legs(move |consul, datacenter| {
                consul.service_in(&query, Some(datacenter))
            }))),
        }
    }

    fn catalog(&self) -> Option<Box<dyn Source<Catalog>>> {
        let catalog: Box<dyn Source<Catalog>> = match &self.settings.datacenters[..] {
            [] => self.catalog_in(None),
            [only] => self.catalog_in(Some(only)),
            _ => Box::new(Union::new(
                self.legs(|consul, datacenter| consul.catalog_in(Some(datacenter))),
            )),
        };
        Some(catalog)
    }

    fn watches(&self) -> Option<Watches> {
        Some(self.slots.watches())
    }
}
