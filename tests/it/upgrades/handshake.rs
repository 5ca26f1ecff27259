//! What is asked of the endpoint, and which of its answers the connection goes over by.

use super::*;
use crate::support::{
    raw::{Then, ok},
    server::refusing,
};

const EVERY: &str = "[defaults]\nupgrades = [\"websocket\", \"tcp\"]\n";

#[tokio::test]
async fn a_connection_goes_over_where_both_sides_want_it() {
    let (may_go_on, gate) = gate();
    let backend = RawBackend::serving(move |mut wire| {
        let gate = Arc::clone(&gate);
        async move {
            let Some(head) = wire.head().await else {
                return;
            };
            let asked = message(head);
            assert_eq!(asked.field("connection"), Some("upgrade"), "{}", asked.head);
            assert_eq!(asked.field("upgrade"), Some("websocket"), "{}", asked.head);
            assert_eq!(asked.field("sec-websocket-version"), Some("13"));
            assert!(asked.field("sec-websocket-key").is_some());
            assert!(wire.is_silent().await, "no byte comes before the answer");
            // The first bytes of the other protocol come with the answer.
            wire.send([SWITCHES.as_bytes(), b"first"].concat()).await;
            gate.acquire().await.unwrap().forget();
            assert_eq!(wire.bytes(11).await, b"early later");
            wire.send("last").await;
        }
    })
    .await;
    let proxy = before(&[backend.address()], "").await;
    for early_with_the_request in [true, false] {
        let mut client = Wire::connect(proxy.address()).await;
        if early_with_the_request {
            client.send([ASKS, "early"].concat()).await;
        } else {
            client.send(ASKS).await;
            client.send("early").await;
        }
        let got = message(client.head().await.unwrap());
        assert_eq!(got.start(), "HTTP/1.1 101 Switching Protocols");
        assert_eq!(got.field("connection"), Some("upgrade"), "{}", got.head);
        assert_eq!(got.field("upgrade"), Some("websocket"), "{}", got.head);
        let accept = got.field("sec-websocket-accept");
        assert_eq!(accept, Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{}", got.head);
        assert_eq!(got.field("content-length"), None, "{}", got.head);
        assert_eq!(client.bytes(5).await, b"first");
        client.send(" later").await;
        may_go_on.add_permits(1);
        assert_eq!(client.rest().await.unwrap(), b"last");
    }
    let service = until_open(&proxy, 0).await;
    assert_eq!(service["endpoints"][0]["failures"], 0, "{service}");
    assert_eq!(service["endpoints"][0]["answers"]["1xx"], 2, "{service}");
    until_ended(&proxy, "endpoint", 2).await;
    let from =
        |who: &str| format!("callboard_tunnel_bytes_total{{service=\"cart\",from=\"{who}\"}}");
    assert_eq!(metric(&proxy, &from("client")).await, 22);
    assert_eq!(metric(&proxy, &from("endpoint")).await, 18);
}

#[tokio::test]
async fn what_is_not_allowed_or_not_asked_for_in_full_is_a_plain_request() {
    let plain = |fields: &str| format!("GET /cart HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
    let backend = RawBackend::saying(ok("plain"), Then::Keep).await;
    let proxy = before(&[backend.address()], EVERY).await;
    let requests = [
        (plain("Connection: upgrade\r\nUpgrade: h2c\r\n"), None),
        (plain("Connection: upgrade\r\nUpgrade: other\r\n"), None),
        (plain("Upgrade: websocket\r\n"), None),
        (plain("Connection: upgrade\r\n"), None),
        (
            plain("Connection: upgrade\r\nUpgrade: h2c, tcp\r\nUpgrade: WebSocket\r\n"),
            Some("tcp, WebSocket"),
        ),
        (
            plain("Connection: Upgrade\r\nUpgrade: tcp\r\n"),
            Some("tcp"),
        ),
        (
            "POST /cart HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: tcp\r\n\
             Content-Length: 4\r\n\r\nbody"
                .to_owned(),
            None,
        ),
    ];
    for (at, (request, upgrade)) in requests.iter().enumerate() {
        let mut client = Wire::connect(proxy.address()).await;
        let got = client.ask(request).await;
        assert_eq!((got.status(), got.text()), (200, "plain"), "{request}");
        // The connection in front goes on.
        assert_eq!(client.ask(plain("")).await.status(), 200, "{request}");
        let arrived = &backend.requests()[2 * at];
        assert_eq!(arrived.field("upgrade"), *upgrade, "{}", arrived.head);
        let connection = upgrade.map(|_| "upgrade");
        assert_eq!(arrived.field("connection"), connection, "{}", arrived.head);
    }
    let http10 = "GET /cart HTTP/1.0\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: tcp\r\n\r\n";
    let (_, head) = asked(&proxy, http10).await;
    assert!(head.contains(" 200 OK"), "{head}");
    let arrived = backend.requests().pop().unwrap();
    assert_eq!(arrived.field("upgrade"), None, "{}", arrived.head);
}

#[tokio::test]
async fn another_answer_is_passed_on_and_both_connections_go_on() {
    for (answer, status) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nno", 200),
        (
            "HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\n\r\nno",
            401,
        ),
        (
            "HTTP/1.1 426 Upgrade Required\r\nConnection: upgrade\r\nUpgrade: other\r\n\
             Content-Length: 2\r\n\r\nno",
            426,
        ),
    ] {
        let backend = RawBackend::saying(answer, Then::Keep).await;
        let proxy = before(&[backend.address()], "").await;
        let mut client = Wire::connect(proxy.address()).await;
        for _ in 0..3 {
            let got = client.ask(ASKS).await;
            assert_eq!((got.status(), got.text()), (status, "no"));
            assert_eq!(got.field("upgrade"), None, "{}", got.head);
        }
        assert_eq!(backend.connections(), 1, "{answer}");
        assert_eq!(until_open(&proxy, 0).await["endpoints"][0]["failures"], 0);
    }
}

/// A connection that went over on one side alone would have the two read its bytes differently.
#[tokio::test]
async fn a_101_other_than_was_asked_for_is_502_and_the_end_of_its_connection() {
    let switches = |fields: &str| format!("HTTP/1.1 101 Switching Protocols\r\n{fields}\r\n");
    for (request, answer) in [
        ("GET /cart HTTP/1.1\r\nHost: a\r\n\r\n", SWITCHES.to_owned()),
        (ASKS, switches("Connection: upgrade\r\nUpgrade: tcp\r\n")),
        (
            ASKS,
            switches("Connection: upgrade\r\nUpgrade: websocket, tcp\r\n"),
        ),
        (ASKS, switches("Connection: upgrade\r\n")),
        (ASKS, switches("Upgrade: websocket\r\n")),
        (
            ASKS,
            switches("Connection: upgrade\r\nUpgrade: websocket\r\nContent-Length: 3\r\n"),
        ),
        (ASKS, SWITCHES.replace("HTTP/1.1", "HTTP/1.0")),
    ] {
        let backend = RawBackend::saying(&*answer, Then::Keep).await;
        let proxy = before(&[backend.address()], EVERY).await;
        let mut client = Wire::connect(proxy.address()).await;
        for _ in 0..2 {
            let got = client.ask(request).await;
            assert_eq!(got.status(), 502, "{answer}");
            let says = "service `cart` gave an answer that is not sound HTTP";
            assert!(got.text().contains(says), "{answer}: {}", got.text());
        }
        // Each connection is out of step, and the request is not made again.
        assert_eq!(
            (backend.requests().len(), backend.connections()),
            (2, 2),
            "{answer}"
        );
        let service = until_open(&proxy, 0).await;
        assert_eq!(service["endpoints"][0]["idle_connections"], 0, "{service}");
    }
}

#[tokio::test]
async fn a_route_says_what_its_connections_may_go_over_to_before_its_service_does() {
    let config = "upgrades = []\n[[route]]\npath = \"/cart/chat\"\nservice = \"cart\"\n\
        [service.cart]\nupgrades = \"websocket\"\n";
    let backend = RawBackend::saying(ok("plain"), Then::Keep).await;
    let proxy = before(&[backend.address()], config).await;
    for (path, upgrade) in [("/cart", None), ("/cart/chat", Some("websocket"))] {
        let mut client = Wire::connect(proxy.address()).await;
        client.ask(ASKS.replace("/cart", path)).await;
        let arrived = backend.requests().pop().unwrap();
        assert_eq!(arrived.field("upgrade"), upgrade, "{}", arrived.head);
    }
}

#[tokio::test]
async fn an_attempt_is_made_again_up_to_the_101_and_the_tunnel_is_counted_where_it_is() {
    let gone = refusing();
    let mute = RawBackend::saying("", Then::Close).await;
    let echo = echoing().await;
    let proxy = before(&[gone, mute.address(), echo.address()], "").await;
    let mut clients = Vec::new();
    for _ in 0..6 {
        let mut client = opened(&proxy).await;
        client.send("hello").await;
        assert_eq!(client.bytes(5).await, b"hello");
        clients.push(client);
    }
    let service = until_open(&proxy, 6).await;
    let endpoints = service["endpoints"].as_array().unwrap();
    let of = |address: SocketAddr| {
        let mut all = endpoints.iter();
        let found = all.find(|endpoint| endpoint["address"] == address.to_string());
        let found = found.unwrap();
        (
            found["tunnels"].as_u64().unwrap(),
            found["in_flight"].as_u64().unwrap(),
        )
    };
    assert_eq!(
        [of(gone), of(mute.address()), of(echo.address())],
        [(0, 0), (0, 0), (6, 6)]
    );
    assert!(service["retries"].as_u64().unwrap() >= 2, "{service}");
    drop(clients);
    until_open(&proxy, 0).await;
}

#[tokio::test]
async fn a_tunnel_that_breaks_is_not_opened_again() {
    let backend = switching(|wire| async move { wire.stream.set_zero_linger().unwrap() }).await;
    let other = switching(|wire| async move { wire.stream.set_zero_linger().unwrap() }).await;
    let proxy = before(&[backend.address(), other.address()], "").await;
    let mut client = opened(&proxy).await;
    client.until_closed().await;
    until_open(&proxy, 0).await;
    assert_eq!(backend.connections() + other.connections(), 1);
}

#[tokio::test]
async fn a_fallback_goes_over_to_what_it_allows_itself() {
    let echo = echoing().await;
    for (upgrades, start) in [("\"websocket\"", "HTTP/1.1 101"), ("[]", "HTTP/1.1 502")] {
        let config = format!(
            "fallback = \"spare\"\n[service.cart]\n[service.spare]\nupgrades = {upgrades}\n"
        );
        let proxy = before(&[], &config).await;
        proxy.register("spare", echo.address()).await;
        let known = |service: &Value| {
            service["endpoints"]
                .as_array()
                .is_some_and(|all| all.len() == 1)
        };
        proxy.until_service("spare", "it is known", known).await;
        // One that was not asked goes over all the same.
        let (_client, head) = asked(&proxy, ASKS).await;
        assert!(head.starts_with(start), "{head}");
        let tunnels = async |service: &str| proxy.service(service).await["tunnels"].clone();
        assert_eq!(tunnels("cart").await, 0);
        let open = u64::from(start.ends_with("101"));
        assert_eq!(tunnels("spare").await, open);
    }
}
