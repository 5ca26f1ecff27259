//! A client whose connection a proxy passes on by the PROXY protocol is the client of that connection in
//! all that counts; only proxies that are trusted may say so, and none may say it at leisure.

mod clients;
mod endpoints;
mod faults;

use std::net::SocketAddr;

use http_body_util::BodyExt as _;

use crate::support::{backend::Backend, proxy::Proxy, raw::Wire};

/// Before a request of version 1.
const V1: &[u8] = b"PROXY TCP4 203.0.113.9 10.0.0.1 4000 80\r\n";

const GET: &str = "GET /cart HTTP/1.1\r\nHost: a\r\n\r\n";

/// A header of version 2, of a connection that is passed on (0x21), by TCP over IPv4 (0x11) or another
/// family.
fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
    [
        b"\r\n\r\n\0\r\nQUIT\n",
        &[command, family][..],
        &length,
        rest,
    ]
    .concat()
}

/// Its addresses: this client's, and some of ours.
fn tcp4(client: [u8; 4]) -> Vec<u8> {
    [&client[..], &[10, 0, 0, 1, 0x0f, 0xa0, 0, 80]].concat()
}

/// A proxy whose connections begin with a header, in front of a backend that answers with the head of
/// the request.
struct Site {
    proxy: Proxy,
    backend: Backend,
}

impl Site {
    /// With these lines of the listener, and these of the route.
    async fn start(listener: &str, route: &str) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), listener, route).await
    }

    async fn start_in(folder: tempfile::TempDir, listener: &str, route: &str) -> Self {
        let backend = echoing().await;
        let proxy = Proxy::start_in(
            folder,
            &format!(
                "[[listen]]\naddress = \"127.0.0.1:0\"\nproxy_protocol = true\n{listener}\n\
                 [[route]]\npath = \"/cart\"\nservice = \"cart\"\n{route}\n\
                 [service.cart]\nendpoints = [\"{}\"]\n",
                backend.address()
            ),
        )
        .await;
        Self { proxy, backend }
    }

    /// One that trusts this machine.
    async fn trusting(listener: &str, route: &str) -> Self {
        let trusted = "trusted_proxies = [\"127.0.0.1\", \"192.0.2.0/24\"]";
        Self::start(&format!("{trusted}\n{listener}"), route).await
    }

    fn address(&self) -> SocketAddr {
        self.proxy.address()
    }

    async fn connect(&self) -> Wire {
        Wire::connect(self.address()).await
    }

    /// A connection that began with this.
    async fn passing_on(&self, header: impl AsRef<[u8]>) -> Wire {
        let mut wire = self.connect().await;
        wire.send(header).await;
        wire
    }

    /// How many headers came to this.
    async fn count(&self, result: &str) -> u64 {
        let metrics = self.proxy.page("/metrics").await.text().await.unwrap();
        let name = format!("callboard_proxy_headers_total{{result=\"{result}\"}} ");
        let line = metrics.lines().find_map(|line| line.strip_prefix(&name));
        line.unwrap_or_else(|| panic!("{name}: {metrics}"))
            .parse()
            .unwrap()
    }
}

async fn echoing() -> Backend {
    let backend = Backend::named("echo").answering(|request| async move {
        let fields = request.headers().iter().map(|(name, value)| {
            format!("{name}: {}\n", String::from_utf8_lossy(value.as_bytes()))
        });
        let fields = fields.collect::<String>();
        // An answer before the body's end would end the connection.
        let _ = request.into_body().collect().await;
        fields
    });
    backend.start().await
}

/// What the endpoint was told of the client's address.
fn forwarded(said: &str) -> Option<&str> {
    said.lines()
        .find_map(|line| line.strip_prefix("x-forwarded-for: "))
}

