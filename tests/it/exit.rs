//! SIGTERM and SIGINT drain; a second signal ends the process at once, whatever is still running.

use std::{net::SocketAddr, path::Path, time::Duration};

use nix::sys::signal::Signal;
use tempfile::TempDir;
use tokio::time::timeout;

use crate::support::{
    callboard::Callboard,
    raw::{RawBackend, Then, Wire, ok},
};

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

/// A proxy that sends everything to this backend, and where it listens.
async fn before(folder: &Path, backend: SocketAddr) -> (Callboard, SocketAddr) {
    let text = format!(
        "[log]\nformat = \"text\"\n[drain]\nnotice = \"10ms\"\ndeadline = \"1h\"\n\
         [[listen]]\naddress = \"127.0.0.1:0\"\n[admin]\naddress = \"127.0.0.1:0\"\n\
         [registry.embedded]\naddress = \"127.0.0.1:0\"\n\
         [service.cart]\nendpoints = [\"{backend}\"]\n[[route]]\nservice = \"cart\"\n"
    );
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
async fn either_signal_lets_what_runs_come_to_its_end() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
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
