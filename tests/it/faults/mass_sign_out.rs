//! Three of four are signed out at once, by mistake or rightly: the guard finds out which, and
//! nobody notices.

use std::time::Duration;

use futures_util::future::join_all;
use serde_json::json;
use tokio::time::Instant;

use super::{FOUR, Registry, SERVICE, Stage, let_pass};
use crate::support::{backend::Backend, eventually, proxy::instance};

/// Held for no longer than a test can wait.
const GUARD: &str = "[defaults]\nguard = { hold = \"5s\" }\n";
const HOLD: Duration = Duration::from_secs(5);

/// The node of Consul's that has the three: it goes with all of them, in one change.
const NODE: &str = "shelf";

/// Four that serve, three of which come and go together.
struct Four {
    stage: Stage,
    three: Vec<Backend>,
    last: Backend,
}

impl Four {
    async fn on(stage: Stage) -> Self {
        let mut three = Vec::new();
        for id in &FOUR[..3] {
            three.push(stage.ledger.backend(id).start().await);
        }
        let last = stage.open(FOUR[3]).await;
        let four = Self { stage, three, last };
        four.sign_in_the_three().await;
        four.stage.proxy.until_served("/cart/x").await;
        four.until_the_three_are("serving").await;
        four
    }

    fn has_a_node(&self) -> bool {
        matches!(self.stage.registry, Registry::Consul(_))
    }

    async fn sign_in_the_three(&self) {
        for backend in &self.three {
            let address = backend.address();
            if !self.has_a_node() {
                self.stage.sign_in(address).await;
                continue;
            }
            let entry = json!({
                "Node": NODE,
                "Address": address.ip(),
                "Service": {
                    "ID": instance(SERVICE, address),
                    "Service": SERVICE,
                    "Address": address.ip(),
                    "Port": address.port(),
                },
            });
            self.stage.tell("/v1/catalog/register", entry).await;
        }
    }

    /// The embedded registry has no change of several: the proxy sees one, two or three.
    async fn sign_out_the_three(&self) {
        if self.has_a_node() {
            let node = json!({"Node": NODE});
            return self.stage.tell("/v1/catalog/deregister", node).await;
        }
        let three = self.three.iter().map(Backend::address);
        join_all(three.map(|address| self.stage.sign_out(address))).await;
    }

    async fn until_the_three_are(&self, state: &str) {
        let three = self.three.iter().map(|backend| (backend.address(), state));
        let states: Vec<_> = three.chain([(self.last.address(), "serving")]).collect();
        self.stage.proxy.until_states(SERVICE, &states).await;
    }

    async fn until_the_last_is_alone(&self) {
        let states = [(self.last.address(), "serving")];
        self.stage.proxy.until_states(SERVICE, &states).await;
    }

    /// What each of the three was asked.
    fn asked(&self) -> Vec<usize> {
        self.three.iter().map(Backend::requests).collect()
    }

    async fn until_the_three_are_asked(&self) {
        let before = self.asked();
        let more = |now: &Vec<usize>| now.iter().zip(&before).all(|(now, then)| *now > then + 10);
        eventually("the three are asked", async || self.asked(), more).await;
    }
}

async fn by_mistake(stage: Stage, scenario: &str) {
    let four = Four::on(stage).await;
    let load = four.stage.load().await;
    let_pass(300).await;
    let since = Instant::now();
    four.sign_out_the_three().await;
    if four.has_a_node() {
        four.until_the_three_are("held").await;
        four.until_the_three_are_asked().await;
    }
    four.until_the_last_is_alone().await;
    let took = since.elapsed();
    println!("{scenario}: believed after {took:.1?}");
    assert!(took >= HOLD || !four.has_a_node(), "{took:?}");
    let asked = four.asked();
    let_pass(700).await;
    assert_eq!(four.asked(), asked, "they run, and are asked no more");
    four.sign_in_the_three().await;
    four.until_the_three_are("serving").await;
    four.until_the_three_are_asked().await;
    let report = four.stage.ended(load).await;
    report.assert_flawless_but_for_closes(scenario);
}

/// For as long as the guard holds them, and after.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_of_four_that_are_signed_out_by_mistake_cost_nobody_anything() {
    let stage = Stage::embedded_with(GUARD).await;
    by_mistake(stage, "three of four signed out by mistake").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_of_four_that_are_signed_out_by_mistake_cost_nobody_anything_with_consul() {
    if let Some(stage) = Stage::consul_with(GUARD).await {
        by_mistake(stage, "three of four signed out by mistake, Consul").await;
    }
}

/// With the guard's own time, of which they use none.
async fn rightly(stage: Stage, scenario: &str) {
    let mut four = Four::on(stage).await;
    let load = four.stage.load().await;
    let_pass(300).await;
    for _ in 0..3 {
        four.sign_out_the_three().await;
        let left: Vec<_> = four.three.drain(..).collect();
        join_all(left.into_iter().map(Backend::close)).await;
        let since = Instant::now();
        four.until_the_last_is_alone().await;
        println!("{scenario}: alone {:.1?} after", since.elapsed());
        for id in &FOUR[..3] {
            four.three.push(four.stage.ledger.backend(id).start().await);
        }
        four.sign_in_the_three().await;
        four.until_the_three_are("serving").await;
        four.until_the_three_are_asked().await;
    }
    let report = four.stage.ended(load).await;
    report.assert_flawless_but_for_closes(scenario);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_of_four_that_sign_out_and_close_at_once_cost_nobody_anything() {
    rightly(Stage::embedded().await, "three of four close at once").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_of_four_that_sign_out_and_close_at_once_cost_nobody_anything_with_consul() {
    if let Some(stage) = Stage::consul().await {
        rightly(stage, "three of four close at once, Consul").await;
    }
}
