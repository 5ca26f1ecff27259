//! How the orders of certificates stand, for the admin server.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use parking_lot::Mutex;
use serde::Serialize;

use crate::metrics::Counter;

/// The orders of all folders.
#[derive(Debug, Default)]
pub struct Board {
    names: Mutex<BTreeMap<PathBuf, Vec<NameStatus>>>,
    /// Orders that ended with a certificate.
    pub issued: Counter,
    /// Orders that did not.
    pub failed: Counter,
}

/// A name that certificates are ordered for, as it stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NameStatus {
    /// The name.
    pub name: String,
    /// Where its certificate is, or will be.
    pub file: PathBuf,
    /// Whether there is a certificate.
    pub issued: bool,
    /// Unix time in seconds from which on the next one is ordered.
    pub next: i64,
    /// Orders in a row that have failed.
    pub failures: u32,
    /// Why the last one has, where it has.
    pub error: Option<String>,
}

impl Board {
    /// All names, in order.
    pub fn names(&self) -> Vec<NameStatus> {
        let mut all: Vec<_> = self.names.lock().values().flatten().cloned().collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    /// Shows those of a folder.
    pub(super) fn show(&self, folder: &Path, names: Vec<NameStatus>) {
        self.names.lock().insert(folder.to_owned(), names);
    }

    /// Shows none of a folder any more.
    pub(crate) fn forget(&self, folder: &Path) {
        self.names.lock().remove(folder);
    }
}
