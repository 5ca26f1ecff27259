//! What became of a service's set: its last changes, each with the set that it made, so that one can
//! be gone back to. Written when a set changes, read by people; no request comes here. Knows nothing
//! of endpoints, and of registries only what they are called.

use std::{collections::VecDeque, fmt, iter::Peekable, sync::Arc, time::SystemTime};

use serde::Serialize;

use crate::{
    instance::{Address, Instance},
    service::log_lines,
    term::Term,
};

/// As many changes are remembered.
const LENGTH: usize = 50;

/// A service's last changes.
#[derive(Debug, Default)]
pub(crate) struct Journal {
    entries: VecDeque<Box<Entry>>,
    /// Of the last entry; the first is 1.
    number: u64,
    /// The set as it is.
    set: Arc<[ListedInstance]>,
    /// While the set is pinned: what it would be.
    pub(crate) pin: Option<Box<Pin>>,
}

/// A set that stays what it is, whatever the registries say.
#[derive(Debug)]
pub(crate) struct Pin {
    /// The entry whose set it is.
    pub(crate) of: u64,
    pub(crate) term: Term,
    /// What the registries say meanwhile.
    told: Arc<[ListedInstance]>,
}

impl Pin {
    /// To the set of this entry, from now on.
    pub(crate) fn new(of: u64, term: Term) -> Self {
        Self {
            of,
            term,
            told: Arc::default(),
        }
    }
}

/// One change.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) number: u64,
    at: SystemTime,
    why: Why,
    /// Whether requests followed it; what is heard while the set is pinned is only noted.
    applied: bool,
    /// `None` where each instance of the set has come with it, as of most services' first and only set.
    changes: Option<Box<[Change]>>,
    pub(crate) set: Arc<[ListedInstance]>,
}

/// An instance of a set. Sets share those that did not change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ListedInstance {
    pub(crate) instance: Arc<Instance>,
    pub(crate) standing: Listed,
}

/// How an instance stood in a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Listed {
    Healthy,
    Unhealthy,
    /// Kept by the guard, although its registry dropped it.
    Held,
}

/// What made a set change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "why", rename_all = "snake_case")]
pub enum Why {
    /// A registry said so.
    Registry {
        /// Its name in proxy.toml.
        registry: Arc<str>,
        /// How it numbers that, if it does.
        revision: Option<u64>,
    },
    /// A registry cannot be read, and another one takes its place; or what it said was given up.
    Away {
        /// Its name in proxy.toml.
        registry: Arc<str>,
    },
    /// It was kept on disk from before the start.
    Snapshot {
        /// The registry that had said so.
        registry: Arc<str>,
    },
    /// It stands in proxy.toml.
    ProxyToml,
    /// The shrink guard let go of an endpoint.
    Guard,
    /// It was pinned to the set of an earlier entry.
    Pinned {
        /// That entry's number.
        set: u64,
    },
    /// The pin was taken off: the registries are followed again.
    Unpinned,
    /// The pin's time was over: the registries are followed again.
    PinExpired,
    /// A person drains an endpoint.
    Drained {
        /// Its address.
        endpoint: Address,
    },
    /// A person has ended that.
    Undrained {
        /// Its address.
        endpoint: Address,
    },
    /// The drain's time was over.
    DrainExpired {
        /// Its address.
        endpoint: Address,
    },
    /// A person has an endpoint be picked by another weight for a while.
    Reweighed {
        /// Its address.
        endpoint: Address,
        /// The other weight.
        weight: u32,
    },
    /// A person has ended that, or its time was over.
    Unweighed {
        /// Its address.
        endpoint: Address,
    },
}

