//! fabio's tags make routes: each as its options say, a bad one none, and a registry that loses
//! its data takes none away.

use serde_json::{Value, json};

use crate::support::{
    backend::Backend,
    consul::Consul,
    eventually,
    load::{Ledger, Load},
    proxy::{Proxy, instance},
};

/// A proxy without a route in its file.
async fn proxy(consul: &Consul, more: &str) -> Proxy {
    let config = format!(
        "{more}\n[registry.consul]\naddress = \"{}\"\nroutes = \"urlprefix\"\n",
        consul.url()
    );
    // The helper would add a template route where none stands in the text.
    let route = "[[route]]\nhost = \"unused.example\"\nservice = \"unused\"\n";
    Proxy::start(&format!("{config}{route}")).await
}

async fn sign_in(consul: &Consul, name: &str, backend: &Backend, tags: &[&str]) {
    let service = json!({
        "ID": instance(name, backend.address()),
        "Name": name,
        "Address": backend.address().ip(),
        "Port": backend.address().port(),
        "Tags": tags,
    });
    consul.register(service).await;
}

/// A backend that answers with its id and the path that it sees.
async fn shows_path(id: &'static str) -> Backend {
    let setup = Backend::named(id).answering(move |request| {
        let seen = format!("{id} {}", request.uri());
        async move { seen }
    });
    setup.start().await
}

/// Waits for an answer of this text.
async fn until_says(proxy: &Proxy, host: &str, path: &str, text: &str) {
    let ask = async || {
        let request = proxy.http.get(proxy.url(path)).header("host", host);
        request.send().await.unwrap().text().await.unwrap()
    };
    let what = format!("{host}{path} says {text}");
    eventually(&what, ask, |said| said == text).await;
}

#[tokio::test]
async fn a_tag_makes_a_route_with_its_options_and_takes_it_away_again() {
    let Some(consul) = Consul::start().await else {
        return;
    };
    let proxy = proxy(&consul, "").await;
    let [a, b, c] = [
        shows_path("a").await,
        shows_path("b").await,
        shows_path("c").await,
    ];
    sign_in(&consul, "cart", &a, &["v1", "urlprefix-/cart"]).await;
    let host = ["urlprefix-shop.example.com/items strip=/items"];
    sign_in(&consul, "shop", &b, &host).await;
    until_says(&proxy, "any.example", "/cart/7?x=1", "a /cart/7?x=1").await;
    until_says(&proxy, "shop.example.com", "/items/7", "b /7").await;
    // On a segment's boundary, other than with fabio; and only on that host.
    assert_eq!(proxy.get("/cartoon").await.status(), 404);
    assert_eq!(proxy.get("/items/7").await.status(), 404);

    // An instance of the same service without the tag is not reached.
    sign_in(&consul, "cart", &c, &["v2"]).await;
    proxy
        .until_service("/cart", "one instance has the tag", |service| {
            service["endpoints"]
                .as_array()
                .is_some_and(|all| all.len() == 1)
        })
        .await;
    // Two services with the same tag share the route.
    sign_in(&consul, "cart-canary", &c, &["urlprefix-/cart"]).await;
    until_says(&proxy, "x", "/cart/1", "c /cart/1").await;
    until_says(&proxy, "x", "/cart/1", "a /cart/1").await;

    let status = proxy.status().await;
    let routes = status["routes"].as_array().unwrap();
    let cart = routes.iter().find(|route| route["service"] == "/cart");
    assert_eq!(cart.unwrap()["tagged_by"], json!(["cart", "cart-canary"]));
    assert_eq!(cart.unwrap()["line"], Value::Null);

    // The tag is taken off: the others keep the route.
    sign_in(&consul, "cart", &a, &["v1"]).await;
    proxy
        .until_service("/cart", "the other has it alone", |service| {
            let endpoints = service["endpoints"].as_array().unwrap();
            let serving = endpoints
                .iter()
                .filter(|endpoint| endpoint["state"] == "serving");
            let addresses: Vec<_> = serving.map(|endpoint| &endpoint["address"]).collect();
            addresses == [&json!(c.address().to_string())]
        })
        .await;
}

