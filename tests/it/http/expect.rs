//! `Expect: 100-continue`: the endpoint decides whether a body is sent, and the client is asked for
//! it only then.

use std::{
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{process::Command, sync::Semaphore};

use super::{IN_TURN, before, before_all};
use crate::support::raw::{RawBackend, Then, Wire, ok};

const CONTINUE: &str = "HTTP/1.1 100 Continue\r\n\r\n";
const TOO_LARGE: &str = "HTTP/1.1 413 Content Too Large\r\nContent-Length: 8\r\n\r\ntoo much";
const BODY: &str = "the body";

fn expecting(method: &str) -> String {
    let length = BODY.len();
    format!(
        "{method} /cart HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: {length}\r\n\r\n"
    )
}

/// Answers a body's head with 100 when it may, and the body with what it was.
async fn asks_for_it(may_ask: Arc<Semaphore>) -> RawBackend {
    RawBackend::serving(move |mut wire: Wire| {
        let may_ask = Arc::clone(&may_ask);
        async move {
            let head = wire.head().await.unwrap();
            assert!(head.contains("expect: 100-continue\r\n"), "{head}");
            let _permit = may_ask.acquire().await.unwrap();
            wire.send(CONTINUE).await;
            let body = wire.bytes(BODY.len()).await;
            wire.send(ok(body)).await;
            wire.head().await;
        }
    })
    .await
}

#[tokio::test]
async fn a_body_is_asked_for_when_the_endpoint_says_that_it_wants_it() {
    let may_ask = Arc::new(Semaphore::new(0));
    let backend = asks_for_it(Arc::clone(&may_ask)).await;
    let proxy = before(backend.address(), "").await;
    let mut client = Wire::connect(proxy.address()).await;
    client.send(expecting("POST")).await;
    assert!(client.is_silent().await, "nobody has asked for the body");
    may_ask.add_permits(1);
    assert_eq!(client.head().await.unwrap(), CONTINUE);
    client.send(BODY).await;
    assert_eq!(client.message().await.unwrap().text(), BODY);
}

#[tokio::test]
async fn an_early_answer_reaches_a_client_that_was_never_asked_for_its_body() {
    let came = Arc::<AtomicUsize>::default();
    let count = Arc::clone(&came);
    let backend = RawBackend::serving(move |mut wire: Wire| {
        let count = Arc::clone(&count);
        async move {
            wire.head().await.unwrap();
            wire.send(TOO_LARGE).await;
            let rest = wire.rest().await.unwrap_or_default();
            count.fetch_add(rest.len(), Relaxed);
        }
    });
    let backend = backend.await;
    let proxy = before(backend.address(), "").await;
    for method in ["POST", "PUT"] {
        let mut client = Wire::connect(proxy.address()).await;
        client.send(expecting(method)).await;
        let answer = client.message().await.unwrap();
        assert_eq!((answer.status(), answer.text()), (413, "too much"));
    }
    assert_eq!(came.load(Relaxed), 0, "no byte of a body");
}

#[tokio::test]
async fn an_endpoint_that_is_silent_for_a_second_gets_the_body_all_the_same() {
    let backend = RawBackend::saying(ok("well"), Then::Keep).await;
    // The second has room in the first, and not in the other.
    for config in ["", "[service.cart]\ntimeout = { response = \"900ms\" }\n"] {
        let proxy = before(backend.address(), config).await;
        let mut client = Wire::connect(proxy.address()).await;
        client.send(expecting("POST")).await;
        assert_eq!(client.head().await.unwrap(), CONTINUE);
        client.send(BODY).await;
        assert_eq!(client.message().await.unwrap().text(), "well");
    }
    assert!(
        backend
            .requests()
            .iter()
            .all(|request| request.text() == BODY)
    );
}

#[tokio::test]
async fn an_attempt_that_ends_before_the_body_was_asked_for_is_repeated_whatever_its_size() {
    const LARGE: usize = 1_000_000;
    let closes = RawBackend::serving(|mut wire: Wire| async move {
        wire.head().await;
    });
    let closes = closes.await;
    let well = RawBackend::serving(|mut wire: Wire| async move {
        while wire.head().await.is_some() {
            wire.send(CONTINUE).await;
            wire.bytes(LARGE).await;
            wire.send(ok("well")).await;
        }
    });
    let well = well.await;
    let proxy = before_all(&[closes.address(), well.address()], IN_TURN).await;
    // One of two in turn begins with the one that closes.
    for _ in 0..2 {
        let mut client = Wire::connect(proxy.address()).await;
        client
            .send(format!(
                "PUT /cart HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: {LARGE}\r\n\r\n"
            ))
            .await;
        assert_eq!(client.head().await.unwrap(), CONTINUE);
        client.send(vec![b'x'; LARGE]).await;
        assert_eq!(client.message().await.unwrap().text(), "well");
    }
    assert_eq!(closes.connections(), 1);
}

#[tokio::test]
async fn it_is_not_passed_on_without_a_body_or_from_a_client_of_http_1_0() {
    let backend = RawBackend::saying(ok("well"), Then::Keep).await;
    let proxy = before(backend.address(), "").await;
    for (version, body) in [("1.1", ""), ("1.0", "body")] {
        let mut client = Wire::connect(proxy.address()).await;
        let request = format!(
            "POST /cart HTTP/{version}\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        assert_eq!(client.ask(request).await.text(), "well");
    }
    let requests = backend.requests();
    assert_eq!(requests.len(), 2);
    for request in requests {
        assert_eq!(request.field("expect"), None, "{}", request.head);
    }
}

/// It sends a large body only when it is told to, or after a while.
#[tokio::test]
async fn curl_reads_a_refusal_each_time_and_sends_nothing_for_it() {
    let found = Command::new("curl")
        .arg("--version")
        .stdout(Stdio::null())
        .status();
    if found.await.is_err() {
        println!("there is no curl");
        return;
    }
    let backend = RawBackend::serving(|mut wire: Wire| async move {
        wire.head().await.unwrap();
        wire.send(TOO_LARGE).await;
        // It closes when all is said, with whatever came unread.
        tokio::time::sleep(Duration::from_millis(20)).await;
    });
    let backend = backend.await;
    let proxy = before(backend.address(), "").await;
    let folder = tempfile::tempdir().unwrap();
    let body = folder.path().join("body");
    std::fs::write(&body, vec![b'x'; 8_000_000]).unwrap();
    for _ in 0..10 {
        let curl = Command::new("curl")
            .args(["-sS", "-o", "-", "-w", " %{http_code} %{size_upload}"])
            .args(["--expect100-timeout", "20"])
            .args(["-H", "Expect: 100-continue", "--data-binary"])
            .arg(format!("@{}", body.display()))
            .arg(proxy.url("/cart"))
            .env_clear()
            .kill_on_drop(true)
            .output();
        let output = curl.await.unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!((said.as_str(), error.as_str()), ("too much 413 0", ""));
    }
}