impl Why {
    /// Whether it is news although it changes no instance of the set.
    fn is_news(&self) -> bool {
        use Why::{DrainExpired, Drained, Pinned, Reweighed, Undrained, Unweighed};
        matches!(
            self,
            Pinned { .. }
                | Drained { .. }
                | Undrained { .. }
                | DrainExpired { .. }
                | Reweighed { .. }
                | Unweighed { .. }
        )
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Registry { registry, .. } => write!(f, "{registry} says so"),
            Self::Away { registry } => write!(f, "{registry} cannot be read"),
            Self::Snapshot { registry } => write!(f, "{registry} had said so before the start"),
            Self::ProxyToml => f.write_str("it stands in proxy.toml"),
            Self::Guard => f.write_str("the guard has let go"),
            Self::Pinned { set } => write!(f, "pinned to set {set}"),
            Self::Unpinned => f.write_str("no longer pinned"),
            Self::PinExpired => f.write_str("the pin's time is over"),
            Self::Drained { endpoint } => write!(f, "{endpoint} is drained"),
            Self::Undrained { endpoint } => write!(f, "{endpoint} is no longer drained"),
            Self::Reweighed { endpoint, weight } => {
                write!(f, "{endpoint} has the weight {weight} for a while")
            }
            Self::Unweighed { endpoint } => write!(f, "{endpoint} has its own weight again"),
            Self::DrainExpired { endpoint } => write!(f, "the drain of {endpoint} is over"),
        }
    }
}

/// What a change did to one instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(into = "ChangeStatus")]
pub struct Change {
    what: What,
    /// As it is now, or was at last.
    instance: Arc<Instance>,
}

/// The same, as the admin API shows it.
#[derive(Serialize)]
struct ChangeStatus {
    what: What,
    /// The registry's id for it.
    instance: Arc<str>,
    address: Address,
    /// The weight that it has now, or had at last.
    weight: u32,
}

