//! How one config differs from another: what a reload would do. Knows nothing of what runs.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt, iter,
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use super::{Config, Listener, RegistryKind, Route, Subset, predecessors};

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
    /// What was changed at run time, and goes on whatever the file says, or ends with this.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub at_run_time: Vec<String>,
}

impl Changes {
    /// Whether nothing differs.
    pub fn is_empty(&self) -> bool {
        let all = [
            &self.added,
            &self.removed,
            &self.changed,
            &self.at_next_start,
        ];
        all.into_iter().all(Vec::is_empty)
    }

    /// From one config to another.
    pub fn between(before: &Config, after: &Config) -> Self {
        let mut changes = Self::default();
        changes.note_fixed(before, after);
        changes.note_listeners(before, after);
        changes.note_registries(before, after);
        if before.defaults != after.defaults {
            changes.changed.push("[defaults]".to_owned());
        }
        changes.note_tables(before, after);
        let services = |config: &Config| {
            let services = config.services.iter();
            let services = services.map(|(name, service)| (name.to_string(), Arc::clone(service)));
            services.collect::<BTreeMap<_, _>>()
        };
        changes.note("service", &services(before), &services(after), |a, b| {
            a == b
        });
        changes.note_routes(before, after);
        changes
    }

    /// What there is once.
    fn note_tables(&mut self, before: &Config, after: &Config) {
        let mut admin = after.admin.clone();
        admin.address = before.admin.address;
        let all = [
            ("[drain]", before.drain == after.drain),
            ("watch_config", before.watch_config == after.watch_config),
            ("[log]", before.log == after.log),
            ("[admin]", before.admin == admin),
        ];
        let others = all.into_iter().filter(|(_, is_same)| !is_same);
        self.changed.extend(others.map(|(what, _)| what.to_owned()));
        let what = || "[access_log]".to_owned();
        match (&before.access_log, &after.access_log) {
            (None, Some(_)) => self.added.push(what()),
            (Some(_), None) => self.removed.push(what()),
            (before, after) if before != after => self.changed.push(what()),
            _ => {}
        }
    }

    /// What no process changes while it runs.
    fn note_fixed(&mut self, before: &Config, after: &Config) {
        let fixed = [
            ("workers", before.workers == after.workers),
            ("admin.address", before.admin.address == after.admin.address),
            ("[snapshot]", before.snapshot == after.snapshot),
        ];
        let others = fixed.into_iter().filter(|(_, is_same)| !is_same);
        let names = others.map(|(what, _)| what.to_owned());
        self.at_next_start.extend(names);
    }

    /// Notes that sets which would be worth keeping are not kept before the next start, by a process
    /// that began without a place for them.
    pub fn note_snapshot_of_none(&mut self, has_any: bool, after: &Config) {
        let what = "[snapshot]";
        let mut registries = after.registries.values();
        let is_wanted = after.snapshot.is_some() && registries.any(|one| one.kind.is_elsewhere());
        if is_wanted && !has_any && !self.at_next_start.iter().any(|one| one == what) {
            self.at_next_start.push(what.to_owned());
        }
    }

