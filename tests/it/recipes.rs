//! Each file of docs/recipes.md is read as it stands there, runs, and does what its recipe promises.

use std::{
    cell::Cell,
    collections::BTreeMap,
    net::SocketAddr,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
};

use axum::response::IntoResponse as _;
use callboard::config::Config;
use http::{Method, Request, StatusCode};
use hyper::body::Incoming;
use reqwest::Response;
use serde_json::{Value, json};

use crate::support::{
    authority::Authority,
    backend::{Backend, by},
    consul::Consul,
    eureka::Eureka,
    eventually,
    grpc::{self, GrpcServer},
    proxy::{Proxy, endpoints, set_cookie},
    raw::Wire,
};

const PAGE: &str = include_str!("../../docs/recipes.md");

/// The blocks of one language below a heading.
fn blocks<'a>(language: &str, heading: &str) -> Vec<&'a str> {
    let section = PAGE.split("\n## ").find_map(|section| {
        let (first, rest) = section.split_once('\n')?;
        (first == heading).then_some(rest)
    });
    let section = section.unwrap_or_else(|| panic!("no recipe is called {heading:?}"));
    let mut parts = section.split("\n```");
    let _before = parts.next();
    // Every other fence ends a block.
    let opened = parts.step_by(2);
    opened
        .filter_map(|block| block.strip_prefix(language)?.strip_prefix('\n'))
        .collect()
}

/// The file of a recipe, with what a test puts in the place of addresses and times.
struct Recipe(String);

impl Recipe {
    fn of(heading: &str) -> Self {
        let [file] = blocks("toml", heading)[..] else {
            panic!("a recipe has one file: {heading:?}");
        };
        Self(file.to_owned()).with("\"0.0.0.0:8080\"", "\"127.0.0.1:0\"")
    }

    /// With another text in the place of one that the recipe has.
    fn with(self, of_the_page: &str, of_the_test: &str) -> Self {
        assert!(self.0.contains(of_the_page), "{of_the_page}:\n{}", self.0);
        Self(self.0.replace(of_the_page, of_the_test))
    }

    /// With an address in the place of each of these.
    fn at<const N: usize>(self, of_the_page: [&str; N], backends: [&Backend; N]) -> Self {
        let pairs = of_the_page.into_iter().zip(backends);
        pairs.fold(self, |recipe, (text, backend)| {
            recipe.with(text, &backend.address().to_string())
        })
    }

    /// With a registry of the test's in the place of the Consul at 127.0.0.1:8500.
    async fn with_consul(self) -> (Proxy, Proxy) {
        let consul = Proxy::start("").await;
        let recipe = self.with("http://127.0.0.1:8500", &consul.registry(""));
        (recipe.start().await, consul)
    }

    async fn start(&self) -> Proxy {
        Proxy::start(&self.0).await
    }
}

async fn ask(proxy: &Proxy, host: &str, path: &str) -> Response {
    let request = proxy.http.get(proxy.url(path)).header("host", host);
    request.send().await.unwrap()
}

/// Waits until a host's path is answered by this backend.
async fn until_by(proxy: &Proxy, host: &str, path: &str, id: &str) {
    let answer = async || {
        let answer = ask(proxy, host, path).await;
        match answer.status() {
            StatusCode::OK => by(&answer),
            status => status.to_string(),
        }
    };
    let what = format!("{host}{path} is answered by {id}");
    eventually(&what, answer, |answer| answer == id).await;
}

/// Waits until a service has so many endpoints that serve.
async fn until_serving(proxy: &Proxy, service: &str, count: usize) {
    let serving = |service: &Value| {
        let states = endpoints(service).map(|endpoint| &endpoint["state"]);
        states.filter(|state| *state == "serving").count() == count
    };
    let what = format!("{count} of {service} serve");
    proxy.until_service(service, &what, serving).await;
}

async fn sign_in(registry: &Proxy, name: &str, backend: &Backend, tags: &[&str]) {
    let tags = json!({ "Tags": tags });
    registry.register_with(name, backend.address(), tags).await;
}

