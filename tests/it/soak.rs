//! A long run through all that may happen to instances and registries, again and again: what fails is
//! what may fail, no POST is processed twice, and memory stays where it was. `tests/soak` runs it.

use std::{net::SocketAddr, time::Duration};

use http::Method;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::Instant;

use crate::support::{
    backend::Backend,
    callboard::Callboard,
    consul::Consul,
    eventually,
    load::{Ledger, Load, Outcome, Report},
    process::BackendProcess,
    proxy::{are, endpoints, instance, with_state},
    raw::RawBackend,
    server::free_ports,
};

/// Memory may grow by this part of what it was after the first quarter, in which what is kept for
/// good (journals, buffers) fills, and by so many bytes.
const GROWTH: (f64, u64) = (0.05, 1 << 20);

/// What happens in one phase.
#[derive(Clone, Copy, Debug)]
enum Scenario {
    /// All four are replaced, one after the other, and closed at once.
    Deploys,
    /// One more is killed.
    Kill,
    /// One more stands still.
    Hang,
    /// One more resets each connection that has asked something.
    Resets,
    /// One more answers everything with 500.
    Fails,
    /// Consul is killed, comes back empty, and all sign in again.
    Registry,
}

const SCENARIOS: [Scenario; 6] = [
    Scenario::Deploys,
    Scenario::Kill,
    Scenario::Hang,
    Scenario::Resets,
    Scenario::Fails,
    Scenario::Registry,
];

/// When what happened took effect, by which failures are judged.
struct Happened {
    /// From the moment it began until it was over, or everybody knew.
    window: std::ops::Range<Instant>,
}

struct Soak {
    consul: Consul,
    callboard: Callboard,
    proxy: SocketAddr,
    admin: String,
    http: reqwest::Client,
    ledger: Ledger,
    backends: Vec<Backend>,
    /// The id of the next request, and the number of the next backend.
    next: (u64, usize),
    rate: u32,
    _folder: TempDir,
}

#[derive(Default)]
struct Totals {
    sent: usize,
    allowed: usize,
    wrong: usize,
    duplicated: usize,
}

impl Soak {
    async fn start(rate: u32) -> Option<Self> {
        let consul = Consul::start().await?;
        let [proxy, admin] = free_ports();
        let folder = tempfile::tempdir().unwrap();
        let text = format!(
            "workers = 2\n[log]\nlevel = \"error\"\n\
             [[listen]]\naddress = \"127.0.0.1:{proxy}\"\n\
             [admin]\naddress = \"127.0.0.1:{admin}\"\n\
             [registry.consul]\naddress = \"{}\"\n\
             [defaults]\ntimeout = {{ response = \"1s\" }}\n\
             eject = {{ time = \"1s\", max_time = \"2s\", statuses = \"5xx\" }}\n\
             [[route]]\npath = \"/cart\"\nservice = \"cart\"\nstrip_prefix = true\n",
            consul.url()
        );
        let mut soak = Self {
            callboard: Callboard::run(folder.path(), &text),
            consul,
            proxy: ([127, 0, 0, 1], proxy).into(),
            admin: format!("http://127.0.0.1:{admin}"),
            http: reqwest::Client::builder().no_proxy().build().unwrap(),
            ledger: Ledger::default(),
            backends: Vec::new(),
            next: (0, 0),
            rate,
            _folder: folder,
        };
        for _ in 0..4 {
            let backend = soak.open().await;
            soak.backends.push(backend);
        }
        soak.until_whole().await;
        Some(soak)
    }

    async fn open(&mut self) -> Backend {
        self.next.1 += 1;
        let backend = self.ledger.backend(&self.next.1.to_string()).start().await;
        self.sign_in(backend.address()).await;
        backend
    }

    async fn sign_in(&self, address: SocketAddr) {
        self.consul
            .register(json!({
                "ID": instance("cart", address), "Name": "cart",
                "Address": address.ip(), "Port": address.port(),
            }))
            .await;
    }

    async fn sign_out(&self, address: SocketAddr) {
        self.consul.deregister(&instance("cart", address)).await;
    }

