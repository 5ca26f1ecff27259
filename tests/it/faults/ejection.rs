//! Instances whose attempts fail: ejected after five in a row, tried by one request when the time
//! is over, and back when that is answered. What fails until then, and what does not, is counted.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use axum::response::IntoResponse as _;
use http::{Method, StatusCode};
use serde_json::Value;
use tokio::time::Instant;

use super::{SERVICE, Stage, let_pass};
use crate::support::{
    backend::Backend,
    eventually,
    load::{Load, Outcome, Report},
    process::BackendProcess,
    proxy::endpoints,
    raw::RawBackend,
};

/// An ejection is over soon enough to see what follows it.
const EJECT: &str = "[defaults]\ntimeout = { response = \"1s\" }\n\
                     eject = { time = \"1s\", statuses = \"5xx\" }\n";

impl Stage {
    pub(super) async fn endpoint(&self, address: SocketAddr) -> Value {
        let service = self.proxy.service(SERVICE).await;
        endpoint(&service, address)
    }

    /// Waits until it is ejected, and no request is on its way to it any more.
    pub(super) async fn until_left_alone(&self, address: SocketAddr) {
        self.proxy
            .until_service(SERVICE, "it is left alone", |service| {
                let shown = endpoint(service, address);
                shown["state"] == "ejected" && shown["in_flight"] == 0
            })
            .await;
    }

    /// A template's service is known once it was asked for.
    async fn until_known(&self) {
        let status = async || self.proxy.get("/cart/x").await.status();
        eventually("it is known", status, |status| *status != 404).await;
    }

    pub(super) async fn until_state(&self, address: SocketAddr, state: &str) {
        let what = format!("{address} is {state}");
        self.proxy
            .until_service(SERVICE, &what, |service| {
                endpoint(service, address)["state"] == state
            })
            .await;
    }

    pub(super) async fn metric(&self, line: &str) -> u64 {
        let metrics = self.proxy.page("/metrics").await.text().await.unwrap();
        let value = metrics.lines().find_map(|found| found.strip_prefix(line));
        value
            .unwrap_or_else(|| panic!("{line} in\n{metrics}"))
            .trim()
            .parse()
            .unwrap()
    }

    pub(super) async fn ejections(&self) -> u64 {
        self.metric("callboard_ejections_total{service=\"cart\"}")
            .await
    }
}

pub(super) fn endpoint(service: &Value, address: SocketAddr) -> Value {
    let address = address.to_string();
    let mut endpoints = endpoints(service);
    endpoints
        .find(|endpoint| endpoint["address"] == address)
        .cloned()
        .unwrap_or_default()
}

/// The failures are of requests that were sent before that moment, but for as many as there were
/// ejections after the first: each of those was one trial.
pub(super) fn assert_only_trials_failed(
    report: &Report,
    ejected: Instant,
    ejections: u64,
    scenario: &str,
) {
    let later = report.failed.iter().filter(|one| one.sent > ejected);
    let trials = ejections.saturating_sub(1) as usize;
    assert!(
        later.count() <= trials,
        "{scenario}, {trials} trials: {report}"
    );
}

