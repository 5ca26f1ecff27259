//! A DNS server that is away, or does not say who is there: the backends are still there, and so
//! nobody notices.

use std::time::Instant;

use super::{FOUR, let_pass};
use crate::support::{
    backend::Backend,
    dns::Knot,
    eventually,
    load::{Ledger, Load},
    proxy::Proxy,
};

/// Requests a second: enough to notice, and no more than a busy machine bears.
const RATE: u32 = 200;

/// A proxy that reads `cart` from a Knot, and the backends that stand there.
struct Named {
    knot: Knot,
    proxy: Proxy,
    ledger: Ledger,
    backends: Vec<Backend>,
}

impl Named {
    async fn start() -> Option<Self> {
        let ledger = Ledger::default();
        let mut backends = Vec::new();
        for id in FOUR {
            backends.push(ledger.backend(id).start().await);
        }
        let knot = Knot::start(&records(&backends)).await?;
        let config = format!(
            "[[route]]\npath = \"/cart\"\nservice = \"cart\"\nstrip_prefix = true\n\
             [registry.dns]\naddress = \"{}\"\nquery = \"_http._tcp.{{service}}.example.test\"\n",
            knot.address()
        );
        let proxy = Proxy::start(&config).await;
        proxy.until_served("/cart/x").await;
        Some(Self {
            knot,
            proxy,
            ledger,
            backends,
        })
    }

    async fn load(&self) -> Load {
        Load::start(self.proxy.address(), "/cart", RATE).await
    }

    /// The zone changes: one backend goes, and another comes.
    async fn replace_one(&mut self, id: &str) -> Backend {
        let old = self.backends.remove(0);
        self.backends.push(self.ledger.backend(id).start().await);
        self.knot.holds(&records(&self.backends));
        old
    }

    /// The new one serves soon; then the old one may close, though the guard may hold on to it.
    async fn until_right(&self, since: Instant, old: Backend, scenario: &str) {
        let new = self.backends.last().unwrap();
        eventually("the new one serves", async || new.requests(), |n| *n > 0).await;
        let took = since.elapsed();
        println!("{scenario}: right again after {took:.0?}");
        let unlisted = |service: &serde_json::Value| {
            let state = |address: &str| {
                let endpoints = service["endpoints"].as_array().into_iter().flatten();
                let mut same = endpoints.filter(|endpoint| endpoint["address"] == address);
                same.next().map(|endpoint| endpoint["state"].clone())
            };
            state(&old.address().to_string()).is_none_or(|state| state != "serving")
        };
        self.proxy
            .until_service("cart", "the old one is not listed", unlisted)
            .await;
        old.close().await;
    }
}

fn records(backends: &[Backend]) -> String {
    let record = |backend: &Backend| {
        format!(
            "_http._tcp.cart SRV 1 1 {} host\n",
            backend.address().port()
        )
    };
    let records: String = backends.iter().map(record).collect();
    format!("{records}host A 127.0.0.1\n")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_dns_server_is_killed_paused_and_restarted() {
    let Some(mut named) = Named::start().await else {
        return;
    };
    let load = named.load().await;
    let_pass(300).await;

    named.knot.kill();
    let_pass(2_500).await;
    let old = named.replace_one("after the kill").await;
    named.knot.restart().await;
    named.until_right(Instant::now(), old, "killed").await;

    named.knot.pause();
    let_pass(4_500).await;
    let old = named.replace_one("after the pause").await;
    named.knot.resume();
    named.until_right(Instant::now(), old, "paused").await;

    let old = named.replace_one("after the restart").await;
    named.knot.restart().await;
    named.until_right(Instant::now(), old, "restarted").await;

    let report = load.stop(&named.ledger).await;
    report.assert_flawless_but_for_closes("a DNS server killed, paused and restarted");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_dns_server_comes_back_without_its_records() {
    let Some(mut named) = Named::start().await else {
        return;
    };
    let load = named.load().await;
    named.knot.kill();
    named.knot.holds("");
    named.knot.restart().await;
    let_pass(4_000).await;
    let old = named.replace_one("new").await;
    named.until_right(Instant::now(), old, "empty").await;
    let report = load.stop(&named.ledger).await;
    report.assert_flawless("a zone without records for 4 s");
}
