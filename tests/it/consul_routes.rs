//! A real Consul behind a whole proxy: declared routes reach what is registered there, and an
//! instance whose check fails is not asked until it passes again.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use http::StatusCode;
use serde_json::json;

use crate::support::{
    backend::{BACKEND, Backend},
    consul::Consul,
    eventually,
    proxy::Proxy,
};

const ROUTES: &str = r#"
[[route]]
host = "shop.example.com"
service = "shop"

[[route]]
path = "/cart"
service = "cart"
strip_prefix = true
"#;

async fn before(consul: &Consul) -> Proxy {
    let registry = format!("[registry.consul]\naddress = \"{}\"\n", consul.url());
    Proxy::start(&format!("{ROUTES}{registry}")).await
}

/// Status, who answered, and what was said.
async fn ask(proxy: &Proxy, host: &str, path: &str) -> (StatusCode, String, String) {
    let asked = proxy.http.get(proxy.url(path)).header("host", host);
    let answer = asked.send().await.unwrap();
    let backend = answer.headers().get(BACKEND);
    let backend = backend.map_or("", |id| id.to_str().unwrap()).to_owned();
    (answer.status(), backend, answer.text().await.unwrap())
}

async fn register(consul: &Consul, name: &str, address: SocketAddr, check: Option<&str>) {
    let mut service = json!({
        "ID": address.to_string(), "Name": name, "Address": address.ip(), "Port": address.port(),
    });
    if let Some(path) = check {
        let url = format!("http://{address}{path}");
        service["Check"] = json!({"HTTP": url, "Interval": "1s", "Timeout": "1s"});
    }
    consul.register(service).await;
}

fn echo(id: &str) -> crate::support::backend::Setup {
    Backend::named(id).answering(async |request| request.uri().to_string())
}

#[tokio::test]
async fn a_host_and_a_prefix_reach_what_is_registered_and_nothing_else() {
    let Some(consul) = Consul::start().await else {
        return;
    };
    let proxy = before(&consul).await;
    let (shop, cart) = (echo("shop").start().await, echo("cart").start().await);
    // Known, and nobody is there yet.
    let (status, _, says) = ask(&proxy, "shop.example.com", "/").await;
    assert_eq!(status, 503, "{says}");
    register(&consul, "shop", shop.address(), None).await;
    register(&consul, "cart", cart.address(), None).await;
    for (host, path, id, sees) in [
        ("shop.example.com", "/", "shop", "/"),
        // The exact host stands before the prefix.
        ("shop.example.com", "/cart/7", "shop", "/cart/7"),
        ("SHOP.example.com:80", "/a?b", "shop", "/a?b"),
        ("other.example.com", "/cart/7", "cart", "/7"),
        ("other.example.com", "/cart", "cart", "/"),
    ] {
        let got = eventually(
            "it is served",
            async || ask(&proxy, host, path).await,
            |(status, ..)| *status == 200,
        );
        let (_, backend, seen) = got.await;
        assert_eq!((&*backend, &*seen), (id, sees), "{host}{path}");
    }
    for (host, path) in [
        ("other.example.com", "/"),
        ("other.example.com", "/cartoon"),
        ("a.shop.example.com", "/"),
    ] {
        assert_eq!(ask(&proxy, host, path).await.0, 404, "{host}{path}");
    }
}

#[tokio::test]
async fn a_name_leads_to_one_service_or_to_none_however_it_is_spelled() {
    let Some(consul) = Consul::start().await else {
        return;
    };
    let [app, billing, inner] = [echo("app"), echo("billing"), echo("inner")];
    let (app, billing, inner) = (
        app.start().await,
        billing.start().await,
        inner.start().await,
    );
    register(&consul, "MyApp", app.address(), None).await;
    register(&consul, "billing", billing.address(), None).await;
    // Whoever may register a spelling does not thereby reach what has another.
    register(&consul, "BILLING", inner.address(), None).await;
    register(&consul, "Consul", inner.address(), None).await;
    let proxy = Proxy::start(&format!(
        "[registry.consul]\naddress = \"{}\"\nexpose = {{ not = [\"Billing\"] }}\n\
         [service.MYAPP]\nlimits = {{ concurrent = 7 }}\n\
         [[route]]\nhost = \"{{service}}.internal\"\nservice = \"{{service}}\"\n\
         [[route]]\npath = \"/{{service}}\"\nservice = \"{{service}}\"\nstrip_prefix = true\n",
        consul.url()
    ))
    .await;
    for (host, path) in [
        ("myapp.internal", "/"),
        ("MyApp.internal", "/"),
        ("any", "/MyApp"),
        ("any", "/myapp"),
        ("any", "/MYAPP"),
    ] {
        let (status, backend, says) = ask(&proxy, host, path).await;
        assert_eq!(
            (status.as_u16(), &*backend),
            (200, "app"),
            "{host}{path}: {says}"
        );
    }
    for (host, path) in [
        ("billing.internal", "/"),
        ("any", "/billing"),
        ("any", "/Billing"),
        ("any", "/BILLING"),
        ("any", "/consul"),
        ("any", "/Consul"),
    ] {
        assert_eq!(ask(&proxy, host, path).await.0, 404, "{host}{path}");
    }
    // All are one service, and what the file says of it holds.
    let status = proxy.status().await;
    let services = status["services"].as_array().unwrap();
    let names: Vec<_> = services.iter().map(|service| &service["name"]).collect();
    assert_eq!(names, ["MYAPP"]);
    assert_eq!(services[0]["limits"]["concurrent"], 7, "{services:?}");
    assert_eq!(services[0]["requests"], 5);
}

#[tokio::test]
async fn an_instance_whose_check_fails_is_not_asked_until_it_passes_again() {
    let Some(consul) = Consul::start().await else {
        return;
    };
    let proxy = before(&consul).await;
    let is_well = Arc::new(AtomicBool::new(true));
    let well = Arc::clone(&is_well);
    let ails = Backend::named("ails").answering(move |request| {
        let asks = request.uri().path() == "/health";
        let status = if asks && !well.load(Relaxed) {
            503
        } else {
            200
        };
        async move { StatusCode::from_u16(status).unwrap() }
    });
    let (ails, other) = (ails.start().await, echo("other").start().await);
    register(&consul, "cart", ails.address(), Some("/health")).await;
    register(&consul, "cart", other.address(), Some("/health")).await;
    // Until its check has passed once, nobody is asked.
    for well in [true, false, true] {
        is_well.store(well, Relaxed);
        let state = if well { "serving" } else { "unhealthy" };
        let states = [(ails.address(), state), (other.address(), "serving")];
        proxy.until_states("cart", &states).await;
        let mut asked = Vec::new();
        for _ in 0..10 {
            let (status, backend, _) = ask(&proxy, "any", "/cart").await;
            assert_eq!(status, 200);
            asked.push(backend);
        }
        let ails = asked.iter().filter(|id| *id == "ails").count();
        assert_eq!(ails, if well { 5 } else { 0 }, "{asked:?}");
    }
    // When all fail there is nobody, and it says so.
    is_well.store(false, Relaxed);
    let gone = other.address();
    other.close().await;
    let states = [(ails.address(), "unhealthy"), (gone, "unhealthy")];
    proxy.until_states("cart", &states).await;
    let answer = proxy.get("/cart").await;
    assert_eq!(answer.status(), 503);
    assert_eq!(answer.headers()["retry-after"], "1");
    is_well.store(true, Relaxed);
    let back = async || ask(&proxy, "any", "/cart").await.0;
    eventually("it serves again", back, |status| *status == 200).await;
}