#[tokio::test]
async fn a_sidecar_with_its_services_tags_is_not_called() {
    let Some(consul) = Consul::start().await else {
        return;
    };
    let proxy = proxy(&consul, "").await;
    let [web, sidecar] = [shows_path("web").await, shows_path("sidecar").await];
    sign_in(&consul, "web", &web, &["urlprefix-/web"]).await;
    for (name, kind) in [
        ("web-sidecar-proxy", "connect-proxy"),
        ("web", "mesh-gateway"),
    ] {
        let mut service = json!({
            "ID": kind, "Name": name, "Kind": kind, "Tags": ["urlprefix-/web"],
            "Address": sidecar.address().ip(), "Port": sidecar.address().port(),
        });
        if kind == "connect-proxy" {
            service["Proxy"] = json!({"DestinationServiceName": "web"});
        }
        consul.register(service).await;
    }
    until_says(&proxy, "any", "/web", "web /web").await;
    for _ in 0..20 {
        assert_eq!(proxy.get("/web").await.status(), 200);
    }
    assert_eq!(sidecar.requests(), 0);
    let status = proxy.status().await;
    let routes = status["routes"].as_array().unwrap();
    let web = routes.iter().find(|route| route["service"] == "/web");
    assert_eq!(web.unwrap()["tagged_by"], json!(["web"]));
}

#[tokio::test]
async fn a_bad_tag_is_quarantined_and_the_file_stands_before_tags() {
    let Some(consul) = Consul::start().await else {
        return;
    };
    let [a, b] = [shows_path("a").await, shows_path("b").await];
    let file = format!(
        "[[route]]\npath = \"/cart\"\nservice = \"fixed\"\n\
         [service.fixed]\nendpoints = [\"{}\"]\n",
        a.address()
    );
    let proxy = proxy(&consul, &file).await;
    let tags = ["urlprefix-nonsense", "urlprefix-/good", "urlprefix-/cart"];
    sign_in(&consul, "mixed", &b, &tags).await;
    until_says(&proxy, "x", "/good", "b /good").await;
    until_says(&proxy, "x", "/cart", "a /cart").await;
    let status = proxy.status().await;
    let bad = json!([{
        "registry": "consul",
        "service": "mixed",
        "tag": "urlprefix-nonsense",
        "reason": "`nonsense` has no path: write `nonsense/`",
    }]);
    assert_eq!(status["quarantined"], bad);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_registry_that_comes_back_empty_takes_no_route_away() {
    let Some(mut consul) = Consul::start().await else {
        return;
    };
    let proxy = proxy(&consul, "").await;
    let ledger = Ledger::default();
    let backends = [
        ledger.backend("a").start().await,
        ledger.backend("b").start().await,
    ];
    let tag = ["urlprefix-/cart strip=/cart"];
    for backend in &backends {
        sign_in(&consul, "cart", backend, &tag).await;
    }
    proxy.until_served("/cart/x").await;
    let load = Load::start(proxy.address(), "/cart", 200).await;
    consul.restart_empty().await;
    // What the proxy makes of the empty answers is the subject: it has some seconds for it.
    proxy
        .until_service("/cart", "they are held", |service| {
            service["endpoints"][0]["state"] == "held"
        })
        .await;
    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    for backend in &backends {
        sign_in(&consul, "cart", backend, &tag).await;
    }
    let all = [backends[0].address(), backends[1].address()].map(|address| (address, "serving"));
    proxy.until_states("/cart", &all).await;
    let report = load.stop(&ledger).await;
    report.assert_flawless("a Consul with tags, back empty");
}

#[tokio::test]
async fn a_weight_is_the_part_of_a_routes_requests_that_an_instance_gets() {
    let Some(consul) = Consul::start().await else {
        return;
    };
    let proxy = proxy(&consul, "").await;
    let [a, b, c] = [
        Backend::start("a").await,
        Backend::start("b").await,
        Backend::start("c").await,
    ];
    sign_in(&consul, "canary", &a, &["urlprefix-/cart weight=0.2"]).await;
    for backend in [&b, &c] {
        sign_in(&consul, "cart", backend, &["urlprefix-/cart"]).await;
    }
    let all = [&a, &b, &c].map(|backend| (backend.address(), "serving"));
    proxy.until_states("/cart", &all).await;
    let before = [&a, &b, &c].map(Backend::requests);
    for _ in 0..100 {
        assert_eq!(proxy.get("/cart").await.status(), 200);
    }
    let after = [&a, &b, &c].map(Backend::requests);
    let got: Vec<_> = std::iter::zip(before, after).map(|(b, a)| a - b).collect();
    assert_eq!(got, [20, 40, 40]);
}
