//! How long after a registration an instance is first reached through the proxy, less what a bare
//! watch of the same registry took to see it: for the registries that push their changes, etcd and
//! ZooKeeper. `cargo bench --bench registries`; the servers are those of `tests/servers`. (For
//! Consul and the embedded registry: `benches/run`.)

#![allow(
    clippy::unwrap_used,
    reason = "a panic is how a bench ends that cannot measure"
)]

use std::{
    net::{SocketAddr, TcpListener},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use callboard::{app::App, config::Config};
use serde_json::{Value, json};
use tokio::sync::oneshot;
use zookeeper_client::{Acls, Client, CreateMode};

const SAMPLES: usize = 100;
/// Registrations before those that are measured: a server on a Java machine that has just started
/// takes several times as long for its first ones.
const WARM_UP: usize = 100;
const BOUND: Duration = Duration::from_millis(5);

/// Ends with what it belongs to.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself; either way it is waited for.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A registry as this needs it.
trait Registry {
    /// Its table in proxy.toml.
    fn table(&self) -> String;
    /// Begins a bare watch of a service; the moment at which its first instance is seen comes over.
    async fn watch(&self, service: &str) -> oneshot::Receiver<Instant>;
    /// Writes an instance.
    async fn register(&self, service: &str, instance: SocketAddr);
}

struct Etcd {
    url: String,
    http: reqwest::Client,
    _server: Server,
}

struct ZooKeeper {
    address: String,
    client: Client,
    _server: Server,
}

impl Etcd {
    async fn start(folder: &Path) -> Self {
        let [client, peer] = free_ports();
        let (url, peer) = (
            format!("http://127.0.0.1:{client}"),
            format!("http://127.0.0.1:{peer}"),
        );
        let mut command = Command::new(found("etcd"));
        command.args([
            "--listen-client-urls",
            &url,
            "--advertise-client-urls",
            &url,
        ]);
        command.args(["--listen-peer-urls", &peer]);
        command.args(["--initial-advertise-peer-urls", &peer]);
        command.args(["--initial-cluster", &format!("default={peer}")]);
        command.args(["--data-dir", "data", "--log-level", "error"]);
        let server = run(command, folder);
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        while http.get(format!("{url}/health")).send().await.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Self {
            url,
            http,
            _server: server,
        }
    }
}

impl Registry for Etcd {
    fn table(&self) -> String {
        format!("[registry.etcd]\naddress = \"{}\"\n", self.url)
    }

    async fn watch(&self, service: &str) -> oneshot::Receiver<Instant> {
        let key = STANDARD.encode(format!("/services/{service}/"));
        let end = STANDARD.encode(format!("/services/{service}0"));
        let create = json!({"create_request": {"key": key, "range_end": end}});
        let request = self
            .http
            .post(format!("{}/v3/watch", self.url))
            .json(&create);
        let mut answer = request.send().await.unwrap();
        let created = answer.chunk().await.unwrap().unwrap();
        assert!(String::from_utf8_lossy(&created).contains("created"));
        let (seen, sees) = oneshot::channel();
        tokio::spawn(async move {
            answer.chunk().await.unwrap().unwrap();
            let _ = seen.send(Instant::now());
        });
        sees
    }

    async fn register(&self, service: &str, instance: SocketAddr) {
        let key = STANDARD.encode(format!("/services/{service}/{instance}"));
        let put = json!({"key": key, "value": STANDARD.encode(instance.to_string())});
        let request = self.http.post(format!("{}/v3/kv/put", self.url)).json(&put);
        let answer: Value = request.send().await.unwrap().json().await.unwrap();
        assert!(answer["header"].is_object(), "{answer}");
    }
}

impl ZooKeeper {
    async fn start(folder: &Path) -> Self {
        let [port] = free_ports();
        let config = format!(
            "tickTime=2000\ndataDir=data\nclientPort={port}\nclientPortAddress=127.0.0.1\n\
             admin.enableServer=false\nmaxClientCnxns=0\n"
        );
        std::fs::write(folder.join("zoo.cfg"), config).unwrap();
        let jars = format!("{}/*", found("zookeeper"));
        let mut command = Command::new("java");
        command.args(["-Xmx128m", "-Dzookeeper.forceSync=no", "-cp", &jars]);
        command.args([
            "org.apache.zookeeper.server.quorum.QuorumPeerMain",
            "zoo.cfg",
        ]);
        let server = run(command, folder);
        let address = format!("127.0.0.1:{port}");
        let client = loop {
            if let Ok(client) = Client::connect(&address).await {
                break client;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        };
        let zookeeper = Self {
            address,
            client,
            _server: server,
        };
        zookeeper.make("/services", b"").await;
        zookeeper
    }

    async fn make(&self, path: &str, data: &[u8]) {
        let options = CreateMode::Persistent.with_acls(Acls::anyone_all());
        self.client.create(path, data, &options).await.unwrap();
    }
}

impl Registry for ZooKeeper {
    fn table(&self) -> String {
        format!("[registry.zookeeper]\naddress = \"{}\"\n", self.address)
    }

    async fn watch(&self, service: &str) -> oneshot::Receiver<Instant> {
        let path = format!("/services/{service}");
        self.make(&path, b"").await;
        // The proxy has seen the new node by now, too, and watches below it.
        tokio::time::sleep(Duration::from_millis(50)).await;
        let (_, _, watcher) = self.client.get_and_watch_children(&path).await.unwrap();
        let (seen, sees) = oneshot::channel();
        tokio::spawn(async move {
            watcher.changed().await;
            let _ = seen.send(Instant::now());
        });
        sees
    }

    async fn register(&self, service: &str, instance: SocketAddr) {
        let path = format!("/services/{service}/one");
        self.make(&path, instance.to_string().as_bytes()).await;
    }
}

/// The times by which the first 200 came after the bare watch had seen the same change.
async fn samples(registry: &impl Registry, folder: &Path) -> Vec<f64> {
    let routes: String = (0..WARM_UP + SAMPLES)
        .map(|n| format!("[[route]]\npath = \"/s{n}\"\nservice = \"s{n}\"\n"))
        .collect();
    let text = format!(
        "[[listen]]\naddress = \"127.0.0.1:0\"\n[admin]\naddress = \"127.0.0.1:0\"\n\
         [drain]\nnotice = \"0s\"\n{}{routes}",
        registry.table()
    );
    let app = App::start(Config::parse(&text, folder).unwrap())
        .await
        .unwrap();
    while !app.is_ready() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let backend = backend().await;
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let mut samples = Vec::new();
    for n in 0..WARM_UP + SAMPLES {
        let service = format!("s{n}");
        let url = format!("http://{}/{service}", app.listeners()[0]);
        let sees = registry.watch(&service).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        let (reached, ()) = tokio::join!(
            async {
                while http.get(&url).send().await.unwrap().status() != 200 {
                    tokio::time::sleep(Duration::from_micros(100)).await;
                }
                Instant::now()
            },
            registry.register(&service, backend),
        );
        let seen = sees.await.unwrap();
        if n >= WARM_UP {
            samples.push(reached.saturating_duration_since(seen).as_secs_f64() * 1e3);
        }
    }
    app.drain().await;
    samples.sort_by(f64::total_cmp);
    samples
}

/// A backend that answers every request.
async fn backend() -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let app = axum::Router::new().fallback(|| async { "here" });
    tokio::spawn(async move { axum::serve(listener, app).await });
    address
}

/// Where `tests/servers/get-NAME` has put it.
fn found(name: &str) -> String {
    let script = format!("{}/tests/servers/get-{name}", env!("CARGO_MANIFEST_DIR"));
    let found = Command::new(script)
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    assert!(found.status.success(), "there is no {name} on this machine");
    String::from_utf8(found.stdout)
        .unwrap()
        .trim_end()
        .to_owned()
}

fn run(mut command: Command, folder: &Path) -> Server {
    let quiet = command.current_dir(folder).stdout(Stdio::null());
    Server(quiet.stderr(Stdio::null()).spawn().unwrap())
}

fn free_ports<const N: usize>() -> [u16; N] {
    // Held until all are found, so that no two are the same.
    let held: [TcpListener; N] = std::array::from_fn(|_| TcpListener::bind("127.0.0.1:0").unwrap());
    held.map(|held| held.local_addr().unwrap().port())
}

fn report(name: &str, samples: &[f64]) -> bool {
    // The nearest rank.
    let at = |share: f64| samples[(samples.len() as f64 * share).ceil() as usize - 1];
    let held = at(0.99) <= BOUND.as_secs_f64() * 1e3;
    println!(
        "{name}: a bare watch saw it → first 200: p50 {:.2} ms, p99 {:.2} ms of {} samples, at most {:?}: {}",
        at(0.5),
        at(0.99),
        samples.len(),
        BOUND,
        if held { "held" } else { "MISSED" }
    );
    held
}

fn main() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let held = runtime.block_on(async {
        let folder = tempfile::tempdir().unwrap();
        let etcd = Etcd::start(folder.path()).await;
        let etcd = report("etcd", &samples(&etcd, folder.path()).await);
        let folder = tempfile::tempdir().unwrap();
        let zookeeper = ZooKeeper::start(folder.path()).await;
        report("zookeeper", &samples(&zookeeper, folder.path()).await) && etcd
    });
    if !held {
        std::process::exit(1);
    }
}
