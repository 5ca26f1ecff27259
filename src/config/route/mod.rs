//! `[[route]]`: which requests lead to which service. Knows nothing of how a request is
//! matched.

pub(super) mod condition;
pub(super) mod overrides;
pub(super) mod pattern;
pub(super) mod rate;
pub(super) mod split;
pub(super) mod subset;
pub(super) mod urlprefix;

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use super::{
    Balance, Conditions, Goal, HostHeader, HostPattern, Overrides, PathPattern, Route, Segment,
    Service, Subset,
    document::{field::Field, report::Wrong, table::Table},
    load::strict,
    registry::Registries,
    service::{
        fallback,
        no_effect::Before,
        origin::{self, Origin},
        upgrades,
    },
};
use subset::Subsets;

/// What the rest of the file says.
pub(super) struct Known<'k> {
    pub(super) services: &'k BTreeMap<Arc<str>, Service>,
    /// What services have that are not among them.
    pub(super) defaults: &'k Service,
    /// What is meant where no registry is named, if there can be no doubt.
    pub(super) default: Option<&'k Origin>,
    pub(super) registries: &'k Registries,
}

/// Reads all routes, at least one.
pub(super) fn read(top: &mut Table<'_>, known: &Known<'_>, needed: bool) -> Vec<Route> {
    let mut subsets = Subsets::default();
    let mut places: HashMap<_, Vec<_>> = HashMap::new();
    let routes = top.each("route", |table| {
        let route = one(table, known, &mut subsets)?;
        let earlier = places.entry(place(&route)).or_default();
        if let Some(wrong) = leaves_nothing(earlier, route.conditions()) {
            table.wrong(wrong);
        }
        earlier.push((route.place_in_file(), route.conditions().clone()));
        Some(route)
    });
    if routes.is_empty() && needed {
        top.absent_from_file(
            "route",
            Wrong::new("there is no route, so nothing would be served").suggest(
                "write `[[route]]` with, say, `path = \"/{service}\"`, `service = \"{service}\"` \
                 and `strip_prefix = true`",
            ),
        );
    }
    let mut routes: Vec<_> = routes.into_iter().flatten().collect();
    routes.shrink_to_fit();
    routes
}

/// Equal for two routes with the same host and path.
fn place(route: &Route) -> String {
    format!("{:?} {:?}", route.host, route.path)
}

/// What is wrong where an earlier route with the same host and path takes all that a route could.
fn leaves_nothing(earlier: &[(String, Conditions)], own: &Conditions) -> Option<Wrong> {
    if let Some((at, _)) = earlier.iter().find(|(_, conditions)| conditions == own) {
        let wrong = Wrong::new(format!("the route of {at} takes the same requests"));
        return Some(wrong.suggest("give one of them another host, path or condition"));
    }
    // The one without conditions comes last, wherever it stands.
    let mut before = earlier.iter().filter(|(_, other)| !other.is_empty());
    let (at, _) = before.find(|(_, other)| other.are_implied_by(own))?;
    let wrong = format!("the route of {at} takes every request that this one could, first");
    Some(Wrong::new(wrong).suggest("let this one stand before it, or leave it out"))
}

fn one(table: &mut Table<'_>, known: &Known<'_>, subsets: &mut Subsets) -> Option<Route> {
    let host = match table.take("host") {
        None => Some(HostPattern::Any),
        Some(field) => field.parse("a host", "\"shop.example.com\"", pattern::host),
    };
    let path = match table.take("path") {
        None => Some(PathPattern {
            segments: Vec::new(),
        }),
        Some(field) => field.parse("a path", "\"/cart\"", pattern::path),
    };
    let conditions = condition::read(table);
    let strip_prefix = table.flag("strip_prefix", false);
    let is_logged = table.flag("access_log", true);
    let host_header = host_header(table);
    let (overrides, follows) = Overrides::read(table);
    let rate = rate::read(table);
    let upgrades = upgrades::read(table);
    let goal = goal(table, host.as_ref(), path.as_ref(), known);
    let subset = subsets.read(table, &known.origins(goal.as_ref()), known.registries);
    let own = match &goal {
        Some(Goal::Service(name)) => Some(&**name),
        _ => None,
    };
    let fallback = fallback::of_route(table, own, known.services, known.default.is_some());
    let (host, path, goal) = (host?, path?, goal?);
    let called = known.policies(&goal, fallback.as_ref()).into_iter();
    let terms = called.map(|service| {
        let retry = overrides.retry(service.retry);
        (retry, overrides.timeout(service.timeout))
    });
    follows.check(&terms.collect::<Vec<_>>(), &Before::default());
    if let Some(subset) = &subset {
        must_have_no_bound(table, subset, &goal, known);
    }
    let overrides = (overrides != Overrides::default()).then(|| Arc::new(overrides));
    let (file, line) = table.line();
    Some(Route {
        host,
        path,
        conditions: (!conditions.is_empty()).then(|| Box::new(conditions)),
        goal,
        subset,
        overrides,
        upgrades,
        fallback,
        rate,
        strip_prefix,
        host_header,
        is_logged,
        file,
        line,
    })
}