/// A backend that answers with the path that it sees.
async fn shows_path(id: &str) -> Backend {
    let setup = Backend::named(id).answering(async |request| request.uri().path().to_owned());
    setup.start().await
}

/// Puts a certificate for this host where the recipes have it, in the authority's own folder.
fn issue_for(authority: &Authority, folder: &Path, host: &str) {
    let (certificate, key) = authority.issue_for("new", &[host], |_| {});
    std::fs::rename(key, folder.join("shop-key.pem")).unwrap();
    std::fs::rename(certificate, folder.join("shop.pem")).unwrap();
}

fn registration(name: &str, backend: &Backend, tags: &[&str]) -> Value {
    let address = backend.address();
    json!({
        "ID": format!("{name}-{}", backend.id()), "Name": name, "Tags": tags,
        "Address": address.ip(), "Port": address.port(),
    })
}

#[test]
fn every_file_of_the_page_is_checked_and_run_by_a_test_of_its_heading() {
    let tests = include_str!("recipes.rs");
    let headings: Vec<_> = PAGE
        .split("\n## ")
        .skip(1)
        .map(|section| section.lines().next().unwrap())
        .collect();
    assert_eq!(headings.len(), 15);
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("consul-token"), "a-token").unwrap();
    let authority = Authority::new(folder.path());
    issue_for(&authority, folder.path(), "shop.example.com");
    for heading in headings {
        assert!(
            tests.contains(&format!("Recipe::of(\"{heading}\")")),
            "no test runs {heading:?}"
        );
        let [file] = blocks("toml", heading)[..] else {
            panic!("a recipe has one file: {heading:?}");
        };
        let path = folder.path().join("proxy.toml");
        std::fs::write(&path, file).unwrap();
        Config::check(&path).unwrap_or_else(|report| panic!("{heading}: {report}"));
    }
}

#[tokio::test]
async fn a_shop_has_each_service_at_its_path() {
    let recipe = Recipe::of("A shop with three services");
    let (proxy, consul) = recipe.with_consul().await;
    let host = "shop.example.com";
    for (service, path, seen) in [
        ("web", "/checkout", "/checkout"),
        ("cart", "/cart/7", "/cart/7"),
        ("catalog", "/api/catalog/items", "/items"),
    ] {
        assert_eq!(ask(&proxy, host, path).await.status(), 503, "{path}");
        let backend = shows_path(service).await;
        consul.register(service, backend.address()).await;
        until_by(&proxy, host, path, service).await;
        assert_eq!(ask(&proxy, host, path).await.text().await.unwrap(), seen);
        consul.deregister(service, backend.address()).await;
    }
    assert_eq!(ask(&proxy, "else.example.com", "/").await.status(), 404);
}

#[tokio::test]
async fn a_canary_gets_five_of_a_hundred_requests_and_none_fails_before_it_is_there() {
    let recipe = Recipe::of("A canary with 5 percent of the requests");
    let (proxy, consul) = recipe.with_consul().await;
    let host = "shop.example.com";
    let [old, new] = [Backend::start("old").await, Backend::start("new").await];
    sign_in(&consul, "cart", &old, &["v1"]).await;
    until_serving(&proxy, "cart", 1).await;
    for _ in 0..40 {
        assert_eq!(by(&ask(&proxy, host, "/cart").await), "old");
    }
    sign_in(&consul, "cart", &new, &["v2"]).await;
    until_serving(&proxy, "cart-canary", 1).await;
    for _ in 0..100 {
        assert_eq!(ask(&proxy, host, "/cart").await.status(), 200);
    }
    assert_eq!(new.requests(), 5);
    for _ in 0..10 {
        let request = proxy.http.get(proxy.url("/cart")).header("host", host);
        let answer = request.header("x-canary", "always").send().await.unwrap();
        assert_eq!(by(&answer), "new");
    }
}

