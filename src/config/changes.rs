//! How one config differs from another: what a reload would do. Knows nothing of what runs.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt,
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use super::{Config, RegistryKind, Route, Subset};

/// How a config differs from the one that runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changes {
    /// What is there and was not.
    pub added: Vec<String>,
    /// What was there and is not.
    pub removed: Vec<String>,
    /// What is another than it was.
    pub changed: Vec<String>,
    /// What is another, and takes effect at the next start.
    pub at_next_start: Vec<String>,
}

impl Changes {
    /// Whether nothing differs.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// From one config to another.
    pub fn between(before: &Config, after: &Config) -> Self {
        let mut changes = Self::default();
        changes.note_fixed(before, after);
        changes.note_registries(before, after);
        if before.defaults != after.defaults {
            changes.changed.push("[defaults]".to_owned());
        }
        if before.drain != after.drain {
            changes.changed.push("[drain]".to_owned());
        }
        if before.watch_config != after.watch_config {
            changes.changed.push("watch_config".to_owned());
        }
        let services = |config: &Config| {
            let services = config.services.iter();
            let services = services.map(|(name, service)| (name.to_string(), Arc::clone(service)));
            services.collect::<BTreeMap<_, _>>()
        };
        changes.note("service", &services(before), &services(after), |a, b| {
            a == b
        });
        let routes = |config| routes(config).collect::<BTreeMap<_, _>>();
        changes.note("route", &routes(before), &routes(after), |a, b| {
            a.leads_like(b)
        });
        changes
    }

    /// What no process changes while it runs.
    fn note_fixed(&mut self, before: &Config, after: &Config) {
        let fixed = [
            ("workers", before.workers == after.workers),
            ("[log]", before.log == after.log),
            ("[[listen]]", before.listeners == after.listeners),
            ("[admin]", before.admin == after.admin),
            ("[snapshot]", before.snapshot == after.snapshot),
        ];
        let others = fixed.into_iter().filter(|(_, is_same)| !is_same);
        let names = others.map(|(what, _)| what.to_owned());
        self.at_next_start.extend(names);
    }

    fn note_registries(&mut self, before: &Config, after: &Config) {
        let is_embedded = |config: &Config, name: &Arc<str>| {
            let settings = config.registries.get(name);
            settings.is_some_and(|settings| matches!(settings.kind, RegistryKind::Embedded(_)))
        };
        let names = before.registries.keys().chain(after.registries.keys());
        let names: BTreeSet<_> = names.collect();
        for name in names {
            let what = format!("registry {name}");
            let (was, is) = (before.registries.get(name), after.registries.get(name));
            let kinds = (was.map(|one| &one.kind), is.map(|one| &one.kind));
            if was == is {
                continue;
            }
            let of_the_process = is_embedded(before, name) || is_embedded(after, name);
            match (was, is) {
                _ if of_the_process && kinds.0 != kinds.1 => self.at_next_start.push(what),
                (None, _) => self.added.push(what),
                (_, None) => self.removed.push(what),
                _ => self.changed.push(what),
            }
        }
    }

    fn note<T>(
        &mut self,
        what: &str,
        before: &BTreeMap<String, T>,
        after: &BTreeMap<String, T>,
        is_same: impl Fn(&T, &T) -> bool,
    ) {
        for (name, now) in after {
            match before.get(name) {
                None => self.added.push(format!("{what} {name}")),
                Some(was) if !is_same(was, now) => self.changed.push(format!("{what} {name}")),
                Some(_) => {}
            }
        }
        let gone = before.keys().filter(|name| !after.contains_key(*name));
        self.removed
            .extend(gone.map(|name| format!("{what} {name}")));
    }
}

impl fmt::Display for Changes {
    /// A line for each.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [
            ("+", "", &self.added),
            ("-", "", &self.removed),
            ("~", "", &self.changed),
            ("!", " takes effect at the next start", &self.at_next_start),
        ];
        let mut lines = parts
            .iter()
            .flat_map(|(sign, note, all)| all.iter().map(move |what| (sign, what, note)));
        lines.try_for_each(|(sign, what, note)| writeln!(f, "{sign} {what}{note}"))
    }
}

fn routes(config: &Config) -> impl Iterator<Item = (String, &Route)> {
    config.routes.iter().map(|route| (route.matching(), route))
}

impl Config {
    /// This config as a process can have it that runs with another: what takes effect at the next
    /// start is that process's. What both have alike is shared, so that it is known to be the same.
    #[must_use]
    pub fn in_place_of(mut self, running: &Self) -> Self {
        self.workers = running.workers;
        self.log = running.log.clone();
        self.listeners.clone_from(&running.listeners);
        self.admin = running.admin.clone();
        self.snapshot.clone_from(&running.snapshot);
        for (name, was) in &running.registries {
            if let (RegistryKind::Embedded(_), Some(now)) =
                (&was.kind, self.registries.get_mut(name))
            {
                now.kind = was.kind.clone();
            }
        }
        for (name, service) in &mut self.services {
            if let Some(same) = running.services.get(name).filter(|same| *same == service) {
                *service = Arc::clone(same);
            }
        }
        self.share_subsets(running);
        self
    }

