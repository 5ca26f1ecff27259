//! The proxy's own checks of its endpoints: who fails them is not called, who passes again is, and
//! nobody who calls the service sees any of it.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{
            AtomicBool, AtomicUsize,
            Ordering::{Relaxed, SeqCst},
        },
    },
    time::Duration,
};

use axum::response::IntoResponse as _;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::support::{
    backend::{Backend, Setup},
    eventually,
    load::{Ledger, Load, process},
    proxy::{Proxy, endpoints},
};

const ROUTE: &str = "[[route]]\npath = \"/cart\"\nservice = \"cart\"\nstrip_prefix = true\n";

fn with(tables: &str) -> String {
    format!("{ROUTE}{tables}\n")
}

/// A backend that says at `/up` how it is, and counts how often it was asked.
#[derive(Clone, Default)]
struct Patient {
    ledger: Ledger,
    ill: Arc<AtomicBool>,
    asked: Arc<AtomicUsize>,
}

impl Patient {
    fn of(ledger: &Ledger) -> Self {
        Self {
            ledger: ledger.clone(),
            ..Self::default()
        }
    }

    fn backend(&self, id: &str) -> Setup {
        let patient = self.clone();
        Backend::named(id).answering(move |request: Request<Incoming>| {
            let patient = patient.clone();
            async move {
                if request.uri().path() != "/up" {
                    let note = |id| patient.ledger.note(id);
                    return process(request, note).await.into_response();
                }
                patient.asked.fetch_add(1, Relaxed);
                match patient.ill.load(SeqCst) {
                    true => StatusCode::SERVICE_UNAVAILABLE.into_response(),
                    false => ([("x-ready", "yes")], "all is well").into_response(),
                }
            }
        })
    }

    fn is_ill(&self, ill: bool) {
        self.ill.store(ill, SeqCst);
    }
}

