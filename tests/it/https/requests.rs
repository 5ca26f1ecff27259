//! Requests over TLS: served, limited, repeated, drained and cut as all others are.

use std::{
    io::{ErrorKind, Write as _},
    process::Command,
    sync::Arc,
    time::Duration,
};

use futures_util::future::join_all;
use http::StatusCode;
use rustls::version::{TLS12, TLS13};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    sync::Semaphore,
};

use super::{SITE, Site, answer, ask};
use crate::support::{backend::Backend, eventually};

const ONE: &str = "certificates = [{ cert = \"site-certificate.pem\", key = \"site-key.pem\" }]";

#[tokio::test]
async fn requests_share_a_connection_and_endpoints_see_that_they_came_by_tls() {
    let site = Site::start("").await;
    let http = site.reqwest();
    for _ in 0..5 {
        let answer = http.get(site.url("/site/")).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
        assert!(answer.headers().get("strict-transport-security").is_none());
        let head = answer.text().await.unwrap();
        assert!(head.contains("x-forwarded-proto: https\n"), "{head}");
    }
    let done = site.handshakes("full").await + site.handshakes("resumed").await;
    assert_eq!(done, 1);
    let plain = site.proxy.get("/site/").await.text().await.unwrap();
    assert!(plain.contains("x-forwarded-proto: http\n"), "{plain}");
}

#[tokio::test]
async fn a_line_of_the_access_log_says_what_the_handshake_has_agreed_upon() {
    let log = "[access_log]\nto = \"file:access.log\"\nfields = [\"path\", \"tls_version\", \"tls_cipher\", \"sni\"]";
    let site = Site::with(&format!("certificates = [{SITE}]"), log, |_| {}).await;
    let by_address = site.url("/site/tls").replace("localhost", "127.0.0.1");
    for url in [site.url("/site/tls"), by_address] {
        assert_eq!(
            site.reqwest().get(url).send().await.unwrap().status(),
            StatusCode::OK
        );
    }
    site.proxy.get("/site/clear").await;
    let written = async || std::fs::read_to_string(site.folder.join("access.log")).unwrap();
    let text = eventually("three lines", written, |text| {
        text.matches("/site/clear").count() == 1 && text.matches("/site/tls").count() == 2
    });
    let text = text.await;
    let of = |path: &str| {
        let lines = text.lines().filter(|line| line.contains(path));
        let lines = lines.map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        lines.collect::<Vec<_>>()
    };
    // Either worker may have written first.
    let mut by_tls = of("/site/tls");
    by_tls.sort_by_key(|line| line.get("sni").is_none());
    let [named, unnamed] = &by_tls[..] else {
        panic!("{text}")
    };
    for line in [named, unnamed] {
        assert_eq!(line["tls_version"], "TLSv1.3");
        let cipher = line["tls_cipher"].as_str().unwrap();
        assert!(
            cipher.starts_with("TLS_") && cipher.contains("_SHA"),
            "{cipher}"
        );
    }
    assert_eq!(
        (&named["sni"], unnamed.get("sni")),
        (&"localhost".into(), None)
    );
    assert_eq!(
        of("/site/clear"),
        [serde_json::json!({"path": "/site/clear"})]
    );
}

#[tokio::test]
async fn bodies_of_any_size_come_through_in_both_directions() {
    let site = Site::start("").await;
    let echo = Backend::named("echo")
        .answering(|request| async move { axum::body::Body::new(request.into_body()) });
    let echo = echo.start().await;
    site.proxy.register("echo", echo.address()).await;
    site.proxy.until_served("/echo/").await;
    let http = site.reqwest();
    for size in [0, 1, 16_383, 16_384, 100_000, 3_000_000] {
        let body: Vec<u8> = (0..size).map(|place| (place % 251) as u8).collect();
        let sent = http.post(site.url("/echo/")).body(body.clone()).send();
        let came = sent.await.unwrap().bytes().await.unwrap();
        assert!(came == body, "{size}");
    }
}

