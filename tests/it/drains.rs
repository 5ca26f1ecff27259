//! An endpoint that a person drains gets no new requests and finishes those that it has, whatever its
//! registry, the guard, a pin or a reload say; for no longer than was said, and no request fails.

use std::sync::Arc;

use http::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::sync::Notify;

use crate::support::{
    backend::{Backend, by},
    eventually,
    load::{Ledger, Load},
    proxy::{Proxy, set_cookie, with_state},
    raw::{RawBackend, Wire, ok},
};

const DRAIN: &str = "/api/services/cart/drain";

/// Sends JSON to the admin server; the status and the answer.
async fn tell(proxy: &Proxy, method: Method, path: &str, body: Value) -> (StatusCode, Value) {
    let request = proxy.http.request(method, proxy.admin(path)).json(&body);
    let answer = request.send().await.unwrap();
    (answer.status(), answer.json().await.unwrap())
}

async fn drain(proxy: &Proxy, backend: &Backend, more: Value) -> (StatusCode, Value) {
    let mut body = more;
    body["endpoint"] = backend.address().to_string().into();
    tell(proxy, Method::POST, DRAIN, body).await
}

async fn drained(proxy: &Proxy, backend: &Backend, more: Value) -> Value {
    let (status, said) = drain(proxy, backend, more).await;
    assert_eq!(status, 200, "{said}");
    said
}

async fn undrain(proxy: &Proxy, backend: &Backend) -> StatusCode {
    let path = format!("{DRAIN}?endpoint={}", backend.address());
    tell(proxy, Method::DELETE, &path, Value::Null).await.0
}

async fn until_asked_more(backend: &Backend) {
    let before = backend.requests();
    let asked = async || backend.requests();
    eventually("it is asked", asked, |asked| *asked > before).await;
}

async fn journalled(proxy: &Proxy, why: &str) -> Value {
    let path = "/api/services/cart/journal";
    let latest = async || {
        let entries: Vec<Value> = proxy.page(path).await.json().await.unwrap();
        let latest = entries.into_iter().find(|entry| entry["why"] == why);
        latest.unwrap_or_default()
    };
    let what = format!("{why} stands in the journal");
    eventually(&what, latest, |entry| !entry.is_null()).await
}

