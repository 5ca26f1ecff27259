//! Consul, as a [`Registry`]: blocking queries over its HTTP API. Owns what is asked and the rules
//! of the index; the exchange is in `client`, its errors in `fault`, the JSON in `parse`; what an agent
//! is told stands in `agent`. Knows nothing of pacing or retrying, which [`watch`](super::watch) does
//! for every registry.

mod agent;
mod client;
mod fault;
mod parse;

use std::{num::NonZeroU64, sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use reqwest::Url;

pub(crate) use self::agent::{Agent, Registered};

use self::client::{Client, Question};
use super::{BuildError, Catalog, Registry, RegistryError, ServiceQuery, Source};
use crate::{config, instance::InstanceSet, serve::reachable};

/// How long a blocking query may wait, which is also about how long an agent that hangs goes
/// unnoticed. Far below Consul's default of 5 minutes, and still a query a minute at most.
const WAIT: Duration = Duration::from_secs(60);

/// A Consul agent.
#[derive(Debug)]
pub struct Consul {
    client: Arc<Client>,
    settings: config::Consul,
}

impl Consul {
    /// Prepares a client for `[registry.NAME]`; reads the TLS files, and connects to nothing yet.
    ///
    /// # Errors
    /// Where the address is no URL, or a TLS file cannot be read or used.
    pub fn new(name: &str, settings: &config::Consul) -> Result<Self, BuildError> {
        Ok(Self {
            client: Arc::new(Client::new(name, settings)?),
            settings: settings.clone(),
        })
    }

    /// The agent's URL for this path, with the parameters that every query has.
    fn url(&self, path: &[&str]) -> Url {
        let settings = &self.settings;
        let mut url = self.client.url(path);
        let named = [
            ("dc", &settings.datacenter),
            ("ns", &settings.namespace),
            ("partition", &settings.partition),
        ];
        for (key, value) in named {
            if let Some(value) = value {
                url.query_pairs_mut().append_pair(key, value);
            }
        }
        if settings.stale {
            url.query_pairs_mut().append_key_only("stale");
        }
        url
    }
}

/// How the embedded registry is reached as a Consul.
pub fn of_embedded(settings: &config::Embedded) -> config::Consul {
    config::Consul {
        address: format!("http://{}", reachable(settings.address)),
        token: settings.token.clone(),
        datacenter: None,
        namespace: None,
        partition: None,
        tags: Vec::new(),
        near: None,
        filter: None,
        stale: false,
        tls: config::ClientTls::default(),
    }
}

impl Registry for Consul {
    fn service(&self, query: ServiceQuery) -> Box<dyn Source<InstanceSet>> {
        let mut url = self.url(&["v1", "health", "service", &query.name]);
        // These speak of instances: the catalog would not understand them.
        for (key, value) in [
            ("near", &self.settings.near),
            ("filter", &self.settings.filter),
        ] {
            if let Some(value) = value {
                url.query_pairs_mut().append_pair(key, value);
            }
        }
        for tag in self.settings.tags.iter().chain(&query.tags) {
            url.query_pairs_mut().append_pair("tag", tag);
        }
        let subject = format!("service `{}`", query.name);
        Box::new(Cursor {
            client: self.client.clone(),
            question: Question { url, subject },
            index: None,
            parse: parse::instances,
        })
    }

    fn catalog(&self) -> Option<Box<dyn Source<Catalog>>> {
        let tags = self.settings.tags.clone();
        Some(Box::new(Cursor {
            client: self.client.clone(),
            question: Question {
                url: self.url(&["v1", "catalog", "services"]),
                subject: "the catalog".to_owned(),
            },
            index: None,
            parse: move |body: &[u8]| parse::catalog(body, &tags),
        }))
    }
}

/// One question, asked again each time its answer may have changed.
struct Cursor<P> {
    client: Arc<Client>,
    question: Question,
    /// The last answer's index; `None` asks for the present state at once.
    index: Option<NonZeroU64>,
    parse: P,
}

impl<T, P> Source<T> for Cursor<P>
where
    P: Fn(&[u8]) -> serde_json::Result<T> + Send + Sync + 'static,
{
    fn next(&mut self) -> BoxFuture<'_, Result<T, RegistryError>> {
        Box::pin(async move {
            // Taken, so that whatever goes wrong below starts from the beginning.
            let asked = self.index.take();
            let answer = self.client.ask(&self.question, asked, WAIT).await?;
            let state = (self.parse)(&answer.body)
                .map_err(|error| self.client.misunderstood(&self.question, &error))?;
            // An index that went backwards belongs to another history, which is read from its
            // start.
            self.index = Some(answer.index).filter(|index| Some(*index) >= asked);
            Ok(state)
        })
    }
}