#[tokio::test]
async fn clients_in_the_clear_are_sent_to_https_and_told_to_stay_there() {
    let tls = format!(
        "certificates = [{SITE}], hsts = {{ max_age = \"1h\", include_subdomains = true }}"
    );
    let more = "health_path = \"/up\"\n[[listen]]\naddress = \"127.0.0.1:0\"\n\
        redirect_to_https = 8443\nhealth_path = \"/up\"\ntrusted_proxies = [\"127.0.0.2\"]";
    let site = Site::with(&tls, more, |_| {}).await;
    let clear = site.proxy.address_of(2);
    let ask = site.proxy.http.post(format!("http://{clear}/site/a?b=c"));
    let sent = ask
        .header("host", "shop.example.com:8080")
        .body("hello")
        .send();
    let answer = sent.await.unwrap();
    assert_eq!(answer.status(), StatusCode::PERMANENT_REDIRECT);
    let location = "https://shop.example.com:8443/site/a?b=c";
    assert_eq!(answer.headers()["location"], location);
    assert!(answer.headers().get("strict-transport-security").is_none());
    let up = site.proxy.http.get(format!("http://{clear}/up")).send();
    assert_eq!(up.await.unwrap().status(), StatusCode::OK);
    assert_eq!(site.backend.requests(), 1, "the one of the start");

    let http = site.reqwest();
    for path in ["/site/", "/up", "/none"] {
        let answer = http.get(site.url(path)).send().await.unwrap();
        let hsts = &answer.headers()["strict-transport-security"];
        assert_eq!(hsts, "max-age=3600; includeSubDomains", "{path}");
    }
}

#[tokio::test]
async fn answers_to_what_is_no_request_say_to_stay_at_https_too() {
    let tls = format!("certificates = [{SITE}], hsts = {{ max_age = \"1h\" }}");
    let site = Site::with(&tls, "limits = { header_bytes = 8192 }", |_| {}).await;
    let large = format!(
        "GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n",
        "a".repeat(9000)
    );
    for (request, status) in [("GET / HTTP/1.1\r\nno field\r\n\r\n", 400), (&large, 431)] {
        let mut stream = site.client().connect().await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut said = String::new();
        stream.read_to_string(&mut said).await.unwrap();
        assert!(said.starts_with(&format!("HTTP/1.1 {status}")), "{said}");
        let hsts = "\r\nstrict-transport-security: max-age=3600\r\n";
        assert!(said.contains(hsts), "{said}");
    }
}

#[tokio::test]
async fn a_request_under_way_is_answered_when_the_proxy_ends_and_the_end_is_said() {
    for version in [&TLS12, &TLS13] {
        let tls = format!("certificates = [{SITE}]");
        let patient = "[drain]\nnotice = \"0s\"\ndeadline = \"30s\"";
        let site = Site::with(&tls, patient, |_| {}).await;
        let gate = Arc::new(Semaphore::new(1));
        let held = Arc::clone(&gate);
        let slow = Backend::named("slow").answering(move |_| {
            let held = Arc::clone(&held);
            async move {
                held.acquire().await.unwrap().forget();
                "done"
            }
        });
        let slow = slow.start().await;
        site.proxy.register("slow", slow.address()).await;
        site.proxy.until_served("/slow/").await;
        let client = site.client().speaking(version);
        let mut idle = client.connect().await.unwrap();
        ask(&mut idle, "/site/", "").await.unwrap();
        answer(&mut idle).await;
        let mut busy = client.connect().await.unwrap();
        ask(&mut busy, "/slow/", "").await.unwrap();
        let asked = async || slow.requests();
        eventually("it is at the backend", asked, |count| *count == 2).await;
        let draining = tokio::spawn(site.proxy.drain());
        // A `close_notify` is an end; a connection that is merely closed would be an error.
        assert_eq!(idle.read(&mut [0; 9]).await.unwrap(), 0);
        gate.add_permits(1);
        let mut said = String::new();
        busy.read_to_string(&mut said).await.unwrap();
        assert!(
            said.starts_with("HTTP/1.1 200") && said.ends_with("done"),
            "{said}"
        );
        assert!(said.contains("connection: close"), "{said}");
        drop((idle, busy));
        draining.await.unwrap();
    }
}

