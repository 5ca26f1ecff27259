//! The registry's content in memory and the indices that say when each part of it last changed.
//! Pure: changes go in, the topics that they touch come out. Knows nothing of disks or waiting.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use super::model::{Check, Indexed, Service, Status};
use crate::instance::in_any_case;

/// Names without an instance whose index is remembered one by one. Beyond it they share one.
const REMEMBERED_NAMES: usize = 1024;

/// One step from a state to the next. Several that belong together share an index.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum Change {
    PutService(Indexed<Service>),
    /// By id; its checks go with it.
    DropService(String),
    PutCheck(Indexed<Check>),
    /// By id.
    DropCheck(String),
    SetStatus {
        check: String,
        status: Status,
        output: String,
    },
}

/// What a blocking query can wait for.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Topic {
    /// The instances of a name and their checks. Consul compares names without case.
    Name(String),
    /// Which names there are, and their tags.
    Catalog,
    /// Any check.
    Checks,
    /// The node itself, which never changes.
    Node,
}

impl Topic {
    pub(super) fn name(name: &str) -> Self {
        Self::Name(in_any_case(name))
    }
}

/// One instance with its checks, by their ids.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) service: Arc<Indexed<Service>>,
    pub(super) checks: BTreeMap<String, Arc<Indexed<Check>>>,
}

impl Entry {
    /// Whether its instance has this tag; tags are compared without case.
    pub(super) fn has_tag(&self, tag: &str) -> bool {
        let same = |held: &String| held.to_lowercase() == tag.to_lowercase();
        self.service.tags.iter().any(same)
    }
}

#[derive(Debug, Default)]
struct Name {
    index: u64,
    ids: BTreeSet<String>,
}

/// Everything that is registered.
#[derive(Debug, Default)]
pub(super) struct State {
    /// Of the last change.
    index: u64,
    /// The least index of any topic: what it was when this process opened the state, or when
    /// names without instances were last forgotten.
    floor: u64,
    catalog: u64,
    checks: u64,
    /// By id.
    services: BTreeMap<String, Entry>,
    node_checks: BTreeMap<String, Arc<Indexed<Check>>>,
    /// Every check's id, and the service it belongs to.
    owners: HashMap<String, Option<String>>,
    names: HashMap<String, Name>,
    /// How many of them have an instance.
    named: usize,
}

impl State {
    /// The index of the last change.
    pub(super) fn index(&self) -> u64 {
        self.index
    }

    /// Raises the index, and every topic's with it, so that a blocking query with an older index
    /// returns.
    pub(super) fn open_at(&mut self, index: u64) {
        self.index = self.index.max(index);
        self.floor = self.index;
    }

    /// When the topic last changed.
    pub(super) fn index_of(&self, topic: &Topic) -> u64 {
        let index = match topic {
            Topic::Name(name) => self.names.get(name).map_or(0, |name| name.index),
            Topic::Catalog => self.catalog,
            Topic::Checks => self.checks,
            Topic::Node => 0,
        };
        index.max(self.floor)
    }

    /// All instances, by id.
    pub(super) fn services(&self) -> impl Iterator<Item = &Entry> {
        self.services.values()
    }

    /// The instance of this id.
    pub(super) fn service(&self, id: &str) -> Option<&Entry> {
        self.services.get(id)
    }

    /// The instances of a name, by id.
    pub(super) fn named(&self, name: &str) -> impl Iterator<Item = &Entry> {
        self.names
            .get(&in_any_case(name))
            .into_iter()
            .flat_map(|name| &name.ids)
            .filter_map(|id| self.services.get(id))
    }

    /// The checks that every instance shares, by id.
    pub(super) fn node_checks(&self) -> &BTreeMap<String, Arc<Indexed<Check>>> {
        &self.node_checks
    }

    /// All checks: the node's, then each service's.
    pub(super) fn all_checks(&self) -> impl Iterator<Item = &Arc<Indexed<Check>>> {
        let own = self.services().flat_map(|entry| entry.checks.values());
        self.node_checks.values().chain(own)
    }

