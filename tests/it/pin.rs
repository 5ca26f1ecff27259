//! The journal says what became of a service's set, and a pin holds the service to one of its sets:
//! under load, through updates and a drain, loudly, for no longer than was said, and nobody fails.

use std::time::Duration;

use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::{
    backend::Backend,
    consul::Consul,
    etcd::Etcd,
    eventually,
    load::{Ledger, Load},
    proxy::Proxy,
    zookeeper::{ZooKeeper, make},
};

async fn journal(proxy: &Proxy, name: &str) -> Vec<Value> {
    let path = format!("/api/services/{name}/journal");
    proxy.page(&path).await.json().await.unwrap()
}

/// The latest entry that is for this reason.
async fn until_journalled(proxy: &Proxy, why: &str) -> Value {
    let latest = async || {
        let entries = journal(proxy, "cart").await;
        let latest = entries.into_iter().find(|entry| entry["why"] == why);
        latest.unwrap_or_default()
    };
    let what = format!("{why} stands in the journal");
    eventually(&what, latest, |entry| !entry.is_null()).await
}

/// Sends JSON to the admin server; the status and the answer.
async fn tell(proxy: &Proxy, method: Method, path: &str, body: Value) -> (StatusCode, Value) {
    let request = proxy.http.request(method, proxy.admin(path)).json(&body);
    let answer = request.send().await.unwrap();
    (answer.status(), answer.json().await.unwrap())
}

async fn pin(proxy: &Proxy, body: Value) -> Value {
    let (status, pin) = tell(proxy, Method::POST, "/api/services/cart/pin", body).await;
    assert_eq!(status, 200, "{pin}");
    pin
}

async fn unpin(proxy: &Proxy) -> StatusCode {
    let path = "/api/services/cart/pin";
    tell(proxy, Method::DELETE, path, Value::Null).await.0
}

/// What was done to which instance, of an entry.
fn changes(entry: &Value) -> Vec<(&str, &str)> {
    let changes = entry["changes"].as_array().unwrap().iter();
    changes
        .map(|change| {
            let text = |key: &str| change[key].as_str().unwrap();
            (text("what"), text("address"))
        })
        .collect()
}

async fn until_asked_more(backend: &Backend) {
    let before = backend.requests();
    let asked = async || backend.requests();
    eventually("it is asked", asked, |asked| *asked > before).await;
}

