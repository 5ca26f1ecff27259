//! The access log: which requests are a line, what stands in it, and that it comes where it is wanted.

use std::{net::SocketAddr, path::Path};

use nix::sys::signal::Signal;
use serde_json::Value;
use tempfile::TempDir;
use tokio::net::UdpSocket;
use tokio_util::sync::CancellationToken;

use crate::support::{
    callboard::Callboard,
    eventually,
    proxy::Proxy,
    raw::{RawBackend, Then, Wire, ok},
};

const GET: &str = "GET /cart?a=b HTTP/1.1\r\nHost: shop\r\nUser-Agent: x\r\n\r\n";

/// A proxy with these tables more that sends everything below `/cart` to a backend, and where it
/// listens and is watched.
struct Started {
    callboard: Callboard,
    address: SocketAddr,
    admin: SocketAddr,
}

async fn start(folder: &Path, tables: &str, backend: SocketAddr) -> Started {
    let text = format!(
        "{tables}\n[drain]\nnotice = \"0s\"\n\
         [[listen]]\naddress = \"127.0.0.1:0\"\n[admin]\naddress = \"127.0.0.1:0\"\n\
         [registry.embedded]\naddress = \"127.0.0.1:0\"\n\
         [service.cart]\nendpoints = [\"{backend}\"]\n\
         [[route]]\npath = \"/cart\"\nservice = \"cart\"\n\
         [[route]]\npath = \"/quiet\"\nservice = \"cart\"\naccess_log = false\n"
    );
    let mut callboard = Callboard::run(folder, &text);
    let mut after = async |said: &str| -> SocketAddr {
        let line = callboard.until_logged(said).await;
        let address = line.split(said).nth(1).unwrap();
        address.split('"').next().unwrap().parse().unwrap()
    };
    let address = after("listening on ").await;
    let admin = after("the admin server is at http://").await;
    Started {
        callboard,
        address,
        admin,
    }
}

impl Started {
    async fn ask(&self, request: &str) {
        Wire::connect(self.address).await.ask(request).await;
    }

    /// All that is written to standard output from now on until it has drained.
    async fn ended(self) -> Vec<String> {
        self.callboard.signal(Signal::SIGTERM);
        let (status, lines) = self.callboard.ended().await;
        assert_eq!(status, Some(0));
        lines
    }

    /// The lines of the access log among those.
    async fn logged(self) -> Vec<Value> {
        let lines = self.ended().await;
        let lines = lines.iter().map(|line| json(line));
        lines.filter(|line| line["level"].is_null()).collect()
    }
}

fn json(line: &str) -> Value {
    serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))
}

async fn answering() -> RawBackend {
    RawBackend::saying(ok("well"), Then::Keep).await
}

#[tokio::test]
async fn each_request_is_one_line_where_there_is_one_and_none_elsewhere() {
    let backend = answering().await;
    let without = "[access_log]\nquery = false";
    for (tables, count) in [("[access_log]", 3), (without, 3), ("", 0)] {
        let folder = TempDir::new().unwrap();
        let proxy = start(folder.path(), tables, backend.address()).await;
        let mut client = Wire::connect(proxy.address).await;
        for _ in 0..2 {
            assert_eq!(client.ask(GET).await.text(), "well");
        }
        let refused = "TRACE /cart HTTP/1.1\r\nHost: shop\r\n\r\n";
        let refused = client.ask(refused).await;
        assert_eq!(refused.status(), 405);
        drop(client);
        let lines = proxy.logged().await;
        assert_eq!(lines.len(), count, "{tables}: {lines:?}");
        let Some(line) = lines.first() else { continue };
        let path = if tables == without {
            "/cart"
        } else {
            "/cart?a=b"
        };
        for (key, value) in [
            ("client", "127.0.0.1".into()),
            ("scheme", "http".into()),
            ("method", "GET".into()),
            ("host", "shop".into()),
            ("path", path.into()),
            ("status", 200.into()),
            ("bytes", 4.into()),
            ("protocol", "HTTP/1.1".into()),
            ("whole", true.into()),
            ("route", "/cart".into()),
            ("service", "cart".into()),
            ("endpoint", Value::from(backend.address().to_string())),
            ("attempts", 1.into()),
            ("user_agent", "x".into()),
            ("request_id", Value::Null),
        ] {
            assert_eq!(line[key], value, "{key}: {line}");
        }
        let number = |key: &str| line[key].as_f64().unwrap();
        assert!(number("ms") >= number("first_byte_ms"), "{line}");
        assert!(number("first_byte_ms") >= number("queue_ms"), "{line}");
        assert!(line["connect_ms"].is_number(), "{line}");
        assert!(lines[1]["connect_ms"].is_null(), "{}", lines[1]);
        let line = &lines[2];
        assert_eq!(
            (&line["status"], &line["service"]),
            (&405.into(), &Value::Null)
        );
        assert_eq!(line["request_id"], refused.field("x-request-id").unwrap());
    }
}

