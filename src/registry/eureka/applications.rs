//! All instances that a registry holds, by application and by service. Knows nothing of how they
//! were learnt.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use super::{entry::Entry, wire::Change};
use crate::{
    evidence::{Evidence, Mark},
    instance::{InstanceSet, in_any_case},
    registry::Catalog,
};

/// Every entry of a registry at one moment.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Applications(BTreeMap<(Arc<str>, Arc<str>), Arc<Entry>>);

impl Applications {
    /// Takes what a server says; whether anything is other than it was.
    pub(super) fn apply(&mut self, changes: Vec<Change>) -> bool {
        let mut changed = false;
        for Change { entry, deleted } in changes {
            let key = (Arc::clone(&entry.app), Arc::clone(&entry.id));
            if deleted {
                changed |= self.0.remove(&key).is_some();
            } else if self.0.get(&key).is_none_or(|known| **known != entry) {
                self.0.insert(key, Arc::new(entry));
                changed = true;
            }
        }
        changed
    }

    /// Eureka's own check of what a client makes of its changes: how many instances have which
    /// status, in the order of the statuses' names (`Applications.getReconcileHashCode`).
    pub(super) fn hash(&self) -> String {
        let mut counts = BTreeMap::<&str, usize>::new();
        for entry in self.0.values() {
            *counts.entry(&entry.status).or_default() += 1;
        }
        counts
            .into_iter()
            .map(|(status, count)| format!("{status}_{count}_"))
            .collect()
    }

    pub(super) fn by_service(&self) -> Services {
        let mut services = HashMap::<_, Vec<_>>::new();
        for entry in self.0.values() {
            for name in &entry.names {
                let entries = services.entry(Arc::clone(name)).or_default();
                entries.push(Arc::clone(entry));
            }
        }
        Services(services)
    }
}

/// The entries of each service, whose name is in lower case.
#[derive(Debug)]
pub(super) struct Services(HashMap<Arc<str>, Vec<Arc<Entry>>>);

impl Services {
    /// A service's instances that have all of `tags`; where there are `zones`, those of the first
    /// zone that has a healthy one, and of all of them where none has. An unknown service has an
    /// empty set.
    pub(super) fn instances(&self, name: &str, tags: &[String], zones: &[String]) -> InstanceSet {
        let entries = self.0.get(in_any_case(name).as_str());
        let entries = entries.into_iter().flatten();
        let mut set = InstanceSet::of(entries.map(|entry| entry.read.clone()));
        set.instances
            .retain(|instance| tags.iter().all(|tag| contains(&instance.tags, tag)));
        if !zones.is_empty() {
            in_first_zone(&mut set, zones);
        }
        set
    }

    /// The services' names, each with its instances' tags; where there are `zones`, of those with
    /// an instance in one of them.
    pub(super) fn catalog(&self, zones: &[String]) -> Catalog {
        let mut catalog = Catalog::new();
        for (name, entries) in &self.0 {
            let mut here = entries
                .iter()
                .filter_map(|entry| entry.read.as_ref().ok())
                .filter(|instance| zones.is_empty() || is_in(&instance.meta, zones))
                .peekable();
            if !zones.is_empty() && here.peek().is_none() {
                continue;
            }
            let mut tags: Vec<_> = here.flat_map(|instance| instance.tags.clone()).collect();
            tags.sort();
            tags.dedup();
            catalog.insert(Arc::clone(name), tags);
        }
        catalog
    }
}

/// As Consul compares tags: without regard to case.
fn contains(tags: &[String], wanted: &str) -> bool {
    let wanted = wanted.to_lowercase();
    tags.iter().any(|tag| tag.to_lowercase() == wanted)
}

fn in_first_zone(set: &mut InstanceSet, zones: &[String]) {
    let first = zones.iter().find(|zone| {
        let mut healthy = set.instances.iter().filter(|instance| instance.healthy);
        healthy.any(|instance| is_in(&instance.meta, std::slice::from_ref(zone)))
    });
    let wanted = first.map_or(zones, std::slice::from_ref);
    let (chosen, others): (Vec<_>, Vec<_>) = std::mem::take(&mut set.instances)
        .into_iter()
        .partition(|instance| is_in(&instance.meta, wanted));
    set.instances = chosen;
    set.elsewhere = others.iter().map(|one| one.identity()).collect();
    set.evidence = Evidence::of(Mark {
        part: first.map_or("", String::as_str).into(),
        ..Mark::default()
    });
}

fn is_in(meta: &BTreeMap<String, String>, zones: &[String]) -> bool {
    meta.get("zone").is_some_and(|zone| zones.contains(zone))
}