#[tokio::test]
async fn a_session_sticks_to_its_endpoint_and_moves_with_it_gone() {
    let (proxy, consul) = Recipe::of("Sticky sessions").with_consul().await;
    let host = "shop.example.com";
    let mut shops = BTreeMap::new();
    for id in ["a", "b", "c"] {
        let backend = Backend::start(id).await;
        consul.register("shop", backend.address()).await;
        shops.insert(id.to_owned(), backend);
    }
    until_serving(&proxy, "shop", 3).await;
    let first = ask(&proxy, host, "/").await;
    let cookie = set_cookie(&first).unwrap();
    assert!(cookie.starts_with("shop-node="), "{cookie}");
    let with_cookie = async || {
        let request = proxy.http.get(proxy.url("/")).header("host", host);
        request.header("cookie", &cookie).send().await.unwrap()
    };
    for _ in 0..20 {
        let answer = with_cookie().await;
        assert_eq!((by(&answer), set_cookie(&answer)), (by(&first), None));
    }
    shops.remove(&by(&first)).unwrap().kill().await;
    let moved = with_cookie().await;
    assert_eq!(moved.status(), 200);
    assert_ne!(set_cookie(&moved), Some(cookie.clone()));
    assert!(set_cookie(&moved).is_some());
}

#[tokio::test]
async fn a_client_that_asks_too_often_is_told_so_by_address_and_by_key() {
    let host = "api.example.com";
    let often = "requests = 100, per = \"1s\", burst = 200";
    // What flows in while the test runs would be counted too.
    let recipe = Recipe::of("Rate limits").with(often, "requests = 1, per = \"1h\", burst = 3");
    let (proxy, consul) = recipe.with("\"1m\"", "\"1h\"").with_consul().await;
    let backend = Backend::start("api").await;
    consul.register("api", backend.address()).await;
    until_serving(&proxy, "api", 1).await;
    let statuses = async |method: Method, path: &str, key: &str| {
        let mut statuses = Vec::new();
        for _ in 0..7 {
            let request = proxy.http.request(method.clone(), proxy.url(path));
            let request = request.header("host", host).header("x-api-key", key);
            let answer = request.send().await.unwrap();
            statuses.push(answer.status().as_u16());
            let told = answer.headers().contains_key("retry-after");
            assert_eq!(told, answer.status() == 429);
        }
        statuses
    };
    let login = statuses(Method::POST, "/login", "ann").await;
    assert_eq!(login, [200, 200, 200, 200, 200, 429, 429]);
    for key in ["ann", "bob"] {
        let items = statuses(Method::GET, "/items", key).await;
        assert_eq!(items, [200, 200, 200, 429, 429, 429, 429], "{key}");
    }
    assert_eq!(backend.requests(), 5 + 3 + 3);
}

#[tokio::test]
async fn an_endpoint_that_fails_its_checks_is_not_called_and_comes_back() {
    let ill = Arc::new(AtomicBool::new(true));
    let patient = Backend::named("patient").answering({
        let ill = Arc::clone(&ill);
        move |request: Request<Incoming>| {
            let fails = ill.load(SeqCst) && request.uri().path() == "/health";
            async move {
                match fails {
                    true => StatusCode::SERVICE_UNAVAILABLE.into_response(),
                    false => "well".into_response(),
                }
            }
        }
    });
    let patient = patient.start().await;
    let [one, two] = [Backend::start("one").await, Backend::start("two").await];
    let recipe = Recipe::of("Active health checks")
        .at(
            ["10.0.0.7:8080", "10.0.0.8:8080", "10.0.0.9:8080"],
            [&patient, &one, &two],
        )
        .with("interval = \"2s\"", "interval = \"50ms\"");
    let proxy = recipe.start().await;
    until_serving(&proxy, "shop", 2).await;
    for _ in 0..10 {
        assert_ne!(by(&proxy.get("/").await), "patient");
    }
    ill.store(false, SeqCst);
    until_by(&proxy, "any", "/", "patient").await;
}

