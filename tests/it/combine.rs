//! A service of several registries, one whose endpoints stand in the file, and one whose registry
//! has been away for too long.

use std::net::SocketAddr;

use serde_json::{Value, json};

use crate::support::{
    backend::Backend,
    consul::Consul,
    fake_consul::{Answer, FakeConsul, entry},
    load::{Ledger, Load},
    proxy::{Proxy, endpoints, instance},
};

const CART: &str = "[[route]]\npath = \"/cart\"\nservice = \"cart\"\nstrip_prefix = true\n";

/// Two Consuls and a proxy that reads both, as `combine` has it.
struct Stage {
    first: Consul,
    second: Consul,
    proxy: Proxy,
}

impl Stage {
    async fn start(combine: &str) -> Option<Self> {
        let first = Consul::start().await?;
        let second = Consul::start().await?;
        let config = format!(
            "{CART}[registry.first]\nkind = \"consul\"\naddress = \"{}\"\n\
             [registry.second]\nkind = \"consul\"\naddress = \"{}\"\n\
             [defaults]\nregistry = [\"first\", \"second\"]\ncombine = \"{combine}\"\n",
            first.url(),
            second.url()
        );
        Some(Self {
            proxy: Proxy::start(&config).await,
            first,
            second,
        })
    }
}

async fn sign_in(consul: &Consul, address: SocketAddr) {
    let service = registration(address, json!([]));
    consul.register(service).await;
}

/// With a TTL check that is in this state.
async fn sign_in_as(consul: &Consul, address: SocketAddr, status: &str) {
    let checks = json!([{"TTL": "1h", "Status": status}]);
    consul.register(registration(address, checks)).await;
}

/// Sets the check of one that signed in with one: "pass" or "fail".
async fn tell(consul: &Consul, address: SocketAddr, verdict: &str) {
    let check = format!("service:{}", instance("cart", address)).replace(':', "%3A");
    let path = format!("/v1/agent/check/{verdict}/{check}");
    consul.put(&path, json!({})).await;
}

fn registration(address: SocketAddr, checks: Value) -> Value {
    json!({
        "ID": instance("cart", address),
        "Name": "cart",
        "Address": address.ip(),
        "Port": address.port(),
        "Checks": checks,
    })
}

