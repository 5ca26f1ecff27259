//! A real Consul agent of the test's own, gone when the test is.

use std::{
    fs::File,
    net::{Ipv4Addr, TcpListener, UdpSocket},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::OnceLock,
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::eventually;

/// Starts are tried again where somebody takes a port in between.
const STARTS: usize = 5;

pub(crate) struct Consul {
    binary: PathBuf,
    /// Holds the configuration and the log.
    folder: TempDir,
    extra: Value,
    port: u16,
    process: Option<Child>,
    http: reqwest::Client,
}

impl Consul {
    /// An agent in development mode, with a leader; `None` (said on a line) where `tests/run` has
    /// found that Consul cannot be had on this machine.
    pub(crate) async fn start() -> Option<Self> {
        Self::start_with(json!({})).await
    }

    /// The same, with more configuration.
    pub(crate) async fn start_with(extra: Value) -> Option<Self> {
        let mut consul = Self {
            binary: binary()?,
            folder: tempfile::tempdir().unwrap(),
            extra,
            port: 0,
            process: None,
            http: reqwest::Client::new(),
        };
        for _ in 0..STARTS {
            consul.configure();
            if consul.run().await {
                return Some(consul);
            }
        }
        panic!("Consul does not start:\n{}", consul.log());
    }

    /// The base URL of its HTTP API.
    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Kills it and starts it again on the same ports; it remembers nothing.
    pub(crate) async fn restart_empty(&mut self) {
        self.kill();
        assert!(self.run().await, "Consul does not restart:\n{}", self.log());
    }

    /// Stops the process where it stands: its sockets stay open and say nothing.
    pub(crate) fn pause(&self) {
        self.signal(Signal::SIGSTOP);
    }

    /// Ends a pause.
    pub(crate) fn resume(&self) {
        self.signal(Signal::SIGCONT);
    }

    /// kill -9.
    pub(crate) fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    /// Registers a service as its provider would.
    pub(crate) async fn register(&self, service: Value) {
        self.put("/v1/agent/service/register", service).await;
    }

    /// Takes a service away, by its id.
    pub(crate) async fn deregister(&self, id: &str) {
        let id = id.replace('/', "%2F");
        self.put(&format!("/v1/agent/service/deregister/{id}"), json!({}))
            .await;
    }

    /// Any other change.
    pub(crate) async fn put(&self, path: &str, body: Value) {
        let answer = self.http.put(self.url() + path).json(&body);
        let answer = answer.send().await.unwrap();
        let status = answer.status();
        let text = answer.text().await.unwrap();
        assert!(status.is_success(), "PUT {path} {body}: {status} {text}");
    }

    fn configure(&mut self) {
        let [http, server, serf] = free_ports();
        self.port = http;
        let mut config = json!({
            "ports": {
                "http": http, "server": server, "serf_lan": serf,
                "serf_wan": -1, "dns": -1, "grpc": -1, "grpc_tls": -1,
            },
            // A test may ask more of its agent than a browser may of a public one.
            "limits": {"http_max_conns_per_client": 2000},
            "disable_update_check": true,
        });
        // Older versions know no such port, and take no unknown key.
        if self.log().contains("grpc_tls") {
            config["ports"].as_object_mut().unwrap().remove("grpc_tls");
        }
        merge(&mut config, &self.extra);
        std::fs::write(self.folder.path().join("c.json"), config.to_string()).unwrap();
    }

    /// Whether it came up; it has not where its ports were taken.
    async fn run(&mut self) -> bool {
        let log = File::create(self.folder.path().join("log")).unwrap();
        let process = Command::new(&self.binary)
            .args([
                "agent",
                "-dev",
                "-bind",
                "127.0.0.1",
                "-config-file",
                "c.json",
            ])
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .stderr(log.try_clone().unwrap())
            .stdout(log)
            .spawn()
            .unwrap();
        self.process = Some(process);
        let leader = format!("{}/v1/status/leader", self.url());
        let started = eventually(
            "Consul has a leader",
            async || {
                let ended = self.process.as_mut().unwrap().try_wait().unwrap();
                if ended.is_some() {
                    return Some(false);
                }
                let answer = self.http.get(&leader).timeout(Duration::from_secs(1));
                let leader = answer.send().await.ok()?.text().await.ok()?;
                leader.contains(':').then_some(true)
            },
            Option::is_some,
        );
        started.await == Some(true)
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    fn signal(&self, signal: Signal) {
        let process = self.process.as_ref().expect("it runs");
        let pid = i32::try_from(process.id()).unwrap();
        kill(Pid::from_raw(pid), signal).unwrap();
    }
}

impl Drop for Consul {
    fn drop(&mut self) {
        self.kill();
    }
}

fn merge(config: &mut Value, extra: &Value) {
    match (config, extra) {
        (Value::Object(config), Value::Object(extra)) => {
            for (key, value) in extra {
                merge(config.entry(key).or_insert(Value::Null), value);
            }
        }
        (config, extra) => *config = extra.clone(),
    }
}

/// Ports below those that the system hands out by itself, so that an agent which is killed and
/// restarted finds its own again.
pub(crate) fn free_ports<const N: usize>() -> [u16; N] {
    let mut held = Vec::new();
    std::array::from_fn(|_| {
        loop {
            let port = fastrand::u16(10_000..32_000);
            let address = (Ipv4Addr::LOCALHOST, port);
            // Held until all are found, so that no two are the same. Serf takes both kinds.
            if let (Ok(tcp), Ok(udp)) = (TcpListener::bind(address), UdpSocket::bind(address)) {
                held.push((tcp, udp));
                return port;
            }
        }
    })
}

fn binary() -> Option<PathBuf> {
    static BINARY: OnceLock<Option<PathBuf>> = OnceLock::new();
    BINARY.get_or_init(find).clone()
}

fn find() -> Option<PathBuf> {
    let missing = std::env::var("CALLBOARD_TEST_MISSING").unwrap_or_default();
    if missing.split_whitespace().any(|name| name == "consul") {
        println!("left out: this machine has no Consul");
        return None;
    }
    if let Some(path) = std::env::var_os("CALLBOARD_TEST_CONSUL") {
        return Some(path.into());
    }
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/servers/get-consul");
    let found = Command::new(script).output().unwrap();
    let reason = String::from_utf8_lossy(&found.stderr);
    assert!(found.status.success(), "no Consul for the tests: {reason}");
    Some(String::from_utf8(found.stdout).unwrap().trim_end().into())
}