impl From<Change> for ChangeStatus {
    fn from(Change { what, instance }: Change) -> Self {
        Self {
            what,
            instance: Arc::clone(&instance.id),
            address: instance.address.clone(),
            weight: instance.weight,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum What {
    Added,
    Removed,
    /// Its registry dropped it with many others; it stays for a while.
    Held,
    /// It was held, and is no more.
    LetGo,
    /// It was held, and is registered again.
    Returned,
    /// Its checks pass again.
    Healthy,
    /// Its checks do not pass any more.
    Unhealthy,
    WeightChanged,
    TagsChanged,
    MetaChanged,
    /// It now speaks TLS, or no longer does.
    TlsChanged,
}

/// An entry, as the admin API shows it.
#[derive(Debug, Serialize)]
pub struct EntryStatus {
    /// Counted from 1; by it a set can be pinned.
    pub number: u64,
    /// In seconds since 1970.
    pub at: f64,
    /// What made the set change.
    #[serde(flatten)]
    pub why: Why,
    /// Whether requests followed it; what is heard while the set is pinned is only noted.
    pub applied: bool,
    /// What is different from the set before.
    pub changes: Vec<Change>,
    /// How many may be picked in the set that it made, and how many may not.
    pub healthy: usize,
    /// See `healthy`.
    pub unhealthy: usize,
}

impl Journal {
    /// Notes what the service's set is now, in the order of sets, if that differs from what it was.
    pub(crate) fn note<'i>(
        &mut self,
        service: &Arc<str>,
        why: Why,
        set: impl Iterator<Item = (&'i Arc<Instance>, Listed)>,
    ) {
        let (all, changes) = compare(&self.set, set);
        if changes.is_empty() && !why.is_news() {
            return;
        }
        tell(service, &changes, &why);
        self.set = all.into();
        let set = Arc::clone(&self.set);
        self.add(why, true, changes, set);
    }

    /// Notes what the registries say while the set is pinned, if that differs from what they said.
    pub(crate) fn note_told(&mut self, why: Why, set: &[Arc<Instance>]) {
        let Some(pin) = &mut self.pin else { return };
        let (all, changes) = compare(&pin.told, set.iter().map(standing));
        if !changes.is_empty() {
            pin.told = all.into();
            let set = Arc::clone(&pin.told);
            self.add(why, false, changes, set);
        }
    }

    fn add(&mut self, why: Why, applied: bool, changes: Vec<Change>, set: Arc<[ListedInstance]>) {
        let came = changes.iter().filter(|one| one.what == What::Added);
        let all_came = came.count() == set.len() && set.len() == changes.len();
        self.number += 1;
        self.entries.truncate(LENGTH - 1);
        self.entries.push_front(Box::new(Entry {
            number: self.number,
            at: SystemTime::now(),
            why,
            applied,
            changes: (!all_came).then(|| changes.into()),
            set,
        }));
    }

    /// Begins to hold what the registries say apart from the set, which is that of an entry.
    pub(crate) fn pin(&mut self, mut pin: Box<Pin>, told: &[Arc<Instance>]) {
        pin.told = compare(&self.set, told.iter().map(standing)).0.into();
        self.pin = Some(pin);
    }

    /// The entry of this number; of none, the one that made the set what it is.
    pub(crate) fn entry(&self, number: Option<u64>) -> Option<&Entry> {
        let mut entries = self.entries.iter();
        let entry = match number {
            Some(number) => entries.find(|entry| entry.number == number),
            None => entries.find(|entry| entry.applied),
        };
        entry.map(|entry| &**entry)
    }

    /// The numbers of the first and the last entry that there still are.
    pub(crate) fn numbers(&self) -> Option<(u64, u64)> {
        let first = self.entries.back()?;
        Some((first.number, self.number))
    }

    /// The entries, the latest first.
    pub(crate) fn entries(&self) -> Vec<EntryStatus> {
        let healthy = |one: &&ListedInstance| one.standing != Listed::Unhealthy;
        self.entries
            .iter()
            .map(|entry| {
                let healthy = entry.set.iter().filter(healthy).count();
                EntryStatus {
                    number: entry.number,
                    at: unix_seconds(entry.at),
                    why: entry.why.clone(),
                    applied: entry.applied,
                    changes: entry.changes(),
                    healthy,
                    unhealthy: entry.set.len() - healthy,
                }
            })
            .collect()
    }
}

impl Entry {
    fn changes(&self) -> Vec<Change> {
        match &self.changes {
            Some(changes) => changes.to_vec(),
            None => self.set.iter().map(|one| one.change(What::Added)).collect(),
        }
    }
}

impl ListedInstance {
    /// As it was to requests.
    pub(crate) fn instance(&self) -> Arc<Instance> {
        self.instance.called(self.standing != Listed::Unhealthy)
    }

    fn key(&self) -> (&Arc<str>, &Address) {
        (&self.instance.id, &self.instance.address)
    }

    fn change(&self, what: What) -> Change {
        Change {
            what,
            instance: Arc::clone(&self.instance),
        }
    }

    fn left(&self) -> Change {
        self.change(match self.standing {
            Listed::Held => What::LetGo,
            Listed::Healthy | Listed::Unhealthy => What::Removed,
        })
    }
}

fn tell(service: &Arc<str>, changes: &[Change], why: &Why) {
    let of = |wanted: &[What]| -> Vec<&Address> {
        let those = changes.iter().filter(|one| wanted.contains(&one.what));
        those.map(|one| &one.instance.address).collect()
    };
    let (joined, left) = (of(&[What::Added]), of(&[What::Removed, What::LetGo]));
    log_lines::changed(service, &joined, &left, why.to_string());
}

/// How an instance stands of which its registry says no more than what it says.
pub(crate) fn standing(instance: &Arc<Instance>) -> (&Arc<Instance>, Listed) {
    let standing = if instance.healthy {
        Listed::Healthy
    } else {
        Listed::Unhealthy
    };
    (instance, standing)
}

/// The set that is there now, which shares what it can with the one before, and how they differ.
/// Both are in the order of sets.
fn compare<'i>(
    before: &[ListedInstance],
    now: impl Iterator<Item = (&'i Arc<Instance>, Listed)>,
) -> (Vec<ListedInstance>, Vec<Change>) {
    let mut changes = Vec::new();
    let mut before = before.iter().peekable();
    let mut all = Vec::new();
    for (instance, standing) in now {
        let key = (&instance.id, &instance.address);
        changes.extend(until(&mut before, |one| one.key() < key).map(ListedInstance::left));
        let known = before.next_if(|one| one.key() == key);
        let same = known.map(|known| &known.instance);
        let same = same.filter(|known| *known == instance);
        let one = ListedInstance {
            instance: Arc::clone(same.unwrap_or(instance)),
            standing,
        };
        match known {
            None => changes.push(one.change(What::Added)),
            Some(known) => differences(known, &one, &mut changes),
        }
        all.push(one);
    }
    changes.extend(before.map(ListedInstance::left));
    (all, changes)
}

fn until<'s, I: Iterator<Item = &'s ListedInstance>>(
    all: &mut Peekable<I>,
    goes_on: impl Fn(&ListedInstance) -> bool,
) -> impl Iterator<Item = &'s ListedInstance> {
    std::iter::from_fn(move || all.next_if(|one| goes_on(one)))
}

fn differences(before: &ListedInstance, now: &ListedInstance, changes: &mut Vec<Change>) {
    let stands = match (before.standing, now.standing) {
        (before, now) if before == now => None,
        (_, Listed::Held) => Some(What::Held),
        (Listed::Held, Listed::Healthy) => Some(What::Returned),
        (Listed::Held, Listed::Unhealthy) => Some(What::LetGo),
        (_, Listed::Healthy) => Some(What::Healthy),
        (_, Listed::Unhealthy) => Some(What::Unhealthy),
    };
    let (a, b) = (&before.instance, &now.instance);
    let others = [
        (a.weight != b.weight, What::WeightChanged),
        (a.tags != b.tags, What::TagsChanged),
        (a.meta != b.meta, What::MetaChanged),
        (a.tls != b.tls, What::TlsChanged),
    ];
    let others = others
        .into_iter()
        .filter_map(|(differs, what)| differs.then_some(what));
    changes.extend(
        stands
            .into_iter()
            .chain(others)
            .map(|what| now.change(what)),
    );
}

/// Since 1970.
pub(crate) fn unix_seconds(at: SystemTime) -> f64 {
    at.duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0.0, |since| since.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn instance(number: u16) -> Arc<Instance> {
        Arc::new(Instance::new(
            format!("i{number:03}"),
            Address::new("10.0.0.1", i64::from(number)).unwrap(),
        ))
    }

    fn told() -> Why {
        Why::Registry {
            registry: "main".into(),
            revision: Some(7),
        }
    }

    fn note(journal: &mut Journal, set: &[(Arc<Instance>, Listed)]) {
        let set = set.iter().map(|(instance, standing)| (instance, *standing));
        journal.note(&"cart".into(), told(), set);
    }

    /// The last entry's changes: what, and whose port.
    fn last(journal: &Journal) -> Vec<(What, u16)> {
        let changes = journal.entries[0].changes();
        changes
            .iter()
            .map(|change| (change.what, change.instance.address.port()))
            .collect()
    }

    use Listed::{Healthy, Held, Unhealthy};

    #[test]
    fn each_entry_says_what_is_different() {
        let mut journal = Journal::default();
        let [a, b, c] = [1, 2, 3].map(instance);
        note(&mut journal, &[(a.clone(), Healthy), (c.clone(), Healthy)]);
        assert_eq!(last(&journal), [(What::Added, 1), (What::Added, 3)]);
        note(
            &mut journal,
            &[(b.clone(), Healthy), (c.clone(), Unhealthy)],
        );
        let expected = [(What::Removed, 1), (What::Added, 2), (What::Unhealthy, 3)];
        assert_eq!(last(&journal), expected);
        note(&mut journal, &[(b.clone(), Held), (c.clone(), Healthy)]);
        assert_eq!(last(&journal), [(What::Held, 2), (What::Healthy, 3)]);
        note(&mut journal, &[(b.clone(), Healthy), (c.clone(), Held)]);
        assert_eq!(last(&journal), [(What::Returned, 2), (What::Held, 3)]);
        let other = Instance {
            tls: true,
            weight: 9,
            tags: vec!["x".to_owned()],
            meta: BTreeMap::from([("k".to_owned(), "v".to_owned())]),
            ..Instance::clone(&b)
        };
        note(&mut journal, &[(other.into(), Healthy)]);
        let expected = [
            (What::WeightChanged, 2),
            (What::TagsChanged, 2),
            (What::MetaChanged, 2),
            (What::TlsChanged, 2),
            (What::LetGo, 3),
        ];
        assert_eq!(last(&journal), expected);
        let shown = serde_json::to_value(&journal.entries()[0]).unwrap();
        assert_eq!(shown["number"], 5);
        assert_eq!(
            (&shown["why"], &shown["registry"]),
            (&"registry".into(), &"main".into())
        );
        assert_eq!(shown["revision"], 7);
        assert_eq!(shown["changes"][0]["what"], "weight_changed");
        assert_eq!(shown["changes"][0]["weight"], 9);
        assert_eq!(shown["changes"][4]["address"], "10.0.0.1:3");
        assert_eq!(
            (&shown["healthy"], &shown["unhealthy"]),
            (&1.into(), &0.into())
        );
    }

    #[test]
    fn what_does_not_change_is_no_entry_and_is_shared() {
        let mut journal = Journal::default();
        let set = || (1..101).map(|number| (instance(number), Healthy));
        note(&mut journal, &set().collect::<Vec<_>>());
        note(&mut journal, &set().collect::<Vec<_>>());
        assert_eq!(journal.numbers(), Some((1, 1)));
        note(&mut journal, &set().skip(1).collect::<Vec<_>>());
        let (now, before) = (&journal.entries[0].set, &journal.entries[1].set);
        assert!(Arc::ptr_eq(&now[0].instance, &before[1].instance));
    }

    #[test]
    fn the_last_fifty_are_kept() {
        let mut journal = Journal::default();
        for number in 1..=70 {
            note(&mut journal, &[(instance(number), Healthy)]);
        }
        assert_eq!(journal.numbers(), Some((21, 70)));
        assert_eq!(journal.entries().len(), LENGTH);
        assert!(journal.entry(Some(20)).is_none());
        let entry = journal.entry(Some(21)).unwrap();
        assert_eq!(entry.set[0].instance, instance(21));
        assert_eq!(journal.entry(None).unwrap().number, 70);
    }

    #[test]
    fn what_is_told_while_the_set_is_pinned_is_noted_apart() {
        let mut journal = Journal::default();
        let [a, b] = [1, 2].map(instance);
        note(&mut journal, &[(a.clone(), Healthy), (b.clone(), Held)]);
        let pin = Pin::new(1, Term::endless());
        journal.pin(Box::new(pin), std::slice::from_ref(&a));
        journal.note_told(told(), std::slice::from_ref(&a));
        assert_eq!(journal.numbers(), Some((1, 1)), "that is what it said");
        journal.note_told(told(), &[]);
        assert_eq!(last(&journal), [(What::Removed, 1)]);
        let entry = journal.entry(Some(2)).unwrap();
        assert!(!entry.applied && entry.set.is_empty());
        assert_eq!(journal.entry(None).unwrap().number, 1, "what is served");
        journal.pin = None;
        note(&mut journal, &[(a.clone(), Healthy)]);
        assert_eq!(last(&journal), [(What::LetGo, 2)]);
    }
}
