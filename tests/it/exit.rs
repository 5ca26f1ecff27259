//! SIGTERM, SIGINT and SIGQUIT drain; a second one ends the process at once, whatever is still
//! running. SIGUSR1, SIGUSR2 while it drains, and SIGHUP, which reloads, end nothing.

use std::{net::SocketAddr, path::Path, time::Duration};

use nix::sys::signal::Signal;
use tempfile::TempDir;
use tokio::time::timeout;

use crate::support::{
    callboard::Callboard,
    eventually,
    raw::{RawBackend, Then, Wire, ok},
    server::free_ports,
};

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

/// A configuration that sends everything to this backend.
fn text(backend: SocketAddr) -> String {
    format!(
        "[log]\nformat = \"text\"\n[drain]\nnotice = \"10ms\"\ndeadline = \"1h\"\n\
         [[listen]]\naddress = \"127.0.0.1:0\"\n[admin]\naddress = \"127.0.0.1:0\"\n\
         [registry.embedded]\naddress = \"127.0.0.1:0\"\n\
         [service.cart]\nendpoints = [\"{backend}\"]\n[[route]]\nservice = \"cart\"\n"
    )
}

/// A proxy with it, and where it listens.
async fn before(folder: &Path, backend: SocketAddr) -> (Callboard, SocketAddr) {
    let text = text(backend);
    let mut callboard = Callboard::run(folder, &text);
    let line = callboard.until_logged("listening on").await;
    let address = line.rsplit(' ').next().unwrap().parse().unwrap();
    (callboard, address)
}

