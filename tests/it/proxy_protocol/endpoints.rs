//! An endpoint that is told whose connection it has is told the truth of every request on it.

use std::{
    collections::BTreeMap,
    fs,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex},
};

use crate::support::{
    authority::Authority,
    backend::Backend,
    eventually,
    haproxy::HaProxy,
    nginx::Nginx,
    proxy::Proxy,
    raw::{RawBackend, Wire, ok},
    server::free_ports,
};
use crate::unix_sockets::connect as connect_to_path;

/// What a backend has noted: of each connection the header's client, `None` for the proxy's own, and the
/// clients of its requests.
type Notes = Arc<Mutex<Vec<(Option<String>, Vec<String>)>>>;

/// The client of a header, as the wire has it.
async fn header(wire: &mut Wire) -> Option<String> {
    let mut begun = wire.bytes(12).await;
    if begun.starts_with(b"PROXY ") {
        while !begun.ends_with(b"\r\n") {
            begun.extend(wire.bytes(1).await);
        }
        let line = String::from_utf8(begun).unwrap();
        let words: Vec<_> = line.trim_end().split(' ').collect();
        return match words[1] {
            "UNKNOWN" => None,
            "TCP4" => {
                assert_eq!(words.len(), 6, "{line}");
                Some(words[2].to_owned())
            }
            other => panic!("{other}"),
        };
    }
    assert_eq!(begun, b"\r\n\r\n\0\r\nQUIT\n");
    let fixed = wire.bytes(4).await;
    let rest = wire
        .bytes(usize::from(u16::from_be_bytes([fixed[2], fixed[3]])))
        .await;
    match (fixed[0], fixed[1]) {
        (0x20, _) => None,
        (0x21, 0x11) => Some(IpAddr::from([rest[0], rest[1], rest[2], rest[3]]).to_string()),
        other => panic!("{other:?}"),
    }
}

/// A backend that reads headers, and ends each connection after so many requests.
async fn noting(notes: &Notes, requests: usize) -> RawBackend {
    let notes = Arc::clone(notes);
    RawBackend::serving(move |mut wire: Wire| {
        let notes = Arc::clone(&notes);
        async move {
            let client = header(&mut wire).await;
            let place = {
                let mut notes = notes.lock().unwrap();
                notes.push((client, Vec::new()));
                notes.len() - 1
            };
            for _ in 0..requests {
                let Ok(Some(request)) = wire.try_message().await else {
                    return;
                };
                let told = request.field("x-forwarded-for").unwrap_or_default();
                let told = told.split(',').next().unwrap().to_owned();
                notes.lock().unwrap()[place].1.push(told);
                wire.send(ok("well")).await;
            }
        }
    })
    .await
}

/// A proxy that believes us who asks, in front of these endpoints.
async fn proxy(endpoints: &[SocketAddr], service: &str) -> Proxy {
    Proxy::start(&text(endpoints, service)).await
}

/// Its configuration.
fn text(endpoints: &[SocketAddr], service: &str) -> String {
    let endpoints: Vec<_> = endpoints.iter().map(|one| format!("\"{one}\"")).collect();
    format!(
        "workers = 1\n[[listen]]\naddress = \"127.0.0.1:0\"\ntrusted_proxies = [\"127.0.0.1\"]\n\
         [[route]]\npath = \"/cart\"\nservice = \"cart\"\n\
         [service.cart]\nendpoints = [{}]\n{service}\n",
        endpoints.join(", ")
    )
}

