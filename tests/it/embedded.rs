//! The registry built in is a Consul to whoever speaks to it: over HTTP, step by step, and with
//! go-kit and the official Go client; it keeps what it was told, and answers nobody's stranger.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use callboard::{
    config::{Embedded, Secret},
    embedded::{Server, StartError},
};
use reqwest::{Method, Response, StatusCode};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

use crate::support::{PATIENCE, server::binary};

/// A registry of the test's own, and a client for it.
struct Registry {
    folder: TempDir,
    address: SocketAddr,
    http: reqwest::Client,
    stop: CancellationToken,
    running: JoinHandle<()>,
}

fn config(folder: &Path) -> Embedded {
    Embedded {
        address: "127.0.0.1:0".parse().unwrap(),
        data: folder.to_owned(),
        token: None,
        hosts: Vec::new(),
    }
}

impl Registry {
    async fn start() -> Self {
        Self::start_in(tempfile::tempdir().unwrap()).await
    }

    async fn start_in(folder: TempDir) -> Self {
        let config = config(folder.path());
        Self::start_with(folder, config).await
    }

    async fn start_with(folder: TempDir, config: Embedded) -> Self {
        let server = Server::bind(&config).await.unwrap();
        let (address, stop) = (server.address(), CancellationToken::new());
        Self {
            folder,
            address,
            http: reqwest::Client::builder().no_proxy().build().unwrap(),
            running: tokio::spawn(server.run(stop.clone())),
            stop,
        }
    }

    /// Ends it as SIGTERM does.
    async fn stop(self) -> TempDir {
        self.stop.cancel();
        self.running.await.unwrap();
        self.folder
    }

    /// The folder as a kill -9 at this moment would leave it.
    fn crashed(&self) -> TempDir {
        let folder = tempfile::tempdir().unwrap();
        fs::copy(journal(&self.folder), journal(&folder)).unwrap();
        folder
    }

    async fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> Response {
        let method = method.parse::<Method>().unwrap();
        let url = format!("http://{}{path}", self.address);
        let mut request = self.http.request(method, url).timeout(PATIENCE);
        if let Some(body) = body {
            request = request.json(body);
        }
        request.send().await.unwrap()
    }

    /// PUTs, and expects Consul's bare 200.
    async fn put(&self, path: &str, body: &Value) {
        let response = self.ask("PUT", path, Some(body)).await;
        let status = response.status();
        let text = response.text().await.unwrap();
        assert_eq!((status, text.as_str()), (StatusCode::OK, ""), "{path}");
    }

    async fn register(&self, body: Value) {
        self.put("/v1/agent/service/register", &body).await;
    }

    async fn get(&self, path: &str) -> Value {
        self.indexed(path).await.1
    }

    /// The answer and its index; 0 where it has none.
    async fn indexed(&self, path: &str) -> (u64, Value) {
        let response = self.ask("GET", path, None).await;
        assert_eq!(response.status(), StatusCode::OK, "{path}");
        let index = response.headers().get("x-consul-index");
        let index = index.map_or(0, |index| index.to_str().unwrap().parse().unwrap());
        (index, response.json().await.unwrap())
    }

    /// Follows a service with blocking queries until `holds` says yes of its health.
    async fn until(&self, name: &str, holds: impl Fn(&Value) -> bool) -> Value {
        let follow = async {
            let mut index = 0;
            loop {
                let path = format!("/v1/health/service/{name}?index={index}&wait=10s");
                let (next, health) = self.indexed(&path).await;
                if holds(&health) {
                    return health;
                }
                index = next;
            }
        };
        tokio::time::timeout(PATIENCE, follow)
            .await
            .unwrap_or_else(|_| panic!("{name} does not become what it should"))
    }

    async fn until_status(&self, name: &str, status: &str) -> Value {
        let own = |health: &Value| health[0]["Checks"][1].clone();
        let health = self
            .until(name, |health| own(health)["Status"] == status)
            .await;
        own(&health)
    }
}

fn journal(folder: &TempDir) -> PathBuf {
    folder.path().join("registry.jsonl")
}

fn ids(health: &Value) -> Vec<&str> {
    let list = health.as_array().unwrap().iter();
    list.map(|entry| entry["Service"]["ID"].as_str().unwrap())
        .collect()
}

