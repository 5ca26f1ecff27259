//! What status a call's answer says is counted and logged, wherever it stands.

use std::collections::BTreeMap;

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use http_body::Frame;
use http_body_util::StreamBody;
use tokio::sync::Semaphore;

use super::before;
use crate::support::{
    backend::Backend,
    eventually,
    frames::{END_STREAM, Frames, head, request},
    proxy::Proxy,
};

const STATUS: HeaderName = HeaderName::from_static("grpc-status");

/// Says the status that the path ends with: in trailers, or below `/head` in a head that is all of its answer.
async fn saying() -> Backend {
    let backend = Backend::named("a")
        .http2(1000)
        .answering(|request| async move {
            let path = request.uri().path();
            let status = path.rsplit('/').next().unwrap();
            let status = HeaderValue::from_str(status).unwrap();
            if path.starts_with("/head") {
                let mut answer = Response::new(axum::body::Body::empty());
                answer.headers_mut().insert(STATUS, status);
                return answer;
            }
            let data = Frame::data(Bytes::from_static(b"message"));
            let mut frames = vec![Ok::<_, std::io::Error>(data)];
            if path.starts_with("/trailers") {
                let trailers = HeaderMap::from_iter([(STATUS, status)]);
                frames.push(Ok(Frame::trailers(trailers)));
            }
            Response::new(axum::body::Body::new(StreamBody::new(stream::iter(frames))))
        });
    backend.start().await
}

/// What is counted of a service's calls.
async fn counted(proxy: &Proxy, service: &str) -> BTreeMap<String, u64> {
    let text = proxy.page("/metrics").await.text().await.unwrap();
    let start = format!("callboard_grpc_answers_total{{service=\"{service}\",grpc_status=\"");
    let lines = text.lines().filter_map(|line| line.strip_prefix(&*start));
    let counts = lines.map(|line| {
        let (status, count) = line.split_once("\"} ").unwrap();
        (status.to_owned(), count.parse().unwrap())
    });
    counts.collect()
}

#[tokio::test]
async fn a_status_is_counted_and_logged_in_a_head_in_trailers_and_of_the_proxys_own() {
    let backend = saying().await;
    let log = tempfile::NamedTempFile::new().unwrap();
    let config = format!(
        "[[route]]\npath = \"/none\"\nservice = \"none\"\n[access_log]\nto = \"file:{}\"\n\
         format = \"{{path}} {{status}} {{grpc_status}}\"\n",
        log.path().display()
    );
    let proxy = before(backend.address(), &config).await;
    let mut client = Frames::connect(proxy.address()).await;
    let grpc = [("content-type", "application/grpc"), ("te", "trailers")];
    let expected = [
        ("/trailers/0", "200 ok", &grpc[..]),
        ("/trailers/14", "200 unavailable", &grpc),
        ("/trailers/99", "200 unknown", &grpc),
        ("/head/5", "200 not-found", &grpc),
        // Its client reads what is missing as it wants to.
        ("/neither/0", "200 -", &grpc),
        // It is no call.
        ("/trailers/3", "200 -", &[]),
        ("/none", "503 unavailable", &grpc),
    ];
    for (at, (path, _, fields)) in expected.iter().enumerate() {
        let stream = 2 * u32::try_from(at).unwrap() + 1;
        client
            .send(head(stream, END_STREAM, &request("POST", path, fields)))
            .await;
        assert_eq!(client.answer(stream).await.0, StatusCode::OK, "{path}");
    }
    let calls = [
        ("not-found", 1),
        ("ok", 1),
        ("unavailable", 1),
        ("unknown", 1),
    ];
    let calls = calls.map(|(status, count)| (status.to_owned(), count));
    let of = async |service| counted(&proxy, service).await;
    let are_counted = |counts: &BTreeMap<_, _>| *counts == BTreeMap::from(calls.clone());
    eventually("they are counted", async || of("calls").await, are_counted).await;
    let refused = BTreeMap::from([("unavailable".to_owned(), 1)]);
    let is_counted = |counts: &BTreeMap<_, _>| *counts == refused;
    eventually("it is counted", async || of("none").await, is_counted).await;
    let lines = expected.map(|(path, said, _)| format!("{path} {said}"));
    let read = async || {
        let text = std::fs::read_to_string(log.path()).unwrap();
        text.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let are_logged = |text: &Vec<String>| {
        text.len() == lines.len() && lines.iter().all(|line| text.contains(line))
    };
    eventually("they are logged", read, are_logged).await;
}

#[tokio::test]
async fn a_call_that_its_client_gives_up_has_no_status() {
    static WAITS: Semaphore = Semaphore::const_new(0);
    let backend = Backend::named("a").http2(1000).answering(|_| async {
        WAITS.acquire().await.unwrap().forget();
        "late"
    });
    let backend = backend.start().await;
    let proxy = before(backend.address(), "").await;
    let mut client = Frames::connect(proxy.address()).await;
    let fields = [("content-type", "application/grpc")];
    client
        .send(head(1, END_STREAM, &request("POST", "/a/b", &fields)))
        .await;
    eventually("it runs", async || backend.requests(), |count| *count == 1).await;
    client.send(crate::support::frames::reset(1)).await;
    let is_abandoned = |service: &serde_json::Value| service["abandoned"] == 1;
    proxy
        .until_service("calls", "it is abandoned", is_abandoned)
        .await;
    assert!(counted(&proxy, "calls").await.is_empty());
}
