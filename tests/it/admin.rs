//! The admin server says what the proxy does, to those who may know.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
};

use callboard::admin::{Kind, METRICS};
use http::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt as _},
    net::TcpStream,
    sync::{Semaphore, oneshot},
};

use super::support::{
    PATIENCE,
    backend::Backend,
    eventually,
    fake_consul::FakeConsul,
    proxy::{Proxy, endpoints},
    server::free_ports,
};

const ROUTES: &str = r#"
[[route]]
host = "shop.example.com"
path = "/cart"
service = "cart"

[[route]]
path = "/{service}"
service = "{service}"
strip_prefix = true
"#;

/// Both need a registry that somebody else is.
fn with_registry(port: u16, more: &str) -> String {
    let registry =
        format!("[registry.main]\nkind = \"consul\"\naddress = \"http://127.0.0.1:{port}\"");
    format!("{ROUTES}\n{registry}\n{more}")
}

async fn text(proxy: &Proxy, path: &str) -> (StatusCode, String) {
    let answer = proxy.page(path).await;
    (answer.status(), answer.text().await.unwrap())
}

async fn until_page(proxy: &Proxy, path: &str, status: StatusCode) -> String {
    let page = async || text(proxy, path).await;
    let what = format!("{path} answers {status}");
    eventually(&what, page, |page| page.0 == status).await.1
}

/// Waits until a service is served and all that is said of it has settled.
async fn until_settled(proxy: &Proxy, service: &str) {
    proxy.until_served(&format!("/{service}")).await;
    let healthy = |service: &Value| service["watches"][0]["healthy"] == true;
    proxy
        .until_service(service, "its watcher is healthy", healthy)
        .await;
    until_page(proxy, "/ready", StatusCode::OK).await;
}

#[tokio::test]
async fn it_is_ready_when_everything_was_read_and_names_what_is_missing_until_then() {
    let [port] = free_ports();
    let proxy = Proxy::start(&with_registry(port, "")).await;
    assert_eq!(
        text(&proxy, "/live").await,
        (StatusCode::OK, "alive\n".into())
    );
    let (status, missing) = text(&proxy, "/ready").await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(
        missing,
        "not ready; not read yet: service cart, catalog of main\n"
    );
    let json = proxy.http.get(proxy.admin("/ready"));
    let json = json.header("accept", "application/json").send();
    let json: Value = json.await.unwrap().json().await.unwrap();
    let missing = json!(["service cart", "catalog of main"]);
    assert_eq!(
        json,
        json!({"ready": false, "draining": false, "missing": missing, "unregistered": []})
    );
    let told = proxy.until_service("cart", "an error", |cart| {
        !cart["watches"][0]["error"].is_null()
    });
    let told = told.await;
    assert_eq!(told["watches"][0]["healthy"], false);
    let status = proxy.status().await;
    assert_eq!(status["missing"], missing);
    assert_eq!(status["registries"][0]["catalog"]["watch"]["read"], false);

    let registry = format!("[registry.embedded]\naddress = \"127.0.0.1:{port}\"\n");
    let registry = Proxy::start(&registry).await;
    assert_eq!(
        until_page(&proxy, "/ready", StatusCode::OK).await,
        "ready; not registered: cart\n"
    );
    assert_eq!(proxy.status().await["missing"], json!([]));
    // Misspelt, perhaps: that is what a client is told, too.
    let url = format!("http://{}/cart", proxy.address());
    let answer = proxy.http.get(url).header("host", "shop.example.com");
    let answer = answer.send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
    let text = answer.text().await.unwrap();
    assert!(text.contains("service `cart` is not registered"), "{text}");
    drop((proxy, registry));
}

#[tokio::test]
async fn after_ready_timeout_it_is_ready_all_the_same_and_still_names_what_is_missing() {
    let [port] = free_ports();
    let more = "[admin]\naddress = \"127.0.0.1:0\"\nready_timeout = \"50ms\"";
    let proxy = Proxy::start(&with_registry(port, more)).await;
    let ready = until_page(&proxy, "/ready", StatusCode::OK).await;
    assert_eq!(
        ready,
        "ready; not read yet: service cart, catalog of main\n"
    );
}

