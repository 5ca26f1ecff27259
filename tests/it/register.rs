//! `callboard register`: who is registered is routed to, stays registered whatever becomes of the
//! registry, and leaves before it ends.

use std::{
    net::TcpListener,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::support::{
    consul::Consul,
    eventually,
    fake_consul::{Answer, FakeConsul},
    load::{Ledger, Load, Report},
    proxy::{Proxy, instance},
    registered::Registered,
    server,
};

/// The instances of `cart` at a registry, with their checks.
async fn carts(registry: &str) -> Vec<Value> {
    let url = format!("{registry}/v1/health/service/cart");
    let client = reqwest::Client::builder().no_proxy();
    let client = client.timeout(Duration::from_secs(2)).build().unwrap();
    let Ok(answer) = client.get(url).send().await else {
        return Vec::new();
    };
    answer.json().await.unwrap_or_default()
}

/// The status of an instance's own check.
fn status(instance: &Value) -> &str {
    let mut checks = instance["Checks"].as_array().unwrap().iter();
    let own = checks.find(|check| check["CheckID"] != "serfHealth");
    own.map_or("none", |check| check["Status"].as_str().unwrap())
}

/// Waits until there is one instance of `cart`, and its check has this status.
async fn until_one_is(registry: &str, wanted: &str) -> Value {
    let holds = |carts: &Vec<Value>| matches!(&carts[..], [cart] if status(cart) == wanted);
    let what = format!("one cart is {wanted}");
    let mut found = eventually(&what, async || carts(registry).await, holds).await;
    found.remove(0)
}

async fn until_none_is_left(registry: &str) {
    let ask = async || carts(registry).await;
    eventually("no cart is registered", ask, Vec::is_empty).await;
}

/// A pause takes a moment to begin. Who says nothing names no cart.
async fn until_nothing_is_said(registry: &str) {
    until_none_is_left(registry).await;
}

fn port(cart: &Value) -> u64 {
    cart["Service"]["Port"].as_u64().unwrap()
}

/// A provider that takes connections, and does no more.
fn listener() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    (listener, port)
}

/// A `callboard register cart`, with more arguments.
fn cart(registry: &str, port: &str, more: &[&str]) -> Registered {
    Registered::start(&[&["cart", "--registry", registry, "--port", port], more].concat())
}

#[tokio::test]
async fn what_is_registered_is_routed_to_until_it_is_told_to_end() {
    let proxy = Proxy::start("").await;
    let registry = proxy.registry("");
    let mut cart = Registered::serving(&["cart", "--registry", &registry], &Ledger::default());
    assert_eq!(proxy.until_served("/cart/7").await, "/7");
    let entry = until_one_is(&registry, "passing").await;
    let id = format!("cart-127.0.0.1:{}", port(&entry));
    assert_eq!(entry["Service"]["ID"], json!(id));
    cart.send(Signal::SIGTERM);
    until_none_is_left(&registry).await;
    assert!(!cart.has_ended(), "it serves on while others hear of it");
    assert_eq!(cart.gone().await.code(), Some(128 + 15));
    let said = cart.said();
    let place = |text| said.find(text).unwrap_or_else(|| panic!("{text}: {said}"));
    assert!(place("signed out") < place("SIGTERM went to"), "{said}");
}

