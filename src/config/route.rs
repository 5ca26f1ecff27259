//! `[[route]]`: which host and path lead to which service. Knows nothing of how a request is
//! matched.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use super::{
    Goal, HostHeader, HostPattern, PathPattern, Route, Segment, Service, pattern,
    reader::{Field, Table},
    registry::Registries,
    report::Wrong,
    service,
};

/// Reads all routes, at least one.
pub(super) fn read(
    top: &mut Table<'_>,
    services: &BTreeMap<Arc<str>, Service>,
    registries: &Registries,
) -> Vec<Route> {
    let mut lines = HashMap::new();
    let routes = top.each("route", |table| {
        let route = one(table, services, registries)?;
        let first = *lines.entry(match_key(&route)).or_insert(route.line);
        if first != route.line {
            let wrong = Wrong::new(format!("the route of line {first} takes the same requests"));
            table.wrong(wrong.suggest("give one of them another host or path"));
        }
        Some(route)
    });
    if routes.is_empty() {
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
    format!("{:?} {:?}", route.host, route.path)
}

fn one(
    table: &mut Table<'_>,
    services: &BTreeMap<Arc<str>, Service>,
    registries: &Registries,
) -> Option<Route> {
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
    let field = table.required("service", "\"cart\"")?;
    let name = field.parse("a service's name", "\"cart\"", pattern::service)?;
    let (host, path) = host.zip(path)?;
    let goal = if name == pattern::TEMPLATE {
        template(&field, &host, &path, registries)
    } else {
        declared(&field, name, &host, &path, services, registries)
    }?;
    Some(Route {
        host,
        path,
        goal,
        strip_prefix,
        host_header,
        line: table.line(),
    })
}

fn template(
    field: &Field<'_>,
    host: &HostPattern,
    path: &PathPattern,
    registries: &Registries,
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
            let registry = registries.default().cloned();
            if registry.is_none() {
                let wrong = Wrong::new(
                    "there are several registries, and a template's services are in none of them",
                );
                field.names_nothing(wrong.suggest("write `registry = \"NAME\"` in `[defaults]`"));
            }
            Some(Goal::Template {
                registry: registry?,
            })
        }
    }
}

fn declared(
    field: &Field<'_>,
    name: String,
    host: &HostPattern,
    path: &PathPattern,
    services: &BTreeMap<Arc<str>, Service>,
    registries: &Registries,
) -> Option<Goal> {
    if in_host(host) || in_path(path) {
        let place = if in_host(host) { "host" } else { "path" };
        let wrong = Wrong::new(format!(
            "the {place} holds `{{service}}`, but the service is always `{name}`"
        ));
        field.wrong(wrong.suggest("write `service = \"{service}\"`"));
        return None;
    }
    if registries.default().is_none() && !services.contains_key(name.as_str()) {
        let wrong = service::no_registry(&name);
        field.names_nothing(wrong.suggest(
            "write `registry = \"NAME\"` in `[defaults]`, or in a table `[service.NAME]` of its own",
        ));
    }
    Some(Goal::Service(name.into()))
}

fn in_host(host: &HostPattern) -> bool {
    matches!(host, HostPattern::Template(_))
}

fn in_path(path: &PathPattern) -> bool {
    path.segments.contains(&Segment::Service)
}
