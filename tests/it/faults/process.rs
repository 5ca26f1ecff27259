//! The proxy's own process: killed and started again, and short of file descriptors.

use std::{net::SocketAddr, path::Path, time::Duration};

use nix::{sys::signal::Signal, unistd::Pid};
use serde_json::json;
use tempfile::TempDir;
use tokio::{net::TcpStream, process::Command, time::Instant};

use super::{FOUR, let_pass};
use crate::support::{
    callboard::{Callboard, command},
    eventually,
    load::{Client, Ledger, Load, Outcome, Report},
    server::free_ports,
};

/// A configuration with one service whose endpoints stand in it.
fn text(proxy: u16, admin: u16, backends: &[SocketAddr]) -> String {
    let endpoints: Vec<_> = backends.iter().map(ToString::to_string).collect();
    format!(
        "workers = 2\n[log]\nformat = \"text\"\n[[listen]]\naddress = \"127.0.0.1:{proxy}\"\n\
         [admin]\naddress = \"127.0.0.1:{admin}\"\n\
         [registry.embedded]\naddress = \"127.0.0.1:0\"\n\
         [[route]]\npath = \"/cart\"\nservice = \"cart\"\nstrip_prefix = true\n\
         [service.cart]\nendpoints = {}\n",
        json!(endpoints)
    )
}

async fn run(command: Command, folder: &Path, text: &str) -> Callboard {
    let mut callboard = Callboard::run_by(command, folder, text);
    callboard.until_logged("the admin server is at").await;
    callboard
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_and_started_again_it_serves_at_once_and_nothing_was_processed_twice() {
    let ledger = Ledger::default();
    let mut backends = Vec::new();
    for id in FOUR {
        backends.push(ledger.backend(id).start().await);
    }
    let addresses: Vec<_> = backends.iter().map(|backend| backend.address()).collect();
    let [proxy, admin] = free_ports();
    let (folder, text) = (TempDir::new().unwrap(), text(proxy, admin, &addresses));
    let mut callboard = run(command(folder.path()), folder.path(), &text).await;
    let load = Load::start(([127, 0, 0, 1], proxy).into(), "/cart", 300).await;
    let mut away = Vec::new();
    for _ in 0..3 {
        let_pass(400).await;
        let killed = Instant::now();
        callboard.kill().await;
        callboard = run(command(folder.path()), folder.path(), &text).await;
        away.push(killed..Instant::now());
    }
    let_pass(400).await;
    let mut report = load.stop(&ledger).await;
    report.assert_nothing_twice("the proxy is killed three times");
    let lost = |one: &crate::support::load::Outcome| {
        let mut away = away.iter();
        away.any(|away| one.sent <= away.end && one.ended >= away.start)
    };
    assert!(!report.failed.is_empty(), "it was away");
    report.failed.retain(|one| !lost(one));
    report.assert_flawless("the proxy is killed, but while it was away");
    callboard.signal(Signal::SIGKILL);
}

/// What the process has used of the processors.
fn cpu_time(pid: Pid) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields = stat.rsplit_once(") ").unwrap().1.split(' ');
    let ticks: Vec<u64> = fields
        .skip(11)
        .take(2)
        .map(|field| field.parse().unwrap())
        .collect();
    Duration::from_millis(10 * (ticks[0] + ticks[1]))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_file_descriptor_left_it_waits_and_serves_again_as_soon_as_there_is_one() {
    let ledger = Ledger::default();
    let backend = ledger.backend("a").start().await;
    let [proxy, admin] = free_ports();
    let folder = TempDir::new().unwrap();
    let binary = env!("CARGO_BIN_EXE_callboard");
    let mut few = Command::new("sh");
    few.args(["-c", &format!("ulimit -n 64; exec {binary} run")])
        .current_dir(folder.path());
    let text = text(proxy, admin, &[backend.address()]);
    let callboard = run(few, folder.path(), &text).await;
    let address = SocketAddr::from(([127, 0, 0, 1], proxy));
    // One at a time: with so few descriptors there is room for a few requests only.
    let client = Client::new(address, "/cart");
    assert!(
        called(&client, 20)
            .await
            .iter()
            .all(|outcome| outcome.failure.is_none())
    );
    // The kernel takes them for it, and it has no place for them all.
    let mut idle = Vec::new();
    for _ in 0..200 {
        idle.push(TcpStream::connect(address).await.unwrap());
    }
    let_pass(300).await;
    let (before, began) = (cpu_time(callboard.pid()), Instant::now());
    let_pass(1_000).await;
    let (used, passed) = (cpu_time(callboard.pid()) - before, began.elapsed());
    println!("out of file descriptors: {used:?} of {passed:?}");
    assert!(used < passed / 2, "it spins: {used:?} of {passed:?}");
    drop(idle);
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let url = format!("http://{address}/cart/x");
    let served = async || match http.get(&url).send().await {
        Ok(answer) => answer.status().as_u16(),
        Err(_) => 0,
    };
    eventually("it serves again", served, |status| *status == 200).await;
    let report = Report::new(called(&client, 100).await, &ledger).await;
    report.assert_flawless("file descriptors are there again");
}

async fn called(client: &Client, requests: usize) -> Vec<Outcome> {
    let mut outcomes = Vec::new();
    for _ in 0..requests {
        outcomes.push(client.call_next().await);
    }
    outcomes
}