    fn note_listeners(&mut self, before: &Config, after: &Config) {
        let what = |listener: &Listener| format!("listener {}", listener.address);
        let mut gone: Vec<_> = before.listeners.iter().map(Some).collect();
        let places = predecessors(&before.listeners, &after.listeners);
        for (listener, place) in iter::zip(&after.listeners, places) {
            match place.and_then(|place| gone[place].take()) {
                None => self.added.push(what(listener)),
                Some(was) if was != listener => self.changed.push(what(listener)),
                Some(_) => {}
            }
        }
        let gone = gone.into_iter().flatten();
        self.removed.extend(gone.map(what));
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

    fn note_routes(&mut self, before: &Config, after: &Config) {
        let by_matching = |config| routes(config).collect::<BTreeMap<_, _>>();
        let (was, is) = (by_matching(before), by_matching(after));
        self.note("route", &was, &is, |a, b| a.leads_like(b));
        let (was, is) = (orders(before, &is), orders(after, &was));
        let others = is
            .iter()
            .filter(|(place, order)| was.get(*place) != Some(*order));
        let others = others.map(|(place, _)| format!("order of the routes of {place}"));
        self.changed.extend(others);
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
            ("=", "", &self.at_run_time),
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
        self.admin.address = running.admin.address;
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
    /// registry of its own comes and goes with the process.
    pub fn refuses(&self, next: &Self) -> Option<String> {
        let embedded = |config: &Self| {
            let mut all = config.registries.iter();
            let own = all.find(|(_, one)| matches!(one.kind, RegistryKind::Embedded(_)));
            own.map(|(name, _)| Arc::clone(name))
        };
        match (embedded(self), embedded(next)) {
            (was, is) if was == is => None,
            (None, Some(name)) => Some(format!(
                "registry.{name}: an embedded registry cannot come without a restart"
            )),
            // The file may never have named it: it is there where no other one is.
            (Some(name), _) => Some(format!(
                "registry.{name}: an embedded registry cannot go, or become another kind, without a \
                 restart; it stays where the file has `[registry.{name}]` with `kind = \"embedded\"`"
            )),
            (None, None) => None,
        }
    }
}

/// The routes that have conditions and that both configs have, by host and path, in the order in which
/// they are asked.
fn orders(config: &Config, other: &BTreeMap<String, &Route>) -> BTreeMap<String, Vec<String>> {
    let mut orders = BTreeMap::<_, Vec<_>>::new();
    let asked = routes(config).filter(|(_, route)| !route.conditions().is_empty());
    for (matching, route) in asked.filter(|(matching, _)| other.contains_key(matching)) {
        let place = format!("{}{}", route.host, route.path);
        orders.entry(place).or_default().push(matching);
    }
    orders
}

impl Route {
    /// Whether it leads its requests to where another one does, in the same way.
    fn leads_like(&self, other: &Self) -> bool {
        // Named one by one: a new field does not compile until it is said whether it counts.
        let Self {
            // Which requests it takes: it is known by these.
            host: _,
            path: _,
            conditions: _,
            goal,
            subset,
            overrides: _,
            upgrades,
            fallback,
            rate,
            strip_prefix,
            host_header,
            is_logged,
            file: _,
            line: _,
        } = self;
        (goal, subset, self.overrides()) == (&other.goal, &other.subset, other.overrides())
            && (upgrades, fallback, rate) == (&other.upgrades, &other.fallback, &other.rate)
            && (strip_prefix, host_header) == (&other.strip_prefix, &other.host_header)
            && *is_logged == other.is_logged
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
        assert_eq!(changes.changed, ["[log]", "service cart"]);
        assert_eq!(changes.at_next_start, ["workers"]);
        let back = Changes::between(&after, &before);
        assert_eq!(back.removed, ["registry b", "service new", "route /new"]);
        assert_eq!(
            changes.to_string(),
            "+ registry b\n+ service new\n+ route /new\n~ [log]\n~ service cart\n\
             ! workers takes effect at the next start\n"
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
    fn listeners_come_go_and_change_by_their_addresses() {
        let of = |port: u16, names: &str| {
            config(&format!(
                "[[listen]]\naddress = \"127.0.0.1:{port}\"\n\
                 tls = {{ acme = {{ domains = [\"{names}\"] }} }}\n"
            ))
        };
        let (before, after) = (of(443, "a.b"), of(443, "c.d"));
        let changes = Changes::between(&before, &after);
        assert_eq!(changes.changed, ["listener 127.0.0.1:443"]);
        let listeners = after.listeners.clone();
        assert_eq!(after.in_place_of(&before).listeners, listeners);
        let changes = Changes::between(&before, &of(444, "a.b"));
        assert_eq!(changes.added, ["listener 127.0.0.1:444"]);
        assert_eq!(changes.removed, ["listener 127.0.0.1:443"]);
        assert!(changes.changed.is_empty() && changes.at_next_start.is_empty());
    }

    #[test]
    fn an_embedded_registry_does_not_come_or_go_while_a_process_runs() {
        let next = config("[registry.own]\nkind = \"embedded\"\n[defaults]\nregistry = \"a\"\n");
        let why = config("").refuses(&next).unwrap();
        assert!(
            why.starts_with("registry.own: an embedded registry cannot come"),
            "{why}"
        );
        let why = next.refuses(&config("")).unwrap();
        assert!(
            why.starts_with("registry.own: an embedded registry cannot go"),
            "{why}"
        );
        assert_eq!(next.refuses(&next), None);
        // One that no line of the file names is as much a part of the process.
        let unnamed = "[[route]]\nservice = \"cart\"\n";
        let unnamed = Config::parse(unnamed, Path::new(".")).unwrap();
        let why = unnamed.refuses(&config("")).unwrap();
        assert!(
            why.contains("where the file has `[registry.embedded]`"),
            "{why}"
        );
    }

    #[test]
    fn what_a_route_lets_a_client_go_over_to_is_a_change_and_so_is_the_order_of_conditions() {
        let route = |lines: &str| {
            config(&format!(
                "[[route]]\npath = \"/x\"\nservice = \"cart\"\n{lines}"
            ))
        };
        let changes = Changes::between(&route(""), &route("upgrades = []\n"));
        assert_eq!(changes.changed, ["route /x"]);
        let by = |name: &str| {
            format!(
                "[[route]]\npath = \"/x\"\nheader = {{ {name} = \"1\" }}\nservice = \"{name}\"\n"
            )
        };
        let (a, b, c) = (by("a"), by("b"), by("c"));
        let before = config(&format!("{a}{b}"));
        let swapped = Changes::between(&before, &config(&format!("{b}{a}")));
        assert_eq!(swapped.changed, ["order of the routes of /x"]);
        // One that comes between moves no other.
        let between = Changes::between(&before, &config(&format!("{a}{c}{b}")));
        assert!(
            between.changed.is_empty() && between.added.len() == 2,
            "{between}"
        );
    }
}
