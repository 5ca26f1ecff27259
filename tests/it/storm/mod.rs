//! A storm: clients and endpoints that do everything at random, and an oracle that knows what must
//! come of it. `tests/storm` runs it, for as long as one likes; `tests/run` for a minute.

mod client;
mod draw;
mod endpoint;
mod http2;
mod oracle;
mod pieces;
mod plan;
mod spoil;

use std::{
    collections::VecDeque,
    net::SocketAddr,
    path::Path,
    process::Stdio,
    sync::{Arc, Mutex, Weak},
    time::Duration,
};

use futures_util::future::BoxFuture;
use rustls::ServerConfig;
use serde_json::{Value, json};
use tokio::{task::JoinSet, time::Instant};
use tokio_rustls::TlsConnector;

use self::{
    client::Client,
    draw::Planner,
    endpoint::{Endpoint, Leave},
    oracle::Oracle,
    plan::Id,
};
use crate::support::{
    authority::Authority,
    callboard::{self, Callboard},
    eventually,
    server::free_ports,
    tls,
};

/// How many clients there are at once.
const CLIENTS: u64 = 16;
/// Memory may grow by this part of what it was after the first quarter, and by so many bytes.
const GROWTH: (f64, u64) = (0.15, 8 << 20);

const ROUTES: &str = r#"
[service.retried]
retry = { on = 503, try_timeout = "250ms" }
[service.limited]
limits = { concurrent = 3, per_endpoint = 2, pending = 2, wait = "100ms" }
[service.solo]
guard = false
fallback = "plain"
[service.tunnel]
upgrades = ["storm"]
[service.streams]
protocol = "h2c"
[service.sealed]
protocol = "auto"
tls = { ca = "ca.pem" }
[service.secure]
tls = { ca = "ca.pem" }

[[route]]
path = "/plain"
service = "plain"
[[route]]
path = "/secure"
service = "secure"
strip_prefix = true
[[route]]
path = "/retried"
service = "retried"
[[route]]
path = "/limited"
service = "limited"
[[route]]
path = "/rated"
service = "plain"
rate = { requests = 5, burst = 5 }
[[route]]
path = "/crowd"
service = "crowd"
strip_prefix = true
[[route]]
path = "/solo"
service = "solo"
strip_prefix = true
[[route]]
path = "/split"
split = [{ service = "plain", weight = 70 }, { service = "secure", weight = 30 }]
[[route]]
path = "/edgy"
service = "edgy"
[[route]]
path = "/streams"
service = "streams"
[[route]]
path = "/sealed"
service = "sealed"
strip_prefix = true
[[route]]
path = "/tunnel"
service = "tunnel"
[[route]]
path = "/gone"
service = "gone"
"#;

/// Bytes as they are told: their start and their end.
fn shown(bytes: &[u8]) -> String {
    match bytes.len() {
        0..=500 => format!("{} bytes \"{}\"", bytes.len(), bytes.escape_ascii()),
        length => {
            let (start, end) = (&bytes[..400], &bytes[length - 60..]);
            let (start, end) = (start.escape_ascii(), end.escape_ascii());
            format!("{length} bytes \"{start}\" … \"{end}\"")
        }
    }
}

/// The embedded registry of the proxy, as providers use it.
struct Registry {
    url: String,
    http: reqwest::Client,
    /// Who has left by itself.
    left: Mutex<Vec<SocketAddr>>,
}

impl Registry {
    async fn sign_in(&self, service: &str, address: SocketAddr) {
        let scheme = if is_secured(service) { "https" } else { "http" };
        let entry = json!({
            "ID": id_of(address), "Name": service, "Address": address.ip(), "Port": address.port(),
            "Meta": { "scheme": scheme },
        });
        let question = self
            .http
            .put(format!("{}/v1/agent/service/register", self.url))
            .json(&entry);
        assert!(question.send().await.unwrap().status().is_success());
    }

