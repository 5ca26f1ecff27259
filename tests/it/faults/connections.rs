//! Backends that close connections as they please, and ones that take none.

use std::{net::SocketAddr, time::Duration};

use http::Method;
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::Instant,
};

use super::{ROUTE, SERVICE, Stage, let_pass};
use crate::support::{
    load::{Client, Ledger, Outcome, Report},
    proxy::Proxy,
    raw::{RawBackend, Then, Wire, ok},
    server::refusing,
};

/// So many backends, each with a client of its own that asks again when its connection is about
/// to be closed.
const LANES: u64 = 80;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backend_that_closes_idle_connections_after_a_second_fails_nobody() {
    let proxy = Proxy::start(ROUTE).await;
    let ledger = Ledger::default();
    let mut backends = Vec::new();
    let mut lanes = JoinSet::new();
    for lane in 0..LANES {
        let name = format!("lane-{lane}");
        let idle = Duration::from_secs(1);
        let backend = ledger.backend(&name).closing_idle_after(idle).start().await;
        proxy.register(&name, backend.address()).await;
        proxy.until_served(&format!("/{name}/x")).await;
        backends.push(backend);
        // Ids differ from lane to lane.
        let client = Client::new(proxy.address(), &format!("/{name}")).numbered_from(lane * 1_000);
        // From 0.9 s to 1.1 s, and most of them where a request and the end may cross on the way.
        let gap = match lane / 2 % 4 {
            0 => 900_000 + 200_000 * lane / LANES,
            _ => 997_000 + 6_000 * lane / LANES,
        };
        let gap = Duration::from_micros(gap);
        let method = [Method::GET, Method::POST][(lane % 2) as usize].clone();
        lanes.spawn(async move {
            let mut outcomes = Vec::new();
            for _ in 0..6 {
                outcomes.push(client.call(method.clone()).await);
                sleep_exactly(gap).await;
            }
            outcomes
        });
    }
    let outcomes = lanes.join_all().await.concat();
    let report = Report::new(outcomes, &ledger).await;
    report.assert_flawless_but_for_closes("idle connections closed at 1 s");
    // Otherwise the gaps would be nowhere near the limit.
    let connections: usize = backends.iter().map(|backend| backend.connections()).sum();
    let once_a_lane = LANES as usize;
    assert!(connections > 2 * once_a_lane, "{connections} connections");
}

