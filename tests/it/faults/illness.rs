//! One instance of four is ill, as the defaults have it: it answers 500, or stands still. What its
//! clients see of that is counted; and so is that nothing is done where all of them are alike.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use axum::response::IntoResponse as _;
use http::{Method, StatusCode};
use serde_json::Value;
use socket2::SockRef;
use tokio::{io::copy_bidirectional, net::TcpStream, time::Instant};

use super::{
    SERVICE, Stage,
    ejection::{assert_only_trials_failed, endpoint},
    let_pass,
};
use crate::support::{
    backend::Backend,
    eventually,
    load::{Client, Ledger, Report, process},
    process::BackendProcess,
    proxy::endpoints,
    raw::RawBackend,
};

/// Failures and 5xx are held against those of the peers, and nothing else is. Resets come sooner than
/// answers, and so five in a row after a moment in which the machine stood still; and an instance
/// that gets no CPU for a moment is silent.
const COMPARED: &str = "[defaults]\neject = { failures = 1000, silence = false }\n";

/// What may be seen of an instance that answers 500 for ten seconds.
const SEEN: usize = 15;
/// The same of one that stands still.
const LOST: usize = 30;
/// The requests that try it in sixteen seconds: after 1, 2, 4 and 8 s.
const TRIALS: usize = 4;

impl Stage {
    async fn silences(&self) -> u64 {
        self.metric("callboard_silences_total{service=\"cart\"}")
            .await
    }

    /// How often one was called, and all of them.
    async fn attempts_of(&self, backend: SocketAddr) -> (u64, u64) {
        let service = self.proxy.service(SERVICE).await;
        let attempts = |endpoint: &Value| endpoint["attempts"].as_u64().unwrap();
        let all = endpoints(&service).map(attempts).sum();
        (attempts(&endpoint(&service, backend)), all)
    }

    async fn attempts(&self, backend: SocketAddr) -> u64 {
        let shown = self.endpoint(backend).await;
        shown["attempts"].as_u64().unwrap()
    }
}

/// A backend that answers some requests with 500, by their number, before it does anything.
async fn failing(
    stage: &Stage,
    id: &str,
    fails: impl Fn(u64) -> bool + Clone + Send + Sync + 'static,
) -> Backend {
    let (ledger, count) = (stage.ledger.clone(), Arc::new(AtomicU64::new(0)));
    let answer = move |request: http::Request<hyper::body::Incoming>| {
        let ledger = ledger.clone();
        let fails = fails(count.fetch_add(1, Relaxed));
        async move {
            let body = process(request, |id| ledger.note(id)).await;
            match fails {
                true => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
                false => body.into_response(),
            }
        }
    };
    let backend = Backend::named(id).answering(answer).start().await;
    stage.sign_in(backend.address()).await;
    backend
}

/// The load for so long, once all are known.
async fn under_load(stage: &Stage, millis: u64) -> Report {
    until_all_serve(stage).await;
    let load = stage.load().await;
    let_pass(millis).await;
    stage.ended(load).await
}

/// So many requests, once all are known, one after the other: where several are under way, what comes
/// of one cannot tell yet where the next one goes, and those that fail go to one endpoint together.
async fn one_by_one(stage: &Stage, requests: usize) -> Report {
    until_all_serve(stage).await;
    let client = Client::new(stage.proxy.address(), "/cart");
    let mut outcomes = Vec::new();
    for _ in 0..requests {
        outcomes.push(client.call_next().await);
    }
    Report::new(outcomes, &stage.ledger).await
}

async fn until_all_serve(stage: &Stage) {
    stage.proxy.until_served("/cart/x").await;
    stage
        .proxy
        .until_service(SERVICE, "all four serve", |service| {
            let serving = endpoints(service).filter(|one| one["state"] == "serving");
            serving.count() == 4
        })
        .await;
}