    async fn sign_out(&self, address: SocketAddr) {
        let url = format!(
            "{}/v1/agent/service/deregister/{}",
            self.url,
            id_of(address)
        );
        // Two requests may make one endpoint leave at once: the second finds it gone.
        self.http.put(url).send().await.unwrap();
    }
}

/// Whether the endpoints of a service speak TLS.
fn is_secured(service: &str) -> bool {
    matches!(service, "secure" | "sealed")
}

fn id_of(address: SocketAddr) -> String {
    // Those of `secure` have another address than the others, and may have the same port.
    format!("storm-{}-{}", address.ip(), address.port())
}

impl Leave for Arc<Registry> {
    fn leave(&self, address: SocketAddr) -> BoxFuture<'static, ()> {
        let registry = Arc::clone(self);
        Box::pin(async move {
            registry.sign_out(address).await;
            // Most proxies know by then; where one does not, nothing else is expected.
            let_pass(60).await;
            registry.left.lock().unwrap().push(address);
        })
    }
}

struct Storm {
    planner: Planner,
    oracle: Arc<Oracle>,
    callboard: Callboard,
    proxy: SocketAddr,
    admin: String,
    registry: Arc<Registry>,
    /// The registry as those see it who may leave.
    leave: Arc<dyn Leave>,
    /// Where the proxy speaks TLS, and what clients need for it, one of each version: those of HTTP/1.1, and
    /// those of HTTP/2.
    proxy_tls: SocketAddr,
    connectors: [[TlsConnector; 2]; 2],
    tls: Arc<ServerConfig>,
    folder: tempfile::TempDir,
}

impl Storm {
    async fn start(seed: u64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::new(folder.path());
        let identity = authority.issue("storm");
        let [proxy, proxy_tls, admin, registry] = free_ports();
        // A client that reads in sips on a busy machine does so for longer than its answer is on its way, and one that
        // sends its head byte by byte, for longer than ten seconds.
        let text = format!(
            "workers = 2\nsnapshot = false\n[log]\nlevel = \"error\"\n\
             [[listen]]\naddress = \"127.0.0.1:{proxy}\"\n\
             timeout = {{ header = \"60s\", body = \"5s\", idle = \"20s\" }}\n\
             [[listen]]\naddress = \"127.0.0.1:{proxy_tls}\"\n\
             timeout = {{ header = \"60s\", body = \"5s\", idle = \"20s\" }}\n\
             tls = {{ certificates = [{{ cert = \"storm-certificate.pem\", key = \"storm-key.pem\" }}] }}\n\
             [admin]\naddress = \"127.0.0.1:{admin}\"\n\
             [registry.embedded]\naddress = \"127.0.0.1:{registry}\"\n\
             [defaults]\ntimeout = {{ response = \"5s\", idle = \"5s\" }}\n\
             eject = {{ time = \"500ms\", max_time = \"1s\" }}\n\
             retry = {{ budget = {{ ratio = 10, per_second = 1_000_000 }} }}\n{ROUTES}"
        );
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        let planner = Planner { seed };
        let registry = Arc::new(Registry {
            url: format!("http://127.0.0.1:{registry}"),
            http,
            left: Mutex::default(),
        });
        let storm = Self {
            planner,
            oracle: Arc::new(Oracle::new(planner)),
            callboard: start_callboard(folder.path(), &text),
            proxy: ([127, 0, 0, 1], proxy).into(),
            proxy_tls: ([127, 0, 0, 1], proxy_tls).into(),
            connectors: [&[][..], &[&b"h2"[..]]].map(|protocols| {
                tls::VERSIONS.map(|version| tls::connector(&authority.ca(), version, protocols))
            }),
            admin: format!("http://127.0.0.1:{admin}"),
            leave: Arc::new(Arc::clone(&registry)),
            registry,
            tls: Arc::new(tls::server(&identity, &tls::VERSIONS, None)),
            folder,
        };
        let live = format!("{}/live", storm.admin);
        let is_live = async || storm.registry.http.get(&live).send().await.is_ok();
        eventually("the proxy is there", is_live, |is| *is).await;
        storm
    }

