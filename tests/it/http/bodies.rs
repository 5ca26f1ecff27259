//! Bodies of any size pass through without being collected, and end with whoever goes away.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{
    io::AsyncWriteExt as _,
    sync::{Semaphore, mpsc},
    time::timeout,
};

use super::{before, cart};
use crate::support::{
    PATIENCE, eventually,
    raw::{RawBackend, Wire, ok},
};

const LARGE: usize = 64 * 1024 * 1024;
const PIECE: usize = 64 * 1024;
/// What the kernel may keep of a stream, in the four buffers between client and backend, and what
/// the proxy may.
const ON_THE_WAY: usize = 24 * 1024 * 1024;

/// Bytes that differ from place to place.
fn piece(number: usize) -> Vec<u8> {
    (0..PIECE)
        .map(|at| (number * 31 + at % 251) as u8)
        .collect()
}

async fn write_all(wire: &mut Wire, written: &AtomicUsize) {
    for number in 0..LARGE / PIECE {
        wire.send(piece(number)).await;
        written.fetch_add(PIECE, Relaxed);
    }
}

async fn write_all_chunked(wire: &mut Wire, written: &AtomicUsize) {
    for number in 0..LARGE / PIECE {
        wire.send(format!("{PIECE:x}\r\n")).await;
        wire.send(piece(number)).await;
        wire.send("\r\n").await;
        written.fetch_add(PIECE, Relaxed);
    }
    wire.send("0\r\n\r\n").await;
}

async fn read_all(wire: &mut Wire) {
    for number in 0..LARGE / PIECE {
        let got = wire.bytes(PIECE).await;
        assert!(got == piece(number), "piece {number} is another");
    }
}

/// Waits until a count no longer grows, and says how far it came.
async fn until_stuck(count: &AtomicUsize) -> usize {
    let twice = async || {
        let before = count.load(Relaxed);
        tokio::time::sleep(Duration::from_millis(300)).await;
        (before, count.load(Relaxed))
    };
    let stuck = |(before, after): &(usize, usize)| *before > 0 && before == after;
    eventually("the sender is held up", twice, stuck).await.1
}

async fn soon<T>(what: impl Future<Output = T>) -> T {
    let what = tokio::time::timeout(PATIENCE, what);
    what.await.expect("the backend's connection ends")
}