/// The runtime's own sleep is exact to a millisecond.
async fn sleep_exactly(gap: Duration) {
    let end = Instant::now() + gap;
    tokio::time::sleep(gap - Duration::from_millis(2)).await;
    while Instant::now() < end {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backend_that_closes_after_each_answer_without_a_word_fails_nobody() {
    let proxy = Proxy::start(ROUTE).await;
    let address = closes_after_each_answer().await;
    proxy.register(SERVICE, address).await;
    proxy.until_served("/cart/x").await;
    let mut lanes = JoinSet::new();
    for lane in 0..4 {
        let client = Client::new(proxy.address(), "/cart").numbered_from(lane * 1_000);
        lanes.spawn(async move {
            let mut outcomes: Vec<Outcome> = Vec::new();
            for _ in 0..250 {
                outcomes.push(client.call(Method::GET).await);
            }
            outcomes
        });
    }
    let report = Report::new(lanes.join_all().await.concat(), &Ledger::default()).await;
    report.assert_flawless_but_for_closes("closed after each answer");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_that_takes_no_connection_is_passed_over_and_fails_nobody() {
    let stage = Stage::embedded().await;
    let _backends = stage.open_some(&["a", "b"]).await;
    let dead = refusing();
    stage.sign_in(dead).await;
    let load = stage.load().await;
    let_pass(4_000).await;
    let report = stage.ended(load).await;
    report.assert_flawless("one dead of three");
    let status = stage.proxy.http.get(stage.proxy.admin("/api/status"));
    let status: Value = status.send().await.unwrap().json().await.unwrap();
    let endpoints = status["services"][0]["endpoints"].as_array().unwrap();
    let endpoint = endpoints
        .iter()
        .find(|endpoint| endpoint["address"] == dead.to_string())
        .unwrap();
    println!("the dead one: {endpoint}");
    // Each worker may have had an attempt under way when the first failed; later ones are those
    // that look whether it lives again, a second apart and then two.
    let attempts = endpoint["attempts"].as_u64().unwrap();
    assert!((1..=10).contains(&attempts), "{endpoint}");
    assert_eq!(endpoint["state"], "doubted");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_only_one_that_lives_is_found_among_many_that_do_not() {
    let proxy = Proxy::start(ROUTE).await;
    let ledger = Ledger::default();
    let mut outcomes = Vec::new();
    for service in 0..5 {
        let name = format!("service-{service}");
        let backend = ledger.backend(&name).start().await;
        proxy.register(&name, backend.address()).await;
        proxy.until_served(&format!("/{name}/x")).await;
        for _ in 0..9 {
            proxy.register(&name, refusing()).await;
        }
        let_pass(50).await;
        let client = Client::new(proxy.address(), &format!("/{name}"));
        let client = client.numbered_from(service * 1_000);
        for method in [Method::POST, Method::GET, Method::POST, Method::GET] {
            outcomes.push(client.call(method).await);
        }
    }
    let report = Report::new(outcomes, &ledger).await;
    report.assert_flawless("nine dead of ten");
}

/// What came of GETs, one after the other, to two instances, one of which takes connections, reads
/// and closes.
#[derive(Debug)]
struct OneCloses {
    failed: usize,
    asked_of_the_bad: usize,
    asked_of_the_good: usize,
    retries: u64,
    /// Retries that the budget refused.
    refused: f64,
    /// Those that it would grant at the end.
    left: f64,
}

impl OneCloses {
    async fn count(budget: &str, requests: usize) -> Self {
        let bad = RawBackend::saying("", Then::Close).await;
        let good = RawBackend::saying(ok("well"), Then::Keep).await;
        let route = format!("[[route]]\npath = \"/cart\"\nservice = \"{SERVICE}\"\n");
        let retry = format!("[defaults]\neject = false\nretry = {{ budget = {{ {budget} }} }}\n");
        let proxy = Proxy::start(&(route + &retry)).await;
        let both = [bad.address(), good.address()];
        for address in both {
            proxy.register(SERVICE, address).await;
        }
        let states = both.map(|address| (address, "serving"));
        proxy.until_states(SERVICE, &states).await;
        let mut client = Wire::connect(proxy.address()).await;
        let mut failed = 0;
        for _ in 0..requests {
            let got = client.ask("GET /cart HTTP/1.1\r\nHost: a\r\n\r\n").await;
            match got.status() {
                200 => assert_eq!(got.text(), "well"),
                502 => failed += 1,
                other => panic!("{other}: {}", got.text()),
            }
        }
        let status = proxy.status().await;
        let metrics = proxy.page("/metrics").await.text().await.unwrap();
        let metric = |name: &str| {
            let series = format!("{name}{{service=\"cart\"}} ");
            let line = metrics.lines().find_map(|line| line.strip_prefix(&series));
            line.map_or(0.0, |value| value.parse().unwrap())
        };
        let counts = Self {
            failed,
            asked_of_the_bad: bad.requests().len(),
            asked_of_the_good: good.requests().len(),
            retries: status["services"][0]["retries"].as_u64().unwrap(),
            refused: metric("callboard_retries_refused_total"),
            left: metric("callboard_retries_left"),
        };
        println!("one of two closes, {budget}, {requests} sent: {counts:?}");
        assert_eq!(failed + counts.asked_of_the_good, requests);
        counts
    }
}

/// A retry takes nobody's turn: the next request does not begin with the bad one again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_that_closes_connections_gets_no_more_than_its_turns() {
    let counts = OneCloses::count("", 3_000).await;
    assert_eq!(counts.asked_of_the_bad, 1_500);
    // 20 % of the requests, and a few a second besides.
    assert!((500..1_500).contains(&counts.retries), "{counts:?}");
    assert_eq!(counts.failed as u64 + counts.retries, 1_500);
    assert_eq!(counts.refused, counts.failed as f64);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_budget_that_is_empty_stops_retries_and_one_that_is_not_lets_nobody_notice() {
    let counts = OneCloses::count("ratio = 0, per_second = 0", 400).await;
    assert_eq!((counts.failed, counts.asked_of_the_bad), (200, 200));
    assert_eq!((counts.retries, counts.refused), (0, 200.0));
    assert_eq!(counts.left, 0.0);
    let counts = OneCloses::count("ratio = 1", 400).await;
    assert_eq!((counts.failed, counts.asked_of_the_bad), (0, 200));
    assert_eq!((counts.retries, counts.refused), (200, 0.0));
    assert!(counts.left > 100.0, "{counts:?}");
}

/// Answers with the request's path, and closes.
async fn closes_after_each_answer() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(answer_and_close(stream));
        }
    });
    address
}

async fn answer_and_close(mut stream: TcpStream) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if stream.read_buf(&mut head).await.unwrap() == 0 {
            return;
        }
    }
    let head = String::from_utf8(head).unwrap();
    let path = head.split(' ').nth(1).unwrap();
    let length = path.len();
    let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{path}");
    stream.write_all(answer.as_bytes()).await.unwrap();
    // Sometimes just as the next request is on its way.
    tokio::time::sleep(Duration::from_micros(fastrand::u64(..2_000))).await;
}
