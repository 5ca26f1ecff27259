//! The JSON of etcd's API v2. Knows nothing of HTTP, or of what keys and values mean.

use serde::Deserialize;

/// A file, or a directory with what is in it.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Node {
    /// Begins with a slash; empty where it is the root.
    pub(super) key: String,
    /// `None` for a directory, or where the file is gone.
    pub(super) value: Option<String>,
    pub(super) dir: bool,
    pub(super) nodes: Vec<Node>,
    pub(super) modified_index: u64,
}

impl Node {
    /// What its key has after a directory, which ends with a slash; `None` where it is not in it.
    pub(super) fn below(&self, directory: &str) -> Option<&str> {
        self.key.strip_prefix(directory)
    }
}

/// The answer to a read.
#[derive(Debug, Deserialize)]
pub(super) struct Content {
    pub(super) node: Node,
}

/// The answer to a wait: what was done, and to what.
#[derive(Debug, Deserialize)]
pub(super) struct Change {
    pub(super) action: String,
    pub(super) node: Node,
}

/// An error's body.
#[derive(Debug, Deserialize)]
pub(super) struct Refusal {
    #[serde(rename = "errorCode", default)]
    pub(super) code: u64,
    pub(super) message: String,
    #[serde(default)]
    pub(super) cause: String,
}

impl Refusal {
    /// There is no such key or directory.
    pub(super) const NOT_FOUND: u64 = 100;
    /// The history that a wait asked for is no longer kept.
    pub(super) const CLEARED: u64 = 401;
}
