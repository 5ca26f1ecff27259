//! Which route takes a request, which stand before it and why they do not take it, and which nearly do.

use super::{
    super::{Generation, Goal, admit::Head},
    account::RouteAccount,
};
use crate::{
    config::{Conditions, HostPattern, PathPattern},
    route::{Fitting, Request, Table},
};

/// So many routes are named beside the one that takes a request.
const MOST: usize = 10;

/// The route that takes a request, if one does, and those before it that do not.
pub(super) fn accounts(
    generation: &Generation,
    head: &Head<'_>,
) -> (Option<RouteAccount>, Vec<RouteAccount>) {
    let request = head.route_by();
    let fitting = generation.routes.fitting(&request);
    let takes = fitting.iter().position(|one| one.unmet.is_none());
    let before = &fitting[..takes.unwrap_or(fitting.len())];
    let passed_over = |one: &Fitting<'_, '_>| RouteAccount {
        why: one.unmet.map(|unmet| unmet.to_string()),
        ..account(generation, one.would_be.route)
    };
    let takes = takes.map(|place| account(generation, fitting[place].would_be.route));
    (takes, before.iter().take(MOST).map(passed_over).collect())
}

/// Routes whose host fits and whose path does not, and then those of which the reverse is true.
pub(super) fn near_misses(generation: &Generation, head: &Head<'_>) -> Vec<RouteAccount> {
    let request = head.route_by();
    let any_path = PathPattern {
        segments: Vec::new(),
    };
    let routes = &generation.config.routes;
    let of_hosts = routes.iter().map(|it| (&it.host, &any_path));
    let hosts = fitting(of_hosts, &request, |route| &routes[route].host);
    let of_paths = routes.iter().map(|it| (&HostPattern::Any, &it.path));
    let paths = fitting(of_paths, &request, |route| &routes[route].path);
    let (mut by_host, mut by_path) = (Vec::new(), Vec::new());
    for (index, route) in routes.iter().enumerate() {
        let fits_host = hosts.contains(&&route.host);
        let fits_path = paths.contains(&&route.path);
        let (list, why) = match (fits_host, fits_path) {
            (true, false) => (
                &mut by_host,
                format!("the path is not below {}", route.path),
            ),
            (false, true) => (&mut by_path, format!("the host is not {}", route.host)),
            _ => continue,
        };
        if list.len() < MOST {
            list.push(RouteAccount {
                why: Some(why),
                ..account(generation, index)
            });
        }
    }
    by_host.append(&mut by_path);
    by_host.truncate(MOST);
    by_host
}

/// What fits a request of these, each once.
fn fitting<'r, T>(
    all: impl Iterator<Item = (&'r HostPattern, &'r PathPattern)>,
    request: &Request<'_>,
    of: impl Fn(usize) -> &'r T,
) -> Vec<&'r T> {
    let table = Table::new(all.map(|(host, path)| (host, path, Conditions::NONE)));
    let fitting = table.fitting(request).into_iter();
    fitting.map(|one| of(one.would_be.route)).collect()
}

/// The route with this index.
fn account(generation: &Generation, index: usize) -> RouteAccount {
    if let Some(route) = generation.config.routes.get(index) {
        let conditions = route.conditions();
        return RouteAccount {
            host: (route.host != HostPattern::Any).then(|| route.host.to_string()),
            path: route.path.to_string(),
            conditions: (!conditions.is_empty()).then(|| conditions.to_string()),
            line: Some(route.line),
            file: route.file.as_ref().map(ToString::to_string),
            why: None,
        };
    }
    // The service of a route that tags make has the route's host and path for a name.
    let name = match &generation.targets[index].goal {
        Goal::Service(service) => service.name().as_ref(),
        Goal::Split(_) | Goal::Template { .. } => "",
    };
    let path = name.find('/').unwrap_or(0);
    RouteAccount {
        host: (path > 0).then(|| name[..path].to_owned()),
        path: name[path..].to_owned(),
        conditions: None,
        line: None,
        file: None,
        why: None,
    }
}
