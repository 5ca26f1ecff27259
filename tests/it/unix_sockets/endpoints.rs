//! An endpoint at a path is called as one at an address is: over connections that are kept, checked, and
//! given up where it is gone.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use nix::sys::signal::Signal;
use serde_json::Value;
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::{
    net::UnixListener,
    task::{JoinHandle, JoinSet},
};

use super::{connect, wire};
use crate::support::{
    callboard::Callboard,
    eventually,
    proxy::{Proxy, endpoints},
    raw::ok,
};

/// A backend at a path, which answers with its own name and the head of the request. Gone, with its file,
/// when it is dropped.
struct LocalBackend {
    path: PathBuf,
    connections: Arc<AtomicUsize>,
    accepting: JoinHandle<()>,
}

impl LocalBackend {
    fn start(folder: &Path, name: &'static str) -> Self {
        let path = folder.join(format!("{name}.sock"));
        let listener = UnixListener::bind(&path).unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&connections);
        let accepting = tokio::spawn(async move {
            // Ended with this task.
            let mut serving = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                count.fetch_add(1, Relaxed);
                serving.spawn(async move {
                    let mut wire = wire(stream);
                    while let Ok(Some(request)) = wire.try_message().await {
                        let said = ok(format!("{name}\n{}", request.head));
                        wire.send(said).await;
                    }
                });
            }
        });
        Self {
            path,
            connections,
            accepting,
        }
    }

    fn address(&self) -> String {
        format!("unix:{}", self.path.display())
    }
}

impl Drop for LocalBackend {
    fn drop(&mut self) {
        self.accepting.abort();
        let _ = fs::remove_file(&self.path);
    }
}

fn states(service: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let shown = endpoints(service).map(|one| (text(&one["address"]), text(&one["state"])));
    shown.collect()
}

#[tokio::test]
async fn an_endpoint_at_a_path_is_called_over_connections_that_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let backend = LocalBackend::start(folder.path(), "a");
    let proxy = Proxy::start(&format!(
        "workers = 1\n{}[[route]]\npath = \"/own\"\nservice = \"cart\"\n\
         host_header = \"endpoint\"\n",
        super::text_of(&backend.address())
    ))
    .await;
    for (path, host) in [
        ("/cart", format!("host: {}", proxy.address())),
        ("/own", "host: localhost".to_owned()),
    ] {
        for _ in 0..10 {
            let answer = proxy.get(path).await;
            assert_eq!(answer.status(), 200);
            let said = answer.text().await.unwrap();
            assert!(said.contains(&format!("\r\n{host}\r\n")), "{said}");
        }
    }
    assert_eq!(backend.connections.load(Relaxed), 1);
    let body = vec![b'x'; 1_000_000];
    let post = proxy.http.post(proxy.url("/cart")).body(body).send().await;
    assert_eq!(post.unwrap().status(), 200);
    let expected = [(backend.address(), "serving".to_owned())];
    assert_eq!(states(&proxy.service("cart").await), expected);
    let metrics = proxy.page("/metrics").await.text().await.unwrap();
    let line = format!("endpoint=\"{}\"}} 21\n", backend.address());
    assert!(metrics.contains(&line), "{metrics}");
}

/// A file of the registry `file` that names them, in this spelling of their addresses.
fn listing(backends: &[&LocalBackend], prefix: &str) -> String {
    let entries = backends
        .iter()
        .map(|backend| format!("\"{prefix}{}\"", backend.path.display()));
    let entries = entries.collect::<Vec<_>>().join(", ");
    format!("[cart]\nendpoints = [{entries}]\n")
}

