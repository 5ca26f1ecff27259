//! A wall clock that jumps, and a proxy that stands still for a while: what is measured in time
//! goes on by a clock that does not jump, and nobody fails.

use std::{
    net::SocketAddr,
    time::{Duration, SystemTime},
};

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{FOUR, SERVICE, empty_registry, let_pass};
use crate::support::{
    backend::Backend,
    callboard::{Callboard, command},
    eventually,
    load::{Ledger, Load},
    proxy::{Proxy, are, endpoints, with_state},
    server::free_ports,
    wall_clock::WallClock,
};

const HOUR: i64 = 3600;

/// A Callboard that reads another's registry, and a clock that the test sets.
struct Stage {
    clock: WallClock,
    folder: TempDir,
    text: String,
    proxy: SocketAddr,
    admin: String,
    http: reqwest::Client,
}

impl Stage {
    fn new(registry: u16) -> Self {
        let [proxy, admin] = free_ports();
        let text = format!(
            "workers = 2\n[log]\nformat = \"text\"\n[[listen]]\naddress = \"127.0.0.1:{proxy}\"\n\
             [admin]\naddress = \"127.0.0.1:{admin}\"\n\
             [registry.consul]\naddress = \"http://127.0.0.1:{registry}\"\nmax_staleness = \"1m\"\n\
             [[route]]\npath = \"/{SERVICE}\"\nservice = \"{SERVICE}\"\nstrip_prefix = true\n\
             [service.{SERVICE}]\n\
             health = {{ kind = \"tcp\", interval = \"100ms\", timeout = \"1s\" }}\n\
             eject = {{ time = \"1s\" }}\nslow_start = \"1s\"\n"
        );
        Self {
            clock: WallClock::right(),
            folder: TempDir::new().unwrap(),
            text,
            proxy: ([127, 0, 0, 1], proxy).into(),
            admin: format!("http://127.0.0.1:{admin}"),
            http: reqwest::Client::builder().no_proxy().build().unwrap(),
        }
    }

    async fn run(&self) -> Callboard {
        let mut command = command(self.folder.path());
        self.clock.wear(&mut command);
        let mut callboard = Callboard::run_by(command, self.folder.path(), &self.text);
        callboard.until_logged("the admin server is at").await;
        callboard
    }

    async fn service(&self) -> Value {
        let url = format!("{}/api/services/{SERVICE}", self.admin);
        let answer = self.http.get(url).send().await.unwrap();
        answer.json().await.unwrap_or_default()
    }

    async fn until_all_serve(&self, backends: &[Backend]) -> Value {
        let states = with_state(backends, "serving");
        let all_serve = |service: &Value| are(endpoints(service), &states);
        eventually("all serve", async || self.service().await, all_serve).await
    }

    async fn pin(&self, length: &str) {
        let url = format!("{}/api/services/{SERVICE}/pin", self.admin);
        let request = self.http.post(url).json(&json!({"for": length}));
        let status = request.send().await.unwrap().status();
        assert_eq!(status, 200);
    }

    async fn until_unpinned(&self) {
        let pinned = async || self.service().await["pin"].clone();
        eventually("the pin ends", pinned, Value::is_null).await;
    }

    async fn load(&self) -> Load {
        Load::start(self.proxy, "/cart", 300).await
    }
}

async fn open(registry: &Proxy, ledger: &Ledger, id: &str) -> Backend {
    let backend = ledger.backend(id).start().await;
    registry.register(SERVICE, backend.address()).await;
    backend
}

async fn open_four(registry: &Proxy, ledger: &Ledger) -> Vec<Backend> {
    let mut backends = Vec::new();
    for id in FOUR {
        backends.push(open(registry, ledger, id).await);
    }
    backends
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wall_clock_that_jumps_costs_nothing_nor_does_a_start_before_the_last() {
    let [port] = free_ports();
    let registry = empty_registry(port).await;
    let (stage, ledger) = (Stage::new(port), Ledger::default());
    let mut backends = open_four(&registry, &ledger).await;
    let callboard = stage.run().await;
    stage.until_all_serve(&backends).await;
    let load = stage.load().await;
    for off in [HOUR, -HOUR, 24 * HOUR, -24 * HOUR, 0] {
        stage.clock.set(off);
        stage.pin("1s").await;
        stage.until_unpinned().await;
        let new = open(&registry, &ledger, &format!("{off}")).await;
        let old = std::mem::replace(&mut backends[0], new);
        registry.deregister(SERVICE, old.address()).await;
        let service = stage.until_all_serve(&backends).await;
        old.close().await;
        // What it shows is by that clock, which did jump.
        let changed = service["last_change"].as_f64().unwrap();
        let here = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs_f64();
        let ahead = changed - here;
        assert!((ahead - off as f64).abs() < 30.0, "{ahead} and not {off}");
    }
    // The registry goes; its last set stays, for a minute and not for a day.
    drop(registry);
    stage.clock.set(24 * HOUR);
    let_pass(1_500).await;
    stage.until_all_serve(&backends).await;
    let last = backends[0].address().to_string();
    let snapshot = stage.folder.path().join("callboard-data/snapshot.json");
    let kept = async || std::fs::read_to_string(&snapshot).unwrap_or_default();
    eventually("its last set is kept", kept, |kept| kept.contains(&last)).await;
    let report = load.stop(&ledger).await;
    report.assert_flawless_but_for_closes("the wall clock jumps five times");
    // It was kept in what is now the future.
    callboard.kill().await;
    stage.clock.set(-HOUR);
    let _callboard = stage.run().await;
    let load = Load::start_from(stage.proxy, "/cart", 300, 100_000).await;
    let_pass(1_000).await;
    let report = load.stop(&ledger).await;
    report.assert_flawless_but_for_closes("started an hour before it ended");
    let service = stage.until_all_serve(&backends).await;
    assert_eq!(service["from_snapshot"][0]["age_seconds"], 0.0, "{service}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_that_stands_still_for_two_seconds_fails_nobody() {
    let [port] = free_ports();
    let registry = empty_registry(port).await;
    let (stage, ledger) = (Stage::new(port), Ledger::default());
    let backends = open_four(&registry, &ledger).await;
    let callboard = stage.run().await;
    stage.until_all_serve(&backends).await;
    let load = stage.load().await;
    for _ in 0..2 {
        let_pass(300).await;
        callboard.signal(Signal::SIGSTOP);
        let_pass(2_000).await;
        callboard.signal(Signal::SIGCONT);
    }
    let_pass(500).await;
    let report = load.stop(&ledger).await;
    report.assert_flawless_but_for_closes("the proxy stands still for two seconds, twice");
    assert!(report.longest > Duration::from_secs(1), "it did: {report}");
    stage.until_all_serve(&backends).await;
}