    /// The check of this id.
    pub(super) fn check(&self, id: &str) -> Option<&Arc<Indexed<Check>>> {
        match self.owners.get(id)? {
            Some(service) => self.services.get(service)?.checks.get(id),
            None => self.node_checks.get(id),
        }
    }

    /// Every name with the tags of its instances, each once.
    pub(super) fn catalog(&self) -> BTreeMap<&str, BTreeSet<&str>> {
        let mut catalog = BTreeMap::<&str, BTreeSet<&str>>::new();
        for entry in self.services.values() {
            let tags = catalog.entry(&entry.service.name).or_default();
            tags.extend(entry.service.tags.iter().map(String::as_str));
        }
        catalog
    }

    /// All that is held, as changes that lead from nothing to it; each group stands for itself.
    pub(super) fn contents(&self) -> Vec<Vec<Change>> {
        let put = |check: &Arc<Indexed<Check>>| Change::PutCheck(Indexed::clone(check));
        let nodes = self.node_checks.values().map(|check| vec![put(check)]);
        let services = self.services.values().map(|entry| {
            let service = Change::PutService(Indexed::clone(&entry.service));
            std::iter::once(service)
                .chain(entry.checks.values().map(put))
                .collect()
        });
        nodes.chain(services).collect()
    }

    /// Takes the changes that happened at `index`, and says which topics they touch.
    pub(super) fn apply(&mut self, index: u64, changes: Vec<Change>) -> BTreeSet<Topic> {
        self.index = self.index.max(index);
        let mut touched = BTreeSet::new();
        for change in changes {
            match change {
                Change::PutService(service) => self.put_service(service, &mut touched),
                Change::DropService(id) => self.drop_service(&id, &mut touched),
                Change::PutCheck(check) => self.put_check(check, &mut touched),
                Change::DropCheck(id) => self.drop_check(&id, &mut touched),
                Change::SetStatus {
                    check,
                    status,
                    output,
                } => self.set_result(&check, Some((status, index)), output, &mut touched),
            }
        }
        for topic in &touched {
            match topic {
                Topic::Name(name) => self.names.entry(name.clone()).or_default().index = index,
                Topic::Catalog => self.catalog = index,
                Topic::Checks => self.checks = index,
                Topic::Node => {}
            }
        }
        self.forget_names();
        touched
    }

    /// Takes a new output of a check whose status stands. No blocking query waits for an output.
    pub(super) fn set_output(&mut self, check: &str, output: String) {
        self.set_result(check, None, output, &mut BTreeSet::new());
    }

    fn put_service(&mut self, service: Indexed<Service>, touched: &mut BTreeSet<Topic>) {
        let id = service.id.clone();
        let before = self.services.remove(&id);
        let told = |service: &Service| (service.name.clone(), service.tags.clone());
        let is_as_before = before
            .as_ref()
            .is_some_and(|entry| told(&entry.service) == told(&service));
        let gone = before.iter().map(|entry| &**entry.service);
        if !is_as_before && gone.chain([&*service]).any(|one| !self.others_list(one)) {
            touched.insert(Topic::Catalog);
        }
        let mut checks = BTreeMap::new();
        if let Some(entry) = before {
            self.unname(&entry.service, touched);
            checks = entry.checks;
        }
        let name = in_any_case(&service.name);
        touched.insert(Topic::Name(name.clone()));
        let ids = &mut self.names.entry(name).or_default().ids;
        self.named += usize::from(ids.is_empty());
        ids.insert(id.clone());
        let service = Arc::new(service);
        self.services.insert(id, Entry { service, checks });
    }

    fn drop_service(&mut self, id: &str, touched: &mut BTreeSet<Topic>) {
        let Some(entry) = self.services.remove(id) else {
            return;
        };
        self.unname(&entry.service, touched);
        if !self.others_list(&entry.service) {
            touched.insert(Topic::Catalog);
        }
        if !entry.checks.is_empty() {
            touched.insert(Topic::Checks);
        }
        for check in entry.checks.keys() {
            self.owners.remove(check);
        }
    }

