//! What a Consul agent is told of a provider that it keeps, and asked about it. Knows nothing of
//! when, or of what becomes of an answer.

use std::time::Duration;

use http::Method;
use reqwest::Url;
use serde::Deserialize;
use serde_json::Value;

use super::{fault::Fault, http::Broken, token::Token};
use crate::{
    config,
    registry::{BuildError, RegistryError, http_api},
};

/// How long an exchange may take. An agent does all this by itself, from memory.
const EXCHANGE: Duration = Duration::from_secs(5);

/// One instance, some kilobytes at most.
const MAX_BODY: usize = 1 << 20;

/// The agent that keeps a provider's entry.
#[derive(Debug)]
pub(crate) struct Agent {
    registry: String,
    base: Url,
    /// `base` without what may be secret in it.
    shown: String,
    token: Token,
    /// `ns` and `partition`
    tenancy: Vec<(&'static str, String)>,
    http: reqwest::Client,
}

/// What an agent says of an instance that it keeps.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Registered {
    /// The service's name.
    pub(crate) service: String,
    #[serde(default)]
    pub(crate) address: String,
    #[serde(default)]
    pub(crate) port: i64,
}

impl Agent {
    /// Prepares a client for `[registry.NAME]`; reads the TLS files, and connects to nothing yet.
    /// The first of several agents is told: each keeps what it is told, and no other knows of it.
    /// The datacenter plays no part: an agent keeps what it is told in its own.
    pub(crate) fn new(registry: &str, settings: &config::Consul) -> Result<Self, BuildError> {
        let address = settings.addresses.first().map_or("", String::as_str);
        let base = http_api::base_url(registry, address)?;
        let http = http_api::client(registry, base.scheme() == "https", &settings.tls)?;
        let tenancy = [
            ("ns", &settings.namespace),
            ("partition", &settings.partition),
        ];
        let tenancy = tenancy
            .into_iter()
            .filter_map(|(key, value)| Some((key, value.clone()?)));
        Ok(Self {
            registry: registry.to_owned(),
            shown: http_api::without_credentials(&base),
            base,
            token: Token::new(settings.token.clone()),
            tenancy: tenancy.collect(),
            http,
        })
    }

    /// Registers an instance, in place of what stood under its id, and of the checks that it had.
    pub(crate) async fn register(&self, id: &str, body: &Value) -> Result<(), RegistryError> {
        let mut url = self.url(&["service", "register"]);
        url.query_pairs_mut()
            .append_pair("replace-existing-checks", "true");
        self.exchange(Method::PUT, url, Some(body))
            .await
            .map(drop)
            .map_err(|fault| self.explain(&fault, &format!("the registration of `{id}`")))
    }

    /// Takes an instance away; one that is gone already is no error.
    pub(crate) async fn deregister(&self, id: &str) -> Result<(), RegistryError> {
        let url = self.url(&["service", "deregister", id]);
        match self.exchange(Method::PUT, url, None).await {
            Err(fault) if !fault.is_absent() => {
                Err(self.explain(&fault, &format!("the deregistration of `{id}`")))
            }
            _ => Ok(()),
        }
    }

    /// The instance with this id, if the agent keeps one.
    pub(crate) async fn service(&self, id: &str) -> Result<Option<Registered>, RegistryError> {
        let url = self.url(&["service", id]);
        let read = |body: Vec<u8>| {
            serde_json::from_slice(&body).map_err(|error| Fault::Garbage(error.to_string()))
        };
        match self.exchange(Method::GET, url, None).await.and_then(read) {
            Ok(registered) => Ok(Some(registered)),
            Err(fault) if fault.is_absent() => Ok(None),
            Err(fault) => Err(self.explain(&fault, &format!("the entry `{id}`"))),
        }
    }

    /// Gives an instance's TTL check its whole time again.
    pub(crate) async fn pass(&self, id: &str) -> Result<(), RegistryError> {
        let url = self.url(&["check", "pass", &format!("service:{id}")]);
        match self.exchange(Method::PUT, url, None).await {
            Ok(_) => Ok(()),
            Err(fault) if fault.is_absent() => {
                Err(self.error(&format!("no longer has the check of `{id}`")))
            }
            Err(fault) => Err(self.explain(&fault, &format!("a sign of life of `{id}`"))),
        }
    }

    /// An error that says this of the registry.
    pub(crate) fn error(&self, says: &str) -> RegistryError {
        RegistryError::new(format!("{} at {} {says}", self.registry, self.shown))
    }

    fn url(&self, path: &[&str]) -> Url {
        let mut url = http_api::url_below(&self.base, &[&["v1", "agent"], path].concat());
        for (key, value) in &self.tenancy {
            url.query_pairs_mut().append_pair(key, value);
        }
        url
    }

    async fn exchange(
        &self,
        method: Method,
        url: Url,
        body: Option<&Value>,
    ) -> Result<Vec<u8>, Fault> {
        tokio::time::timeout(EXCHANGE, self.send(method, url, body))
            .await
            .unwrap_or(Err(Fault::Silent(EXCHANGE)))
    }

    async fn send(&self, method: Method, url: Url, body: Option<&Value>) -> Result<Vec<u8>, Fault> {
        let mut request = self.http.request(method, url);
        if let Some(body) = body {
            request = request.json(body);
        }
        if let Some(bearer) = self.token.read().await? {
            request = request.header("X-Consul-Token", bearer);
        }
        let broken = |error: reqwest::Error| Fault::Connection(Broken::Change(error.without_url()));
        let mut answer = request.send().await.map_err(broken)?;
        let status = answer.status();
        if !status.is_success() {
            return Err(Fault::Refused {
                status,
                retry_after: http_api::retry_after(&answer),
                text: http_api::reason(answer).await,
            });
        }
        let (body, whole) = http_api::read(&mut answer, MAX_BODY)
            .await
            .map_err(broken)?;
        if !whole {
            return Err(Fault::TooLarge(MAX_BODY));
        }
        Ok(body)
    }

    /// One line: who, what was asked, what came back, and the key to look at.
    fn explain(&self, fault: &Fault, subject: &str) -> RegistryError {
        let error = self.error(&fault.says(subject));
        RegistryError {
            retry_after: fault.retry_after(),
            ..error.naming(&self.registry, fault.key())
        }
    }
}