/// As balancers of old ask.
#[tokio::test]
async fn a_question_of_http_1_0_without_a_host_is_answered() {
    let proxy = Proxy::start(ROUTES).await;
    until_page(&proxy, "/ready", StatusCode::OK).await;
    let address = proxy.admin("");
    let mut asks = TcpStream::connect(address.trim_start_matches("http://"))
        .await
        .unwrap();
    asks.write_all(b"GET /ready HTTP/1.0\r\n\r\n")
        .await
        .unwrap();
    let mut answer = String::new();
    let read = asks.read_to_string(&mut answer);
    tokio::time::timeout(PATIENCE, read).await.unwrap().unwrap();
    assert!(answer.starts_with("HTTP/1.0 200 "), "{answer}");
    assert!(answer.contains("\r\n\r\nready"), "{answer}");
}

#[tokio::test]
async fn while_it_drains_it_lives_and_is_not_ready_and_then_it_is_gone_with_all_connections() {
    let drain = "[drain]\nnotice = \"2s\"\ndeadline = \"1s\"\n";
    let proxy = Proxy::start(&format!("{ROUTES}{drain}")).await;
    until_page(&proxy, "/ready", StatusCode::OK).await;
    let (http, url) = (proxy.http.clone(), proxy.admin(""));
    let address: SocketAddr = url.trim_start_matches("http://").parse().unwrap();
    // It says nothing, and must not hold anything up.
    let mut silent = TcpStream::connect(address).await.unwrap();
    let page = async |path: &str| {
        let answer = http.get(format!("{url}{path}")).send().await.unwrap();
        (answer.status(), answer.text().await.unwrap())
    };
    let draining = tokio::spawn(proxy.drain());
    let ready = eventually(
        "it drains",
        async || page("/ready").await,
        |ready| ready.0 == StatusCode::SERVICE_UNAVAILABLE,
    );
    assert_eq!(ready.await.1, "draining\n");
    assert_eq!(page("/live").await.0, StatusCode::OK);
    let metrics = page("/metrics").await.1;
    assert!(metrics.contains("\ncallboard_draining 1\n"), "{metrics}");
    assert!(metrics.contains("\ncallboard_ready 0\n"), "{metrics}");
    tokio::time::timeout(PATIENCE, draining)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(silent.read(&mut [0]).await.unwrap(), 0);
    assert!(TcpStream::connect(address).await.is_err());
}

/// What `/metrics` said, read by the rules of its format.
#[derive(Debug, Default)]
struct Metrics {
    kinds: BTreeMap<String, String>,
    samples: BTreeMap<(String, BTreeMap<String, String>), f64>,
}

impl Metrics {
    async fn get(proxy: &Proxy, accept: &str) -> (String, Self) {
        let page = proxy.http.get(proxy.admin("/metrics"));
        let page = page.header("accept", accept).send().await.unwrap();
        let kind = page.headers()["content-type"].to_str().unwrap().to_owned();
        (kind, Self::read(&page.text().await.unwrap()))
    }

    async fn of(proxy: &Proxy) -> Self {
        Self::get(proxy, "text/plain").await.1
    }

    fn read(text: &str) -> Self {
        let mut metrics = Self::default();
        let mut family = String::new();
        let lines = text.strip_suffix("# EOF\n").expect("it is whole");
        for line in lines.lines() {
            if let Some(help) = line.strip_prefix("# HELP ") {
                family = help.split_once(' ').unwrap().0.to_owned();
            } else if let Some(kind) = line.strip_prefix("# TYPE ") {
                let (name, kind) = kind.split_once(' ').unwrap();
                assert_eq!(name, family, "TYPE follows its HELP");
                let known = metrics.kinds.insert(name.to_owned(), kind.to_owned());
                assert_eq!(known, None, "{name} is said once");
            } else {
                let (series, value) = line.rsplit_once(' ').unwrap();
                let (name, labels) = series_of(series);
                assert!(name.starts_with(&family), "{line} is below its own HELP");
                let known = metrics
                    .samples
                    .insert((name, labels), value.parse().unwrap());
                assert_eq!(known, None, "{series} is there once");
            }
        }
        metrics
    }

    fn value(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let labels = labels
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        self.samples
            .get(&(name.to_owned(), labels.collect()))
            .copied()
    }
}