    async fn open(&self, service: &'static str) -> Endpoint {
        let tls = is_secured(service).then(|| Arc::clone(&self.tls));
        let leave: Option<Weak<dyn Leave>> =
            (service == "solo").then(|| Arc::downgrade(&self.leave));
        let oracle = Arc::clone(&self.oracle);
        let endpoint = Endpoint::start(service, self.planner, oracle, tls, leave).await;
        self.registry.sign_in(service, endpoint.address).await;
        endpoint
    }

    /// Waits until so many endpoints of a service serve.
    async fn until_served(&self, service: &str, count: usize) {
        let url = format!("{}/api/services/{service}", self.admin);
        let ask = async || match self.registry.http.get(&url).send().await {
            Ok(answer) => answer.json().await.unwrap_or_default(),
            Err(_) => Value::Null,
        };
        let serve = |service: &Value| {
            let endpoints = service["endpoints"].as_array();
            endpoints.is_some_and(|all| {
                all.iter().filter(|one| one["state"] == "serving").count() >= count
            })
        };
        eventually(&format!("{count} of {service} serve"), ask, serve).await;
    }

    async fn metrics(&self) -> String {
        let page = self.registry.http.get(format!("{}/metrics", self.admin));
        page.send().await.unwrap().text().await.unwrap()
    }

    /// The sum of a gauge's series.
    async fn gauge(&self, name: &str) -> f64 {
        let text = self.metrics().await;
        let lines = text.lines().filter_map(|line| line.strip_prefix(name));
        let of_it = lines.filter(|rest| rest.starts_with(['{', ' ']));
        of_it
            .filter_map(|rest| rest.rsplit(' ').next()?.parse::<f64>().ok())
            .sum()
    }

    fn descriptors(&self) -> usize {
        let folder = format!("/proc/{}/fd", self.callboard.pid());
        std::fs::read_dir(folder).unwrap().count()
    }

    /// What nothing may be left of when all clients are gone.
    async fn until_quiet(&self) {
        for name in [
            "callboard_connections",
            "callboard_endpoint_requests_in_flight",
            "callboard_requests_pending",
            "callboard_endpoint_connections_idle",
            "callboard_http2_connections",
            "callboard_http2_streams",
            "callboard_tunnels_open",
            "callboard_tls_handshakes_pending",
            "callboard_unread",
        ] {
            let what = format!("{name} is 0 again");
            eventually(
                &what,
                async || self.gauge(name).await,
                |value| *value == 0.0,
            )
            .await;
        }
    }

    /// Instances of `crowd` are replaced, most in good order, some killed.
    async fn churn(&self, mut crowd: VecDeque<Endpoint>) {
        for round in 1_u64.. {
            let_pass(400).await;
            crowd.push_back(self.open("crowd").await);
            let old = crowd.pop_front().expect("there are three");
            let address = old.address;
            if round % 4 == 0 {
                self.oracle.upset("crowd", address);
                old.kill();
                let_pass(200).await;
                self.oracle.upset("crowd", address);
                self.registry.sign_out(address).await;
                self.oracle.upset("crowd", address);
            } else {
                self.registry.sign_out(address).await;
                let_pass(300).await;
                old.close();
            }
        }
    }

    /// The one of `solo` is replaced when it has left.
    async fn replace(&self, mut solo: Endpoint) {
        loop {
            let_pass(50).await;
            let left = std::mem::take(&mut *self.registry.left.lock().unwrap());
            if left.contains(&solo.address) {
                solo = self.open("solo").await;
            }
        }
    }

