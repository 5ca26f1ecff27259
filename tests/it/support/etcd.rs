//! A real etcd of the test's own, which speaks v3 and v2 and is gone when the test is; and
//! go-kit's registrars of it.

use std::{path::PathBuf, process::Command, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::Method;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{
    eventually,
    server::{self, Process, free_ports},
};

/// Starts are tried again where somebody takes a port in between.
const STARTS: usize = 5;

pub(crate) struct Etcd {
    binary: PathBuf,
    /// Holds the data and the log.
    folder: TempDir,
    scheme: &'static str,
    extra: Vec<String>,
    /// Of clients, of peers, and of the metrics.
    ports: [u16; 3],
    process: Option<Process>,
    http: reqwest::Client,
}

impl Etcd {
    /// A cluster of one; `None` (said on a line) where `tests/run` has found that etcd cannot be
    /// had on this machine.
    pub(crate) async fn start() -> Option<Self> {
        Self::start_with("http", &[]).await
    }

    /// The same, with more arguments. Over https it is asked with [`Self::call`] no more.
    pub(crate) async fn start_with(scheme: &'static str, extra: &[&str]) -> Option<Self> {
        let mut etcd = Self {
            binary: server::binary("etcd")?,
            folder: tempfile::tempdir().unwrap(),
            scheme,
            extra: extra.iter().map(ToString::to_string).collect(),
            ports: [0; 3],
            process: None,
            http: reqwest::Client::new(),
        };
        for _ in 0..STARTS {
            etcd.ports = free_ports();
            if etcd.run().await {
                return Some(etcd);
            }
        }
        panic!("etcd does not start:\n{}", etcd.log());
    }

    /// What clients are told.
    pub(crate) fn url(&self) -> String {
        format!("{}://127.0.0.1:{}", self.scheme, self.ports[0])
    }

    /// kill -9.
    pub(crate) fn kill(&mut self) {
        self.process = None;
    }

    /// Starts it again on the same ports, with its data.
    pub(crate) async fn restart(&mut self) {
        self.kill();
        assert!(self.run().await, "etcd does not restart:\n{}", self.log());
    }

    /// The same; it remembers nothing.
    pub(crate) async fn restart_empty(&mut self) {
        self.kill();
        std::fs::remove_dir_all(self.folder.path().join("data")).unwrap();
        self.restart().await;
    }

    /// Keeps a copy of its data as they are now, for which it is restarted.
    pub(crate) async fn keep_copy(&mut self) {
        self.kill();
        let mut copy = Command::new("cp");
        copy.args(["-r", "data", "copy"]);
        let copied = copy.current_dir(self.folder.path()).status().unwrap();
        assert!(copied.success());
        self.restart().await;
    }

    /// Starts it again with that copy: what came since is gone, and its revision has gone back.
    pub(crate) async fn restart_from_copy(&mut self) {
        self.kill();
        let folder = self.folder.path();
        std::fs::remove_dir_all(folder.join("data")).unwrap();
        std::fs::rename(folder.join("copy"), folder.join("data")).unwrap();
        self.restart().await;
    }

    /// Stops the process where it stands: its sockets stay open and say nothing.
    pub(crate) fn pause(&self) {
        self.process.as_ref().expect("it runs").pause();
    }

    /// Ends a pause.
    pub(crate) fn resume(&self) {
        self.process.as_ref().expect("it runs").resume();
    }

    /// A call of API v3.
    pub(crate) async fn call(&self, path: &str, body: Value) -> Value {
        let call = self.http.post(format!("{}/v3{path}", self.url()));
        let answer = call.json(&body).send().await.unwrap();
        let status = answer.status();
        let text = answer.text().await.unwrap();
        assert!(status.is_success(), "{path} {body}: {status} {text}");
        serde_json::from_str(&text).unwrap()
    }

    pub(crate) async fn put(&self, key: &str, value: &str) {
        let body = json!({"key": STANDARD.encode(key), "value": STANDARD.encode(value)});
        self.call("/kv/put", body).await;
    }

    pub(crate) async fn delete(&self, key: &str) {
        let body = json!({"key": STANDARD.encode(key)});
        self.call("/kv/deleterange", body).await;
    }

    /// The key's value.
    pub(crate) async fn value(&self, key: &str) -> Option<String> {
        let body = json!({"key": STANDARD.encode(key)});
        let answer = self.call("/kv/range", body).await;
        let value = answer["kvs"][0]["value"].as_str()?;
        Some(String::from_utf8(STANDARD.decode(value).unwrap()).unwrap())
    }

    /// Forgets all history up to now.
    pub(crate) async fn compact(&self) {
        let now = self.call("/kv/range", json!({"key": "AA=="})).await;
        let revision = &now["header"]["revision"];
        let body = json!({"revision": revision, "physical": true});
        self.call("/kv/compaction", body).await;
    }

    /// The leases that there are.
    pub(crate) async fn leases(&self) -> Vec<String> {
        let answer = self.call("/lease/leases", json!({})).await;
        let leases = answer["leases"].as_array().into_iter().flatten();
        leases
            .map(|lease| lease["ID"].as_str().unwrap().to_owned())
            .collect()
    }

    /// Lets in nobody but `root`, and `reader` who may read `/services/`, both with the password
    /// `secret`.
    pub(crate) async fn lock(&self) {
        for name in ["root", "reader"] {
            let user = json!({"name": name, "password": "secret"});
            self.call("/auth/user/add", user).await;
            self.call("/auth/role/add", json!({"name": name})).await;
            let grant = json!({"user": name, "role": name});
            self.call("/auth/user/grant", grant).await;
        }
        let range = json!({
            "permType": "READ",
            "key": STANDARD.encode("/services/"), "range_end": STANDARD.encode("/services0"),
        });
        let grant = json!({"name": "reader", "perm": range});
        self.call("/auth/role/grant", grant).await;
        self.call("/auth/enable", json!({})).await;
    }

    /// A change by API v2.
    pub(crate) async fn change2(&self, method: Method, key: &str, form: &[(&str, &str)]) {
        let url = format!("{}/v2/keys{key}", self.url());
        let answer = self.http.request(method.clone(), url).form(form);
        let answer = answer.send().await.unwrap();
        let status = answer.status();
        let text = answer.text().await.unwrap();
        assert!(status.is_success(), "{method} {key}: {status} {text}");
    }

    pub(crate) async fn put2(&self, key: &str, value: &str) {
        self.change2(Method::PUT, key, &[("value", value)]).await;
    }

    /// The key's node by API v2, or the error.
    pub(crate) async fn node2(&self, key: &str) -> Value {
        let url = format!("{}/v2/keys{key}", self.url());
        self.http
            .get(url)
            .send()
            .await
            .unwrap()
            .json()
            .await
            .unwrap()
    }

    /// One of its figures.
    pub(crate) async fn figure(&self, name: &str) -> f64 {
        let url = format!("http://127.0.0.1:{}/metrics", self.ports[2]);
        let text = self.http.get(url).send().await.unwrap().text().await;
        let text = text.unwrap();
        let mut lines = text.lines();
        let value = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.unwrap().parse().unwrap()
    }

    /// Whether it came up; it has not where its ports were taken.
    async fn run(&mut self) -> bool {
        let [clients, peers, metrics] = self.ports;
        let (clients, peers) = (
            format!("{}://127.0.0.1:{clients}", self.scheme),
            format!("http://127.0.0.1:{peers}"),
        );
        let metrics = format!("http://127.0.0.1:{metrics}");
        let mut command = Command::new(&self.binary);
        command
            .args(["--data-dir", "data", "--enable-v2", "--unsafe-no-fsync"])
            .args(["--log-level", "warn"])
            .args(["--listen-client-urls", &clients])
            .args(["--advertise-client-urls", &clients])
            .args(["--listen-peer-urls", &peers])
            .args(["--initial-advertise-peer-urls", &peers])
            .args(["--initial-cluster", &format!("default={peers}")])
            .args(["--listen-metrics-urls", &metrics])
            .args(&self.extra);
        self.process = Some(Process::start(command, self.folder.path()));
        let health = format!("{metrics}/health");
        let started = eventually(
            "etcd is healthy",
            async || {
                if self.process.as_mut().unwrap().has_ended() {
                    return Some(false);
                }
                let answer = self.http.get(&health).timeout(Duration::from_secs(1));
                let answer = answer.send().await.ok()?;
                answer.status().is_success().then_some(true)
            },
            Option::is_some,
        );
        started.await == Some(true)
    }

    fn log(&self) -> String {
        server::log(self.folder.path())
    }
}