/// `name{label="value",…}`, with the values' escapes undone.
fn series_of(series: &str) -> (String, BTreeMap<String, String>) {
    let Some((name, labels)) = series.split_once('{') else {
        return (series.to_owned(), BTreeMap::new());
    };
    let mut rest = labels.strip_suffix('}').unwrap();
    let mut labels = BTreeMap::new();
    while !rest.is_empty() {
        let (label, behind) = rest.split_once("=\"").unwrap();
        let (mut value, mut chars) = (String::new(), behind.char_indices());
        let end = loop {
            match chars.next().unwrap() {
                (at, '"') => break at,
                (_, '\\') => value.push(match chars.next().unwrap().1 {
                    'n' => '\n',
                    other => other,
                }),
                (_, other) => value.push(other),
            }
        };
        labels.insert(label.to_owned(), value);
        rest = behind[end + 1..].trim_start_matches(',');
    }
    (name.to_owned(), labels)
}

#[tokio::test]
async fn the_metrics_count_what_was_sent() {
    let proxy = Proxy::start(ROUTES).await;
    let backend = Backend::named("a")
        .answering(async |request| match request.uri().path() {
            "/missing" => StatusCode::NOT_FOUND,
            _ => StatusCode::OK,
        })
        .start()
        .await;
    let address = backend.address().to_string();
    let odd = "o\"dd";
    proxy.register(odd, backend.address()).await;
    proxy.register("hello", backend.address()).await;
    until_settled(&proxy, "hello").await;
    until_settled(&proxy, "o%22dd").await;
    // Those that came before the registry's answer were answered too.
    let before = Metrics::of(&proxy).await;
    let received = backend.requests();
    for _ in 0..4 {
        proxy.get("/hello/x").await;
    }
    proxy.get("/hello/missing").await;
    proxy.get("/").await;
    proxy.get("/nobody").await;
    let trace = proxy.http.request(Method::TRACE, proxy.url("/hello"));
    assert_eq!(trace.send().await.unwrap().status(), 405);

    // The last answer's end may not have been noted yet.
    let what = "nothing is in flight";
    let busy = "callboard_endpoint_requests_in_flight";
    let hello = [("service", "hello"), ("endpoint", &*address)];
    let metrics = eventually(
        what,
        async || Metrics::of(&proxy).await,
        |metrics| metrics.value(busy, &hello) == Some(0.0),
    );
    let metrics = metrics.await;
    let value = |name: &str, labels: &[(&str, &str)]| metrics.value(name, labels).unwrap();
    let more = |name: &str, labels: &[(&str, &str)]| {
        value(name, labels) - before.value(name, labels).unwrap()
    };
    let service = [("service", "hello")];
    assert_eq!(backend.requests() - received, 5);
    assert_eq!(more("callboard_requests_total", &service), 5.0);
    let status = |status| [("service", "hello"), ("status", status)];
    assert_eq!(more("callboard_answers_total", &status("2xx")), 4.0);
    assert_eq!(more("callboard_answers_total", &status("4xx")), 1.0);
    assert_eq!(more("callboard_answers_total", &status("5xx")), 0.0);
    assert!(value("callboard_requests_total", &[("service", odd)]) >= 1.0);
    let duration = "callboard_request_duration_seconds";
    assert_eq!(more(&format!("{duration}_count"), &service), 5.0);
    assert!(more(&format!("{duration}_sum"), &service) > 0.0);
    let bucket = |le| {
        let labels = [("service", "hello"), ("le", le)];
        more(&format!("{duration}_bucket"), &labels)
    };
    assert_eq!(bucket("+Inf"), 5.0);
    assert!(bucket("0.0005") <= bucket("10.0"));
    assert_eq!(more("callboard_requests_unrouted_total", &[]), 2.0);
    assert_eq!(more("callboard_requests_refused_total", &[]), 1.0);
    assert_eq!(more("callboard_requests_failed_total", &service), 0.0);
    assert_eq!(more("callboard_endpoint_attempts_total", &hello), 5.0);
    assert_eq!(more("callboard_endpoint_failures_total", &hello), 0.0);
    let opened = value("callboard_endpoint_connections_opened_total", &hello);
    assert!(1.0 <= opened && opened <= backend.connections() as f64);
    let answers = [
        ("service", "hello"),
        ("endpoint", &address),
        ("status", "2xx"),
    ];
    assert!(value("callboard_endpoint_answers_total", &answers) >= 4.0);
    let latency = |part| {
        let labels = [
            ("service", "hello"),
            ("endpoint", &*address),
            ("quantile", part),
        ];
        value("callboard_endpoint_latency_seconds", &labels)
    };
    assert!(latency("0.5") > 0.0 && latency("0.5") <= latency("0.99"));
    let endpoints = |metrics: &Metrics, state| {
        let labels = [("service", "hello"), ("state", state)];
        metrics
            .value("callboard_endpoints", &labels)
            .unwrap_or_default()
    };
    assert_eq!(endpoints(&metrics, "serving"), 1.0);
    assert_eq!(endpoints(&metrics, "held"), 0.0);
    let watch = |service| [("registry", "embedded"), ("service", service)];
    assert_eq!(value("callboard_watch_healthy", &watch("hello")), 1.0);
    assert_eq!(value("callboard_watch_healthy", &watch("")), 1.0);
    assert_eq!(value("callboard_watch_failures_total", &watch("")), 0.0);
    assert!(value("callboard_watch_updates_total", &watch("")) >= 1.0);
    let listed = value("callboard_catalog_services", &[("registry", "embedded")]);
    assert!(listed >= 2.0, "{listed}");
    assert!(value("callboard_connections", &[]) >= 1.0);
    assert_eq!(value("callboard_ready", &[]), 1.0);
    let version = [("version", env!("CARGO_PKG_VERSION"))];
    assert_eq!(value("callboard_build_info", &version), 1.0);
    assert!(value("process_start_time_seconds", &[]) > 1.7e9);

    backend.kill().await;
    assert_eq!(proxy.get("/hello").await.status(), 502);
    let after = Metrics::of(&proxy).await;
    let more = |name: &str, labels: &[(&str, &str)]| {
        after.value(name, labels).unwrap() - value(name, labels)
    };
    assert_eq!(more("callboard_requests_failed_total", &service), 1.0);
    assert_eq!(more("callboard_answers_total", &status("5xx")), 1.0);
    assert!(more("callboard_endpoint_failures_total", &hello) >= 1.0);
    assert_eq!(endpoints(&after, "doubted"), 1.0);
}

