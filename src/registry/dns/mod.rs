//! Names in the DNS, as a [`Registry`]: SRV records, or the addresses of a name. Owns what is asked
//! and when it is asked again; who is asked is in `resolvers`, one exchange in `exchange`, what an
//! answer says in `answer`, a name's addresses in `addresses`, and what records make of a service in
//! `set`. Knows nothing of pacing or
//! retrying, which [`watch`](super::watch) does for every registry.
//!
//! `hickory-proto` reads and writes the messages. `hickory-resolver` is not used: TTLs and the additional
//! section, and when TCP is needed, are not to be had through a stub resolver.

mod addresses;
mod answer;
mod exchange;
mod fault;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod resolvers;
mod set;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use futures_util::{StreamExt as _, future::BoxFuture, stream};
use hickory_proto::rr::{Name, RecordType};
use tokio::time::{Instant, sleep_until};

use super::{Catalog, Registry, RegistryError, ServiceQuery, Source};
use crate::{
    config::{self, DnsRecord},
    instance::InstanceSet,
};
use addresses::{Known, addresses};
use answer::Answer;
use fault::Failure;
use resolvers::{Panel, Resolvers};
use set::Host;

/// Targets whose addresses are asked for at one time.
const AT_ONCE: usize = 8;

/// What resolvers know.
#[derive(Debug)]
pub struct Dns {
    shared: Arc<Shared>,
}

/// What the cursors have in common.
#[derive(Debug)]
struct Shared {
    registry: String,
    settings: config::Dns,
    resolvers: Resolvers,
}

impl Dns {
    /// Prepares what `[registry.NAME]` describes; asks no resolver yet.
    pub fn new(name: &str, settings: &config::Dns) -> Self {
        Self {
            shared: Arc::new(Shared {
                registry: name.to_owned(),
                settings: settings.clone(),
                resolvers: Resolvers::new(settings),
            }),
        }
    }
}

impl Registry for Dns {
    fn service(&self, query: ServiceQuery) -> Box<dyn Source<InstanceSet>> {
        Box::new(Cursor {
            shared: Arc::clone(&self.shared),
            query,
            due: None,
            known: BTreeMap::new(),
        })
    }

    fn catalog(&self) -> Option<Box<dyn Source<Catalog>>> {
        None
    }
}

/// One service's records, asked for again each time their TTL is over.
struct Cursor {
    shared: Arc<Shared>,
    query: ServiceQuery,
    /// When the last answer is no longer believed; `None` asks at once.
    due: Option<Instant>,
    /// The last addresses of each name that they were asked for.
    known: BTreeMap<Name, Known>,
}

impl Source<InstanceSet> for Cursor {
    fn next(&mut self) -> BoxFuture<'_, Result<InstanceSet, RegistryError>> {
        Box::pin(async move {
            if let Some(due) = self.due {
                sleep_until(due).await;
                self.due = None;
            }
            let (set, ttl) = self.look_up().await?;
            let (least, most) = self.shared.settings.ttl.clone().into_inner();
            self.due = Some(Instant::now() + ttl.clamp(least, most));
            Ok(set)
        })
    }
}

impl Cursor {
    /// The instances, and how long that may be believed.
    async fn look_up(&mut self) -> Result<(InstanceSet, Duration), RegistryError> {
        let shared = Arc::clone(&self.shared);
        let (name, record) = (shared.name(&self.query)?, shared.settings.record);
        let explain = |failure: Failure| {
            let record = match record {
                DnsRecord::Srv => "SRV",
                DnsRecord::Address { .. } => "A and AAAA",
            };
            let subject = format!("service `{}` ({record} of {name})", self.query.name);
            failure.explain(&shared.registry, &subject)
        };
        let panel = shared.resolvers.panel().await.map_err(explain)?;
        match record {
            DnsRecord::Address { port } => {
                let known = self.known.get(&name).cloned().unwrap_or_default();
                let (known, ttl) = addresses(&panel, &name, &known).await.map_err(explain)?;
                let set = set::of_addresses(&known.ips(), port);
                self.known.insert(name, known);
                Ok((set, ttl))
            }
            DnsRecord::Srv => {
                let answer = panel.ask(&name, RecordType::SRV).await.map_err(explain)?;
                Ok(self.with_targets(&panel, &answer).await)
            }
        }
    }

    /// Finds the targets of SRV records: in the same answer, or else by asking. One that cannot be
    /// found out keeps the addresses it had, or is left to the system's resolver by its name, so
    /// that it does not take the others with it.
    async fn with_targets(
        &mut self,
        panel: &Panel<'_>,
        answer: &Answer,
    ) -> (InstanceSet, Duration) {
        let mut ttl = answer.ttl;
        let mut hosts = BTreeMap::new();
        let mut unknown = BTreeSet::new();
        for record in answer.srv().filter(|record| !record.target.is_root()) {
            match answer.additional(&record.target) {
                Some(found) => {
                    ttl = ttl.min(found.ttl);
                    hosts.insert(record.target.clone(), Host::At(found.ips));
                }
                None => drop(unknown.insert(record.target.clone())),
            }
        }
        self.known.retain(|target, _| unknown.contains(target));
        let mut asked = stream::iter(unknown)
            .map(|target| {
                let known = self.known.get(&target).cloned().unwrap_or_default();
                async move { (addresses(panel, &target, &known).await, target) }
            })
            .buffer_unordered(AT_ONCE);
        let mut learnt = Vec::new();
        while let Some((found, target)) = asked.next().await {
            let host = match found {
                Ok((found, of_target)) => {
                    ttl = ttl.min(of_target);
                    let ips = found.ips();
                    learnt.push((target.clone(), found));
                    Host::At(ips)
                }
                Err(failure) => {
                    tracing::debug!(host = %target, ?failure, "a target cannot be looked up");
                    ttl = Duration::ZERO;
                    let known = self.known.get(&target);
                    known.map_or(Host::Unresolved, |known| Host::At(known.ips()))
                }
            };
            hosts.insert(target, host);
        }
        drop(asked);
        self.known.extend(learnt);
        (set::of_srv(answer.srv(), &hosts), ttl)
    }
}

impl Shared {
    /// The name that is asked for.
    fn name(&self, query: &ServiceQuery) -> Result<Name, RegistryError> {
        let (registry, service) = (&self.registry, &query.name);
        let refuse = |reason: &str| {
            RegistryError::new(format!(
                "{registry} was not asked for service `{service}`: {reason}"
            ))
        };
        if !query.tags.is_empty() {
            return Err(refuse("the DNS has no tags; leave them out"));
        }
        let text = self.settings.query.replace("{service}", service);
        let is_plain =
            |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        let name = Some(&text).filter(|text| text.bytes().all(is_plain));
        let mut name = name
            .and_then(|text| Name::from_ascii(text).ok())
            .ok_or_else(|| {
                refuse(&format!(
                    "`{text}` is not a name of the DNS; give the service another `name`, or check \
                     registry.{registry}.query"
                ))
            })?;
        name.set_fqdn(true);
        Ok(name)
    }
}