#[tokio::test]
async fn the_client_of_the_header_is_the_one_that_endpoints_are_told_of() {
    let site = Site::trusting("", "").await;
    let mut tcp6 = [0; 36];
    tcp6[..4].copy_from_slice(&[0x20, 0x01, 0x0d, 0xb8]);
    tcp6[15] = 9;
    let fields = b"\x02\0\x04shop\xe0\0\x01x".to_vec();
    for (header, client) in [
        (V1.to_vec(), "203.0.113.9"),
        (
            b"PROXY TCP6 2001:db8::9 ::1 4000 80\r\n".to_vec(),
            "2001:db8::9",
        ),
        (
            b"PROXY TCP6 ::ffff:203.0.113.9 ::1 4000 80\r\n".to_vec(),
            "203.0.113.9",
        ),
        (v2(0x21, 0x11, &tcp4([203, 0, 113, 7])), "203.0.113.7"),
        (
            v2(0x21, 0x11, &[tcp4([203, 0, 113, 7]), fields].concat()),
            "203.0.113.7",
        ),
        (v2(0x21, 0x21, &tcp6), "2001:db8::9"),
        (v2(0x21, 0x12, &tcp4([203, 0, 113, 7])), "203.0.113.7"),
        (v2(0x21, 0x22, &tcp6), "2001:db8::9"),
        // These are the proxy's own connections, or those of clients that it does not name.
        (b"PROXY UNKNOWN\r\n".to_vec(), "127.0.0.1"),
        (v2(0x20, 0, &[]), "127.0.0.1"),
        (v2(0x21, 0x31, &[b'/'; 216]), "127.0.0.1"),
        (v2(0x21, 0x00, &[]), "127.0.0.1"),
    ] {
        // Together with the request, before it, and byte by byte.
        let whole = [&header[..], GET.as_bytes()].concat();
        let pieces: [Vec<&[u8]>; 3] = [
            vec![&whole],
            vec![&header, GET.as_bytes()],
            whole.chunks(1).collect(),
        ];
        for pieces in pieces {
            let mut wire = site.connect().await;
            for piece in pieces {
                wire.send(piece).await;
                tokio::task::yield_now().await;
            }
            let answer = wire.message().await.unwrap();
            assert_eq!(answer.status(), 200, "{header:?}");
            assert_eq!(forwarded(answer.text()), Some(client), "{header:?}");
            // A second header would be none: the connection has one client.
            let answer = wire.ask(GET).await;
            assert_eq!(forwarded(answer.text()), Some(client), "{header:?}");
        }
    }
    assert_eq!(site.count("proxied").await, 24);
    assert_eq!(site.count("local").await, 12);
    let answer = site.passing_on(V1).await.ask(V1).await;
    assert_eq!(answer.status(), 400);
}