fn length() -> String {
    format!("Content-Length: {LARGE}\r\n\r\n")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_reads_slowly_slows_the_backend_and_gets_all() {
    let written = Arc::<AtomicUsize>::default();
    let count = Arc::clone(&written);
    let backend = RawBackend::serving(move |mut wire: Wire| {
        let count = Arc::clone(&count);
        async move {
            wire.head().await.unwrap();
            wire.send(format!("HTTP/1.1 200 OK\r\n{}", length())).await;
            write_all(&mut wire, &count).await;
            wire.head().await;
        }
    });
    let backend = backend.await;
    let proxy = before(backend.address(), "").await;
    let mut client = Wire::connect_narrow(proxy.address()).await;
    client.send("GET /cart HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let head = client.head().await.unwrap();
    assert!(
        head.contains(&format!("content-length: {LARGE}\r\n")),
        "{head}"
    );
    let stuck = until_stuck(&written).await;
    println!("the backend was held up after {stuck} bytes of {LARGE}");
    assert!(stuck < ON_THE_WAY, "{stuck}");
    read_all(&mut client).await;
    assert_eq!(written.load(Relaxed), LARGE);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backend_that_reads_slowly_slows_the_client_and_gets_all() {
    for chunked in [false, true] {
        let may_read = Arc::new(Semaphore::new(0));
        let permits = Arc::clone(&may_read);
        let backend = RawBackend::serving(move |mut wire: Wire| {
            let may_read = Arc::clone(&permits);
            async move {
                let head = wire.head().await.unwrap();
                let _permit = may_read.acquire().await.unwrap();
                let framing = if chunked {
                    "transfer-encoding: chunked\r\n".to_owned()
                } else {
                    format!("content-length: {LARGE}\r\n")
                };
                assert!(head.contains(&framing), "{head}");
                if chunked {
                    // Not in the pieces that the client made, but the same in all.
                    let (body, trailers) = wire.chunks().await;
                    assert_eq!((body.len(), trailers.as_str()), (LARGE, ""));
                    let pieces = body.chunks(PIECE).enumerate();
                    assert!(pieces.into_iter().all(|(number, got)| got == piece(number)));
                } else {
                    read_all(&mut wire).await;
                }
                wire.send(ok("all there")).await;
                wire.head().await;
            }
        });
        let backend = backend.await;
        let proxy = before(backend.address(), "").await;
        let mut client = Wire::connect(proxy.address()).await;
        let framing = if chunked {
            "Transfer-Encoding: chunked\r\n\r\n".to_owned()
        } else {
            length()
        };
        client
            .send(format!("POST /cart HTTP/1.1\r\nHost: a\r\n{framing}"))
            .await;
        let written = Arc::<AtomicUsize>::default();
        let count = Arc::clone(&written);
        let sending = tokio::spawn(async move {
            if chunked {
                write_all_chunked(&mut client, &count).await;
            } else {
                write_all(&mut client, &count).await;
            }
            client
        });
        let stuck = until_stuck(&written).await;
        println!("the client was held up after {stuck} bytes of {LARGE}");
        assert!(stuck < ON_THE_WAY, "{stuck}");
        may_read.add_permits(1);
        let mut client = sending.await.unwrap();
        assert_eq!(client.message().await.unwrap().text(), "all there");
    }
}

/// A backend that never answers; the receivers are told when a request has come, and when a
/// connection has ended.
async fn hangs() -> (
    RawBackend,
    mpsc::UnboundedReceiver<()>,
    mpsc::UnboundedReceiver<()>,
) {
    let (came, comes) = mpsc::unbounded_channel();
    let (ended, ends) = mpsc::unbounded_channel();
    let backend = RawBackend::serving(move |mut wire: Wire| {
        let (came, ended) = (came.clone(), ended.clone());
        async move {
            wire.head().await.unwrap();
            came.send(()).unwrap();
            // An error is an end too.
            let _ = wire.rest().await;
            ended.send(()).unwrap();
        }
    });
    (backend.await, comes, ends)
}

#[tokio::test]
async fn a_client_that_is_gone_ends_its_request_and_counts_against_nobody() {
    let (backend, mut came, mut ended) = hangs().await;
    let proxy = before(backend.address(), "").await;
    for (gone, half_closes) in [(1, false), (2, true)] {
        let mut client = Wire::connect(proxy.address()).await;
        client.send("GET /cart HTTP/1.1\r\nHost: a\r\n\r\n").await;
        soon(came.recv()).await.unwrap();
        if half_closes {
            client.stream.shutdown().await.unwrap();
            client.until_closed().await;
        } else {
            drop(client);
        }
        soon(ended.recv()).await.unwrap();
        let noted = eventually(
            "noted",
            async || cart(&proxy).await["abandoned"].clone(),
            |abandoned| *abandoned == gone,
        );
        noted.await;
    }
    let cart = eventually(
        "its endpoint is free",
        async || cart(&proxy).await,
        |cart| cart["endpoints"][0]["in_flight"] == 0,
    )
    .await;
    assert_eq!((&cart["failed"], &cart["retries"]), (&0.into(), &0.into()));
    assert_eq!(cart["endpoints"][0]["failures"], 0);
}

/// What it sent, and nobody has read, stands before its end.
#[tokio::test]
async fn a_client_that_is_gone_is_missed_though_bytes_of_its_lie_unread() {
    for is_body in [false, true] {
        let backend = RawBackend::serving(|mut wire: Wire| async move {
            wire.head().await.unwrap();
            // It takes no more, and says nothing.
            std::future::pending().await
        });
        let backend = backend.await;
        let proxy = before(backend.address(), "").await;
        let mut client = Wire::connect(proxy.address()).await;
        let get = "GET /cart HTTP/1.1\r\nHost: a\r\n\r\n";
        if is_body {
            let head = "POST /cart HTTP/1.1\r\nHost: a\r\n";
            client.send(format!("{head}{}", length())).await;
            // As much as fits on the way.
            let piece = piece(0);
            let a_while = Duration::from_millis(300);
            while let Ok(sent) = timeout(a_while, client.stream.write(&piece)).await {
                sent.unwrap();
            }
            client.stream.set_zero_linger().unwrap();
        } else {
            client.send(get).await;
            let asked = async || backend.connections();
            eventually("asked", asked, |count| *count == 1).await;
            client.send(get).await;
            // It was seen that the client is there still.
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        drop(client);
        eventually(
            "its leaving is noted, and its endpoint is free",
            async || cart(&proxy).await,
            |cart| cart["abandoned"] == 1 && cart["endpoints"][0]["in_flight"] == 0,
        )
        .await;
    }
}

#[tokio::test]
async fn a_client_that_closes_its_side_only_is_answered_where_the_listener_says_so() {
    let (ask, asked) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
    let answers = (Arc::clone(&ask), Arc::clone(&asked));
    let backend = RawBackend::serving(move |mut wire: Wire| {
        let (ask, asked) = answers.clone();
        async move {
            wire.head().await.unwrap();
            asked.add_permits(1);
            let _permit = ask.acquire().await.unwrap();
            wire.send(ok("late")).await;
            wire.head().await;
        }
    });
    let backend = backend.await;
    let listen = "[[listen]]\naddress = \"127.0.0.1:0\"\nhalf_close = true\n";
    let proxy = before(backend.address(), listen).await;
    let mut client = Wire::connect(proxy.address()).await;
    client.send("GET /cart HTTP/1.1\r\nHost: a\r\n\r\n").await;
    client.stream.shutdown().await.unwrap();
    let _permit = asked.acquire().await.unwrap();
    ask.add_permits(1);
    assert_eq!(client.message().await.unwrap().text(), "late");
}

#[tokio::test]
async fn a_client_that_leaves_in_the_middle_of_an_answer_ends_it() {
    let (ended, mut ends) = mpsc::unbounded_channel();
    let backend = RawBackend::serving(move |mut wire: Wire| {
        let ended = ended.clone();
        async move {
            wire.head().await.unwrap();
            wire.send(format!("HTTP/1.1 200 OK\r\n{}", length())).await;
            while wire.stream.write_all(&[b'x'; 1_000]).await.is_ok() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            ended.send(()).unwrap();
        }
    });
    let backend = backend.await;
    let proxy = before(backend.address(), "").await;
    let mut client = Wire::connect(proxy.address()).await;
    client.send("GET /cart HTTP/1.1\r\nHost: a\r\n\r\n").await;
    client.head().await.unwrap();
    client.bytes(5_000).await;
    drop(client);
    soon(ends.recv()).await.unwrap();
    let over = eventually(
        "over",
        async || cart(&proxy).await["endpoints"][0].clone(),
        |endpoint| endpoint["in_flight"] == 0,
    );
    assert_eq!(over.await["failures"], 0);
}
