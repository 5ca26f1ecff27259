//! A tunnel counts as a request does until its end: in limits, in balancing, in what ejects, and with what
//! keeps an endpoint.

use std::time::Duration;

use serde_json::json;

use super::*;

#[tokio::test]
async fn a_tunnel_has_its_seat_until_its_end() {
    let echo = echoing().await;
    for limit in ["concurrent = 2", "per_endpoint = 2"] {
        let config = format!("[service.cart]\nlimits = {{ {limit}, pending = 0 }}\n");
        let proxy = before(&[echo.address()], &config).await;
        let until_seated = async |count: u64| {
            let are = |cart: &Value| cart["tunnels"] == count && cart["limits"]["in_use"] == count;
            proxy
                .until_service("cart", &format!("{count} tunnels have seats"), are)
                .await;
        };
        let first = opened(&proxy).await;
        let _second = opened(&proxy).await;
        until_seated(2).await;
        let (_, head) = asked(&proxy, ASKS).await;
        assert!(head.starts_with("HTTP/1.1 503"), "{limit}: {head}");
        drop(first);
        until_seated(1).await;
        let _third = opened(&proxy).await;
        until_open(&proxy, 2).await;
    }
}

#[tokio::test]
async fn a_tunnel_weighs_in_least_request_until_its_end() {
    let backends = [echoing().await, echoing().await, echoing().await];
    let addresses = backends.each_ref().map(RawBackend::address);
    let config = "[service.cart]\nbalance = \"least_request\"\n";
    let proxy = before(&addresses, config).await;
    let mut tunnels = Vec::new();
    for _ in 0..9 {
        tunnels.push(opened(&proxy).await);
    }
    let service = until_open(&proxy, 9).await;
    for endpoint in service["endpoints"].as_array().unwrap() {
        assert_eq!(endpoint["tunnels"], 3, "{service}");
    }
}

#[tokio::test]
async fn a_connection_that_has_gone_over_has_its_place_among_the_listeners() {
    let echo = echoing().await;
    let config = "[[listen]]\naddress = \"127.0.0.1:0\"\n\
        limits = { connections_per_address = 2 }\n";
    let proxy = before(&[echo.address()], config).await;
    let first = opened(&proxy).await;
    let _second = opened(&proxy).await;
    let mut third = Wire::connect(proxy.address()).await;
    let turned_away = third.message().await.unwrap();
    assert_eq!(turned_away.status(), 429);
    drop(first);
    until_open(&proxy, 1).await;
    let closed = async || proxy.status().await["connections"].as_u64().unwrap();
    eventually("its place is free", closed, |open| *open == 1).await;
    opened(&proxy).await;
}

#[tokio::test]
async fn a_tunnel_is_a_success_and_its_end_says_nothing_of_the_endpoint() {
    let breaking = switching(|mut wire| async move {
        wire.send("word").await;
        wire.stream.set_zero_linger().unwrap();
    })
    .await;
    let config = "[service.cart]\neject = { failures = 2 }\n";
    let other = echoing().await;
    let proxy = before(&[breaking.address(), other.address()], config).await;
    for _ in 0..20 {
        let mut client = opened(&proxy).await;
        // A reset may come before either.
        let _ = tokio::io::AsyncWriteExt::write_all(&mut client.stream, b"word").await;
        let _ = client.some().await;
    }
    let service = until_open(&proxy, 0).await;
    for endpoint in service["endpoints"].as_array().unwrap() {
        assert_eq!(
            (&endpoint["failures"], &endpoint["state"]),
            (&0.into(), &"serving".into())
        );
    }
}

#[tokio::test]
async fn an_endpoint_that_goes_over_unasked_again_and_again_is_ejected() {
    use crate::support::raw::Then;
    let wrong = SWITCHES.replace("websocket", "tcp");
    let wrong = RawBackend::saying(wrong, Then::Keep).await;
    let echo = echoing().await;
    let config = "[service.cart]\neject = { failures = 3 }\n";
    let proxy = before(&[wrong.address(), echo.address()], config).await;
    for _ in 0..20 {
        let (_, head) = asked(&proxy, ASKS).await;
        assert!(
            head.starts_with("HTTP/1.1 101") || head.starts_with("HTTP/1.1 502"),
            "{head}"
        );
    }
    let states = [(wrong.address(), "ejected"), (echo.address(), "serving")];
    proxy.until_states("cart", &states).await;
}

#[tokio::test]
async fn a_client_with_a_cookie_has_its_tunnels_at_one_endpoint() {
    let backends = [echoing().await, echoing().await, echoing().await];
    let addresses = backends.each_ref().map(RawBackend::address);
    let proxy = before(&addresses, "[service.cart]\nbalance = \"sticky\"\n").await;
    let (first, head) = asked(&proxy, ASKS).await;
    let head = message(head);
    let cookie = head.field("set-cookie").unwrap().split(';').next().unwrap();
    let again = ASKS.replace("\r\n\r\n", &format!("\r\nCookie: {cookie}\r\n\r\n"));
    let mut tunnels = vec![first];
    for _ in 0..5 {
        let (tunnel, head) = asked(&proxy, &again).await;
        let head = message(head);
        assert_eq!(
            (head.status(), head.field("set-cookie")),
            (101, None),
            "{}",
            head.head
        );
        tunnels.push(tunnel);
    }
    let service = until_open(&proxy, 6).await;
    let endpoints = service["endpoints"].as_array().unwrap().iter();
    let mut open: Vec<_> = endpoints
        .map(|one| one["tunnels"].as_u64().unwrap())
        .collect();
    open.sort_unstable();
    assert_eq!(open, [0, 0, 6]);
}

#[tokio::test]
async fn tunnels_to_one_that_the_guard_or_a_pin_keeps_go_on() {
    for keeper in ["held", "removed"] {
        let echo = echoing().await;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("services.toml");
        let list = |endpoints: &str| {
            std::fs::write(&path, format!("[cart]\nendpoints = [{endpoints}]\n")).unwrap();
        };
        let listed = format!("\"{}\"", echo.address());
        list(&listed);
        let config = "workers = 1\n[[route]]\npath = \"/cart\"\nservice = \"cart\"\n\
            [registry.file]\npath = \"services.toml\"\n\
            [service.cart]\ndrain = \"1s\"\nguard = { settle = \"10m\", hold = \"10m\" }\n";
        let proxy = Proxy::start_in(folder, config).await;
        let serving = [(echo.address(), "serving")];
        proxy.until_states("cart", &serving).await;
        let mut client = opened(&proxy).await;
        if keeper == "removed" {
            let pin = proxy.http.post(proxy.admin("/api/services/cart/pin"));
            assert!(
                pin.json(&json!({}))
                    .send()
                    .await
                    .unwrap()
                    .status()
                    .is_success()
            );
        }
        list("");
        let journal = async || {
            let journal = proxy.page("/api/services/cart/journal").await;
            journal.text().await.unwrap()
        };
        let told = |journal: &String| journal.contains(&format!("\"{keeper}\""));
        eventually("it is dropped, and kept", journal, told).await;
        // Longer than a drain would last.
        tokio::time::sleep(Duration::from_millis(2_500)).await;
        client.send("hello").await;
        assert_eq!(client.bytes(5).await, b"hello", "{keeper}");
        list(&listed);
        proxy.until_states("cart", &serving).await;
        assert_eq!(until_open(&proxy, 1).await["tunnels"], 1, "{keeper}");
    }
}