#[tokio::test]
async fn a_second_signal_ends_it_though_a_stream_runs_on() {
    let backend = RawBackend::serving(async |mut wire: Wire| {
        wire.head().await;
        wire.send("HTTP/1.1 200 OK\r\n\r\n").await;
        loop {
            wire.send("and so on\n").await;
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    let backend = backend.await;
    let folder = TempDir::new().unwrap();
    let (mut callboard, address) = before(folder.path(), backend.address()).await;
    let mut client = Wire::connect(address).await;
    client.send(GET).await;
    client.head().await.unwrap();

    callboard.signal(Signal::SIGTERM);
    callboard.until_logged("draining").await;
    // The stream keeps it from ending by itself, also once the notice is over.
    let gone = timeout(Duration::from_millis(300), callboard.until_logged("gone")).await;
    assert!(gone.is_err(), "it waits for the stream: {gone:?}");
    callboard.signal(Signal::SIGTERM);
    assert_eq!(callboard.ended().await.0, Some(1));
}

#[tokio::test]
async fn a_signal_that_asks_to_end_lets_what_runs_come_to_its_end() {
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGQUIT] {
        let (asked, mut is_asked) = tokio::sync::mpsc::unbounded_channel();
        let (answer, may_answer) = tokio::sync::watch::channel(false);
        let backend = RawBackend::serving(move |mut wire: Wire| {
            let (asked, mut may_answer) = (asked.clone(), may_answer.clone());
            async move {
                wire.head().await;
                asked.send(()).unwrap();
                may_answer.wait_for(|may| *may).await.unwrap();
                wire.send(ok("late")).await;
                wire.head().await;
            }
        });
        let backend = backend.await;
        let folder = TempDir::new().unwrap();
        let (mut callboard, address) = before(folder.path(), backend.address()).await;
        let mut client = Wire::connect(address).await;
        client.send(GET).await;
        is_asked.recv().await.unwrap();

        callboard.signal(signal);
        callboard.until_logged("draining").await;
        answer.send_replace(true);
        let got = client.message().await.expect("an answer");
        assert_eq!((got.status(), got.text()), (200, "late"), "{signal}");
        let (status, lines) = callboard.ended().await;
        assert_eq!(status, Some(0), "{signal}");
        let last = lines.last().unwrap();
        assert!(last.ends_with("gone"), "{signal}: {last}");
    }
}

#[tokio::test]
async fn an_idle_connection_keeps_it_from_nothing() {
    let backend = RawBackend::saying(ok("well"), Then::Keep).await;
    let folder = TempDir::new().unwrap();
    let (callboard, address) = before(folder.path(), backend.address()).await;
    let mut client = Wire::connect(address).await;
    assert_eq!(client.ask(GET).await.text(), "well");
    callboard.signal(Signal::SIGINT);
    // The deadline is an hour.
    assert_eq!(callboard.ended().await.0, Some(0));
    client.until_closed().await;
}

const NOT_TO_END: [Signal; 3] = [Signal::SIGUSR1, Signal::SIGUSR2, Signal::SIGHUP];

#[tokio::test]
async fn a_signal_that_asks_for_something_else_ends_nothing() {
    let backend = RawBackend::saying(ok("well"), Then::Keep).await;
    let folder = TempDir::new().unwrap();
    let (mut callboard, address) = before(folder.path(), backend.address()).await;
    let mut client = Wire::connect(address).await;
    for signal in [Signal::SIGUSR1, Signal::SIGHUP] {
        callboard.signal(signal);
        let said = match signal {
            Signal::SIGHUP => "reloaded".to_owned(),
            _ => format!("{signal} came, which does nothing here"),
        };
        callboard.until_logged(&said).await;
        assert_eq!(client.ask(GET).await.text(), "well", "{signal}");
    }
    callboard.signal(Signal::SIGTERM);
    let line = callboard.until_logged("SIGTERM came").await;
    assert!(line.contains("a second signal ends it at once"), "{line}");
    // Nor while it drains, or as a second signal.
    for signal in NOT_TO_END {
        callboard.signal(signal);
    }
    assert_eq!(callboard.ended().await.0, Some(0));
}

/// What the process may open, soft and hard.
fn descriptors(callboard: &Callboard) -> [String; 2] {
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", callboard.pid())).unwrap();
    let line = limits
        .lines()
        .find(|line| line.starts_with("Max open files"));
    let mut numbers = line.unwrap().split_whitespace().skip(3).map(str::to_owned);
    [numbers.next().unwrap(), numbers.next().unwrap()]
}

#[tokio::test]
async fn the_soft_limit_of_descriptors_is_raised_and_a_hard_one_that_is_too_low_is_said() {
    for (connections, is_said) in [(376, true), (375, false)] {
        let folder = TempDir::new().unwrap();
        let listen = format!("[[listen]]\nlimits.connections = {connections}\n");
        let text = text(([127, 0, 0, 1], 1).into()).replace("[[listen]]\n", &listen);
        let binary = env!("CARGO_BIN_EXE_callboard");
        let mut limited = tokio::process::Command::new("sh");
        let script = format!("ulimit -Sn 100 && ulimit -Hn 1000 && exec {binary} run");
        limited.args(["-c", &script]).current_dir(folder.path());
        let mut callboard = Callboard::run_by(limited, folder.path(), &text);
        callboard.until_logged("callboard starts").await;
        let next = callboard.until_logged("").await;
        assert_eq!(next.contains("at most 375 clients"), is_said, "{next}");
        callboard.until_logged("the admin server is at").await;
        assert_eq!(descriptors(&callboard), ["1000", "1000"]);
    }
}

#[tokio::test]
async fn connections_that_cannot_be_accepted_are_said_once_and_not_twenty_times_a_second() {
    let backend = RawBackend::saying(ok("well"), Then::Keep).await;
    let folder = TempDir::new().unwrap();
    let (mut callboard, address) = before(folder.path(), backend.address()).await;
    let pid = callboard.pid().to_string();
    let few = |most: u32| {
        let limit = format!("--nofile={most}:1000");
        let mut set = std::process::Command::new("prlimit");
        let status = set.args(["--pid", &pid, &limit]).status();
        assert!(status.unwrap().success());
    };
    // Fewer than it has: it can open nothing.
    few(3);
    let mut waiting = Wire::connect(address).await;
    let line = callboard.until_logged("cannot accept").await;
    assert!(line.contains("Too many open files"), "{line}");
    // It tries on meanwhile.
    tokio::time::sleep(Duration::from_millis(500)).await;
    few(1000);
    assert_eq!(waiting.ask(GET).await.text(), "well");
    callboard.signal(Signal::SIGTERM);
    let (_, lines) = callboard.ended().await;
    let again = lines.iter().filter(|line| line.contains("cannot accept"));
    assert_eq!(again.count(), 0, "{lines:?}");
}

/// A backend that answers `/slow` when it may, and everything else at once; and what it was asked.
async fn slow(may_answer: tokio::sync::watch::Receiver<bool>) -> (RawBackend, Asked) {
    let (asked, is_asked) = tokio::sync::mpsc::unbounded_channel();
    let backend = RawBackend::serving(move |mut wire: Wire| {
        let (asked, mut may_answer) = (asked.clone(), may_answer.clone());
        async move {
            while let Some(head) = wire.head().await {
                if head.contains(" /slow ") {
                    asked.send(()).unwrap();
                    may_answer.wait_for(|may| *may).await.unwrap();
                    wire.send(ok("late")).await;
                } else {
                    wire.send(ok("well")).await;
                }
            }
        }
    });
    (backend.await, is_asked)
}

type Asked = tokio::sync::mpsc::UnboundedReceiver<()>;

const SLOW: &str = "GET /slow HTTP/1.1\r\nHost: a\r\n\r\n";

#[tokio::test]
async fn for_as_long_as_something_runs_its_address_is_not_dead() {
    let (answer, may_answer) = tokio::sync::watch::channel(false);
    let (backend, mut is_asked) = slow(may_answer).await;
    let folder = TempDir::new().unwrap();
    let (mut callboard, address) = before(folder.path(), backend.address()).await;
    let mut client = Wire::connect(address).await;
    client.send(SLOW).await;
    is_asked.recv().await.unwrap();
    let mut idle = Wire::connect(address).await;
    assert_eq!(idle.ask(GET).await.text(), "well");

    callboard.signal(Signal::SIGTERM);
    callboard.until_logged("draining").await;
    // It is told to end, and so the notice is over.
    idle.until_closed().await;
    for _ in 0..20 {
        let mut other = Wire::connect(address).await;
        let got = other.ask(GET).await;
        assert_eq!((got.status(), got.text()), (200, "well"));
        assert_eq!(got.field("connection"), Some("close"));
        other.until_closed().await;
    }
    answer.send_replace(true);
    assert_eq!(client.message().await.expect("an answer").text(), "late");
    assert_eq!(callboard.ended().await.0, Some(0));
    assert!(tokio::net::TcpStream::connect(address).await.is_err());
}

/// Asks on one new connection after the other until it is told to stop: how often, and what failed.
async fn ask_on_and_on(
    address: SocketAddr,
    stop: tokio_util::sync::CancellationToken,
) -> (usize, Vec<String>) {
    let (mut asked, mut failed) = (0, Vec::new());
    while !stop.is_cancelled() {
        asked += 1;
        match tokio::net::TcpStream::connect(address).await {
            Err(error) => failed.push(error.to_string()),
            Ok(stream) => {
                let mut client = Wire::new(stream);
                client
                    .send(GET.replace("Host", "Connection: close\r\nHost"))
                    .await;
                match client.message().await {
                    Some(got) if got.status() == 200 => {}
                    Some(got) => failed.push(got.text().to_owned()),
                    None => failed.push("no answer".to_owned()),
                }
            }
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    (asked, failed)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_successor_that_is_started_at_once_has_the_addresses_and_refuses_nobody() {
    for workers in [1, 2] {
        let (answer, may_answer) = tokio::sync::watch::channel(false);
        let (backend, mut is_asked) = slow(may_answer).await;
        let [proxy, admin, registry] = free_ports();
        let text = format!(
            "workers = {workers}\n[log]\nformat = \"text\"\n[drain]\nnotice = \"1h\"\ndeadline = \"1h\"\n\
             [[listen]]\naddress = \"127.0.0.1:{proxy}\"\n[admin]\naddress = \"127.0.0.1:{admin}\"\n\
             [registry.embedded]\naddress = \"127.0.0.1:{registry}\"\n\
             [[route]]\nservice = \"cart\"\n"
        );
        let folder = TempDir::new().unwrap();
        let mut old = Callboard::run(folder.path(), &text);
        old.until_logged("the admin server is at").await;
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        let url = format!("http://127.0.0.1:{registry}/v1/agent/service/register");
        let (ip, port) = (backend.address().ip(), backend.address().port());
        let entry = serde_json::json!({"Name": "cart", "Address": ip, "Port": port});
        let put = http.put(url).json(&entry).send().await.unwrap();
        assert!(put.status().is_success());
        let address = SocketAddr::from(([127, 0, 0, 1], proxy));
        let served = async || Wire::connect(address).await.ask(GET).await.status();
        eventually("it is served", served, |status| *status == 200).await;

        let mut client = Wire::connect(address).await;
        client.send(SLOW).await;
        is_asked.recv().await.unwrap();
        let stop = tokio_util::sync::CancellationToken::new();
        let asking = tokio::spawn(ask_on_and_on(address, stop.clone()));
        old.signal(Signal::SIGTERM);
        old.until_logged("draining").await;
        let mut new = Callboard::run(folder.path(), &text);
        new.until_logged("hands its addresses over").await;
        new.until_logged("ready").await;
        old.until_logged("a successor has the addresses now").await;
        let served = async || Wire::connect(address).await.ask(GET).await;
        let is_the_new_ones =
            |got: &crate::support::raw::Message| got.field("connection").is_none();
        eventually("the new one serves", served, is_the_new_ones).await;
        stop.cancel();
        let (asked, failed) = asking.await.unwrap();
        assert!(failed.is_empty(), "{} of {asked}: {failed:?}", failed.len());

        answer.send_replace(true);
        assert_eq!(client.message().await.expect("an answer").text(), "late");
        assert_eq!(old.ended().await.0, Some(0));
        assert_eq!(Wire::connect(address).await.ask(GET).await.text(), "well");
    }
}

#[tokio::test]
async fn ctrl_c_at_a_terminal_waits_for_no_balancer() {
    let backend = RawBackend::saying(ok("well"), Then::Keep).await;
    for at_a_terminal in [true, false] {
        let folder = TempDir::new().unwrap();
        let text = text(backend.address()).replace("10ms", "1h");
        let pair = nix::pty::openpty(None, None).unwrap();
        let mut command = crate::support::callboard::command(folder.path());
        if at_a_terminal {
            command.stdin(pair.slave);
        } else {
            command.stdin(std::process::Stdio::null());
        }
        let mut callboard = Callboard::run_by(command, folder.path(), &text);
        callboard.until_logged("the admin server is at").await;
        callboard.signal(Signal::SIGINT);
        let notice = if at_a_terminal {
            "notice=0ns"
        } else {
            "notice=3600s"
        };
        let line = callboard.until_logged("draining notice").await;
        assert!(line.contains(notice), "{line}");
        if at_a_terminal {
            assert_eq!(callboard.ended().await.0, Some(0));
        }
    }
}
