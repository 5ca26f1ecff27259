//! The page on the status API has each field that is sent, and no other.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::page::Page;
use crate::support::{authority::Authority, backend::Backend, eventually, proxy::Proxy};

/// A proxy whose routes say all that a route can say, and that keeps a snapshot.
pub(super) const ALL: &str = r#"
zone = "a"
include = "more.toml"

[[listen]]
address = "127.0.0.1:0"

[[listen]]
address = "127.0.0.1:0"
tls = { certificates = [{ cert = "site-certificate.pem", key = "site-key.pem" }] }

[[listen]]
address = "127.0.0.1:0"
tls = { acme = { domains = ["shop.example.com"], directory = "https://127.0.0.1:9/none", ca = "ca.pem" } }

[registry.embedded]
address = "127.0.0.1:0"

[registry.other]
kind = "file"
path = "endpoints.toml"

[defaults]
registry = "embedded"

[[route]]
path = "/all"
method = "GET"
header = { a = "b" }
query = { a = "b" }
cookie = { a = "b" }
service = "cart"
tags = ["v1"]
meta = { zone = "a" }
balance = "p2c"
retry = { attempts = 2 }
timeout = { total = "5s" }
fallback = "x"
rate = { requests = 5 }

[[route]]
path = "/parts"
split = [{ service = "cart", weight = 1 }, { service = "x", weight = 1 }]

[service.x]
registry = "other"
"#;

/// What it includes.
pub(super) const MORE: &str = "[[route]]\npath = \"/more\"\nservice = \"x\"\n";

/// The fields that the page has below a heading.
fn shown(page: &Page, heading: &str) -> BTreeSet<String> {
    let rows = page.rows(heading);
    let fields: Vec<_> = rows
        .iter()
        .filter_map(|row| row[0].strip_prefix('`')?.strip_suffix('`'))
        .map(str::to_owned)
        .collect();
    let once: BTreeSet<_> = fields.iter().cloned().collect();
    assert_eq!(once.len(), fields.len(), "{heading}: a field stands twice");
    once
}

fn fields<'a>(objects: impl IntoIterator<Item = &'a Value>) -> BTreeSet<String> {
    let objects = objects.into_iter();
    objects
        .flat_map(|object| object.as_object().unwrap().keys().cloned())
        .collect()
}

#[tokio::test]
async fn every_field_of_the_status_stands_in_its_table_and_no_other() {
    let backend = Backend::start("a").await;
    let folder = tempfile::tempdir().unwrap();
    Authority::new(folder.path()).issue("site");
    std::fs::write(folder.path().join("more.toml"), MORE).unwrap();
    let path = folder.path().join("endpoints.toml");
    std::fs::write(path, "[x]\nendpoints = [\"127.0.0.1:9\"]\n").unwrap();
    let proxy = Proxy::start_in(folder, ALL).await;
    let more = json!({"Tags": ["v1"], "Meta": {"zone": "a"}});
    proxy.register_with("cart", backend.address(), more).await;
    proxy
        .until_states("cart", &[(backend.address(), "serving")])
        .await;

    let other = proxy.http.post(proxy.admin("/api/share"));
    let other = other.json(&json!({ "route": "/parts", "weights": { "x": 2 } }));
    assert_eq!(other.send().await.unwrap().status(), 200);
    let status = proxy.page("/api/status?limit=1").await;
    let whole: Value = serde_json::from_str(&status.text().await.unwrap()).unwrap();
    let cart = &whole["services"][0];
    let page = Page::read("docs/status.md");
    proxy.until_served("/parts").await;
    let series = eventually(
        "there is a sample",
        async || -> Value {
            let history = proxy.page("/api/history?service=cart").await;
            history.json::<Value>().await.unwrap()["services"]["cart"].clone()
        },
        Value::is_object,
    );
    let series = series.await;
    // A pinned service is something unusual.
    let pin = proxy.http.post(proxy.admin("/api/services/cart/pin"));
    assert_eq!(pin.json(&json!({})).send().await.unwrap().status(), 200);
    let finding = &proxy.status().await["findings"][0];
    for (heading, sent) in [
        ("The whole", fields([&whole])),
        ("TLS", fields([&whole["tls"][0]])),
        (
            "A certificate",
            fields([&whole["tls"][0]["certificates"][0]]),
        ),
        ("A name with an order", fields([&whole["acme"][0]])),
        ("A route", fields(whole["routes"].as_array().unwrap())),
        ("A service", fields([cart])),
        ("A view", fields([&cart["views"][0]])),
        ("An endpoint", fields([&cart["endpoints"][0]])),
        ("A watcher", fields([&cart["watches"][0]])),
        ("A registry", fields([&whole["registries"][0]])),
        ("The snapshot", fields([&whole["snapshot"]])),
        ("A finding", fields([finding])),
        ("The history", fields([&series])),
    ] {
        assert_eq!(shown(&page, heading), sent, "{heading}");
    }
    proxy.drain().await;
}