fn host_header(table: &mut Table<'_>) -> HostHeader {
    table.choice(
        "host_header",
        &[
            ("client", HostHeader::Client),
            ("endpoint", HostHeader::Endpoint),
            ("name", HostHeader::Name),
        ],
        HostHeader::Client,
    )
}

impl Known<'_> {
    /// Where a route's services may be learnt.
    fn origins(&self, goal: Option<&Goal>) -> Vec<&Origin> {
        let of = |name: &Arc<str>| {
            let described = self.services.get(name).map(|service| &service.origin);
            described.or(self.default)
        };
        match goal {
            None => Vec::new(),
            Some(Goal::Template) => self.default.into_iter().collect(),
            Some(goal) => goal.services().filter_map(of).collect(),
        }
    }

    /// What the services have that a route may call.
    fn policies(&self, goal: &Goal, fallback: Option<&Arc<str>>) -> Vec<&Service> {
        if *goal == Goal::Template {
            return self.services.values().chain([self.defaults]).collect();
        }
        let with_fallback = |name| {
            let service = self.policy(name);
            let fallback = fallback.or(service.fallback.as_ref());
            [Some(service), fallback.map(|name| self.policy(name))]
        };
        goal.services().flat_map(with_fallback).flatten().collect()
    }

    fn policy(&self, name: &Arc<str>) -> &Service {
        self.services.get(name).unwrap_or(self.defaults)
    }

    /// Notes where nothing says which registry knows a service.
    fn check(&self, field: &Field<'_>, service: &str) {
        strict::check_name(field, service, self.services);
        if self.default.is_none() && !self.services.contains_key(service) {
            let wrong = origin::no_registry(service);
            field.names_nothing(wrong.suggest(origin::SAY_WHICH));
        }
    }
}

fn goal(
    table: &mut Table<'_>,
    host: Option<&HostPattern>,
    path: Option<&PathPattern>,
    known: &Known<'_>,
) -> Option<Goal> {
    if let Some(field) = table.take("split") {
        let shares = split::read(table, &field, |field, name| known.check(field, name));
        if let Some(field) = table.take("service") {
            let wrong = Wrong::new("the route is split, and a service is named");
            field.wrong(wrong.suggest("keep one of `service` and `split`"));
        }
        must_hold_no_template(&field, host?, path?, "the services are always the same")?;
        return shares.map(Goal::Split);
    }
    let field = table.required("service", "\"cart\"")?;
    let name = field.parse("a service's name", "\"cart\"", pattern::service)?;
    let (host, path) = (host?, path?);
    if name == pattern::TEMPLATE {
        return template(&field, host, path, known);
    }
    let always = format!("the service is always `{name}`");
    must_hold_no_template(&field, host, path, &always)?;
    known.check(&field, &name);
    Some(Goal::Service(name.into()))
}

/// The bound of a service's `hash` would be left out in silence for some of its endpoints.
fn must_have_no_bound(table: &mut Table<'_>, subset: &Subset, goal: &Goal, known: &Known<'_>) {
    let has_bound =
        |service: &Service| matches!(&service.balance, Balance::Hash(hash) if hash.load.is_some());
    let bounded = match goal {
        Goal::Template if has_bound(known.defaults) => "a template's services".to_owned(),
        _ => match goal.services().find(|name| has_bound(known.policy(name))) {
            Some(name) => format!("`{name}`"),
            None => return,
        },
    };
    let key = if subset.tags.is_empty() {
        "meta"
    } else {
        "tags"
    };
    if let (Some(field), None) = (table.take(key), &subset.balance) {
        let wrong = format!("the bound (`load`) of the `hash` of {bounded} is not known of a part");
        field.wrong(Wrong::new(wrong).suggest("give the route a `balance` without `load`"));
    }
}