#[tokio::test]
async fn a_get_is_made_again_and_a_post_is_not() {
    let (proxy, consul) = Recipe::of("Retries").with_consul().await;
    let failing = Backend::named("failing")
        .answering(async |_| StatusCode::SERVICE_UNAVAILABLE)
        .start()
        .await;
    let well = Backend::start("well").await;
    for backend in [&failing, &well] {
        consul.register("shop", backend.address()).await;
    }
    until_serving(&proxy, "shop", 2).await;
    // Who is asked first is left to chance where answers fail.
    let asked_in_vain = |method: Method| {
        let failing = &failing;
        move |_: &StatusCode| failing.requests_with(&method) > 0
    };
    let get = async || {
        let status = proxy.get("/").await.status();
        assert_eq!(status, 200);
        status
    };
    eventually("one fails a GET", get, asked_in_vain(Method::GET)).await;
    let [sent, failed] = [Cell::new(0), Cell::new(0)];
    let post = async || {
        let request = proxy.http.post(proxy.url("/")).body("once");
        let status = request.send().await.unwrap().status();
        sent.set(sent.get() + 1);
        failed.set(failed.get() + usize::from(status == StatusCode::SERVICE_UNAVAILABLE));
        status
    };
    eventually("one fails a POST", post, asked_in_vain(Method::POST)).await;
    let posts = [&failing, &well].map(|one| one.requests_with(&Method::POST));
    assert_eq!(posts, [failed.get(), sent.get() - failed.get()]);
}

#[tokio::test]
async fn a_token_that_may_read_is_enough_for_two_datacenters() {
    let heading = "Consul with a token and two datacenters";
    let Some(near) = Consul::start_guarded("dc1", &[]).await else {
        return;
    };
    let far = Consul::start_guarded("dc2", &[near.wan()]).await.unwrap();
    let known = async || near.get("/v1/catalog/datacenters").await;
    eventually("both are known", known, |known| {
        known.as_array().is_some_and(|known| known.len() == 2)
    })
    .await;
    let [rules] = blocks("hcl", heading)[..] else {
        panic!("one policy stands below {heading:?}");
    };
    let secret = near.token("callboard", rules).await;

    let [here, there, inner] = [
        Backend::start("here").await,
        Backend::start("there").await,
        Backend::start("inner").await,
    ];
    let register = "/v1/agent/service/register";
    near.order(register, registration("cart", &here, &["public"]))
        .await;
    near.order(register, registration("stock", &inner, &[]))
        .await;
    far.order(register, registration("cart", &there, &["public"]))
        .await;

    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("consul-token"), secret).unwrap();
    let recipe = Recipe::of("Consul with a token and two datacenters")
        .with("http://10.0.0.1:8500", "http://127.0.0.1:1")
        .with("http://10.0.0.2:8500", &near.url());
    let proxy = Proxy::start_in(folder, &recipe.0).await;
    until_by(&proxy, "any", "/cart", "here").await;
    assert_eq!(proxy.get("/stock").await.status(), 404);
    let away = "/v1/agent/service/deregister/cart-here";
    near.order(away, Value::Null).await;
    until_by(&proxy, "any", "/cart", "there").await;
}

#[tokio::test]
async fn a_consul_that_is_there_is_read_and_not_written() {
    let Some(consul) = Consul::start().await else {
        return;
    };
    let (public, inner) = (Backend::start("public").await, shows_path("inner").await);
    let tags = ["urlprefix-/fabio strip=/fabio", "public"];
    for (name, backend, tags) in [
        ("cart", &public, &tags[1..]),
        ("billing", &public, &tags[1..]),
        ("orders", &inner, &tags[..]),
        ("hidden", &inner, &["urlprefix-/hidden"][..]),
    ] {
        consul.register(registration(name, backend, tags)).await;
    }
    let before = consul.get("/v1/agent/services").await;
    let recipe = Recipe::of("Beside an existing Consul");
    let proxy = recipe.with("http://127.0.0.1:8500", &consul.url());
    let proxy = proxy.start().await;
    until_by(&proxy, "cart.internal", "/", "public").await;
    until_by(&proxy, "any", "/fabio/x", "inner").await;
    assert_eq!(
        ask(&proxy, "any", "/fabio/x").await.text().await.unwrap(),
        "/x"
    );
    assert_eq!(ask(&proxy, "any", "/hidden").await.status(), 404);
    for hidden in ["billing", "hidden", "consul", "none"] {
        let answer = ask(&proxy, &format!("{hidden}.internal"), "/").await;
        assert_eq!(answer.status(), 404, "{hidden}");
    }
    assert_eq!(consul.get("/v1/agent/services").await, before);
}