#[tokio::test]
async fn an_answer_that_was_cut_is_not_whole_whoever_cut_it() {
    let length = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc".as_slice();
    let chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n";
    let whole = ok("abc");
    for (answer, then, is_whole) in [
        (length, Then::Close, false),
        // A time-out ends it.
        (length, Then::Keep, false),
        (chunked, Then::Close, false),
        (
            &[chunked, b"0\r\n\r\n".as_slice()].concat(),
            Then::Close,
            true,
        ),
        (&whole, Then::Close, true),
    ] {
        let backend = RawBackend::saying(answer, then).await;
        let folder = TempDir::new().unwrap();
        let tables = "[access_log]\n[defaults]\ntimeout = { idle = \"300ms\" }";
        let proxy = start(folder.path(), tables, backend.address()).await;
        let mut client = Wire::connect(proxy.address).await;
        let request = GET.replace("User-Agent: x", "Connection: close");
        client.send(request).await;
        client.rest().await.unwrap();
        let lines = proxy.logged().await;
        let [line] = &lines[..] else {
            panic!("{lines:?}");
        };
        assert_eq!(line["whole"], is_whole, "{then:?}: {line}");
        assert_eq!((&line["status"], &line["bytes"]), (&200.into(), &3.into()));
    }
}

/// By trusted proxies in front: the client that they speak for.
#[tokio::test]
async fn a_line_names_who_asked_and_what_the_request_is_known_by() {
    let backend = answering().await;
    let folder = TempDir::new().unwrap();
    let tables = "[access_log]\nfields = [\"client\", \"peer\", \"request_id\", \"trace_id\", \
        \"header.x-tenant\"]\n[[listen]]\naddress = \"127.0.0.1:0\"\n\
        trusted_proxies = [\"127.0.0.1\"]";
    let proxy = start(folder.path(), tables, backend.address()).await;
    let request = "GET /cart HTTP/1.1\r\nHost: shop\r\nX-Forwarded-For: 9.9.9.9, 10.0.0.7\r\n\
        X-Request-Id: r-1\r\nX-Tenant: blue\r\n\
        Traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n\r\n";
    proxy.ask(request).await;
    let lines = proxy.logged().await;
    assert_eq!(
        lines,
        [serde_json::json!({
            "client": "10.0.0.7", "peer": "127.0.0.1", "request_id": "r-1",
            "trace_id": "0af7651916cd43dd8448eb211c80319c", "header.x-tenant": "blue",
        })]
    );
}

#[tokio::test]
async fn a_file_has_the_lines_and_is_begun_anew_where_it_was_moved() {
    let backend = answering().await;
    let folder = TempDir::new().unwrap();
    let tables = "[access_log]\nto = \"file:access.log\"\nformat = \"{path} {status}\"\n\
        masked = [\"a\"]";
    let mut proxy = start(folder.path(), tables, backend.address()).await;
    let [file, moved] = ["access.log", "access.log.1"].map(|name| folder.path().join(name));
    let text = async |path: &Path| std::fs::read_to_string(path).unwrap_or_default();
    let line = "/cart?a=*** 200\n";
    proxy.ask(GET).await;
    // While it runs, and not only at its end.
    let is_there = |text: &String| text == line;
    eventually("the line is there", async || text(&file).await, is_there).await;
    std::fs::rename(&file, &moved).unwrap();
    proxy.callboard.signal(Signal::SIGUSR1);
    proxy
        .callboard
        .until_logged("the access log is opened anew")
        .await;
    eventually("the file is there", async || file.exists(), |there| *there).await;
    proxy.ask(&GET.replace("/cart?", "/cart/x?")).await;
    proxy.ask(&GET.replace("/cart?", "/quiet?")).await;
    proxy.ended().await;
    assert_eq!(text(&moved).await, line);
    assert_eq!(text(&file).await, "/cart/x?a=*** 200\n");
}