/// Where the goal is not a template nothing else may be.
fn must_hold_no_template(
    field: &Field<'_>,
    host: &HostPattern,
    path: &PathPattern,
    always: &str,
) -> Option<()> {
    let place = match (in_host(host), in_path(path)) {
        (true, _) => "host",
        (_, true) => "path",
        _ => return Some(()),
    };
    let wrong = Wrong::new(format!("the {place} holds `{{service}}`, but {always}"));
    field.wrong(wrong.suggest("write `service = \"{service}\"`"));
    None
}

fn template(
    field: &Field<'_>,
    host: &HostPattern,
    path: &PathPattern,
    known: &Known<'_>,
) -> Option<Goal> {
    match (in_host(host), in_path(path)) {
        (true, true) => {
            let wrong = Wrong::new("both the host and the path hold `{service}`");
            field.wrong(wrong.suggest("leave it in one of them"));
            None
        }
        (false, false) => {
            let wrong = Wrong::new("neither the host nor the path holds `{service}`");
            field.wrong(wrong.suggest("write `path = \"/{service}\"`, or name a service here"));
            None
        }
        _ => {
            match known.default {
                None => {
                    let wrong = Wrong::new(
                        "there are several registries, and a template's services are in none of them",
                    );
                    field.names_nothing(
                        wrong.suggest("write `registry = \"NAME\"` in `[defaults]`"),
                    );
                }
                Some(origin) => must_list_services(field, origin, known.registries),
            }
            Some(Goal::Template)
        }
    }
}

/// A template finds its services in the registries' lists of them.
fn must_list_services(field: &Field<'_>, origin: &Origin, registries: &Registries) {
    let mut silent = Vec::new();
    for name in origin.registries() {
        match registries.kind(name) {
            Some(kind) if !kind.lists_services() => silent.push((name, kind)),
            _ => return,
        }
    }
    let Some((name, kind)) = silent.first() else {
        return;
    };
    let wrong = Wrong::new(format!(
        "the registry `{name}` is of the kind `{}`, which cannot list its services, so a template \
         finds none",
        kind.as_str()
    ));
    field.wrong(match registries.listing() {
        Some(other) => wrong.suggest(format!(
            "name a service here, or write `registry = \"{other}\"` in `[defaults]`"
        )),
        None => wrong.suggest("name a service here, in a route for each"),
    });
}

fn in_host(host: &HostPattern) -> bool {
    matches!(host, HostPattern::Template(_))
}