#[tokio::test]
async fn every_metric_of_the_table_is_sent_in_both_formats_and_no_other() {
    // Some metrics are of services that have a shadow, or of routes that are split or want a subset.
    let shadow = FakeConsul::start([]).await;
    shadow.holds(7, json!([]));
    // And some of what was kept from before the start.
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap();
    let registries = json!({"away": "consul at http://127.0.0.1:9/"});
    let away = json!({"format": 2, "registries": registries, "catalogs": [], "sets": [{
        "service": "old", "name": "old", "registry": "away", "confirmed": now.as_secs(),
        "evidence": [],
        "instances": [{
            "id": "n/old", "address": "127.0.0.1:9", "tls": false,
            "healthy": true, "weight": 1, "tags": [], "meta": {},
        }],
    }]});
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("kept.json"), away.to_string()).unwrap();
    let text = format!(
        "zone = \"a\"\n{ROUTES}\n[[route]]\npath = \"/split\"\ntags = [\"v2\"]\n\
         split = [{{ service = \"cart\", weight = 1 }}]\nrate = {{ requests = 1 }}\n\
         [registry.embedded]\naddress = \"127.0.0.1:0\"\n\
         [registry.shadow]\nkind = \"consul\"\naddress = \"{}\"\n\
         [registry.away]\nkind = \"consul\"\naddress = \"http://127.0.0.1:9\"\n\
         [snapshot]\nfile = \"kept.json\"\n\
         [defaults]\nregistry = \"embedded\"\n\
         [[route]]\npath = \"/old\"\nservice = \"old\"\n[service.old]\nregistry = \"away\"\n\
         [service.cart]\nregistry = [\"embedded\", \"shadow\"]\ncombine = \"shadow\"\n\
         prefer = \"zone\"\n",
        shadow.url()
    );
    let proxy = Proxy::start_in(folder, &text).await;
    let backend = Backend::start("a").await;
    proxy.register("hello", backend.address()).await;
    until_settled(&proxy, "hello").await;
    proxy
        .until_service("cart", "its shadow was read", |cart| {
            cart["differences"][0]["registry"] == "shadow"
        })
        .await;
    let written = async || proxy.status().await["snapshot"]["writes"].as_u64();
    eventually("it is written", written, |writes| *writes >= Some(1)).await;
    let (plain, old) = Metrics::get(&proxy, "text/plain;version=0.0.4;q=0.3, */*;q=0.1").await;
    assert!(plain.starts_with("text/plain; version=0.0.4;"), "{plain}");
    let (open, new) = Metrics::get(&proxy, "application/openmetrics-text;version=1.0.0").await;
    assert!(
        open.starts_with("application/openmetrics-text; version=1.0.0;"),
        "{open}"
    );
    let series = |metrics: &Metrics| metrics.samples.keys().cloned().collect::<BTreeSet<_>>();
    let (old_series, new_series) = (series(&old), series(&new));
    let differing: Vec<_> = old_series.symmetric_difference(&new_series).collect();
    assert!(differing.is_empty(), "{differing:?}");
    let mut told = BTreeMap::<_, BTreeSet<_>>::new();
    for (name, labels) in old.samples.keys() {
        let base = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| {
            name.strip_suffix(suffix)
                .filter(|base| old.kinds.get(*base).is_some_and(|kind| kind == "histogram"))
        });
        let labels = labels
            .keys()
            .map(String::as_str)
            .filter(|label| *label != "le");
        told.entry(base.unwrap_or(name)).or_default().extend(labels);
    }
    let table: BTreeMap<_, BTreeSet<_>> = METRICS
        .iter()
        .map(|metric| (metric.name, metric.labels.iter().copied().collect()))
        .collect();
    assert_eq!(table.len(), METRICS.len(), "a name is there twice");
    // What has nothing to tell is not sent: here, of services without limits, checks, keys and pins, and of
    // listeners without TLS and PROXY headers.
    let silent: Vec<_> = table
        .keys()
        .filter(|name| !told.contains_key(*name))
        .collect();
    let expected = [
        "callboard_access_log_lines_total",
        "callboard_access_log_lost_lines_total",
        "callboard_acme_failures",
        "callboard_acme_orders_total",
        "callboard_balance_keyless_total",
        "callboard_balance_moved_total",
        "callboard_balance_overflowed_total",
        "callboard_endpoint_failures_by_cause_total",
        "callboard_grpc_answers_total",
        "callboard_health_checks_total",
        "callboard_panic",
        "callboard_proxy_headers_total",
        "callboard_requests_pending",
        "callboard_requests_shed_total",
        "callboard_service_drained",
        "callboard_service_pinned",
        "callboard_service_reweighed",
        "callboard_tls_certificate_expiry_timestamp_seconds",
        "callboard_tls_certificate_unusable",
        "callboard_tls_handshakes_pending",
        "callboard_tls_handshakes_total",
        "callboard_tls_reloads_total",
        "callboard_tunnel_bytes_total",
        "callboard_tunnels_ended_total",
    ];
    assert_eq!(silent, expected.iter().collect::<Vec<_>>());
    for (name, labels) in told {
        assert_eq!(Some(&labels), table.get(name), "{name}");
    }
    for metric in METRICS {
        let kind = match metric.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        assert_eq!(old.kinds[metric.name], kind);
        let base = metric.name.strip_suffix("_total").unwrap_or(metric.name);
        assert_eq!(
            base != metric.name,
            metric.kind == Kind::Counter,
            "{}",
            metric.name
        );
        assert_eq!(new.kinds[base], kind);
        assert!(metric.help.ends_with('.') && !metric.help.contains(['\\', '\n']));
    }
}