#[tokio::test]
async fn a_sample_of_none_has_those_lines_that_are_always_there() {
    let backend = answering().await;
    let folder = TempDir::new().unwrap();
    let tables = "[access_log]\nsample = 0\nalways = { status = \"4xx\" }";
    let proxy = start(folder.path(), tables, backend.address()).await;
    proxy.ask(GET).await;
    proxy.ask(&GET.replace("/cart?", "/nowhere?")).await;
    let lines = proxy.logged().await;
    let statuses: Vec<_> = lines.iter().map(|line| line["status"].as_u64()).collect();
    assert_eq!(statuses, [Some(404)]);
}

#[tokio::test]
async fn a_syslog_gets_each_line_as_a_datagram() {
    let backend = answering().await;
    let syslog = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let folder = TempDir::new().unwrap();
    let address = syslog.local_addr().unwrap();
    let tables = format!(
        "[access_log]\nto = \"syslog://{address}\"\nformat = \"{{method}} {{path}} {{status}}\""
    );
    let proxy = start(folder.path(), &tables, backend.address()).await;
    proxy.ask(GET).await;
    let mut bytes = [0; 500];
    let length = syslog.recv(&mut bytes).await.unwrap();
    let text = std::str::from_utf8(&bytes[..length]).unwrap();
    assert!(text.starts_with("<190>"), "{text}");
    assert!(text.ends_with(" callboard: GET /cart?a=b 200"), "{text}");
    proxy.ended().await;
}

/// A disk that is full holds no request up, and is seen.
#[tokio::test]
async fn lines_that_cannot_be_written_are_counted_and_said_and_requests_go_on() {
    let backend = answering().await;
    let folder = TempDir::new().unwrap();
    let tables = "[access_log]\nto = \"file:/dev/full\"";
    let mut proxy = start(folder.path(), tables, backend.address()).await;
    let mut client = Wire::connect(proxy.address).await;
    for _ in 0..5 {
        assert_eq!(client.ask(GET).await.text(), "well");
    }
    drop(client);
    proxy
        .callboard
        .until_logged("the access log cannot be written: lines are lost")
        .await;
    let url = format!("http://{}/metrics", proxy.admin);
    let metrics = async || reqwest::get(&url).await.unwrap().text().await.unwrap();
    let all = |text: &String| {
        ["lines_total", "lost_lines_total{reason=\"failure\"}"]
            .iter()
            .all(|name| text.contains(&format!("callboard_access_log_{name} 5\n")))
    };
    eventually("all five are counted as lost", metrics, all).await;
    proxy.ended().await;
}

#[tokio::test]
async fn a_place_that_cannot_be_written_to_is_an_error_at_the_start() {
    let folder = TempDir::new().unwrap();
    let text = "[access_log]\nto = \"file:missing/access.log\"\n\
        [[route]]\nservice = \"cart\"\n[service.cart]\nendpoints = [\"127.0.0.1:1\"]\n\
        [[listen]]\naddress = \"127.0.0.1:0\"\n[admin]\naddress = \"127.0.0.1:0\"\n";
    std::fs::write(folder.path().join("proxy.toml"), text).unwrap();
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_callboard"));
    let ended = command.arg("run").current_dir(folder.path()).output().await;
    let ended = ended.unwrap();
    let said = String::from_utf8(ended.stderr).unwrap();
    assert_eq!(ended.status.code(), Some(1), "{said}");
    assert!(said.contains("nothing can be written to file:"), "{said}");
}

