//! `callboard check --live`: asks what the file names, and says what it finds: registries that do not
//! answer, services that are not registered, instances that take no connection. Reads only, and starts
//! nothing.

use std::{collections::BTreeMap, fmt, io, sync::Arc, time::Duration};

use anyhow::Context as _;
use futures_util::{StreamExt as _, future::join_all, stream};
use serde::Serialize;
use tokio::time::timeout;

use super::table::table;
use crate::{
    config::{Config, Origin, RegistryKind, Service},
    instance::Instance,
    registry::{self, OtherHost, Registry, RegistryError, ServiceQuery, Source},
    upstream::{connect_to, reach},
};

/// How long a registry may take for an answer: more than its own time-outs.
const ANSWER: Duration = Duration::from_secs(15);
/// Questions to registries that are under way at once.
const QUESTIONS: usize = 8;
/// The same of connections to a service's instances.
const CONNECTIONS: usize = 32;

/// What was found.
#[derive(Debug, Serialize)]
pub(super) struct Found {
    registries: Vec<Asked>,
    services: Vec<Looked>,
}

/// A registry that was asked.
#[derive(Debug, Serialize)]
struct Asked {
    name: Arc<str>,
    /// How many services it lists; `None` where it keeps no list, or was not asked.
    services: Option<usize>,
    /// Why it is of no use.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    /// Why it was not asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<&'static str>,
}

impl Asked {
    fn new(name: &Arc<str>) -> Self {
        Self {
            name: Arc::clone(name),
            services: None,
            error: None,
            note: None,
        }
    }
}

/// A service that was looked for.
#[derive(Debug, Default, Serialize)]
struct Looked {
    name: Arc<str>,
    instances: usize,
    healthy: usize,
    /// The healthy ones that take a connection.
    reached: usize,
    /// Entries of the registry that name no instance.
    skipped: usize,
    /// Addresses of healthy ones that take no connection, and why.
    unreachable: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

type Opened<'c> = BTreeMap<&'c str, Arc<dyn Registry>>;

/// Asks all registries and instances that the file names.
///
/// # Errors
/// Where there is no runtime to ask in.
pub(super) fn look(config: &Config) -> anyhow::Result<Found> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start a runtime")?;
    let found = runtime.block_on(look_at_all(config));
    // Does not wait for a name that is still being resolved.
    runtime.shutdown_background();
    Ok(found)
}

async fn look_at_all(config: &Config) -> Found {
    let mut opened = Opened::new();
    let asking = config.registries.iter().map(|(name, registry)| {
        let mut asked = Asked::new(name);
        if matches!(registry.kind, RegistryKind::Embedded(_)) {
            asked.note = Some("it runs in the proxy, and is not asked");
        } else {
            match registry::open(name, &registry.kind) {
                Ok(registry) => drop(opened.insert(name, registry)),
                Err(error) => asked.error = Some(error.to_string()),
            }
        }
        ask(asked, opened.get(&**name).cloned())
    });
    let asking: Vec<_> = asking.collect();
    let registries = stream::iter(asking).buffered(QUESTIONS).collect().await;
    let mut names: Vec<_> = config.declared().collect();
    names.sort();
    names.dedup();
    let services = names.into_iter().filter_map(|name| {
        let service = config.services.get(name)?;
        Some(look_for(Arc::clone(name), service, &opened))
    });
    let services: Vec<_> = services.collect();
    let services = stream::iter(services).buffered(QUESTIONS);
    Found {
        registries,
        services: services.filter_map(async |looked| looked).collect().await,
    }
}

async fn ask(mut asked: Asked, registry: Option<Arc<dyn Registry>>) -> Asked {
    let Some(registry) = registry else {
        return asked;
    };
    match registry.catalog() {
        None => asked.note = Some("it keeps no list of its services"),
        Some(catalog) => match answer(catalog).await {
            Ok(catalog) => asked.services = Some(catalog.len()),
            Err(error) => asked.error = Some(error),
        },
    }
    asked
}

/// What a source says first.
async fn answer<T: 'static>(mut source: Box<dyn Source<T>>) -> Result<T, String> {
    let answer = timeout(ANSWER, source.next()).await;
    let late = |_| Err(format!("no answer within {} s", ANSWER.as_secs()));
    answer.map_or_else(late, |answer| {
        answer.map_err(|RegistryError { message, .. }| message)
    })
}