#[tokio::test]
async fn consul_has_the_entry_as_go_kits_registrar_writes_it() {
    let Some(consul) = Consul::start().await else {
        return;
    };
    let (_provider, port) = listener();
    let args = [
        &["--id", "cart/1 x%41", "--tag", "a", "--tag", "b"][..],
        &["--meta", "zone=z", "--weight", "7", "--tls", "--ttl", "1s"],
    ];
    let cart = cart(&consul.url(), &port, &args.concat());
    let entry = until_one_is(&consul.url(), "passing").await;
    let service = &entry["Service"];
    assert_eq!(service["ID"], "cart/1 x%41");
    assert_eq!(service["Address"], "127.0.0.1");
    assert_eq!(service["Port"].to_string(), port);
    assert_eq!(service["Tags"], json!(["a", "b"]));
    assert_eq!(service["Meta"], json!({"zone": "z", "scheme": "https"}));
    assert_eq!(service["Weights"], json!({"Passing": 7, "Warning": 1}));
    // For three times its TTL it neither lapses nor is written again.
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(3) {
        let now = until_one_is(&consul.url(), "passing").await;
        assert_eq!(now["Service"]["ModifyIndex"], service["ModifyIndex"]);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(!cart.said().contains("not signed in"), "{}", cart.said());
}

#[tokio::test]
async fn the_agents_own_probe_decides_where_one_was_asked_for() {
    let proxy = Proxy::start("").await;
    let registry = proxy.registry("");
    let (provider, port) = listener();
    let mut cart = cart(&registry, &port, &["--check", "tcp", "--interval", "1s"]);
    until_one_is(&registry, "passing").await;
    drop(provider);
    until_one_is(&registry, "critical").await;
    assert!(!cart.has_ended());
    cart.send(Signal::SIGINT);
    assert_eq!(cart.ended().await.code(), Some(0));
    until_none_is_left(&registry).await;
}

#[tokio::test]
async fn a_consul_that_comes_back_empty_has_the_provider_again() {
    let Some(mut consul) = Consul::start().await else {
        return;
    };
    for check in [&[][..], &["--ttl", "60s"], &["--check", "tcp"]] {
        let (_provider, port) = listener();
        let mut cart = cart(&consul.url(), &port, check);
        until_one_is(&consul.url(), "passing").await;
        consul.restart_empty().await;
        let back = Instant::now();
        let again = async || carts(&consul.url()).await.len();
        eventually("it is registered again", again, |count| *count == 1).await;
        println!("{check:?}: registered again after {:.1?}", back.elapsed());
        until_one_is(&consul.url(), "passing").await;
        cart.send(Signal::SIGTERM);
        assert_eq!(cart.ended().await.code(), Some(0));
        until_none_is_left(&consul.url()).await;
    }
}

#[tokio::test]
async fn an_agent_that_says_nothing_for_a_while_holds_up_nothing() {
    let Some(consul) = Consul::start().await else {
        return;
    };
    let (_provider, port) = listener();
    let mut cart = cart(&consul.url(), &port, &["--ttl", "3s"]);
    until_one_is(&consul.url(), "passing").await;
    consul.pause();
    cart.until_said("gave no answer for").await;
    consul.resume();
    // Consul has counted the pause against it.
    until_one_is(&consul.url(), "passing").await;
    consul.pause();
    until_nothing_is_said(&consul.url()).await;
    cart.send(Signal::SIGTERM);
    let status = cart.ended().await;
    consul.resume();
    // Who is told to end does so, though nobody could be told.
    assert_eq!(status.code(), Some(1), "{}", cart.said());
}

#[tokio::test]
async fn who_is_stopped_is_routed_to_no_more_until_it_goes_on() {
    let proxy = Proxy::start("[defaults]\nguard = false").await;
    let registry = proxy.registry("");
    let args = ["cart", "--registry", &registry, "--ttl", "1s"];
    let cart = Registered::serving(&args, &Ledger::default());
    proxy.until_served("/cart/7").await;
    cart.send(Signal::SIGSTOP);
    let status = async || proxy.get("/cart/7").await.status();
    eventually("it is routed to no more", status, |status| *status == 503).await;
    cart.send(Signal::SIGCONT);
    proxy.until_served("/cart/7").await;
}

#[tokio::test]
async fn who_is_killed_is_taken_out_by_its_ttl() {
    let Some(consul) = Consul::start().await else {
        return;
    };
    let (_provider, port) = listener();
    let cart = cart(&consul.url(), &port, &["--ttl", "1s"]);
    until_one_is(&consul.url(), "passing").await;
    drop(cart);
    let entry = until_one_is(&consul.url(), "critical").await;
    let output = entry["Checks"].to_string();
    assert!(output.contains("TTL expired"), "{output}");
}

async fn leaves_without_losing_a_request(proxy: &Proxy, registry: &str) {
    let ledger = Ledger::default();
    let args = ["cart", "--registry", registry];
    let mut leaves = Registered::serving(&args, &ledger);
    let first = port(&until_one_is(registry, "passing").await);
    let mut stays = Registered::serving(&args, &ledger);
    // A service that nobody has asked for is not watched.
    proxy.until_served("/cart/7").await;
    let both = async || proxy.service("cart").await["endpoints"].clone();
    let two = |endpoints: &Value| endpoints.as_array().is_some_and(|all| all.len() == 2);
    eventually("both are known", both, two).await;
    let load = Load::start(proxy.address(), "/cart", 200).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    leaves.send(Signal::SIGTERM);
    assert_eq!(leaves.gone().await.code(), Some(128 + 15));
    tokio::time::sleep(Duration::from_secs(1)).await;
    let outcomes = load.end().await;
    assert!(!stays.has_ended());
    let left = until_one_is(registry, "passing").await;
    assert_ne!(port(&left), first);
    stays.send(Signal::SIGTERM);
    stays.gone().await;
    let report = Report::new(outcomes, &ledger).await;
    report.assert_flawless("a provider is told to end");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_is_told_to_end_fails_no_request_of_the_embedded_registrys_proxy() {
    let proxy = Proxy::start("").await;
    leaves_without_losing_a_request(&proxy, &proxy.registry("")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_is_told_to_end_fails_no_request_of_consuls_proxy() {
    let Some(consul) = Consul::start().await else {
        return;
    };
    let config = format!("[registry.consul]\naddress = \"{}\"", consul.url());
    let proxy = Proxy::start(&config).await;
    leaves_without_losing_a_request(&proxy, &consul.url()).await;
}

#[tokio::test]
async fn its_status_is_its_commands() {
    let proxy = Proxy::start("").await;
    let registry = proxy.registry("");
    // Somebody listens there, so that the command counts as healthy.
    let (_provider, port) = listener();
    for (script, status) in [
        ("sleep 0.3; exit 7", 7),
        ("exit 0", 0),
        ("kill -9 $$", 128 + 9),
        ("test $PORT = $CALLBOARD_PORT || exit 8; exit 9", 9),
    ] {
        let mut cart = cart(&registry, &port, &["--", "sh", "-c", script]);
        assert_eq!(cart.ended().await.code(), Some(status), "{script}");
        cart.until_said("somebody is at 127.0.0.1").await;
        until_none_is_left(&registry).await;
    }
}

#[tokio::test]
async fn one_whose_command_ends_is_signed_out_at_once() {
    let proxy = Proxy::start("").await;
    let registry = proxy.registry("");
    let (_provider, port) = listener();
    let ends = ["--drain", "1h", "--", "sh", "-c", "read line; exit 5"];
    let mut cart = cart(&registry, &port, &ends);
    until_one_is(&registry, "passing").await;
    cart.close_input();
    assert_eq!(cart.ended().await.code(), Some(5));
    assert_eq!(carts(&registry).await, [] as [Value; 0]);
}

#[tokio::test]
async fn a_second_signal_reaches_the_command_at_once_and_others_always() {
    let proxy = Proxy::start("").await;
    let registry = proxy.registry("");
    let (_provider, port) = listener();
    let script = "trap 'echo hung up' HUP; trap 'echo interrupted' INT; trap 'exit 3' TERM; \
                  echo begun; while true; do sleep 0.05; done";
    let mut cart = cart(
        &registry,
        &port,
        &["--drain", "1h", "--", "sh", "-c", script],
    );
    cart.until_said("begun").await;
    until_one_is(&registry, "passing").await;
    cart.send(Signal::SIGHUP);
    cart.until_said("hung up").await;
    assert_eq!(carts(&registry).await.len(), 1, "it is no signal to end");
    cart.send(Signal::SIGTERM);
    until_none_is_left(&registry).await;
    assert!(!cart.has_ended());
    cart.send(Signal::SIGINT);
    cart.until_said("interrupted").await;
    cart.send(Signal::SIGTERM);
    assert_eq!(cart.ended().await.code(), Some(3));
}

#[tokio::test]
async fn a_command_that_is_not_healthy_in_time_is_ended_and_never_registered() {
    let proxy = Proxy::start("").await;
    let registry = proxy.registry("");
    let port = server::refusing().port().to_string();
    let script = "trap 'echo told to end; exit 0' TERM; while true; do sleep 0.05; done";
    for (check, reason) in [
        ("ttl", "Connection refused"),
        ("/health", "Connection refused"),
    ] {
        let args = [
            "--check",
            check,
            "--start-timeout",
            "500ms",
            "--",
            "sh",
            "-c",
            script,
        ];
        let mut cart = cart(&registry, &port, &args);
        assert_eq!(cart.ended().await.code(), Some(1));
        cart.until_said("told to end").await;
        cart.until_said("error: the provider was not healthy within 500ms: ")
            .await;
        cart.until_said(reason).await;
        assert!(!cart.said().contains("signing in"), "{}", cart.said());
    }
}

#[tokio::test]
async fn a_path_that_does_not_answer_2xx_is_not_healthy() {
    let proxy = Proxy::start("").await;
    let registry = proxy.registry("");
    // The registry itself is as good a provider as any.
    let provider = registry.rsplit(':').next().unwrap();
    let args = ["--check", "/v1/nothing", "--start-timeout", "500ms"];
    let mut sick = cart(&registry, provider, &args);
    assert_eq!(sick.ended().await.code(), Some(1));
    sick.until_said("/v1/nothing answered 404").await;
    let _well = cart(&registry, provider, &["--check", "/v1/status/leader"]);
    until_one_is(&registry, "passing").await;
}

#[tokio::test]
async fn a_wrong_command_line_or_command_is_said() {
    let (_provider, port) = listener();
    let registry = "consul://127.0.0.1:1";
    for (args, status, says) in [
        (&["--check", "often"][..], 2, "write ttl, tcp, a path"),
        (&["--ttl", "0s"], 2, "more than nothing"),
        (&["--weight", "0"], 2, "0 is not in 1..=65535"),
        (&["--meta", "zone"], 2, "write KEY=VALUE"),
        (
            &["--address", "10.0.0.1:80"],
            2,
            "neither an IP address nor a host name",
        ),
        (
            &["--layout", "curator"],
            1,
            "registry.consul: Consul has one layout",
        ),
        (&["--config", "x.toml"], 1, "leave out --config"),
        (
            &["--", "/no/such/program"],
            1,
            "cannot start `/no/such/program`",
        ),
    ] {
        let mut wrong = cart(registry, &port, args);
        assert_eq!(wrong.ended().await.code(), Some(status), "{args:?}");
        wrong.until_said(says).await;
    }
    for (args, status, says) in [
        (&["cart"][..], 2, "--port <PORT>"),
        (&["cart", "--port", "0"], 2, "there is none"),
        (
            &["cart", "--port", "1", "--registry", "consul"],
            1,
            "no registry `consul` in proxy.toml, which is not here",
        ),
        (
            &["cart", "--port", "1", "--registry", "consl://h"],
            1,
            "`consl` is not known here",
        ),
        (
            &["cart", "--port", "1", "--config", "x.toml"],
            1,
            "x.toml has errors",
        ),
    ] {
        let mut wrong = Registered::start(args);
        assert_eq!(wrong.ended().await.code(), Some(status), "{args:?}");
        wrong.until_said(says).await;
    }
}

#[tokio::test]
async fn one_at_whose_port_nobody_listens_is_named_before_it_is_signed_in() {
    let proxy = Proxy::start("").await;
    let port = server::refusing().port().to_string();
    let cart = cart(&proxy.registry(""), &port, &[]);
    until_one_is(&proxy.registry(""), "passing").await;
    cart.until_said("signing in at").await;
    let said = cart.said();
    let warning = format!("nobody takes connections at 127.0.0.1:{port}");
    let place = |text: &str| said.find(text).unwrap_or_else(|| panic!("{text}: {said}"));
    assert!(place(&warning) < place("signing in at"), "{said}");
}

#[tokio::test]
async fn who_comes_later_has_the_id_and_the_other_waits_for_it() {
    let Some(consul) = Consul::start().await else {
        return;
    };
    let url = consul.url();
    let [(_one, first), (_two, second), (_three, third)] = [listener(), listener(), listener()];
    let until_it_is = async |wanted: &str| {
        let holds = |carts: &Vec<Value>| matches!(&carts[..], [cart] if port(cart).to_string() == wanted && status(cart) == "passing");
        eventually("the id is handed over", async || carts(&url).await, holds).await;
    };
    let mut early = cart(&url, &first, &["--id", "x", "--ttl", "1s"]);
    until_it_is(&first).await;
    let mut late = cart(&url, &second, &["--id", "x", "--ttl", "1s"]);
    until_it_is(&second).await;
    early
        .until_said(&format!(
            "has `x` as `cart` at 127.0.0.1:{second} now: somebody else"
        ))
        .await;
    // It is not taken back, and not taken away from the other.
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(3) {
        // The list is empty for a moment where it is written anew.
        if let [cart] = &carts(&url).await[..] {
            assert_eq!(port(cart).to_string(), second);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(!late.said().contains("somebody else"), "{}", late.said());
    late.send(Signal::SIGTERM);
    assert_eq!(late.ended().await.code(), Some(0));
    until_it_is(&first).await;
    let _last = cart(&url, &third, &["--id", "x", "--ttl", "1s"]);
    until_it_is(&third).await;
    early.send(Signal::SIGTERM);
    assert_eq!(early.ended().await.code(), Some(0));
    until_it_is(&third).await;
}

#[tokio::test]
async fn a_wrong_token_is_said_with_its_key_until_it_is_right() {
    let acl = json!({"acl": {
        "enabled": true, "default_policy": "deny", "tokens": {"master": "the-right-one", "agent": "the-right-one"},
    }});
    let Some(consul) = Consul::start_with(acl).await else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("token");
    std::fs::write(&token, "a-wrong-one").unwrap();
    let file = format!(
        "[registry.main]\nkind = \"consul\"\naddress = \"{}\"\ntoken = {{ file = \"token\" }}\n\
         [[route]]\nservice = \"cart\"\n",
        consul.url()
    );
    std::fs::write(folder.path().join("proxy.toml"), file).unwrap();
    let (_provider, port) = listener();
    // The file's one registry is its default.
    let mut cart = Registered::start_in(folder, &["cart", "--port", &port]);
    let id = format!("cart-127.0.0.1:{port}");
    cart.until_said(&format!(
        "main at {} answered 403 for the registration of `{id}`: ACL not found; check registry.main.token",
        consul.url()
    ))
    .await;
    assert!(!cart.has_ended(), "it goes on trying");
    assert_eq!(
        cart.said().matches("ACL not found").count(),
        1,
        "{}",
        cart.said()
    );
    std::fs::write(&token, "the-right-one").unwrap();
    cart.until_said("\"signed in\"").await;
    cart.send(Signal::SIGTERM);
    assert_eq!(cart.ended().await.code(), Some(0));
}

#[tokio::test]
async fn a_registry_that_refuses_is_not_hammered() {
    let consul = FakeConsul::start([]).await;
    consul.always(Answer::error(403, "Permission denied"));
    let (_provider, port) = listener();
    let cart = cart(consul.url(), &port, &[]);
    cart.until_said("Permission denied").await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let asked = consul.asked().len();
    assert!((2..25).contains(&asked), "{asked}");
}

#[tokio::test]
async fn a_namespace_and_a_partition_go_with_all_that_is_asked() {
    let consul = FakeConsul::start([]).await;
    consul.always(Answer::error(404, "unknown service ID"));
    let folder = tempfile::tempdir().unwrap();
    let file = format!(
        "[registry.consul]\naddress = \"{}\"\nnamespace = \"team a\"\npartition = \"east\"\n\
         [[route]]\nservice = \"cart\"\n",
        consul.url()
    );
    std::fs::write(folder.path().join("proxy.toml"), file).unwrap();
    let (_provider, port) = listener();
    let mut cart = Registered::start_in(folder, &["cart", "--port", &port, "--id", "a/b"]);
    cart.until_said("check registry.consul.address").await;
    cart.send(Signal::SIGTERM);
    cart.ended().await;
    let asked = consul.asked();
    for asked in &asked {
        let parameters = asked.parameters();
        let tenancy = [("ns", "team a"), ("partition", "east")];
        for (key, value) in tenancy {
            assert!(
                parameters.contains(&(key.to_owned(), value.to_owned())),
                "{asked:?}"
            );
        }
    }
    let target = |asked: Option<&crate::support::fake_consul::Asked>| asked.unwrap().target.clone();
    assert!(target(asked.first()).starts_with("/v1/agent/service/register?"));
    assert!(target(asked.last()).starts_with("/v1/agent/service/a%2Fb?"));
}

/// What the proxy's tests register by hand and what this does are the same to the proxy.
#[tokio::test]
async fn one_beside_others_takes_its_turn() {
    let proxy = Proxy::start("").await;
    let ledger = Ledger::default();
    let other = ledger.backend("other").start().await;
    proxy.register("cart", other.address()).await;
    let _cart = Registered::serving(&["cart", "--registry", &proxy.registry("")], &ledger);
    let two = async || carts(&proxy.registry("")).await;
    let entries = eventually("both are there", two, |carts| carts.len() == 2).await;
    let ids: Vec<_> = entries
        .iter()
        .map(|entry| &entry["Service"]["ID"])
        .collect();
    assert!(
        ids.contains(&&json!(instance("cart", other.address()))),
        "{ids:?}"
    );
    proxy.until_served("/cart/7").await;
    proxy
        .until_service("cart", "both serve", |service| {
            let endpoints = service["endpoints"].as_array();
            endpoints.is_some_and(|all| {
                all.iter().all(|one| one["state"] == "serving") && all.len() == 2
            })
        })
        .await;
}
