//! Listeners come, go and change with a reload: no request fails for it at those that stay, and clients of
//! those that go are told, and served to their ends.

use std::{
    net::{Ipv4Addr, SocketAddr},
    os::unix::fs::PermissionsExt as _,
    path::Path,
    time::Duration,
};

use http::StatusCode;
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::AsyncWriteExt as _,
    net::TcpStream,
    sync::{mpsc, watch},
};
use tokio_util::sync::CancellationToken;

use crate::{
    support::{
        authority::Authority,
        callboard::Callboard,
        eventually,
        frames::{Frames, get},
        load::{Ledger, Load},
        proxy::Proxy,
        raw::{RawBackend, Then, Wire, ok},
        server::free_ports,
    },
    unix_sockets::connect,
};

const GET: &str = "GET /cart HTTP/1.1\r\nHost: a\r\n\r\n";
const LAST: &str = "GET /cart HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
const SLOW: &str = "GET /cart/slow HTTP/1.1\r\nHost: a\r\n\r\n";

/// A request that asks for WebSocket, the answer that goes over to it, and the frame by which the proxy says
/// that it goes away.
const ASKS: &str = "GET /cart HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\n\
    Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
const SWITCHES: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n\
    Upgrade: websocket\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
const GOING_AWAY: [u8; 4] = [0x88, 2, 3, 0xe9];