#[tokio::test]
async fn go_kits_integration_test_goes_through_step_by_step() {
    let registry = Registry::start().await;
    let path = "/v1/health/service/my-service-name?passing=1&tag=alpha";
    let (index, nothing) = registry.indexed(path).await;
    assert_eq!(nothing, json!([]));
    assert!(index >= 1);

    let blocked = format!("{path}&index={index}&wait=60s");
    let asked = Instant::now();
    let pause = Duration::from_secs(1);
    let register = async {
        tokio::time::sleep(pause).await;
        registry
            .register(json!({
                "ID": "my-service-ID", "Name": "my-service-name", "Tags": ["alpha", "beta"],
                "Port": 12345, "Address": "my-address", "EnableTagOverride": false,
                "Check": null, "Checks": null,
            }))
            .await;
    };
    let query = async {
        let answer = registry.indexed(&blocked).await;
        assert!(asked.elapsed() >= pause, "the query did not block");
        answer
    };
    let ((woken_at, health), ()) = tokio::join!(query, register);
    assert!(woken_at > index);
    assert_eq!(health[0]["Service"]["Address"], "my-address");
    assert_eq!(health[0]["Service"]["Port"], 12345);
    assert_eq!(health[0]["Checks"].as_array().unwrap().len(), 1, "{health}");

    registry
        .put("/v1/agent/service/deregister/my-service-ID", &Value::Null)
        .await;
    let (gone_at, nothing) = registry.indexed(path).await;
    assert_eq!(nothing, json!([]));
    assert!(gone_at > woken_at);
    registry.stop().await;
}

