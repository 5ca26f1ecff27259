//! What the table must find, by example and against a linear search that is plainly right.

use std::sync::LazyLock;

use http::{HeaderMap, Method};

use super::*;
use crate::config::{Expected, Segment};

/// What of a route the table needs.
#[derive(Debug)]
struct Route {
    host: HostPattern,
    path: PathPattern,
    conditions: Conditions,
}

/// A route from its two patterns as proxy.toml writes them; an empty host is any.
fn route(host: &str, path: &str) -> Route {
    let host = if host.is_empty() {
        HostPattern::Any
    } else if let Some(end) = host.strip_prefix("*.") {
        HostPattern::Wildcard(end.to_owned())
    } else if let Some(end) = host.strip_prefix("{service}.") {
        HostPattern::Template(end.to_owned())
    } else {
        HostPattern::Exact(host.to_owned())
    };
    let segments = path
        .split('/')
        .filter(|segment| !segment.is_empty())
        .map(|segment| match segment {
            "{service}" => Segment::Service,
            text => Segment::Literal(text.to_owned()),
        })
        .collect();
    Route {
        host,
        path: PathPattern { segments },
        conditions: Conditions::default(),
    }
}

/// The same, for requests whose query has this key.
fn asking(key: &str, host: &str, path: &str) -> Route {
    Route {
        conditions: Conditions {
            queries: vec![(key.to_owned(), Expected::Present)],
            ..Conditions::default()
        },
        ..route(host, path)
    }
}

fn table_of(routes: &[Route]) -> Table {
    let takes = routes.iter();
    Table::new(takes.map(|route| (&route.host, &route.path, &route.conditions)))
}

fn table(patterns: &[(&str, &str)]) -> Table {
    let routes: Vec<Route> = patterns
        .iter()
        .map(|(host, path)| route(host, path))
        .collect();
    table_of(&routes)
}

/// The index, the capture and the prefix's length.
type Found<'p> = Option<(usize, Option<&'p str>, usize)>;

static NO_HEADERS: LazyLock<HeaderMap> = LazyLock::new(HeaderMap::new);

fn found<'p>(table: &Table, host: &'p str, target: &'p str) -> Found<'p> {
    let (path, query) = match target.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (target, None),
    };
    let request = Request {
        host,
        path,
        method: &Method::GET,
        headers: &NO_HEADERS,
        query,
    };
    let hit = table.find(&request);
    let fitting = table.fitting(&request).into_iter();
    let mut takes = fitting.filter(|one| one.unmet.is_none());
    assert_eq!(takes.next().map(|one| one.would_be), hit);
    hit.map(|hit| (hit.route, hit.service, hit.prefix_len))
}

#[test]
fn a_prefix_ends_on_a_segment_boundary() {
    let table = table(&[("", "/cart")]);
    assert_eq!(found(&table, "h", "/cart"), Some((0, None, 5)));
    assert_eq!(found(&table, "h", "/cart/"), Some((0, None, 5)));
    assert_eq!(found(&table, "h", "/cart/7"), Some((0, None, 5)));
    for path in ["/cartoon", "/car", "/", "/Cart", "/x/cart", "//cart"] {
        assert_eq!(found(&table, "h", path), None, "{path}");
    }
}

#[test]
fn the_longest_prefix_wins() {
    let table = table(&[("", "/"), ("", "/a/b/c"), ("", "/a")]);
    assert_eq!(found(&table, "h", "/"), Some((0, None, 0)));
    assert_eq!(found(&table, "h", "/b"), Some((0, None, 0)));
    assert_eq!(found(&table, "h", "/a/b"), Some((2, None, 2)));
    assert_eq!(found(&table, "h", "/a/b/c/d"), Some((1, None, 6)));
}

#[test]
fn a_literal_stands_before_a_template_of_the_same_length() {
    let table = table(&[("", "/{service}"), ("", "/cart")]);
    assert_eq!(found(&table, "h", "/cart/7"), Some((1, None, 5)));
    assert_eq!(found(&table, "h", "/hello/7"), Some((0, Some("hello"), 6)));
    assert_eq!(found(&table, "h", "/"), None);
    assert_eq!(found(&table, "h", "//cart"), None);
}

#[test]
fn where_a_literal_leads_less_far_the_template_is_taken() {
    let dead_end = table(&[("", "/api/v2"), ("", "/{service}/v1")]);
    assert_eq!(
        found(&dead_end, "h", "/api/v1/x"),
        Some((1, Some("api"), 7))
    );
    let shorter = table(&[("", "/api"), ("", "/{service}/v1")]);
    assert_eq!(found(&shorter, "h", "/api/v1"), Some((1, Some("api"), 7)));
    assert_eq!(found(&shorter, "h", "/api/v2"), Some((0, None, 4)));
}