    /// Whether the catalog says of the other instances' name and tags what this one adds to it.
    fn others_list(&self, service: &Service) -> bool {
        let is_other =
            |entry: &&Entry| entry.service.id != service.id && entry.service.name == service.name;
        let others = || self.named(&service.name).filter(is_other);
        let mut tags = service.tags.iter();
        others().next().is_some()
            && tags.all(|tag| others().any(|entry| entry.service.tags.contains(tag)))
    }

    fn unname(&mut self, service: &Service, touched: &mut BTreeSet<Topic>) {
        let name = in_any_case(&service.name);
        let ids = &mut self.names.entry(name.clone()).or_default().ids;
        if ids.remove(&service.id) && ids.is_empty() {
            self.named -= 1;
        }
        touched.insert(Topic::Name(name));
    }

    fn put_check(&mut self, check: Indexed<Check>, touched: &mut BTreeSet<Topic>) {
        // A check's id is the node's: it may come over from another service.
        self.drop_check(&check.id, touched);
        let (id, owner) = (check.id.clone(), check.service.clone());
        let Some(checks) = self.checks_of(owner.as_deref()) else {
            return;
        };
        checks.insert(id.clone(), Arc::new(check));
        self.owners.insert(id, owner.clone());
        self.touch_checks(owner.as_deref(), touched);
    }

    fn drop_check(&mut self, id: &str, touched: &mut BTreeSet<Topic>) {
        let Some(owner) = self.owners.remove(id) else {
            return;
        };
        if let Some(checks) = self.checks_of(owner.as_deref()) {
            checks.remove(id);
        }
        self.touch_checks(owner.as_deref(), touched);
    }

    fn set_result(
        &mut self,
        id: &str,
        status: Option<(Status, u64)>,
        output: String,
        touched: &mut BTreeSet<Topic>,
    ) {
        let Some(owner) = self.owners.get(id).cloned() else {
            return;
        };
        let held = self
            .checks_of(owner.as_deref())
            .and_then(|checks| checks.get_mut(id));
        let Some(held) = held else { return };
        let mut check = held.value().clone();
        check.output = output;
        let modified = if let Some((status, index)) = status {
            check.status = status;
            index
        } else {
            held.modified
        };
        *held = Arc::new(Indexed::replacing(Some(&**held), check, modified));
        if status.is_some() {
            self.touch_checks(owner.as_deref(), touched);
        }
    }

    fn checks_of(
        &mut self,
        owner: Option<&str>,
    ) -> Option<&mut BTreeMap<String, Arc<Indexed<Check>>>> {
        match owner {
            Some(service) => Some(&mut self.services.get_mut(service)?.checks),
            None => Some(&mut self.node_checks),
        }
    }

    fn touch_checks(&self, owner: Option<&str>, touched: &mut BTreeSet<Topic>) {
        touched.insert(Topic::Checks);
        match owner {
            Some(id) => touched.extend(
                self.services
                    .get(id)
                    .map(|entry| Topic::name(&entry.service.name)),
            ),
            // Every instance answers with the node's checks.
            None => touched.extend(self.names.keys().cloned().map(Topic::Name)),
        }
    }