#[tokio::test]
async fn answers_have_consuls_fields() {
    let registry = Registry::start().await;
    registry
        .register(json!({
            "ID": "w2", "name": "web", "address": "10.0.0.7", "port": 8080, "tags": ["a"],
            "meta": {"k": "v"}, "enable_tag_override": true,
            "weights": {"passing": 7, "warning": 0}, "check": {"ttl": "10s"}, "checks": null,
        }))
        .await;
    registry.register(json!({"Name": "web"})).await;
    let response = registry
        .ask("GET", "/v1/health/service/WEB?tag=A", None)
        .await;
    for (name, value) in [
        ("content-type", "application/json"),
        ("x-consul-knownleader", "true"),
        ("x-consul-lastcontact", "0"),
        ("x-consul-effective-consistency", "leader"),
    ] {
        assert_eq!(response.headers()[name], value, "{name}");
    }
    let mut health: Value = response.json().await.unwrap();
    let node = health[0]["Node"].clone();
    assert_eq!(node["Datacenter"], "dc1");
    assert_eq!(node["Address"], "127.0.0.1");
    strip_indices(&mut health);
    let tagged = json!({"Address": "10.0.0.7", "Port": 8080});
    let serf = json!({
        "Node": node["Node"], "CheckID": "serfHealth", "Name": "Serf Health Status",
        "Status": "passing", "Notes": "", "Output": "Agent alive and reachable",
        "ServiceID": "", "ServiceName": "", "ServiceTags": [], "Type": "", "Interval": "",
        "Timeout": "", "ExposedPort": 0, "Definition": {},
    });
    let ttl = json!({
        "Node": node["Node"], "CheckID": "service:w2", "Name": "Service 'web' check",
        "Status": "critical", "Notes": "", "Output": "", "ServiceID": "w2",
        "ServiceName": "web", "ServiceTags": ["a"], "Type": "ttl", "Interval": "",
        "Timeout": "", "ExposedPort": 0, "Definition": {},
    });
    assert_eq!(
        health[0]["Service"],
        json!({
            "ID": "w2", "Service": "web", "Tags": ["a"], "Address": "10.0.0.7",
            "TaggedAddresses": {"lan_ipv4": tagged, "wan_ipv4": tagged},
            "Meta": {"k": "v"}, "Port": 8080, "Weights": {"Passing": 7, "Warning": 0},
            "EnableTagOverride": true,
            "Proxy": {"Mode": "", "MeshGateway": {}, "Expose": {}}, "Connect": {}, "PeerName": "",
        })
    );
    assert_eq!(health[0]["Checks"], json!([serf, ttl]));
    assert_eq!(health.as_array().unwrap().len(), 1);

    let mut health = registry.get("/v1/health/service/web").await;
    assert_eq!(ids(&health), ["w2", "web"]);
    strip_indices(&mut health);
    assert_eq!(
        health[1]["Service"],
        json!({
            "ID": "web", "Service": "web", "Tags": [], "Address": "", "Meta": null,
            "Weights": {"Passing": 1, "Warning": 1}, "EnableTagOverride": false,
            "Proxy": {"Mode": "", "MeshGateway": {}, "Expose": {}}, "Connect": {}, "PeerName": "",
        })
    );
    let passing = registry.get("/v1/health/service/web?passing").await;
    assert_eq!(ids(&passing), ["web"]);
    for listing in ["passing=", "passing=0", "passing=false"] {
        let health = registry
            .get(&format!("/v1/health/service/web?{listing}"))
            .await;
        let all = if listing == "passing=" { 1 } else { 2 };
        assert_eq!(ids(&health).len(), all, "{listing}");
    }
    assert_eq!(
        registry.get("/v1/health/service/web?tag=a&tag=b").await,
        json!([])
    );
    assert_eq!(
        registry.get("/v1/catalog/services").await,
        json!({"web": ["a"]})
    );
    let catalog = registry.get("/v1/catalog/service/web").await;
    assert_eq!(catalog[0]["ServiceID"], "w2");
    assert_eq!(catalog[0]["ServicePort"], 8080);
    assert_eq!(catalog[1]["ServiceMeta"], json!({}));
    let mut checks = registry.get("/v1/agent/checks").await;
    strip_indices(&mut checks);
    assert_eq!(checks, json!({"service:w2": ttl}));
    for (path, count) in [
        ("/v1/health/checks/web", 1),
        ("/v1/health/state/any", 2),
        ("/v1/health/state/critical", 1),
        ("/v1/health/state/warning", 0),
        ("/v1/health/node/elsewhere", 0),
        ("/v1/catalog/nodes", 1),
        ("/v1/catalog/nodes?node-meta=a:b", 0),
        ("/v1/catalog/datacenters", 1),
        ("/v1/status/peers", 1),
    ] {
        let list = registry.get(path).await;
        assert_eq!(list.as_array().unwrap().len(), count, "{path}: {list}");
    }
    let this = registry.get("/v1/agent/self").await;
    assert_eq!(this["Config"]["NodeName"], node["Node"]);
    assert_eq!(this["Config"]["NodeID"], node["ID"]);
    let pretty = registry
        .ask("GET", "/v1/catalog/services?pretty", None)
        .await;
    assert!(pretty.text().await.unwrap().contains("\n  \"web\""));
    registry.stop().await;
}

/// Takes away what differs from one run to the next.
fn strip_indices(value: &mut Value) {
    match value {
        Value::Array(list) => list.iter_mut().for_each(strip_indices),
        Value::Object(map) => {
            map.remove("CreateIndex");
            map.remove("ModifyIndex");
            map.values_mut().for_each(strip_indices);
        }
        _ => {}
    }
}