/// TLS hands none of it to HTTP before it is whole.
#[tokio::test]
async fn a_request_of_which_half_a_record_has_come_is_answered_when_the_proxy_ends() {
    let patient = "[drain]\nnotice = \"0s\"\ndeadline = \"30s\"";
    let site = Site::with(&format!("certificates = [{SITE}]"), patient, |_| {}).await;
    let client = site.client();
    let connect = async |_| {
        let mut stream = client.connect().await.unwrap();
        ask(&mut stream, "/site/", "").await.unwrap();
        answer(&mut stream).await;
        stream
    };
    let mut half = connect(0).await;
    let (socket, session) = half.get_mut();
    let request = b"GET /site/half HTTP/1.1\r\nHost: localhost\r\n\r\n";
    session.writer().write_all(request).unwrap();
    let mut record = Vec::new();
    while session.wants_write() {
        session.write_tls(&mut record).unwrap();
    }
    let (first, rest) = record.split_at(record.len() / 2);
    socket.write_all(first).await.unwrap();
    let idle = join_all((1..20).map(connect)).await;
    let draining = tokio::spawn(site.proxy.drain());
    for mut stream in idle {
        assert_eq!(stream.read(&mut [0; 9]).await.unwrap(), 0);
    }
    half.get_mut().0.write_all(rest).await.unwrap();
    let mut said = String::new();
    half.read_to_string(&mut said).await.unwrap();
    assert!(said.starts_with("HTTP/1.1 200"), "{said}");
    assert!(said.contains("connection: close"), "{said}");
    drop(half);
    draining.await.unwrap();
}

#[tokio::test]
async fn an_answer_that_is_cut_short_does_not_end_as_a_whole_one() {
    let site = Site::start("").await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    site.proxy
        .register("cut", listener.local_addr().unwrap())
        .await;
    let cutting = tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            assert!(stream.read_buf(&mut Vec::new()).await.unwrap() > 0);
            let half = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 10\r\n\r\nhello";
            stream.write_all(half).await.unwrap();
        }
    });
    let client = site.client();
    let ends = async || client.get("/cut/").await.err().map(|error| error.kind());
    let is_cut = |kind: &Option<ErrorKind>| *kind == Some(ErrorKind::UnexpectedEof);
    eventually("it ends without a word", ends, is_cut).await;
    cutting.abort();
}

#[tokio::test]
async fn connections_are_spread_over_workers_and_each_is_served() {
    let site = Site::start("").await;
    let client = site.client();
    let connect = async |_| {
        let mut stream = client.connect().await.unwrap();
        ask(&mut stream, "/site/", "").await.unwrap();
        assert!(answer(&mut stream).await.starts_with("HTTP/1.1 200"));
        stream
    };
    let mut open = join_all((0..60).map(connect)).await;
    for stream in &mut open {
        ask(stream, "/site/", "").await.unwrap();
        assert!(answer(stream).await.starts_with("HTTP/1.1 200"));
    }
    assert_eq!(site.handshakes("full").await, 60);
}

#[tokio::test]
async fn an_endpoint_that_takes_no_connection_costs_no_request() {
    let site = Site::start("").await;
    let other = Backend::named("other").start().await;
    site.proxy.register("site", other.address()).await;
    site.proxy
        .until_states(
            "site",
            &[
                (site.backend.address(), "serving"),
                (other.address(), "serving"),
            ],
        )
        .await;
    other.kill().await;
    let http = site.reqwest();
    for _ in 0..10 {
        let answer = http
            .post(site.url("/site/"))
            .body("a")
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
    }
}