    fn share_subsets(&mut self, running: &Self) {
        let key = |subset: &Subset| format!("{:?} {:?}", subset.tags, subset.meta);
        let mut known = HashMap::<_, Vec<&Arc<Subset>>>::new();
        for subset in running
            .routes
            .iter()
            .filter_map(|route| route.subset.as_ref())
        {
            known.entry(key(subset)).or_default().push(subset);
        }
        for route in &mut self.routes {
            if let Some(subset) = &mut route.subset
                && let Some(alike) = known.get(&key(subset))
                && let Some(same) = alike.iter().find(|same| ***same == *subset)
            {
                *subset = Arc::clone(same);
            }
        }
    }

    /// Why a process that runs with this config cannot go over to another one, where it cannot: a
    /// registry of its own comes or goes with the process.
    pub fn refuses(&self, next: &Self) -> Option<String> {
        let is_embedded = |config: &Self, name: &Arc<str>| {
            let settings = config.registries.get(name);
            settings.is_some_and(|settings| matches!(settings.kind, RegistryKind::Embedded(_)))
        };
        let comes = next
            .registries
            .keys()
            .find(|name| is_embedded(next, name) && !is_embedded(self, name));
        let changes = next
            .registries
            .keys()
            .find(|name| is_embedded(self, name) && !is_embedded(next, name));
        comes.or(changes).map(|name| {
            format!(
                "registry.{name}: an embedded registry cannot come, or become another kind, without a \
                 restart"
            )
        })
    }
}

impl Route {
    /// Whether it leads its requests to where another one does, in the same way.
    fn leads_like(&self, other: &Self) -> bool {
        let subset = |route: &Self| route.subset.clone();
        (&self.goal, subset(self), self.overrides())
            == (&other.goal, subset(other), other.overrides())
            && (&self.fallback, &self.rate) == (&other.fallback, &other.rate)
            && (self.strip_prefix, self.host_header) == (other.strip_prefix, other.host_header)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn config(lines: &str) -> Config {
        let text =
            format!("{lines}\n[registry.a]\nkind = \"consul\"\n[[route]]\nservice = \"cart\"\n");
        Config::parse(&text, Path::new(".")).unwrap()
    }

    #[test]
    fn what_differs_is_named_and_lines_that_move_are_no_change() {
        let before = config("[service.cart]\ndrain = \"1s\"\n");
        assert!(
            Changes::between(&before, &config("\n\n[service.cart]\ndrain = \"1s\"\n")).is_empty()
        );
        let after = config(
            "workers = 7\n[log]\nlevel = \"debug\"\n[service.cart]\ndrain = \"2s\"\n\
             [registry.b]\nkind = \"consul\"\naddress = \"http://127.0.0.1:1\"\n\
             [defaults]\nregistry = \"a\"\n[[route]]\npath = \"/new\"\nservice = \"new\"\n",
        );
        let changes = Changes::between(&before, &after);
        assert_eq!(changes.added, ["registry b", "service new", "route /new"]);
        assert_eq!(changes.changed, ["service cart"]);
        assert_eq!(changes.at_next_start, ["workers", "[log]"]);
        let back = Changes::between(&after, &before);
        assert_eq!(back.removed, ["registry b", "service new", "route /new"]);
        assert_eq!(
            changes.to_string(),
            "+ registry b\n+ service new\n+ route /new\n~ service cart\n\
             ! workers takes effect at the next start\n! [log] takes effect at the next start\n"
        );
    }

    #[test]
    fn what_both_have_alike_is_shared_and_what_waits_for_a_start_is_the_running_ones() {
        let tagged = "[[route]]\npath = \"/v2\"\ntags = [\"v2\"]\nservice = \"cart\"\n";
        let running = config(tagged);
        let next = config(&format!("workers = 9\n{tagged}")).in_place_of(&running);
        assert_eq!(next.workers, running.workers);
        let subset = |config: &Config| config.routes[0].subset.clone().unwrap();
        assert!(Arc::ptr_eq(&subset(&next), &subset(&running)));
        assert!(Arc::ptr_eq(
            &next.services["cart"],
            &running.services["cart"]
        ));
        assert_eq!(running.refuses(&next), None);
    }

    #[test]
    fn an_embedded_registry_does_not_come_while_a_process_runs() {
        let next = config("[registry.own]\nkind = \"embedded\"\n[defaults]\nregistry = \"a\"\n");
        let why = config("").refuses(&next).unwrap();
        assert!(
            why.starts_with("registry.own: an embedded registry cannot come"),
            "{why}"
        );
        assert_eq!(next.refuses(&config("")), None);
    }
}