/// The guard asks them where they listen.
#[tokio::test]
async fn endpoints_at_paths_are_held_by_the_guard_while_they_take_connections() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_owned();
    let mut backends = Vec::from(["a", "b", "c", "d"].map(|name| LocalBackend::start(&path, name)));
    let file = path.join("services.toml");
    fs::write(
        &file,
        listing(&backends.iter().collect::<Vec<_>>(), "unix:"),
    )
    .unwrap();
    let proxy = Proxy::start_in(
        folder,
        "[registry.file]\npath = \"services.toml\"\n\
         [[route]]\npath = \"/cart\"\nservice = \"cart\"\n[service.cart]\n",
    )
    .await;
    let are = |count: usize, state: &'static str| {
        move |service: &Value| {
            let states = states(service);
            states.len() == count && states.iter().all(|(_, shown)| shown == state)
        }
    };
    proxy
        .until_service("cart", "they serve", are(4, "serving"))
        .await;
    fs::write(&file, "[cart]\nendpoints = []\n").unwrap();
    let asked = async || {
        let mut all = backends.iter();
        all.all(|backend| backend.connections.load(Relaxed) > 0)
    };
    eventually("each is asked", asked, |asked| *asked).await;
    proxy
        .until_service("cart", "they are held", are(4, "held"))
        .await;
    assert_eq!(proxy.get("/cart").await.status(), 200);
    // One that takes no connection any more is let go.
    drop(backends.pop());
    proxy
        .until_service("cart", "it is gone", are(3, "held"))
        .await;
}

/// As Docker and gRPC write it; once, a set with such an address was no set when it was read again.
#[tokio::test]
async fn an_endpoint_at_a_path_is_known_again_from_the_snapshot() {
    let folder = tempfile::tempdir().unwrap();
    let (path, front) = (folder.path(), folder.path().join("front.sock"));
    let backend = LocalBackend::start(path, "a");
    let file = path.join("services.toml");
    fs::write(&file, listing(&[&backend], "unix://")).unwrap();
    let text = format!(
        "[drain]\nnotice = \"0s\"\n[admin]\naddress = \"127.0.0.1:0\"\n\
         [[listen]]\naddress = \"unix:{}\"\n[registry.file]\npath = \"services.toml\"\n\
         [[route]]\npath = \"/cart\"\nservice = \"cart\"\n",
        front.display()
    );
    let mut callboard = Callboard::run(path, &text);
    callboard.until_logged("ready").await;
    assert_eq!(connect(&front).await.ask(super::GET).await.status(), 200);
    callboard.signal(Signal::SIGTERM);
    assert_eq!(callboard.ended().await.0, Some(0));
    let snapshot = fs::read_to_string(path.join("callboard-data/snapshot.json")).unwrap();
    assert!(snapshot.contains(&backend.address()), "{snapshot}");
    // The registry is away.
    fs::remove_file(&file).unwrap();
    let mut callboard = Callboard::run(path, &text);
    callboard.until_logged("the last good sets were read").await;
    callboard.until_logged("listening on").await;
    assert_eq!(connect(&front).await.ask(super::GET).await.status(), 200);
}

#[tokio::test]
async fn an_endpoint_at_a_path_is_told_whose_connection_it_has() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let proxy = Proxy::start(&format!(
        "[[listen]]\naddress = \"127.0.0.1:0\"\ntrusted_proxies = [\"127.0.0.1\"]\n\
         [[route]]\npath = \"/cart\"\nservice = \"cart\"\n\
         [service.cart]\nendpoints = [\"unix:{}\"]\nsend_proxy = \"v1\"\n",
        path.display()
    ))
    .await;
    let request = proxy.http.get(proxy.url("/cart"));
    let asking = tokio::spawn(request.header("x-forwarded-for", "203.0.113.9").send());
    let mut wire = wire(listener.accept().await.unwrap().0);
    // Its own end has no address.
    let expected = b"PROXY TCP4 203.0.113.9 0.0.0.0 0 0\r\n";
    assert_eq!(wire.bytes(expected.len()).await, expected);
    let request = wire.message().await.unwrap();
    assert!(request.start().starts_with("GET /cart "));
    wire.send(ok("well")).await;
    assert_eq!(asking.await.unwrap().unwrap().status(), 200);
}

