//! Instances that come and go under load.

use tokio::time::Instant;

use super::{FOUR, Stage, let_pass};
use crate::support::{eventually, load::Outcome};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_instance_is_replaced_and_closed_at_once() {
    rolling_replacement(Stage::embedded().await, "rolling replacement").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_instance_is_replaced_and_closed_at_once_with_consul() {
    if let Some(stage) = Stage::consul().await {
        rolling_replacement(stage, "rolling replacement, Consul").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_instance_that_speaks_http2_is_replaced_and_closed_at_once() {
    let stage = Stage::embedded().await.in_http2();
    rolling_replacement(stage, "rolling replacement, HTTP/2").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_instance_that_speaks_http2_is_replaced_and_closed_at_once_with_consul() {
    if let Some(stage) = Stage::consul().await {
        rolling_replacement(stage.in_http2(), "rolling replacement, HTTP/2, Consul").await;
    }
}

async fn rolling_replacement(stage: Stage, scenario: &str) {
    let mut backends = stage.open_some(&FOUR).await;
    let load = stage.load().await;
    for round in 1..=5 {
        for old in &mut backends {
            let_pass(250).await;
            let new = stage.open(&format!("{round}-{}", old.id())).await;
            let old = std::mem::replace(old, new);
            stage.sign_out(old.address()).await;
            old.close().await;
        }
    }
    let_pass(250).await;
    stage
        .ended(load)
        .await
        .assert_flawless_but_for_closes(scenario);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_become_thirty_and_three_again() {
    scale(Stage::embedded().await, "3 → 30 → 3, twice").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_become_thirty_and_three_again_with_consul() {
    if let Some(stage) = Stage::consul().await {
        scale(stage, "3 → 30 → 3, twice, Consul").await;
    }
}

async fn scale(stage: Stage, scenario: &str) {
    let first = stage.open_some(&["a", "b", "c"]).await;
    let load = stage.load().await;
    for _ in 0..2 {
        let mut more = Vec::new();
        for number in 3..30 {
            more.push(stage.open(&number.to_string()).await);
        }
        let_pass(700).await;
        let all_serve = async || more.iter().all(|backend| backend.requests() > 0);
        eventually("all serve", all_serve, |all| *all).await;
        for backend in more {
            stage.sign_out(backend.address()).await;
            backend.close().await;
        }
        let_pass(700).await;
    }
    stage
        .ended(load)
        .await
        .assert_flawless_but_for_closes(scenario);
    assert!(first.iter().all(|backend| backend.requests() > 50));
}

/// What was in flight on the dead may fail, if it was a POST; nothing else may.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_that_is_killed_takes_nothing_with_it_but_posts_in_flight() {
    let stage = Stage::embedded().await;
    let mut processes = Vec::new();
    for _ in 0..4 {
        processes.push(stage.open_process().await);
    }
    stage.proxy.until_served("/cart/x").await;
    let load = stage.load().await;
    let mut kills = Vec::new();
    for process in &mut processes {
        let_pass(600).await;
        let new = stage.open_process().await;
        let mut old = std::mem::replace(process, new);
        let began = Instant::now();
        old.kill();
        kills.push(began..Instant::now());
        // Somebody finds out and takes it off the list, later.
        let_pass(400).await;
        stage.sign_out(old.address()).await;
    }
    let_pass(300).await;
    let mut report = stage.ended_with(load, processes).await;
    report.assert_nothing_twice("kill -9");
    let may_fail = |outcome: &Outcome| {
        let in_flight = kills
            .iter()
            .any(|kill| outcome.sent <= kill.end && outcome.ended >= kill.start);
        outcome.method == http::Method::POST && in_flight
    };
    report.failed.retain(|outcome| !may_fail(outcome));
    report.assert_flawless("kill -9, but for POSTs in flight on the dead");
}