    async fn service(&self) -> Value {
        let page = self.http.get(format!("{}/api/services/cart", self.admin));
        match page.send().await {
            Ok(answer) => answer.json().await.unwrap_or_default(),
            Err(_) => Value::Null,
        }
    }

    async fn until(&self, what: &str, holds: impl Fn(&Value) -> bool) {
        eventually(what, async || self.service().await, holds).await;
    }

    async fn until_state(&self, address: SocketAddr, state: &str) {
        let address = address.to_string();
        self.until(&format!("{address} is {state}"), |service| {
            endpoints(service).any(|one| one["address"] == address && one["state"] == state)
        })
        .await;
    }

    /// All four serve, and nobody else is there.
    async fn until_whole(&self) {
        let states = with_state(&self.backends, "serving");
        let all_serve = |service: &Value| are(endpoints(service), &states);
        self.until("all four serve", all_serve).await;
    }

    /// The count, which is not there before the service's first request.
    async fn ejections(&self) -> u64 {
        let page = self.http.get(format!("{}/metrics", self.admin));
        let text = page.send().await.unwrap().text().await.unwrap();
        let mut lines = text.lines();
        let line = lines
            .find_map(|line| line.strip_prefix("callboard_ejections_total{service=\"cart\"} "));
        line.map_or(0, |count| count.parse().unwrap())
    }

    /// One phase, and what came of it. Returns whether all was as it may be.
    async fn phase(&mut self, scenario: Scenario, totals: &mut Totals) {
        let load = Load::start_from(self.proxy, "/cart", self.rate, self.next.0).await;
        let before = self.ejections().await;
        let_pass(500).await;
        let happened = self.happens(scenario).await;
        let_pass(500).await;
        let trials = self.ejections().await.saturating_sub(before + 1) as usize;
        let report = Report::new(load.end().await, &self.ledger).await;
        self.next.0 += report.sent as u64;
        let (allowed, rest): (Vec<_>, Vec<_>) = report
            .failed
            .iter()
            .partition(|outcome| may_fail(scenario, outcome, &happened));
        // A trial of who is ejected is a request like any other, and fails in the same way.
        let is_trial = |outcome: &&&Outcome| fails_so(scenario, outcome);
        let spared = rest.iter().filter(is_trial).count().min(trials);
        let wrong = rest.len().saturating_sub(spared);
        let duplicated = report.duplicates.len();
        println!(
            "{scenario:?}: {} sent, {} failed as they may, {wrong} failed otherwise, {duplicated} POSTs \
             processed twice, {} answered and not processed",
            report.sent,
            allowed.len() + rest.len() - wrong,
            report.unprocessed.len(),
        );
        for outcome in rest.iter().take(if wrong > 0 { 5 } else { 0 }) {
            println!("  {outcome:?}");
        }
        totals.sent += report.sent;
        totals.allowed += allowed.len() + rest.len() - wrong;
        totals.wrong += wrong + report.unprocessed.len();
        totals.duplicated += duplicated;
    }

    async fn happens(&mut self, scenario: Scenario) -> Happened {
        let began = Instant::now();
        let known = match scenario {
            Scenario::Deploys => {
                for place in 0..self.backends.len() {
                    let new = self.open().await;
                    let old = std::mem::replace(&mut self.backends[place], new);
                    self.sign_out(old.address()).await;
                    old.close().await;
                    let_pass(300).await;
                }
                Instant::now()
            }
            Scenario::Kill => {
                let mut process = self.open_process().await;
                let_pass(500).await;
                process.kill();
                let known = Instant::now();
                let_pass(1_000).await;
                self.sign_out(process.address()).await;
                known
            }
            Scenario::Hang => {
                let process = self.open_process().await;
                process.pause();
                self.until_state(process.address(), "ejected").await;
                let known = Instant::now();
                let_pass(2_500).await;
                self.sign_out(process.address()).await;
                let_pass(1_200).await;
                process.resume();
                // Now it works on what it was sent, long after its clients were told 504.
                let_pass(500).await;
                known
            }
            Scenario::Resets => {
                let bad = RawBackend::serving(|mut wire| async move {
                    let _ = wire.head().await;
                    wire.stream.set_zero_linger().unwrap();
                })
                .await;
                self.until_ejected(bad.address()).await
            }
            Scenario::Fails => {
                let bad = Backend::named("bad")
                    .answering(|_| async { http::StatusCode::INTERNAL_SERVER_ERROR });
                let bad = bad.start().await;
                self.until_ejected(bad.address()).await
            }
            Scenario::Registry => {
                self.consul.kill();
                let_pass(1_500).await;
                self.consul.restart_empty().await;
                let_pass(500).await;
                for backend in &self.backends {
                    self.sign_in(backend.address()).await;
                }
                Instant::now()
            }
        };
        self.until_whole().await;
        Happened {
            window: began..known,
        }
    }

