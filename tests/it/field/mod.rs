//! Clients of the field lose no request while an instance is replaced: programs that are written by the HTTP of their
//! language, with GET, and with POST with and without a length, by HTTP/1.1 and HTTP/2, over TLS and in the clear.

use std::{
    process::Stdio,
    sync::atomic::{AtomicBool, Ordering::SeqCst},
    time::Duration,
};

use http::Method;
use http_body_util::BodyExt as _;
use tokio::{process::Command, time::timeout};

use crate::support::{
    authority::Authority,
    backend::Backend,
    proxy::Proxy,
    server::{binary, has_program},
};

/// How often an instance is replaced by another one.
const REPLACED: usize = 3;

/// Requests that a client makes at the least.
const REQUESTS: usize = 1_000;

/// A busy machine takes its time to run a client.
const PATIENCE: Duration = Duration::from_secs(120);

/// Answers a POST with its body, and a GET with its path, when it has worked for a moment.
async fn instance() -> Backend {
    let backend = Backend::named("instance").answering(|request| async move {
        let path = request.uri().path().to_owned();
        let is_post = request.method() == Method::POST;
        let body = request.into_body().collect().await;
        tokio::time::sleep(Duration::from_millis(fastrand::u64(..4))).await;
        match body {
            Ok(body) if is_post => body.to_bytes(),
            Ok(_) => path.into(),
            Err(_) => "broken".into(),
        }
    });
    backend.start().await
}

/// A proxy with a listener in the clear and one that speaks TLS, and the instance that it knows.
struct Stage {
    proxy: Proxy,
    instance: Backend,
}

impl Stage {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let hosts = ["localhost", "127.0.0.1"];
        // To OpenSSL one of the authority's own name would be signed by itself.
        Authority::new(folder.path()).issue_for("site", &hosts, |certificate| {
            let name = &mut certificate.distinguished_name;
            name.push(rcgen::DnType::CommonName, "site");
        });
        let config = "workers = 2\n[[listen]]\naddress = \"127.0.0.1:0\"\n[[listen]]\n\
             address = \"127.0.0.1:0\"\n\
             tls = { certificates = [{ cert = \"site-certificate.pem\", key = \"site-key.pem\" }] }\n\
             [[route]]\npath = \"/cart\"\nservice = \"cart\"\n";
        let proxy = Proxy::start_in(folder, config).await;
        let instance = instance().await;
        proxy.register("cart", instance.address()).await;
        let serves = [(instance.address(), "serving")];
        proxy.until_states("cart", &serves).await;
        proxy.until_ready().await;
        Self { proxy, instance }
    }

    /// The URLs in the clear and over TLS.
    fn urls(&self) -> [String; 2] {
        [("http", 0), ("https", 1)].map(|(scheme, at)| {
            format!("{scheme}://127.0.0.1:{}", self.proxy.address_of(at).port())
        })
    }

    /// The file of the authority that has signed for the second.
    fn authority(&self) -> String {
        let file = self.proxy.folder().join("ca.pem");
        file.to_str().unwrap().to_owned()
    }

    /// A program with these arguments, both URLs, the file of the authority, and how many requests each way of its
    /// gets.
    fn asking(&self, program: &[&str], requests: usize) -> Vec<String> {
        let program = program.iter().map(|argument| (*argument).to_owned());
        let more = [self.authority(), requests.to_string()];
        program.chain(self.urls()).chain(more).collect()
    }

    /// Runs these commands again and again, which fail where a request does, until the instance was replaced often
    /// enough, and at least that many requests were made.
    async fn clients_lose_nothing(mut self, commands: &[Vec<String>], check: fn(&str)) {
        let (replaced, authority) = (AtomicBool::new(false), self.authority());
        let mut requests = 0;
        let calling = async {
            loop {
                let is_last = replaced.load(SeqCst);
                for command in commands {
                    check(&run(command, &authority).await);
                }
                if is_last {
                    return;
                }
            }
        };
        let (proxy, instance) = (&self.proxy, &mut self.instance);
        let replacing = async {
            for _ in 0..REPLACED {
                let next = self::instance().await;
                proxy.register("cart", next.address()).await;
                let both = [(instance.address(), "serving"), (next.address(), "serving")];
                proxy.until_states("cart", &both).await;
                proxy.deregister("cart", instance.address()).await;
                let one = [(next.address(), "serving")];
                proxy.until_states("cart", &one).await;
                let before = std::mem::replace(instance, next);
                requests += before.requests();
            }
            replaced.store(true, SeqCst);
        };
        tokio::join!(calling, replacing);
        requests += self.instance.requests();
        assert!(requests >= REQUESTS, "{requests}");
        let service = self.proxy.service("cart").await;
        assert_eq!(
            (&service["failed"], &service["abandoned"]),
            (&0.into(), &0.into())
        );
    }
}