#[tokio::test]
async fn nothing_behind_a_header_is_lost() {
    let site = Site::trusting("", "").await;
    let body = "x".repeat(300_000);
    let post = format!(
        "POST /cart HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let more = [V1, post.as_bytes(), GET.as_bytes(), GET.as_bytes()].concat();
    let mut wire = site.passing_on(more).await;
    for _ in 0..3 {
        let answer = wire.message().await.unwrap();
        assert_eq!(answer.status(), 200);
        assert_eq!(forwarded(answer.text()), Some("203.0.113.9"));
    }
    // A header as long as it may be, and a request right behind it.
    let field = [&[0xe0, 0x0f, 0xe1][..], &[0; 4065]].concat();
    let header = v2(0x21, 0x11, &[tcp4([203, 0, 113, 7]), field].concat());
    assert_eq!(header.len(), 4096);
    let mut wire = site
        .passing_on([&header[..], GET.as_bytes()].concat())
        .await;
    let answer = wire.message().await.unwrap();
    assert_eq!(forwarded(answer.text()), Some("203.0.113.7"));
}

/// A proxy behind another one, which is trusted too: its word of who asked is believed.
#[tokio::test]
async fn forwarded_fields_are_believed_of_a_client_that_is_trusted_and_of_no_other() {
    let site = Site::trusting("", "").await;
    let get = "GET /cart HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 198.51.100.1\r\n\r\n";
    for (client, told) in [
        ([192, 0, 2, 5], "198.51.100.1, 192.0.2.5"),
        ([203, 0, 113, 5], "203.0.113.5"),
    ] {
        let mut wire = site.passing_on(v2(0x21, 0x11, &tcp4(client))).await;
        let answer = wire.ask(get).await;
        assert_eq!(forwarded(answer.text()), Some(told));
    }
}

/// Any client may be behind such a header: what is believed of the proxy is not believed of that one.
#[tokio::test]
async fn a_client_that_its_header_does_not_name_is_not_the_proxy_itself() {
    let listener = "limits = { connections_per_address = 1 }";
    let rate = "rate = { requests = 1, per = \"1h\" }";
    let get = |client: &str| {
        format!(
            "GET /cart HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: {client}\r\n\
             X-Forwarded-Proto: https\r\n\r\n"
        )
    };
    for header in [
        b"PROXY UNKNOWN\r\n".to_vec(),
        b"PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n".to_vec(),
        v2(0x21, 0x00, &[]),
        v2(0x21, 0x02, &tcp4([203, 0, 113, 7])),
        v2(0x21, 0x31, &[b'/'; 216]),
        v2(0x21, 0x32, &[b'/'; 216]),
    ] {
        let site = Site::trusting(listener, rate).await;
        let mut first = site.passing_on(&header).await;
        let answer = first.ask(get("198.51.100.1")).await;
        assert_eq!(forwarded(answer.text()), Some("127.0.0.1"), "{header:?}");
        assert!(answer.text().contains("x-forwarded-proto: http\n"));
        // It is not as many clients as it says.
        let answer = first.ask(get("198.51.100.2")).await;
        assert_eq!(answer.status(), 429, "{header:?}");
        // Nor has it as many connections as it likes.
        let mut second = site.passing_on(&header).await;
        let turned_away = second.message().await.unwrap();
        assert!(turned_away.text().contains("too many connections"));
        // The proxy's own checks have no place among them.
        let mut check = site.passing_on(v2(0x20, 0, &[])).await;
        let answer = check.ask(get("198.51.100.3")).await;
        // But HAProxy says the same of its clients at a unix socket.
        assert_eq!(answer.status(), 429, "{header:?}");
    }
    let site = Site::trusting("redirect_to_https = true", "").await;
    let mut unnamed = site.passing_on("PROXY UNKNOWN\r\n").await;
    assert_eq!(unnamed.ask(get("198.51.100.1")).await.status(), 308);
}

#[tokio::test]
async fn a_client_counts_in_rates_and_among_the_connections_of_its_address() {
    let listener = "limits = { connections_per_address = 1 }";
    let site = Site::trusting(listener, "rate = { requests = 1, per = \"1h\" }").await;
    let header = |last: u8| v2(0x21, 0x11, &tcp4([203, 0, 113, last]));
    let mut first = site.passing_on(header(1)).await;
    assert_eq!(first.ask(GET).await.status(), 200);
    assert_eq!(first.ask(GET).await.status(), 429);
    let mut second = site.passing_on(header(1)).await;
    let turned_away = second.message().await.unwrap();
    assert_eq!(turned_away.status(), 429);
    assert!(turned_away.text().contains("too many connections"));
    let mut other = site.passing_on(header(2)).await;
    assert_eq!(other.ask(GET).await.status(), 200);
    // A trusted one has many clients, and none is counted by its address.
    let trusted = || site.passing_on(v2(0x21, 0x11, &tcp4([192, 0, 2, 5])));
    let (mut one, mut another) = (trusted().await, trusted().await);
    assert_eq!(one.ask(GET).await.status(), 200);
    // It asks too often, and is let in.
    let answer = another.ask(GET).await;
    assert_eq!(answer.status(), 429);
    assert!(!answer.text().contains("too many connections"));
    // The place is free again when its connection has ended.
    drop(first);
    crate::support::eventually(
        "there is a place again",
        async || site.passing_on(header(1)).await.ask(GET).await,
        |answer| !answer.text().contains("connections"),
    )
    .await;
    let metrics = site.proxy.page("/metrics").await.text().await.unwrap();
    let name = "callboard_connections_refused_total ";
    let refused = metrics.lines().find_map(|line| line.strip_prefix(name));
    assert!(refused.unwrap().parse::<u64>().unwrap() >= 1, "{metrics}");
}

#[tokio::test]
async fn a_client_whose_tls_the_proxy_has_ended_is_sent_to_no_https() {
    let site = Site::trusting("redirect_to_https = true", "").await;
    let tls = |flags: u8| {
        let field = [0x20, 0, 5, flags, 0, 0, 0, 0];
        v2(
            0x21,
            0x11,
            &[tcp4([203, 0, 113, 7]), field.to_vec()].concat(),
        )
    };
    let answer = site.passing_on(tls(1)).await.ask(GET).await;
    assert_eq!(answer.status(), 200);
    assert!(answer.text().contains("x-forwarded-proto: https\n"));
    let answer = site.passing_on(tls(0)).await.ask(GET).await;
    assert_eq!(answer.status(), 308);
    // The same of a client at a unix socket.
    let field = [0x20, 0, 5, 1, 0, 0, 0, 0];
    let header = v2(0x21, 0x31, &[&[b'/'; 216][..], &field].concat());
    let answer = site.passing_on(header).await.ask(GET).await;
    assert_eq!(answer.status(), 200);
}