#[tokio::test]
async fn a_client_that_is_gone_ends_its_request() {
    let site = Site::start("").await;
    let slow = Backend::named("slow").answering(|request| async move {
        if request.uri().path() == "/held" {
            std::future::pending::<()>().await;
        }
        "done"
    });
    let slow = slow.start().await;
    site.proxy.register("slow", slow.address()).await;
    site.proxy.until_served("/slow/").await;
    let mut stream = site.client().connect().await.unwrap();
    ask(&mut stream, "/slow/held", "").await.unwrap();
    let asked = async || slow.requests();
    eventually("it is at the backend", asked, |count| *count == 2).await;
    drop(stream);
    let is_abandoned = |service: &serde_json::Value| service["abandoned"] == 1;
    site.proxy
        .until_service("slow", "it is abandoned", is_abandoned)
        .await;
}

#[tokio::test]
async fn an_address_with_too_many_connections_is_turned_away() {
    let site = Site::with(ONE, "limits = { connections_per_address = 2 }", |_| {}).await;
    let client = site.client();
    let open = [
        client.connect().await.unwrap(),
        client.connect().await.unwrap(),
    ];
    let error = client.connect().await.unwrap_err();
    let kinds = [
        ErrorKind::UnexpectedEof,
        ErrorKind::ConnectionReset,
        ErrorKind::BrokenPipe,
    ];
    assert!(kinds.contains(&error.kind()), "{error}");
    drop(open);
    let again = async || client.get("/site/").await.is_ok();
    eventually("there is room again", again, |served| *served).await;
}

#[tokio::test]
async fn an_idle_connection_is_closed_in_its_time_and_the_end_is_said() {
    let site = Site::with(ONE, "timeout = { idle = \"2s\", header = \"2s\" }", |_| {}).await;
    let mut used = site.client().connect().await.unwrap();
    ask(&mut used, "/site/", "").await.unwrap();
    answer(&mut used).await;
    let mut unused = site.client().connect().await.unwrap();
    for stream in [&mut used, &mut unused] {
        assert_eq!(stream.read(&mut [0; 9]).await.unwrap(), 0);
    }
}

/// Programs that have their TLS from OpenSSL.
#[tokio::test]
async fn curl_and_openssl_are_served() {
    let site = Site::start("").await;
    let ca = site.authority.ca().display().to_string();
    let url = site.url("/site/");
    for version in ["1.2", "1.3"] {
        let mut curl = Command::new("curl");
        curl.args([
            "-sS",
            "--noproxy",
            "*",
            "--cacert",
            &ca,
            "--tls-max",
            version,
        ]);
        curl.args(["--max-time", "20", &url, &url]);
        let Some(said) = run(curl).await else { return };
        assert_eq!(
            said.matches("x-forwarded-proto: https").count(),
            2,
            "{said}"
        );
    }
    let mut openssl = Command::new("openssl");
    let address = site.address().to_string();
    openssl.args([
        "s_client",
        "-connect",
        &address,
        "-servername",
        "localhost",
        "-CAfile",
        &ca,
    ]);
    openssl.args(["-alpn", "http/1.1", "-brief", "-verify_return_error"]);
    if let Some(said) = run(openssl).await {
        assert!(said.contains("Verification: OK"), "{said}");
    }
}

/// What a program says, where the machine has it.
async fn run(mut command: Command) -> Option<String> {
    let ran =
        tokio::task::spawn_blocking(move || command.stdin(std::process::Stdio::null()).output());
    let output = match tokio::time::timeout(Duration::from_secs(30), ran)
        .await
        .unwrap()
        .unwrap()
    {
        Ok(output) => output,
        Err(error) if error.kind() == ErrorKind::NotFound => return None,
        Err(error) => panic!("{error}"),
    };
    let said = [output.stdout, output.stderr].concat();
    Some(String::from_utf8_lossy(&said).into_owned())
}
