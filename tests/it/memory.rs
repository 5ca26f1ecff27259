//! What clients and endpoints can make the process hold is bounded, by the figures of
//! `docs/memory.md`: each is driven to its bound, and the memory of the process looked at.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use futures_util::future::join_all;
use tempfile::TempDir;
use tokio::io::AsyncWriteExt as _;

use crate::support::{
    callboard::Callboard,
    eventually,
    frames::{DATA, Frames, WINDOW_UPDATE, frame, get, head},
    raw::{RawBackend, Then, Wire, ok},
    server::free_ports,
};

const KIB: u64 = 1024;

/// A proxy in a process of its own, with one worker, whose service `cart` is one backend.
struct Stage {
    callboard: Callboard,
    address: SocketAddr,
    admin: SocketAddr,
    before: u64,
    _folder: TempDir,
}

impl Stage {
    async fn before(backend: SocketAddr) -> Self {
        let [proxy, admin] = free_ports();
        let folder = TempDir::new().unwrap();
        let text = format!(
            "workers = 1\n[log]\nformat = \"text\"\n[[listen]]\naddress = \"127.0.0.1:{proxy}\"\n\
             [admin]\naddress = \"127.0.0.1:{admin}\"\n\
             [registry.embedded]\naddress = \"127.0.0.1:0\"\n\
             [[route]]\nservice = \"cart\"\n[service.cart]\nendpoints = [\"{backend}\"]\n\
             upgrades = [\"websocket\", \"tcp\"]\n"
        );
        let mut callboard = Callboard::run(folder.path(), &text);
        callboard.until_logged("the admin server is at").await;
        let mut stage = Self {
            callboard,
            address: ([127, 0, 0, 1], proxy).into(),
            admin: ([127, 0, 0, 1], admin).into(),
            before: 0,
            _folder: folder,
        };
        // What is made once is made now.
        let mut client = stage.client().await;
        client.send("GET /warm HTTP/1.1\r\nHost: a\r\n\r\n").await;
        client.head().await.unwrap();
        drop(client);
        stage.before = stage.settled().await;
        stage
    }

    async fn client(&self) -> Wire {
        Wire::connect(self.address).await
    }

    async fn settled(&self) -> u64 {
        settled(&self.callboard).await
    }

    /// Each of so many costs no more than this.
    async fn assert_each_holds(&self, what: &str, count: usize, most: u64) {
        let grown = self.settled().await.saturating_sub(self.before);
        let each = grown / count as u64;
        println!("{what}: {} KiB each of {count}", each / KIB);
        assert!(each <= most, "{what}: {each} bytes each, and not {most}");
    }
}

/// The memory of a proxy, once that has stopped to grow.
async fn settled(callboard: &Callboard) -> u64 {
    let twice = async || {
        let before = callboard.resident_bytes();
        tokio::time::sleep(Duration::from_millis(300)).await;
        (before, callboard.resident_bytes())
    };
    let still = |(before, after): &(u64, u64)| after <= before;
    eventually("its memory is settled", twice, still).await.1
}