#[tokio::test]
async fn the_status_shows_what_becomes_of_each_endpoint() {
    let proxy = Proxy::start(ROUTES).await;
    let (entered, mut entering) = tokio::sync::mpsc::unbounded_channel();
    let leave = Arc::new(Semaphore::new(0));
    let mut backends = Vec::new();
    for id in ["a", "b", "c"] {
        let (entered, leave) = (entered.clone(), leave.clone());
        let backend = Backend::named(id).answering(move |request| {
            let (entered, leave) = (entered.clone(), leave.clone());
            async move {
                if request.uri().path() == "/wait" {
                    entered.send(id).unwrap();
                    leave.acquire().await.unwrap().forget();
                }
                id
            }
        });
        backends.push(backend.start().await);
    }
    let [a, b, c] = [0, 1, 2].map(|n: usize| backends[n].address());
    let more =
        json!({"Tags": ["v1"], "Meta": {"zone": "east"}, "Weights": {"Passing": 3, "Warning": 1}});
    proxy.register_with("hello", a, more).await;
    proxy.register("hello", b).await;
    let failing = json!({"Check": {"TTL": "10m", "Status": "critical"}});
    proxy.register_with("hello", c, failing.clone()).await;
    until_settled(&proxy, "hello").await;
    proxy
        .until_states("hello", &[(a, "serving"), (b, "serving"), (c, "unhealthy")])
        .await;
    let service = proxy.service("hello").await;
    let of_a = endpoints(&service)
        .find(|endpoint| endpoint["address"] == a.to_string())
        .unwrap();
    assert_eq!(of_a["tags"], json!(["v1"]));
    assert_eq!(of_a["meta"]["zone"], "east");
    assert_eq!(of_a["weight"], 3);
    assert!(
        of_a["instance"]
            .as_str()
            .unwrap()
            .ends_with(&format!("/hello@{a}")),
        "{of_a}"
    );
    assert!(service["last_change"].as_f64().unwrap() > 1.7e9);
    assert_eq!(service["watches"][0]["healthy"], true);
    assert!(service["watches"][0]["age_seconds"].is_number());

    // One of two that serve is not half of them: it is believed to be gone, and may finish.
    let url = proxy.url("/hello/wait");
    let (http, (answered, answer)) = (proxy.http.clone(), oneshot::channel());
    tokio::spawn(async move {
        let answer = http.get(url).send().await.unwrap();
        answered.send(answer.text().await.unwrap()).unwrap();
    });
    let waiting = entering.recv().await.unwrap();
    let (busy, free) = if waiting == "a" { (a, b) } else { (b, a) };
    let in_flight = |service: &Value| {
        let of = endpoints(service).find(|endpoint| endpoint["address"] == busy.to_string());
        of.map_or(0, |endpoint| endpoint["in_flight"].as_u64().unwrap())
    };
    assert_eq!(in_flight(&proxy.service("hello").await), 1);
    proxy.deregister("hello", busy).await;
    proxy
        .until_states(
            "hello",
            &[(busy, "draining"), (free, "serving"), (c, "unhealthy")],
        )
        .await;
    assert_eq!(in_flight(&proxy.service("hello").await), 1);
    leave.add_permits(1);
    assert_eq!(answer.await.unwrap(), waiting);
    proxy
        .until_states("hello", &[(free, "serving"), (c, "unhealthy")])
        .await;

    // The last that serves is doubted to be gone; it answers, and is kept for a while.
    proxy.deregister("hello", free).await;
    proxy
        .until_states("hello", &[(free, "held"), (c, "unhealthy")])
        .await;
    assert_eq!(proxy.get("/hello").await.status(), 200);
}