/// Four under load, the first of which stands still and is ejected for it.
async fn one_hangs(stage: &Stage) -> (Vec<BackendProcess>, Load) {
    let mut processes = Vec::new();
    for _ in 0..4 {
        processes.push(stage.open_process().await);
    }
    stage.proxy.until_served("/cart/x").await;
    let load = stage.load().await;
    let_pass(500).await;
    processes[0].pause();
    stage.until_state(processes[0].address(), "ejected").await;
    (processes, load)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_hangs_is_left_alone_once_five_requests_have_timed_out() {
    let stage = Stage::embedded_with(EJECT).await;
    let (processes, load) = one_hangs(&stage).await;
    let ejected = Instant::now();
    let tried = async || stage.ejections().await;
    eventually("it is tried in the meantime", tried, |count| *count >= 2).await;
    processes[0].resume();
    stage.until_state(processes[0].address(), "serving").await;
    let before = stage.endpoint(processes[0].address()).await["attempts"].clone();
    stage
        .proxy
        .until_service(SERVICE, "it has its share again", |service| {
            let attempts = &endpoint(service, processes[0].address())["attempts"];
            attempts.as_u64() > before.as_u64().map(|before| before + 20)
        })
        .await;
    let report = stage.ended_with(load, processes).await;
    let ejections = stage.ejections().await;
    // It may have read them after all, when it went on: that was its client's time-out, and none
    // was sent twice.
    report.assert_nothing_twice("one hangs");
    assert!(report.failed.len() >= 5, "it did hang: {report}");
    assert_only_trials_failed(&report, ejected, ejections, "one hangs");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_attempts_have_a_time_of_their_own_one_that_hangs_fails_no_get() {
    let tables = format!("{EJECT}retry = {{ try_timeout = \"250ms\" }}\n");
    let stage = Stage::embedded_with(&tables).await;
    let (processes, load) = one_hangs(&stage).await;
    let_pass(1_500).await;
    processes[0].resume();
    let mut report = stage.ended_with(load, processes).await;
    report.assert_nothing_twice("one hangs, try_timeout");
    // A POST may have been processed, and has only one attempt.
    report.failed.retain(|one| one.method != Method::POST);
    report.assert_flawless("one hangs, try_timeout, but for POSTs");
}

/// Takes the connection and the request, and resets.
async fn resets() -> RawBackend {
    RawBackend::serving(|mut wire| async move {
        let _ = wire.head().await;
        wire.stream.set_zero_linger().unwrap();
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_resets_fails_no_get_and_posts_until_it_is_ejected() {
    let stage = Stage::embedded_with(EJECT).await;
    let _backends = stage.open_some(&["a", "b", "c"]).await;
    let bad = resets().await;
    let load = stage.load().await;
    let_pass(300).await;
    stage.sign_in(bad.address()).await;
    stage.until_state(bad.address(), "ejected").await;
    let ejected = Instant::now();
    let_pass(1_500).await;
    let mut report = stage.ended(load).await;
    let ejections = stage.ejections().await;
    report.assert_nothing_twice("one resets");
    let posts = report.failed.iter();
    let posts = posts.filter(|one| one.method == Method::POST).count();
    // Five until it was found out, a trial each time, and what was on its way together with the fifth.
    assert!(posts <= 30, "{report}");
    assert_only_trials_failed(&report, ejected, ejections, "one resets");
    report.failed.retain(|one| one.method != Method::POST);
    report.assert_flawless("one resets, but for POSTs");
}

/// Answers everything with 500.
async fn fails(stage: &Stage, id: &str) -> Backend {
    let backend = Backend::named(id).answering(|_| async { StatusCode::INTERNAL_SERVER_ERROR });
    let backend = backend.start().await;
    stage.sign_in(backend.address()).await;
    backend
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_four_that_answers_500_for_ten_seconds_is_left_alone_after_five_and_back_then() {
    let stage = Stage::embedded_with(EJECT).await;
    let _backends = stage.open_some(&["a", "b", "c"]).await;
    let load = stage.load().await;
    let_pass(300).await;
    let well = Arc::new(AtomicBool::new(false));
    let is_well = Arc::clone(&well);
    let bad = Backend::named("bad").answering(move |_| {
        let is_well = is_well.load(Relaxed);
        async move {
            match is_well {
                true => StatusCode::OK,
                false => StatusCode::INTERNAL_SERVER_ERROR,
            }
        }
    });
    let bad = bad.start().await;
    stage.sign_in(bad.address()).await;
    stage.until_state(bad.address(), "ejected").await;
    let ejected = Instant::now();
    let_pass(10_000).await;
    let report = stage.ended(load).await;
    let ejections = stage.ejections().await;
    println!("one answers 500: {report}");
    assert!(ejections >= 3, "1 s, 2 s, 3 s, 4 s: {ejections}");
    assert!(report.failed.len() >= 5, "{report}");
    assert_only_trials_failed(&report, ejected, ejections, "one answers 500");
    let failed: Vec<&Outcome> = report.failed.iter().collect();
    let is_500 = |one: &&&Outcome| one.failure.as_deref().unwrap().starts_with("500");
    assert!(failed.iter().all(|one| is_500(&one)), "{report}");
    // It is tried when its time is over, and has its turns again.
    well.store(true, Relaxed);
    let served = async || {
        assert_eq!(stage.proxy.get("/cart/x").await.status(), 200);
        stage.endpoint(bad.address()).await["state"].clone()
    };
    eventually("it is back", served, |state| state == "serving").await;
    let before = bad.requests();
    for _ in 0..40 {
        assert_eq!(stage.proxy.get("/cart/x").await.status(), 200);
    }
    assert_eq!(bad.requests() - before, 10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn never_more_than_half_are_ejected_and_never_the_last() {
    let stage = Stage::embedded_with(EJECT).await;
    let mut backends = Vec::new();
    for (count, most) in [(1, 0), (2, 1), (3, 1), (4, 2)] {
        while backends.len() < count {
            backends.push(fails(&stage, &format!("bad {count}")).await);
        }
        stage.until_known().await;
        stage
            .proxy
            .until_service(SERVICE, "all are known", |service| {
                endpoints(service).count() == count
            })
            .await;
        let mut answered = 0;
        for _ in 0..count * 60 {
            answered += usize::from(stage.proxy.get("/cart/x").await.status() == 500);
        }
        assert_eq!(answered, count * 60, "all are asked, since all are bad");
        let service = stage.proxy.service(SERVICE).await;
        let ejected = endpoints(&service).filter(|one| one["state"] == "ejected");
        assert_eq!(ejected.count(), most, "of {count}: {service}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ejection_outlives_an_update_and_ends_with_its_endpoint() {
    let tables = "[defaults]\neject = { statuses = [500], time = \"1m\" }\n";
    let stage = Stage::embedded_with(tables).await;
    let _backends = stage.open_some(&["a", "b", "c"]).await;
    let bad = fails(&stage, "bad").await;
    let load = stage.load().await;
    stage.until_state(bad.address(), "ejected").await;
    let shown = stage.endpoint(bad.address()).await;
    assert_eq!(shown["registry"], "passing", "{shown}");
    assert_eq!(shown["ejection"]["times"], 1, "{shown}");
    let left = shown["ejection"]["seconds_left"].as_f64().unwrap();
    assert!((30.0..=66.0).contains(&left), "{shown}");
    // Somebody else comes: it stays what it was.
    let new = stage.open("d").await;
    stage.until_state(new.address(), "serving").await;
    stage.until_left_alone(bad.address()).await;
    let attempts = bad.requests();
    let_pass(300).await;
    assert_eq!(bad.requests(), attempts, "nobody asks it");
    // It signs out, and in again: that is another one.
    stage.sign_out(bad.address()).await;
    stage
        .proxy
        .until_service(SERVICE, "it is gone", |service| {
            endpoint(service, bad.address()).is_null()
        })
        .await;
    stage.sign_in(bad.address()).await;
    stage
        .proxy
        .until_service(SERVICE, "it is ejected anew", |service| {
            let shown = endpoint(service, bad.address());
            shown["state"] == "ejected" && shown["attempts"].as_u64() < Some(20)
        })
        .await;
    assert!(bad.requests() >= attempts + 5);
    drop(stage.ended(load).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn checks_of_the_registry_that_pass_again_end_an_ejection() {
    let tables = "[defaults]\neject = { statuses = [500], time = \"1m\" }\n";
    let stage = Stage::embedded_with(tables).await;
    let good = stage.open("good").await;
    let bad = Backend::named("bad").answering(|_| async { StatusCode::INTERNAL_SERVER_ERROR });
    let bad = bad.start().await;
    let checks = serde_json::json!({"Checks": [{"TTL": "1h", "Status": "passing"}]});
    stage.sign_in_with(bad.address(), checks).await;
    stage.until_known().await;
    stage.until_state(bad.address(), "serving").await;
    let load = stage.load().await;
    stage.until_state(bad.address(), "ejected").await;
    let id = format!("service:{SERVICE}@{}", bad.address()).replace(':', "%3A");
    let check = |verdict: &str| format!("/v1/agent/check/{verdict}/{id}");
    stage.tell(&check("fail"), Value::Null).await;
    stage.until_state(bad.address(), "unhealthy").await;
    let asked = bad.requests();
    stage.tell(&check("pass"), Value::Null).await;
    // It is believed, and asked at once.
    stage.until_state(bad.address(), "ejected").await;
    assert!(bad.requests() >= asked + 5);
    drop(stage.ended(load).await);
    assert!(good.requests() > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_retry_on_names_is_made_elsewhere_and_a_post_is_not() {
    let tables = "[defaults]\neject = false\nretry = { on = [502, 503] }\n";
    let stage = Stage::embedded_with(tables).await;
    let _backends = stage.open_some(&["a", "b", "c"]).await;
    let busy = Backend::named("busy").answering(|_| async { StatusCode::SERVICE_UNAVAILABLE });
    let busy = busy.start().await;
    let load = stage.load().await;
    let_pass(200).await;
    stage.sign_in(busy.address()).await;
    stage.until_state(busy.address(), "serving").await;
    let_pass(1_000).await;
    stage.sign_out(busy.address()).await;
    let mut report = stage.ended(load).await;
    report.assert_nothing_twice("one answers 503");
    let posts = report
        .failed
        .iter()
        .filter(|one| one.method == Method::POST);
    assert_eq!(posts.count(), busy.requests_with(&Method::POST), "{report}");
    assert!(busy.requests_with(&Method::GET) > 50, "{report}");
    report.failed.retain(|one| one.method != Method::POST);
    // 20 % of the requests and ten a second: a quarter of all GETs is a little more.
    let refused = stage
        .metric("callboard_retries_refused_total{service=\"cart\"}")
        .await;
    assert_eq!(report.failed.len() as u64, refused, "{report}");
    assert!(report.failed.len() < report.sent / 8, "{report}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_nobody_else_is_left_the_answer_is_passed_on() {
    let tables = "[defaults]\neject = false\nretry = { on = 503 }\n";
    let stage = Stage::embedded_with(tables).await;
    let busy = Backend::named("busy")
        .answering(|_| async { (StatusCode::SERVICE_UNAVAILABLE, "later").into_response() });
    let busy = [busy.start().await, Backend::named("b").start().await];
    stage.sign_in(busy[0].address()).await;
    stage.until_known().await;
    let before = busy[0].requests();
    let answer = stage.proxy.get("/cart/x").await;
    assert_eq!(answer.status(), 503);
    assert_eq!(answer.text().await.unwrap(), "later");
    assert_eq!(busy[0].requests(), before + 1, "never the same again");
    // A PUT with a body may be repeated, and is sent whole.
    stage.sign_in(busy[1].address()).await;
    stage.until_state(busy[1].address(), "serving").await;
    for _ in 0..10 {
        let put = stage.proxy.http.put(stage.proxy.url("/cart/x"));
        let answer = put.body("x".repeat(1_000)).send().await.unwrap();
        assert_eq!(answer.status(), 200);
    }
    assert!(busy[0].requests_with(&Method::PUT) >= 4);
    assert_eq!(busy[1].requests_with(&Method::PUT), 10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_asks_to_be_left_alone_is() {
    let tables = "[defaults]\nretry = { on = 503 }\n";
    let stage = Stage::embedded_with(tables).await;
    let _backends = stage.open_some(&["a", "b"]).await;
    let busy = Backend::named("busy").answering(|_| async {
        let pause = [("retry-after", "2")];
        (StatusCode::SERVICE_UNAVAILABLE, pause).into_response()
    });
    let busy = busy.start().await;
    stage.sign_in(busy.address()).await;
    stage.until_state(busy.address(), "serving").await;
    let begun = Instant::now();
    while busy.requests() == 0 {
        assert_eq!(stage.proxy.get("/cart/x").await.status(), 200);
    }
    stage.until_state(busy.address(), "ejected").await;
    loop {
        assert_eq!(stage.proxy.get("/cart/x").await.status(), 200);
        let requests = busy.requests();
        // Looked at after the requests: what came by then came in time.
        if begun.elapsed() > Duration::from_millis(1_500) {
            break;
        }
        assert_eq!(requests, 1);
    }
    while busy.requests() == 1 {
        assert_eq!(stage.proxy.get("/cart/x").await.status(), 200);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_instance_has_a_growing_part_of_its_share() {
    let stage = Stage::embedded_with("[defaults]\nslow_start = \"4s\"\n").await;
    let backends = stage.open_some(&["a", "b", "c"]).await;
    // Those that were there at the beginning have their whole share.
    stage.until_all(&backends, "serving").await;
    let load = stage.load().await;
    let new = stage.open("new").await;
    stage.until_state(new.address(), "warming").await;
    let counts = || (new.requests(), backends[0].requests());
    let start = counts();
    let_pass(1_000).await;
    let early = counts();
    stage.until_state(new.address(), "serving").await;
    let warm = counts();
    let_pass(1_000).await;
    let late = counts();
    let report = stage.ended(load).await;
    report.assert_flawless("slow start");
    let part =
        |from: (usize, usize), to: (usize, usize)| (to.0 - from.0) as f64 / (to.1 - from.1) as f64;
    let (first, last) = (part(start, early), part(warm, late));
    assert!(first < 0.5 && last > 0.8, "{first} and then {last}");
}
