//! etcd by its API v3, as a [`Registry`]: a range is read, and then watched from the revision
//! after. Owns that order of things; the connection is in `client` and `connection`, the watches
//! in `watch`, its errors in `fault`, the messages in `message`. What keys and values mean is in
//! `keys` and `gather`, which API v2 shares. Knows nothing of pacing or retrying, which
//! [`watch`](super::watch) does for every registry.
//!
//! The crate `etcd-client` is not used: it needs `protoc` to build. tonic speaks it here, with a few
//! messages written by hand and one stream for all watches of a registry.

mod client;
mod connection;
mod fault;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
pub(super) mod gather;
pub(crate) mod keys;
mod member;
pub(crate) mod message;
mod watch;

use std::{sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use tokio::time::timeout;

use super::{BuildError, Catalog, Registry, RegistryError, ServiceQuery, Source};
use crate::{config, instance::InstanceSet};
pub(crate) use client::Client;
pub(crate) use connection::Connection;
pub(crate) use fault::Fault;
use gather::{Gather, Instances, Names};
use keys::Keys;
use message::Event;
use watch::{Ended, Link, Watcher};

/// After so long without a change the state is said again. Meanwhile the connection was found
/// alive several times, or there would have been an error.
const SAY_AGAIN: Duration = Duration::from_secs(60);

/// An etcd cluster.
#[derive(Debug)]
pub struct Etcd {
    name: String,
    client: Arc<Client>,
    prefix: String,
}

impl Etcd {
    /// Prepares a client for `[registry.NAME]`; reads the TLS files, and connects to nothing yet.
    ///
    /// # Errors
    /// Where an address is no URL, or a TLS file cannot be read or used.
    pub fn new(name: &str, settings: &config::Etcd) -> Result<Self, BuildError> {
        Ok(Self {
            name: name.to_owned(),
            client: Arc::new(Client::new(name, settings)?),
            prefix: settings.prefix.clone(),
        })
    }

    fn cursor<G: Gather>(
        &self,
        subject: String,
        below: &str,
        keys_only: bool,
        gather: G,
    ) -> Cursor<G> {
        Cursor {
            client: Arc::clone(&self.client),
            subject,
            keys: Keys::below(below),
            skip: below.len(),
            keys_only,
            gather,
            position: Position::Nowhere,
        }
    }
}

impl Registry for Etcd {
    fn service(&self, query: ServiceQuery) -> Box<dyn Source<InstanceSet>> {
        if !query.tags.is_empty() {
            return Box::new(Untagged::new(&self.name, &query.name));
        }
        let below = keys::of_service(&self.prefix, &query.name);
        let subject = format!("service `{}`", query.name);
        Box::new(self.cursor(subject, &below, false, Instances::default()))
    }

    fn catalog(&self) -> Option<Box<dyn Source<Catalog>>> {
        let subject = "the catalog".to_owned();
        Some(Box::new(self.cursor(
            subject,
            &self.prefix,
            true,
            Names::default(),
        )))
    }
}

/// A range, followed.
struct Cursor<G> {
    client: Arc<Client>,
    /// What it is about, for errors: "service `cart`".
    subject: String,
    keys: Keys,
    /// How much of each key is the range's own.
    skip: usize,
    keys_only: bool,
    gather: G,
    position: Position,
}

/// How far it has come.
enum Position {
    /// What stands there must be read.
    Nowhere,
    /// It was read at this revision.
    Read(Arc<Link>, i64),
    Watching(Arc<Link>, Watcher),
}

impl<G: Gather> Cursor<G> {
    async fn read(&mut self) -> Result<(), RegistryError> {
        let link = self.client.link(&self.subject).await?;
        let read = link.connection.range(&self.keys, self.keys_only).await;
        let read = read.map_err(|fault| link.connection.explain(fault, &self.subject))?;
        self.gather.clear();
        self.gather.within(Some(link.connection.cluster()));
        self.gather.at(read.revision.cast_unsigned());
        for entry in read.entries {
            // All keys of a range begin with what it is about.
            if let Some(key) = entry.key.get(self.skip..) {
                self.gather.put(key, &entry.value);
            }
        }
        self.position = Position::Read(link, read.revision);
        Ok(())
    }

    fn follow(&mut self, changes: Vec<Event>) {
        for change in changes {
            let entry = change.kv.unwrap_or_default();
            let Some(key) = entry.key.get(self.skip..) else {
                continue;
            };
            self.gather.at(entry.mod_revision.cast_unsigned());
            match change.kind {
                Event::DELETE => self.gather.delete(key),
                _ => self.gather.put(key, &entry.value),
            };
        }
    }
}

impl<G: Gather + Sync> Source<G::State> for Cursor<G> {
    fn next(&mut self) -> BoxFuture<'_, Result<G::State, RegistryError>> {
        Box::pin(async move {
            loop {
                let (link, fault) = match &mut self.position {
                    Position::Nowhere => {
                        self.read().await?;
                        return Ok(self.gather.state());
                    }
                    Position::Read(link, revision) => {
                        let link = Arc::clone(link);
                        match link.watch(&self.keys, *revision).await {
                            Ok(watcher) => {
                                self.position = Position::Watching(link, watcher);
                                continue;
                            }
                            Err(fault) => (link, fault),
                        }
                    }
                    Position::Watching(link, watcher) => {
                        match timeout(SAY_AGAIN, watcher.changes()).await {
                            Err(_) => return Ok(self.gather.state()),
                            Ok(Ok(changes)) => {
                                self.follow(changes);
                                return Ok(self.gather.state());
                            }
                            Ok(Err(Ended::Compacted)) => {
                                self.position = Position::Nowhere;
                                continue;
                            }
                            Ok(Err(Ended::Fault(fault))) => (Arc::clone(link), fault),
                        }
                    }
                };
                self.position = Position::Nowhere;
                return Err(link.connection.explain(fault, &self.subject));
            }
        })
    }
}

/// In the place of a service whose instances must have tags: no entry of etcd has any.
pub(super) struct Untagged(RegistryError);

impl Untagged {
    pub(super) fn new(registry: &str, service: &str) -> Self {
        Self(RegistryError {
            message: format!(
                "{registry} is an etcd, whose entries have no tags; leave `tags` out for service `{service}`"
            ),
            // Nothing but another file makes it better.
            retry_after: Some(Duration::from_secs(300)),
            refused: false,
        })
    }
}

impl Source<InstanceSet> for Untagged {
    fn next(&mut self) -> BoxFuture<'_, Result<InstanceSet, RegistryError>> {
        Box::pin(async { Err(self.0.clone()) })
    }
}
