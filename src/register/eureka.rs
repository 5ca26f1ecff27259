//! Signing in at Eureka: the instance that go-kit's registrar (fargo) would write, in the fields
//! that Eureka's clients read, with its port enabled and its metadata; and the heartbeats that keep
//! it.

use std::time::Duration;

use futures_util::future::BoxFuture;
use http::{Method, StatusCode};
use serde_json::{Map, Value, json};

use super::{Check, Entry, Layout, Provider};
use crate::{
    config,
    registry::{
        BuildError, RegistryError,
        eureka::{Client, Failures, Question, TAGS},
    },
};

/// An instance in one application.
struct Eureka {
    client: Client,
    app: String,
    id: String,
    /// What is written.
    instance: Value,
    /// Between two heartbeats.
    heartbeat: Duration,
}

/// The entry of a provider. Connects to nothing yet.
///
/// # Errors
/// Where the registry's settings cannot be used, or Eureka has no such check, layout or name.
pub(super) fn entry(
    name: &str,
    settings: &config::Eureka,
    provider: &Provider,
) -> Result<Box<dyn Entry>, BuildError> {
    let ttl = suited(provider).map_err(|reason| BuildError::unsuited(name, reason))?;
    Ok(Box::new(Eureka {
        client: Client::new(name, settings)?,
        app: provider.service.clone(),
        id: provider.id.clone(),
        instance: instance(provider, ttl),
        heartbeat: ttl / 3,
    }))
}

/// The TTL, where Eureka can do what is wanted of it; else what to do instead.
fn suited(provider: &Provider) -> Result<Duration, String> {
    let no_check = |check: &str| {
        format!("Eureka asks no provider itself, and so has no {check} check; take a TTL")
    };
    let ttl = match &provider.check {
        Check::Ttl(ttl) => *ttl,
        Check::Http { .. } => return Err(no_check("HTTP")),
        Check::Tcp { .. } => return Err(no_check("TCP")),
    };
    if provider.layout != Layout::GoKit {
        let layout = provider.layout.as_str();
        return Err(format!(
            "Eureka has no layout `{layout}`; leave the layout out"
        ));
    }
    // Its server takes such a name, and then finds it under no URL.
    let lost = |name: &str| name.is_empty() || name.contains(['/', '\\']);
    for (what, name) in [("service", &provider.service), ("id", &provider.id)] {
        if lost(name) {
            return Err(format!(
                "Eureka's server cannot find the {what} `{name}` again; take one without slashes"
            ));
        }
    }
    // One such key makes the XML of the whole registry unreadable, which other clients read.
    let breaks = |key: &&String| key.is_empty() || key.contains(':');
    if let Some(key) = provider.meta.keys().find(breaks) {
        return Err(format!(
            "Eureka's XML cannot hold the metadata's key `{key}`; take one without a colon"
        ));
    }
    if let Some(tag) = provider.tags.iter().find(|tag| tag.contains(',')) {
        return Err(format!(
            "the tag `{tag}` has a comma, which stands between tags in Eureka; write them one by one"
        ));
    }
    Ok(ttl)
}

fn instance(provider: &Provider, ttl: Duration) -> Value {
    let host = provider.address.host();
    let port = |enabled: bool| {
        let number = provider.address.port();
        json!({"$": number, "@enabled": enabled.to_string()})
    };
    let seconds = |time: Duration| time.as_secs_f64().ceil().max(1.0) as u64;
    json!({"instance": {
        "instanceId": provider.id,
        "app": provider.service,
        "hostName": host,
        "ipAddr": host,
        "vipAddress": provider.service,
        "secureVipAddress": provider.service,
        "status": "UP",
        "port": port(!provider.tls),
        "securePort": port(provider.tls),
        "dataCenterInfo": {
            "@class": "com.netflix.appinfo.InstanceInfo$DefaultDataCenterInfo",
            "name": "MyOwn",
        },
        "leaseInfo": {
            "renewalIntervalInSecs": seconds(ttl / 3),
            "durationInSecs": seconds(ttl),
        },
        "metadata": metadata(provider),
    }})
}

/// Eureka knows neither weights nor tags: they stand where its readers look for such things.
fn metadata(provider: &Provider) -> Map<String, Value> {
    let own = provider.meta.iter();
    let mut metadata: Map<_, _> = own
        .map(|(key, value)| (key.clone(), value.as_str().into()))
        .collect();
    if provider.weight != 1 {
        metadata.insert("weight".to_owned(), provider.weight.to_string().into());
    }
    if !provider.tags.is_empty() {
        metadata.insert(TAGS.to_owned(), provider.tags.join(",").into());
    }
    metadata
}

impl Entry for Eureka {
    fn sign_in(&mut self) -> BoxFuture<'_, Result<(), RegistryError>> {
        Box::pin(async {
            self.ask("sign-in", Method::POST, Some(&self.instance))
                .await
                .map(drop)
        })
    }

    fn keep(&mut self) -> BoxFuture<'_, RegistryError> {
        Box::pin(async {
            loop {
                tokio::time::sleep(self.heartbeat).await;
                match self.ask("heartbeat", Method::PUT, None).await {
                    Ok(StatusCode::NOT_FOUND) => return self.forgotten(),
                    Ok(_) => {}
                    Err(error) => return error,
                }
            }
        })
    }

    fn sign_out(&mut self) -> BoxFuture<'_, Result<(), RegistryError>> {
        Box::pin(async { self.ask("sign-out", Method::DELETE, None).await.map(drop) })
    }
}

impl Eureka {
    /// Asks the server whose turn it is, and where that fails each of the others. What has a body
    /// is about the application, and all else about the instance in it, which may not be there.
    async fn ask(
        &self,
        what: &str,
        method: Method,
        body: Option<&Value>,
    ) -> Result<StatusCode, RegistryError> {
        let path = ["apps", &self.app, &self.id];
        let mut failures = Failures::default();
        for _ in 0..self.client.servers() {
            let question = Question {
                method: method.clone(),
                path: if body.is_some() { &path[..2] } else { &path },
                known: None,
                body,
                also: match body {
                    Some(_) => &[],
                    None => &[StatusCode::NOT_FOUND],
                },
            };
            match self.client.ask(question).await {
                Ok(reply) => return Ok(reply.status),
                Err(fault) => self.client.failed(fault, &mut failures),
            }
        }
        let subject = format!("the {what} of `{}` in `{}`", self.id, self.app);
        Err(self.client.explain(&subject, &failures))
    }

    fn forgotten(&self) -> RegistryError {
        RegistryError::new(format!(
            "{} no longer knows `{}` in `{}`",
            self.client.shown(),
            self.id,
            self.app
        ))
    }
}