/// A stretch of the scenario itself, during which the load runs; nothing is waited for.
async fn let_pass(millis: u64) {
    tokio::time::sleep(std::time::Duration::from_millis(millis)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_union_serves_all_and_an_address_in_both_is_one_endpoint() {
    let Some(mut stage) = Stage::start("union").await else {
        return;
    };
    let ledger = Ledger::default();
    let [a, b, both] = [
        ledger.backend("a").start().await,
        ledger.backend("b").start().await,
        ledger.backend("both").start().await,
    ];
    sign_in(&stage.first, a.address()).await;
    sign_in(&stage.second, b.address()).await;
    for consul in [&stage.first, &stage.second] {
        sign_in(consul, both.address()).await;
    }
    let all = [a.address(), b.address(), both.address()].map(|address| (address, "serving"));
    stage.proxy.until_states("cart", &all).await;
    let is_listed_by = |service: &Value, registries: Value| {
        endpoints(service).any(|endpoint| {
            endpoint["address"] == both.address().to_string()
                && endpoint["registries"] == registries
        })
    };
    stage
        .proxy
        .until_service("cart", "both list it", |service| {
            is_listed_by(service, json!(["first", "second"]))
        })
        .await;

    // What leaves one of them stays as it is; one that is away takes nothing.
    let load = Load::start(stage.proxy.address(), "/cart", 400).await;
    let_pass(300).await;
    let attempts = async || {
        let service = stage.proxy.service("cart").await;
        let address = both.address().to_string();
        let mut endpoints = endpoints(&service);
        let endpoint = endpoints.find(|endpoint| endpoint["address"] == address);
        endpoint.unwrap()["attempts"].as_u64().unwrap()
    };
    let before = attempts().await;
    let first = instance("cart", both.address());
    stage.first.deregister(&first).await;
    stage
        .proxy
        .until_service("cart", "one lists it still", |service| {
            is_listed_by(service, json!(["second"])) && endpoints(service).count() == 3
        })
        .await;
    assert!(attempts().await >= before, "it is the same endpoint");
    stage.second.kill();
    stage
        .proxy
        .until_service("cart", "the second is away", |service| {
            service["watches"][1]["healthy"] == false
        })
        .await;
    let_pass(300).await;
    stage.proxy.until_states("cart", &all).await;
    let report = load.stop(&ledger).await;
    report.assert_flawless("a union of which one is away");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failover_takes_the_next_when_nobody_is_healthy_and_goes_back() {
    let Some(stage) = Stage::start("failover").await else {
        return;
    };
    let ledger = Ledger::default();
    let a = ledger.backend("a").start().await;
    let b = ledger.backend("b").start().await;
    sign_in_as(&stage.first, a.address(), "passing").await;
    sign_in(&stage.second, b.address()).await;
    let serves = |name: &'static str, address: SocketAddr| {
        move |service: &Value| {
            service["chosen"] == name
                && endpoints(service).any(|endpoint| {
                    endpoint["address"] == address.to_string() && endpoint["state"] == "serving"
                })
        }
    };
    let proxy = &stage.proxy;
    proxy
        .until_service("cart", "the first serves", serves("first", a.address()))
        .await;
    // Until the second is heard nobody could take over.
    proxy
        .until_service("cart", "the second is heard", |service| {
            service["watches"][1]["entries"] == 1
        })
        .await;
    let load = Load::start(proxy.address(), "/cart", 400).await;
    for _ in 0..40 {
        tell(&stage.first, a.address(), "fail").await;
        proxy
            .until_service("cart", "the second serves", serves("second", b.address()))
            .await;
        tell(&stage.first, a.address(), "pass").await;
        proxy
            .until_service("cart", "the first again", serves("first", a.address()))
            .await;
    }
    let report = load.stop(&ledger).await;
    report.assert_flawless("over to the second and back, forty times");
    assert!(a.requests() > 0);
}

#[tokio::test]
async fn a_shadow_serves_nobody_and_its_differences_are_shown() {
    let Some(stage) = Stage::start("shadow").await else {
        return;
    };
    let [a, b, c] = [
        Backend::start("a").await,
        Backend::start("b").await,
        Backend::start("c").await,
    ];
    for address in [a.address(), b.address()] {
        sign_in(&stage.first, address).await;
    }
    sign_in_as(&stage.second, b.address(), "critical").await;
    sign_in(&stage.second, c.address()).await;
    let difference = json!([{
        "registry": "second",
        "missing": [a.address().to_string()],
        "extra": [c.address().to_string()],
        "unlike": [b.address().to_string()],
    }]);
    stage
        .proxy
        .until_service("cart", "the difference is known", |service| {
            service["differences"] == difference
        })
        .await;
    for _ in 0..20 {
        stage.proxy.get("/cart").await;
    }
    assert_eq!((a.requests(), b.requests(), c.requests()), (10, 10, 0));
    let metrics = stage.proxy.page("/metrics").await.text().await.unwrap();
    for kind in ["missing", "extra", "unlike"] {
        let line =
            format!("callboard_shadow_{kind}_endpoints{{registry=\"second\",service=\"cart\"}} 1");
        assert!(metrics.contains(&line), "{line} in\n{metrics}");
    }
    sign_in(&stage.second, a.address()).await;
    tell(&stage.second, b.address(), "pass").await;
    let third = instance("cart", c.address());
    stage.second.deregister(&third).await;
    stage
        .proxy
        .until_service("cart", "they are alike", |service| {
            service["differences"][0]
                == json!({
                    "registry": "second", "missing": [], "extra": [], "unlike": [],
                })
        })
        .await;
}

#[tokio::test]
async fn endpoints_in_the_file_serve_at_once_and_need_no_registry() {
    let backend = Backend::start("a").await;
    let proxy = Proxy::start(&format!(
        "{CART}[service.cart]\nendpoints = [\"{}\"]\n",
        backend.address()
    ))
    .await;
    assert_eq!(proxy.get("/cart").await.text().await.unwrap(), "a");
    let service = proxy.service("cart").await;
    assert_eq!(service["watches"], json!([]));
    assert_eq!(service["endpoints"][0]["state"], "serving");
}

#[tokio::test]
async fn what_a_registry_said_is_given_up_when_it_has_been_away_for_too_long() {
    let Some(mut consul) = Consul::start().await else {
        return;
    };
    let backend = Backend::start("a").await;
    sign_in(&consul, backend.address()).await;
    let proxy = Proxy::start(&format!(
        "{CART}[registry.consul]\naddress = \"{}\"\nmax_staleness = \"500ms\"\n",
        consul.url()
    ))
    .await;
    proxy.until_served("/cart").await;
    consul.kill();
    proxy
        .until_service("cart", "its set is given up", |service| {
            service["watches"][0]["given_up"] == true && endpoints(service).count() == 0
        })
        .await;
    assert_eq!(proxy.get("/cart").await.status(), 503);
    consul.restart_empty().await;
    sign_in(&consul, backend.address()).await;
    proxy.until_served("/cart").await;
    let service = proxy.service("cart").await;
    assert_eq!(service["watches"][0]["given_up"], false);
}

#[tokio::test]
async fn a_template_reaches_what_any_of_its_registries_lists() {
    let Some(second) = Consul::start().await else {
        return;
    };
    let proxy = Proxy::start(&format!(
        "[registry.embedded]\naddress = \"127.0.0.1:0\"\n\
         [registry.second]\nkind = \"consul\"\naddress = \"{}\"\n\
         [defaults]\nregistry = [\"embedded\", \"second\"]\n",
        second.url()
    ))
    .await;
    let [a, b] = [Backend::start("a").await, Backend::start("b").await];
    proxy.register("hello", a.address()).await;
    sign_in(&second, b.address()).await;
    assert_eq!(proxy.until_served("/hello/").await, "a");
    assert_eq!(proxy.until_served("/cart/").await, "b");
    assert_eq!(proxy.get("/absent/").await.status(), 404);
}

#[tokio::test]
async fn metadata_selects_among_a_services_instances() {
    let proxy = Proxy::start(&format!(
        "{CART}[service.cart]\nmeta = {{ version = \"2\" }}\n"
    ))
    .await;
    let [one, two] = [Backend::start("1").await, Backend::start("2").await];
    for backend in [&one, &two] {
        let meta = json!({"Meta": {"version": backend.id()}});
        proxy.register_with("cart", backend.address(), meta).await;
    }
    proxy
        .until_states("cart", &[(two.address(), "serving")])
        .await;
    for _ in 0..5 {
        assert_eq!(proxy.get("/cart").await.text().await.unwrap(), "2");
    }
}

/// Waits until a service has these endpoints, and says what the state of each is then.
async fn states(proxy: &Proxy, backends: &[&Backend]) -> Vec<String> {
    let service = proxy
        .until_service("cart", "all are there", |service| {
            endpoints(service).count() == backends.len()
        })
        .await;
    let state = |backend: &&Backend| {
        let address = backend.address().to_string();
        let mut endpoints = endpoints(&service);
        let endpoint = endpoints.find(|endpoint| endpoint["address"] == address);
        endpoint.unwrap()["state"].as_str().unwrap().to_owned()
    };
    backends.iter().map(state).collect()
}

#[tokio::test]
async fn what_each_registry_of_a_union_says_at_first_is_not_new_and_who_comes_later_is() {
    for late in [Answer::Hang, Answer::error(500, "No cluster leader")] {
        let first = FakeConsul::start([]).await;
        let second = FakeConsul::start([]).await;
        let proxy = Proxy::start(&format!(
            "{CART}[registry.first]\nkind = \"consul\"\naddress = \"{}\"\n\
             [registry.second]\nkind = \"consul\"\naddress = \"{}\"\n\
             [service.cart]\nregistry = [\"first\", \"second\"]\ncombine = \"union\"\n\
             slow_start = \"1m\"\n",
            first.url(),
            second.url()
        ))
        .await;
        let [a, b, c, d, e] = [
            Backend::start("a").await,
            Backend::start("b").await,
            Backend::start("c").await,
            Backend::start("d").await,
            Backend::start("e").await,
        ];
        let list = |backends: &[&Backend]| -> Value {
            let addresses = backends.iter().map(|backend| backend.address());
            addresses.map(|address| entry("cart", address)).collect()
        };
        second.always(late.clone());
        first.holds(10, list(&[&a]));
        assert_eq!(proxy.until_served("/cart").await, "a");
        assert_eq!(states(&proxy, &[&a]).await, ["serving"]);
        if let Answer::Send(..) = late {
            proxy
                .until_service("cart", "the second has failed", |service| {
                    service["watches"][1]["healthy"] == false
                })
                .await;
        }
        // One of the first that is new: the second, of which nothing is known, is no reason.
        first.holds(11, list(&[&a, &b]));
        assert_eq!(states(&proxy, &[&a, &b]).await, ["serving", "warming"]);
        // The second has its say at last.
        second.holds(20, list(&[&c, &d]));
        let all = ["serving", "warming", "serving", "serving"];
        assert_eq!(states(&proxy, &[&a, &b, &c, &d]).await, all, "{late:?}");
        // Whom it lists from now on, it did not list before.
        second.holds(21, list(&[&c, &d, &e]));
        let [.., newest] = &states(&proxy, &[&a, &b, &c, &d, &e]).await[..] else {
            unreachable!("there are five");
        };
        assert_eq!(newest, "warming", "{late:?}");
        let asked = [&a, &c, &e].map(Backend::requests);
        for _ in 0..100 {
            assert_eq!(proxy.get("/cart").await.status(), 200);
        }
        let more = std::iter::zip([&a, &c, &e], asked);
        let [a, c, e] = more
            .map(|(backend, asked)| backend.requests() - asked)
            .collect::<Vec<_>>()[..]
        else {
            unreachable!("there are three");
        };
        assert!(e * 3 < a && e * 3 < c, "{a}, {c}, {e} of 100");
        println!("the second was late with {late:?}: {a}, {c} and the newest {e} of 100");
    }
}