/// Looks for a service; `None` where that is for the proxy's own registry to say.
async fn look_for(name: Arc<str>, service: &Service, opened: &Opened<'_>) -> Option<Looked> {
    let mut looked = Looked {
        name: Arc::clone(&name),
        ..Looked::default()
    };
    let (mut instances, mut other_host) = (Vec::new(), None);
    match &service.origin {
        Origin::Inline(inline) => instances.clone_from(inline),
        Origin::Registries { names, .. } => {
            let registries = names.iter().map(|name| opened.get(&**name));
            let registries: Vec<_> = registries.collect::<Option<_>>()?;
            let query = || ServiceQuery {
                name: service.name.as_deref().unwrap_or(&name).to_owned(),
                tags: service.tags.clone(),
                ..ServiceQuery::default()
            };
            let asking = registries.iter().map(|one| answer(one.service(query())));
            for (registry, said) in std::iter::zip(&registries, join_all(asking).await) {
                match said {
                    Ok(set) => {
                        looked.skipped += set.skipped.len();
                        instances.extend(set.instances.iter().cloned());
                        other_host = other_host.or(registry.other_host());
                    }
                    Err(error) => looked.error = Some(error),
                }
            }
            instances.retain(|one| one.has(&service.tags, &service.meta));
        }
    }
    looked.instances = instances.len();
    let healthy: Vec<_> = instances.iter().filter(|one| one.healthy).collect();
    looked.healthy = healthy.len();
    let limit = service.timeout.connect;
    let connecting: Vec<_> = healthy.iter().map(|one| connect(one, limit)).collect();
    let connected: Vec<_> = stream::iter(connecting)
        .buffered(CONNECTIONS)
        .collect()
        .await;
    for (one, connected) in std::iter::zip(healthy, connected) {
        let Err(error) = connected else {
            looked.reached += 1;
            continue;
        };
        looked.unreachable.insert(one.address.to_string(), error);
        // One that is asked tells as much as all.
        if let (1, Some(other)) = (looked.unreachable.len(), other_host) {
            looked.hint = hint(one, other, limit).await;
        }
    }
    Some(looked)
}

async fn connect(instance: &Instance, limit: Duration) -> Result<(), String> {
    within(limit, reach(&instance.address)).await
}

async fn within<S>(
    limit: Duration,
    connecting: impl Future<Output = io::Result<S>>,
) -> Result<(), String> {
    match timeout(limit, connecting).await {
        Ok(connected) => connected.map(drop).map_err(|error| error.to_string()),
        Err(_) => Err(format!("no connection within {limit:?}")),
    }
}

/// What to write where the instance takes a connection at the registry's other host for it.
async fn hint(instance: &Instance, other: OtherHost, limit: Duration) -> Option<String> {
    let (name, port) = (instance.meta.get(other.meta)?, instance.address.port());
    let reached = within(limit, connect_to(name, port)).await;
    reached.ok().map(|()| {
        let setting = other.setting;
        format!(
            "{name}:{port} takes a connection; if that is the same instance, write {setting} in the \
             registry's table"
        )
    })
}

impl Looked {
    /// What is wrong with it, if anything is.
    fn trouble(&self) -> Option<String> {
        if let Some(error) = &self.error {
            return Some(error.clone());
        }
        match (self.instances, self.healthy) {
            (0, _) => return Some("it is not registered".to_owned()),
            (_, 0) => return Some("none of its instances is healthy".to_owned()),
            _ => {}
        }
        let (address, error) = self.unreachable.first_key_value()?;
        let more = match self.unreachable.len() - 1 {
            0 => String::new(),
            more => format!(", and {more} more take no connection"),
        };
        let hint = self.hint.as_ref();
        let hint = hint.map_or_else(String::new, |hint| format!("; {hint}"));
        Some(format!("{address}: {error}{more}{hint}"))
    }
}

impl Found {
    /// Whether nothing is wrong.
    pub(super) fn is_well(&self) -> bool {
        let asked = self.registries.iter().all(|one| one.error.is_none());
        asked && self.services.iter().all(|one| one.trouble().is_none())
    }
}

/// Two tables, with what is wrong at the end of a line.
impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let registries = self.registries.iter().map(|one| {
            let count = one.services.map(|count| count.to_string());
            let said = one.error.as_deref().or(one.note).unwrap_or("ok");
            [
                one.name.to_string(),
                count.unwrap_or("-".into()),
                said.to_owned(),
            ]
        });
        f.write_str(&table(["registry", "services", ""], registries))?;
        if !self.registries.is_empty() && !self.services.is_empty() {
            writeln!(f)?;
        }
        let services = self.services.iter().map(|one| {
            [
                one.name.to_string(),
                one.instances.to_string(),
                one.healthy.to_string(),
                one.reached.to_string(),
                one.trouble().unwrap_or_else(|| "ok".to_owned()),
            ]
        });
        let head = ["service", "instances", "healthy", "reached", ""];
        f.write_str(&table(head, services))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_stands_at_the_end_of_a_line() {
        let asked = |name: &str, services, error: Option<&str>| Asked {
            services,
            error: error.map(str::to_owned),
            ..Asked::new(&name.into())
        };
        let looked = |name: &str, instances, healthy, unreachable: &[&str]| Looked {
            name: name.into(),
            instances,
            healthy,
            reached: healthy - unreachable.len(),
            unreachable: unreachable
                .iter()
                .map(|address| ((*address).to_owned(), "refused".to_owned()))
                .collect(),
            ..Looked::default()
        };
        let mut found = Found {
            registries: vec![asked("main", Some(12), None)],
            services: vec![looked("cart", 3, 2, &[])],
        };
        assert!(found.is_well());
        found.registries.push(asked("old", None, Some("no\nroute")));
        found.services.push(looked("hat", 0, 0, &[]));
        found
            .services
            .push(looked("pay", 2, 2, &["10.0.0.1:80", "10.0.0.2:80"]));
        found.services.push(looked("sick", 2, 0, &[]));
        assert!(!found.is_well());
        assert_eq!(
            found.to_string(),
            "registry  services\n\
             main      12        ok\n\
             old       -         no\\nroute\n\n\
             service  instances  healthy  reached\n\
             cart     3          2        2        ok\n\
             hat      0          0        0        it is not registered\n\
             pay      2          2        0        10.0.0.1:80: refused, and 1 more take no connection\n\
             sick     2          0        0        none of its instances is healthy\n"
        );
    }
}
