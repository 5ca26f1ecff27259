//! A service that prefers the proxy's own zone calls that alone while it is well, spills over by
//! the share that is not, and goes elsewhere and comes back without losing a request.

use serde_json::{Value, json};

use crate::support::{
    backend::{BACKEND, Backend},
    eventually,
    load::{Ledger, Load},
    proxy::{Proxy, instance},
};

const CONFIG: &str = "zone = \"a\"\nworkers = 2\n[[route]]\npath = \"/cart\"\nservice = \"cart\"\n\
    strip_prefix = true\n[service.cart]\nprefer = \"zone\"\nguard = false\n";

async fn sign_in(proxy: &Proxy, backend: &Backend, zone: &str) {
    let check = json!({ "TTL": "10m", "Status": "passing" });
    let more = json!({ "Meta": { "zone": zone }, "Check": check });
    proxy.register_with("cart", backend.address(), more).await;
}

/// The registry's check of it passes or fails from now on.
async fn check(proxy: &Proxy, backend: &Backend, result: &str) {
    let id = instance("cart", backend.address());
    let path = format!("/v1/agent/check/{result}/service:{id}");
    proxy.tell(&path, Value::Null).await;
}

/// Waits until so many may be picked here and elsewhere, of which so many of a hundred requests
/// come here.
async fn until_zone(proxy: &Proxy, local: usize, others: usize, percent: u32) {
    let wanted = json!({
        "own": "a", "local_percent": percent, "local_endpoints": local, "other_endpoints": others,
    });
    let is_so = |service: &Value| service["zone"] == wanted;
    proxy
        .until_service("cart", &wanted.to_string(), is_so)
        .await;
}

/// How many of so many requests each of these answers.
async fn counts(proxy: &Proxy, count: usize, of: &[&Backend]) -> Vec<usize> {
    let mut counts = vec![0; of.len()];
    for _ in 0..count {
        let answer = proxy.get("/cart/x").await;
        assert_eq!(answer.status(), 200);
        let by = answer.headers()[BACKEND].to_str().unwrap();
        counts[of.iter().position(|one| one.id() == by).unwrap()] += 1;
    }
    counts
}

