//! The children of one node, with their data, read once and then only where a watch says that
//! something changed. Knows nothing of what the data means.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::{
    FutureExt as _, StreamExt as _,
    future::BoxFuture,
    stream::{self, FuturesUnordered},
};
use zookeeper_client::{Client, Error, OneshotWatcher};

/// Children that are read at one time.
const READS: usize = 64;

/// A node's children.
pub(super) struct Folder {
    path: String,
    reads: Box<dyn Fn(&str) -> bool + Send>,
    /// Whether the list of names is what it was when it was read.
    listed: bool,
    exists: bool,
    names: BTreeSet<String>,
    data: BTreeMap<String, Data>,
    /// Of the last change that is known, of the list or of what was read.
    zxid: i64,
    /// Those whose data is not, or no longer, what it was.
    unread: BTreeSet<String>,
    /// One for the list and one for each child that was read; each fires once.
    watches: FuturesUnordered<BoxFuture<'static, Changed>>,
}

/// What a child holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Data {
    Bytes(Vec<u8>),
    /// The session's user may not read it.
    Denied,
}

enum Changed {
    List,
    Child(String),
}

impl Folder {
    /// Nothing is read yet. Of the children's data only that of those which `reads` names is read.
    pub(super) fn new(path: String, reads: impl Fn(&str) -> bool + Send + 'static) -> Self {
        Self {
            path,
            reads: Box::new(reads),
            listed: false,
            exists: false,
            names: BTreeSet::new(),
            data: BTreeMap::new(),
            zxid: 0,
            unread: BTreeSet::new(),
            watches: FuturesUnordered::new(),
        }
    }

    pub(super) fn path(&self) -> &str {
        &self.path
    }

    /// Whether the node itself is there.
    pub(super) fn exists(&self) -> bool {
        self.exists
    }

    /// All children.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(String::as_str)
    }

    /// Those children whose data was read.
    pub(super) fn data(&self) -> impl Iterator<Item = (&str, &Data)> + Clone {
        self.data.iter().map(|(name, data)| (name.as_str(), data))
    }

    /// The zxid of the last change that is known.
    pub(super) fn zxid(&self) -> u64 {
        self.zxid.cast_unsigned()
    }

    /// Reads what is not, or no longer, known, and watches it from then on. Cancel-safe: what was
    /// read by then is not read again.
    ///
    /// # Errors
    /// With the path that was asked about.
    pub(super) async fn read(&mut self, client: &Client) -> Result<(), (String, Error)> {
        if !self.listed {
            let listed = self.list(client).await;
            listed.map_err(|error| (self.path.clone(), error))?;
        }
        let path = &self.path;
        let mut reads = stream::iter(self.unread.clone())
            .map(|name| async move {
                let read = client.get_and_watch_data(&child(path, &name)).await;
                (name, read)
            })
            .buffer_unordered(READS);
        while let Some((name, read)) = reads.next().await {
            match read {
                Ok((bytes, stat, watch)) => {
                    self.zxid = self.zxid.max(stat.mzxid);
                    self.watches
                        .push(fires(watch, Changed::Child(name.clone())));
                    self.data.insert(name.clone(), Data::Bytes(bytes));
                }
                Err(Error::NoAuth) => {
                    self.data.insert(name.clone(), Data::Denied);
                }
                // It went between the list and now, of which the list's watch tells.
                Err(Error::NoNode) => {
                    self.data.remove(&name);
                }
                Err(error) => return Err((child(path, &name), error)),
            }
            self.unread.remove(&name);
        }
        Ok(())
    }

    async fn list(&mut self, client: &Client) -> Result<(), Error> {
        let (names, watch) = loop {
            match client.get_and_watch_children(&self.path).await {
                Ok((names, stat, watch)) => {
                    self.zxid = self.zxid.max(stat.pzxid);
                    break (Some(names), watch);
                }
                Err(Error::NoNode) => {}
                Err(error) => return Err(error),
            }
            // Else it was made in between.
            if let (None, watch) = client.check_and_watch_stat(&self.path).await? {
                break (None, watch);
            }
        };
        self.exists = names.is_some();
        if !self.exists {
            self.zxid = self.zxid.max(last_change_above(client, &self.path).await?);
        }
        self.names = names.into_iter().flatten().collect();
        let names = &self.names;
        self.data.retain(|name, _| names.contains(name));
        let read = |name: &&String| matches!(self.data.get(*name), Some(Data::Bytes(_)));
        let unread = names.iter().filter(|name| (self.reads)(name));
        let unread = unread.filter(|name| !read(name) || self.unread.contains(*name));
        self.unread = unread.cloned().collect();
        self.watches.push(fires(watch, Changed::List));
        self.listed = true;
        Ok(())
    }

    /// Forgets everything, and watches nothing any more.
    pub(super) fn forget(&mut self) {
        self.listed = false;
        self.exists = false;
        self.names.clear();
        self.data.clear();
        self.zxid = 0;
        self.unread.clear();
        self.watches.clear();
    }

    /// Waits until there is something to read. Cancel-safe.
    pub(super) async fn changed(&mut self) {
        while self.listed && self.unread.is_empty() {
            let changed = self.watches.next().await;
            self.note(changed.expect("a folder that was listed is watched"));
        }
        // What happened at the same time is read at the same time.
        while let Some(Some(changed)) = self.watches.next().now_or_never() {
            self.note(changed);
        }
    }

    fn note(&mut self, changed: Changed) {
        match changed {
            Changed::List => self.listed = false,
            // The watch of a child that is no longer listed says that it went.
            Changed::Child(name) => {
                if self.names.contains(&name) {
                    self.unread.insert(name);
                }
            }
        }
    }
}

/// The zxid of the last change to the children of the nearest node above that is there: that of
/// the end of a node that is gone, or later.
async fn last_change_above(client: &Client, path: &str) -> Result<i64, Error> {
    let mut path = path;
    while let Some((above, _)) = path.rsplit_once('/') {
        let node = if above.is_empty() { "/" } else { above };
        if let Some(stat) = client.check_stat(node).await? {
            return Ok(stat.pzxid);
        }
        path = above;
    }
    Ok(0)
}

/// The path of a node's child.
pub(super) fn child(path: &str, name: &str) -> String {
    format!("{}/{name}", path.trim_end_matches('/'))
}

fn fires(watch: OneshotWatcher, changed: Changed) -> BoxFuture<'static, Changed> {
    watch.changed().map(|_| changed).boxed()
}