#[tokio::test]
async fn endpoints_of_the_file_serve_without_a_registry_and_one_that_dies_fails_no_request() {
    let [a, b] = [Backend::start("a").await, Backend::start("b").await];
    let recipe =
        Recipe::of("Without any registry").at(["10.0.0.7:8080", "10.0.0.8:8080"], [&a, &b]);
    let config = Config::parse(&recipe.0, Path::new("")).unwrap();
    assert!(config.registries.is_empty());
    let proxy = recipe.start().await;
    let host = "shop.example.com";
    until_by(&proxy, host, "/", "a").await;
    until_by(&proxy, host, "/", "b").await;
    a.kill().await;
    for _ in 0..20 {
        assert_eq!(by(&ask(&proxy, host, "/").await), "b");
    }
}

#[tokio::test]
async fn the_switch_from_blue_to_green_fails_no_request() {
    let (proxy, consul) = Recipe::of("Blue/green by tags").with_consul().await;
    let [blue, green] = [Backend::start("blue").await, Backend::start("green").await];
    sign_in(&consul, "shop", &blue, &["blue", "live"]).await;
    sign_in(&consul, "shop", &green, &["green"]).await;
    let live = "shop.example.com";
    until_by(&proxy, live, "/", "blue").await;
    until_by(&proxy, "green.shop.example.com", "/", "green").await;
    for _ in 0..4 {
        assert_eq!(by(&ask(&proxy, live, "/").await), "blue");
    }
    // Every request is answered well on the way, by either of them.
    let until_live = async |id: &str| {
        let answer = async || by(&ask(&proxy, live, "/").await);
        eventually(id, answer, |by| by == id).await;
    };
    sign_in(&consul, "shop", &green, &["green", "live"]).await;
    until_live("green").await;
    sign_in(&consul, "shop", &blue, &["blue"]).await;
    proxy
        .until_service("shop", "one is live", |service| {
            let views = service["views"].as_array().into_iter().flatten();
            let live = |view: &&Value| view["tags"] == json!(["live"]);
            views
                .clone()
                .find(live)
                .is_some_and(|view| view["endpoints"] == 1)
        })
        .await;
    for _ in 0..4 {
        assert_eq!(by(&ask(&proxy, live, "/").await), "green");
        assert_eq!(by(&ask(&proxy, "blue.shop.example.com", "/").await), "blue");
    }
}