    /// One that signs in, is ejected, stays for a while and signs out. Returns when it was ejected.
    async fn until_ejected(&self, bad: SocketAddr) -> Instant {
        self.sign_in(bad).await;
        self.until_state(bad, "ejected").await;
        let known = Instant::now();
        let_pass(2_500).await;
        self.sign_out(bad).await;
        known
    }

    async fn open_process(&self) -> BackendProcess {
        let ledger = self.ledger.clone();
        let start = move || BackendProcess::start(&ledger);
        let process = tokio::task::spawn_blocking(start).await.unwrap();
        self.sign_in(process.address()).await;
        self.until_state(process.address(), "serving").await;
        process
    }
}

/// Whether the table of what may fail has it.
fn may_fail(scenario: Scenario, outcome: &Outcome, happened: &Happened) -> bool {
    let window = &happened.window;
    let is_of_then = outcome.sent <= window.end && outcome.ended >= window.start;
    is_of_then && fails_so(scenario, outcome)
}

/// Whether that is how a request fails which the bad one was asked.
fn fails_so(scenario: Scenario, outcome: &Outcome) -> bool {
    let status = outcome.failure.as_deref().unwrap_or_default();
    let is_post = outcome.method == Method::POST;
    match scenario {
        Scenario::Deploys | Scenario::Registry => false,
        Scenario::Kill | Scenario::Resets => is_post && status.starts_with("502"),
        Scenario::Hang => status.starts_with("504"),
        Scenario::Fails => status.starts_with("500"),
    }
}

async fn let_pass(millis: u64) {
    tokio::time::sleep(Duration::from_millis(millis)).await;
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |value| value.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes: tests/soak runs it"]
async fn all_of_it_again_and_again() {
    let wanted = setting("CALLBOARD_SOAK_REQUESTS", 1_000_000) as usize;
    let rate = setting("CALLBOARD_SOAK_RATE", 2_000) as u32;
    let Some(mut soak) = Soak::start(rate).await else {
        panic!("the soak needs a Consul");
    };
    let mut totals = Totals::default();
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let mut memory = Vec::new();
    while totals.sent < wanted {
        for scenario in SCENARIOS {
            soak.phase(scenario, &mut totals).await;
        }
        memory.push(soak.callboard.resident_bytes());
        let now = mib(memory[memory.len() - 1]);
        println!(
            "round {}: {} sent so far, memory {now:.1} MiB",
            memory.len(),
            totals.sent
        );
    }
    let (start, end) = (memory[memory.len() / 4], memory[memory.len() - 1]);
    let Totals {
        sent,
        allowed,
        wrong,
        duplicated,
    } = totals;
    println!(
        "in all: {sent} sent, {allowed} failed as they may, {wrong} failed otherwise, \
         {duplicated} POSTs processed twice; memory {:.1} MiB after a quarter of it, {:.1} MiB at \
         the end",
        mib(start),
        mib(end)
    );
    assert_eq!((wrong, duplicated), (0, 0));
    let most = start + (start as f64 * GROWTH.0) as u64 + GROWTH.1;
    assert!(end <= most, "memory grew from {start} to {end} bytes");
}
