//! The demo's provider: it signs in as any would, and leaves without failing anyone.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Json, Router,
    extract::{Path, State},
    http::StatusCode,
    routing::{get, put},
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};
use tokio::{
    net::TcpListener,
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
};

/// What the registry was told.
#[derive(Debug)]
enum Told {
    Register(Value),
    Deregister(String),
}

async fn registry() -> (SocketAddr, UnboundedReceiver<Told>) {
    type Ear = State<(UnboundedSender<Told>, Arc<Mutex<Value>>)>;
    let register = |State((ear, entry)): Ear, Json(body): Json<Value>| async move {
        *entry.lock().unwrap() = json!({
            "Service": body["Name"], "Address": body["Address"], "Port": body["Port"],
        });
        ear.send(Told::Register(body)).unwrap();
    };
    let look = |State((_, entry)): Ear| async move { Json(entry.lock().unwrap().clone()) };
    let deregister = |State((ear, _)): Ear, Path(id): Path<String>| async move {
        ear.send(Told::Deregister(id)).unwrap();
    };
    let (ear, told) = unbounded_channel();
    let router = Router::new()
        .route("/v1/agent/service/register", put(register))
        .route("/v1/agent/service/{id}", get(look))
        .route("/v1/agent/service/deregister/{id}", put(deregister))
        .with_state((ear, Arc::default()));
    (serve(router).await, told)
}

async fn serve(router: Router) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await });
    address
}

fn provider(registry: SocketAddr) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_callboard"));
    command
        .args(["provider", "--name", "hello", "--id", "hello/1 x"])
        .args(["--registry", &format!("http://{registry}/")]);
    command
}

fn terminate(child: &Child) {
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM).unwrap();
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    stream
}

/// Reads to the end of the answer's body.
fn answer(stream: &mut TcpStream) -> String {
    let mut text = String::new();
    let mut byte = [0];
    while !text.ends_with("hello from hello/1 x\n") {
        let count = stream.read(&mut byte).unwrap();
        assert_eq!(count, 1, "cut short: {text}");
        text.push(char::from(byte[0]));
    }
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn it_signs_out_first_and_then_loses_nobody() {
    let (registry, mut told) = registry().await;
    let mut child = provider(registry)
        .arg("--tied")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    // Waiting would close it, and end the provider by another way than the one that is tried.
    let _tie = child.stdin.take();
    let Some(Told::Register(body)) = told.recv().await else {
        panic!("not a registration");
    };
    assert_eq!(body["ID"], "hello/1 x");
    assert_eq!(body["Name"], "hello");
    assert_eq!(body["Address"], "127.0.0.1");
    assert_eq!(body["Check"]["Interval"], "1s");
    let port = body["Port"].as_u64().unwrap();
    assert_eq!(
        body["Check"]["HTTP"],
        json!(format!("http://127.0.0.1:{port}/health"))
    );
    let address = format!("127.0.0.1:{port}").parse().unwrap();
    let mut ready = String::new();
    BufReader::new(child.stdout.take().unwrap())
        .read_line(&mut ready)
        .unwrap();
    assert!(ready.ends_with(&format!("{address}\n")), "{ready}");

    let mut half_sent = connect(address);
    half_sent
        .write_all(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\n\r\nab")
        .unwrap();
    let mut kept = connect(address);
    kept.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        .unwrap();
    answer(&mut kept);

    terminate(&child);
    let Some(Told::Deregister(id)) = told.recv().await else {
        panic!("not a deregistration");
    };
    assert_eq!(id, "hello/1 x");
    // Others may not have heard yet: whoever comes now is served, on new connections and old.
    let mut late = connect(address);
    late.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        .unwrap();
    answer(&mut late);
    kept.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        .unwrap();
    answer(&mut kept);
    // An idle connection is closed cleanly, and one with a request under way is waited for.
    assert_eq!(kept.read(&mut [0]).unwrap(), 0);
    assert!(child.try_wait().unwrap().is_none());
    half_sent.write_all(b"cd").unwrap();
    let last = answer(&mut half_sent);
    assert!(
        last.to_ascii_lowercase().contains("connection: close"),
        "{last}"
    );
    assert!(child.wait().unwrap().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_refuses_it_is_told_to_the_person() {
    let refuse = || async { (StatusCode::FORBIDDEN, "no token, no entry") };
    let registry = serve(Router::new().fallback(refuse)).await;
    let run = provider(registry).output().unwrap();
    let text = String::from_utf8_lossy(&run.stderr);
    assert!(!run.status.success());
    assert!(
        text.contains("403") && text.contains("no token, no entry"),
        "{text}"
    );
}
