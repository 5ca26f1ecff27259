//! A proxy that starts while its registry is away, or has lost its data, routes to whom it knew
//! before; what it keeps for that on disk harms nothing, whatever becomes of it.

mod pinned;

use std::{
    fs,
    net::SocketAddr,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::Command;

use crate::support::{
    backend::Backend,
    callboard::Callboard,
    consul::Consul,
    eventually,
    fake_consul::{Answer, FakeConsul, entry},
    load::{Ledger, Load},
    proxy::{are, endpoints, instance, with_state},
    server::free_ports,
};

/// Requests a second.
const RATE: u32 = 300;

/// A Callboard on ports of its own, in a folder that outlives it.
struct Stage {
    folder: TempDir,
    text: String,
    proxy: SocketAddr,
    admin: String,
    http: reqwest::Client,
    ledger: Ledger,
}

impl Stage {
    /// With these tables beside its own.
    fn new(tables: &str) -> Self {
        let [proxy, admin] = free_ports();
        let text = format!(
            "workers = 2\n[log]\nformat = \"text\"\n[drain]\nnotice = \"0s\"\ndeadline = \"2s\"\n\
             [[listen]]\naddress = \"127.0.0.1:{proxy}\"\n\
             [admin]\naddress = \"127.0.0.1:{admin}\"\n{tables}"
        );
        Self {
            folder: TempDir::new().unwrap(),
            text,
            proxy: ([127, 0, 0, 1], proxy).into(),
            admin: format!("http://127.0.0.1:{admin}"),
            http: reqwest::Client::builder().no_proxy().build().unwrap(),
            ledger: Ledger::default(),
        }
    }

    async fn run(&self) -> Callboard {
        self.run_by(crate::support::callboard::command(self.folder.path()))
            .await
    }

    async fn run_by(&self, command: Command) -> Callboard {
        let mut callboard = Callboard::run_by(command, self.folder.path(), &self.text);
        callboard.until_logged("the admin server is at").await;
        callboard
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("callboard-data/snapshot.json")
    }

    /// What stands on disk; null where nothing does.
    fn kept(&self) -> Value {
        let text = fs::read(self.file()).unwrap_or_default();
        serde_json::from_slice(&text).unwrap_or_default()
    }

    /// Waits until these are kept of a service.
    async fn until_kept(&self, service: &str, backends: &[&Backend]) {
        let mut wanted: Vec<_> = backends
            .iter()
            .map(|one| one.address().to_string())
            .collect();
        wanted.sort();
        let kept = || {
            let contents = self.kept();
            let sets = contents["sets"].as_array().into_iter().flatten();
            let instances = sets
                .filter(|set| set["service"] == service)
                .flat_map(|set| set["instances"].as_array().unwrap().clone());
            let mut kept: Vec<_> = instances
                .map(|one| one["address"].as_str().unwrap().to_owned())
                .collect();
            kept.sort();
            kept
        };
        let what = format!("{wanted:?} is kept of {service}");
        eventually(&what, async || kept(), |kept| *kept == wanted).await;
    }

    async fn get(&self, path: &str) -> Option<(u16, String)> {
        let url = format!("http://{}{path}", self.proxy);
        let answer = self.http.get(url).send().await.ok()?;
        Some((answer.status().as_u16(), answer.text().await.ok()?))
    }

    async fn until_status(&self, path: &str, status: u16) {
        let what = format!("{path} is answered {status}");
        let ask = async || self.get(path).await;
        eventually(&what, ask, |got| {
            got.as_ref().is_some_and(|(got, _)| *got == status)
        })
        .await;
    }

    async fn page(&self, path: &str) -> Value {
        let answer = self.http.get(format!("{}{path}", self.admin)).send().await;
        answer.unwrap().json().await.unwrap()
    }

    async fn metrics(&self) -> String {
        let answer = self.http.get(format!("{}/metrics", self.admin)).send();
        answer.await.unwrap().text().await.unwrap()
    }

    async fn until_service(&self, name: &str, what: &str, holds: impl Fn(&Value) -> bool) {
        let path = format!("/api/services/{name}");
        eventually(what, async || self.page(&path).await, holds).await;
    }

    async fn is_ready(&self) -> bool {
        let answer = self.http.get(format!("{}/ready", self.admin)).send().await;
        answer.unwrap().status() == 200
    }

    async fn until_ready(&self) {
        let ask = async || self.is_ready().await;
        eventually("it is ready", ask, |ready| *ready).await;
    }

    async fn load(&self, path: &str) -> Load {
        Load::start(self.proxy, path, RATE).await
    }
}

/// `cart` by name, and any service by a template.
fn routes(consul: &Consul) -> String {
    format!(
        "[registry.consul]\naddress = \"{}\"\n\
         [[route]]\npath = \"/cart\"\nservice = \"cart\"\nstrip_prefix = true\n\
         [[route]]\npath = \"/any/{{service}}\"\nservice = \"{{service}}\"\nstrip_prefix = true\n",
        consul.url()
    )
}

async fn sign_in(consul: &Consul, name: &str, backend: &Backend) {
    let address = backend.address();
    let service = json!({
        "ID": instance(name, address), "Name": name,
        "Address": address.ip(), "Port": address.port(),
    });
    consul.register(service).await;
}

async fn sign_out(consul: &Consul, name: &str, backend: &Backend) {
    consul.deregister(&instance(name, backend.address())).await;
}

/// Whether a service has just these endpoints, all in this state.
fn all_are(service: &Value, backends: &[&Backend], state: &str) -> bool {
    let stay = endpoints(service).filter(|one| one["state"] != "draining");
    are(stay, &with_state(backends.iter().copied(), state))
}

fn is_of_the_snapshot(service: &Value) -> bool {
    let registries = service["from_snapshot"].as_array().unwrap();
    registries.len() == 1 && registries[0]["registry"] == "consul"
}

async fn let_pass(millis: u64) {
    tokio::time::sleep(Duration::from_millis(millis)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_and_started_while_consul_is_away_and_then_back_empty() {
    let Some(mut consul) = Consul::start().await else {
        return;
    };
    let stage = Stage::new(&routes(&consul));
    let (mut backends, hats) = (Vec::new(), Ledger::default());
    for id in ["a", "b", "c"] {
        let backend = stage.ledger.backend(id).start().await;
        sign_in(&consul, "cart", &backend).await;
        backends.push(backend);
    }
    let hat = hats.backend("hat").start().await;
    sign_in(&consul, "hat", &hat).await;
    let callboard = stage.run().await;
    stage.until_status("/cart/x", 200).await;
    stage.until_status("/any/hat/x", 200).await;
    let all: Vec<_> = backends.iter().collect();
    stage.until_kept("cart", &all).await;
    stage.until_kept("hat", &[&hat]).await;
    let mode = fs::metadata(stage.file()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    callboard.kill().await;
    consul.kill();
    // One is gone by the time that the proxy is back, and nobody could tell it.
    backends.pop().unwrap().close().await;
    let callboard = stage.run().await;
    stage.until_ready().await;
    let load = stage.load("/cart").await;
    let templates = stage.load("/any/hat").await;
    let_pass(1500).await;
    for name in ["cart", "hat"] {
        let service = stage.page(&format!("/api/services/{name}")).await;
        assert!(is_of_the_snapshot(&service), "{service:#}");
    }
    let status = stage.page("/api/status").await;
    assert_eq!(status["snapshot"]["found"]["usable"]["too_old"], 0);
    let catalog = &status["registries"][0]["catalog"];
    assert!(catalog["from_snapshot_age_seconds"].as_f64().unwrap() > 0.0);
    let metrics = stage.metrics().await;
    let age = "callboard_set_from_snapshot_age_seconds{registry=\"consul\",service=\"cart\"}";
    assert!(metrics.contains(age), "{metrics}");
    assert!(metrics.contains("callboard_snapshot_unusable 0"));
    // Nobody can tell whether a name that was not listed then is one.
    stage.until_status("/any/unheard/x", 503).await;

    consul.restart_empty().await;
    let left: Vec<_> = backends.iter().collect();
    let both: [(_, &[_]); 2] = [("cart", &left), ("hat", &[&hat])];
    for (name, left) in both {
        let held = |service: &Value| all_are(service, left, "held");
        let what = "those that answer are held";
        stage.until_service(name, what, held).await;
    }
    // What is held is kept as well: another start in this moment would know them.
    stage.until_kept("cart", &left).await;
    let_pass(500).await;

    for backend in &backends {
        sign_in(&consul, "cart", backend).await;
    }
    sign_in(&consul, "hat", &hat).await;
    for (name, left) in both {
        let serving = |service: &Value| all_are(service, left, "serving");
        stage.until_service(name, "they serve again", serving).await;
    }
    // And an update with a drain, as ever.
    let new = stage.ledger.backend("new").start().await;
    sign_in(&consul, "cart", &new).await;
    let asked = async || new.requests();
    eventually("the new one serves", asked, |asked| *asked > 0).await;
    let leaves = backends.remove(0);
    sign_out(&consul, "cart", &leaves).await;
    leaves.close().await;
    let_pass(300).await;
    let report = load.stop(&stage.ledger).await;
    report.assert_flawless_but_for_closes("kill -9, Consul away, back empty, signed in again");
    let report = templates.stop(&hats).await;
    report.assert_flawless_but_for_closes("the same by a template");
    let service = stage.page("/api/services/cart").await;
    assert_eq!(service["from_snapshot"], json!([]));
    callboard.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_changed_while_the_proxy_was_away_is_followed_once_the_registry_answers() {
    let Some(consul) = Consul::start().await else {
        return;
    };
    let stage = Stage::new(&routes(&consul));
    let mut backends = Vec::new();
    for id in ["a", "b", "c"] {
        let backend = stage.ledger.backend(id).start().await;
        sign_in(&consul, "cart", &backend).await;
        backends.push(backend);
    }
    let mut callboard = stage.run().await;
    stage.until_status("/cart/x", 200).await;
    // This time it ends as it should, and keeps at its end what it knew.
    callboard.signal(Signal::SIGTERM);
    callboard.until_logged("gone").await;
    assert_eq!(callboard.ended().await.0, Some(0));
    stage
        .until_kept("cart", &backends.iter().collect::<Vec<_>>())
        .await;

    let gone = backends.remove(0);
    sign_out(&consul, "cart", &gone).await;
    gone.close().await;
    let new = stage.ledger.backend("new").start().await;
    sign_in(&consul, "cart", &new).await;
    backends.push(new);
    consul.pause();
    let callboard = stage.run().await;
    stage.until_ready().await;
    let load = stage.load("/cart").await;
    let_pass(1000).await;
    assert_eq!(backends[2].requests(), 0, "nobody knows of it yet");
    consul.resume();
    let resumed = Instant::now();
    let all: Vec<_> = backends.iter().collect();
    let right = |service: &Value| all_are(service, &all, "serving");
    stage.until_service("cart", "the set is right", right).await;
    println!("right {:?} after the registry answered", resumed.elapsed());
    let asked = async || backends[2].requests();
    eventually("the new one serves", asked, |asked| *asked > 0).await;
    let report = load.stop(&stage.ledger).await;
    report.assert_flawless_but_for_closes("Consul paused at the start, with another set after it");
    callboard.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_tags_make_is_there_again_too() {
    let Some(mut consul) = Consul::start().await else {
        return;
    };
    let stage = Stage::new(&format!(
        "[registry.consul]\naddress = \"{}\"\nroutes = \"urlprefix\"\n",
        consul.url()
    ));
    let backend = stage.ledger.backend("a").start().await;
    let address = backend.address();
    let service = json!({
        "ID": "cart-1", "Name": "cart", "Tags": ["urlprefix-/shop strip=/shop"],
        "Address": address.ip(), "Port": address.port(),
    });
    consul.register(service).await;
    let callboard = stage.run().await;
    stage.until_status("/shop/x", 200).await;
    stage.until_kept("/shop", &[&backend]).await;
    callboard.kill().await;
    consul.kill();
    let callboard = stage.run().await;
    stage.until_ready().await;
    let load = stage.load("/shop").await;
    let_pass(1000).await;
    consul.restart_empty().await;
    let held = |status: &Value| status["services"][0]["endpoints"][0]["state"] == "held";
    eventually("it is held", async || stage.page("/api/status").await, held).await;
    let_pass(500).await;
    let report = load.stop(&stage.ledger).await;
    report.assert_flawless_but_for_closes("a route of a tag, from the snapshot");
    callboard.kill().await;
}

/// A proxy of a registry that is not there, with this file in the place of the snapshot.
async fn without_a_registry(more: &str, kept: Option<&[u8]>) -> (Stage, Callboard) {
    let stage = Stage::new(&format!(
        "[registry.consul]\naddress = \"{NOBODY}\"\n{more}\
         [defaults]\ndiscovery_timeout = \"100ms\"\n\
         [[route]]\npath = \"/cart\"\nservice = \"cart\"\n"
    ));
    if let Some(kept) = kept {
        fs::create_dir_all(stage.file().parent().unwrap()).unwrap();
        fs::write(stage.file(), kept).unwrap();
    }
    let callboard = stage.run().await;
    (stage, callboard)
}

/// Where no Consul is.
const NOBODY: &str = "http://127.0.0.1:1";

/// As the file has it, confirmed so long ago.
fn kept(backend: &Backend, name: &str, age: Duration) -> Vec<u8> {
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap();
    let registries = json!({"consul": format!("consul at {NOBODY}/")});
    let contents = json!({"format": 2, "registries": registries, "catalogs": [], "sets": [{
        "service": "cart", "name": name, "registry": "consul",
        "confirmed": (now - age).as_secs_f64(), "evidence": [],
        "instances": [{
            "id": "n/cart", "address": backend.address().to_string(), "tls": false,
            "healthy": true, "weight": 1, "tags": [], "meta": {},
        }],
    }]});
    contents.to_string().into_bytes()
}

#[tokio::test]
async fn a_snapshot_that_cannot_be_read_is_said_and_ignored() {
    let backend = Backend::start("a").await;
    let whole = kept(&backend, "cart", Duration::ZERO);
    let foreign = String::from_utf8(whole.clone()).unwrap();
    let foreign = foreign.replace("\"format\":2", "\"format\":1").into_bytes();
    for (bytes, reason) in [
        (&b"\x00\xffnonsense"[..], "cannot be read"),
        (&whole[..whole.len() - 9], "cannot be read: EOF"),
        (&foreign, "its format is 1, not 2"),
    ] {
        let (stage, callboard) = without_a_registry("", Some(bytes)).await;
        stage.until_status("/cart", 503).await;
        assert!(!stage.is_ready().await);
        let found = stage.page("/api/status").await["snapshot"]["found"].clone();
        let said = found["unusable"].as_str().unwrap_or_default();
        assert!(said.contains(reason), "{found}");
        assert!(
            stage
                .metrics()
                .await
                .contains("callboard_snapshot_unusable 1")
        );
        callboard.signal(Signal::SIGTERM);
        let (status, _) = callboard.ended().await;
        assert_eq!(status, Some(0));
        assert_eq!(
            fs::read(stage.file()).unwrap(),
            bytes,
            "nothing better is known"
        );
    }
}

#[tokio::test]
async fn what_is_too_old_or_of_another_name_does_not_count() {
    let backend = Backend::start("a").await;
    let minute = Duration::from_secs(60);
    let old = "max_staleness = \"50s\"\n";
    let older = "[snapshot]\nmax_age = \"50s\"\n";
    for (more, name, age, status) in [
        ("", "cart", minute, 200),
        ("", "cart-backend", minute, 503),
        (old, "cart", minute, 503),
        (older, "cart", minute, 503),
        ("", "cart", minute * 60 * 24 * 6, 200),
        ("", "cart", minute * 60 * 24 * 8, 503),
    ] {
        let kept = kept(&backend, name, age);
        let (stage, _callboard) = without_a_registry(more, Some(&kept)).await;
        stage.until_status("/cart", status).await;
        match status {
            200 => stage.until_ready().await,
            _ => assert!(!stage.is_ready().await),
        }
    }
}

#[tokio::test]
async fn a_remembered_set_is_given_up_when_it_gets_too_stale() {
    let backend = Backend::start("a").await;
    let kept = kept(&backend, "cart", Duration::from_secs(50));
    let more = "max_staleness = \"60s\"\n";
    let (stage, _callboard) = without_a_registry(more, Some(&kept)).await;
    stage.until_status("/cart", 200).await;
    stage.until_status("/cart", 503).await;
    let service = stage.page("/api/services/cart").await;
    assert_eq!(service["from_snapshot"], json!([]));
    assert_eq!(service["watches"][0]["given_up"], true);
}

#[tokio::test]
async fn turned_off_it_is_neither_written_nor_read() {
    let backend = Backend::start("a").await;
    let kept = kept(&backend, "cart", Duration::ZERO);
    let (mut stage, callboard) = without_a_registry("", Some(&kept)).await;
    stage.until_status("/cart", 200).await;
    callboard.kill().await;
    stage.text = format!("snapshot = false\n{}", stage.text);
    let callboard = stage.run().await;
    stage.until_status("/cart", 503).await;
    assert_eq!(stage.page("/api/status").await["snapshot"], Value::Null);
    callboard.signal(Signal::SIGTERM);
    callboard.ended().await;
    assert_eq!(fs::read(stage.file()).unwrap(), kept);
}

/// A proxy whose services stand in a file, and in whose folder `callboard-data` is a file system of
/// its own; `None` (said on a line) where this machine lets nobody mount one.
async fn on_a_disk_of_its_own(options: &str, services: &str) -> Option<(Stage, Callboard)> {
    let stage = Stage::new(
        "[registry.file]\npath = \"services.toml\"\n[defaults]\nguard = false\n\
         [[route]]\npath = \"/cart\"\nservice = \"cart\"\nstrip_prefix = true\n",
    );
    let data = stage.file();
    fs::create_dir(data.parent().unwrap()).unwrap();
    write_services(&stage, services);
    let mount = format!("mount -t tmpfs -o {options} none callboard-data");
    let unshare = |script: &str| {
        let mut command = Command::new("unshare");
        command.args(["-rm", "sh", "-c", script]);
        command.current_dir(stage.folder.path());
        command
    };
    let tried = unshare(&mount).output().await;
    if !tried.is_ok_and(|tried| tried.status.success()) {
        println!("left out: no file system can be mounted here");
        return None;
    }
    let script = format!("{mount} && exec {} run", env!("CARGO_BIN_EXE_callboard"));
    let callboard = stage.run_by(unshare(&script)).await;
    Some((stage, callboard))
}

fn write_services(stage: &Stage, services: &str) {
    let path = stage.folder.path().join("services.toml");
    let new = path.with_extension("new");
    fs::write(&new, services).unwrap();
    fs::rename(new, path).unwrap();
}

/// A service with so many endpoints of the same backend.
fn many(backend: &Backend, count: usize) -> String {
    let address = backend.address();
    let one = |n| format!("{{ address = \"{address}\", id = \"a-rather-long-name-{n}\" }}");
    let all: Vec<_> = (0..count).map(one).collect();
    format!("[cart]\nendpoints = [{}]\n", all.join(", "))
}

async fn until_failures(stage: &Stage, at_least: u64) {
    let failures = async || stage.page("/api/status").await["snapshot"]["failures"].as_u64();
    let many = |failures: &Option<u64>| failures.is_some_and(|failures| failures >= at_least);
    eventually("it could not be written", failures, many).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_costs_nothing_but_the_snapshot_and_is_said_once() {
    let ledger = Ledger::default();
    let backend = ledger.backend("a").start().await;
    let started = on_a_disk_of_its_own("size=16k", &many(&backend, 300)).await;
    let Some((stage, mut callboard)) = started else {
        return;
    };
    stage.until_ready().await;
    let load = stage.load("/cart").await;
    callboard.until_logged("cannot be written").await;
    until_failures(&stage, 3).await;
    let status = stage.page("/api/status").await;
    let error = status["snapshot"]["error"].as_str().unwrap();
    assert!(error.contains("No space left"), "{error}");
    let metrics = stage.metrics().await;
    let mut lines = metrics.lines();
    let failures = lines.find_map(|line| line.strip_prefix("callboard_snapshot_failures_total "));
    assert!(
        failures.unwrap().parse::<u64>().unwrap() >= 3,
        "{failures:?}"
    );
    // There is room for less.
    write_services(&stage, &many(&backend, 3));
    let line = callboard.until_logged("the snapshot").await;
    assert!(
        line.contains("is written again"),
        "nothing was said meanwhile: {line}"
    );
    let report = load.stop(&ledger).await;
    report.assert_flawless_but_for_closes("no room on the disk, and an update");
}

#[tokio::test]
async fn a_folder_that_is_read_only_stops_nothing() {
    let backend = Backend::start("a").await;
    let Some((stage, mut callboard)) = on_a_disk_of_its_own("ro", &many(&backend, 2)).await else {
        return;
    };
    stage.until_ready().await;
    let line = callboard.until_logged("cannot be written").await;
    assert!(line.contains("Read-only file system"), "{line}");
    stage.until_status("/cart", 200).await;
    callboard.signal(Signal::SIGTERM);
    let (status, lines) = callboard.ended().await;
    assert_eq!(status, Some(0));
    let said_again = lines
        .iter()
        .filter(|line| line.contains("cannot be written"));
    assert_eq!(said_again.count(), 0, "{lines:#?}");
}

#[tokio::test]
async fn of_two_proxies_with_one_file_one_writes_it() {
    let backend = Backend::start("a").await;
    let shared = TempDir::new().unwrap();
    let file = shared.path().join("snapshot.json");
    let start = async |services: &str| {
        let stage = Stage::new(&format!(
            "[snapshot]\nfile = \"{}\"\n[registry.file]\npath = \"services.toml\"\n\
             [[route]]\npath = \"/cart\"\nservice = \"cart\"\n",
            file.display()
        ));
        write_services(&stage, services);
        let callboard = stage.run().await;
        stage.until_status("/cart", 200).await;
        (stage, callboard)
    };
    let (_one, first) = start(&many(&backend, 1)).await;
    eventually("it is kept", async || Path::exists(&file), |kept| *kept).await;
    let (other, mut second) = start(&many(&backend, 2)).await;
    let line = second.until_logged("cannot be written").await;
    assert!(line.contains("another process has it"), "{line}");
    let instances = || {
        let text = fs::read_to_string(&file).unwrap();
        let contents: Value = serde_json::from_str(&text).unwrap();
        contents["sets"][0]["instances"].as_array().unwrap().len()
    };
    assert_eq!(instances(), 1);
    first.kill().await;
    second.until_logged("is written again").await;
    assert_eq!(instances(), 2);
    other.until_status("/cart", 200).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_another_registry_said_is_not_used_where_it_has_the_same_name() {
    let (Some(old), Some(mut new)) = (Consul::start().await, Consul::start().await) else {
        return;
    };
    let mut stage = Stage::new(&routes(&old));
    let olds = stage.ledger.backend("old").start().await;
    sign_in(&old, "cart", &olds).await;
    let callboard = stage.run().await;
    stage.until_status("/cart/x", 200).await;
    stage.until_kept("cart", &[&olds]).await;
    callboard.signal(Signal::SIGTERM);
    assert_eq!(callboard.ended().await.0, Some(0));

    // The name leads to another environment, which is away at first.
    let asked = olds.requests();
    new.kill();
    stage.text = stage.text.replace(&old.url(), &new.url());
    let callboard = stage.run().await;
    stage.until_status("/cart/x", 503).await;
    let status = stage.page("/api/status").await;
    let found = &status["snapshot"]["found"]["usable"];
    assert_eq!(
        (&found["entries"], &found["of_others"]),
        (&json!(0), &json!(2))
    );
    new.restart_empty().await;
    let news = stage.ledger.backend("new").start().await;
    sign_in(&new, "cart", &news).await;
    stage.until_status("/cart/x", 200).await;
    stage.until_kept("cart", &[&news]).await;
    assert_eq!(
        olds.requests(),
        asked,
        "nobody of the old environment is called"
    );
    callboard.signal(Signal::SIGTERM);
    assert_eq!(callboard.ended().await.0, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_registry_that_refuses_us_is_named_where_the_snapshot_serves_in_its_place() {
    let consul = FakeConsul::start([]).await;
    let backend = Backend::start("a").await;
    let stage = Stage::new(&format!(
        "[registry.consul]\naddress = \"{}\"\n\
         [[route]]\npath = \"/cart\"\nservice = \"cart\"\nstrip_prefix = true\n",
        consul.url()
    ));
    consul.holds(7, json!([entry("cart", backend.address())]));
    let callboard = stage.run().await;
    stage.until_status("/cart/x", 200).await;
    stage.until_kept("cart", &[&backend]).await;
    callboard.kill().await;

    consul.always(Answer::error(403, "ACL not found"));
    let callboard = stage.run().await;
    // It serves what it knew, and is not ready: this is no registry that is merely away.
    stage.until_status("/cart/x", 200).await;
    let ready = async || {
        let answer = stage
            .http
            .get(format!("{}/ready", stage.admin))
            .send()
            .await
            .unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    };
    let (status, text) = eventually("it is named", ready, |(_, text)| text.contains("ACL")).await;
    assert_eq!(status, 503, "{text}");
    assert!(text.contains("service cart (consul"), "{text}");
    assert!(text.contains("check registry.consul.token"), "{text}");
    // A token that is right again.
    consul.holds(8, json!([entry("cart", backend.address())]));
    stage.until_ready().await;
    callboard.kill().await;
}