async fn ask(proxy: &Proxy, client: &str) -> (u16, String) {
    let request = proxy.http.get(proxy.url("/cart"));
    let answer = request
        .header("x-forwarded-for", client)
        .send()
        .await
        .unwrap();
    (answer.status().as_u16(), answer.text().await.unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_carries_the_requests_of_the_client_that_its_header_names() {
    for version in ["v1", "v2"] {
        let notes = Notes::default();
        let backend = noting(&notes, usize::MAX).await;
        let service = format!("send_proxy = \"{version}\"\npool = {{ idle = \"1m\" }}");
        let proxy = Arc::new(proxy(&[backend.address()], &service).await);
        let clients = ["203.0.113.1", "203.0.113.2", "203.0.113.3"];
        for _ in 0..10 {
            for client in clients {
                assert_eq!(ask(&proxy, client).await.0, 200);
            }
        }
        // One after the other they share one connection each.
        assert_eq!(backend.connections(), 3, "{version}");
        let mut asking = tokio::task::JoinSet::new();
        for number in 0..20 {
            let proxy = Arc::clone(&proxy);
            asking.spawn(async move {
                for _ in 0..20 {
                    let client = format!("203.0.113.{}", number % 5 + 1);
                    assert_eq!(ask(&proxy, &client).await.0, 200);
                }
            });
        }
        while let Some(asked) = asking.join_next().await {
            asked.unwrap();
        }
        let mut asked = BTreeMap::<_, usize>::new();
        for (client, requests) in notes.lock().unwrap().iter() {
            let client = client.clone().unwrap();
            assert!(
                requests.iter().all(|told| *told == client),
                "{client}: {requests:?}"
            );
            *asked.entry(client).or_default() += requests.len();
        }
        assert_eq!(asked.values().sum::<usize>(), 430);
        println!(
            "{version}: 430 requests of 5 clients, {} connections",
            backend.connections()
        );
    }
}

#[tokio::test]
async fn where_connections_of_others_fill_the_pool_the_oldest_gives_way() {
    let notes = Notes::default();
    let backend = noting(&notes, usize::MAX).await;
    let service = "send_proxy = \"v2\"\npool = { connections = 2, idle = \"1m\" }";
    let proxy = proxy(&[backend.address()], service).await;
    for client in 1..=10 {
        for _ in 0..3 {
            let (status, _) = ask(&proxy, &format!("203.0.113.{client}")).await;
            assert_eq!(status, 200);
        }
    }
    assert_eq!(backend.connections(), 10);
    // The last two are there.
    for client in [10, 9] {
        ask(&proxy, &format!("203.0.113.{client}")).await;
    }
    assert_eq!(backend.connections(), 10);
}

#[tokio::test]
async fn connections_of_clients_make_room_once_endpoints_are_told_of_none_and_where_fewer_are_kept()
{
    let backend = RawBackend::serving(|mut wire: Wire| async move {
        let mut first = [0];
        wire.stream.peek(&mut first).await.unwrap();
        if first != *b"G" {
            header(&mut wire).await;
        }
        while let Ok(Some(_)) = wire.try_message().await {
            wire.send(ok("well")).await;
        }
    })
    .await;
    let text = |service: &str| text(&[backend.address()], service);
    let keeps =
        |connections: usize| format!("pool = {{ connections = {connections}, idle = \"1h\" }}");
    let sends = |connections: usize| format!("send_proxy = \"v2\"\n{}", keeps(connections));
    let proxy = Proxy::start(&text(&sends(4))).await;
    let reload = async |service: &str| {
        proxy.write(&text(service));
        let url = proxy.admin("/api/reload");
        let answer = proxy
            .http
            .post(url)
            .json(&serde_json::json!({}))
            .send()
            .await;
        assert_eq!(answer.unwrap().status(), 200);
    };
    let idle = async || {
        let service = proxy.service("cart").await;
        service["endpoints"][0]["idle_connections"]
            .as_u64()
            .unwrap()
    };
    for client in 1..=4 {
        ask(&proxy, &format!("203.0.113.{client}")).await;
    }
    eventually("four are kept", idle, |idle| *idle == 4).await;
    reload(&sends(2)).await;
    // A client that has one brings it back, and those that are too many go.
    ask(&proxy, "203.0.113.4").await;
    eventually("two are kept", idle, |idle| *idle == 2).await;
    reload(&keeps(2)).await;
    let before = backend.connections();
    for _ in 0..5 {
        assert_eq!(ask(&proxy, "203.0.113.1").await.0, 200);
    }
    assert_eq!(backend.connections(), before + 1);
}

/// There are as many connections as there are clients, and the kernel keeps a port for a minute for each
/// that this side closes.
#[tokio::test]
async fn a_clients_connection_that_is_given_up_idle_leaves_no_port_behind() {
    let ends = Arc::new(Mutex::new(Vec::new()));
    let notes = Arc::clone(&ends);
    let backend = RawBackend::serving(move |mut wire: Wire| {
        let notes = Arc::clone(&notes);
        async move {
            header(&mut wire).await;
            wire.message().await.unwrap();
            wire.send(ok("well")).await;
            let end = wire.rest().await;
            notes.lock().unwrap().push(end.is_err());
        }
    })
    .await;
    let service = "send_proxy = \"v1\"\npool = { connections = 1, idle = \"1s\" }";
    let proxy = proxy(&[backend.address()], service).await;
    for client in 1..=5 {
        assert_eq!(ask(&proxy, &format!("203.0.113.{client}")).await.0, 200);
    }
    let ended = async || ends.lock().unwrap().clone();
    // The last one is swept.
    let expected = [true; 5];
    eventually("all are reset", ended, |ended| *ended == expected).await;
}

#[tokio::test]
async fn a_request_that_goes_elsewhere_and_one_whose_connection_has_died_begin_with_a_header() {
    let notes = Notes::default();
    // This one takes a header and ends.
    let (dies, lives) = (noting(&notes, 0).await, noting(&notes, 1).await);
    let proxy = proxy(&[dies.address(), lives.address()], "send_proxy = \"v1\"").await;
    for _ in 0..20 {
        assert_eq!(ask(&proxy, "203.0.113.1").await.0, 200);
    }
    let notes = notes.lock().unwrap();
    let expected = Some("203.0.113.1".to_owned());
    assert!(notes.iter().all(|(client, _)| *client == expected));
    let answered: usize = notes.iter().map(|(_, requests)| requests.len()).sum();
    assert_eq!(answered, 20);
    assert!(dies.connections() > 0);
}

#[tokio::test]
async fn the_proxys_own_checks_name_no_client() {
    for version in ["v1", "v2"] {
        let notes = Notes::default();
        let backend = noting(&notes, 1).await;
        let service = format!(
            "send_proxy = \"{version}\"\n\
             health = {{ kind = \"http\", path = \"/up\", interval = \"50ms\", timeout = \"5s\" }}"
        );
        let proxy = proxy(&[backend.address()], &service).await;
        let checks = async || {
            let notes = notes.lock().unwrap();
            notes
                .iter()
                .filter(|(client, asked)| client.is_none() && asked.len() == 1)
                .count()
        };
        eventually("it is checked", checks, |count| *count >= 2).await;
        assert_eq!(ask(&proxy, "203.0.113.1").await.0, 200);
        let serves = |service: &serde_json::Value| service["endpoints"][0]["state"] == "serving";
        proxy.until_service("cart", "it serves", serves).await;
    }
}

#[tokio::test]
async fn a_check_at_a_port_of_its_own_begins_without_a_header() {
    let notes = Notes::default();
    let backend = noting(&notes, usize::MAX).await;
    let manages = Backend::start("manages").await;
    let service = format!(
        "send_proxy = \"v2\"\n\
         health = {{ kind = \"http\", path = \"/up\", port = {}, interval = \"50ms\", timeout = \"5s\" }}",
        manages.address().port()
    );
    let proxy = proxy(&[backend.address()], &service).await;
    eventually("it is checked", async || manages.requests(), |n| *n >= 2).await;
    let serves = |service: &serde_json::Value| service["endpoints"][0]["state"] == "serving";
    proxy.until_service("cart", "it serves", serves).await;
    assert_eq!(ask(&proxy, "203.0.113.1").await.0, 200);
    let notes = notes.lock().unwrap();
    assert!(
        notes
            .iter()
            .all(|(client, _)| client.as_deref() == Some("203.0.113.1"))
    );
}

#[tokio::test]
async fn a_connection_that_goes_over_begins_with_a_header_too() {
    let backend = RawBackend::serving(|mut wire: Wire| async move {
        let client = header(&mut wire).await.unwrap();
        wire.head().await.unwrap();
        let switches =
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n";
        wire.send([switches, &client, "\n"].concat()).await;
        let said = wire.bytes(4).await;
        wire.send(said).await;
    })
    .await;
    let service = "send_proxy = \"v2\"\nupgrades = [\"tcp\"]";
    let proxy = proxy(&[backend.address()], service).await;
    for client in ["203.0.113.1", "203.0.113.2"] {
        let mut wire = Wire::connect(proxy.address()).await;
        wire.send(format!(
            "GET /cart HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: tcp\r\n\
             X-Forwarded-For: {client}\r\n\r\n"
        ))
        .await;
        let head = wire.head().await.unwrap();
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        wire.send("ping").await;
        let expected = format!("{client}\nping");
        assert_eq!(wire.bytes(expected.len()).await, expected.as_bytes());
    }
    assert_eq!(backend.connections(), 2);
}

/// A client at a unix socket is none of this machine: there may be a proxy that is not trusted.
#[tokio::test]
async fn a_client_without_an_address_is_unknown_to_an_endpoint() {
    let folder = tempfile::tempdir().unwrap();
    for (version, sent) in [
        ("v1", b"PROXY UNKNOWN\r\n".to_vec()),
        ("v2", super::v2(0x21, 0x00, &[])),
    ] {
        let length = sent.len();
        let backend = RawBackend::serving(move |mut wire: Wire| async move {
            let header = wire.bytes(length).await;
            while let Ok(Some(_)) = wire.try_message().await {
                wire.send(ok(&header)).await;
            }
        })
        .await;
        let path = folder.path().join(version);
        let _proxy = Proxy::start(&format!(
            "workers = 1\n[[listen]]\naddress = \"unix:{}\"\n\
             [[route]]\npath = \"/cart\"\nservice = \"cart\"\n\
             [service.cart]\nendpoints = [\"{}\"]\nsend_proxy = \"{version}\"\n",
            path.display(),
            backend.address()
        ))
        .await;
        for _ in 0..3 {
            let answer = connect_to_path(&path).await.ask(super::GET).await;
            assert_eq!(answer.body, sent, "{version}");
        }
        // They are alike, and may share one.
        assert_eq!(backend.connections(), 1);
    }
}

#[tokio::test]
async fn nginx_and_haproxy_are_told_who_the_client_is() {
    let [plain, secured, haproxy] = free_ports();
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new(folder.path());
    authority.issue_for("site", &["127.0.0.1"], |_| {});
    let ca = fs::read_to_string(authority.ca()).unwrap();
    let says = "location / { return 200 \"$proxy_protocol_addr\"; }";
    let servers = format!(
        "server {{ listen 127.0.0.1:{plain} proxy_protocol; {says} }}\n\
         server {{ listen 127.0.0.1:{secured} ssl proxy_protocol; {says}\n\
         ssl_certificate site-certificate.pem; ssl_certificate_key site-key.pem; }}\n"
    );
    let at = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
    let nginx = Nginx::start(folder, &servers, at(secured)).await;
    let sections = format!(
        "listen l\n mode http\n bind 127.0.0.1:{haproxy} accept-proxy\n\
         http-request return status 200 content-type text/plain lf-string \"%[src]\"\n"
    );
    let haproxy_runs = HaProxy::start(tempfile::tempdir().unwrap(), &sections, at(haproxy)).await;
    let trust = tempfile::tempdir().unwrap();
    let ca_file = trust.path().join("ca.pem");
    fs::write(&ca_file, ca).unwrap();
    for version in ["v1", "v2"] {
        let send = format!("send_proxy = \"{version}\"");
        let tls = format!("{send}\ntls = {{ ca = \"{}\" }}", ca_file.display());
        let mut cases = Vec::new();
        if nginx.is_some() {
            cases.push((at(plain).to_string(), &send));
            cases.push((format!("https://{}", at(secured)), &tls));
        }
        if haproxy_runs.is_some() {
            cases.push((at(haproxy).to_string(), &send));
        }
        for (endpoint, service) in cases {
            let proxy = Proxy::start(&format!(
                "[[listen]]\naddress = \"127.0.0.1:0\"\ntrusted_proxies = [\"127.0.0.1\"]\n\
                 [[route]]\npath = \"/cart\"\nservice = \"cart\"\n\
                 [service.cart]\nendpoints = [\"{endpoint}\"]\n{service}\n"
            ))
            .await;
            for client in ["203.0.113.1", "203.0.113.2", "203.0.113.1", "2001:db8::9"] {
                let expected = (200, client.to_owned());
                assert_eq!(ask(&proxy, client).await, expected, "{endpoint} {version}");
            }
        }
    }
}

#[tokio::test]
async fn a_tunnel_to_an_endpoint_begins_with_the_header_of_its_client() {
    let backend = RawBackend::serving(|mut wire: Wire| async move {
        let client = header(&mut wire).await;
        if wire.head().await.is_none() {
            return;
        }
        let switches = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\n\
            Upgrade: websocket\r\n\r\n";
        wire.send(switches).await;
        wire.send(client.unwrap_or_default()).await;
        wire.until_closed().await;
    });
    let backend = backend.await;
    for version in ["v1", "v2"] {
        let proxy = proxy(&[backend.address()], &format!("send_proxy = \"{version}\"")).await;
        let mut client = Wire::connect(proxy.address()).await;
        let asks = "GET /cart HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 203.0.113.7\r\n\
            Connection: upgrade\r\nUpgrade: websocket\r\n\r\n";
        client.send(asks).await;
        let head = client.head().await.unwrap();
        assert!(head.starts_with("HTTP/1.1 101 "), "{version}: {head}");
        assert_eq!(client.bytes(11).await, b"203.0.113.7", "{version}");
    }
}