#[tokio::test]
async fn errors_are_consuls() {
    let registry = Registry::start().await;
    registry
        .register(json!({"Name": "web", "Check": {"TCP": "127.0.0.1:1", "Interval": "1h"}}))
        .await;
    let unknown_check =
        "Unknown check ID \"nope\". Ensure that the check ID is passed, not the check name.";
    let unknown_service =
        "Unknown service ID \"nope\". Ensure that the service ID is passed, not the service name.";
    for (method, path, status, text) in [
        (
            "POST",
            "/v1/health/service/web",
            405,
            "method POST not allowed",
        ),
        (
            "DELETE",
            "/v1/agent/service/deregister/web",
            405,
            "method DELETE not allowed",
        ),
        (
            "GET",
            "/v1/nonsense",
            404,
            "Invalid URL path: not a recognized HTTP API endpoint\n",
        ),
        (
            "GET",
            "/v1/agent/service/nope",
            404,
            "unknown service ID: nope",
        ),
        (
            "PUT",
            "/v1/agent/service/deregister/nope",
            404,
            unknown_service,
        ),
        (
            "PUT",
            "/v1/agent/service/maintenance/nope?enable=true",
            404,
            unknown_service,
        ),
        (
            "PUT",
            "/v1/agent/service/maintenance/web",
            400,
            "Missing value for enable",
        ),
        (
            "PUT",
            "/v1/agent/service/maintenance/?enable=true",
            400,
            "Missing service ID",
        ),
        (
            "PUT",
            "/v1/agent/service/maintenance/web?enable=x",
            400,
            "Invalid value for enable: \"x\"",
        ),
        ("PUT", "/v1/agent/check/deregister/nope", 404, unknown_check),
        ("PUT", "/v1/agent/check/pass/nope", 404, unknown_check),
        (
            "PUT",
            "/v1/agent/check/pass/service:web",
            500,
            "CheckID \"service:web\" does not have associated TTL",
        ),
        (
            "PUT",
            "/v1/agent/service/register",
            400,
            "Request decode failed: EOF",
        ),
        ("GET", "/v1/health/service/", 400, "Missing service name"),
        ("GET", "/v1/health/state/", 400, "Missing check state"),
        (
            "GET",
            "/v1/health/service/web?passing=2",
            400,
            "Invalid value for ?passing",
        ),
        (
            "GET",
            "/v1/health/service/web?wait=zz",
            400,
            "Invalid wait time",
        ),
        (
            "GET",
            "/v1/health/service/web?index=-1",
            400,
            "Invalid index",
        ),
        (
            "GET",
            "/v1/health/service/web?stale&consistent",
            400,
            "Cannot specify ?stale with ?consistent, conflicting semantics.",
        ),
        (
            "GET",
            "/v1/health/service/web?dc=dc2",
            500,
            "No path to datacenter",
        ),
        (
            "GET",
            "/v1/catalog/services?ns=team",
            400,
            "Invalid query parameter: \"ns\" - Namespaces are a Consul Enterprise feature",
        ),
        (
            "GET",
            "/v1/agent/services?partition=p",
            400,
            "Invalid query parameter: \"partition\" - Partitions are a Consul Enterprise feature",
        ),
        (
            "GET",
            "/v1/health/service/web?filter=a",
            400,
            "?filter is not supported by the embedded registry",
        ),
    ] {
        let response = registry.ask(method, path, None).await;
        let found = (response.status().as_u16(), response.text().await.unwrap());
        assert_eq!(found, (status, text.to_owned()), "{method} {path}");
    }
    for (body, status, text) in [
        (json!({"Name": ""}), 400, "Missing service name"),
        (
            json!({"Name": "x", "Address": "0.0.0.0"}),
            400,
            "Invalid service address",
        ),
        (
            json!({"Name": "x", "Prot": 80}),
            400,
            "Request decode failed: json: unknown field \"Prot\"",
        ),
        (
            json!({"Name": "x", "Check": {"TTL": "1"}}),
            400,
            "Request decode failed: time: missing unit in duration \"1\"",
        ),
    ] {
        let response = registry
            .ask("PUT", "/v1/agent/service/register", Some(&body))
            .await;
        let found = (response.status().as_u16(), response.text().await.unwrap());
        assert_eq!(found, (status, text.to_owned()), "{body}");
    }
    let orphan = json!({"Name": "c", "ServiceID": "none", "TTL": "15s"});
    let response = registry
        .ask("PUT", "/v1/agent/check/register", Some(&orphan))
        .await;
    assert_eq!(response.status(), StatusCode::NOT_FOUND);
    assert_eq!(
        response.text().await.unwrap(),
        "ServiceID \"none\" does not exist"
    );
    let large = json!({"Name": "x".repeat(512 * 1024)});
    let response = registry
        .ask("PUT", "/v1/agent/service/register", Some(&large))
        .await;
    assert_eq!(response.status(), StatusCode::PAYLOAD_TOO_LARGE);
    let options = registry
        .ask("OPTIONS", "/v1/agent/service/register", None)
        .await;
    assert_eq!(
        (options.status(), &options.headers()["allow"]),
        (StatusCode::OK, &"PUT".parse().unwrap())
    );
    registry.stop().await;
}

