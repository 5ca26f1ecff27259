//! `[[route]]`: which requests lead to which service. Knows nothing of how a request is
//! matched.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use super::{
    Goal, HostHeader, HostPattern, Overrides, PathPattern, Route, Segment, Service, condition,
    fallback,
    field::Field,
    origin::{self, Origin},
    pattern, rate,
    reader::Table,
    registry::Registries,
    report::Wrong,
    split,
    subset::Subsets,
};

/// What the rest of the file says.
struct Known<'k> {
    services: &'k BTreeMap<Arc<str>, Service>,
    /// What is meant where no registry is named, if there can be no doubt.
    default: Option<&'k Origin>,
    registries: &'k Registries,
}

/// Reads all routes, at least one.
pub(super) fn read(
    top: &mut Table<'_>,
    services: &BTreeMap<Arc<str>, Service>,
    default: Option<&Origin>,
    registries: &Registries,
    needed: bool,
) -> Vec<Route> {
    let known = Known {
        services,
        default,
        registries,
    };
    let mut subsets = Subsets::default();
    let mut lines = HashMap::new();
    let routes = top.each("route", |table| {
        let route = one(table, &known, &mut subsets)?;
        let first = *lines.entry(match_key(&route)).or_insert(route.line);
        if first != route.line {
            let wrong = Wrong::new(format!("the route of line {first} takes the same requests"));
            table.wrong(wrong.suggest("give one of them another host, path or condition"));
        }
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
    routes.into_iter().flatten().collect()
}

/// Equal for two routes that take the same requests.
fn match_key(route: &Route) -> String {
    format!("{:?} {:?} {:?}", route.host, route.path, route.conditions)
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
    let host_header = table.choice(
        "host_header",
        &[
            ("client", HostHeader::Client),
            ("endpoint", HostHeader::Endpoint),
            ("name", HostHeader::Name),
        ],
        HostHeader::Client,
    );
    let overrides = Overrides::read(table);
    let rate = rate::read(table);
    let goal = goal(table, host.as_ref(), path.as_ref(), known);
    let subset = subsets.read(table, &known.origins(goal.as_ref()), known.registries);
    let own = match &goal {
        Some(Goal::Service(name)) => Some(&**name),
        _ => None,
    };
    let fallback = fallback::of_route(table, own, known.services, known.default.is_some());
    Some(Route {
        host: host?,
        path: path?,
        conditions,
        goal: goal?,
        subset,
        overrides,
        fallback,
        rate,
        strip_prefix,
        host_header,
        line: table.line(),
    })
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

    /// Notes where nothing says which registry knows a service.
    fn check(&self, field: &Field<'_>, service: &str) {
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
    use super::*;
    use crate::config::testing::{config, error, errors};

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
        let suggestions = [
            (
                "path = \"/a\"\nservice = \"{service}\"",
                "3:1 route.service: neither the host nor the path holds `{service}`; write `path = \"/{service}\"`, or name a service here",
            ),
            (
                "path = \"/{service}\"\nservice = \"cart\"",
                "3:1 route.service: the path holds `{service}`, but the service is always `cart`; write `service = \"{service}\"`",
            ),
            (
                "host = \"{service}.x\"\nservice = \"cart\"",
                "3:1 route.service: the host holds `{service}`, but the service is always `cart`; write `service = \"{service}\"`",
            ),
            (
                "service = \"{service}\"\npath = \"/{service}\"\nhost = \"{service}.x\"",
                "2:1 route.service: both the host and the path hold `{service}`; leave it in one of them",
            ),
            (
                "service = \"x-{service}\"",
                "2:1 route.service: `x-{service}` is not a service's name; write a name, or \"{service}\" and nothing else",
            ),
        ];
        for (text, expected) in suggestions {
            assert_eq!(error(&format!("[[route]]\n{text}\n")), expected);
        }
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