/// Counts what it reads, and says nothing but where it is asked to be warm.
async fn counts(count: Arc<AtomicUsize>) -> RawBackend {
    RawBackend::serving(move |mut wire: Wire| {
        let count = Arc::clone(&count);
        async move {
            let head = wire.head().await.unwrap();
            if head.starts_with("GET /warm") {
                wire.send(ok("warm")).await;
                return;
            }
            while let Ok(read) = wire.some().await {
                count.fetch_add(read.len(), Relaxed);
            }
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endpoint_that_was_never_called_holds_a_kibibyte_or_so() {
    const FEW: usize = 10;
    const MANY: usize = 2_000;
    const ENDPOINTS: usize = 10;
    let of_services = async |count: usize| {
        let folder = TempDir::new().unwrap();
        let (mut file, mut routes) = (String::new(), String::new());
        for service in 0..count {
            let endpoint = |n| format!("\"10.{}.{}.{n}:80\",", service / 250, service % 250);
            let endpoints: String = (1..=ENDPOINTS).map(endpoint).collect();
            file += &format!("[s{service}]\nendpoints = [{endpoints}]\n");
            routes += &format!("[[route]]\npath = \"/s{service}\"\nservice = \"s{service}\"\n");
        }
        std::fs::write(folder.path().join("services.toml"), file).unwrap();
        let [proxy, admin] = free_ports();
        let text = format!(
            "workers = 2\nlog.level = \"error\"\n[[listen]]\naddress = \"127.0.0.1:{proxy}\"\n\
             [admin]\naddress = \"127.0.0.1:{admin}\"\n\
             [registry.file]\npath = \"services.toml\"\n{routes}"
        );
        let callboard = Callboard::run(folder.path(), &text);
        let ready = async || {
            let url = format!("http://127.0.0.1:{admin}/ready");
            let answer = reqwest::get(url).await.ok()?;
            answer
                .status()
                .is_success()
                .then_some(answer)?
                .text()
                .await
                .ok()
        };
        let all_read = |said: &Option<String>| {
            said.as_deref()
                .is_some_and(|said| !said.contains("not read"))
        };
        eventually("all services are read", ready, all_read).await;
        settled(&callboard).await
    };
    let held = of_services(MANY).await - of_services(FEW).await;
    let each = held / ((MANY - FEW) * ENDPOINTS) as u64;
    println!("an endpoint that was never called: {each} bytes");
    let most = 11 * KIB / 10;
    assert!(
        each <= most,
        "an endpoint that was never called: {each} bytes"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_comes_byte_by_byte_costs_what_its_limit_says() {
    const CLIENTS: usize = 20;
    const LENGTH: usize = 3_000;
    let came = Arc::<AtomicUsize>::default();
    let backend = counts(Arc::clone(&came)).await;
    let stage = Stage::before(backend.address()).await;
    let trickle = async || {
        let mut client = stage.client().await;
        client
            .send("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 60000\r\n\r\n")
            .await;
        for _ in 0..LENGTH {
            client.send("x").await;
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        client
    };
    let clients = join_all((0..CLIENTS).map(|_| trickle())).await;
    let all = async || came.load(Relaxed);
    eventually("all of it came", all, |came| *came == CLIENTS * LENGTH).await;
    stage
        .assert_each_holds("a trickled body", CLIENTS, 80 * KIB)
        .await;
    drop(clients);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_holds_nothing_of_the_request_that_it_answers() {
    const CLIENTS: usize = 200;
    let backend = RawBackend::serving(|mut wire: Wire| async move {
        let head = wire.head().await.unwrap();
        if !head.starts_with("GET /warm") {
            wire.bytes(60_000).await;
        }
        wire.send("HTTP/1.1 200 OK\r\n\r\nand so on").await;
        let _ = wire.rest().await;
    });
    let backend = backend.await;
    let stage = Stage::before(backend.address()).await;
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        let mut client = stage.client().await;
        client
            .send("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 60000\r\n\r\n")
            .await;
        client.send(vec![b'x'; 60_000]).await;
        client.head().await.unwrap();
        clients.push(client);
    }
    stage
        .assert_each_holds("an open stream", CLIENTS, 64 * KIB)
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_tunnel_holds_no_buffer_of_what_went_through_it() {
    const CLIENTS: usize = 300;
    let backend = RawBackend::serving(|mut wire: Wire| async move {
        let head = wire.head().await.unwrap();
        if head.starts_with("GET /warm") {
            return wire.send(ok("warm")).await;
        }
        wire.send(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\n\
             Upgrade: websocket\r\n\r\n",
        )
        .await;
        while let Ok(bytes) = wire.some().await {
            if wire.stream.write_all(&bytes).await.is_err() {
                return;
            }
        }
    });
    let backend = backend.await;
    let stage = Stage::before(backend.address()).await;
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        let mut client = stage.client().await;
        client
            .send(
                "GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\n\
                 Upgrade: websocket\r\n\r\n",
            )
            .await;
        client.head().await.unwrap();
        client.send(vec![b'x'; 60_000]).await;
        client.bytes(60_000).await;
        clients.push(client);
    }
    stage
        .assert_each_holds("an idle tunnel", CLIENTS, 16 * KIB)
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_tunnel_of_http_2_holds_what_was_read_last() {
    const CLIENTS: usize = 30;
    const STREAMS: usize = 10;
    let backend = RawBackend::serving(|mut wire: Wire| async move {
        let head = wire.head().await.unwrap();
        if head.starts_with("GET /warm") {
            return wire.send(ok("warm")).await;
        }
        wire.send("HTTP/1.1 101 Over\r\nConnection: upgrade\r\nUpgrade: tcp\r\n\r\n")
            .await;
        while let Ok(bytes) = wire.some().await {
            if wire.stream.write_all(&bytes).await.is_err() {
                return;
            }
        }
    });
    let backend = backend.await;
    let stage = Stage::before(backend.address()).await;
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        let mut client = Frames::connect(stage.address).await;
        let room = 1_000_000_u32.to_be_bytes();
        client.send(frame(WINDOW_UPDATE, 0, 0, &room)).await;
        for stream in (0..STREAMS as u32).map(|place| 1 + 2 * place) {
            let asks = [
                (":method", "CONNECT"),
                (":protocol", "tcp"),
                (":scheme", "http"),
                (":authority", "a"),
                (":path", "/"),
            ];
            client.send(head(stream, 0, &asks)).await;
            for _ in 0..4 {
                let word = frame(DATA, 0, stream, &[b'x'; 15_000]);
                client.send(word).await;
            }
            let mut echoed = 0;
            while echoed < 60_000 {
                let frame = client.next().await.unwrap();
                echoed += match frame.kind {
                    DATA => frame.payload.len(),
                    _ => 0,
                };
            }
        }
        clients.push(client);
    }
    stage
        .assert_each_holds("an idle tunnel of HTTP/2", CLIENTS * STREAMS, 32 * KIB)
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_client_holds_little_even_after_an_upload() {
    const CLIENTS: usize = 300;
    let backend = RawBackend::saying(ok("well"), Then::Keep).await;
    let stage = Stage::before(backend.address()).await;
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        let mut client = stage.client().await;
        client.ask("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let head = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 60000\r\n\r\n";
        client.send(head).await;
        client.ask(vec![b'x'; 60_000]).await;
        clients.push(client);
    }
    stage
        .assert_each_holds("an idle client", CLIENTS, 64 * KIB)
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_head_that_does_not_end_costs_what_its_limit_says() {
    const CLIENTS: usize = 100;
    let backend = counts(Arc::default()).await;
    let stage = Stage::before(backend.address()).await;
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        let mut client = stage.client().await;
        let field = "a".repeat(60_000);
        client
            .send(format!("GET / HTTP/1.1\r\nHost: a\r\nX: {field}"))
            .await;
        clients.push(client);
    }
    stage
        .assert_each_holds("a head in the making", CLIENTS, 128 * KIB)
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answers_head_that_does_not_end_costs_what_its_limit_says() {
    const CLIENTS: usize = 50;
    let backend = RawBackend::serving(|mut wire: Wire| async move {
        let head = wire.head().await.unwrap();
        if head.starts_with("GET /warm") {
            return wire.send(ok("warm")).await;
        }
        let field = "a".repeat(255 * 1024);
        wire.send(format!("HTTP/1.1 200 OK\r\nX: {field}")).await;
        wire.head().await;
    });
    let backend = backend.await;
    let stage = Stage::before(backend.address()).await;
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        let mut client = stage.client().await;
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        clients.push(client);
    }
    let asked = async || backend.connections();
    eventually("all are asked", asked, |count| *count == 1 + CLIENTS).await;
    stage
        .assert_each_holds("an answer's head in the making", CLIENTS, 512 * KIB)
        .await;
}

/// Beside what its requests hold, as many as a connection may have at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_of_http2_whose_answers_are_not_taken_holds_two_pieces_of_each() {
    const CLIENTS: usize = 4;
    const STREAMS: usize = 100;
    let backend = RawBackend::serving(|mut wire: Wire| async move {
        let head = wire.head().await.unwrap();
        if head.starts_with("GET /warm") {
            return wire.send(ok("warm")).await;
        }
        let answer = "HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n";
        wire.send(answer).await;
        // As much as is taken.
        let piece = [b'x'; 64 * 1024];
        while wire.stream.write_all(&piece).await.is_ok() {}
    });
    let backend = backend.await;
    let stage = Stage::before(backend.address()).await;
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        // It takes one byte of each.
        let mut client = Frames::connect_with(stage.address, &[(4, 1)]).await;
        let heads = (0..STREAMS as u32).map(|place| get(1 + 2 * place, "/cart"));
        client.send(heads.collect::<Vec<_>>().concat()).await;
        let mut begun = 0;
        while begun < STREAMS {
            let frame = client.next().await.unwrap();
            begun += usize::from(frame.kind == DATA);
        }
        clients.push(client);
    }
    let requests = STREAMS as u64 * 64 * KIB;
    stage
        .assert_each_holds(
            "a connection of HTTP/2",
            CLIENTS,
            12 * 1024 * KIB + requests,
        )
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_in_small_pieces_that_is_not_taken_costs_some_of_them() {
    const CLIENTS: usize = 10;
    let backend = RawBackend::serving(|mut wire: Wire| async move {
        let head = wire.head().await.unwrap();
        if head.starts_with("GET /warm") {
            return wire.send(ok("warm")).await;
        }
        wire.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            .await;
        // As much as is taken.
        let pieces = "1\r\nx\r\n".repeat(1_000);
        while wire.stream.write_all(pieces.as_bytes()).await.is_ok() {}
    });
    let backend = backend.await;
    let stage = Stage::before(backend.address()).await;
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        let mut client = Wire::connect_narrow(stage.address).await;
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        clients.push(client);
    }
    let asked = async || backend.connections();
    eventually("all are asked", asked, |count| *count == 1 + CLIENTS).await;
    stage
        .assert_each_holds("an answer that is not taken", CLIENTS, 512 * KIB)
        .await;
}

/// Those who come later are let in for the ones that have been silent for longest.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_at_the_admin_server_hold_eight_mebibytes() {
    const STRANGERS: usize = 400;
    let backend = counts(Arc::default()).await;
    let stage = Stage::before(backend.address()).await;
    let half = format!(
        "GET /live HTTP/1.1\r\nHost: a\r\nX-Long: {}",
        "a".repeat(15_000)
    );
    let mut strangers = Vec::new();
    for _ in 0..STRANGERS {
        let mut stranger = Wire::connect(stage.admin).await;
        stranger.send(half.as_str()).await;
        strangers.push(stranger);
    }
    let grown = stage.settled().await.saturating_sub(stage.before);
    println!("strangers at the admin server: {} KiB", grown / KIB);
    assert!(grown <= 8 * KIB * KIB, "{grown} bytes");
}

/// Whatever is watched, one answer at a time is larger than usual.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_registry_whose_answers_are_large_and_stall_holds_one_of_them() {
    const WATCHED: usize = 20;
    const SAID: usize = 60 << 20;
    const MOST: u64 = (128 + 2 * WATCHED as u64) * KIB * KIB;
    let (sent, asked) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (counted, begun) = (Arc::clone(&sent), Arc::clone(&asked));
    let registry = RawBackend::serving(move |mut wire: Wire| {
        let (counted, begun) = (Arc::clone(&counted), Arc::clone(&begun));
        async move {
            wire.head().await.unwrap();
            begun.fetch_add(1, Relaxed);
            let head = format!(
                "HTTP/1.1 200 OK\r\nX-Consul-Index: 7\r\nContent-Length: {}\r\n\r\n[",
                SAID + 2
            );
            wire.send(head).await;
            let piece = vec![b' '; 1 << 16];
            for _ in 0..SAID / piece.len() {
                wire.send(&piece[..]).await;
                counted.fetch_add(piece.len(), Relaxed);
            }
            // It does not come to its end.
            std::future::pending::<()>().await;
        }
    });
    let registry = registry.await;
    let [proxy, admin] = free_ports();
    let routes: String = (0..WATCHED)
        .map(|n| format!("[[route]]\npath = \"/s{n}\"\nservice = \"s{n}\"\n"))
        .collect();
    let text = format!(
        "workers = 1\nsnapshot = false\n[log]\nformat = \"text\"\n[[listen]]\naddress = \"127.0.0.1:{proxy}\"\n\
         [admin]\naddress = \"127.0.0.1:{admin}\"\n\
         [registry.consul]\naddress = \"http://{}\"\n{routes}",
        registry.address()
    );
    let folder = TempDir::new().unwrap();
    let callboard = Callboard::run(folder.path(), &text);
    let count = async || (asked.load(Relaxed), sent.load(Relaxed));
    let is_there = |(asked, sent): &(usize, usize)| *asked >= WATCHED && *sent >= SAID;
    eventually("all have begun, and one is sent", count, is_there).await;
    let resident = settled(&callboard).await;
    println!("a registry of large answers: {} MiB", resident / KIB / KIB);
    // With all that the process has of its own.
    assert!(resident <= MOST + 40 * KIB * KIB, "{resident} bytes");
    assert!(resident > SAID as u64, "{resident} bytes: nothing was held");
}
