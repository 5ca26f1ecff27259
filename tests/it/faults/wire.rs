//! Instances that speak badly, slowly or not at all: one of four of them costs what
//! `docs/resilience.md` says, and no more.

use std::{net::SocketAddr, time::Duration};

use http::Method;
use socket2::{Domain, Socket, Type};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{Instant, timeout},
};

use super::{FOUR, SERVICE, Stage, let_pass};
use crate::support::{
    eventually,
    load::Load,
    proxy::{Proxy, endpoints},
    raw::{RawBackend, Then, Wire, ok},
};

const QUICK: &str = "[defaults]\neject = { time = \"1m\" }\n";

impl Stage {
    /// One more signs in, under load; returns when it was ejected.
    async fn until_ejected(&self, bad: SocketAddr) -> Instant {
        self.sign_in(bad).await;
        let bad = bad.to_string();
        self.proxy
            .until_service(SERVICE, "it is ejected", |service| {
                endpoints(service).any(|one| one["address"] == bad && one["state"] == "ejected")
            })
            .await;
        Instant::now()
    }
}

/// Says this to whoever asks, and then nothing more.
async fn says(answer: &'static [u8]) -> RawBackend {
    RawBackend::serving(move |mut wire: Wire| async move {
        let mut asked = [0; 4096];
        while wire
            .stream
            .read(&mut asked)
            .await
            .is_ok_and(|count| count > 0)
        {
            // The proxy may have had enough of it.
            let _ = wire.stream.write_all(answer).await;
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_answers_with_garbage_is_left_alone_after_five() {
    for garbage in [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 and so on\r\n\r\n".as_slice(),
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 999999 What\r\n\r\n",
    ] {
        let stage = Stage::embedded_with(QUICK).await;
        let _backends = stage.open_some(&["a", "b", "c"]).await;
        let load = stage.load().await;
        let bad = says(garbage).await;
        let ejected = stage.until_ejected(bad.address()).await;
        let_pass(300).await;
        let report = stage.ended(load).await;
        report.assert_nothing_twice("garbage");
        let after = report.failed.iter().filter(|one| one.sent > ejected);
        assert_eq!(after.count(), 0, "{report}");
        // An answer had begun: nobody can tell what was done, and nothing is repeated.
        assert!(report.failed.len() >= 5, "{report}");
        let answers = report.failed.iter();
        let mut answers = answers.map(|one| one.failure.clone().unwrap_or_default());
        assert!(answers.all(|answer| answer.starts_with("502")), "{report}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_answers_byte_by_byte_is_waited_for_and_holds_up_nobody_else() {
    let stage = Stage::embedded_with("").await;
    let _backends = stage.open_some(&["a", "b", "c"]).await;
    let slow = RawBackend::serving(|mut wire: Wire| async move {
        while let Some(request) = wire.message().await {
            let path = request.start().split(' ').nth(1).unwrap().to_owned();
            let body = match request.start().starts_with("POST") {
                true => request.body,
                false => path.into_bytes(),
            };
            for byte in ok(body) {
                wire.stream.write_all(&[byte]).await.unwrap();
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    })
    .await;
    stage.sign_in(slow.address()).await;
    let load = Load::start(stage.proxy.address(), "/cart", 100).await;
    let_pass(3_000).await;
    stage.sign_out(slow.address()).await;
    let mut outcomes = load.end().await;
    outcomes.retain(|outcome| outcome.method == Method::GET);
    let failed = outcomes.iter().filter(|one| one.failure.is_some());
    assert_eq!(failed.count(), 0);
    let took = |one: &crate::support::load::Outcome| one.ended - one.sent;
    let late = outcomes
        .iter()
        .filter(|one| took(one) > Duration::from_millis(300));
    let (late, all) = (late.count(), outcomes.len());
    println!("one answers byte by byte: {late} of {all} took longer");
    assert!(late > all / 20 && late < all / 2, "{late} of {all}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_takes_requests_and_says_nothing_costs_those_until_five_were_too_late() {
    let tables = format!("{QUICK}timeout = {{ response = \"500ms\" }}\n");
    let stage = Stage::embedded_with(&tables).await;
    let _backends = stage.open_some(&["a", "b", "c"]).await;
    let load = stage.load().await;
    let silent = RawBackend::serving(|mut wire: Wire| async move {
        let _ = wire.rest().await;
    })
    .await;
    let ejected = stage.until_ejected(silent.address()).await;
    let_pass(1_000).await;
    let report = stage.ended(load).await;
    report.assert_nothing_twice("one says nothing");
    let late = report.failed.iter().filter(|one| one.sent > ejected);
    assert_eq!(late.count(), 0, "{report}");
    assert!(report.failed.len() >= 5, "{report}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_whose_answers_break_off_is_left_alone_after_five() {
    for cut in [
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf of it".as_slice(),
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\nnonsense\r\n",
    ] {
        let stage = Stage::embedded_with(QUICK).await;
        let _backends = stage.open_some(&["a", "b", "c"]).await;
        let load = stage.load().await;
        let bad = RawBackend::saying(cut, Then::Close).await;
        let ejected = stage.until_ejected(bad.address()).await;
        let_pass(500).await;
        let report = stage.ended(load).await;
        println!("its answers break off: {report}");
        let late = report.failed.iter().filter(|one| one.sent > ejected);
        assert_eq!(late.count(), 0, "{report}");
        assert!(report.failed.len() >= 5, "{report}");
        assert!(report.sent > 100, "{report}");
    }
}

/// A proxy that sends the requests for `/NAME` to the service of this name.
async fn routing_to(services: &[&str]) -> Proxy {
    let route = |name: &&str| format!("[[route]]\npath = \"/{name}\"\nservice = \"{name}\"\n");
    let routes: String = services.iter().map(route).collect();
    Proxy::start(&routes).await
}

/// A client that is left without a byte on a kept connection sends its request again, whatever its
/// method: what it asked for would be done twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_came_of_an_answer_that_breaks_off_comes_before_the_cut() {
    const GOOD: &str = "GET /well/x HTTP/1.1\r\nHost: a\r\n\r\n";
    let proxy = routing_to(&["well", "length", "chunked", "busy", "nothing"]).await;
    let well = RawBackend::saying(ok("well"), Then::Keep).await;
    proxy.register("well", well.address()).await;
    proxy.until_served("/well/x").await;
    let (mut sent, mut empty) = (0, 0);
    for (name, status, framing, came) in [
        ("length", "200 OK", "Content-Length: 100", "abc"),
        (
            "chunked",
            "200 OK",
            "Transfer-Encoding: chunked",
            "3\r\nabc\r\n",
        ),
        (
            "busy",
            "503 Service Unavailable",
            "Content-Length: 100",
            "abc",
        ),
        ("nothing", "200 OK", "Content-Length: 100", ""),
    ] {
        let answer = format!("HTTP/1.1 {status}\r\n{framing}\r\n\r\n{came}");
        let breaks = RawBackend::saying(answer, Then::Close).await;
        proxy.register(name, breaks.address()).await;
        proxy
            .until_states(name, &[(breaks.address(), "serving")])
            .await;
        for method in ["GET", "POST"].repeat(15) {
            let mut client = Wire::connect(proxy.address()).await;
            assert_eq!(client.ask(GOOD).await.text(), "well");
            let request =
                format!("{method} /{name}/x HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody");
            client.send(request).await;
            let got = String::from_utf8(client.rest().await.unwrap()).unwrap();
            sent += 1;
            empty += usize::from(got.is_empty());
            let Some((head, body)) = got.split_once("\r\n\r\n") else {
                continue;
            };
            assert!(head.starts_with(&format!("HTTP/1.1 {status}")), "{got}");
            assert_eq!(body, came, "{name}, {method}");
        }
        assert_eq!(breaks.requests().len(), 30, "{name}: none is sent twice");
    }
    println!("answers that break off: {empty} of {sent} came to nothing");
    assert_eq!(empty, 0, "of {sent}");
}

/// The end of it is there before the client has taken the start.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_came_of_an_answer_is_waited_for_by_the_cut_however_slowly_it_is_taken() {
    const LENGTH: usize = 300 * 1024;
    let proxy = routing_to(&["little", "much"]).await;
    for (name, length) in [("little", LENGTH), ("much", 20 * LENGTH)] {
        let mut answer = b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n".to_vec();
        answer.resize(answer.len() + length, b'x');
        let breaks = RawBackend::saying(answer, Then::Close).await;
        proxy.register(name, breaks.address()).await;
        proxy
            .until_states(name, &[(breaks.address(), "serving")])
            .await;
        let mut client = Wire::connect_narrow(proxy.address()).await;
        let request = format!("GET /{name}/x HTTP/1.1\r\nHost: a\r\n\r\n");
        client.send(request).await;
        client.head().await.unwrap();
        let_pass(300).await;
        assert_eq!(client.rest().await.unwrap().len(), length);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_closes_its_side_first_costs_no_get_and_one_that_does_so_after_its_answer_nothing()
{
    let stage = Stage::embedded_with(QUICK).await;
    let _backends = stage.open_some(&["a", "b", "c"]).await;
    let load = stage.load().await;
    // It reads on, and never says anything.
    let mute = RawBackend::serving(|mut wire: Wire| async move {
        wire.stream.shutdown().await.unwrap();
        let _ = wire.rest().await;
    })
    .await;
    let ejected = stage.until_ejected(mute.address()).await;
    let_pass(300).await;
    let mut report = stage.ended(load).await;
    report.assert_nothing_twice("half-closed before the answer");
    let late = |one: &&crate::support::load::Outcome| one.sent > ejected;
    assert_eq!(report.failed.iter().filter(late).count(), 0, "{report}");
    assert!(report.failed.len() <= 20, "{report}");
    report.failed.retain(|one| one.method != Method::POST);
    report.assert_flawless("half-closed before the answer, but for POSTs");

    stage.sign_out(mute.address()).await;
    let load = stage.load().await;
    let brief = RawBackend::serving(|mut wire: Wire| async move {
        if let Some(request) = wire.message().await {
            let path = request.start().split(' ').nth(1).unwrap().to_owned();
            let body = match request.start().starts_with("POST") {
                true => request.body,
                false => path.into_bytes(),
            };
            wire.stream.write_all(&ok(body)).await.unwrap();
            wire.stream.shutdown().await.unwrap();
            let _ = wire.rest().await;
        }
    })
    .await;
    stage.sign_in(brief.address()).await;
    // Each answer has a connection of its own.
    let connections = async || brief.connections();
    eventually("it has its share", connections, |count| *count > 50).await;
    let outcomes = load.end().await;
    let failed: Vec<_> = outcomes
        .iter()
        .filter(|one| one.failure.is_some())
        .collect();
    println!(
        "half-closed after the answer: {} failed of {}",
        failed.len(),
        outcomes.len()
    );
    assert!(failed.is_empty(), "{failed:?}");
}

/// Listens, takes nobody, and has no room for one more.
async fn full() -> (Socket, SocketAddr, Vec<TcpStream>) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket
        .bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into())
        .unwrap();
    socket.listen(1).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    let mut waiting = Vec::new();
    while let Ok(stream) = timeout(Duration::from_millis(200), TcpStream::connect(address)).await {
        waiting.push(stream.unwrap());
    }
    (socket, address, waiting)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_whose_queue_is_full_fails_nobody() {
    let tables = "[defaults]\ntimeout = { connect = \"100ms\" }\n";
    let stage = Stage::embedded_with(tables).await;
    let _backends = stage.open_some(&["a", "b", "c"]).await;
    let load = stage.load().await;
    let (_socket, address, _waiting) = full().await;
    stage.sign_in(address).await;
    let_pass(2_000).await;
    let report = stage.ended(load).await;
    report.assert_flawless("one of four has a full queue");
    stage.until_state(address, "doubted").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_flaps_every_tenth_of_a_second_fails_nobody() {
    let stage = Stage::embedded_with("").await;
    let backends = stage.open_some(&FOUR).await;
    let load = stage.load().await;
    for _ in 0..20 {
        stage.sign_out(backends[3].address()).await;
        let_pass(100).await;
        stage.sign_in(backends[3].address()).await;
        let_pass(100).await;
    }
    let report = stage.ended(load).await;
    report.assert_flawless("one of four flaps every 100 ms");
    stage.until_all(&backends, "serving").await;
}
