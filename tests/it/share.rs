//! Other shares of a route than the file's hold for as long as was said and no longer, and are shown.

use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::{
    backend::{Backend, by},
    eventually,
    proxy::Proxy,
};

const FILE: &str = "workers = 2\n[[route]]\npath = \"/cart\"\nstrip_prefix = true\n\
    split = [{ service = \"cart\", weight = 9 }, { service = \"cart-v2\", weight = 1 }]\n\
    [[route]]\npath = \"/other\"\nservice = \"cart\"\n";

async fn start() -> (Proxy, Backend, Backend) {
    let proxy = Proxy::start(FILE).await;
    let (one, two) = (Backend::start("one").await, Backend::start("two").await);
    proxy.register("cart", one.address()).await;
    proxy.register("cart-v2", two.address()).await;
    for (service, backend) in [("cart", &one), ("cart-v2", &two)] {
        proxy
            .until_states(service, &[(backend.address(), "serving")])
            .await;
    }
    (proxy, one, two)
}

async fn tell(proxy: &Proxy, method: Method, path: &str, body: Value) -> (StatusCode, Value) {
    let request = proxy.http.request(method, proxy.admin(path)).json(&body);
    let answer = request.send().await.unwrap();
    (answer.status(), answer.json().await.unwrap())
}

async fn share(proxy: &Proxy, body: Value) -> (StatusCode, Value) {
    tell(proxy, Method::POST, "/api/share", body).await
}

/// How many of ten requests the second service gets.
async fn of_ten(proxy: &Proxy) -> usize {
    let mut second = 0;
    for _ in 0..10 {
        let answer = proxy.get("/cart").await;
        assert_eq!(answer.status(), 200);
        second += usize::from(by(&answer) == "two");
    }
    second
}

async fn route(proxy: &Proxy) -> Value {
    let status = proxy.status().await;
    let routes = status["routes"].as_array().unwrap();
    let found = routes.iter().find(|route| route["path"] == "/cart");
    found.unwrap().clone()
}

#[tokio::test]
async fn other_shares_hold_until_they_are_ended_and_are_shown() {
    let (proxy, _one, _two) = start().await;
    assert_eq!(of_ten(&proxy).await, 1);
    let (status, said) = share(
        &proxy,
        json!({ "route": "/cart", "weights": { "cart": 0, "cart-v2": 3 }, "for": "1h" }),
    )
    .await;
    assert_eq!(status, 200, "{said}");
    assert_eq!(said["weights"], json!({ "cart": 0, "cart-v2": 3 }));
    assert!(said["seconds_left"].as_f64() > Some(3500.0), "{said}");
    assert_eq!(of_ten(&proxy).await, 10);
    let shown = route(&proxy).await;
    assert_eq!(
        (
            &shown["split"][0]["weight"],
            &shown["split"][0]["weight_of_file"]
        ),
        (&json!(0), &json!(9)),
        "{shown}"
    );
    assert!(shown["split_changed"]["ends"].is_number(), "{shown}");
    let findings = proxy.status().await["findings"].to_string();
    let says = "route /cart: the shares are cart=0, cart-v2=3 for another ";
    assert!(findings.contains(says), "{findings}");
    let metrics = proxy.page("/metrics").await.text().await.unwrap();
    let lines = metrics.lines();
    let changed = lines.filter(|line| line.starts_with("callboard_split_changed{"));
    let changed: Vec<_> = changed.collect();
    assert!(
        matches!(changed[..], [one] if one.ends_with(" 1") && one.contains("/cart")),
        "{changed:?}"
    );
    // A request that is explained goes where it would go.
    let explained = proxy.page("/api/explain?url=/cart").await;
    let explained = explained.text().await.unwrap();
    assert!(!explained.contains("\"cart\""), "{explained}");

    let path = "/api/share?route=cart-v2";
    let (status, said) = tell(&proxy, Method::DELETE, path, Value::Null).await;
    assert_eq!(status, 200, "{said}");
    assert_eq!(of_ten(&proxy).await, 1);
    assert!(route(&proxy).await.get("split_changed").is_none());
    let (status, _) = tell(&proxy, Method::DELETE, path, Value::Null).await;
    assert_eq!(status, 404);
    proxy.drain().await;
}