#[tokio::test]
async fn names_may_have_spaces_and_ids_slashes() {
    let registry = Registry::start().await;
    registry
        .register(json!({"Name": "a b/ü", "ID": "i/1 %"}))
        .await;
    let health = registry.get("/v1/health/service/a%20b%2F%C3%BC").await;
    assert_eq!(ids(&health), ["i/1 %"]);
    for path in [
        "/v1/agent/service/i%2F1%20%25",
        "/v1/agent/service/i/1%20%25",
    ] {
        assert_eq!(registry.get(path).await["Service"], "a b/ü", "{path}");
    }
    registry
        .put("/v1/agent/service/deregister/i%2F1%20%25", &Value::Null)
        .await;
    assert_eq!(registry.get("/v1/agent/services").await, json!({}));
    registry.stop().await;
}

#[tokio::test]
async fn a_change_wakes_its_own_watchers_at_once_and_no_others() {
    let registry = Registry::start().await;
    registry
        .register(json!({"Name": "web", "Check": {"TTL": "1h"}}))
        .await;
    let (index, _) = registry.indexed("/v1/health/service/web").await;
    let quiet = format!("/v1/health/service/web?index={index}&wait=1s");
    let asked = Instant::now();
    let others = async {
        while asked.elapsed() < Duration::from_millis(900) {
            let port = fastrand::u16(1..);
            registry
                .register(json!({"Name": "other", "Port": port}))
                .await;
        }
    };
    let ((after, _), ()) = tokio::join!(registry.indexed(&quiet), others);
    assert!(
        asked.elapsed() >= Duration::from_secs(1),
        "{:?}",
        asked.elapsed()
    );
    assert_eq!(after, index);

    let mut times = Vec::new();
    let mut index = index;
    for round in 0..20 {
        let path = format!("/v1/health/service/web?index={index}&wait=60s");
        let url = format!("http://{}{path}", registry.address);
        let query = tokio::spawn(registry.http.get(url).timeout(PATIENCE).send());
        // Given time to arrive; where it did not, it finds the change and measures nothing less.
        tokio::time::sleep(Duration::from_millis(10)).await;
        let verdict = ["pass", "warn"][round % 2];
        let changed = Instant::now();
        let path = format!("/v1/agent/check/{verdict}/service:web");
        registry.put(&path, &Value::Null).await;
        let answer = query.await.unwrap().unwrap();
        times.push(changed.elapsed());
        let now = answer.headers()["x-consul-index"].to_str().unwrap();
        let now = now.parse().unwrap();
        assert!(now > index);
        index = now;
    }
    times.sort();
    // Two round trips over HTTP, on a machine that does other things too; the wait would be a minute.
    assert!(times[10] < Duration::from_secs(1), "{times:?}");
    registry.stop().await;
}

#[tokio::test]
async fn a_query_answers_at_once_from_another_life_and_at_its_wait_otherwise() {
    let registry = Registry::start().await;
    let (index, _) = registry.indexed("/v1/catalog/services").await;
    let asked = Instant::now();
    let beyond = index + 1_000_000;
    let path = format!("/v1/catalog/services?index={beyond}&wait=60s");
    let (lower, _) = registry.indexed(&path).await;
    assert_eq!(lower, index);
    assert!(asked.elapsed() < Duration::from_secs(20));
    let path = format!("/v1/health/service/none?index={index}&wait=300ms");
    let (same, _) = registry.indexed(&path).await;
    assert_eq!(same, index);
    let waited = asked.elapsed();
    assert!(waited >= Duration::from_millis(300), "{waited:?}");
    registry.stop().await;
}

#[tokio::test]
async fn the_catalog_and_the_hash_of_an_instance_can_be_waited_for() {
    let registry = Registry::start().await;
    registry.register(json!({"Name": "web"})).await;
    let (index, _) = registry.indexed("/v1/catalog/services").await;
    let hash = registry.get("/v1/agent/service/web").await["ContentHash"].clone();
    let catalog = format!("/v1/catalog/services?index={index}&wait=60s");
    let instance = format!(
        "/v1/agent/service/web?hash={}&wait=60s",
        hash.as_str().unwrap()
    );
    let change = async {
        tokio::time::sleep(Duration::from_millis(20)).await;
        registry
            .register(json!({"Name": "web", "Tags": ["new"]}))
            .await;
    };
    let (catalog, instance, ()) =
        tokio::join!(registry.get(&catalog), registry.get(&instance), change);
    assert_eq!(catalog, json!({"web": ["new"]}));
    assert_eq!(instance["Tags"], json!(["new"]));
    assert_ne!(instance["ContentHash"], hash);
    registry.stop().await;
}