const GUARD: &str = "[defaults]\nguard = { share = 0.5, hold = \"60s\" }\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pinned_set_stays_through_updates_under_load_and_is_followed_again_after() {
    let proxy = Proxy::start(GUARD).await;
    let ledger = Ledger::default();
    let [mut a, b, c] = [
        ledger.backend("a").start().await,
        ledger.backend("b").start().await,
        ledger.backend("c").start().await,
    ];
    for backend in [&a, &b, &c] {
        proxy.register("cart", backend.address()).await;
    }
    proxy.until_served("/cart/x").await;
    let states = |backends: &[&Backend]| {
        let all = backends.iter().map(|one| (one.address(), "serving"));
        all.collect::<Vec<_>>()
    };
    proxy.until_states("cart", &states(&[&a, &b, &c])).await;
    let load = Load::start(proxy.address(), "/cart", 400).await;

    let pinned = pin(&proxy, json!({})).await;
    let left = pinned["seconds_left"].as_f64().unwrap();
    assert!((1790.0..=1800.0).contains(&left), "{left}");
    assert_eq!(proxy.status().await["pinned"], json!(["cart"]));
    assert_eq!(proxy.service("cart").await["pin"]["set"], pinned["set"]);
    let metrics = proxy.page("/metrics").await.text().await.unwrap();
    assert!(metrics.contains("callboard_service_pinned{service=\"cart\"} 1"));
    let entry = until_journalled(&proxy, "pinned").await;
    assert_eq!(
        (&entry["set"], &entry["changes"]),
        (&pinned["set"], &json!([]))
    );

    // An update and a sign-out, which are heard and not followed.
    let d = ledger.backend("d").start().await;
    proxy.register("cart", d.address()).await;
    proxy.deregister("cart", a.address()).await;
    let removed = json!("removed");
    let latest = async || journal(&proxy, "cart").await.remove(0);
    // With the update, where both are heard at once.
    let heard = |entry: &Value| {
        let changes = entry["changes"].as_array().into_iter().flatten();
        changes.into_iter().any(|change| change["what"] == removed)
    };
    let entry = eventually("the sign-out is heard", latest, heard).await;
    assert_eq!(entry["applied"], false);
    assert!(changes(&entry).contains(&("removed", &*a.address().to_string())));
    until_asked_more(&a).await;
    assert_eq!(d.requests(), 0);
    assert_eq!(
        proxy.service("cart").await["endpoints"]
            .as_array()
            .unwrap()
            .len(),
        3
    );

    assert_eq!(unpin(&proxy).await, 200);
    proxy.until_states("cart", &states(&[&b, &c, &d])).await;
    until_asked_more(&d).await;
    assert_eq!(proxy.status().await["pinned"], json!([]));
    let entry = until_journalled(&proxy, "unpinned").await;
    assert_eq!(entry["applied"], true);
    a.close().await;

    // Back to a set with one who is gone: who connects in vain is tried elsewhere, as ever.
    let (first, ends) = (pinned["set"].clone(), json!("5s"));
    let began = std::time::Instant::now();
    let again = pin(&proxy, json!({"set": first, "for": ends})).await;
    assert_eq!(again["set"], first);
    let doubted = |cart: &Value| cart["endpoints"].to_string().contains("doubted");
    proxy
        .until_service("cart", "who is gone is doubted", doubted)
        .await;
    // All sign out while it is pinned: when it ends, the guard doubts that.
    for backend in [&b, &c, &d] {
        proxy.deregister("cart", backend.address()).await;
    }
    until_journalled(&proxy, "pin_expired").await;
    assert!(began.elapsed() >= Duration::from_secs(5));
    let held = |cart: &Value| cart["endpoints"].to_string().matches("\"held\"").count() >= 2;
    proxy.until_service("cart", "they are held", held).await;
    for backend in [&b, &c, &d] {
        proxy.register("cart", backend.address()).await;
    }
    proxy.until_states("cart", &states(&[&b, &c, &d])).await;
    // And one comes back as a new one, and serves.
    a = ledger.backend("a").start().await;
    proxy.register("cart", a.address()).await;
    until_asked_more(&a).await;
    let report = load.stop(&ledger).await;
    report.assert_flawless_but_for_closes("pinned, unpinned, pinned back, expired");
}

#[tokio::test]
async fn the_journal_says_what_became_of_the_set_and_at_which_index() {
    let Some(consul) = Consul::start().await else {
        return;
    };
    let proxy = Proxy::start(&format!(
        "[registry.consul]\naddress = \"{}\"\n[[route]]\npath = \"/cart\"\nservice = \"cart\"\n",
        consul.url()
    ))
    .await;
    let service = |weight: u32, tags: Value| {
        json!({
            "ID": "cart-1", "Name": "cart", "Address": "127.0.0.1", "Port": 9,
            "Tags": tags, "Weights": {"Passing": weight, "Warning": 1},
        })
    };
    consul.register(service(1, json!([]))).await;
    let entry = until_journalled(&proxy, "registry").await;
    let index = async || {
        let path = "/v1/health/service/cart?index=0";
        let answer = proxy.http.get(consul.url() + path).send().await.unwrap();
        let index = answer.headers()["x-consul-index"].to_str().unwrap();
        index.parse::<u64>().unwrap()
    };
    assert_eq!(entry["registry"], "consul");
    assert_eq!(entry["revision"], index().await);
    assert_eq!(changes(&entry), [("added", "127.0.0.1:9")]);
    assert_eq!(
        (&entry["healthy"], &entry["unhealthy"]),
        (&json!(1), &json!(0))
    );

    consul.register(service(7, json!(["x"]))).await;
    let latest = async || journal(&proxy, "cart").await.remove(0);
    let other = |entry: &Value| changes(entry)[0].0 != "added";
    let entry = eventually("the change is journalled", latest, other).await;
    assert_eq!(entry["revision"], index().await);
    let expected = [
        ("weight_changed", "127.0.0.1:9"),
        ("tags_changed", "127.0.0.1:9"),
    ];
    assert_eq!(changes(&entry), expected);
    assert_eq!(entry["changes"][0]["weight"], 7);

    consul.deregister("cart-1").await;
    // Nobody listens there: it is held for the moment in which that is found out.
    let entry = until_journalled(&proxy, "guard").await;
    assert_eq!(changes(&entry), [("let_go", "127.0.0.1:9")]);
    let entries = journal(&proxy, "cart").await;
    assert_eq!(changes(&entries[1])[0].0, "held");
    let (status, error) = tell(&proxy, Method::POST, "/api/services/cart/pin", json!({})).await;
    assert_eq!(status, 409, "{error}");
    assert!(
        error["error"]
            .as_str()
            .unwrap()
            .contains("nobody in the set"),
        "{error}"
    );
}