#[tokio::test]
async fn the_status_is_one_object_that_has_it_all() {
    let proxy = Proxy::start(&format!("workers = 2\n{ROUTES}")).await;
    let backend = Backend::start("a").await;
    proxy.register("hello", backend.address()).await;
    until_settled(&proxy, "hello").await;
    let unrouted = |status: &Value| {
        let workers = status["workers"].as_array().unwrap();
        let each = workers.iter().map(|worker| worker["unrouted"].as_u64());
        (workers.len(), each.sum::<Option<u64>>().unwrap())
    };
    let (workers, before) = unrouted(&proxy.status().await);
    proxy.get("/").await;
    let status = proxy.status().await;
    assert_eq!((workers, before + 1), unrouted(&status));
    assert_eq!(workers, 2);
    assert_eq!(status["version"], env!("CARGO_PKG_VERSION"));
    assert!(status["started"].as_f64().unwrap() > 1.7e9);
    assert!(status["uptime_seconds"].as_f64().unwrap() > 0.0);
    assert_eq!(
        (&status["ready"], &status["draining"]),
        (&json!(true), &json!(false))
    );
    assert_eq!(status["missing"], json!([]));
    assert_eq!(status["listeners"], json!([proxy.address()]));
    assert!(status["connections"].as_u64().unwrap() >= 1);
    assert_eq!(
        status["routes"],
        json!([
            {"host": "shop.example.com", "path": "/cart", "service": "cart",
             "registries": ["embedded"], "strip_prefix": false, "line": 3, "tagged_by": []},
            {"host": null, "path": "/{service}", "service": "{service}",
             "registries": ["embedded"], "strip_prefix": true, "line": 8, "tagged_by": []},
        ])
    );
    let services = status["services"].as_array().unwrap();
    let names: Vec<_> = services.iter().map(|service| &service["name"]).collect();
    assert_eq!(names, ["cart", "hello"]);
    assert!(services[1]["requests"].as_u64().unwrap() >= 1);
    let registry = &status["registries"][0];
    assert_eq!(
        (&registry["name"], &registry["kind"]),
        (&json!("embedded"), &json!("embedded"))
    );
    let listed = registry["catalog"]["services"].as_array().unwrap();
    assert!(listed.contains(&json!("hello")), "{listed:?}");

    let unknown = proxy.page("/api/services/nobody").await;
    assert_eq!(unknown.status(), StatusCode::NOT_FOUND);
    let unknown: Value = unknown.json().await.unwrap();
    assert!(unknown["error"].as_str().unwrap().contains("`nobody`"));
}