/// A backend that answers every request with the code that it is told.
async fn backend() -> (SocketAddr, watch::Sender<u16>, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (code, codes) = watch::channel(200);
    let running = tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let code = *codes.borrow();
            let answer = format!("HTTP/1.1 {code} Told\r\ncontent-length: 2\r\n\r\nok");
            let mut head = [0; 4096];
            // A TCP check says nothing.
            let _ = stream.read(&mut head).await;
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    (address, code, running)
}

#[tokio::test]
async fn http_and_tcp_checks_follow_what_they_check() {
    let registry = Registry::start().await;
    let (address, code, running) = backend().await;
    let http = format!("http://{address}/health");
    registry
        .register(json!({"Name": "web", "Check": {"HTTP": http, "Interval": "1s"}}))
        .await;
    registry
        .register(json!({"Name": "raw", "Check": {"TCP": address, "Interval": "1s"}}))
        .await;
    let check = registry.until_status("web", "passing").await;
    assert_eq!(
        check["Output"],
        format!("HTTP GET {http}: 200 OK Output: ok")
    );
    assert_eq!(
        (&check["Type"], &check["Interval"]),
        (&json!("http"), &json!("1s"))
    );
    let check = registry.until_status("raw", "passing").await;
    assert_eq!(check["Output"], format!("TCP connect {address}: Success"));

    code.send(503).unwrap();
    registry.until_status("web", "critical").await;
    code.send(429).unwrap();
    registry.until_status("web", "warning").await;
    running.abort();
    let check = registry.until_status("web", "critical").await;
    assert!(
        check["Output"].as_str().unwrap().contains("refused"),
        "{check}"
    );
    registry.until_status("raw", "critical").await;

    let (index, _) = registry.indexed("/v1/health/service/raw").await;
    let path = format!("/v1/health/service/raw?index={index}&wait=2500ms");
    let (later, _) = registry.indexed(&path).await;
    assert_eq!(later, index, "a check that stays critical moves the index");
    registry.stop().await;
}

#[tokio::test]
async fn a_ttl_check_turns_critical_when_its_provider_is_silent() {
    let registry = Registry::start().await;
    registry
        .register(json!({"Name": "web", "Check": {"TTL": "500ms", "Status": "passing"}}))
        .await;
    let check = registry.until_status("web", "critical").await;
    assert_eq!(check["Output"], "TTL expired");
    let update = json!({"Status": "passing", "Output": "up"});
    registry
        .put("/v1/agent/check/update/service:web", &update)
        .await;
    let health = registry.get("/v1/health/service/web?passing").await;
    assert_eq!(health[0]["Checks"][1]["Output"], "up");
    let check = registry.until_status("web", "critical").await;
    let output = "TTL expired (last output before timeout follows): up";
    assert_eq!(check["Output"], output);
    registry.stop().await;
}

#[tokio::test]
async fn a_node_check_is_every_instances() {
    let registry = Registry::start().await;
    registry.register(json!({"Name": "web"})).await;
    registry
        .put(
            "/v1/agent/maintenance?enable=true&reason=move",
            &Value::Null,
        )
        .await;
    let health = registry.get("/v1/health/service/web").await;
    assert_eq!(health[0]["Checks"][1]["CheckID"], "_node_maintenance");
    assert_eq!(health[0]["Checks"][1]["Notes"], "move");
    assert_eq!(
        registry.get("/v1/health/service/web?passing").await,
        json!([])
    );
    registry
        .put("/v1/agent/maintenance?enable=false", &Value::Null)
        .await;
    assert_eq!(
        ids(&registry.get("/v1/health/service/web?passing").await),
        ["web"]
    );
    registry.stop().await;
}

