//! What stands in the file: JSON, of which a person can read whom the proxy knew.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};

use crate::{
    evidence::Evidence,
    instance::{Instance, MAX_WEIGHT},
};

const FORMAT: u32 = 2;

/// All that is kept.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Contents {
    /// Once they were read, in the order of services, then registries.
    pub sets: Vec<Set>,
    /// One for each registry whose list of services was read.
    pub catalogs: Vec<Catalog>,
    /// Which registry has which name in proxy.toml, in words: what it said is worth nothing once
    /// that name is another registry's.
    #[serde(skip_serializing)]
    pub registries: BTreeMap<Arc<str>, String>,
}

/// What one registry said last of one service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Set {
    /// The service's name, as routes have it.
    pub service: Arc<str>,
    /// Its name in the registry.
    pub name: String,
    /// The registry's name in proxy.toml.
    pub registry: Arc<str>,
    /// When the registry last said so; in JSON, Unix time in seconds.
    #[serde(with = "unix")]
    pub confirmed: SystemTime,
    /// Healthy and unhealthy ones alike, in the order of sets.
    pub instances: Vec<Arc<Instance>>,
    /// What that answer showed of the registry's history.
    pub evidence: Evidence,
}

/// Which services one registry listed last.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Catalog {
    /// The registry's name in proxy.toml.
    pub registry: Arc<str>,
    /// When the registry last said so; in JSON, Unix time in seconds.
    #[serde(with = "unix")]
    pub confirmed: SystemTime,
    /// The services' names, each with the tags of its instances.
    pub services: BTreeMap<Arc<str>, Vec<String>>,
}

/// Why a file is none.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    /// It is no JSON, was cut off, or lacks something.
    #[error("it cannot be read: {0}")]
    Json(#[from] serde_json::Error),
    /// Another version of Callboard wrote it. The first did not say which registries it had read.
    #[error("its format is {0}, not {FORMAT}: another version of Callboard wrote it")]
    Format(u32),
    /// A registry could not have said that.
    #[error("the weight of `{0}` is out of range")]
    Weight(Arc<str>),
}

impl Contents {
    pub(crate) fn read(bytes: &[u8]) -> Result<Self, ReadError> {
        #[derive(Deserialize)]
        struct Header {
            format: u32,
        }
        // Another format may look different in everything but this.
        let Header { format } = serde_json::from_slice(bytes)?;
        if format != FORMAT {
            return Err(ReadError::Format(format));
        }
        let mut contents: Self = serde_json::from_slice(bytes)?;
        let mut instances = contents.sets.iter().flat_map(|set| &set.instances);
        if let Some(wrong) = instances.find(|one| !(1..=MAX_WEIGHT).contains(&one.weight)) {
            return Err(ReadError::Weight(Arc::clone(&wrong.id)));
        }
        contents.sort();
        Ok(contents)
    }

    /// As it stands in the file, with which registry has which name now.
    pub(crate) fn write(&self, registries: &BTreeMap<Arc<str>, String>) -> Vec<u8> {
        #[derive(Serialize)]
        struct Whole<'a> {
            format: u32,
            registries: &'a BTreeMap<Arc<str>, String>,
            #[serde(flatten)]
            contents: &'a Contents,
        }
        let whole = Whole {
            format: FORMAT,
            registries,
            contents: self,
        };
        serde_json::to_vec(&whole).expect("names, numbers and texts are JSON")
    }

    fn sort(&mut self) {
        let key = |set: &Set| (Arc::clone(&set.service), Arc::clone(&set.registry));
        self.sets.sort_by_cached_key(key);
    }

    /// Leaves out what was confirmed longer ago than this. Returns how much that was.
    pub(super) fn drop_older(&mut self, max_age: Duration, now: SystemTime) -> usize {
        let before = self.len();
        self.sets.retain(|set| age(set.confirmed, now) <= max_age);
        self.catalogs
            .retain(|catalog| age(catalog.confirmed, now) <= max_age);
        before - self.len()
    }

    /// Leaves out what other registries said than those that have the names now. Returns how much
    /// that was.
    pub(crate) fn drop_others(&mut self, registries: &BTreeMap<Arc<str>, String>) -> usize {
        let before = self.len();
        let is_same = |name: &Arc<str>| match (self.registries.get(name), registries.get(name)) {
            (Some(then), Some(now)) => then == now,
            _ => false,
        };
        self.sets.retain(|set| is_same(&set.registry));
        self.catalogs.retain(|catalog| is_same(&catalog.registry));
        self.registries.clone_from(registries);
        before - self.len()
    }

    pub(super) fn len(&self) -> usize {
        self.sets.len() + self.catalogs.len()
    }

    /// Whether nothing is kept.
    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What a registry said of a service.
    pub fn set(&self, service: &str, registry: &str) -> Option<&Set> {
        let at = self.sets.binary_search_by(|set| {
            let key = (&*set.service, &*set.registry);
            key.cmp(&(service, registry))
        });
        at.ok().map(|at| &self.sets[at])
    }

    /// Which services a registry listed.
    pub fn catalog(&self, registry: &str) -> Option<&Catalog> {
        let mut catalogs = self.catalogs.iter();
        catalogs.find(|catalog| *catalog.registry == *registry)
    }
}