/// Each change of a service that a registry numbers has a higher number in its journal.
async fn numbers_rise(registry: &str, put: impl AsyncFn(&str, &str)) {
    let route = "[[route]]\npath = \"/cart\"\nservice = \"cart\"\n";
    let proxy = Proxy::start(&format!("{registry}{route}")).await;
    let mut before = 0;
    for (key, count) in [("/services/cart/a", 1), ("/services/cart/b", 2)] {
        put(key, &format!("127.0.0.1:{count}")).await;
        let entries = async || journal(&proxy, "cart").await;
        let entries = eventually("it is journalled", entries, |all| all.len() == count).await;
        let revision = entries[0]["revision"].as_u64().unwrap();
        assert!(revision > before, "{revision} after {before}");
        before = revision;
    }
}

#[tokio::test]
async fn etcds_revision_stands_in_the_journal() {
    if let Some(etcd) = Etcd::start().await {
        let registry = format!("[registry.etcd]\naddress = \"{}\"\n", etcd.url());
        numbers_rise(&registry, async |key, value| etcd.put(key, value).await).await;
    }
}

#[tokio::test]
async fn zookeepers_zxid_stands_in_the_journal() {
    if let Some(server) = ZooKeeper::start().await {
        let client = server.client().await;
        let address = server.address();
        let registry = format!("[registry.zookeeper]\naddress = \"{address}\"\n");
        let put = async |key: &str, value: &str| make(&client, key, value.as_bytes()).await;
        numbers_rise(&registry, put).await;
    }
}

#[tokio::test]
async fn what_cannot_be_pinned_is_refused_with_what_to_do() {
    let proxy = Proxy::start(
        "[service.fixed]\nendpoints = [\"127.0.0.1:9\"]\n\
         [[route]]\npath = \"/fixed\"\nservice = \"fixed\"\n\
         [[route]]\npath = \"/nobody\"\nservice = \"nobody\"\n\
         [[route]]\npath = \"/cart\"\nservice = \"cart\"\n",
    )
    .await;
    let backend = Backend::start("a").await;
    proxy.register("cart", backend.address()).await;
    proxy.until_served("/cart").await;
    for (service, body, status, says) in [
        (
            "cart",
            json!({"set": 99}),
            404,
            "its journal has no set 99; it has 1 to 1",
        ),
        (
            "cart",
            json!({"set": "x"}),
            400,
            "write it as {\"set\": 17, \"for\": \"30m\"}",
        ),
        ("cart", json!({"sett": 1}), 400, "unknown field `sett`"),
        (
            "cart",
            json!({"for": "soon"}),
            400,
            "`for`: `soon` is not a duration",
        ),
        ("cart", json!({"for": "0s"}), 400, "at most 24 hours"),
        ("cart", json!({"for": "25h"}), 400, "at most 24 hours"),
        ("fixed", json!({}), 409, "proxy.toml"),
        ("nobody", json!({}), 409, "nothing is known of it yet"),
        (
            "unheard",
            json!({}),
            404,
            "no route and no request has named a service `unheard`",
        ),
    ] {
        let path = format!("/api/services/{service}/pin");
        let (answered, error) = tell(&proxy, Method::POST, &path, body.clone()).await;
        let error = error["error"].as_str().unwrap();
        assert_eq!(answered, status, "{body}: {error}");
        assert!(error.contains(says), "{body}: {error}");
    }
    // What any web page could send without being asked.
    let url = proxy.admin("/api/services/cart/pin");
    for kind in ["text/plain", "application/x-www-form-urlencoded"] {
        let request = proxy
            .http
            .post(&url)
            .header("content-type", kind)
            .body("{}");
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), 415);
        assert!(answer.text().await.unwrap().contains("application/json"));
    }
    assert_eq!(unpin(&proxy).await, 404);
    let (status, _) = tell(&proxy, Method::POST, "/api/services/cart", json!({})).await;
    assert_eq!(status, 405);
    let unheard = proxy.page("/api/services/unheard/journal").await;
    assert_eq!(unheard.status(), 404);
    assert_eq!(proxy.service("cart").await["pin"], Value::Null);
}