#[tokio::test]
async fn a_strangers_page_that_points_its_name_here_is_told_nothing() {
    let proxy = Proxy::start(ROUTES).await;
    let port = proxy.admin("").rsplit_once(':').unwrap().1.to_owned();
    let asked_as = async |host: &str, path: &str| {
        let request = proxy.http.get(proxy.admin(path)).header("host", host);
        request.send().await.unwrap().status()
    };
    for path in [
        "/",
        "/live",
        "/ready",
        "/metrics",
        "/api/status",
        "/nothing",
    ] {
        let status = asked_as(&format!("evil.example:{port}"), path).await;
        assert_eq!(status, StatusCode::FORBIDDEN, "{path}");
    }
    for host in ["localhost", "127.0.0.1", "[::1]"] {
        let status = asked_as(&format!("{host}:{port}"), "/api/status").await;
        assert_eq!(status, StatusCode::OK, "{host}");
    }
}

#[tokio::test]
async fn where_there_is_a_token_everything_but_the_probes_needs_it() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("token"), "s3cret\n").unwrap();
    let admin = "[admin]\naddress = \"127.0.0.1:0\"\ntoken = { file = \"token\" }\n";
    let proxy = Proxy::start_in(folder, &format!("{ROUTES}{admin}")).await;
    assert_eq!(proxy.page("/live").await.status(), StatusCode::OK);
    until_page(&proxy, "/ready", StatusCode::OK).await;
    for path in [
        "/",
        "/metrics",
        "/api/status",
        "/api/services/cart",
        "/nothing",
    ] {
        let none = proxy.page(path).await;
        assert_eq!(none.status(), StatusCode::UNAUTHORIZED, "{path}");
        assert_eq!(none.headers()["www-authenticate"], "Bearer");
        let wrong = proxy.http.get(proxy.admin(path)).bearer_auth("secret");
        assert_eq!(
            wrong.send().await.unwrap().status(),
            StatusCode::UNAUTHORIZED
        );
        let right = proxy.http.get(proxy.admin(path)).bearer_auth("s3cret");
        let right = right.send().await.unwrap().status();
        let found = if path == "/nothing" {
            StatusCode::NOT_FOUND
        } else {
            StatusCode::OK
        };
        assert_eq!(right, found, "{path}");
    }
}

#[tokio::test]
async fn what_is_not_there_is_404_and_what_is_not_read_is_405() {
    let proxy = Proxy::start(ROUTES).await;
    let (status, index) = text(&proxy, "/").await;
    assert_eq!(status, StatusCode::OK);
    for path in [
        "/live",
        "/ready",
        "/metrics",
        "/api/status",
        "/api/services/{name}",
    ] {
        assert!(index.contains(path), "{path} is not in {index}");
    }
    for path in ["/nothing", "/api", "/api/services", "/live/", "/metrics/x"] {
        let status = proxy.page(path).await.status();
        assert_eq!(status, StatusCode::NOT_FOUND, "{path}");
    }
    for path in [
        "/",
        "/live",
        "/ready",
        "/metrics",
        "/api/status",
        "/api/services/x",
    ] {
        let posted = proxy.http.post(proxy.admin(path)).send().await.unwrap();
        assert_eq!(posted.status(), StatusCode::METHOD_NOT_ALLOWED, "{path}");
        assert_eq!(posted.headers()["allow"], "GET,HEAD", "{path}");
    }
    let head = proxy.http.head(proxy.admin("/live")).send().await.unwrap();
    assert_eq!(head.status(), StatusCode::OK);
}