async fn sample(proxy: &Proxy, zone: &str) -> u64 {
    let name = format!("callboard_zone_requests_total{{service=\"cart\",zone=\"{zone}\"}} ");
    let text = proxy.page("/metrics").await.text().await.unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(&name));
    line.unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_own_zone_has_all_while_it_is_well_and_else_exactly_its_share() {
    let proxy = Proxy::start(CONFIG).await;
    let [a, b, c, d] = [
        Backend::start("a").await,
        Backend::start("b").await,
        Backend::start("c").await,
        Backend::start("d").await,
    ];
    let all = [&a, &b, &c, &d];
    for (backend, zone) in [(&a, "a"), (&b, "a"), (&c, "b"), (&d, "c")] {
        sign_in(&proxy, backend, zone).await;
    }
    until_zone(&proxy, 2, 2, 100).await;
    assert_eq!(counts(&proxy, 100, &all).await, [50, 50, 0, 0]);
    check(&proxy, &b, "fail").await;
    until_zone(&proxy, 1, 2, 70).await;
    assert_eq!(counts(&proxy, 200, &all).await, [140, 0, 30, 30]);
    check(&proxy, &a, "fail").await;
    until_zone(&proxy, 0, 2, 0).await;
    assert_eq!(counts(&proxy, 100, &all).await, [0, 0, 50, 50]);
    check(&proxy, &a, "pass").await;
    check(&proxy, &b, "pass").await;
    until_zone(&proxy, 2, 2, 100).await;
    assert_eq!(counts(&proxy, 100, &all).await, [50, 50, 0, 0]);
    let counted = (sample(&proxy, "local").await, sample(&proxy, "other").await);
    assert_eq!(counted, (340, 160));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_zone_is_doubted_drained_and_filled_under_load_and_no_request_is_lost() {
    let proxy = Proxy::start(CONFIG).await;
    let ledger = Ledger::default();
    let mut local = Vec::new();
    for id in ["a-1", "a-2"] {
        let backend = ledger.backend(id).start().await;
        sign_in(&proxy, &backend, "a").await;
        local.push(backend);
    }
    let other = ledger.backend("b").start().await;
    sign_in(&proxy, &other, "b").await;
    until_zone(&proxy, 2, 1, 100).await;
    let load = Load::start(proxy.address(), "/cart", 200).await;
    for round in 0..3 {
        let before = other.requests();
        // Closed before they are signed out: what they refuse is tried elsewhere.
        let gone: Vec<_> = local.iter().map(Backend::address).collect();
        for backend in local.drain(..) {
            backend.close().await;
        }
        eventually(
            "others are asked",
            async || other.requests(),
            |n| *n > before + 20,
        )
        .await;
        for address in gone {
            proxy.deregister("cart", address).await;
        }
        until_zone(&proxy, 0, 1, 0).await;
        for n in 0..2 {
            let backend = ledger.backend(&format!("a-{round}-{n}")).start().await;
            sign_in(&proxy, &backend, "a").await;
            local.push(backend);
        }
        until_zone(&proxy, 2, 1, 100).await;
        eventually("it is asked", async || local[0].requests(), |n| *n > 10).await;
    }
    let report = load.stop(&ledger).await;
    report.assert_flawless_but_for_closes("a zone that comes and goes");
    assert!(proxy.service("cart").await["retries"].as_u64() > Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_zone_that_is_full_spills_over() {
    let text = format!("{CONFIG}limits = {{ per_endpoint = 1, pending = 1 }}\n");
    let proxy = Proxy::start(&text).await;
    let slow = Backend::named("a").answering(|_| std::future::pending::<&str>());
    let slow = slow.start().await;
    let other = Backend::start("b").await;
    sign_in(&proxy, &slow, "a").await;
    sign_in(&proxy, &other, "b").await;
    until_zone(&proxy, 1, 1, 100).await;
    let url = proxy.url("/cart/x");
    let hangs = tokio::spawn(proxy.http.get(url).send());
    eventually("it is full", async || slow.requests(), |n| *n == 1).await;
    assert_eq!(counts(&proxy, 10, &[&slow, &other]).await, [0, 10]);
    hangs.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subset_has_a_share_of_its_own() {
    let text = format!(
        "{CONFIG}[[route]]\npath = \"/v2\"\nservice = \"cart\"\ntags = [\"v2\"]\nstrip_prefix = true\n"
    );
    let proxy = Proxy::start(&text).await;
    let [old, near, far] = [
        Backend::start("old").await,
        Backend::start("near").await,
        Backend::start("far").await,
    ];
    for (backend, zone, tag) in [(&old, "a", "v1"), (&near, "a", "v2"), (&far, "b", "v2")] {
        let check = json!({ "TTL": "10m", "Status": "passing" });
        let more = json!({ "Meta": { "zone": zone }, "Tags": [tag], "Check": check });
        proxy.register_with("cart", backend.address(), more).await;
    }
    let until_percents = async |of_all: u32, of_subset: u32| {
        let what = format!("{of_all} and {of_subset} % are local");
        let is_so = |service: &Value| {
            let percent = |of: &Value| of["zone"]["local_percent"].clone();
            (percent(service), percent(&service["views"][0])) == (of_all.into(), of_subset.into())
        };
        proxy.until_service("cart", &what, is_so).await;
    };
    until_percents(100, 100).await;
    let all = [&old, &near, &far];
    let of_subset = async |count: usize| {
        for _ in 0..count {
            assert_eq!(proxy.get("/v2/x").await.status(), 200);
        }
        all.map(Backend::requests)
    };
    assert_eq!(of_subset(20).await, [0, 20, 0]);
    // Half of the zone is ill, and of the subset all of it.
    check(&proxy, &near, "fail").await;
    until_percents(70, 0).await;
    assert_eq!(of_subset(20).await, [0, 20, 20]);
}