#[tokio::test]
async fn pinning_needs_the_token_where_one_is_set() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("token"), "s3cret").unwrap();
    let admin = "[admin]\naddress = \"127.0.0.1:0\"\ntoken = { file = \"token\" }\n";
    let proxy = Proxy::start_in(folder, admin).await;
    let backend = Backend::start("a").await;
    proxy.register("cart", backend.address()).await;
    proxy.until_served("/cart").await;
    let url = proxy.admin("/api/services/cart/pin");
    for method in [Method::POST, Method::DELETE] {
        let request = proxy.http.request(method.clone(), &url).json(&json!({}));
        assert_eq!(request.send().await.unwrap().status(), 401);
        let request = proxy.http.request(method, &url).json(&json!({}));
        let answer = request.bearer_auth("s3cret").send().await.unwrap();
        assert_eq!(answer.status(), 200);
    }
}

/// What a route's tags make has slashes in its name, and may end like one of these pages.
#[tokio::test]
async fn another_method_is_told_which_there_are_and_where() {
    let services = ["cart", "shop/pin", "shop/journal"];
    let route = |name: &&str| format!("[[route]]\npath = \"/{name}\"\nservice = \"{name}\"\n");
    let proxy = Proxy::start(&services.iter().map(route).collect::<String>()).await;
    let ask = async |method: Method, path: &str| {
        let url = proxy.admin(&format!("/api/services/{path}"));
        let answer = proxy.http.request(method, url).send().await.unwrap();
        let allow = answer.headers().get("allow");
        let allow = allow.map(|allow| allow.to_str().unwrap().to_owned());
        let status = answer.status().as_u16();
        (
            status,
            allow.unwrap_or_default(),
            answer.text().await.unwrap(),
        )
    };
    for (method, path, status, allowed, says) in [
        (
            Method::GET,
            "cart/pin",
            405,
            "POST,DELETE",
            "shown at /api/services/cart\"",
        ),
        (
            Method::GET,
            "shop/pin/pin",
            405,
            "POST,DELETE",
            "/api/services/shop/pin\"",
        ),
        (Method::GET, "shop/pin", 200, "", "\"name\":\"shop/pin\""),
        (Method::GET, "shop/journal/journal", 200, "", ""),
        (Method::GET, "hat/pin", 404, "", "named a service `hat`"),
        (Method::GET, "hat/journal", 404, "", "named a service `hat`"),
        (Method::GET, "hat", 404, "", "named a service `hat`"),
        (
            Method::DELETE,
            "cart/journal",
            405,
            "GET,HEAD",
            "/api/services/cart/pin\"",
        ),
        (
            Method::DELETE,
            "cart",
            405,
            "GET,HEAD",
            "/api/services/cart/pin\"",
        ),
        (
            Method::DELETE,
            "shop/pin",
            405,
            "GET,HEAD",
            "/api/services/shop/pin/pin\"",
        ),
        (
            Method::DELETE,
            "shop/journal",
            405,
            "GET,HEAD",
            "/api/services/shop/journal/pin\"",
        ),
        (
            Method::DELETE,
            "shop/pin/pin",
            404,
            "",
            "`shop/pin` is not pinned",
        ),
        (Method::DELETE, "hat/pin", 404, "", "named a service `hat`"),
        (
            Method::POST,
            "cart/journal",
            405,
            "GET,HEAD",
            "/api/services/cart/pin\"",
        ),
    ] {
        let (answered, allow, text) = ask(method.clone(), path).await;
        assert_eq!(
            (answered, &*allow),
            (status, allowed),
            "{method} {path}: {text}"
        );
        assert!(text.contains(says), "{method} {path}: {text}");
    }
    let head = ask(Method::HEAD, "cart/pin").await;
    assert_eq!((head.0, &*head.1), (405, "POST,DELETE"));
}