#[test]
fn exact_stands_before_template_before_the_longest_wildcard_before_any() {
    let table = table(&[
        ("", "/"),
        ("*.example.com", "/"),
        ("*.b.example.com", "/"),
        ("{service}.example.com", "/"),
        ("a.example.com", "/"),
    ]);
    for (host, expected) in [
        ("a.example.com", (4, None)),
        ("c.example.com", (3, Some("c"))),
        ("a.b.example.com", (2, None)),
        ("a.c.example.com", (1, None)),
        ("example.com", (0, None)),
        ("notexample.com", (0, None)),
        (".example.com", (0, None)),
        ("", (0, None)),
    ] {
        let (route, service) = expected;
        assert_eq!(
            found(&table, host, "/x"),
            Some((route, service, 0)),
            "{host}"
        );
    }
}

#[test]
fn a_host_without_a_matching_path_passes_the_request_on() {
    let table = table(&[
        ("", "/"),
        ("*.com", "/w"),
        ("*.example.com", "/ww"),
        ("{service}.example.com", "/t"),
        ("a.example.com", "/e"),
    ]);
    for (path, route, service) in [
        ("/e", 4, None),
        ("/t", 3, Some("a")),
        ("/ww", 2, None),
        ("/w", 1, None),
        ("/x", 0, None),
    ] {
        let hit = found(&table, "a.example.com", path);
        assert_eq!(
            hit.map(|(route, service, _)| (route, service)),
            Some((route, service)),
            "{path}"
        );
    }
}

#[test]
fn a_host_is_found_however_the_client_writes_it() {
    let table = table(&[
        ("shop.example.com", "/"),
        ("[::1]", "/"),
        ("{service}.internal", "/"),
    ]);
    for host in [
        "shop.example.com",
        "SHOP.example.COM:8443",
        "shop.example.com.",
        "Shop.Example.Com.:80",
    ] {
        assert_eq!(found(&table, host, "/"), Some((0, None, 0)), "{host}");
    }
    for host in ["[::1]", "[::1]:8080"] {
        assert_eq!(found(&table, host, "/"), Some((1, None, 0)), "{host}");
    }
    assert_eq!(
        found(&table, "Cart.INTERNAL:80", "/"),
        Some((2, Some("Cart"), 0))
    );
    assert_eq!(found(&table, "a.cart.internal", "/"), None);
}

#[test]
fn a_host_too_long_to_be_a_name_has_only_the_routes_for_any() {
    let table = table(&[("", "/"), ("*.com", "/")]);
    let host = format!("{}.com", "a".repeat(300));
    assert_eq!(found(&table, &host, "/"), Some((0, None, 0)));
    assert_eq!(found(&table, &host[60..], "/"), Some((1, None, 0)));
}

#[test]
fn what_is_no_path_matches_nothing() {
    let table = table(&[("", "/")]);
    assert_eq!(found(&table, "h", "*"), None);
    assert_eq!(found(&table, "h", ""), None);
}

#[test]
fn of_two_equal_routes_the_first_counts() {
    let table = table(&[("a", "/x"), ("a", "/x")]);
    assert_eq!(found(&table, "a", "/x"), Some((0, None, 2)));
}

#[test]
fn conditions_are_tried_in_the_lists_order_and_before_the_route_without() {
    let table = table_of(&[
        route("", "/cart"),
        asking("b", "", "/cart"),
        asking("a", "", "/cart"),
    ]);
    for (query, route) in [("", 0), ("?c", 0), ("?a", 2), ("?b", 1), ("?a&b", 1)] {
        let target = format!("/cart/7{query}");
        assert_eq!(
            found(&table, "h", &target),
            Some((route, None, 5)),
            "{query}"
        );
    }
}

#[test]
fn a_longer_path_or_a_better_host_stands_before_any_condition() {
    let table = table_of(&[
        asking("a", "", "/cart"),
        route("", "/cart/items"),
        route("a.example", "/"),
    ]);
    assert_eq!(found(&table, "h", "/cart/items?a"), Some((1, None, 11)));
    assert_eq!(found(&table, "a.example", "/cart?a"), Some((2, None, 0)));
    assert_eq!(found(&table, "h", "/cart?a"), Some((0, None, 5)));
}

