//! Programs of the field speak HTTP/2 with a listener that does, and HTTP/1.1 with one that does not, or
//! where they want to.

use std::time::Duration;

use http::Method;
use tokio::task::JoinSet;

use super::{before, client, count, curl, get, text, until_count};
use crate::support::{
    backend::Backend,
    frames::{self, Frames, PREFACE},
    raw::Wire,
};

/// Answers with the length of the body.
async fn counting() -> Backend {
    let backend = Backend::named("counting").answering(|request| async move {
        use http_body_util::BodyExt as _;
        let body = request.into_body().collect().await.unwrap();
        body.to_bytes().len().to_string()
    });
    backend.start().await
}

#[tokio::test]
async fn curl_speaks_it_over_tls_and_in_the_clear_and_what_it_is_allowed_to() {
    let backend = counting().await;
    let proxy = before(backend.address(), "").await;
    let [clear, tls] = [("http", 0), ("https", 1)].map(|(scheme, place)| {
        format!(
            "{scheme}://localhost:{}/cart",
            proxy.address_of(place).port()
        )
    });
    let body = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(body.path(), vec![b'a'; 3_000_000]).unwrap();
    let upload = format!("@{}", body.path().display());
    for (arguments, said) in [
        (vec!["--http2", &tls], "0\n200 2"),
        (vec!["--http1.1", &tls], "0\n200 1.1"),
        (vec!["--http2-prior-knowledge", &clear], "0\n200 2"),
        (vec!["--http1.1", &clear], "0\n200 1.1"),
        // It asks to upgrade, which is not done.
        (vec!["--http2", &clear], "0\n200 1.1"),
        (
            vec!["--http2", "--data-binary", &upload, &tls],
            "3000000\n200 2",
        ),
        (
            vec!["--http2-prior-knowledge", "--data-binary", &upload, &clear],
            "3000000\n200 2",
        ),
        (vec!["--http2", "-I", &tls], "200 2"),
        (
            vec!["--http2", "-H", "Expect: 100-continue", "-d", "abc", &tls],
            "3\n200 2",
        ),
    ] {
        let answer = curl(&arguments).await;
        assert!(answer.ends_with(said), "{arguments:?}: {answer}");
    }
    until_count(&proxy, "callboard_http2_connections", 0).await;
    until_count(&proxy, "callboard_http2_streams", 0).await;
    assert_eq!(count(&proxy, "callboard_http2_requests_total").await, 6);
    assert_eq!(backend.requests_with(&Method::HEAD), 1);
}

#[tokio::test]
async fn a_listener_can_have_it_off() {
    let backend = counting().await;
    let proxy = before(backend.address(), "protocol = \"http1\"").await;
    let tls = format!("https://localhost:{}/cart", proxy.address_of(1).port());
    assert!(curl(&["--http2", &tls]).await.ends_with("200 1.1"));
    let mut wire = Wire::connect(proxy.address()).await;
    wire.send(PREFACE).await;
    wire.until_closed().await;
    assert_eq!(count(&proxy, "callboard_http2_requests_total").await, 0);
}

#[tokio::test]
async fn a_preface_in_pieces_is_known_and_what_only_begins_like_it_is_not() {
    let backend = counting().await;
    let proxy = before(backend.address(), "").await;
    let all = [PREFACE, &frames::settings(&[]), &frames::get(1, "/cart")].concat();
    for step in [1, 2, 3, 23, 24, 25, 30] {
        let mut client = Frames::silent(proxy.address()).await;
        for piece in all.chunks(step) {
            client.send(piece).await;
            tokio::task::yield_now().await;
        }
        assert_eq!(client.answer(1).await, (200, b"0".to_vec()), "{step}");
    }
    for (first, second) in [
        (
            "P",
            "OST /cart HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc",
        ),
        ("PRI * HTTP/", "1.1\r\nHost: a\r\n\r\n"),
        ("PRI * HTTP/2.0\r\n\r\nS", "P\r\n\r\n"),
    ] {
        let mut wire = Wire::connect(proxy.address()).await;
        wire.send(first).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
        let answer = wire.ask(second).await;
        let expected = if first == "P" { 200 } else { 400 };
        assert_eq!(answer.status(), expected, "{first:?}: {}", answer.head);
    }
}

#[tokio::test]
async fn many_requests_go_side_by_side_on_one_connection() {
    let backend = Backend::named("slow").answering(|request| async move {
        tokio::time::sleep(Duration::from_millis(50)).await;
        request.uri().path().to_owned()
    });
    let backend = backend.start().await;
    let proxy = before(backend.address(), "").await;
    let client = client(proxy.address()).await;
    let mut requests = JoinSet::new();
    for number in 0..300 {
        let mut client = client.clone();
        requests.spawn(async move {
            let path = format!("/cart/{number}");
            let answer = client.send_request(get(&path)).await.unwrap();
            assert_eq!(answer.status(), 200);
            assert_eq!(text(answer).await, path);
        });
    }
    while let Some(done) = requests.join_next().await {
        done.unwrap();
    }
    assert_eq!(backend.requests(), 300);
    assert!(backend.connections() <= 101, "{}", backend.connections());
    assert_eq!(count(&proxy, "callboard_http2_connections").await, 1);
    assert_eq!(proxy.status().await["http2"]["streams"], 0);
}