#[tokio::test]
async fn a_service_moves_from_eureka_to_consul_in_three_steps() {
    let Some(eureka) = Eureka::shared().await else {
        return;
    };
    let backend = Backend::start("cart").await;
    let consul = Proxy::start("").await;
    let recipe = Recipe::of("A migration between two registries")
        .with("\"/cart\"", "\"/moving-cart\"")
        .with("\"cart\"", "\"moving-cart\"")
        .with("http://10.0.0.3:8761/eureka", &eureka.url())
        .with("http://127.0.0.1:8500", &consul.registry(""));
    let port = backend.address().port();
    eureka
        .register("MOVING-CART", "moving", port, json!({}))
        .await;
    let proxy = recipe.start().await;
    until_by(&proxy, "any", "/moving-cart", "cart").await;
    let lacking = |count: usize| {
        move |service: &Value| {
            let differences = service["differences"].as_array();
            let missing = differences.map(|all| all.iter().map(|one| one["missing"].as_array()));
            missing.is_some_and(|mut all| all.any(|one| one.is_some_and(|one| one.len() == count)))
        }
    };
    let name = "moving-cart";
    proxy
        .until_service(name, "Consul lacks it", lacking(1))
        .await;
    consul.register(name, backend.address()).await;
    proxy.until_service(name, "Consul has it", lacking(0)).await;
    drop(proxy);

    let union = recipe.with("\"shadow\"", "\"union\"");
    let proxy = union.start().await;
    let listed_by = |registries: Value| {
        move |service: &Value| endpoints(service).any(|one| one["registries"] == registries)
    };
    let both = listed_by(json!(["old", "new"]));
    proxy.until_service(name, "both list it", both).await;
    eureka
        .tell(Method::DELETE, "/apps/MOVING-CART/moving", Value::Null)
        .await;
    let one = listed_by(json!(["new"]));
    proxy
        .until_service(name, "Consul alone lists it", one)
        .await;
    assert_eq!(by(&proxy.get("/moving-cart").await), "cart");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_for_clients() {
    let consul = Proxy::start("").await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_owned();
    let authority = Authority::new(&path);
    let issue = || issue_for(&authority, &path, "shop.example.com");
    issue();
    let recipe = Recipe::of("TLS for clients")
        .with("\"0.0.0.0:8443\"", "\"127.0.0.1:0\"")
        .with("http://127.0.0.1:8500", &consul.registry(""));
    let proxy = Proxy::start_in(folder, &recipe.0).await;
    let backend = Backend::start("shop").await;
    consul.register("shop", backend.address()).await;
    until_serving(&proxy, "shop", 1).await;

    let (secure, clear) = (proxy.address(), proxy.address_of(1));
    let ca = std::fs::read(authority.ca()).unwrap();
    let https = || {
        reqwest::Client::builder()
            .no_proxy()
            .resolve("shop.example.com", secure)
            .tls_certs_only([reqwest::Certificate::from_pem(&ca).unwrap()])
            .build()
            .unwrap()
    };
    let url = format!("https://shop.example.com:{}/a", secure.port());
    let client = https();
    let answer = client.get(&url).send().await.unwrap();
    assert_eq!(
        answer.headers()["strict-transport-security"],
        "max-age=3600"
    );
    assert_eq!(by(&answer), "shop");
    let in_the_clear = async |path: &str| {
        let asked = proxy.http.get(format!("http://{clear}{path}"));
        asked
            .header("host", "shop.example.com")
            .send()
            .await
            .unwrap()
    };
    let answer = in_the_clear("/a?b").await;
    assert_eq!(answer.status(), StatusCode::PERMANENT_REDIRECT);
    let location = "https://shop.example.com:8443/a?b";
    assert_eq!(answer.headers()["location"], location);
    assert_eq!(in_the_clear("/healthz").await.status(), StatusCode::OK);

    issue();
    let metrics = async || proxy.page("/metrics").await.text().await.unwrap();
    let is_taken = |metrics: &String| {
        let mut lines = metrics.lines();
        lines.any(|line| line.contains("result=\"taken\"") && line.ends_with(" 1"))
    };
    eventually("the new certificate is taken over", metrics, is_taken).await;
    for client in [client, https()] {
        assert_eq!(by(&client.get(&url).send().await.unwrap()), "shop");
    }
}

#[tokio::test]
async fn calls_of_grpc_reach_their_service_over_tls_and_in_the_clear() {
    let Some(server) = GrpcServer::start() else {
        return;
    };
    let consul = Proxy::start("").await;
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new(folder.path());
    issue_for(&authority, folder.path(), "127.0.0.1");
    let recipe = Recipe::of("gRPC")
        .with("\"0.0.0.0:8443\"", "\"127.0.0.1:0\"")
        .with("http://127.0.0.1:8500", &consul.registry(""))
        .with("/helloworld.Greeter", "/grpc.testing.TestService");
    let proxy = Proxy::start_in(folder, &recipe.0).await;
    let call = async |place: usize, case: &str| {
        let ca = (place == 0).then(|| authority.ca());
        let mut call = grpc::client(proxy.address_of(place), ca.as_deref(), case);
        let output = call.output().await.unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        (output.status.success(), said)
    };
    let (is_well, said) = call(0, "empty_unary").await;
    assert!(!is_well && said.contains("Unavailable"), "{said}");
    consul.register("greeter", server.address()).await;
    until_serving(&proxy, "greeter", 1).await;
    for place in [0, 1] {
        // The last one calls what no route takes, too.
        for case in ["large_unary", "ping_pong", "unimplemented_service"] {
            let (is_well, said) = call(place, case).await;
            assert!(is_well, "{case}: {said}");
        }
    }
}

#[tokio::test]
async fn clients_behind_a_balancer_are_counted_by_their_own_addresses() {
    let start = async |network: &str| {
        let recipe = Recipe::of("Behind a load balancer")
            .with("10.0.0.0/24", network)
            .with(
                "connections_per_address = 100",
                "connections_per_address = 2",
            )
            .with("requests = 50, per = \"1s\"", "requests = 1, per = \"1h\"")
            .with("notice = \"15s\"", "notice = \"0s\"");
        let (proxy, consul) = recipe.with_consul().await;
        let backend = Backend::named("shop").answering(async |request: Request<Incoming>| {
            let forwarded = request.headers().get("x-forwarded-for");
            forwarded.unwrap().to_str().unwrap().to_owned()
        });
        let backend = backend.start().await;
        consul.register("shop", backend.address()).await;
        until_serving(&proxy, "shop", 1).await;
        proxy.until_ready().await;
        (proxy, consul, backend)
    };
    let ask = async |address: SocketAddr, client: u8| {
        let mut wire = Wire::connect(address).await;
        let request = format!(
            "GET / HTTP/1.1\r\nHost: shop.example.com\r\nX-Forwarded-For: 203.0.113.{client}\r\n\r\n"
        );
        let answer = wire.ask(request).await;
        (answer.status(), answer.text().to_owned(), wire)
    };

    let (proxy, ..) = &start("127.0.0.1/32").await;
    let mut open = Vec::new();
    for client in 0..5 {
        let (status, text, wire) = ask(proxy.address(), client).await;
        assert_eq!(
            (status, text),
            (200, format!("203.0.113.{client}, 127.0.0.1"))
        );
        open.push(wire);
    }
    assert_eq!(
        ask(proxy.address(), 0).await.0,
        429,
        "one client asks twice"
    );
    assert_eq!(proxy.get("/healthz").await.status(), 200);

    let (proxy, ..) = &start("10.0.0.0/24").await;
    let (status, text, _first) = ask(proxy.address(), 0).await;
    assert_eq!(
        (status, &*text),
        (200, "127.0.0.1"),
        "a stranger's word is none"
    );
    let (status, _, _second) = ask(proxy.address(), 1).await;
    assert_eq!(status, 429, "it is the same client");
    let third = ask(proxy.address(), 2).await.1;
    assert!(third.contains("connections"), "{third}");
}

#[tokio::test]
async fn springs_services_are_called_by_their_names() {
    let Some(eureka) = Eureka::shared().await else {
        return;
    };
    let backend = shows_path("orders").await;
    // The backend listens at 127.0.0.1 only: this is an address of an inner network.
    let inner = json!({ "ipAddr": "127.0.0.77", "hostName": "localhost" });
    let port = backend.address().port();
    eureka
        .register("SPRING-ORDERS", "orders-1", port, inner)
        .await;
    let recipe = Recipe::of("Eureka for Spring's services")
        .with("http://10.0.0.3:8761/eureka", "http://127.0.0.1:1/eureka")
        .with("http://10.0.0.4:8761/eureka", &eureka.url())
        .with("\"2s\"", "\"200ms\"");
    let proxy = recipe.start().await;
    until_by(&proxy, "any", "/spring-orders/7", "orders").await;
    assert_eq!(
        proxy.get("/spring-orders/7").await.text().await.unwrap(),
        "/7"
    );
}