#[tokio::test]
async fn a_page_of_another_site_has_a_browser_ask_for_nothing() {
    let proxy = Proxy::start(ROUTES).await;
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let ask = async |path: &str, site: &str, dest: &str| {
        let asked = http.get(proxy.admin(path));
        let asked = asked.header("sec-fetch-site", site);
        asked
            .header("sec-fetch-dest", dest)
            .send()
            .await
            .unwrap()
            .status()
    };
    for path in [
        "/api/events",
        "/api/status",
        "/metrics",
        "/api/explain?url=/cart",
    ] {
        for site in ["cross-site", "same-site"] {
            for dest in ["empty", "image", "iframe"] {
                assert_eq!(ask(path, site, dest).await, StatusCode::FORBIDDEN, "{path}");
            }
        }
        assert_eq!(
            ask(path, "same-origin", "empty").await,
            StatusCode::OK,
            "{path}"
        );
        // A person follows a link.
        assert_eq!(
            ask(path, "cross-site", "document").await,
            StatusCode::OK,
            "{path}"
        );
    }
    assert_eq!(ask("/live", "cross-site", "empty").await, StatusCode::OK);
    assert_eq!(ask("/ui/", "cross-site", "iframe").await, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_changes_the_token_at_once_and_another_address_waits() {
    let [first, second] = free_ports();
    let text = |port: u16, token: &str| {
        format!(
            "[admin]\naddress = \"127.0.0.1:{port}\"\n{token}\n[service.cart]\n\
             endpoints = [\"127.0.0.1:1\"]\n[[route]]\npath = \"/cart\"\nservice = \"cart\"\n"
        )
    };
    let proxy = Proxy::start(&text(first, "")).await;
    let url = |port: u16, path: &str| format!("http://127.0.0.1:{port}{path}");
    let reload = async |port: u16, token: &str, text: &str| {
        proxy.write(text);
        let request = proxy.http.post(url(port, "/api/reload"));
        let request = request.bearer_auth(token).json(&json!({}));
        let answer = request.send().await.unwrap();
        (
            answer.status().as_u16(),
            answer.json::<Value>().await.unwrap(),
        )
    };
    let asked = async |port: u16, token: &str| {
        let request = proxy.http.get(url(port, "/api/status")).bearer_auth(token);
        let answer = request.send().await.ok();
        answer.map(|answer| answer.status().as_u16())
    };
    std::fs::write(proxy.folder().join("token"), "one").unwrap();
    let with_token = |port| text(port, "token = { file = \"token\" }");
    let (status, said) = reload(first, "", &with_token(first)).await;
    assert_eq!(
        (status, &said["changes"]["changed"]),
        (200, &json!(["[admin]"]))
    );
    assert_eq!(asked(first, "").await, Some(401));
    assert_eq!(asked(first, "one").await, Some(200));
    let watching = proxy.http.get(url(first, "/api/events"));
    let mut watching = watching.bearer_auth("one").send().await.unwrap();
    assert!(watching.chunk().await.unwrap().is_some());
    // The same token ends nothing: what it has opened hears of the reload.
    assert_eq!(reload(first, "one", &with_token(first)).await.0, 200);
    assert!(watching.chunk().await.unwrap().is_some());
    // The file of the token is read by every reload.
    std::fs::write(proxy.folder().join("token"), "two").unwrap();
    assert_eq!(reload(first, "one", &with_token(first)).await.0, 200);
    assert_eq!(asked(first, "one").await, Some(401));
    let ends = async { while watching.chunk().await.unwrap().is_some() {} };
    let ended = tokio::time::timeout(PATIENCE, ends).await;
    ended.expect("what a lost token has opened ends");
    // Another address waits for the next start.
    let (status, said) = reload(first, "two", &with_token(second)).await;
    assert_eq!(status, 200, "{said}");
    assert_eq!(said["changes"]["at_next_start"], json!(["admin.address"]));
    assert_eq!(asked(first, "two").await, Some(200));
    assert_eq!(asked(second, "two").await, None);
}
