//! Instances that come and go under load.

use super::{Stage, let_pass};

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

async fn rolling_replacement(stage: Stage, scenario: &str) {
    let mut backends = stage.open_some(&["0-a", "0-b", "0-c"]).await;
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
    stage.ended(load).await.assert_flawless(scenario, 1_500);
}