/// A proxy with these endpoints of `cart`, all of which serve.
async fn serving(text: &str, backends: &[&Backend]) -> Proxy {
    let proxy = Proxy::start(text).await;
    for backend in backends {
        proxy.register("cart", backend.address()).await;
    }
    proxy.until_served("/cart").await;
    let all = with_state(backends.iter().copied(), "serving");
    proxy.until_states("cart", &all).await;
    proxy
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drained_endpoint_gets_no_new_requests_under_load_and_is_shown() {
    let ledger = Ledger::default();
    let [a, b, c] = [
        ledger.backend("a").start().await,
        ledger.backend("b").start().await,
        ledger.backend("c").start().await,
    ];
    let proxy = serving("", &[&a, &b, &c]).await;
    let load = Load::start(proxy.address(), "/cart", 400).await;
    until_asked_more(&a).await;

    let said = drained(&proxy, &a, json!({})).await;
    let left = said["seconds_left"].as_f64().unwrap();
    assert!((1790.0..=1800.0).contains(&left), "{left}");
    assert_eq!(
        (&said["forced"], &said["holds"]),
        (&json!(false), &json!(true))
    );
    // What was picked before may still come.
    let is_idle = |cart: &Value| {
        let all = cart["endpoints"].as_array().into_iter().flatten();
        let mut idle = all.filter(|one| one["state"] == "maintenance" && one["in_flight"] == 0);
        idle.next().is_some()
    };
    proxy
        .until_service("cart", "its requests have ended", is_idle)
        .await;
    let before = a.requests();
    until_asked_more(&b).await;
    until_asked_more(&c).await;
    assert_eq!(a.requests(), before);
    let status = proxy.status().await;
    assert_eq!(status["drained"], json!(["cart"]));
    let findings = status["findings"].to_string();
    let address = a.address();
    assert!(
        findings.contains(&format!("cart: {address} is drained for another 30 min")),
        "{findings}"
    );
    let metrics = proxy.page("/metrics").await.text().await.unwrap();
    for line in [
        "callboard_service_drained{service=\"cart\"} 1",
        "callboard_endpoints{service=\"cart\",state=\"maintenance\"} 1",
        "callboard_endpoints{service=\"cart\",state=\"serving\"} 2",
    ] {
        assert!(metrics.contains(line), "{line}");
    }
    assert_eq!(
        journalled(&proxy, "drained").await["endpoint"],
        address.to_string()
    );

    assert_eq!(undrain(&proxy, &a).await, 200);
    until_asked_more(&a).await;
    journalled(&proxy, "undrained").await;
    assert_eq!(undrain(&proxy, &a).await, 404);
    // By itself, when its time is over.
    drained(&proxy, &a, json!({"for": "1s"})).await;
    journalled(&proxy, "drain_expired").await;
    until_asked_more(&a).await;
    let report = load.stop(&ledger).await;
    report.assert_flawless("drained, undrained, drained, expired");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_an_endpoint_has_ends_though_it_is_drained() {
    let gate = Arc::new(Notify::new());
    let opens = Arc::clone(&gate);
    let slow = Backend::named("slow").answering(move |_| {
        let gate = Arc::clone(&gate);
        async move {
            gate.notified().await;
            "slow"
        }
    });
    let (slow, other) = (slow.start().await, Backend::start("other").await);
    let proxy = Proxy::start("[defaults]\ndrain = \"1ms\"\n").await;
    proxy.register("cart", slow.address()).await;
    let asking = tokio::spawn(proxy.http.get(proxy.url("/cart")).send());
    let asked = async || slow.requests();
    eventually("it has a request", asked, |asked| *asked == 1).await;
    proxy.register("cart", other.address()).await;
    let there = [(slow.address(), "serving"), (other.address(), "serving")];
    proxy.until_states("cart", &there).await;
    drained(&proxy, &slow, json!({})).await;
    for _ in 0..4 {
        assert_eq!(by(&proxy.get("/cart").await), "other");
    }
    let cart = proxy.service("cart").await;
    let in_flight = |one: &Value| one["state"] == "maintenance" && one["in_flight"] == 1;
    assert!(
        cart["endpoints"].as_array().unwrap().iter().any(in_flight),
        "{cart}"
    );
    opens.notify_one();
    let answer = asking.await.unwrap().unwrap();
    assert_eq!(answer.text().await.unwrap(), "slow");
}

#[tokio::test]
async fn clients_of_a_cookie_and_of_a_hash_move_from_a_drained_endpoint() {
    for balance in [
        "\"sticky\"",
        "{ kind = \"hash\", by = { header = \"X-User\" } }",
    ] {
        let (a, b) = (Backend::start("a").await, Backend::start("b").await);
        let text = format!("[defaults]\nbalance = {balance}\n");
        let proxy = serving(&text, &[&a, &b]).await;
        let ask = async |cookie: Option<&str>| {
            let request = proxy.http.get(proxy.url("/cart")).header("x-user", "me");
            let request = match cookie {
                Some(cookie) => request.header("cookie", cookie),
                None => request,
            };
            request.send().await.unwrap()
        };
        let first = ask(None).await;
        let (owner, cookie) = (by(&first), set_cookie(&first));
        let own = if owner == "a" { &a } else { &b };
        assert_eq!(by(&ask(cookie.as_deref()).await), owner);
        drained(&proxy, own, json!({})).await;
        let next = ask(cookie.as_deref()).await;
        assert_ne!(by(&next), owner, "{balance}");
        let moved = set_cookie(&next).or(cookie.clone());
        assert_ne!(by(&ask(moved.as_deref()).await), owner, "{balance}");
        assert_eq!(undrain(&proxy, own).await, 200);
        // A hash leads back; a cookie names its new endpoint by then, and the first one its own.
        assert_eq!(by(&ask(cookie.as_deref()).await), owner, "{balance}");
    }
}

#[tokio::test]
async fn a_request_whose_connection_dies_is_not_sent_to_a_drained_endpoint_again() {
    let (waits, asked) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (dies, notes) = (Arc::clone(&waits), Arc::clone(&asked));
    let backend = RawBackend::serving(move |mut wire: Wire| {
        let (dies, notes) = (Arc::clone(&dies), Arc::clone(&notes));
        async move {
            while let Some(head) = wire.head().await {
                if head.starts_with("GET /cart/dies") {
                    notes.notify_one();
                    dies.notified().await;
                    return;
                }
                wire.send(ok("a")).await;
            }
        }
    });
    let backend = backend.await;
    let proxy = Proxy::start(
        "workers = 1\n[[route]]\npath = \"/cart\"\nservice = \"cart\"\n[service.cart]\n\
         pool.idle = \"1m\"\n",
    );
    let proxy = proxy.await;
    proxy.register("cart", backend.address()).await;
    proxy.until_served("/cart").await;
    let mut client = Wire::connect(proxy.address()).await;
    client
        .send("GET /cart/dies HTTP/1.1\r\nHost: a\r\n\r\n")
        .await;
    asked.notified().await;
    let body = json!({"endpoint": backend.address().to_string(), "force": true});
    let (status, said) = tell(&proxy, Method::POST, DRAIN, body).await;
    assert_eq!(status, 200, "{said}");
    let before = backend.connections();
    waits.notify_one();
    assert_eq!(client.message().await.unwrap().status(), 503);
    assert_eq!(backend.connections(), before);
}

#[tokio::test]
async fn the_last_endpoint_is_drained_by_force_alone_and_what_cannot_be_is_said() {
    let (a, b) = (Backend::start("a").await, Backend::start("b").await);
    let proxy = serving("", &[&a, &b]).await;
    drained(&proxy, &a, json!({})).await;
    let (status, said) = drain(&proxy, &b, json!({})).await;
    assert_eq!(status, 409, "{said}");
    let error = said["error"].as_str().unwrap();
    assert!(
        error.contains("is the last endpoint that can be picked"),
        "{error}"
    );
    // The other one signs out: what is drained without force serves until there is another.
    proxy.deregister("cart", b.address()).await;
    let serving = |one: &Value| one["state"] == "serving";
    let yields = |cart: &Value| {
        let mut endpoints = cart["endpoints"].as_array().into_iter().flatten();
        cart["drains"][0]["holds"] == false && endpoints.any(serving)
    };
    proxy.until_service("cart", "it yields", yields).await;
    assert_eq!(by(&proxy.get("/cart").await), "a");
    let findings = proxy.status().await["findings"].to_string();
    assert!(findings.contains("called all the same"), "{findings}");
    let said = drained(&proxy, &a, json!({"force": true})).await;
    assert_eq!(said["holds"], true);
    assert_eq!(proxy.get("/cart").await.status(), 503);
    let findings = proxy.status().await["findings"].to_string();
    assert!(findings.contains("1 in maintenance"), "{findings}");
    proxy.register("cart", b.address()).await;
    proxy.until_served("/cart").await;

    for (body, status, says) in [
        (json!({}), 400, "missing field `endpoint`"),
        (
            json!({"endpoint": "10.9.9.9:80"}),
            404,
            "it has no endpoint `10.9.9.9:80`",
        ),
        (
            json!({"endpoint": b.address().to_string(), "for": "25h"}),
            400,
            "at most 24 hours",
        ),
        (
            json!({"endpoint": b.address().to_string(), "for": "soon"}),
            400,
            "`for`: ",
        ),
    ] {
        let (answered, said) = tell(&proxy, Method::POST, DRAIN, body).await;
        let error = said["error"].as_str().unwrap();
        assert!(answered == status && error.contains(says), "{said}");
    }
    let (status, _) = tell(&proxy, Method::DELETE, DRAIN, Value::Null).await;
    assert_eq!(status, 400);
}

#[tokio::test]
async fn a_drain_outlives_a_pin_a_sign_out_and_a_reload_which_tells_of_it() {
    let [a, b, c] = [
        Backend::start("a").await,
        Backend::start("b").await,
        Backend::start("c").await,
    ];
    let proxy = serving("", &[&a, &b, &c]).await;
    drained(&proxy, &a, json!({})).await;
    let states = |of_a| {
        [
            (a.address(), of_a),
            (b.address(), "serving"),
            (c.address(), "serving"),
        ]
    };
    let is_spared = async |when: &str| {
        for _ in 0..6 {
            assert_ne!(by(&proxy.get("/cart").await), "a", "{when}");
        }
    };
    // A pin to the set with it.
    let (status, _) = tell(&proxy, Method::POST, "/api/services/cart/pin", json!({})).await;
    assert_eq!(status, 200);
    proxy.until_states("cart", &states("maintenance")).await;
    is_spared("pinned").await;
    let reload = async |dry_run: bool| {
        let body = json!({ "dry_run": dry_run });
        let (status, said) = tell(&proxy, Method::POST, "/api/reload", body).await;
        assert_eq!(status, 200, "{said}");
        said["changes"]["at_run_time"].to_string()
    };
    proxy.write("[defaults]\ndrain = \"7s\"\n");
    for dry_run in [true, false] {
        let said = reload(dry_run).await;
        assert!(said.contains("cart: pinned to set"), "{said}");
        let drain = format!("cart: {} is drained for another 29m", a.address());
        assert!(said.contains(&drain), "{said}");
    }
    proxy.until_states("cart", &states("maintenance")).await;
    is_spared("reloaded").await;
    let (status, _) = tell(
        &proxy,
        Method::DELETE,
        "/api/services/cart/pin",
        Value::Null,
    )
    .await;
    assert_eq!(status, 200);
    // It signs out, and is back.
    proxy.deregister("cart", a.address()).await;
    proxy.until_states("cart", &states("")[1..]).await;
    assert_eq!(
        proxy.service("cart").await["drains"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
    proxy.register("cart", a.address()).await;
    proxy.until_states("cart", &states("maintenance")).await;
    is_spared("back").await;
    assert_eq!(undrain(&proxy, &a).await, 200);
    proxy.until_states("cart", &states("serving")).await;
    assert_eq!(reload(true).await, "null");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_the_guard_holds_is_spared_as_well() {
    let [a, b, c] = [
        Backend::start("a").await,
        Backend::start("b").await,
        Backend::start("c").await,
    ];
    let guard = "[defaults]\nguard = { share = 0.3, hold = \"60s\", settle = \"60s\" }\n";
    let proxy = serving(guard, &[&a, &b, &c]).await;
    drained(&proxy, &a, json!({})).await;
    for backend in [&a, &b, &c] {
        proxy.deregister("cart", backend.address()).await;
    }
    let held = |cart: &Value| {
        let all = cart["endpoints"].as_array().into_iter().flatten();
        all.filter(|one| one["held"].is_object()).count() >= 2
    };
    proxy.until_service("cart", "they are held", held).await;
    for _ in 0..6 {
        assert_ne!(by(&proxy.get("/cart").await), "a");
    }
}