/// Runs a command that ends well, and returns what it says.
async fn run(command: &[String], authority: &str) -> String {
    let running = Command::new(&command[0])
        .args(&command[1..])
        .env("NODE_EXTRA_CA_CERTS", authority)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = timeout(PATIENCE, running).await.expect("it ends").unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said}{error}");
    said
}

/// Whether this machine has a program, which says so here.
fn has(program: &str) -> bool {
    let mut command = std::process::Command::new(program);
    has_program(command.arg("--version").stdout(Stdio::null()))
}

/// A file of the test's.
fn file(name: &str) -> String {
    format!("{}/tests/it/field/{name}", env!("CARGO_MANIFEST_DIR"))
}

#[tokio::test]
async fn nodes_http_https_fetch_and_http2_lose_nothing() {
    if !has("node") {
        return;
    }
    let stage = Stage::new().await;
    let script = stage.asking(&["node", &file("client.mjs")], 250);
    stage.clients_lose_nothing(&[script], |_| ()).await;
}

#[tokio::test]
async fn javas_client_loses_nothing() {
    // A file of source is run by what compiles it.
    if !has("java") || !has("javac") {
        return;
    }
    let stage = Stage::new().await;
    let program = stage.asking(&["java", "-Xmx128m", &file("Client.java")], 250);
    stage.clients_lose_nothing(&[program], |_| ()).await;
}

#[tokio::test]
async fn gos_client_loses_nothing() {
    let Some(client) = binary("nethttp") else {
        return;
    };
    let stage = Stage::new().await;
    let program = stage.asking(&[client.to_str().unwrap()], 250);
    stage.clients_lose_nothing(&[program], |_| ()).await;
}

#[tokio::test]
async fn curl_loses_nothing() {
    let stage = Stage::new().await;
    let body = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(body.path(), vec![b'a'; 20_000]).unwrap();
    let body = body.path().to_str().unwrap();
    let [clear, secure] = stage.urls();
    let (data, ca) = (format!("@{body}"), stage.authority());
    let chunked = "Transfer-Encoding: chunked";
    let mut commands = Vec::new();
    for (url, protocol, most) in [
        (&clear, "--http1.1", 200),
        // With any server curl 7.88 fails the second request of such a connection.
        (&clear, "--http2-prior-knowledge", 1),
        (&secure, "--http1.1", 200),
        (&secure, "--http2", 200),
    ] {
        for (count, more) in [
            (most, &[][..]),
            (most.min(30), &["--data-binary", &data]),
            (most.min(30), &["-X", "POST", "-T", body, "-H", chunked]),
        ] {
            let url = format!("{url}/cart/[1-{count}]");
            let always = [
                "curl",
                "-sSf",
                "-Z",
                "--parallel-max",
                "8",
                "--max-time",
                "60",
                "--cacert",
                &ca,
                "-o",
                "/dev/null",
                "-w",
                "%{http_code} %{http_version} %{size_download}\n",
                protocol,
                &url,
            ];
            let all = always.iter().chain(more);
            let all = all.map(|argument| (*argument).to_owned());
            commands.push(all.collect());
        }
    }
    let check = |said: &str| {
        let is_whole = |line: &str| {
            let words: Vec<_> = line.split(' ').collect();
            let size: usize = words[2].parse().unwrap();
            // A path, or the body.
            words[0] == "200" && (size == 20_000 || (7..10).contains(&size))
        };
        let lines = said.lines().count();
        assert!([1, 30, 200].contains(&lines), "{lines}");
        assert!(said.lines().all(is_whole), "{said}");
    };
    stage.clients_lose_nothing(&commands, check).await;
}

#[tokio::test]
async fn h2load_loses_nothing() {
    let Some(h2load) = binary("h2load") else {
        return;
    };
    let h2load = h2load.join("h2load");
    let stage = Stage::new().await;
    let body = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(body.path(), vec![b'a'; 20_000]).unwrap();
    let body = body.path().to_str().unwrap();
    let mut commands = Vec::new();
    for url in stage.urls() {
        for more in [&[][..], &["--h1"], &["-d", body]] {
            let url = format!("{url}/cart");
            let always = [
                h2load.to_str().unwrap(),
                "-n",
                "1000",
                "-c",
                "4",
                "-m",
                "8",
                &url,
            ];
            let all = always
                .iter()
                .chain(more)
                .map(|argument| (*argument).to_owned());
            commands.push(all.collect());
        }
    }
    let check = |said: &str| {
        assert!(
            said.contains(" 1000 succeeded, 0 failed, 0 errored, 0 timeout"),
            "{said}"
        );
        assert!(said.contains("status codes: 1000 2xx"), "{said}");
    };
    stage.clients_lose_nothing(&commands, check).await;
}
