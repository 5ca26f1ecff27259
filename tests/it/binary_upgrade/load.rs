//! Clients of every kind amid upgrades: new connections, kept ones, TLS, HTTP/2, a tunnel and a download.

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpStream, UnixStream},
    sync::watch,
    task::JoinHandle,
    time::timeout,
};
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::support::{
    PATIENCE,
    authority::Authority,
    frames::{Frames, get},
    load::{Client, Ledger, Outcome, Report},
    raw::{RawBackend, Then, Wire, ok},
    tls::connector,
};

const ASKS: &str = "GET /slow HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
const SWITCHES: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n\
    Upgrade: websocket\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

/// A client that repeats nothing.
enum Asking {
    /// With a new connection each time.
    Anew(SocketAddr),
    /// The same over TLS.
    Tls(SocketAddr, TlsConnector),
    /// The same at a path.
    Unix(PathBuf),
    /// HTTP/2, on one connection until it is told to leave that.
    Http2(SocketAddr, Option<SendRequest<Full<Bytes>>>),
}

impl Asking {
    async fn ask(&mut self) -> Result<(), String> {
        match self {
            Self::Anew(address) => ask_over(TcpStream::connect(*address).await).await,
            Self::Unix(path) => ask_over(UnixStream::connect(path).await).await,
            Self::Tls(address, connector) => {
                let stream = TcpStream::connect(*address).await;
                let stream = stream.map_err(|error| format!("connect: {error}"))?;
                let name = ServerName::try_from("localhost").unwrap();
                ask_over(connector.connect(name, stream).await).await
            }
            Self::Http2(address, kept) => loop {
                let mut client = match kept.take() {
                    Some(client) => client,
                    None => http2(*address).await?,
                };
                if client.ready().await.is_err() {
                    continue;
                }
                let request = Request::get("http://shop.example/cart/1");
                let request = request.body(Full::default()).unwrap();
                let answer = match client.send_request(request).await {
                    // It was told to leave, and has not been heard.
                    Err(error) if was_not_heard(&error) => continue,
                    answer => answer.map_err(|error| format!("{error:?}"))?,
                };
                let status = answer.status();
                let body = answer.into_body().collect().await;
                let body = body.map_err(|error| format!("{error:?}"))?.to_bytes();
                *kept = Some(client);
                return match (status.as_u16(), &body[..]) {
                    (200, b"/1") => Ok(()),
                    other => Err(format!("{other:?}")),
                };
            },
        }
    }
}

/// Whether a request is one that the peer says it will not process.
fn was_not_heard(error: &hyper::Error) -> bool {
    let cause = std::error::Error::source(error);
    let cause = cause.and_then(|cause| cause.downcast_ref::<h2::Error>());
    error.is_canceled() || cause.is_some_and(|cause| cause.is_go_away() && cause.is_remote())
}

