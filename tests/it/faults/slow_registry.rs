//! A registry whose answers take half a minute: what it said last serves on meanwhile, and a change
//! is followed once it is told of.

use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

use super::{RATE, let_pass, told::Told, until_asked};
use crate::support::{
    backend::Backend,
    fake_consul::{Answer, Pace},
    load::{Ledger, Load},
    proxy::Proxy,
};

/// Longer than a plain read may take, and shorter than one that waits for a change.
const HALF_A_MINUTE: Duration = Duration::from_secs(30);

/// Each service has a Consul of its own, and a third of what `/cart` is asked.
async fn proxy_of(services: [&Told; 3]) -> Proxy {
    let tables = services.map(|told| {
        let name = told.name;
        format!("[service.{name}]\nregistry = \"{name}\"\n{}", told.table())
    });
    let split = services.map(|told| format!("{{ service = \"{}\", weight = 1 }}", told.name));
    let proxy = Proxy::start(&format!(
        "[[route]]\npath = \"/cart\"\nsplit = [{}]\nstrip_prefix = true\n{}",
        split.join(", "),
        tables.concat()
    ))
    .await;
    for told in services {
        let addresses = told.backends.iter().map(Backend::address);
        let states: Vec<_> = addresses.map(|address| (address, "serving")).collect();
        proxy.until_states(told.name, &states).await;
    }
    proxy
}

async fn watch_of(proxy: &Proxy, told: &Told) -> Value {
    proxy.service(told.name).await["watches"][0].clone()
}

/// One test for all of it, so that half a minute passes once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn consuls_answers_take_half_a_minute() {
    let ledger = Ledger::default();
    let mut late = Told::start("late", &ledger).await;
    let mut trickling = Told::start("trickling", &ledger).await;
    // What is asked first after an error waits for no change, and is given up sooner.
    let mut plain = Told::start("plain", &ledger).await;
    let proxy = proxy_of([&late, &trickling, &plain]).await;
    let load = Load::start(proxy.address(), "/cart", RATE / 2).await;
    let_pass(500).await;
    let no_leader = "rpc error: No cluster leader";
    plain.consul.always(Answer::error(500, no_leader));
    let failed = |service: &Value| service["watches"][0]["error"].is_string();
    proxy.until_service("plain", "it fails", failed).await;

    late.consul.at_pace(Pace::Late(HALF_A_MINUTE));
    trickling.consul.at_pace(Pace::Trickling(HALF_A_MINUTE));
    plain.consul.at_pace(Pace::Late(HALF_A_MINUTE));
    let since = Instant::now();
    for told in [&mut late, &mut trickling, &mut plain] {
        // It closes at once, and will be gone for long when the proxy hears of it.
        told.replace_one().await.close().await;
    }
    let_pass(22_000).await;
    for told in [&late, &trickling, &plain] {
        let watch = watch_of(&proxy, told).await;
        let age = watch["age_seconds"].as_f64().unwrap();
        assert!(age > 22.0, "{}: {watch}", told.name);
        let waits = told.name != "plain";
        assert_eq!(watch["healthy"], waits, "{}: {watch}", told.name);
        assert_eq!(told.newest().requests(), 0, "{}", told.name);
    }
    let watch = watch_of(&proxy, &plain).await;
    let error = watch["error"].as_str().unwrap();
    let silent = "gave no answer for service `plain` within 10 s";
    assert!(error.contains(silent), "{watch}");

    for told in [&late, &trickling] {
        until_asked(told.newest()).await;
        let took = since.elapsed();
        println!("{}: followed after {took:.1?}", told.name);
        assert!(took >= HALF_A_MINUTE, "{}: {took:?}", told.name);
    }
    plain.consul.at_pace(Pace::AtOnce);
    until_asked(plain.newest()).await;
    let report = load.stop(&ledger).await;
    report.assert_flawless_but_for_closes("answers of Consul that take half a minute");
}