async fn assert_none_is_avoided(stage: &Stage) {
    assert_eq!((stage.ejections().await, stage.silences().await), (0, 0));
    assert!(all_serve(&stage.proxy.service(SERVICE).await));
}

/// None is ejected, and none is doubted for good. What stands still on a busy machine may be doubted for
/// a moment: it did answer nothing while its peers did.
async fn assert_none_stays_avoided(stage: &Stage) {
    assert_eq!(stage.ejections().await, 0);
    let shown = async || {
        stage.proxy.get("/cart/x").await;
        stage.proxy.service(SERVICE).await
    };
    eventually("all serve", shown, all_serve).await;
}

fn all_serve(service: &Value) -> bool {
    endpoints(service).all(|endpoint| endpoint["state"] == "serving")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_one_of_four_that_answers_500_next_to_nothing_is_seen() {
    let stage = Stage::embedded().await;
    let _well = stage.open_some(&["a", "b", "c"]).await;
    let is_ill = Arc::new(AtomicUsize::new(0));
    let ill = Arc::clone(&is_ill);
    let bad = failing(&stage, "bad", move |_| ill.load(Relaxed) == 1).await;
    stage.until_state(bad.address(), "serving").await;
    let load = stage.load().await;
    let_pass(1_000).await;
    is_ill.store(1, Relaxed);
    stage.until_state(bad.address(), "ejected").await;
    let ejected = Instant::now();
    let shown = stage.endpoint(bad.address()).await;
    let reason = shown["ejection"]["reason"].as_str().unwrap();
    assert!(reason.starts_with("it failed or answered 5xx"), "{shown}");
    let_pass(4_000).await;
    let report = stage.ended(load).await;
    let ejections = stage.ejections().await;
    report.assert_nothing_twice("one of four answers 500");
    let is_500 = |failure: &str| failure.starts_with("500");
    let failures = report
        .failed
        .iter()
        .filter_map(|one| one.failure.as_deref());
    assert!(failures.clone().all(is_500), "{report}");
    assert!(failures.count() > 0, "{report}");
    assert_only_trials_failed(&report, ejected, ejections, "one of four answers 500");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_is_tried_and_still_answers_500_goes_at_once_and_one_that_fails_again_soon() {
    let stage = Stage::embedded_with("[defaults]\neject = { time = \"2s\" }\n").await;
    let _well = stage.open_some(&["a", "b", "c"]).await;
    let failing_from = Arc::new(AtomicU64::new(0));
    let from = Arc::clone(&failing_from);
    let bad = failing(&stage, "bad", move |n| n >= from.load(Relaxed)).await;
    // One request after the other: none is on its way when one is found out.
    let client = Client::new(stage.proxy.address(), "/cart");
    let asking = tokio::spawn(async move {
        loop {
            client.call(Method::GET).await;
        }
    });
    stage.until_left_alone(bad.address()).await;
    let first = bad.requests();
    // Its trial is one request.
    let tried = async || stage.ejections().await;
    eventually("it is ejected again", tried, |count| *count == 2).await;
    assert_eq!(bad.requests(), first + 1);
    let reason = stage.endpoint(bad.address()).await["ejection"]["reason"].clone();
    assert_eq!(reason, "it still fails or answers 5xx");
    // The trial is answered well, and what follows is not.
    let before = bad.requests();
    failing_from.store(before as u64 + 1, Relaxed);
    eventually("it is ejected once more", tried, |count| *count == 3).await;
    let seen = bad.requests() - before;
    assert!(seen <= 8, "{seen} requests");
    failing_from.store(u64::MAX, Relaxed);
    stage.until_state(bad.address(), "serving").await;
    asking.abort();
}

/// A backend that serves one request for each connection, and resets three of ten over theirs, no two
/// in a row.
async fn resetting(stage: &Stage, id: &str) -> (Backend, RawBackend) {
    let ledger = stage.ledger.clone();
    let answer = move |request: http::Request<hyper::body::Incoming>| {
        let ledger = ledger.clone();
        async move {
            let body = process(request, |id| ledger.note(id)).await;
            ([(http::header::CONNECTION, "close")], body).into_response()
        }
    };
    let backend = Backend::named(id).answering(answer).start().await;
    let (behind, count) = (backend.address(), Arc::new(AtomicU64::new(0)));
    let front = RawBackend::serving(move |mut wire| {
        let resets = matches!(count.fetch_add(1, Relaxed) % 10, 2 | 5 | 8);
        async move {
            if resets {
                let _ = wire.try_message().await;
                let _ = SockRef::from(&wire.stream).set_linger(Some(Duration::ZERO));
            } else if let Ok(mut well) = TcpStream::connect(behind).await {
                let _ = copy_bidirectional(&mut wire.stream, &mut well).await;
            }
        }
    })
    .await;
    stage.sign_in(front.address()).await;
    (backend, front)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_four_that_resets_a_third_of_its_connections_is_avoided() {
    let stage = Stage::embedded_with(COMPARED).await;
    let _well = stage.open_some(&["a", "b", "c"]).await;
    let (_behind, bad) = resetting(&stage, "bad").await;
    let load = stage.load().await;
    stage.until_state(bad.address(), "ejected").await;
    let ejected = Instant::now();
    let shown = stage.endpoint(bad.address()).await;
    let reason = shown["ejection"]["reason"].as_str().unwrap();
    assert!(reason.starts_with("it failed or answered 5xx"), "{shown}");
    let_pass(2_000).await;
    let report = stage.ended(load).await;
    let ejections = stage.ejections().await;
    let scenario = "one of four resets three of ten connections";
    report.assert_nothing_twice(scenario);
    assert_only_trials_failed(&report, ejected, ejections, scenario);
    println!(
        "{} of its connections until it was ejected",
        bad.connections()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_all_four_reset_a_third_of_their_connections_none_is_ejected() {
    let stage = Stage::embedded_with(COMPARED).await;
    let mut backends = Vec::new();
    for id in super::FOUR {
        backends.push(resetting(&stage, id).await);
    }
    let report = one_by_one(&stage, 1_200).await;
    report.assert_nothing_twice("all reset three of ten connections");
    assert_none_is_avoided(&stage).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_all_four_answer_500_to_a_tenth_none_is_ejected() {
    let stage = Stage::embedded_with(COMPARED).await;
    let mut backends = Vec::new();
    for id in super::FOUR {
        backends.push(failing(&stage, id, |_| fastrand::u32(..10) == 0).await);
    }
    let report = one_by_one(&stage, 2_000).await;
    report.assert_nothing_twice("all answer 500 to a tenth");
    assert!(report.failed.len() > 100, "{report}");
    assert_none_is_avoided(&stage).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_one_url_is_bad_none_is_ejected_be_it_in_step_with_the_turns() {
    for every in [4, 10, 20] {
        let stage = Stage::embedded_with(COMPARED).await;
        let ledger = Ledger::default();
        let mut backends = Vec::new();
        for id in super::FOUR {
            let ledger = ledger.clone();
            let answer = move |request: http::Request<hyper::body::Incoming>| {
                let number = request.uri().path().rsplit('/').next();
                let number = number.and_then(|number| number.parse::<u64>().ok());
                let is_bad = number.is_some_and(|number| number % every == 0);
                let ledger = ledger.clone();
                async move {
                    let body = process(request, |id| ledger.note(id)).await;
                    match is_bad {
                        true => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
                        false => body.into_response(),
                    }
                }
            };
            let backend = Backend::named(id).answering(answer).start().await;
            stage.sign_in(backend.address()).await;
            backends.push(backend);
        }
        let report = one_by_one(&stage, 1_200).await;
        assert!(report.failed.len() > 40, "{report}");
        assert_none_is_avoided(&stage).await;
    }
}

async fn four_processes(stage: &Stage) -> Vec<BackendProcess> {
    let mut processes = Vec::new();
    for _ in 0..4 {
        processes.push(stage.open_process().await);
    }
    stage.proxy.until_served("/cart/x").await;
    processes
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_one_of_four_that_stands_still_next_to_nothing_fails_and_no_post_is_sent_twice() {
    let stage = Stage::embedded().await;
    let processes = four_processes(&stage).await;
    let load = stage.load().await;
    let_pass(1_000).await;
    let still = processes[0].address();
    processes[0].pause();
    stage.until_state(still, "doubted").await;
    let doubted = Instant::now();
    let shown = stage.endpoint(still).await;
    assert_eq!(
        shown["doubt"]["reason"],
        "it answers nothing, and its peers do"
    );
    // Long enough that what waits there has failed its clients.
    let_pass(16_000).await;
    processes[0].resume();
    stage.until_state(still, "serving").await;
    let before = stage.attempts(still).await;
    stage
        .proxy
        .until_service(SERVICE, "it has its share again", |service| {
            let mut all = endpoints(service);
            let own = all.find(|one| one["address"] == still.to_string()).unwrap();
            own["attempts"].as_u64() > Some(before + 50)
        })
        .await;
    let report = stage.ended_with(load, processes).await;
    report.assert_nothing_twice("one of four stands still");
    assert!(!report.failed.is_empty(), "{report}");
    let later = report.failed.iter().filter(|one| one.sent > doubted);
    assert!(later.count() <= TRIALS, "{report}");
    assert_eq!(stage.ejections().await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_the_balancer_one_that_stands_still_gets_next_to_nothing() {
    for balance in [
        "\"weighted\"",
        "\"random\"",
        "\"least_request\"",
        "\"p2c\"",
        "\"peak_ewma\"",
        "{ kind = \"hash\", by = \"path\" }",
        "\"sticky\"",
    ] {
        let stage = Stage::embedded_with(&format!("[defaults]\nbalance = {balance}\n")).await;
        let processes = four_processes(&stage).await;
        let load = stage.load().await;
        let_pass(500).await;
        let still = processes[0].address();
        let mut since = stage.attempts_of(still).await;
        processes[0].pause();
        // Its share would be a quarter. How soon it is found out is up to what took how long before.
        let part = async || {
            let (own, all) = stage.attempts_of(still).await;
            let part = (own - since.0, all - since.1);
            (part.1 > 400).then(|| {
                since = (own, all);
                part
            })
        };
        let next_to_nothing =
            |part: &Option<(u64, u64)>| part.is_some_and(|(own, all)| own < all / 16);
        let part = eventually(balance, part, next_to_nothing).await;
        processes[0].resume();
        stage.until_state(still, "serving").await;
        let report = stage.ended_with(load, processes).await;
        report.assert_flawless(balance);
        println!("{balance}: {part:?}");
    }
}

/// Four backends that take so long by their place and the request's path.
async fn taking(
    stage: &Stage,
    time: impl Fn(usize, &str) -> u64 + Clone + Send + Sync + 'static,
) -> Vec<Backend> {
    let mut backends = Vec::new();
    for (place, id) in super::FOUR.into_iter().enumerate() {
        let (ledger, time) = (stage.ledger.clone(), time.clone());
        let answer = move |request: http::Request<hyper::body::Incoming>| {
            let ledger = ledger.clone();
            let millis = time(place, request.uri().path());
            async move {
                tokio::time::sleep(Duration::from_millis(millis)).await;
                process(request, |id| ledger.note(id)).await
            }
        };
        let backend = Backend::named(id).answering(answer).start().await;
        stage.sign_in(backend.address()).await;
        backends.push(backend);
    }
    backends
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_is_twice_as_slow_as_the_others_has_its_share() {
    let stage = Stage::embedded().await;
    let backends = taking(&stage, |place, _| if place == 0 { 42 } else { 20 }).await;
    let report = under_load(&stage, 4_000).await;
    report.assert_flawless("one is twice as slow");
    assert_none_stays_avoided(&stage).await;
    let requests: Vec<_> = backends.iter().map(Backend::requests).collect();
    let share = requests[0] as f64 / requests.iter().sum::<usize>() as f64;
    // A quarter, and less for each second in which it is doubted.
    assert!(share > 0.15, "{requests:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_one_route_is_slow_or_has_long_polls_none_is_avoided() {
    let stage = Stage::embedded().await;
    let time = |_, path: &str| match path {
        _ if path.ends_with('5') => 800,
        _ if path.contains("poll") => 2_500,
        _ => 0,
    };
    let backends = taking(&stage, time).await;
    stage.proxy.until_served("/cart/x").await;
    let (http, url) = (stage.proxy.http.clone(), stage.proxy.url("/cart/poll"));
    let polls: Vec<_> = (0..40)
        .map(|_| {
            let (http, url) = (http.clone(), url.clone());
            tokio::spawn(async move {
                for _ in 0..2 {
                    assert_eq!(http.get(&url).send().await.unwrap().status(), 200);
                }
            })
        })
        .collect();
    let report = under_load(&stage, 4_000).await;
    for poll in polls {
        poll.await.unwrap();
    }
    report.assert_flawless("one route is slow");
    assert_none_stays_avoided(&stage).await;
    assert!(backends.iter().all(|one| one.requests() > 100));
}

/// The figures of the table of failures: ten seconds of illness under 6,400 requests, one after the other. `tests/run`
/// runs it alone, behind the other tests.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes a minute and a half"]
async fn figures_of_ten_seconds_of_illness() {
    let stage = Stage::embedded().await;
    let _well = stage.open_some(&["a", "b", "c"]).await;
    let is_ill = Arc::new(AtomicUsize::new(0));
    let ill = Arc::clone(&is_ill);
    let bad = failing(&stage, "bad", move |_| ill.load(Relaxed) == 1).await;
    stage.until_state(bad.address(), "serving").await;
    let load = stage.load().await;
    let_pass(3_000).await;
    is_ill.store(1, Relaxed);
    let_pass(10_000).await;
    is_ill.store(0, Relaxed);
    let_pass(3_000).await;
    let report = stage.ended(load).await;
    report.assert_nothing_twice("one of four answers 500 for 10 s");
    assert!(!report.failed.is_empty(), "{report}");
    assert!(report.failed.len() <= SEEN, "{report}");

    let stage = Stage::embedded().await;
    let processes = four_processes(&stage).await;
    let load = stage.load().await;
    let_pass(3_000).await;
    processes[0].pause();
    let_pass(10_000).await;
    processes[0].resume();
    let_pass(3_000).await;
    let report = stage.ended_with(load, processes).await;
    report.assert_nothing_twice("one of four stands still for 10 s");
    assert!(report.failed.len() <= LOST, "{report}");

    let stage = Stage::embedded().await;
    let mut backends = Vec::new();
    for id in super::FOUR {
        backends.push(failing(&stage, id, |_| fastrand::u32(..10) == 0).await);
    }
    let report = under_load(&stage, 16_000).await;
    report.assert_nothing_twice("all answer 500 to a tenth");
    assert_none_stays_avoided(&stage).await;

    let stage = Stage::embedded().await;
    let slow = |_, path: &str| if path.ends_with('5') { 1_000 } else { 0 };
    let _backends = taking(&stage, slow).await;
    let report = under_load(&stage, 16_000).await;
    report.assert_flawless("one route takes a second");
    assert_none_stays_avoided(&stage).await;

    let stage = Stage::embedded().await;
    let backends = taking(&stage, |place, _| if place == 0 { 42 } else { 20 }).await;
    let report = under_load(&stage, 16_000).await;
    report.assert_flawless("one is twice as slow");
    assert_none_stays_avoided(&stage).await;
    let requests: Vec<_> = backends.iter().map(Backend::requests).collect();
    println!("one is twice as slow: {requests:?}");
}