#[tokio::test]
async fn a_connection_from_a_path_to_a_path_goes_over() {
    let folder = tempfile::tempdir().unwrap();
    let (front, path) = (
        folder.path().join("front.sock"),
        folder.path().join("a.sock"),
    );
    let listener = UnixListener::bind(&path).unwrap();
    let _proxy = Proxy::start(&format!(
        "[[listen]]\naddress = \"unix:{}\"\n{}upgrades = [\"tcp\"]\n",
        front.display(),
        super::text_of(&format!("unix:{}", path.display()))
    ))
    .await;
    let mut client = connect(&front).await;
    client
        .send("GET /cart HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: tcp\r\n\r\n")
        .await;
    let mut endpoint = wire(listener.accept().await.unwrap().0);
    endpoint.head().await.unwrap();
    endpoint
        .send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n")
        .await;
    let head = client.head().await.unwrap();
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    client.send("ping").await;
    assert_eq!(endpoint.bytes(4).await, b"ping");
    endpoint.send("pong").await;
    assert_eq!(client.bytes(4).await, b"pong");
    drop(endpoint);
    client.until_closed().await;
}

/// A burst of first requests, each of which opens a connection.
#[tokio::test]
async fn an_endpoint_whose_queue_is_full_is_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.sock");
    let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None).unwrap();
    socket.bind(&SockAddr::unix(&path).unwrap()).unwrap();
    socket.listen(1).unwrap();
    let listener = UnixListener::from_std(socket.into()).unwrap();
    let address = format!("unix:{}", path.display());
    let proxy = Arc::new(Proxy::start(&format!("workers = 1\n{}", super::text_of(&address))).await);
    let mut asking = JoinSet::new();
    for _ in 0..20 {
        let proxy = Arc::clone(&proxy);
        asking.spawn(async move { proxy.get("/cart").await.status() });
    }
    let in_flight = async || {
        let service = proxy.service("cart").await;
        service["endpoints"][0]["in_flight"].as_u64()
    };
    eventually("all want a connection", in_flight, |count| {
        *count == Some(20)
    })
    .await;
    let serving = tokio::spawn(async move {
        let mut serving = JoinSet::new();
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            serving.spawn(async move {
                let mut wire = wire(stream);
                while let Ok(Some(_)) = wire.try_message().await {
                    wire.send(ok("well")).await;
                }
            });
        }
    });
    while let Some(status) = asking.join_next().await {
        assert_eq!(status.unwrap(), 200);
    }
    serving.abort();
    let service = proxy.service("cart").await;
    assert_eq!(service["endpoints"][0]["failures"], 0, "{service}");
}

#[tokio::test]
async fn a_file_names_paths_and_one_that_is_gone_costs_no_request() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_owned();
    let (one, other) = (
        LocalBackend::start(&path, "a"),
        LocalBackend::start(&path, "b"),
    );
    let list = |backends: &[&LocalBackend]| {
        fs::write(path.join("services.toml"), listing(backends, "unix:")).unwrap();
    };
    list(&[&one, &other]);
    let proxy = Proxy::start_in(
        folder,
        "[registry.file]\npath = \"services.toml\"\n\
         [[route]]\npath = \"/cart\"\nservice = \"cart\"\n\
         [defaults]\nhealth = { kind = \"http\", path = \"/up\", interval = \"100ms\", timeout = \"1s\" }\n",
    )
    .await;
    let serving = |backends: &[&LocalBackend], state: &str| {
        let all = backends
            .iter()
            .map(|backend| (backend.address(), state.to_owned()));
        all.collect::<Vec<_>>()
    };
    let both = serving(&[&one, &other], "serving");
    proxy
        .until_service("cart", "both serve", |service| states(service) == both)
        .await;
    let ask = async || {
        let answer = proxy.get("/cart").await;
        assert_eq!(answer.status(), 200);
        answer.text().await.unwrap().chars().next().unwrap()
    };
    for wanted in ['a', 'b'] {
        eventually("each is called", ask, |by| *by == wanted).await;
    }
    // One ends, and its file with it.
    let gone = other.address();
    drop(other);
    for _ in 0..50 {
        assert_eq!(ask().await, 'a');
    }
    proxy
        .until_service("cart", "its check fails", |service| {
            states(service).contains(&(gone.clone(), "failing".to_owned()))
        })
        .await;
    list(&[&one]);
    let alone = serving(&[&one], "serving");
    proxy
        .until_service("cart", "it is gone", |service| states(service) == alone)
        .await;
    assert_eq!(ask().await, 'a');
}