#[tokio::test]
async fn what_cannot_be_shared_is_refused_and_changes_nothing() {
    let (proxy, _one, _two) = start().await;
    for (body, status, says) in [
        (
            json!({ "route": "/other", "weights": {} }),
            404,
            "those that have shares are `/cart`",
        ),
        (
            json!({ "route": "/cart", "weights": { "hat": 1 } }),
            404,
            "`hat` has no share of it",
        ),
        (
            json!({ "route": "/cart", "weights": { "cart": 0, "cart-v2": 0 } }),
            400,
            "all weights would be 0",
        ),
        (
            json!({ "route": "/cart", "weights": { "cart": 10_001 } }),
            400,
            "a weight is at most 10000",
        ),
        (
            json!({ "route": "/cart", "weights": { "cart": 1 }, "for": "25h" }),
            400,
            "at most 24 hours",
        ),
        (json!({ "route": "/cart" }), 400, "missing field `weights`"),
    ] {
        let (answered, said) = share(&proxy, body.clone()).await;
        assert_eq!(answered, status, "{body}: {said}");
        let error = said["error"].as_str().unwrap();
        assert!(error.contains(says), "{body}: {error}");
    }
    assert_eq!(of_ten(&proxy).await, 1);
    assert!(route(&proxy).await.get("split_changed").is_none());
    proxy.drain().await;
}

#[tokio::test]
async fn a_route_is_named_though_one_with_conditions_has_the_same_path() {
    let beta = "[[route]]\npath = \"/cart\"\nheader = { x-beta = \"true\" }\n\
        split = [{ service = \"cart\", weight = 1 }, { service = \"cart-v2\", weight = 1 }]\n";
    let proxy = Proxy::start(&format!("{FILE}{beta}")).await;
    let plain = json!({ "route": "/cart", "weights": { "cart": 0 }, "for": "1h" });
    let (status, said) = share(&proxy, plain).await;
    assert_eq!(status, StatusCode::OK, "{said}");
    assert_eq!(said["route"], "/cart", "{said}");
    let (status, said) = tell(&proxy, Method::DELETE, "/api/share?route=/cart", json!({})).await;
    assert_eq!(status, StatusCode::OK, "{said}");
    // Both have shares of it.
    let (status, said) = share(&proxy, json!({ "route": "cart", "weights": { "cart": 0 } })).await;
    assert_eq!(status, StatusCode::CONFLICT, "{said}");
}

#[tokio::test]
async fn other_shares_end_by_themselves() {
    let (proxy, _one, _two) = start().await;
    let wanted = json!({ "route": "/cart", "weights": { "cart-v2": 0 }, "for": "1s" });
    assert_eq!(share(&proxy, wanted).await.0, 200);
    let ended = async || route(&proxy).await["split_changed"].is_null();
    eventually("they end", ended, |ended| *ended).await;
    assert_eq!(of_ten(&proxy).await, 1);
    proxy.drain().await;
}

#[tokio::test]
async fn a_reload_leaves_them_unless_the_file_has_other_shares() {
    let (proxy, _one, _two) = start().await;
    let wanted = json!({ "route": "/cart", "weights": { "cart-v2": 9 }, "for": "2h" });
    assert_eq!(share(&proxy, wanted).await.0, 200);
    let at_run_time = async |text: &str| {
        let (status, said) = proxy.reload(text).await;
        assert_eq!(status, 200, "{said}");
        said["changes"]["at_run_time"].clone()
    };
    let more = format!("{FILE}[[route]]\npath = \"/new\"\nservice = \"cart\"\n");
    let said = at_run_time(&more).await;
    let stays = "/cart: the shares are cart=9, cart-v2=9 for another 1h59m";
    assert!(said[0].as_str().unwrap().starts_with(stays), "{said}");
    assert!(route(&proxy).await["split_changed"].is_object());
    let said = at_run_time(&FILE.replace("weight = 9", "weight = 8")).await;
    let ends = "/cart: the shares cart=9, cart-v2=9 end, for the file has others";
    assert_eq!(said, json!([ends]));
    let shown = route(&proxy).await;
    assert!(shown.get("split_changed").is_none(), "{shown}");
    assert_eq!(shown["split"][0]["weight"], 8);
    assert_eq!(at_run_time(FILE).await, Value::Null);
    proxy.drain().await;
}