#[test]
fn a_condition_that_does_not_hold_lets_the_search_go_on() {
    let table = table_of(&[
        asking("a", "a.example", "/cart/items"),
        asking("b", "a.example", "/cart"),
        asking("c", "*.example", "/"),
        route("", "/{service}"),
    ]);
    for (query, expected) in [
        ("?a&b&c", (0, None, 11)),
        ("?b&c", (1, None, 5)),
        ("?c", (2, None, 0)),
        ("", (3, Some("cart"), 5)),
    ] {
        let target = format!("/cart/items{query}");
        assert_eq!(
            found(&table, "a.example", &target),
            Some(expected),
            "{query}"
        );
    }
    assert_eq!(found(&table, "a.example", "/"), None);
}

/// Looks at every route in turn: what the table must agree with.
fn linear<'p>(routes: &[Route], host: &'p str, target: &'p str) -> Found<'p> {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let (label, end) = host.split_once('.').unwrap_or(("", ""));
    let segments: Vec<&str> = path[1..].split('/').collect();
    let mut best = None;
    for (index, route) in routes.iter().enumerate() {
        let (host_rank, from_host) = match &route.host {
            HostPattern::Exact(name) if name == host => (1000, None),
            HostPattern::Template(suffix) if suffix == end => (999, Some(label)),
            HostPattern::Wildcard(suffix) if host.ends_with(&format!(".{suffix}")) => {
                (suffix.len(), None)
            }
            HostPattern::Any => (0, None),
            _ => continue,
        };
        let pattern = &route.path.segments;
        let fits = pattern.len() <= segments.len()
            && pattern.iter().zip(&segments).all(|(want, is)| match want {
                Segment::Literal(text) => text == is,
                Segment::Service => !is.is_empty(),
            });
        let holds = |key: &String| query.split('&').any(|asked| asked == key);
        if !fits || !route.conditions.queries.iter().all(|(key, _)| holds(key)) {
            continue;
        }
        let literals: Vec<bool> = pattern
            .iter()
            .map(|want| *want != Segment::Service)
            .collect();
        let captured = literals.iter().position(|literal| !literal);
        let taken = &segments[..pattern.len()];
        let prefix_len = taken.iter().map(|segment| segment.len() + 1).sum();
        let conditional = !route.conditions.is_empty();
        let rank = (host_rank, pattern.len(), literals, conditional);
        if best.as_ref().is_none_or(|(best, _)| rank > *best) {
            let service = captured.map(|at| segments[at]).or(from_host);
            best = Some((rank, (index, service, prefix_len)));
        }
    }
    best.map(|(_, found)| found)
}

/// Few words, so that routes and requests meet often.
fn word(rng: &mut fastrand::Rng) -> &'static str {
    ["a", "b", "ab"][rng.usize(..3)]
}

fn random_host(rng: &mut fastrand::Rng) -> String {
    let labels: Vec<&str> = (0..rng.usize(1..4)).map(|_| word(rng)).collect();
    labels.join(".")
}

fn random_route(rng: &mut fastrand::Rng) -> Route {
    let host = random_host(rng);
    let host = match rng.usize(..4) {
        0 => String::new(),
        1 => host,
        2 => format!("*.{host}"),
        _ => format!("{{service}}.{host}"),
    };
    let mut segments: Vec<&str> = (0..rng.usize(..4)).map(|_| word(rng)).collect();
    if !segments.is_empty() && rng.bool() {
        let at = rng.usize(..segments.len());
        segments[at] = "{service}";
    }
    let path = segments.join("/");
    if rng.usize(..3) == 0 {
        asking(word(rng), &host, &path)
    } else {
        route(&host, &path)
    }
}

fn random_target(rng: &mut fastrand::Rng) -> String {
    let path: String = (0..rng.usize(1..6))
        .map(|_| format!("/{}", if rng.usize(..8) == 0 { "" } else { word(rng) }))
        .collect();
    let query: Vec<&str> = (0..rng.usize(..3)).map(|_| word(rng)).collect();
    if query.is_empty() {
        path
    } else {
        format!("{path}?{}", query.join("&"))
    }
}

#[test]
fn the_table_agrees_with_a_linear_search() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut matched = 0;
    for _ in 0..2_000 {
        let count = rng.usize(..16);
        let routes: Vec<Route> = (0..count).map(|_| random_route(&mut rng)).collect();
        let table = table_of(&routes);
        for _ in 0..50 {
            let (host, path) = (random_host(&mut rng), random_target(&mut rng));
            let expected = linear(&routes, &host, &path);
            matched += usize::from(expected.is_some());
            assert_eq!(
                found(&table, &host, &path),
                expected,
                "{host} {path} in {routes:#?}"
            );
        }
    }
    assert!(
        matched > 20_000,
        "only {matched} of 100,000 requests matched anything"
    );
}
