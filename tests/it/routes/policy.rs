//! What a route says of retries and time-outs stands before what its service says.

use std::time::{Duration, Instant};

use serde_json::json;
use tokio::net::TcpListener;

use crate::support::{
    backend::Backend,
    proxy::Proxy,
    raw::{RawBackend, Then},
};

#[tokio::test]
async fn each_route_has_its_time_outs_and_the_service_those_of_the_others() {
    let setup = Backend::named("slow").answering(|_| async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        "late"
    });
    let slow = setup.start().await;
    let proxy = Proxy::start(&format!(
        r#"
        [[route]]
        path = "/hasty"
        service = "cart"
        timeout = {{ response = "50ms" }}
        [[route]]
        path = "/cut"
        service = "cart"
        timeout = {{ response = "20s", total = "60ms" }}
        [[route]]
        path = "/patient"
        service = "cart"
        timeout = {{ response = "20s", total = false }}
        [[route]]
        path = "/"
        service = "cart"
        [service.cart]
        endpoints = ["{}"]
        timeout = {{ response = "80ms", total = "20s" }}
        "#,
        slow.address()
    ))
    .await;
    for (path, status) in [
        ("/hasty", 504),
        ("/cut", 504),
        ("/patient", 200),
        ("/", 504),
    ] {
        assert_eq!(proxy.get(path).await.status(), status, "{path}");
    }
    let status = proxy.status().await;
    assert_eq!(
        status["routes"][2]["timeout"],
        json!({ "response": 20.0, "total": null })
    );
    assert_eq!(status["routes"][3].get("timeout"), None);
}

#[tokio::test]
async fn each_route_has_its_number_of_attempts() {
    let good = Backend::start("good").await;
    // Takes connections, and closes each when it was asked something.
    let bad = RawBackend::saying("", Then::Close).await;
    let proxy = Proxy::start(&format!(
        r#"
        [[route]]
        path = "/once"
        service = "cart"
        retry = {{ attempts = 1 }}
        [[route]]
        path = "/"
        service = "cart"
        [service.cart]
        endpoints = ["{}", "{}"]
        "#,
        good.address(),
        bad.address()
    ))
    .await;
    let mut statuses = Vec::new();
    for path in ["/once", "/"] {
        for _ in 0..10 {
            statuses.push((path, proxy.get(path).await.status().as_u16()));
        }
    }
    let failed = statuses.iter().filter(|(_, status)| *status == 502);
    let failed: Vec<_> = failed.map(|(path, _)| *path).collect();
    assert_eq!(
        failed, ["/once"; 5],
        "every other request fails at first: {statuses:?}"
    );
    assert_eq!(proxy.status().await["routes"][0]["attempts"], 1);
}

#[tokio::test]
async fn a_client_of_grpc_waits_no_longer_than_it_says_and_nobody_is_ejected_for_it() {
    let setup = Backend::named("slow").answering(|request| async move {
        let waits = request.headers().get("grpc-timeout").cloned();
        tokio::time::sleep(Duration::from_secs(1)).await;
        waits.map_or("for ever".to_owned(), |waits| {
            waits.to_str().unwrap().to_owned()
        })
    });
    let slow = setup.start().await;
    let other = Backend::start("other").await;
    let proxy = Proxy::start(&format!(
        "[[route]]\nservice = \"cart\"\n[service.cart]\nendpoints = [\"{}\", \"{}\"]\n",
        slow.address(),
        other.address()
    ))
    .await;
    let ask = async |timeout: &str| {
        let request = proxy
            .http
            .get(proxy.url("/"))
            .header("grpc-timeout", timeout);
        let answer = request.send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    };
    let mut late = 0;
    for _ in 0..20 {
        late += usize::from(ask("300m").await.0 == 504);
    }
    assert_eq!(late, 10);
    // Where no time is left to connect, that is nobody's fault either.
    for _ in 0..20 {
        let (status, _) = ask("1n").await;
        assert!([200, 504].contains(&status), "{status}");
    }
    let states = [(slow.address(), "serving"), (other.address(), "serving")];
    proxy.until_states("cart", &states).await;
    let answers = [ask("9S").await, ask("9S").await];
    assert!(answers.contains(&(200, "9S".to_owned())), "{answers:?}");
    assert_eq!(ask("soon").await.0, 200);
    assert_eq!(ask("soon").await.0, 200);
}

#[tokio::test]
async fn nobody_waits_for_a_registry_longer_than_for_all_of_the_answer() {
    // It takes connections, and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = Proxy::start(&format!(
        r#"
        [registry.silent]
        kind = "consul"
        address = "http://{}"
        [defaults]
        discovery_timeout = "15s"
        [[route]]
        path = "/one"
        service = "one"
        timeout = {{ total = "300ms" }}
        [[route]]
        path = "/any/{{service}}"
        service = "{{service}}"
        timeout = {{ total = "300ms" }}
        [[route]]
        path = "/rpc"
        service = "one"
        "#,
        silent.local_addr().unwrap(),
    ))
    .await;
    for (path, field) in [
        ("/one", "x-a"),
        ("/any/one", "x-a"),
        ("/rpc", "grpc-timeout"),
    ] {
        let began = Instant::now();
        let request = proxy.http.get(proxy.url(path)).header(field, "300m");
        assert_eq!(request.send().await.unwrap().status(), 503, "{path}");
        let took = began.elapsed();
        let limits = Duration::from_millis(300)..Duration::from_secs(10);
        assert!(limits.contains(&took), "{path}: {took:?}");
    }
}