/// Nobody asks such an answer's body for a piece.
#[tokio::test]
async fn an_answer_without_a_body_is_whole() {
    for (method, answer) in [
        ("HEAD", ok("well")),
        ("GET", b"HTTP/1.1 204 No Content\r\n\r\n".to_vec()),
        ("GET", ok("")),
    ] {
        let head = method == "HEAD";
        let answer = match head {
            true => b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n".to_vec(),
            false => answer,
        };
        let backend = RawBackend::saying(answer, Then::Keep).await;
        let folder = TempDir::new().unwrap();
        let proxy = start(folder.path(), "[access_log]", backend.address()).await;
        let mut client = Wire::connect(proxy.address).await;
        client.send(GET.replace("GET", method)).await;
        client.head().await.unwrap();
        drop(client);
        let lines = proxy.logged().await;
        assert_eq!(
            (&lines[0]["whole"], &lines[0]["bytes"]),
            (&true.into(), &0.into()),
            "{lines:?}"
        );
    }
}

#[tokio::test]
async fn a_client_that_does_not_wait_is_a_line_with_the_attempt_that_it_left() {
    let backend = RawBackend::saying("", Then::Keep).await;
    let folder = TempDir::new().unwrap();
    let proxy = start(folder.path(), "[access_log]", backend.address()).await;
    let mut client = Wire::connect(proxy.address).await;
    client.send(GET).await;
    let asked = async || backend.connections();
    eventually("the endpoint is asked", asked, |count| *count == 1).await;
    drop(client);
    let lines = proxy.logged().await;
    let line = &lines[0];
    assert_eq!(
        (&line["status"], &line["attempts"], &line["whole"]),
        (&499.into(), &1.into(), &false.into()),
        "{line}"
    );
}

/// Of requests that come while the log changes each is a line once, and as one of both logs has it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_log_takes_over_with_a_reload_and_no_line_is_lost() {
    const LAST: &str = "GET /cart HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    let backend = answering().await;
    let text = |log: &str| {
        format!(
            "workers = 2\n{log}\n[service.cart]\nendpoints = [\"{}\"]\n\
             [[route]]\npath = \"/cart\"\nservice = \"cart\"\n",
            backend.address()
        )
    };
    let log = |file: &str, format: &str| {
        text(&format!(
            "[access_log]\nto = \"file:{file}\"\nformat = \"{format}\""
        ))
    };
    let proxy = Proxy::start(&log("a.log", "a {status}")).await;
    let stop = CancellationToken::new();
    let (address, stopped) = (proxy.address(), stop.clone());
    let asking = tokio::spawn(async move {
        let mut asked = 0;
        while !stopped.is_cancelled() {
            assert_eq!(Wire::connect(address).await.ask(LAST).await.status(), 200);
            asked += 1;
        }
        asked
    });
    let files = [
        log("a.log", "b {status}"),
        log("b.log", "b {status}"),
        log("a.log", "a {status}"),
    ];
    for (n, file) in files.iter().cycle().take(12).enumerate() {
        let (status, said) = proxy.reload(file).await;
        assert_eq!(status, 200, "{said}");
        assert_eq!(
            said["changes"]["changed"],
            serde_json::json!(["[access_log]"]),
            "{n}"
        );
    }
    // Where nothing can be written it stays as it is.
    let (status, said) = proxy.reload(&log("missing/a.log", "x {status}")).await;
    assert_eq!(status, 422, "{said}");
    assert!(
        said["error"].as_str().unwrap().contains("missing/a.log"),
        "{said}"
    );
    stop.cancel();
    let asked: usize = asking.await.unwrap();
    let written = async || {
        let read = |name| std::fs::read_to_string(proxy.folder().join(name)).unwrap_or_default();
        let text = read("a.log") + &read("b.log");
        let lines = text
            .lines()
            .filter(|line| ["a 200", "b 200"].contains(line));
        (lines.count(), text.lines().count())
    };
    eventually("all are written", written, |count| *count == (asked, asked)).await;
    // It goes, and comes again with what was counted.
    let counted = async || {
        let text = proxy.page("/metrics").await.text().await.unwrap();
        text.contains(&format!("callboard_access_log_lines_total {asked}\n"))
    };
    assert!(counted().await);
    let (_, said) = proxy.reload(&text("")).await;
    assert_eq!(
        said["changes"]["removed"],
        serde_json::json!(["[access_log]"])
    );
    assert!(!counted().await);
    let (_, said) = proxy.reload(&log("b.log", "b {status}")).await;
    assert_eq!(
        said["changes"]["added"],
        serde_json::json!(["[access_log]"])
    );
    assert!(counted().await);
}