#[tokio::test]
async fn everything_is_there_again_after_a_crash_at_a_higher_index() {
    let before = Registry::start().await;
    before
        .register(json!({"Name": "web", "Port": 80, "Meta": {"a": "b"}}))
        .await;
    before
        .register(json!({"Name": "web", "ID": "w2", "Checks": [
            {"TTL": "1h"}, {"HTTP": "http://127.0.0.1:1/", "Interval": "1h", "Status": "passing"}
        ]}))
        .await;
    before
        .put("/v1/agent/check/warn/service:w2:1?note=hm", &Value::Null)
        .await;
    before.register(json!({"Name": "gone"})).await;
    before
        .put("/v1/agent/service/deregister/gone", &Value::Null)
        .await;
    let (index, mut health) = before.indexed("/v1/health/service/web").await;
    let (crashed, torn) = (before.crashed(), before.crashed());
    before.stop().await;

    let after = Registry::start_in(crashed).await;
    let (later, mut again) = after.indexed("/v1/health/service/web").await;
    assert!(later > index, "{later} after {index}");
    strip_indices(&mut health);
    strip_indices(&mut again);
    assert_eq!(again, health);
    assert_eq!(again[0]["Checks"][1]["Status"], "warning");
    assert_eq!(after.get("/v1/catalog/services").await, json!({"web": []}));
    // Who held an index of the life before is not left waiting with it.
    let (_, known) = after
        .indexed(&format!("/v1/health/service/none?index={index}&wait=60s"))
        .await;
    assert_eq!(known, json!([]));
    after.stop().await;

    let bytes = fs::read(journal(&torn)).unwrap();
    fs::write(journal(&torn), &bytes[..bytes.len() - 9]).unwrap();
    let after = Registry::start_in(torn).await;
    let (later, services) = after.indexed("/v1/catalog/services").await;
    assert!(later > index);
    assert_eq!(
        services,
        json!({"gone": [], "web": []}),
        "the torn change never was"
    );
    after.stop().await;
}

#[tokio::test]
async fn a_corrupt_journal_is_set_aside_and_the_registry_starts() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(journal(&folder), "no journal\nof mine\n").unwrap();
    let registry = Registry::start_in(folder).await;
    assert_eq!(registry.get("/v1/catalog/services").await, json!({}));
    registry.register(json!({"Name": "web"})).await;
    let folder = registry.stop().await;
    let mut names = fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name());
    assert!(names.any(|name| {
        name.to_string_lossy()
            .starts_with("registry.jsonl.corrupt-")
    }));
    let registry = Registry::start_in(folder).await;
    assert_eq!(
        registry.get("/v1/catalog/services").await,
        json!({"web": []})
    );
    registry.stop().await;
}

#[tokio::test]
async fn a_taken_port_and_a_taken_folder_are_said() {
    let registry = Registry::start().await;
    let other = tempfile::tempdir().unwrap();
    let taken = Embedded {
        address: registry.address,
        ..config(other.path())
    };
    let Err(StartError::Listen { source, .. }) = Server::bind(&taken).await else {
        panic!("two listen on {}", registry.address)
    };
    assert_eq!(source.kind(), std::io::ErrorKind::AddrInUse);
    let shared = config(registry.folder.path());
    let error = Server::bind(&shared).await.unwrap_err();
    assert!(matches!(error, StartError::Locked(_)), "{error}");
    let file = registry.folder.path().join("lock");
    let error = Server::bind(&config(&file)).await.unwrap_err();
    assert!(matches!(error, StartError::Data { .. }), "{error}");
    registry.stop().await;
}

/// Sends a request's head as it stands, and gives back the answer's status line.
async fn raw(address: SocketAddr, head: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = head.replace('\n', "\r\n");
    stream
        .write_all(format!("{head}\r\n\r\n").as_bytes())
        .await
        .unwrap();
    let mut answer = Vec::new();
    while !answer.windows(2).any(|pair| pair == b"\r\n") {
        assert_ne!(stream.read_buf(&mut answer).await.unwrap(), 0, "{head}");
    }
    String::from_utf8_lossy(&answer)
        .lines()
        .next()
        .unwrap()
        .to_owned()
}