/// Backends of these, signed in and serving; and that as the proxy says it.
async fn serving(
    proxy: &Proxy,
    patients: &[Patient],
) -> (Vec<Backend>, Vec<(SocketAddr, &'static str)>) {
    let mut backends = Vec::new();
    for (n, patient) in patients.iter().enumerate() {
        let backend = patient.backend(&n.to_string()).start().await;
        proxy.register("cart", backend.address()).await;
        backends.push(backend);
    }
    let all: Vec<_> = backends
        .iter()
        .map(|one| (one.address(), "serving"))
        .collect();
    proxy.until_states("cart", &all).await;
    (backends, all)
}

async fn until_check(proxy: &Proxy, backend: &Backend, what: &str, holds: impl Fn(&Value) -> bool) {
    let address = backend.address().to_string();
    proxy
        .until_service("cart", what, |service| {
            endpoints(service).any(|one| one["address"] == address && holds(one))
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_fails_is_not_called_and_who_passes_again_is() {
    let health = "[service.cart]\nhealth = { path = \"/up\", interval = \"100ms\" }\n";
    let proxy = Proxy::start(&with(health)).await;
    let ledger = Ledger::default();
    let [ill, well] = [Patient::of(&ledger), Patient::of(&ledger)];
    let a = ill.backend("a").start().await;
    let b = well.backend("b").start().await;
    for backend in [&a, &b] {
        proxy.register("cart", backend.address()).await;
        until_check(&proxy, backend, "its checks pass", |one| {
            one["check"] == json!({"passing": true, "error": null})
        })
        .await;
    }
    let load = Load::start(proxy.address(), "/cart", 400).await;
    for _ in 0..3 {
        ill.is_ill(true);
        until_check(&proxy, &a, "its checks fail", |one| {
            one["state"] == "failing"
                && one["registry"] == "passing"
                && one["check"]["passing"] == false
                && one["check"]["error"] == "answered 503 Service Unavailable"
        })
        .await;
        let (before, asked) = (a.requests(), ill.asked.load(Relaxed));
        eventually(
            "three checks",
            async || ill.asked.load(Relaxed),
            |now| *now >= asked + 3,
        )
        .await;
        let of_checks = (ill.asked.load(Relaxed) - asked) as i64;
        let called = (a.requests() - before) as i64 - of_checks;
        // Those that were picked before may have been on their way; its share would be 60.
        assert!(called <= 20, "{called} requests");
        ill.is_ill(false);
        until_check(&proxy, &a, "they pass again", |one| {
            one["state"] == "serving"
        })
        .await;
        let before = a.requests();
        eventually(
            "it is called",
            async || a.requests(),
            |now| *now > before + 50,
        )
        .await;
    }
    let report = load.stop(&ledger).await;
    report.assert_flawless("one of two is ill three times");
    let metrics = proxy.page("/metrics").await.text().await.unwrap();
    for result in ["passed", "failed"] {
        let name =
            format!("callboard_health_checks_total{{service=\"cart\",result=\"{result}\"}} ");
        let line = metrics.lines().find_map(|line| line.strip_prefix(&name));
        let count: u64 = line.unwrap().parse().unwrap();
        assert!(count >= 9, "{result}: {count}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn checks_follow_the_list_and_end_with_their_endpoint() {
    let health = "[service.cart]\nhealth = { path = \"/up\", interval = \"50ms\" }\n\
                  drain = \"5s\"\n";
    let proxy = Proxy::start(&with(health)).await;
    let ledger = Ledger::default();
    let patients: Vec<_> = (0..3).map(|_| Patient::of(&ledger)).collect();
    let (backends, all) = serving(&proxy, &patients).await;
    let load = Load::start(proxy.address(), "/cart", 200).await;
    // It leaves while its checks run, and comes back as another one, whose checks begin anew.
    proxy.deregister("cart", backends[0].address()).await;
    proxy.until_states("cart", &all[1..]).await;
    let ended = patients[0].asked.load(Relaxed);
    let others = || patients[1].asked.load(Relaxed);
    let now = others();
    eventually(
        "the others' go on",
        async || others(),
        |later| *later >= now + 5,
    )
    .await;
    assert!(patients[0].asked.load(Relaxed) <= ended + 1);
    proxy.register("cart", backends[0].address()).await;
    until_check(&proxy, &backends[0], "it is checked again", |one| {
        one["check"]["passing"] == true
    })
    .await;
    let report = load.stop(&ledger).await;
    report.assert_flawless("checks, and an update");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn services_with_the_same_checks_share_them() {
    let config = format!(
        "{ROUTE}[[route]]\npath = \"/same\"\nservice = \"same\"\n\
         [[route]]\npath = \"/other\"\nservice = \"other\"\n\
         [defaults]\nhealth = {{ path = \"/up\", interval = \"100ms\" }}\n\
         [service.same]\nname = \"cart\"\n\
         [service.other]\nname = \"cart\"\nhealth.interval = \"1h\"\n"
    );
    let proxy = Proxy::start(&config).await;
    let patient = Patient::default();
    let backend = patient.backend("a").start().await;
    proxy.register("cart", backend.address()).await;
    for service in ["cart", "same", "other"] {
        proxy
            .until_service(service, "it is checked", |service| {
                endpoints(service).any(|one| one["check"]["passing"] == true)
            })
            .await;
    }
    let checks = async || {
        let asked = patient.asked.load(Relaxed);
        let metrics = proxy.page("/metrics").await.text().await.unwrap();
        let of = |service: &str| -> usize {
            let name = format!(
                "callboard_health_checks_total{{service=\"{service}\",result=\"passed\"}} "
            );
            let line = metrics.lines().find_map(|line| line.strip_prefix(&name));
            line.unwrap().parse().unwrap()
        };
        (["cart", "same", "other"].map(of), asked)
    };
    let are_ten = |([cart, ..], _): &([usize; 3], usize)| *cart >= 10;
    let ([cart, same, other], asked) = eventually("ten checks", checks, are_ten).await;
    assert_eq!(other, 1);
    assert!(cart.abs_diff(same) <= 1, "{cart} {same}");
    // Both were told of the same checks.
    assert!(
        asked <= cart.max(same) + 1 + other,
        "{asked} of {cart}, {same}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_too_few_pass_all_are_called() {
    let health = "[service.cart]\nhealth = { path = \"/up\", interval = \"100ms\", fall = 1 }\n";
    let proxy = Proxy::start(&with(health)).await;
    let ledger = Ledger::default();
    let patients: Vec<_> = (0..4).map(|_| Patient::of(&ledger)).collect();
    let (backends, all) = serving(&proxy, &patients).await;
    let load = Load::start(proxy.address(), "/cart", 400).await;
    let failing = |count: usize| {
        move |service: &Value| {
            endpoints(service)
                .filter(|one| one["state"] == "failing")
                .count()
                == count
        }
    };
    for patient in &patients[..2] {
        patient.is_ill(true);
    }
    let service = proxy
        .until_service("cart", "half are ill", failing(2))
        .await;
    assert_eq!(service["panic"], false, "half is enough");
    patients[2].is_ill(true);
    let service = proxy
        .until_service("cart", "three are ill", failing(3))
        .await;
    assert_eq!(service["panic"], true);
    let metrics = proxy.page("/metrics").await.text().await.unwrap();
    assert!(metrics.contains("callboard_panic{service=\"cart\"} 1"));
    let calls = || backends.iter().map(Backend::requests).collect::<Vec<_>>();
    let before = calls();
    let all_are_called =
        |now: &Vec<usize>| std::iter::zip(now, &before).all(|(now, then)| *now > then + 30);
    eventually("all are called", async || calls(), all_are_called).await;
    for patient in &patients {
        patient.is_ill(false);
    }
    proxy.until_states("cart", &all).await;
    assert_eq!(proxy.service("cart").await["panic"], false);
    let report = load.stop(&ledger).await;
    report.assert_flawless("three of four are ill");
}

#[tokio::test]
async fn what_an_answer_must_have_is_looked_for() {
    for (expects, error) in [
        (
            "header = { x-ready = \"yes\" }, body = \"is well\"",
            Value::Null,
        ),
        (
            "header = { x-ready = \"no\" }",
            json!("the answer has no field `x-ready: no`"),
        ),
        (
            "body = \"is ill\"",
            json!("the answer's body does not hold `is ill`"),
        ),
        ("status = [204]", json!("answered 200 OK")),
    ] {
        let health = format!("[service.cart]\nhealth = {{ path = \"/up\", {expects} }}\n");
        let proxy = Proxy::start(&with(&health)).await;
        let backend = Patient::default().backend("a").start().await;
        proxy.register("cart", backend.address()).await;
        until_check(&proxy, &backend, expects, |one| {
            one["check"]["error"] == error && one["check"]["passing"] == error.is_null()
        })
        .await;
    }
}

#[tokio::test]
async fn a_port_of_its_own_is_asked_and_must_take_connections() {
    let other = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = other.local_addr().unwrap().port();
    let health = format!(
        "[service.cart]\nhealth = {{ kind = \"tcp\", port = {port}, interval = \"50ms\" }}\n"
    );
    let proxy = Proxy::start(&with(&health)).await;
    let backend = Backend::start("a").await;
    proxy.register("cart", backend.address()).await;
    until_check(&proxy, &backend, "it passes", |one| {
        one["check"]["passing"] == true
    })
    .await;
    drop(other);
    until_check(&proxy, &backend, "it fails", |one| {
        let error = one["check"]["error"].as_str().unwrap_or_default();
        one["check"]["passing"] == false && error.starts_with("connect: ")
    })
    .await;
    assert_eq!(backend.requests(), 0);
    // It is the only one, and so it is called all the same.
    assert_eq!(proxy.get("/cart/x").await.status(), 200);
}

/// A server of gRPC's health service that knows `shop.Cart`, which is well or not.
async fn grpc_server(serving: Arc<AtomicBool>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let serving = Arc::clone(&serving);
            let service = service_fn(move |request: Request<Incoming>| {
                let serving = Arc::clone(&serving);
                async move {
                    assert_eq!(request.uri().path(), "/grpc.health.v1.Health/Check");
                    let asked = request.into_body().collect().await.unwrap().to_bytes();
                    let knows = asked.ends_with(b"\x0a\x09shop.Cart");
                    let status = if serving.load(SeqCst) { 1 } else { 2 };
                    let message = Bytes::from(vec![0, 0, 0, 0, 2, 8, status]);
                    let mut trailers = HeaderMap::new();
                    let code = if knows { "0" } else { "5" };
                    trailers.insert("grpc-status", HeaderValue::from_static(code));
                    let data = knows.then(|| Frame::data(message));
                    let frames = data.into_iter().chain([Frame::trailers(trailers)]);
                    let body = futures_util::stream::iter(frames.map(Ok::<_, Infallible>));
                    Ok::<_, Infallible>(Response::new(StreamBody::new(body)))
                }
            });
            let serving = http2::Builder::new(TokioExecutor::new());
            tokio::spawn(serving.serve_connection(TokioIo::new(stream), service));
        }
    });
    address
}

#[tokio::test]
async fn grpcs_health_service_is_asked() {
    let serving = Arc::new(AtomicBool::new(true));
    let port = grpc_server(Arc::clone(&serving)).await.port();
    let start = async |service: &str| {
        let health = format!(
            "[service.cart]\nhealth = {{ kind = \"grpc\", service = \"{service}\", port = {port}, \
             interval = \"50ms\" }}\n"
        );
        let proxy = Proxy::start(&with(&health)).await;
        let backend = Backend::start("a").await;
        proxy.register("cart", backend.address()).await;
        (proxy, backend)
    };
    let (proxy, backend) = start("shop.Cart").await;
    until_check(&proxy, &backend, "it serves", |one| {
        one["check"]["passing"] == true
    })
    .await;
    serving.store(false, SeqCst);
    until_check(&proxy, &backend, "it does not", |one| {
        one["check"]["error"] == "answered status 2, and not SERVING"
    })
    .await;
    let (proxy, backend) = start("shop.Basket").await;
    until_check(&proxy, &backend, "nobody knows it", |one| {
        one["check"]["error"] == "it knows no service of that name"
    })
    .await;
    tokio::time::timeout(Duration::from_secs(5), proxy.drain())
        .await
        .unwrap();
}
