//! A registry that is away, wrong or empty: the backends are still there, and so nobody notices.

use std::net::SocketAddr;

use serde_json::{Value, json};

use super::{FOUR, RATE, SERVICE, Stage, let_pass, told::Told, until_asked};
use crate::support::{
    backend::Backend,
    eventually,
    fake_consul::Answer,
    load::{Ledger, Load},
    proxy::{Proxy, instance},
};

/// One that signs in serves soon, and one that signs out and closes fails nobody.
async fn the_set_follows_again(stage: &Stage, leaves: Backend) -> Backend {
    let new = stage.open("new").await;
    until_asked(&new).await;
    stage.sign_out(leaves.address()).await;
    leaves.close().await;
    let_pass(200).await;
    new
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn consul_is_killed_and_comes_back_empty() {
    let Some(mut stage) = Stage::consul().await else {
        return;
    };
    let mut backends = stage.open_some(&FOUR).await;
    let load = stage.load().await;
    let_pass(500).await;
    stage.restart_empty().await;
    let_pass(3_000).await;
    for backend in &backends {
        stage.sign_in(backend.address()).await;
    }
    let_pass(500).await;
    let _new = the_set_follows_again(&stage, backends.remove(0)).await;
    let report = stage.ended(load).await;
    report.assert_flawless_but_for_closes("Consul killed, back empty, registered again");
}

/// How the registry finds out that an instance is well. Each begins critical, in Consul as in the
/// embedded registry.
#[derive(Clone, Copy, Debug)]
enum Check {
    Http,
    /// The provider says so itself, a moment after it has signed in.
    Ttl,
}

impl Check {
    async fn sign_in(self, stage: &Stage, address: SocketAddr) {
        let check = match self {
            Self::Http => json!({"HTTP": format!("http://{address}/well"), "Interval": "2s"}),
            Self::Ttl => json!({"TTL": "60s"}),
        };
        let check = json!({"Check": check});
        stage.sign_in_with(address, check).await;
    }

    async fn pass(self, stage: &Stage, backends: &[Backend]) {
        if matches!(self, Self::Ttl) {
            for backend in backends {
                let id = instance(SERVICE, backend.address());
                let path = format!("/v1/agent/check/pass/service:{id}");
                stage.tell(&path, Value::Null).await;
            }
        }
    }
}

/// The registry loses its data, and everyone signs in again with a check that has not run yet.
async fn comes_back_empty_with_checks(mut stage: Stage, check: Check) {
    let mut backends = Vec::new();
    for id in FOUR {
        let backend = stage.ledger.backend(id).start().await;
        check.sign_in(&stage, backend.address()).await;
        backends.push(backend);
    }
    check.pass(&stage, &backends).await;
    stage.proxy.until_served("/cart/x").await;
    stage.until_all(&backends, "serving").await;
    let load = stage.load().await;
    let_pass(300).await;
    stage.restart_empty().await;
    stage.until_all(&backends, "held").await;
    let_pass(500).await;
    for backend in &backends {
        check.sign_in(&stage, backend.address()).await;
    }
    let_pass(700).await;
    check.pass(&stage, &backends).await;
    stage.until_all(&backends, "serving").await;
    let _new = the_set_follows_again(&stage, backends.remove(0)).await;
    let report = stage.ended(load).await;
    report.assert_flawless_but_for_closes(&format!(
        "lost, and signed in again with {check:?} checks"
    ));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn consul_comes_back_empty_and_all_sign_in_with_checks() {
    for check in [Check::Http, Check::Ttl] {
        if let Some(stage) = Stage::consul().await {
            comes_back_empty_with_checks(stage, check).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_embedded_registry_comes_back_empty_and_all_sign_in_with_checks() {
    for check in [Check::Http, Check::Ttl] {
        comes_back_empty_with_checks(Stage::others().await, check).await;
    }
}

/// A proxy whose Consul says what the test tells it to.
struct Misled {
    told: Told,
    proxy: Proxy,
    ledger: Ledger,
}

impl Misled {
    async fn start() -> Self {
        let ledger = Ledger::default();
        let told = Told::start(SERVICE, &ledger).await;
        let route = "[[route]]\npath = \"/cart\"\nservice = \"cart\"\nstrip_prefix = true\n";
        let proxy = Proxy::start(&format!("{route}{}", told.table())).await;
        proxy.until_served("/cart/x").await;
        Self {
            told,
            proxy,
            ledger,
        }
    }

    /// Consul is well again: the set is the same, and then one is replaced.
    async fn recover(&mut self) {
        self.told.lists_those_that_run();
        let old = self.told.replace_one().await;
        until_asked(self.told.newest()).await;
        old.close().await;
    }

    /// Consul says this for a while, and is then well again.
    async fn through(&mut self, what: &str, answer: Answer) {
        let silent = matches!(answer, Answer::Hang);
        let before = self.told.consul.answered();
        self.told.consul.always(answer);
        if !silent {
            let answered = async || self.told.consul.answered();
            eventually(what, answered, |answered| *answered > before).await;
        }
        let_pass(700).await;
        let answered = self.told.consul.answered() - before;
        self.recover().await;
        println!("{what}: said {answered} times, and followed again");
    }

    async fn load(&self) -> Load {
        Load::start(self.proxy.address(), "/cart", RATE).await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn consul_answers_with_errors_and_nonsense() {
    let mut misled = Misled::start().await;
    let load = misled.load().await;
    for (what, answer) in [
        ("500", Answer::error(500, "rpc error: No cluster leader")),
        (
            "429",
            Answer::error(429, "Your IP is issuing too many requests"),
        ),
        ("429 with Retry-After", Answer::retry_after(429, 1)),
        ("garbage", Answer::good(8, "<html>it works</html>")),
        ("no index", Answer::error(200, "[]")),
        ("nothing", Answer::Hang),
    ] {
        misled.through(what, answer).await;
    }
    let older = Answer::good(7, misled.told.set());
    misled.through("an older index", older).await;
    let report = load.stop(&misled.ledger).await;
    report.assert_flawless_but_for_closes("Consul wrong in seven ways");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn consul_lists_nobody_for_five_seconds() {
    let mut misled = Misled::start().await;
    let load = misled.load().await;
    let_pass(300).await;
    misled.told.lists(json!([]));
    let_pass(5_000).await;
    misled.recover().await;
    let_pass(300).await;
    let report = load.stop(&misled.ledger).await;
    report.assert_flawless_but_for_closes("an empty list for 5 s");
}