    fn forget_names(&mut self) {
        if self.names.len() - self.named > REMEMBERED_NAMES {
            self.names.retain(|_, name| !name.ids.is_empty());
            self.floor = self.index;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::model::Kind;
    use super::*;

    fn service(id: &str, name: &str, tags: &[&str]) -> Service {
        Service {
            id: id.to_owned(),
            name: name.to_owned(),
            tags: tags.iter().map(|tag| (*tag).to_owned()).collect(),
            ..Service::default()
        }
    }

    fn check(id: &str, owner: Option<&str>) -> Check {
        Check {
            id: id.to_owned(),
            name: id.to_owned(),
            notes: String::new(),
            service: owner.map(str::to_owned),
            kind: Kind::Maintenance,
            deregister_after: None,
            status: Status::Passing,
            output: String::new(),
        }
    }

    /// A state with one `web` and one `api`, both with a check, at index 4.
    fn two() -> State {
        let mut state = State::default();
        state.apply(1, vec![put(service("w1", "Web", &["a"]), 1)]);
        state.apply(2, vec![put(service("a1", "api", &[]), 2)]);
        state.apply(3, vec![put_check(check("cw", Some("w1")), 3)]);
        state.apply(4, vec![put_check(check("ca", Some("a1")), 4)]);
        state
    }

    fn put(service: Service, index: u64) -> Change {
        Change::PutService(Indexed::replacing(None, service, index))
    }

    fn put_check(check: Check, index: u64) -> Change {
        Change::PutCheck(Indexed::replacing(None, check, index))
    }

    fn topics(topics: &[Topic]) -> BTreeSet<Topic> {
        topics.iter().cloned().collect()
    }

    #[test]
    fn a_change_touches_its_own_name_only() {
        let mut state = two();
        let touched = state.apply(
            5,
            vec![Change::SetStatus {
                check: "ca".to_owned(),
                status: Status::Critical,
                output: "down".to_owned(),
            }],
        );
        assert_eq!(touched, topics(&[Topic::name("api"), Topic::Checks]));
        assert_eq!(state.index_of(&Topic::name("API")), 5);
        assert_eq!(state.index_of(&Topic::name("web")), 3);
        assert_eq!(state.index_of(&Topic::Catalog), 2);
        let held = state.check("ca").unwrap();
        assert_eq!((held.created, held.modified), (4, 5));
    }

    #[test]
    fn the_catalog_changes_with_names_and_tags_and_nothing_else() {
        let mut state = two();
        let same_tags = Service {
            port: 9,
            ..service("w1", "Web", &["a"])
        };
        assert_eq!(
            state.apply(5, vec![put(same_tags, 5)]),
            topics(&[Topic::name("web")])
        );
        assert!(
            state
                .apply(6, vec![put(service("w1", "Web", &["b"]), 6)])
                .contains(&Topic::Catalog)
        );
    }

    #[test]
    fn an_instance_that_changes_its_name_leaves_the_old_one() {
        let mut state = two();
        let touched = state.apply(5, vec![put(service("w1", "shop", &["a"]), 5)]);
        assert!(touched.contains(&Topic::name("web")) && touched.contains(&Topic::name("shop")));
        assert_eq!(state.named("web").count(), 0);
        let moved = state.named("SHOP").next().unwrap();
        assert!(moved.checks.contains_key("cw"));
    }

    #[test]
    fn a_node_check_touches_every_name() {
        let mut state = two();
        let touched = state.apply(5, vec![put_check(check("node", None), 5)]);
        assert_eq!(
            touched,
            topics(&[Topic::name("api"), Topic::name("web"), Topic::Checks])
        );
    }

    #[test]
    fn a_check_that_moves_to_another_service_touches_both() {
        let mut state = two();
        let touched = state.apply(5, vec![put_check(check("cw", Some("a1")), 5)]);
        assert_eq!(
            touched,
            topics(&[Topic::name("api"), Topic::name("web"), Topic::Checks])
        );
        assert!(state.service("w1").unwrap().checks.is_empty());
        assert_eq!(state.service("a1").unwrap().checks.len(), 2);
    }

    #[test]
    fn a_dropped_service_takes_its_checks_and_its_name_keeps_an_index() {
        let mut state = two();
        state.apply(5, vec![Change::DropService("w1".to_owned())]);
        assert!(state.check("cw").is_none());
        assert_eq!(state.index_of(&Topic::name("web")), 5);
        state.apply(6, vec![Change::DropService("a1".to_owned())]);
        assert_eq!(state.index_of(&Topic::name("web")), 5);
    }

    #[test]
    fn forgotten_names_never_go_back() {
        let mut state = State::default();
        let mut index = 0;
        for number in 0..=REMEMBERED_NAMES {
            let id = format!("n{number}");
            index += 2;
            state.apply(index - 1, vec![put(service(&id, &id, &[]), index - 1)]);
            state.apply(index, vec![Change::DropService(id)]);
        }
        assert!(state.names.is_empty());
        assert_eq!(state.index_of(&Topic::name("n0")), index);
    }
}
