//! Keys and values, one by one → the state that a watcher publishes. Knows nothing of how they
//! were learnt: both versions of the API put and delete them here.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::keys;
use crate::{
    evidence::{History, Mark},
    instance::{Instance, InstanceSet, Skipped},
    registry::{Catalog, text},
};

/// What becomes of the keys below one place; each is named by what stands after that.
pub(in crate::registry) trait Gather: Send + 'static {
    type State: Send + 'static;

    fn clear(&mut self);
    /// What is put and deleted next is what it was at this revision.
    fn at(&mut self, _revision: u64) {}
    /// What is told next is of this cluster.
    fn within(&mut self, _cluster: Option<u64>) {}
    /// Whether that makes a difference; a heartbeat may be the same key with the same value.
    fn put(&mut self, key: &[u8], value: &[u8]) -> bool;
    /// Whether that makes a difference.
    fn delete(&mut self, key: &[u8]) -> bool;
    fn state(&self) -> Self::State;
}

/// The instances of a service, each by its key.
#[derive(Default)]
pub(in crate::registry) struct Instances {
    entries: BTreeMap<Vec<u8>, Result<Arc<Instance>, Skipped>>,
    revision: u64,
    cluster: Option<u64>,
}

impl Gather for Instances {
    type State = InstanceSet;

    fn clear(&mut self) {
        self.entries.clear();
    }

    fn at(&mut self, revision: u64) {
        self.revision = revision;
    }

    fn within(&mut self, cluster: Option<u64>) {
        self.cluster = cluster;
    }

    fn put(&mut self, key: &[u8], value: &[u8]) -> bool {
        let instance = text::instance(&String::from_utf8_lossy(key), value);
        let before = self.entries.insert(key.to_vec(), instance.map(Arc::new));
        before.as_ref() != self.entries.get(key)
    }

    fn delete(&mut self, key: &[u8]) -> bool {
        self.entries.remove(key).is_some()
    }

    fn state(&self) -> InstanceSet {
        InstanceSet::of(self.entries.values().cloned()).with(Mark {
            history: self.cluster.map(History::Cluster),
            revision: Some(self.revision),
            ..Mark::default()
        })
    }
}

/// The names of all services. etcd has no tags.
#[derive(Default)]
pub(in crate::registry) struct Names {
    keys: BTreeSet<Vec<u8>>,
    /// How many keys each has, so that a change costs no look at the others.
    counts: BTreeMap<Arc<str>, usize>,
}

impl Gather for Names {
    type State = Catalog;

    fn clear(&mut self) {
        *self = Self::default();
    }

    fn put(&mut self, key: &[u8], _: &[u8]) -> bool {
        let Some(name) = keys::service(key) else {
            return false;
        };
        if !self.keys.insert(key.to_vec()) {
            return false;
        }
        let count = self.counts.entry(name.into()).or_default();
        *count += 1;
        *count == 1
    }

    fn delete(&mut self, key: &[u8]) -> bool {
        if !self.keys.remove(key) {
            return false;
        }
        let name = keys::service(key).expect("only keys of services are kept");
        let count = self.counts.get_mut(name).expect("it was counted");
        *count -= 1;
        let gone = *count == 0;
        if gone {
            self.counts.remove(name);
        }
        gone
    }

    fn state(&self) -> Catalog {
        let names = self.counts.keys();
        names.map(|name| (Arc::clone(name), Vec::new())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instance_changes_in_place_and_goes_and_garbage_costs_itself_only() {
        let mut cart = Instances::default();
        assert!(cart.put(b"a", b"10.0.0.1:80"));
        assert!(!cart.put(b"a", b"10.0.0.1:80"), "a heartbeat");
        assert!(cart.put(b"b", b"garbage"));
        assert!(cart.put(b"\xff", b"10.0.0.3:80"));
        assert!(cart.put(b"a", b"10.0.0.2:80"));
        let set = cart.state();
        let addresses = set.instances.iter().map(|one| one.address.to_string());
        assert_eq!(
            addresses.collect::<Vec<_>>(),
            ["10.0.0.2:80", "10.0.0.3:80"]
        );
        assert_eq!(set.skipped[0].id, "b");
        for key in [&b"a"[..], b"b", b"\xff"] {
            assert!(cart.delete(key));
        }
        assert!(!cart.delete(b"never there"));
        assert_eq!(cart.state(), InstanceSet::default());
    }

    #[test]
    fn a_service_is_there_as_long_as_one_of_its_keys() {
        let mut names = Names::default();
        let listed = |names: &Names| {
            let names: Vec<_> = names.state().keys().map(ToString::to_string).collect();
            names.join(" ")
        };
        for (key, differs) in [
            ("cart/1", true),
            ("cart/2", false),
            ("cart/2", false),
            ("shop/1", true),
            ("lone", false),
        ] {
            assert_eq!(names.put(key.as_bytes(), b""), differs, "{key}");
        }
        assert_eq!(listed(&names), "cart shop");
        assert!(!names.delete(b"cart/1") && !names.delete(b"cart/1") && !names.delete(b"lone"));
        assert_eq!(listed(&names), "cart shop");
        assert!(names.delete(b"cart/2"));
        assert_eq!(listed(&names), "shop");
        names.clear();
        assert_eq!(listed(&names), "");
    }
}
