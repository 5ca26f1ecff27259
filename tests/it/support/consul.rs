//! A real Consul agent of the test's own, gone when the test is.

use std::{path::PathBuf, process::Command, time::Duration};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::{
    eventually,
    server::{self, Process, free_ports},
};

/// Starts are tried again where somebody takes a port in between.
const STARTS: usize = 5;

pub(crate) struct Consul {
    binary: PathBuf,
    /// Holds the configuration and the log.
    folder: TempDir,
    extra: Value,
    port: u16,
    /// The port of the WAN, where the agent has been given one.
    wan: u16,
    process: Option<Process>,
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
            binary: server::binary("consul")?,
            folder: tempfile::tempdir().unwrap(),
            extra,
            port: 0,
            wan: 0,
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

    /// One that stands in a datacenter of this name, and can be joined to another's.
    pub(crate) async fn start_in(datacenter: &str) -> Option<Self> {
        // 0 is replaced by a port of its own.
        Self::start_with(json!({"datacenter": datacenter, "ports": {"serf_wan": 0}})).await
    }

    /// One that shows nothing without a token, in a datacenter that joins others over the WAN. Its
    /// operator's token is `root`.
    pub(crate) async fn start_guarded(datacenter: &str, joins: &[String]) -> Option<Self> {
        Self::start_with(json!({
            "datacenter": datacenter,
            "primary_datacenter": "dc1",
            "retry_join_wan": joins,
            "retry_interval_wan": "1s",
            "ports": {"serf_wan": 0},
            "acl": {
                "enabled": true, "default_policy": "deny", "down_policy": "extend-cache",
                "tokens": {"initial_management": "root", "agent": "root"},
            },
        }))
        .await
    }

    /// Any change that the operator alone may make, and what it answers.
    pub(crate) async fn order(&self, path: &str, body: Value) -> Value {
        let request = self.http.put(self.url() + path);
        let request = request.header("x-consul-token", "root").json(&body);
        let answer = request.send().await.unwrap();
        let status = answer.status();
        let text = answer.text().await.unwrap();
        assert!(status.is_success(), "{path}: {status} {text}");
        serde_json::from_str(&text).unwrap_or_default()
    }

    /// A token that may do what these rules allow.
    pub(crate) async fn token(&self, name: &str, rules: &str) -> String {
        let policy = json!({ "Name": name, "Rules": rules });
        self.order("/v1/acl/policy", policy).await;
        let token = json!({ "Policies": [{ "Name": name }] });
        let token = self.order("/v1/acl/token", token).await;
        token["SecretID"].as_str().unwrap().to_owned()
    }

    /// Joins the datacenter of another agent over the WAN, and waits until each knows the other.
    pub(crate) async fn join_wan(&self, other: &Self) {
        let join = format!("/v1/agent/join/{}?wan=1", other.wan());
        self.put(&join, json!({})).await;
        for consul in [self, other] {
            eventually(
                "both datacenters are known",
                async || consul.get("/v1/catalog/datacenters").await,
                |known| known.as_array().is_some_and(|known| known.len() == 2),
            )
            .await;
        }
    }

    /// What it says of something, where it says it in JSON.
    pub(crate) async fn get(&self, path: &str) -> Value {
        let answer = self.http.get(self.url() + path).send().await.unwrap();
        answer.json().await.unwrap_or_default()
    }

    /// The port of its HTTP API.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Where others join it over the WAN.
    pub(crate) fn wan(&self) -> String {
        format!("127.0.0.1:{}", self.wan)
    }

    /// Kills it and starts it again on the same ports; it remembers nothing.
    pub(crate) async fn restart_empty(&mut self) {
        self.kill();
        assert!(self.run().await, "Consul does not restart:\n{}", self.log());
    }

    /// Stops the process where it stands: its sockets stay open and say nothing.
    pub(crate) fn pause(&self) {
        self.process.as_ref().expect("it runs").pause();
    }

    /// Ends a pause.
    pub(crate) fn resume(&self) {
        self.process.as_ref().expect("it runs").resume();
    }

    /// kill -9.
    pub(crate) fn kill(&mut self) {
        self.process = None;
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
        let [http, server, serf, wan] = free_ports();
        self.port = http;
        self.wan = wan;
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
        if config["ports"]["serf_wan"] == 0 {
            config["ports"]["serf_wan"] = json!(wan);
        }
        std::fs::write(self.folder.path().join("c.json"), config.to_string()).unwrap();
    }

    /// Whether it came up; it has not where its ports were taken.
    async fn run(&mut self) -> bool {
        let mut command = Command::new(&self.binary);
        command.args([
            "agent",
            "-dev",
            "-bind",
            "127.0.0.1",
            "-config-file",
            "c.json",
        ]);
        self.process = Some(Process::start(command, self.folder.path()));
        let leader = format!("{}/v1/status/leader", self.url());
        let started = eventually(
            "Consul has a leader",
            async || {
                if self.process.as_mut().unwrap().has_ended() {
                    return Some(false);
                }
                let answer = self.http.get(&leader).timeout(Duration::from_secs(1));
                let leader = answer.send().await.ok()?.text().await.ok()?;
                leader.contains(':').then_some(true)
            },
            Option::is_some,
        );
        let has_started = started.await == Some(true);
        if let (true, Some(token)) = (has_started, self.management_token()) {
            self.until_known(token).await;
        }
        has_started
    }

    /// The token that may do everything, where one is needed.
    fn management_token(&self) -> Option<&str> {
        let tokens = &self.extra["acl"]["tokens"];
        // The second is what older versions call it.
        let token = tokens.get("initial_management").or(tokens.get("master"));
        token?.as_str()
    }

    /// A leader makes the management token only when it leads already; what is ordered by it before is refused.
    async fn until_known(&self, token: &str) {
        let itself = format!("{}/v1/acl/token/self", self.url());
        let is_known = async || {
            let question = self.http.get(&itself).header("x-consul-token", token);
            let answer = question.timeout(Duration::from_secs(1)).send().await;
            answer.is_ok_and(|answer| answer.status().is_success())
        };
        eventually("Consul knows its management token", is_known, |is| *is).await;
    }

    fn log(&self) -> String {
        server::log(self.folder.path())
    }
}

/// Adds fields to an object, or puts others in their place.
pub(crate) fn merge(config: &mut Value, extra: &Value) {
    match (config, extra) {
        (Value::Object(config), Value::Object(extra)) => {
            for (key, value) in extra {
                merge(config.entry(key).or_insert(Value::Null), value);
            }
        }
        (config, extra) => *config = extra.clone(),
    }
}
