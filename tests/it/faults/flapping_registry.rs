//! A registry that is there for a tenth of a second and away for the next: changes are followed all
//! the same, nobody notices, and it is not asked for more often than it can bear.

use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

use super::{FOUR, Registry, SERVICE, Stage, let_pass, until_asked};
use crate::support::{backend::Backend, consul::Consul, relay::Relay};

/// Milliseconds in each state.
const FLAP: u64 = 100;

/// What both watchers may try in a second, connections and failures together. With their backoff
/// these are 5 to 17; with no pause but the limit of their rate there were 38 and 63.
const ATTEMPTS: f64 = 30.0;

/// Attempts of the watchers of the catalog and of the service that have failed.
async fn failures(stage: &Stage) -> u64 {
    let status = stage.proxy.status().await;
    let service = stage.proxy.service(SERVICE).await;
    let catalog = &status["registries"][0]["catalog"]["watch"]["failures"];
    let service = &service["watches"][0]["failures"];
    [catalog, service]
        .into_iter()
        .filter_map(Value::as_u64)
        .sum()
}

/// One after the other is replaced for some seconds. Each new one is waited for, and each old one
/// closes at once.
async fn replace(stage: &Stage, backends: &mut [Backend]) {
    let since = Instant::now();
    let mut took = Vec::new();
    for place in (0..backends.len()).cycle() {
        if since.elapsed() > Duration::from_secs(4) {
            break;
        }
        let new = stage.open(&format!("new {place}")).await;
        let registered = Instant::now();
        until_asked(&new).await;
        took.push(registered.elapsed());
        let old = std::mem::replace(&mut backends[place], new);
        stage.sign_out(old.address()).await;
        old.close().await;
    }
    let longest = took.iter().max().unwrap();
    println!("{} replaced, each within {longest:.0?}", took.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn consul_flaps_every_tenth_of_a_second() {
    let Some(consul) = Consul::start().await else {
        return;
    };
    let relay = Relay::start(([127, 0, 0, 1], consul.port()).into()).await;
    let url = format!("http://{}", relay.address());
    let stage = Stage::reading(&url, "", Registry::Consul(consul)).await;
    let mut backends = stage.open_some(&FOUR).await;
    stage.until_all(&backends, "serving").await;
    let load = stage.load().await;
    let_pass(300).await;
    let before = relay.connections();

    let mut flaps = 0;
    let since = Instant::now();
    let flapping = async {
        loop {
            relay.part();
            let_pass(FLAP).await;
            relay.join();
            let_pass(FLAP).await;
            flaps += 1;
        }
    };
    tokio::select! {
        () = flapping => {}
        () = replace(&stage, &mut backends) => {}
    }
    let seconds = since.elapsed().as_secs_f64();
    relay.join();
    let connections = relay.connections() - before;
    let failures = failures(&stage).await;
    println!("{flaps} flaps in {seconds:.1} s: {connections} connections, {failures} failures");
    let attempts = (connections as f64 + failures as f64) / seconds;
    assert!(attempts < ATTEMPTS, "{attempts:.0} a second");
    stage.until_all(&backends, "serving").await;
    let report = stage.ended(load).await;
    report.assert_flawless_but_for_closes("Consul flaps every 100 ms");
    assert!(flaps >= 5, "{flaps}");
}
