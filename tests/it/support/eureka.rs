//! A real Eureka server, of one test or shared by several that use applications of their own;
//! gone when the last of them is.

use std::{
    path::PathBuf,
    process::Command,
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use http::{Method, StatusCode};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::Mutex;

use super::server::{self, Process, free_ports};

/// Starts are tried again where somebody takes a port in between.
const STARTS: usize = 3;

/// Its start is work for a processor: seconds, and minutes where others have that.
const START: Duration = Duration::from_secs(300);

/// The server that tests share, while there is one of them.
static SHARED: Mutex<Weak<Eureka>> = Mutex::const_new(Weak::new());

pub(crate) struct Eureka {
    jar: PathBuf,
    /// Holds the log.
    folder: TempDir,
    port: u16,
    process: Option<Process>,
}

impl Eureka {
    /// The shared one; `None` (said on a line) where `tests/run` has found that Eureka cannot be
    /// had on this machine.
    pub(crate) async fn shared() -> Option<Arc<Self>> {
        let mut shared = SHARED.lock().await;
        if let Some(eureka) = shared.upgrade() {
            return Some(eureka);
        }
        let eureka = Arc::new(Self::start().await?);
        *shared = Arc::downgrade(&eureka);
        Some(eureka)
    }

    /// One of the test's own.
    pub(crate) async fn start() -> Option<Self> {
        let mut eureka = Self {
            jar: server::binary("eureka")?,
            folder: tempfile::tempdir().unwrap(),
            port: 0,
            process: None,
        };
        for _ in 0..STARTS {
            [eureka.port] = free_ports();
            if eureka.run().await {
                return Some(eureka);
            }
        }
        panic!("Eureka does not start:\n{}", eureka.log());
    }

    fn log(&self) -> String {
        server::log(self.folder.path())
    }

    /// Whether it came up; it has not where its port was taken.
    pub(crate) async fn run(&mut self) -> bool {
        // Its start takes all the processor that it gets, and is not what a test is about.
        let mut command = Command::new("nice");
        command
            .args(["-n", "10", "java"])
            // Little memory, and a start that is soon over.
            .args(["-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"])
            .arg("-jar")
            .arg(&self.jar)
            .arg(format!("--server.port={}", self.port))
            .arg("--server.address=127.0.0.1")
            .arg("--eureka.client.register-with-eureka=false")
            .arg("--eureka.client.fetch-registry=false")
            .arg("--eureka.server.response-cache-update-interval-ms=1000")
            .arg("--eureka.server.wait-time-in-ms-when-sync-empty=0");
        let mut process = Process::start(command, self.folder.path());
        let apps = self.url() + "/apps";
        let http = reqwest::Client::new();
        let began = Instant::now();
        loop {
            let asked = http.get(&apps).timeout(Duration::from_secs(1));
            if asked
                .send()
                .await
                .is_ok_and(|answer| answer.status() == StatusCode::OK)
            {
                self.process = Some(process);
                return true;
            }
            if process.has_ended() {
                return false;
            }
            assert!(
                began.elapsed() < START,
                "Eureka does not answer:\n{}",
                self.log()
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// What a registry's `address` is.
    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}/eureka", self.port)
    }

    /// kill -9.
    pub(crate) fn kill(&mut self) {
        self.process = None;
    }

    /// Stops the process where it stands: its sockets stay open and say nothing.
    pub(crate) fn pause(&self) {
        self.process.as_ref().expect("it runs").pause();
    }

    /// Ends a pause.
    pub(crate) fn resume(&self) {
        self.process.as_ref().expect("it runs").resume();
    }

    /// Signs an instance in, as Java's clients write it; `more` stands before that.
    pub(crate) async fn register(&self, app: &str, id: &str, port: u16, more: Value) {
        let mut instance = json!({
            "instanceId": id, "app": app, "hostName": "localhost", "ipAddr": "127.0.0.1",
            "vipAddress": app, "status": "UP", "port": {"$": port, "@enabled": "true"},
            "dataCenterInfo": {
                "@class": "com.netflix.appinfo.InstanceInfo$DefaultDataCenterInfo",
                "name": "MyOwn",
            },
        });
        if let (Value::Object(instance), Value::Object(more)) = (&mut instance, more) {
            instance.extend(more);
        }
        let body = json!({ "instance": instance });
        self.tell(Method::POST, &format!("/apps/{app}"), body).await;
    }

    /// Any change.
    pub(crate) async fn tell(&self, method: Method, path: &str, body: Value) {
        let http = reqwest::Client::new();
        let mut request = http.request(method.clone(), self.url() + path);
        if !body.is_null() {
            request = request.json(&body);
        }
        let answer = request.send().await.unwrap();
        let status = answer.status();
        let text = answer.text().await.unwrap();
        assert!(
            status.is_success(),
            "{method} {path} {body}: {status} {text}"
        );
    }

    /// What it says of a path below its URL; null where it knows no such thing.
    pub(crate) async fn get(&self, path: &str) -> Value {
        let http = reqwest::Client::new();
        let request = http.get(self.url() + path);
        let request = request.header("Accept", "application/json");
        let answer = request.send().await.unwrap();
        match answer.status() {
            StatusCode::OK => answer.json().await.unwrap(),
            _ => Value::Null,
        }
    }
}