/// The port of a listener on this machine.
fn local(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

/// A listener at an address, with these lines.
fn at(address: impl std::fmt::Display, lines: &str) -> String {
    format!("[[listen]]\naddress = \"{address}\"\n{lines}\n")
}

/// A file with these listeners, this drain, and a route to this backend.
fn file(listeners: &str, drain: &str, backend: SocketAddr) -> String {
    format!(
        "workers = 2\n{listeners}\n[drain]\n{drain}\n[service.cart]\nendpoints = [\"{backend}\"]\n\
         [[route]]\npath = \"/cart\"\nservice = \"cart\"\nstrip_prefix = true\n"
    )
}

const NEVER: &str = "notice = \"1h\"\ndeadline = \"1h\"";
const SOON: &str = "notice = \"0s\"\ndeadline = \"1s\"";

async fn reloaded(proxy: &Proxy, text: &str) -> Value {
    let (status, said) = proxy.reload(text).await;
    assert_eq!(status, 200, "{said}");
    said["changes"].clone()
}

/// A backend that answers `/slow` when it may, goes over to WebSocket where that is asked for and says what
/// it hears, and answers all else at once.
async fn backend(may_answer: watch::Receiver<bool>) -> (RawBackend, mpsc::UnboundedReceiver<()>) {
    let (asked, is_asked) = mpsc::unbounded_channel();
    let backend = RawBackend::serving(move |wire| serve(wire, asked.clone(), may_answer.clone()));
    (backend.await, is_asked)
}

async fn serve(
    mut wire: Wire,
    asked: mpsc::UnboundedSender<()>,
    mut may_answer: watch::Receiver<bool>,
) {
    while let Some(head) = wire.head().await {
        if head.to_ascii_lowercase().contains("upgrade: websocket") {
            wire.send(SWITCHES).await;
            while let Ok(bytes) = wire.some().await {
                if wire.stream.write_all(&bytes).await.is_err() {
                    return;
                }
            }
            return;
        }
        if head.contains("/slow ") {
            asked.send(()).unwrap();
            may_answer.wait_for(|may| *may).await.unwrap();
            wire.send(ok("late")).await;
        } else {
            wire.send(ok("well")).await;
        }
    }
}

async fn until_refused(address: SocketAddr) {
    let refused = async || TcpStream::connect(address).await.is_err();
    eventually("no connection is accepted", refused, |refused| *refused).await;
}

/// Asks on one new connection after the other until it is told to stop: how often, and what failed.
async fn ask_on_and_on(address: SocketAddr, stop: CancellationToken) -> (usize, Vec<String>) {
    let (mut asked, mut failed) = (0, Vec::new());
    while !stop.is_cancelled() {
        asked += 1;
        match TcpStream::connect(address).await {
            Err(error) => failed.push(error.to_string()),
            Ok(stream) => {
                let mut client = Wire::new(stream);
                client.send(LAST).await;
                match client.message().await {
                    Some(got) if got.status() == 200 => {}
                    Some(got) => failed.push(got.head),
                    None => failed.push("no answer".to_owned()),
                }
            }
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    (asked, failed)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_fails_at_a_listener_that_stays_while_others_come_and_go() {
    let ledger = Ledger::default();
    let backend = ledger.backend("a").start().await;
    let [stays, comes, other] = free_ports().map(local);
    let drain = "notice = \"0s\"\ndeadline = \"5s\"";
    let files = [
        at(stays, ""),
        at(stays, "") + &at(comes, ""),
        at(
            stays,
            "header_case = \"title\"\nlimits = { connections = 900 }",
        ),
        at(other, "") + &at(stays, "max_passes = 1\nprotocol = \"http1\"") + &at(comes, ""),
        at(comes, "") + &at(stays, "timeout = { idle = \"2m\" }"),
    ];
    let text = |n: usize| file(&files[n % files.len()], drain, backend.address());
    let proxy = Proxy::start(&text(0)).await;
    let load = Load::start(stays, "/cart", 300).await;
    for n in 1..=20 {
        reloaded(&proxy, &text(n)).await;
        if n % files.len() == 1 {
            // It is there when the reload is answered.
            assert_eq!(Wire::connect(comes).await.ask(LAST).await.status(), 200);
        }
    }
    let report = load.stop(&ledger).await;
    println!("20 reloads of listeners: {report}");
    report.assert_flawless("reloads of listeners");
    assert_eq!(proxy.status().await["listeners"], json!([stays]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_that_becomes_a_wider_one_and_back_refuses_nobody() {
    let backend = RawBackend::saying(ok("well"), Then::Keep).await;
    let [port] = free_ports();
    let (one, all) = (local(port), SocketAddr::from(([0; 4], port)));
    let text = |address| {
        let drain = "notice = \"0s\"\ndeadline = \"5s\"";
        file(&at(address, ""), drain, backend.address())
    };
    let proxy = Proxy::start(&text(one)).await;
    let stop = CancellationToken::new();
    let asking = tokio::spawn(ask_on_and_on(one, stop.clone()));
    for address in [all, one, all, one] {
        let changes = reloaded(&proxy, &text(address)).await;
        assert_eq!(changes["added"], json!([format!("listener {address}")]));
        assert_eq!(proxy.status().await["listeners"], json!([address]));
        tokio::time::sleep(Duration::from_millis(150)).await;
    }
    stop.cancel();
    let (asked, failed) = asking.await.unwrap();
    println!("{asked} requests over 4 moves, {} failed", failed.len());
    assert!(failed.is_empty(), "{} of {asked}: {failed:?}", failed.len());
    assert!(asked > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_of_a_listener_that_is_gone_are_told_and_served_and_others_know_nothing_of_it() {
    let (answer, may_answer) = watch::channel(false);
    let (backend, mut is_asked) = backend(may_answer).await;
    let [stays, goes] = free_ports().map(local);
    let both = file(&(at(stays, "") + &at(goes, "")), NEVER, backend.address());
    let proxy = Proxy::start(&both).await;
    let mut idle = Wire::connect(goes).await;
    assert_eq!(idle.ask(GET).await.field("connection"), None);
    let mut other = Wire::connect(stays).await;
    assert_eq!(other.ask(GET).await.status(), 200);
    let mut busy = Wire::connect(goes).await;
    busy.send(SLOW).await;
    is_asked.recv().await.unwrap();

    let text = file(&at(stays, ""), NEVER, backend.address());
    let changes = reloaded(&proxy, &text).await;
    assert_eq!(changes["removed"], json!([format!("listener {goes}")]));
    assert_eq!(proxy.status().await["listeners"], json!([stays]));
    let got = idle.ask(GET).await;
    assert_eq!(
        (got.status(), got.field("connection")),
        (200, Some("close"))
    );
    idle.until_closed().await;
    until_refused(goes).await;
    answer.send_replace(true);
    let got = busy.message().await.expect("an answer");
    assert_eq!(
        (got.text(), got.field("connection")),
        ("late", Some("close"))
    );
    busy.until_closed().await;
    assert_eq!(other.ask(GET).await.field("connection"), None);

    // It comes back, and goes by the drain of that time: idle clients go at once.
    reloaded(&proxy, &both).await;
    let mut idle = Wire::connect(goes).await;
    assert_eq!(idle.ask(GET).await.field("connection"), None);
    let drain = "notice = \"0s\"\ndeadline = \"1h\"";
    reloaded(&proxy, &file(&at(stays, ""), drain, backend.address())).await;
    idle.until_closed().await;
    until_refused(goes).await;
    assert_eq!(other.ask(GET).await.field("connection"), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http2_and_tunnels_of_a_listener_that_is_gone_end_as_with_the_process() {
    let (_answer, may_answer) = watch::channel(false);
    let (backend, mut is_asked) = backend(may_answer).await;
    let [stays, goes] = free_ports().map(local);
    let drain = "notice = \"0s\"\ndeadline = \"300ms\"";
    let both = at(stays, "") + &at(goes, "");
    let proxy = Proxy::start(&file(&both, drain, backend.address())).await;
    let open = async |address| {
        let mut tunnel = Wire::connect(address).await;
        tunnel.send(ASKS).await;
        let head = tunnel.head().await.expect("an answer");
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        tunnel
    };
    let (mut tunnel, mut other) = (open(goes).await, open(stays).await);
    let mut http2 = Frames::connect(goes).await;
    http2.send(get(1, "/cart")).await;
    assert_eq!(http2.answer(1).await, (200, b"well".to_vec()));
    let mut busy = Wire::connect(goes).await;
    busy.send(SLOW).await;
    is_asked.recv().await.unwrap();

    reloaded(&proxy, &file(&at(stays, ""), drain, backend.address())).await;
    assert_eq!(http2.goaway().await, Some(0));
    assert_eq!(tunnel.bytes(4).await, GOING_AWAY);
    assert!(busy.message().await.is_none(), "it is cut");
    other.send("and so on").await;
    assert_eq!(other.bytes(9).await, b"and so on");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_that_cannot_be_had_refuses_a_reload_as_a_whole() {
    let backend = RawBackend::saying(ok("well"), Then::Keep).await;
    let [first, free] = free_ports().map(local);
    let taken = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = taken.local_addr().unwrap();
    let text = |listeners: &str| file(listeners, SOON, backend.address());
    let proxy = Proxy::start(&text(&at(first, ""))).await;
    let next = text(&(at(free, "") + &at(address, "")));
    let next = next.replace("path = \"/cart\"", "path = \"/new\"");
    for body in [json!({ "dry_run": true }), json!({})] {
        proxy.write(&next);
        let (status, said) = proxy.ask_to_reload(body).await;
        let error = said["error"].as_str().unwrap();
        assert_eq!(status, 422, "{error}");
        let says = format!("cannot listen on {address}: Address already in use");
        assert!(error.contains(&says), "{error}");
        assert_eq!(proxy.status().await["listeners"], json!([first]));
        assert_eq!(Wire::connect(first).await.ask(GET).await.status(), 200);
        until_refused(free).await;
    }
    // What a dry run says is taken by nothing.
    drop(taken);
    proxy.write(&next);
    let (_, said) = proxy.ask_to_reload(json!({ "dry_run": true })).await;
    let added = json!([
        format!("listener {free}"),
        format!("listener {address}"),
        "route /new"
    ]);
    assert_eq!(said["changes"]["added"], added, "{said}");
    let removed = json!([format!("listener {first}"), "route /cart"]);
    assert_eq!(said["changes"]["removed"], removed, "{said}");
    until_refused(free).await;
    let changes = reloaded(&proxy, &next).await;
    assert_eq!((&changes["added"], &changes["removed"]), (&added, &removed));
    assert_eq!(proxy.status().await["listeners"], json!([free, address]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dry_run_refuses_a_wider_address_of_which_another_process_has_a_part() {
    let backend = RawBackend::saying(ok("well"), Then::Keep).await;
    let other = std::net::TcpListener::bind("127.0.0.2:0").unwrap();
    let port = other.local_addr().unwrap().port();
    let (one, all) = (local(port), SocketAddr::from(([0; 4], port)));
    let text = |address| file(&at(address, ""), SOON, backend.address());
    let proxy = Proxy::start(&text(one)).await;
    proxy.write(&text(all));
    for body in [json!({ "dry_run": true }), json!({})] {
        let (status, said) = proxy.ask_to_reload(body).await;
        assert_eq!(status, 422, "{said}");
        assert_eq!(Wire::connect(one).await.ask(GET).await.status(), 200);
    }
    drop(other);
    for body in [json!({ "dry_run": true }), json!({})] {
        let (status, said) = proxy.ask_to_reload(body).await;
        assert_eq!(status, 200, "{said}");
    }
    assert_eq!(Wire::connect(one).await.ask(GET).await.status(), 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_path_that_goes_comes_back_at_once_and_by_another_spelling() {
    let backend = RawBackend::saying(ok("well"), Then::Keep).await;
    let [stays] = free_ports().map(local);
    let text = |listeners: &str| file(listeners, NEVER, backend.address());
    let proxy = Proxy::start(&text(&at(stays, ""))).await;
    let folder = proxy.folder().join("run");
    std::fs::create_dir(&folder).unwrap();
    std::os::unix::fs::symlink(&folder, proxy.folder().join("link")).unwrap();
    let path = folder.join("http.sock");
    let with = |path: &Path| text(&(at(stays, "") + &at(format!("unix:{}", path.display()), "")));
    let linked = with(&proxy.folder().join("link/http.sock"));
    let is_served = async || assert_eq!(connect(&path).await.ask(GET).await.text(), "well");
    for _ in 0..10 {
        reloaded(&proxy, &with(&path)).await;
        is_served().await;
        reloaded(&proxy, &linked).await;
        is_served().await;
        reloaded(&proxy, &text(&at(stays, ""))).await;
    }
    eventually("the file is gone", async || path.exists(), |is| !is).await;
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 0);
    // A listener that has come by such a way removes its own file.
    reloaded(&proxy, &with(&path)).await;
    reloaded(&proxy, &linked).await;
    is_served().await;
    // A file of another process is none that may be taken.
    reloaded(&proxy, &text(&at(stays, ""))).await;
    eventually("the file is gone", async || path.exists(), |is| !is).await;
    let _other = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let (status, said) = proxy.reload(&with(&path)).await;
    assert_eq!(status, 422, "{said}");
    reloaded(&proxy, &text(&at(stays, "")).replace(NEVER, SOON)).await;
}

const TLS: &str =
    "tls = { certificates = [{ cert = \"site-certificate.pem\", key = \"site-key.pem\" }] }";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listener_that_changes_serves_new_connections_by_it_and_leaves_those_that_are_alone() {
    let backend = RawBackend::saying(ok("well"), Then::Keep).await;
    let [address] = free_ports().map(local);
    let text = |lines: &str| file(&at(address, lines), SOON, backend.address());
    let folder = TempDir::new().unwrap();
    Authority::new(folder.path()).issue_for("site", &["localhost"], |_| {});
    let proxy = Proxy::start_in(folder, &text("")).await;
    let mut old = Wire::connect(address).await;
    assert_eq!(old.ask(GET).await.status(), 200);
    let changes = reloaded(&proxy, &text(TLS)).await;
    assert_eq!(changes["changed"], json!([format!("listener {address}")]));
    let got = Wire::connect(address).await.ask(GET).await;
    assert!(
        got.text().contains("this port speaks TLS"),
        "{}",
        got.text()
    );
    assert_eq!(old.ask(GET).await.field("connection"), None);
    let name =
        format!("callboard_tls_handshakes_total{{listener=\"{address}\",result=\"not_tls\"}}");
    let counted = async || {
        let text = proxy.page("/metrics").await.text().await.unwrap();
        let line = text.lines().find(|line| line.starts_with(&name));
        line.map(|line| line[name.len()..].trim().to_owned())
    };
    assert_eq!(counted().await.as_deref(), Some("1"));
    // Other settings of TLS count on.
    reloaded(
        &proxy,
        &text(&TLS.replace(" }] }", " }], min_version = \"1.3\" }")),
    )
    .await;
    Wire::connect(address).await.ask(GET).await;
    assert_eq!(counted().await.as_deref(), Some("2"));
    // A certificate that cannot be used refuses the reload.
    let (status, said) = proxy.reload(&text(&TLS.replace("site-c", "no-c"))).await;
    assert_eq!(status, 422, "{said}");
    assert!(
        said["error"]
            .as_str()
            .unwrap()
            .contains("no-certificate.pem"),
        "{said}"
    );
    reloaded(&proxy, &text("")).await;
    assert_eq!(Wire::connect(address).await.ask(GET).await.text(), "well");
    assert_eq!(counted().await, None);
    assert_eq!(old.ask(GET).await.field("connection"), None);
}

/// The samples of a metric, as they stand on the page.
async fn samples(proxy: &Proxy, metric: &str) -> Vec<String> {
    let text = proxy.page("/metrics").await.text().await.unwrap();
    let lines = text.lines().filter(|line| line.starts_with(metric));
    lines.map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listener_that_leaves_is_shown_with_its_connections_and_answers_probes_by_it() {
    let backend = RawBackend::saying(ok("well"), Then::Keep).await;
    let [stays, goes] = free_ports().map(local);
    let going = at(goes, "health_path = \"/healthz\"");
    let text = |listeners: &str| file(listeners, NEVER, backend.address());
    let proxy = Proxy::start(&text(&(at(stays, "") + &going))).await;
    let mut client = Wire::connect(goes).await;
    let probe = "GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n";
    assert_eq!(client.ask(probe).await.status(), 200);
    assert_eq!(proxy.status().await["leaving"], json!([]));
    reloaded(&proxy, &text(&at(stays, ""))).await;
    let status = proxy.status().await;
    let leaving = &status["leaving"][0];
    assert_eq!(leaving["address"], json!(goes));
    assert_eq!(leaving["connections"], 1, "{leaving}");
    assert!(leaving["ends"].as_f64().unwrap() > status["started"].as_f64().unwrap() + 7000.0);
    let findings = status["findings"].as_array().unwrap().iter();
    let mut texts = findings.filter(|one| one["kind"] == "listener_leaves");
    let text = texts.next().unwrap()["text"].as_str().unwrap();
    let says = format!("{goes} is out of the file and accepts no more: 1 connection left, cut in");
    assert!(text.starts_with(&says), "{text}");
    assert_eq!(client.ask(probe).await.status(), 503);
    client.until_closed().await;
    let status = async || proxy.status().await["leaving"].clone();
    eventually("it is gone", status, |leaving| *leaving == json!([])).await;
    reloaded(&proxy, &file(&at(stays, ""), SOON, backend.address())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn counts_of_a_listener_that_leaves_stand_there_once_and_go_on_where_it_comes_back() {
    let backend = RawBackend::saying(ok("well"), Then::Keep).await;
    let [first, second] = free_ports().map(local);
    let folder = TempDir::new().unwrap();
    Authority::new(folder.path()).issue_for("site", &["localhost"], |_| {});
    let text = |listeners: &str| file(listeners, NEVER, backend.address());
    let both = format!("[[listen]]\naddress = [\"{first}\", \"{second}\"]\n");
    let proxy = Proxy::start_in(folder, &text(&both)).await;
    // Connections from before there was TLS.
    let mut old = [Wire::connect(first).await, Wire::connect(second).await];
    for client in &mut old {
        assert_eq!(client.ask(GET).await.status(), 200);
    }
    reloaded(&proxy, &text(&(both.clone() + TLS + "\n"))).await;
    Wire::connect(first).await.ask(GET).await;
    let counted = async || {
        let of = "callboard_tls_handshakes_total{";
        let mut lines = samples(&proxy, of).await;
        lines.retain(|line| line.contains("not_tls"));
        lines
    };
    let line = |address, count| {
        format!(
            "callboard_tls_handshakes_total{{listener=\"{address}\",result=\"not_tls\"}} {count}"
        )
    };
    assert_eq!(counted().await, [line(first, 1)]);
    // Other settings count on, and the first address has connections still.
    let tls = TLS.replace(" }] }", " }], min_version = \"1.3\" }");
    reloaded(&proxy, &text(&at(second, &tls))).await;
    assert_eq!(counted().await, [line(second, 1)]);
    reloaded(&proxy, &text(&at(first, ""))).await;
    assert_eq!(counted().await, [line(second, 1)]);
    reloaded(&proxy, &text(&at(second, TLS))).await;
    assert_eq!(counted().await, [line(second, 1)]);
    Wire::connect(second).await.ask(GET).await;
    assert_eq!(counted().await, [line(second, 2)]);
    reloaded(&proxy, &text(&at(first, "")).replace(NEVER, SOON)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn counts_of_proxy_headers_stay_when_no_listener_expects_any() {
    let backend = RawBackend::saying(ok("well"), Then::Keep).await;
    let [address] = free_ports().map(local);
    let text = |lines: &str| file(&at(address, lines), SOON, backend.address());
    let trusted = "trusted_proxies = [\"127.0.0.1\"]\n";
    let proxy = Proxy::start(&text(&format!("{trusted}proxy_protocol = true"))).await;
    let mut client = Wire::connect(address).await;
    let header = "PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n";
    assert_eq!(client.ask(&format!("{header}{GET}")).await.status(), 200);
    let metric = "callboard_proxy_headers_total{result=\"proxied\"}";
    let before = samples(&proxy, metric).await;
    assert_eq!(before, [format!("{metric} 1")]);
    reloaded(&proxy, &text(trusted)).await;
    assert_eq!(samples(&proxy, metric).await, before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_limit_that_is_raised_lets_in_who_waits() {
    let backend = RawBackend::saying(ok("well"), Then::Keep).await;
    let [address] = free_ports().map(local);
    let text = |limit| {
        let lines = format!("limits = {{ connections = {limit} }}");
        file(&at(address, &lines), SOON, backend.address())
    };
    let proxy = Proxy::start(&text(1)).await;
    let mut first = Wire::connect(address).await;
    assert_eq!(first.ask(GET).await.status(), 200);
    let mut second = Wire::connect(address).await;
    second.send(GET).await;
    assert!(second.is_silent().await);
    reloaded(&proxy, &text(2)).await;
    assert_eq!(second.message().await.expect("an answer").text(), "well");
    assert_eq!(first.ask(GET).await.text(), "well");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_unix_socket_comes_changes_its_mode_and_goes() {
    let backend = RawBackend::saying(ok("well"), Then::Keep).await;
    let [stays] = free_ports().map(local);
    let text = |listeners: &str| file(listeners, NEVER, backend.address());
    let proxy = Proxy::start(&text(&at(stays, ""))).await;
    let path = proxy.folder().join("http.sock");
    let with = |mode: &str| {
        let address = format!("unix:{}", path.display());
        text(&(at(stays, "") + &at(address, &format!("mode = \"{mode}\""))))
    };
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    reloaded(&proxy, &with("0600")).await;
    assert_eq!(mode(&path), 0o600);
    // A reload that is refused opens nothing to others.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = with("0666") + &at(taken.local_addr().unwrap(), "");
    let (status, _) = proxy.reload(&taken).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(mode(&path), 0o600);
    let mut client = connect(&path).await;
    assert_eq!(client.ask(GET).await.text(), "well");
    reloaded(&proxy, &with("0666")).await;
    assert_eq!(mode(&path), 0o666);
    assert_eq!(client.ask(GET).await.field("connection"), None);
    reloaded(&proxy, &text(&at(stays, ""))).await;
    eventually("the file is gone", async || path.exists(), |is| !is).await;
    assert_eq!(client.ask(GET).await.field("connection"), Some("close"));
    reloaded(&proxy, &with("0600")).await;
    assert_eq!(connect(&path).await.ask(GET).await.text(), "well");
    reloaded(&proxy, &text(&at(stays, "")).replace(NEVER, SOON)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_successor_gets_the_listeners_of_the_last_reload_and_not_those_of_the_start() {
    let (answer, may_answer) = watch::channel(false);
    let (backend, mut is_asked) = backend(may_answer).await;
    let [first, second, admin] = free_ports().map(local);
    let text = |listeners: &str| {
        let rest = format!("[admin]\naddress = \"{admin}\"\n[log]\nformat = \"text\"\n");
        file(listeners, NEVER, backend.address()) + &rest
    };
    let folder = TempDir::new().unwrap();
    let mut old = Callboard::run(folder.path(), &text(&at(first, "")));
    old.until_logged("ready").await;
    let next = text(&at(second, ""));
    std::fs::write(folder.path().join("proxy.toml"), &next).unwrap();
    let mut kept = Wire::connect(first).await;
    assert_eq!(kept.ask(GET).await.status(), 200);
    old.signal(Signal::SIGHUP);
    old.until_logged(&format!("listening on {second}")).await;
    old.until_logged("no connections are accepted here any more")
        .await;
    assert_eq!(kept.ask(GET).await.field("connection"), Some("close"));
    old.until_logged("the last connection is gone").await;
    until_refused(first).await;
    let mut busy = Wire::connect(second).await;
    busy.send(SLOW).await;
    is_asked.recv().await.unwrap();
    let stop = CancellationToken::new();
    let asking = tokio::spawn(ask_on_and_on(second, stop.clone()));
    old.signal(Signal::SIGTERM);
    old.until_logged("draining").await;
    let mut new = Callboard::run(folder.path(), &next);
    new.until_logged("hands its addresses over").await;
    new.until_logged(&format!("listening on {second}")).await;
    let served = async || Wire::connect(second).await.ask(GET).await;
    let is_new = |got: &crate::support::raw::Message| got.field("connection").is_none();
    eventually("the new one serves", served, is_new).await;
    answer.send_replace(true);
    assert_eq!(busy.message().await.expect("an answer").text(), "late");
    assert_eq!(old.ended().await.0, Some(0));
    stop.cancel();
    let (asked, failed) = asking.await.unwrap();
    assert!(failed.is_empty(), "{} of {asked}: {failed:?}", failed.len());
}