#[cfg(test)]
mod tests {
    use super::*;

    use serde_json::{Value, json};

    use super::super::entry::Reading;
    use crate::config::{CalledAt, NamedBy};

    fn change(app: &str, id: &str, more: Value) -> Change {
        let mut instance = json!({
            "instanceId": id, "ipAddr": "10.0.0.1", "port": 80, "status": "UP",
        });
        for (key, value) in more.as_object().unwrap() {
            instance[key] = value.clone();
        }
        Change {
            entry: Entry::read(
                app,
                0,
                &instance,
                Reading {
                    by: NamedBy::Application,
                    host: CalledAt::Address,
                },
            ),
            deleted: instance["actionType"] == "DELETED",
        }
    }

    fn of(changes: impl IntoIterator<Item = Change>) -> Applications {
        let mut applications = Applications::default();
        applications.apply(changes.into_iter().collect());
        applications
    }

    fn ids(services: &Services, name: &str, tags: &[&str], zones: &[&str]) -> Vec<String> {
        let owned = |texts: &[&str]| -> Vec<_> { texts.iter().map(ToString::to_string).collect() };
        let set = services.instances(name, &owned(tags), &owned(zones));
        set.instances.iter().map(|i| i.id.to_string()).collect()
    }

    #[test]
    fn changes_are_taken_and_told() {
        let mut applications = of([change("CART", "a", json!({}))]);
        assert!(!applications.apply(vec![change("cart", "a", json!({}))]));
        assert!(applications.apply(vec![change("CART", "a", json!({"status": "DOWN"}))]));
        assert!(applications.apply(vec![change("HAT", "a", json!({"actionType": "ADDED"}))]));
        assert_eq!(applications.hash(), "DOWN_1_UP_1_");
        let gone = json!({"actionType": "DELETED"});
        assert!(applications.apply(vec![change("CART", "a", gone.clone())]));
        assert!(!applications.apply(vec![change("CART", "a", gone)]), "once");
        assert_eq!(applications.hash(), "UP_1_");
        assert_eq!(Applications::default().hash(), "");
    }

    #[test]
    fn a_name_is_found_in_any_case_and_an_unknown_one_is_nobody() {
        let services = of([change("CART", "a", json!({}))]).by_service();
        assert_eq!(ids(&services, "cart", &[], &[]), ["a"]);
        assert_eq!(ids(&services, "Cart", &[], &[]), ["a"]);
        assert_eq!(ids(&services, "hat", &[], &[]), [""; 0]);
        assert!(
            services
                .catalog(&[])
                .keys()
                .map(|name| &**name)
                .eq(["cart"])
        );
    }

    #[test]
    fn tags_must_all_be_there() {
        let tags = |tags: &str| json!({"metadata": {"tags": tags}});
        let services = of([
            change("CART", "a", tags("v1,Blue")),
            change("CART", "b", tags("v2, blue")),
            change("CART", "c", json!({})),
        ])
        .by_service();
        assert_eq!(ids(&services, "cart", &["blue"], &[]), ["a", "b"]);
        assert_eq!(ids(&services, "cart", &["BLUE", "v2"], &[]), ["b"]);
        assert_eq!(
            services.catalog(&[])["cart"],
            ["Blue", "blue", "v1", "v2"].map(str::to_owned)
        );
    }

    #[test]
    fn the_first_zone_with_a_healthy_instance_serves() {
        let zone = |zone: &str, status: &str| json!({"metadata": {"zone": zone}, "status": status});
        let all = |a: &str, b: &str| {
            of([
                change("CART", "a", zone("a", a)),
                change("CART", "b", zone("b", b)),
                change("CART", "c", zone("c", "UP")),
                change("CART", "d", json!({})),
                change("HAT", "d", json!({})),
            ])
            .by_service()
        };
        let both = ["a", "b"];
        assert_eq!(ids(&all("UP", "UP"), "cart", &[], &both), ["a"]);
        assert_eq!(ids(&all("DOWN", "UP"), "cart", &[], &both), ["b"]);
        assert_eq!(ids(&all("DOWN", "DOWN"), "cart", &[], &both), ["a", "b"]);
        assert_eq!(ids(&all("UP", "UP"), "cart", &[], &[]).len(), 4);
        let zones = both.map(str::to_owned);
        let names: Vec<_> = all("UP", "UP").catalog(&zones).into_keys().collect();
        assert_eq!(names, ["cart".into()], "nobody of `hat` is in a zone");
    }
}
