//! `cargo bench --bench route`: what a route lookup costs, and that it costs the same with 10,000
//! hosts and prefixes as with 10.

use std::{hint::black_box, time::Instant};

use callboard::{
    config::{Conditions, HostPattern, PathPattern, Segment},
    route::{Request, Table},
};
use http::{HeaderMap, Method};

const ROUNDS: usize = 9;
const LOOKUPS: usize = 1_000_000;

/// What a route takes.
type Route = (HostPattern, PathPattern, Conditions);

fn route(host: HostPattern, path: &str) -> Route {
    let segments = path.split('/').skip(1);
    let segments = segments.map(|text| Segment::Literal(text.to_owned()));
    let path = PathPattern {
        segments: segments.collect(),
    };
    (host, path, Conditions::default())
}

/// `size` routes, and 10 requests spread over them: the requests are as many for every size, so
/// that it is the search that is compared and not the processor's caches.
struct Case {
    name: &'static str,
    route: fn(usize) -> Route,
    request: fn(usize) -> (String, String),
}

const CASES: [Case; 3] = [
    Case {
        name: "exact hosts",
        route: |i| {
            route(
                HostPattern::Exact(format!("host-{i:05}.example.com")),
                "/cart",
            )
        },
        request: |i| (format!("host-{i:05}.example.com"), "/cart/7".into()),
    },
    Case {
        name: "wildcard hosts",
        route: |i| {
            route(
                HostPattern::Wildcard(format!("host-{i:05}.example.com")),
                "/cart",
            )
        },
        request: |i| (format!("www.host-{i:05}.example.com:80"), "/cart/7".into()),
    },
    Case {
        name: "path prefixes",
        route: |i| route(HostPattern::Any, &format!("/api/part-{i:05}")),
        request: |i| ("example.com".into(), format!("/api/part-{i:05}/7")),
    },
];

/// Nanoseconds per lookup.
fn measure(table: &Table, requests: &[(String, String)]) -> f64 {
    let headers = HeaderMap::new();
    let start = Instant::now();
    for (host, path) in requests.iter().cycle().take(LOOKUPS) {
        let found = table.find(black_box(&Request {
            host,
            path,
            method: &Method::GET,
            headers: &headers,
            query: None,
        }));
        black_box(found.expect("every request has its route"));
    }
    start.elapsed().as_nanos() as f64 / LOOKUPS as f64
}

fn median(mut samples: Vec<f64>) -> f64 {
    samples.sort_by(f64::total_cmp);
    samples[samples.len() / 2]
}

fn main() {
    println!(
        "{:<16}{:>12}{:>14}{:>10}",
        "ns per lookup", "10 routes", "10,000 routes", "ratio"
    );
    for case in &CASES {
        let sides = [10, 10_000].map(|size| {
            let routes: Vec<Route> = (0..size).map(case.route).collect();
            let requests: Vec<_> = (0..10).map(|i| (case.request)(i * (size / 10))).collect();
            (
                Table::new(
                    routes
                        .iter()
                        .map(|(host, path, conditions)| (host, path, conditions)),
                ),
                requests,
            )
        });
        let mut samples = [Vec::new(), Vec::new()];
        for _ in 0..ROUNDS {
            for (samples, (table, requests)) in samples.iter_mut().zip(&sides) {
                samples.push(measure(table, requests));
            }
        }
        let [small, large] = samples.map(median);
        println!(
            "{:<16}{small:>12.1}{large:>14.1}{:>10.2}",
            case.name,
            large / small
        );
    }
}