fn in_path(path: &PathPattern) -> bool {
    path.segments.contains(&Segment::Service)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_errors, config, error, errors};
    use super::*;
    use crate::cases::cases;

    #[test]
    fn a_route_takes_any_host_and_every_path_unless_it_says_otherwise() {
        let routes = config("[[route]]\nservice = \"cart\"\n").routes;
        assert_eq!(routes[0].host, HostPattern::Any);
        assert_eq!(routes[0].path.segments, []);
        assert_eq!(routes[0].goal, Goal::Service("cart".into()));
        assert_eq!(routes[0].host_header, HostHeader::Client);
        assert!(!routes[0].strip_prefix);
    }

    #[test]
    fn routes_keep_their_order_and_their_lines() {
        let routes = config(
            r#"
            [[route]]
            host = "*.Example.com"
            path = "/cart/"
            service = "cart"
            host_header = "name"
            [[route]]
            host = "{service}.internal"
            service = "{service}"
            [[route]]
            path = "/{service}/v1"
            service = "{service}"
            strip_prefix = true
            "#,
        )
        .routes;
        let template = Goal::Template;
        assert_eq!(
            routes.iter().map(|route| route.line).collect::<Vec<_>>(),
            [2, 7, 10]
        );
        assert_eq!(routes[0].host, HostPattern::Wildcard("example.com".into()));
        assert_eq!(routes[0].host_header, HostHeader::Name);
        assert_eq!(routes[1].host, HostPattern::Template("internal".into()));
        assert_eq!(routes[1].goal, template);
        assert_eq!(routes[2].path.segments.len(), 2);
        assert_eq!(routes[2].goal, template);
        assert!(routes[2].strip_prefix);
    }

    #[test]
    fn a_template_stands_in_one_place_and_in_the_service() {
        assert_errors(
            r#"
            path = "/a"
            service = "{service}"
            => 3:1 route.service: neither the host nor the path holds `{service}`; write `path = "/{service}"`, or name a service here
            path = "/{service}"
            service = "cart"
            => 3:1 route.service: the path holds `{service}`, but the service is always `cart`; write `service = "{service}"`
            host = "{service}.x"
            service = "cart"
            => 3:1 route.service: the host holds `{service}`, but the service is always `cart`; write `service = "{service}"`
            service = "{service}"
            path = "/{service}"
            host = "{service}.x"
            => 2:1 route.service: both the host and the path hold `{service}`; leave it in one of them
            service = "x-{service}"
            => 2:1 route.service: `x-{service}` is not a service's name; write a name, or "{service}" and nothing else
            "#,
            |text| format!("[[route]]\n{text}\n"),
        );
    }

    #[test]
    fn a_template_needs_a_registry_that_lists_its_services() {
        let template = "[[route]]\npath = \"/{service}\"\nservice = \"{service}\"\n";
        let said = "registry `names` is of the kind `dns`, which cannot list its services, so a template finds none";
        let dns = "[registry.names]\nkind = \"dns\"\n";
        assert_eq!(
            error(&format!("{template}{dns}")),
            format!("3:1 route.service: the {said}; name a service here, in a route for each")
        );
        let both = format!("{dns}[registry.consul]\n[defaults]\nregistry = \"names\"\n");
        assert_eq!(
            error(&format!("{template}{both}")),
            format!(
                "3:1 route.service: the {said}; name a service here, or write `registry = \"consul\"` in `[defaults]`"
            )
        );
        config(&format!(
            "{template}{}",
            both.replace("\"names\"", "\"consul\"")
        ));
    }

    #[test]
    fn the_same_route_twice_names_the_first_ones_line() {
        let text = "[[route]]\nhost = \"a\"\npath = \"/x\"\nservice = \"a\"\n\
            [[route]]\nhost = \"A\"\npath = \"/x/\"\nservice = \"b\"\n\
            [[route]]\npath = \"/x\"\nservice = \"c\"\n\
            [[route]]\nhost = \"a\"\npath = \"/x\"\nservice = \"d\"\n";
        let expected = "the route of line 1 takes the same requests; give one of them another host, path or condition";
        assert_eq!(
            errors(text),
            [
                format!("5:1 route: {expected}"),
                format!("12:1 route: {expected}")
            ]
        );
    }

    #[test]
    fn a_route_that_an_earlier_one_leaves_nothing_is_named() {
        let covered = "the route of line 1 takes every request that this one could, first; let this one stand before it, or leave it out";
        let both = |first: &str, second: &str| {
            format!("[[route]]\nservice = \"a\"\n{first}\n[[route]]\nservice = \"b\"\n{second}\n")
        };
        for (first, second) in cases(
            r#"
            method = ["GET", "POST"] => method = "GET"
            header = { a = true }
            => method = "GET"
            => header = { A = "1" }
            header = { a = true } => header = { a = { prefix = "1" } }
            header = { a = false } => header = { a = false, b = true }
            query = { a = { prefix = "1" } } => query = { a = "12" }
            query = { a = { prefix = "1" } } => query = { a = { prefix = "12" } }
            cookie = { a = "1" } => cookie = { a = "1", b = "2" }
            "#,
        ) {
            let text = both(&first, &second);
            assert_eq!(error(&text), format!("4:1 route: {covered}"), "{text}");
        }
        for (first, second) in cases(
            r#"
            method = "GET" => method = ["GET", "POST"]
            method = "GET" => header = { a = "1" }
            header = { a = true } => header = { a = false }
            header = { a = true } => query = { a = true }
            query = { a = { prefix = "1" } } => query = { a = "21" }
            query = { a = { prefix = "12" } } => query = { a = { prefix = "1" } }
            cookie = { a = "1" } => cookie = { a = true }
            # The one without conditions comes last. => method = "GET"
            method = "GET" => # It has none.
            method = "GET"
            => method = "GET"
            => path = "/a"
            method = "GET"
            => method = "GET"
            => host = "a"
            "#,
        ) {
            config(&both(&first, &second));
        }
    }

    #[test]
    fn a_part_of_a_service_has_no_bound_of_the_wholes_hash() {
        let hash = "balance = { kind = \"hash\", by = \"path\", load = 1.25 }\n";
        let route = "[[route]]\nservice = \"cart\"\n";
        let wrong = |line: usize, key: &str, whose: &str| {
            format!(
                "{line}:1 route.{key}: the bound (`load`) of the `hash` of {whose} is not known of a part; give the route a `balance` without `load`"
            )
        };
        let own = format!("[service.cart]\n{hash}{route}");
        assert_eq!(
            error(&format!("{own}tags = [\"v2\"]\n")),
            wrong(5, "tags", "`cart`")
        );
        assert_eq!(
            error(&format!(
                "[defaults]\n{hash}{route}meta = {{ v = \"2\" }}\n"
            )),
            wrong(5, "meta", "`cart`")
        );
        let template =
            "[[route]]\npath = \"/{service}\"\nservice = \"{service}\"\ntags = [\"a\"]\n";
        assert_eq!(
            error(&format!("[defaults]\n{hash}{template}")),
            wrong(6, "tags", "a template's services")
        );
        config(&own);
        config(&format!("[service.cart]\n{hash}{template}"));
        config(&format!("{own}tags = [\"v2\"]\nbalance = \"p2c\"\n"));
        config(&format!(
            "{}tags = [\"v2\"]\n",
            own.replace(", load = 1.25", "")
        ));
    }

    #[test]
    fn endpoints_that_stand_in_the_file_are_chosen_by_nothing_of_a_registrys() {
        let all = "name = \"b\"\nguard = { share = 0.5 }\ntags = [\"v2\"]\nmeta = { v = \"2\" }\n";
        let none = |key: &str| {
            format!(
                "endpoints that stand in this file have no `{key}`, so that nobody is found; leave it out, and list those that are wanted"
            )
        };
        let service = "[service.a]\nendpoints = [\"10.0.0.7:80\"]\n";
        let route = "[[route]]\nservice = \"a\"\n";
        assert_eq!(
            errors(&format!("{service}{all}{route}")),
            [
                "3:1 service.a.name: endpoints that stand here are asked for in no registry; leave it out".to_owned(),
                "4:1 service.a.guard: no registry can lose endpoints that stand here; leave it out".to_owned(),
                format!("5:1 service.a.tags: {}", none("tags")),
                format!("6:1 service.a.meta: {}", none("meta")),
            ]
        );
        let split = "[[route]]\nsplit = [{ service = \"b\", weight = 1 }, { service = \"a\", weight = 1 }]\n";
        for (goal, line) in [(route, 5), (split, 5)] {
            assert_eq!(
                errors(&format!(
                    "{service}{goal}tags = [\"v2\"]\nmeta = {{ v = \"2\" }}\n"
                )),
                [
                    format!("{line}:1 route.tags: {}", none("tags")),
                    format!("{}:1 route.meta: {}", line + 1, none("meta")),
                ]
            );
        }
        config(&format!(
            "{service}guard = false\ntags = []\nmeta = {{}}\n{route}tags = []\n"
        ));
        config(&format!("{service}{route}balance = \"p2c\"\n"));
    }

    #[test]
    fn there_is_at_least_one_route() {
        for text in ["", "route = []", "[service.cart]\ndrain = \"1s\"\n"] {
            let error = error(text);
            assert!(error.starts_with("route: there is no route"), "{error}");
        }
    }

    #[test]
    fn a_route_in_single_brackets_is_read_all_the_same() {
        assert_eq!(
            errors("[route]\npath = \"cart\"\nservice = \"cart\"\n"),
            [
                "1:2 route: there may be several `route` tables; write `[[route]]`",
                "2:1 route.path: the path `cart` does not begin with a slash; did you mean \"/cart\"?",
            ]
        );
    }

    #[test]
    fn a_missing_service_points_at_its_table() {
        assert_eq!(
            error("\n[[route]]\npath = \"/cart\"\n"),
            "2:1 route.service: the key `service` is missing; write `service = \"cart\"`"
        );
        assert_eq!(
            error("[[route]]\nsrevice = \"cart\"\n"),
            "2:1 route.srevice: unknown key `srevice`; did you mean `service`?"
        );
    }
}