async fn http2(address: SocketAddr) -> Result<SendRequest<Full<Bytes>>, String> {
    let stream = TcpStream::connect(address).await;
    let stream = stream.map_err(|error| format!("connect: {error}"))?;
    let (client, connection) = handshake(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .map_err(|error| format!("handshake: {error:?}"))?;
    tokio::spawn(connection);
    Ok(client)
}

async fn ask_over(
    stream: std::io::Result<impl AsyncRead + AsyncWrite + Unpin>,
) -> Result<(), String> {
    let mut stream = stream.map_err(|error| format!("connect: {error}"))?;
    let get = b"GET /cart/1 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    let sent = stream.write_all(get).await;
    sent.map_err(|error| format!("write: {error}"))?;
    let mut answer = Vec::new();
    let read = stream.read_to_end(&mut answer).await;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    match read {
        Ok(_) if answer.starts_with("HTTP/1.1 200") && answer.ends_with("/1") => Ok(()),
        other => Err(format!("{other:?}: {answer:?}")),
    }
}

/// Clients that ask until they are told to stop.
struct Clients {
    stop: CancellationToken,
    asked: Arc<AtomicUsize>,
    asking: Vec<JoinHandle<Vec<String>>>,
    kept: Vec<JoinHandle<Vec<Outcome>>>,
}

impl Clients {
    fn start(line: &Line, tls: SocketAddr, pause: Duration) -> Self {
        let connector = connector(
            &line.folder().join("ca.pem"),
            &rustls::version::TLS13,
            &[b"http/1.1"],
        );
        let asking = [
            Asking::Anew(line.address()),
            Asking::Anew(line.address()),
            Asking::Unix(line.folder().join("http.sock")),
            Asking::Tls(tls, connector),
            Asking::Http2(line.address(), None),
        ];
        let (stop, asked) = (CancellationToken::new(), Arc::<AtomicUsize>::default());
        let kept = Arc::new(Client::new(line.address(), "/cart"));
        let go_on = || {
            let (stop, asked) = (stop.clone(), Arc::clone(&asked));
            async move || {
                asked.fetch_add(1, Relaxed);
                tokio::time::sleep(pause).await;
                !stop.is_cancelled()
            }
        };
        let asking = asking.into_iter().map(|mut client| {
            let go_on = go_on();
            tokio::spawn(async move {
                let mut failed = Vec::new();
                while go_on().await {
                    match timeout(PATIENCE, client.ask()).await {
                        Ok(Ok(())) => {}
                        Ok(Err(error)) => failed.push(error),
                        Err(_) => failed.push("no answer".to_owned()),
                    }
                }
                failed
            })
        });
        let asking = asking.collect();
        let kept = (0..4).map(|_| {
            let (client, go_on) = (Arc::clone(&kept), go_on());
            tokio::spawn(async move {
                let mut outcomes = Vec::new();
                while go_on().await {
                    outcomes.push(client.call_next().await);
                }
                outcomes
            })
        });
        let kept = kept.collect();
        Self {
            stop,
            asked,
            asking,
            kept,
        }
    }

    /// Waits until so many were sent.
    async fn until_asked(&self, least: usize) {
        while self.asked.load(Relaxed) < least {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    async fn assert_flawless(self, ledger: &Ledger) {
        self.stop.cancel();
        let (mut failed, mut outcomes) = (Vec::new(), Vec::new());
        for asking in self.asking {
            failed.extend(asking.await.unwrap());
        }
        for kept in self.kept {
            outcomes.extend(kept.await.unwrap());
        }
        let asked = self.asked.load(Relaxed);
        println!("{} failed of {asked}", failed.len());
        assert!(
            failed.is_empty(),
            "{} of {asked}: {failed:#?}",
            failed.len()
        );
        Report::new(outcomes, ledger)
            .await
            .assert_flawless("kept connections");
    }
}

/// A backend that goes over to WebSocket and says what it hears; or, where it is asked for something else,
/// sends a piece of a download for each number, up to 100.
async fn slow(pieces: watch::Receiver<usize>) -> RawBackend {
    RawBackend::serving(move |mut wire: Wire| {
        let mut pieces = pieces.clone();
        async move {
            let Some(head) = wire.head().await else {
                return;
            };
            if head.contains("websocket") {
                wire.send(SWITCHES).await;
                while let Ok(bytes) = wire.some().await {
                    if bytes.is_empty() {
                        return;
                    }
                    wire.send(bytes).await;
                }
                return;
            }
            wire.send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n")
                .await;
            for sent in 0..100 {
                pieces.wait_for(|pieces| *pieces > sent).await.unwrap();
                wire.send("x").await;
            }
            wire.head().await;
        }
    })
    .await
}

/// So many upgrades, amid so many requests at least.
async fn upgrade_under_load(upgrades: usize, least: usize, pause: Duration) {
    let ledger = Ledger::default();
    let backend = ledger.backend("a").start().await;
    let (piece, pieces) = watch::channel(0);
    let slow = slow(pieces).await;
    let folder = tempfile::tempdir().unwrap();
    Authority::new(folder.path()).issue_for("site", &["localhost"], |_| {});
    let [tls] = crate::support::server::free_ports();
    let text = format!(
        "[[listen]]\naddress = \"127.0.0.1:{tls}\"\n\
         tls = {{ certificates = [{{ cert = \"site-certificate.pem\", key = \"site-key.pem\" }}] }}\n\
         [[listen]]\naddress = \"unix:{}\"\n\
         [service.cart]\nendpoints = [\"{}\"]\n[service.slow]\nendpoints = [\"{}\"]\n\
         [[route]]\npath = \"/cart\"\nservice = \"cart\"\nstrip_prefix = true\n\
         [[route]]\npath = \"/slow\"\nservice = \"slow\"\n",
        folder.path().join("http.sock").display(),
        backend.address(),
        slow.address(),
    );
    let mut line = Line::start_in(folder, &text).await;
    let mut tunnel = Wire::connect(line.address()).await;
    tunnel.send(ASKS).await;
    assert!(tunnel.head().await.unwrap().starts_with("HTTP/1.1 101"));
    let mut download = Wire::connect(line.address()).await;
    download.send("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert!(download.head().await.unwrap().contains("200 OK"));

    let clients = Clients::start(&line, ([127, 0, 0, 1], tls).into(), pause);
    for upgrade in 1..=upgrades {
        clients.until_asked(least * upgrade / (upgrades + 1)).await;
        line.upgrade().await;
        tunnel.send("hello").await;
        assert_eq!(tunnel.bytes(5).await, b"hello");
        piece.send_modify(|pieces| *pieces += 1);
        assert_eq!(download.bytes(1).await, b"x");
        // It waits for neither the tunnel nor the download.
        if upgrade > 1 {
            line.until_gone(upgrade - 1).await;
        }
    }
    clients.until_asked(least).await;
    clients.assert_flawless(&ledger).await;
    piece.send_replace(100);
    assert_eq!(download.bytes(100 - upgrades).await.len(), 100 - upgrades);
    assert!(line.lives(line.pids[0]), "the tunnel is there still");
    drop((tunnel, download));
    line.until_gone(0).await;
    assert!(line.lives(line.newest()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upgrades_under_load_lose_no_request_and_refuse_no_connection() {
    upgrade_under_load(4, 2_000, Duration::from_millis(4)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a minute of both cores"]
async fn ten_upgrades_amid_100_000_requests_lose_none() {
    upgrade_under_load(10, 100_000, Duration::ZERO).await;
}

#[tokio::test]
async fn a_tunnel_ends_at_the_drain_deadline_of_the_process_that_has_it() {
    let (_piece, pieces) = watch::channel(0);
    let slow = slow(pieces).await;
    let route = format!(
        "[service.slow]\nendpoints = [\"{}\"]\n[[route]]\nservice = \"slow\"\n",
        slow.address()
    );
    let mut line = Line::start(&route).await;
    let file = line.folder().join("proxy.toml");
    let text = fs::read_to_string(&file).unwrap();
    // The deadline is what the process has read that goes.
    fs::write(
        &file,
        text.replace("deadline = \"1h\"", "deadline = \"1s\""),
    )
    .unwrap();
    line.upgrade().await;
    // Until it has closed its sockets it may accept a client still.
    line.until_gone(0).await;
    let mut tunnel = Wire::connect(line.address()).await;
    tunnel.send(ASKS).await;
    assert!(tunnel.head().await.unwrap().starts_with("HTTP/1.1 101"));
    line.upgrade().await;
    tunnel.send("hello").await;
    assert_eq!(tunnel.bytes(5).await, b"hello");
    // Amid what would be a frame it cannot be told that the proxy goes away.
    assert_eq!(tunnel.rest().await.unwrap(), b"");
    line.until_gone(1).await;
    assert!(line.lives(line.newest()));
}

#[tokio::test]
async fn clients_of_http2_are_told_at_once_that_another_process_serves() {
    let backend = RawBackend::saying(ok("well"), Then::Keep).await;
    let ports = free_ports();
    let text = format!(
        "{}[service.cart]\nendpoints = [\"{}\"]\n[[route]]\nservice = \"cart\"\n",
        head(ports).replace("300ms", "1h"),
        backend.address()
    );
    let mut line = Line::start_with(tempfile::tempdir().unwrap(), ports, &text).await;
    let mut client = Frames::connect(line.address()).await;
    client.send(get(1, "/cart")).await;
    assert_eq!(client.answer(1).await, (200, b"well".to_vec()));
    line.upgrade().await;
    assert_eq!(client.goaway().await, Some(0));
    let mut fresh = Wire::connect(line.address()).await;
    let got = fresh.ask("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!((got.text(), got.field("connection")), ("well", None));
}

#[tokio::test]
async fn three_processes_drain_at_once_and_no_more() {
    let (_piece, pieces) = watch::channel(0);
    let slow = slow(pieces).await;
    let route = format!(
        "[service.slow]\nendpoints = [\"{}\"]\n[[route]]\nservice = \"slow\"\n",
        slow.address()
    );
    let mut line = Line::start(&route).await;
    let mut tunnels = Vec::new();
    for place in 0..3 {
        let mut tunnel = Wire::connect(line.address()).await;
        tunnel.send(ASKS).await;
        assert!(tunnel.head().await.unwrap().starts_with("HTTP/1.1 101"));
        line.upgrade().await;
        // The next tunnel is the new one's.
        line.until_let_go(place).await;
        tunnels.push(tunnel);
        assert!(line.lives(line.pids[place]));
    }
    let (status, said) = line.try_upgrade("20s").await;
    let error = said["error"].as_str().unwrap();
    assert_eq!(status, 409, "{error}");
    assert!(error.starts_with("3 processes before this one"), "{error}");
    let metrics = line.metrics().await;
    assert!(metrics.contains("callboard_upgrades_failed_total 0"));
    drop(tunnels.remove(0));
    line.until_gone(0).await;
    line.upgrade().await;
    for tunnel in &mut tunnels {
        tunnel.send("hello").await;
        assert_eq!(tunnel.bytes(5).await, b"hello");
    }
    assert!(line.lives(line.newest()));
}