#[tokio::test]
async fn only_a_host_of_its_own_is_answered() {
    let registry = Registry::start().await;
    let (address, port) = (registry.address, registry.address.port());
    for host in [format!("127.0.0.1:{port}"), format!("localhost:{port}")] {
        let head = format!("GET /v1/agent/self HTTP/1.1\nHost: {host}");
        assert_eq!(raw(address, &head).await, "HTTP/1.1 200 OK", "{host}");
    }
    for host in [
        "Host: evil.example".to_owned(),
        format!("Host: evil.example:{port}"),
        "Host: 127.0.0.1:1".to_owned(),
        format!("Host: 127.0.0.1:{port}\nHost: evil.example"),
        "X-None: none".to_owned(),
    ] {
        for line in [
            "GET /v1/agent/self",
            "GET /v1/none",
            "PUT /v1/agent/service/register",
        ] {
            let head = format!("{line} HTTP/1.1\n{host}\nContent-Length: 0");
            assert_eq!(
                raw(address, &head).await,
                "HTTP/1.1 403 Forbidden",
                "{head}"
            );
        }
    }
    registry.stop().await;
}

#[tokio::test]
async fn a_token_that_is_set_is_needed_for_changes_and_for_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let secret = folder.path().join("token");
    fs::write(&secret, "s3cret\n").unwrap();
    let token = Some(Secret::File(secret));
    let config = Embedded {
        token,
        ..config(folder.path())
    };
    let registry = Registry::start_with(folder, config).await;
    let register = || {
        let url = format!("http://{}/v1/agent/service/register", registry.address);
        registry.http.put(url).json(&json!({"Name": "web"}))
    };
    for (request, status) in [
        (register(), 403),
        (register().header("x-consul-token", "other"), 403),
        (register().bearer_auth("other"), 403),
        (register().bearer_auth("s3cret"), 200),
        (register().header("x-consul-token", "s3cret"), 200),
    ] {
        assert_eq!(request.send().await.unwrap().status().as_u16(), status);
    }
    assert_eq!(
        registry.get("/v1/catalog/services").await,
        json!({"web": []})
    );
    let folder = registry.stop().await;

    let secret = folder.path().join("empty");
    fs::write(&secret, "\n").unwrap();
    for secret in [secret, folder.path().join("absent")] {
        let token = Some(Secret::File(secret));
        let config = Embedded {
            token,
            ..self::config(folder.path())
        };
        let error = Server::bind(&config).await.unwrap_err();
        assert!(matches!(error, StartError::Token(_)), "{error}");
    }
}

#[tokio::test]
async fn shutdown_answers_those_who_wait_and_ends_what_idles() {
    let registry = Registry::start().await;
    let (index, _) = registry.indexed("/v1/health/service/web").await;
    // Half a request's head, and a connection that says nothing.
    let mut slow = TcpStream::connect(registry.address).await.unwrap();
    slow.write_all(b"GET /v1/agent").await.unwrap();
    let mut silent = TcpStream::connect(registry.address).await.unwrap();
    let url = format!(
        "http://{}/v1/health/service/web?index={index}&wait=5m",
        registry.address
    );
    let query = tokio::spawn(registry.http.get(url).send());
    // Given time to arrive: it would be refused otherwise.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let stopped = Instant::now();
    registry.stop().await;
    assert!(
        stopped.elapsed() < Duration::from_secs(60),
        "{:?}",
        stopped.elapsed()
    );
    assert_eq!(query.await.unwrap().unwrap().status(), StatusCode::OK);
    let mut rest = Vec::new();
    let _ = slow.read_to_end(&mut rest).await;
    let _ = silent.read_to_end(&mut rest).await;
}

#[tokio::test]
async fn go_kit_and_the_official_client_take_it_for_a_consul() {
    let Some(gokit) = tokio::task::spawn_blocking(|| binary("gokit"))
        .await
        .unwrap()
    else {
        return;
    };
    let registry = Registry::start().await;
    let run = tokio::process::Command::new(gokit)
        .arg(format!("http://{}", registry.address))
        .kill_on_drop(true)
        .output();
    let run = tokio::time::timeout(3 * PATIENCE, run).await;
    let run = run.expect("the Go client ends").unwrap();
    let said = String::from_utf8_lossy(&run.stderr);
    assert!(run.status.success(), "{said}");
    registry.stop().await;
}