    /// Clients that come back until the time is over.
    async fn rage(&self, until: Instant, first: u64) {
        let mut crowd = VecDeque::new();
        for _ in 0..3 {
            crowd.push_back(self.open("crowd").await);
        }
        let solo = self.open("solo").await;
        self.until_served("crowd", 3).await;
        let mut clients = JoinSet::new();
        for number in first..first + CLIENTS {
            // Every other one by TLS, of each version in turn.
            let http2 = usize::from(Id::new(number, 0, 0).is_http2());
            let version = number as usize / 4 % 2;
            let tls = (number % 2 == 1).then(|| &self.connectors[http2][version]);
            let client = Client {
                number,
                planner: self.planner,
                oracle: Arc::clone(&self.oracle),
                proxy: if tls.is_some() {
                    self.proxy_tls
                } else {
                    self.proxy
                },
                tls: tls.cloned(),
            };
            clients.spawn(async move {
                for connection in 0.. {
                    if Instant::now() >= until {
                        return;
                    }
                    client.converse(connection).await;
                    let rest = client.planner.rest_ms(number, connection);
                    tokio::time::sleep(Duration::from_millis(rest)).await;
                }
            });
        }
        tokio::select! {
            () = async { while clients.join_next().await.is_some() {} } => {}
            () = self.oracle.watch_the_clock() => {}
            () = self.churn(crowd) => {}
            () = self.replace(solo) => {}
        }
    }
}

fn start_callboard(folder: &Path, text: &str) -> Callboard {
    let errors = std::fs::File::create(folder.join("stderr")).unwrap();
    let mut command = callboard::command(folder);
    command.stderr(Stdio::from(errors));
    // What a panic's would read of the binary stays in memory.
    command.env("RUST_BACKTRACE", "0");
    Callboard::run_by(command, folder, text)
}

async fn let_pass(millis: u64) {
    tokio::time::sleep(Duration::from_millis(millis)).await;
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |value| value.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes a minute or more: tests/storm and tests/run run it"]
async fn each_request_comes_once_and_whole_and_each_answer_is_its_own() {
    let seed = setting("CALLBOARD_STORM_SEED", fastrand::u64(..1 << 32));
    let seconds = setting("CALLBOARD_STORM_SECONDS", 60);
    println!("storm: seed {seed}, {seconds} s");
    let storm = Storm::start(seed).await;
    let mut endpoints = Vec::new();
    for service in [
        "plain", "secure", "retried", "limited", "edgy", "streams", "sealed", "tunnel",
    ] {
        for _ in 0..3 {
            endpoints.push(storm.open(service).await);
        }
        storm.until_served(service, 3).await;
    }
    let began = Instant::now();
    let quarter = began + Duration::from_secs(seconds) / 4;
    storm.rage(quarter, 0).await;
    storm.until_quiet().await;
    let (memory, descriptors) = (storm.callboard.resident_bytes(), storm.descriptors());
    let mut first = CLIENTS;
    while Instant::now() < began + Duration::from_secs(seconds) {
        let round = Duration::from_secs(300);
        let until = (Instant::now() + round).min(began + Duration::from_secs(seconds));
        storm.rage(until, first).await;
        first += CLIENTS;
        println!(
            "storm: {} s: {}",
            began.elapsed().as_secs(),
            storm.oracle.counts()
        );
    }
    storm.until_quiet().await;
    let (memory_now, descriptors_now) = (storm.callboard.resident_bytes(), storm.descriptors());
    println!(
        "storm: seed {seed}: {}; {} faults {:?}; memory {} KiB after a quarter, {} KiB at the end; {descriptors} and \
         {descriptors_now} descriptors",
        storm.oracle.counts(),
        storm.oracle.faults(),
        storm.oracle.kinds(),
        memory / 1024,
        memory_now / 1024,
    );
    let said = std::fs::read_to_string(storm.folder.path().join("stderr")).unwrap();
    assert_eq!(said, "", "the proxy's last words");
    assert_eq!(
        storm.oracle.faults(),
        0,
        "faults; the first are told above; seed {seed}"
    );
    let most = memory + (memory as f64 * GROWTH.0) as u64 + GROWTH.1;
    assert!(
        memory_now <= most,
        "memory grew from {memory} to {memory_now} bytes"
    );
    assert!(
        descriptors_now <= descriptors + 2,
        "{descriptors} descriptors became {descriptors_now}"
    );
}