/// How long ago that was; nothing where the clock has gone back since.
pub(super) fn age(confirmed: SystemTime, now: SystemTime) -> Duration {
    now.duration_since(confirmed).unwrap_or_default()
}

mod unix {
    use serde::{Deserializer, Serializer, de::Error as _};

    use super::{Deserialize, Duration, Serialize, SystemTime, UNIX_EPOCH};

    pub(super) fn serialize<S: Serializer>(at: &SystemTime, to: S) -> Result<S::Ok, S::Error> {
        let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
        since.as_secs_f64().serialize(to)
    }

    pub(super) fn deserialize<'d, D: Deserializer<'d>>(from: D) -> Result<SystemTime, D::Error> {
        let since = Duration::try_from_secs_f64(f64::deserialize(from)?);
        let at = since.map(|since| UNIX_EPOCH.checked_add(since));
        at.ok()
            .flatten()
            .ok_or_else(|| D::Error::custom("no moment"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::instance::Address;

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn contents() -> Contents {
        let instance = Arc::new(Instance {
            id: "n/1".into(),
            address: Address::new("::1", 80).unwrap(),
            tls: true,
            healthy: false,
            weight: 3,
            tags: vec!["v2".to_owned()],
            meta: BTreeMap::from([("zone".to_owned(), "a".to_owned())]),
        });
        let set = |service: &str, registry: &str, confirmed| Set {
            service: service.into(),
            name: "cart-backend".to_owned(),
            registry: registry.into(),
            confirmed: at(confirmed),
            instances: vec![instance.clone()],
            evidence: Evidence::default(),
        };
        Contents {
            sets: vec![set("a", "y", 100), set("b", "x", 200), set("b", "y", 300)],
            catalogs: vec![Catalog {
                registry: "x".into(),
                confirmed: at(150),
                services: BTreeMap::from([("b".into(), vec!["v2".to_owned()])]),
            }],
            registries: ["x", "y"]
                .map(|name| (name.into(), format!("consul at {name}")))
                .into(),
        }
    }

    fn written(contents: &Contents) -> Vec<u8> {
        contents.write(&contents.registries)
    }

    #[test]
    fn what_was_written_is_read_and_found() {
        let read = Contents::read(&written(&contents())).unwrap();
        assert_eq!(read, contents());
        assert_eq!(read.set("b", "x").unwrap().confirmed, at(200));
        assert_eq!(read.set("a", "x"), None);
        assert!(read.catalog("x").is_some() && read.catalog("y").is_none());
    }

    #[test]
    fn the_order_of_the_file_does_not_matter() {
        let mut other = contents();
        other.sets.reverse();
        assert_eq!(Contents::read(&written(&other)).unwrap(), contents());
    }

    #[test]
    fn a_file_that_was_cut_anywhere_is_none() {
        let bytes = written(&contents());
        for end in 0..bytes.len() {
            assert!(Contents::read(&bytes[..end]).is_err(), "cut at {end}");
        }
    }

    #[test]
    fn what_no_registry_could_have_said_is_no_file() {
        let text = String::from_utf8(written(&contents())).unwrap();
        for (from, to) in [
            ("\"format\":2", "\"format\":1"),
            ("\"format\":2", "\"former\":2"),
            ("[::1]:80", "[::1]:0"),
            ("[::1]:80", "no port"),
            ("[::1]:80", "https://[::1]:80"),
            ("\"weight\":3", "\"weight\":0"),
            ("\"confirmed\":100.0", "\"confirmed\":-1"),
            ("\"confirmed\":100.0", "\"confirmed\":1e300"),
        ] {
            assert!(text.contains(from), "{text}");
            let text = text.replacen(from, to, 1);
            assert!(Contents::read(text.as_bytes()).is_err(), "{to}");
        }
    }

    #[test]
    fn what_another_registry_of_the_same_name_said_is_left_out() {
        let names = |contents: &Contents| {
            let sets = contents.sets.iter().map(|set| set.registry.to_string());
            let catalogs = contents.catalogs.iter();
            let catalogs = catalogs.map(|catalog| format!("all of {}", catalog.registry));
            sets.chain(catalogs).collect::<Vec<_>>().join(" ")
        };
        let same = contents().registries;
        let mut some = contents();
        assert_eq!(some.drop_others(&same), 0);
        let mut moved = same.clone();
        moved.insert("x".into(), "consul at z".to_owned());
        let mut some = contents();
        assert_eq!(some.drop_others(&moved), 2);
        assert_eq!(names(&some), "y y");
        assert_eq!(some.registries, moved);
        let mut some = contents();
        some.registries.clear();
        assert_eq!(some.drop_others(&same), 4, "nobody knows whose they are");
    }

    #[test]
    fn what_is_too_old_is_left_out_and_a_clock_that_went_back_makes_nothing_old() {
        let mut some = contents();
        assert_eq!(some.drop_older(Duration::from_secs(100), at(275)), 2);
        let left: Vec<_> = some.sets.iter().map(|set| set.confirmed).collect();
        assert_eq!(left, [at(200), at(300)]);
        assert_eq!(some.drop_older(Duration::from_secs(100), at(1)), 0);
    }
}
