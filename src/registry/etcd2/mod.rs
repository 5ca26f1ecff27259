//! etcd by its API v2, as a [`Registry`]: a directory is read, and then each change in it waited
//! for with a long poll. Owns that order of things and the rules of the index; the exchange is in
//! `client`, its errors in `fault`, the JSON in `node`. Knows nothing of pacing or retrying, which
//! [`watch`](super::watch) does for every registry.

mod client;
mod fault;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod node;

use std::{sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use tokio::time::Instant;

use super::{
    BuildError, Catalog, Registry, RegistryError, ServiceQuery, Source,
    etcd::{
        Untagged,
        gather::{Gather, Instances, Names},
        keys,
    },
};
use crate::{config, instance::InstanceSet};
pub(crate) use client::Client;
use client::{Position, Waited};
use node::{Change, Node};

/// How long a long poll may wait. A server that hangs, or waits for an index that it lost with its
/// data, says nothing; so after this long the directory is read again.
const WAIT: Duration = Duration::from_secs(30);

/// An etcd cluster that speaks the API v2.
#[derive(Debug)]
pub struct Etcd2 {
    name: String,
    client: Arc<Client>,
    prefix: String,
}

impl Etcd2 {
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

    fn cursor<G: Gather>(&self, subject: String, below: &str, gather: G) -> Cursor<G> {
        Cursor {
            client: Arc::clone(&self.client),
            subject,
            directory: format!("/{}", below.trim_start_matches('/')),
            gather,
            position: None,
        }
    }
}

impl Registry for Etcd2 {
    fn service(&self, query: ServiceQuery) -> Box<dyn Source<InstanceSet>> {
        if !query.tags.is_empty() {
            return Box::new(Untagged::new(&self.name, &query.name));
        }
        let below = keys::of_service(&self.prefix, &query.name);
        let subject = format!("service `{}`", query.name);
        Box::new(self.cursor(subject, &below, Instances::default()))
    }

    fn catalog(&self) -> Option<Box<dyn Source<Catalog>>> {
        let subject = "the catalog".to_owned();
        Some(Box::new(self.cursor(
            subject,
            &self.prefix,
            Names::default(),
        )))
    }
}

/// A directory, followed.
struct Cursor<G> {
    client: Arc<Client>,
    /// What it is about, for errors: "service `cart`".
    subject: String,
    /// Begins and ends with a slash, as the keys below it go on.
    directory: String,
    gather: G,
    /// What was read or heard last; `None` where the directory must be read.
    position: Option<Position>,
}

impl<G: Gather> Cursor<G> {
    async fn read(&mut self) -> Result<(), RegistryError> {
        let read = self.client.read(&self.directory, &self.subject).await?;
        self.gather.clear();
        let cluster = u64::from_str_radix(&read.position.cluster, 16);
        self.gather.within(cluster.ok());
        self.gather.at(read.position.index);
        if let Some(node) = &read.node {
            self.put(node);
        }
        self.position = Some(read.position);
        Ok(())
    }

    /// Whatever is a file in it, at any depth.
    fn put(&mut self, node: &Node) {
        if let (Some(value), Some(key)) = (&node.value, node.below(&self.directory)) {
            self.gather.put(key.as_bytes(), value.as_bytes());
        }
        for node in &node.nodes {
            self.put(node);
        }
    }

    /// Whether the change makes a difference; `None` where it cannot be followed, since it is not
    /// of one file in the directory.
    fn follow(&mut self, change: &Change) -> Option<bool> {
        let key = change.node.below(&self.directory)?.as_bytes();
        self.gather.at(change.node.modified_index);
        match (change.action.as_str(), &change.node.value) {
            _ if change.node.dir => None,
            ("set" | "create" | "update" | "compareAndSwap", Some(value)) => {
                Some(self.gather.put(key, value.as_bytes()))
            }
            ("delete" | "expire" | "compareAndDelete", _) => Some(self.gather.delete(key)),
            _ => None,
        }
    }
}

impl<G: Gather + Sync> Source<G::State> for Cursor<G> {
    fn next(&mut self) -> BoxFuture<'_, Result<G::State, RegistryError>> {
        Box::pin(async move {
            let began = Instant::now();
            while let Some(position) = &mut self.position {
                let client = Arc::clone(&self.client);
                let waited = client.wait(&self.directory, position, WAIT, &self.subject);
                let waited = waited.await;
                // Whatever else has come of it, the directory is to be read.
                let last = self.position.take();
                let Waited::Change(change) = waited? else {
                    break;
                };
                let Some(differs) = self.follow(&change) else {
                    break;
                };
                self.position = last.map(|last| Position {
                    index: change.node.modified_index,
                    ..last
                });
                // Where every heartbeat is a change, most change nothing.
                if differs || began.elapsed() > WAIT {
                    return Ok(self.gather.state());
                }
            }
            if self.position.is_none() {
                self.read().await?;
            }
            Ok(self.gather.state())
        })
    }
}
