//! A listener at a path serves as one at an address does, and the path is its own for as long as it runs.

use std::{
    fs::{self, Permissions},
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use nix::sys::signal::Signal;
use tempfile::TempDir;
use tokio::{
    net::{TcpListener, UnixListener, UnixStream},
    process::Command,
    sync::Semaphore,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use super::{GET, connect, text_of};
use crate::support::{
    PATIENCE,
    backend::Backend,
    callboard::{Callboard, command},
    eventually,
    haproxy::HaProxy,
    proxy::Proxy,
    raw::Wire,
    server::free_ports,
};

/// A path in a folder that goes with the proxy.
fn socket(folder: &TempDir) -> PathBuf {
    folder.path().join("http.sock")
}

/// A proxy that listens at the path in its folder, too, with these lines of that listener.
async fn listening(lines: &str) -> (Proxy, PathBuf, Backend) {
    let folder = tempfile::tempdir().unwrap();
    let path = socket(&folder);
    let backend = super::echoing().await;
    let proxy = Proxy::start_in(
        folder,
        &format!(
            "workers = 2\n[[listen]]\naddress = \"127.0.0.1:0\"\n\
             [[listen]]\naddress = \"unix:{}\"\n{lines}\n{}",
            path.display(),
            text_of(&backend.address().to_string())
        ),
    )
    .await;
    (proxy, path, backend)
}

/// The configuration of one that listens at a path alone.
fn listening_at(path: &Path, backend: &Backend) -> String {
    format!(
        "workers = 2\n[[listen]]\naddress = \"unix:{}\"\n{}",
        path.display(),
        text_of(&backend.address().to_string())
    )
}

#[tokio::test]
async fn a_client_of_a_path_is_one_of_this_machine() {
    let (proxy, path, _backend) = listening("").await;
    let mut wire = connect(&path).await;
    for _ in 0..3 {
        let answer = wire.ask(GET.replace("\r\n\r\n", "\r\nX-Forwarded-For: 192.0.2.1\r\n\r\n"));
        let answer = answer.await;
        assert_eq!(answer.status(), 200);
        assert!(answer.text().contains("x-forwarded-for: 127.0.0.1\n"));
    }
    let body = "x".repeat(300_000);
    let length = body.len();
    let post = format!("POST /cart HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n{body}");
    assert_eq!(wire.ask(post).await.status(), 200);
    let status = proxy.status().await;
    let expected = format!("unix:{}", path.display());
    assert_eq!(status["listeners"][1], expected);
    let mode = fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o660);
    // Many connections are served at once, whichever worker has them.
    let mut clients = Vec::new();
    for _ in 0..50 {
        clients.push(connect(&path).await);
    }
    for client in &mut clients {
        assert_eq!(client.ask(GET).await.status(), 200);
    }
}

/// The folder is the test's, and not the proxy's.
#[tokio::test]
async fn the_path_is_gone_with_the_proxy() {
    let folder = TempDir::new().unwrap();
    let path = socket(&folder);
    let backend = super::echoing().await;
    let proxy = Proxy::start(&listening_at(&path, &backend)).await;
    let mut wire = connect(&path).await;
    assert_eq!(wire.ask(GET).await.status(), 200);
    proxy.drain().await;
    assert!(!path.exists());
}

/// Each worker waits for the connections that it has itself, and the path is there as long as one waits.
#[tokio::test]
async fn while_one_worker_has_a_request_the_path_is_there_for_all() {
    let folder = TempDir::new().unwrap();
    let path = socket(&folder);
    let gate = Arc::new(Semaphore::new(0));
    let slow = Backend::named("slow").answering({
        let gate = Arc::clone(&gate);
        move |request| {
            let gate = Arc::clone(&gate);
            async move {
                if request.uri().query() == Some("slow") {
                    gate.acquire().await.unwrap().forget();
                }
                "done"
            }
        }
    });
    let slow = slow.start().await;
    let text = listening_at(&path, &slow).replace("workers = 2", "workers = 4");
    let drain = "[drain]\nnotice = \"0s\"\ndeadline = \"1h\"\n";
    let proxy = Proxy::start(&format!("{text}{drain}")).await;
    let mut waits = connect(&path).await;
    waits.send(GET.replace("/cart", "/cart?slow")).await;
    eventually("it is asked", async || slow.requests(), |n| *n == 1).await;
    let draining = tokio::spawn(proxy.drain());
    // Those workers that have none have long looked by then.
    let said = async || connect(&path).await.ask(GET).await;
    eventually("it drains", said, |answer| {
        answer.field("connection") == Some("close")
    })
    .await;
    // Longer than it takes all workers to look.
    for _ in 0..300 {
        assert_eq!(said().await.status(), 200);
    }
    gate.add_permits(1);
    assert_eq!(waits.message().await.unwrap().status(), 200);
    draining.await.unwrap();
    assert!(!path.exists());
}

#[tokio::test]
async fn a_client_of_a_path_is_trusted_and_counted_as_127_0_0_1() {
    let lines = "trusted_proxies = [\"127.0.0.1\"]\nmode = \"0600\"\nhealth_path = \"/up\"";
    let (_proxy, path, _backend) = listening(lines).await;
    let mut wire = connect(&path).await;
    let answer = wire.ask(GET.replace("\r\n\r\n", "\r\nX-Forwarded-For: 192.0.2.1\r\n\r\n"));
    let answer = answer.await;
    assert!(
        answer
            .text()
            .contains("x-forwarded-for: 192.0.2.1, 127.0.0.1\n")
    );
    let mode = fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    let (proxy, path, _backend) = listening("limits = { connections_per_address = 1 }").await;
    let mut first = connect(&path).await;
    assert_eq!(first.ask(GET).await.status(), 200);
    let mut second = connect(&path).await;
    assert_eq!(second.message().await.unwrap().status(), 429);
    drop(proxy);
}

#[tokio::test]
async fn curl_asks_at_a_path() {
    let (_proxy, path, _backend) = listening("").await;
    let mut curl = Command::new("curl");
    curl.args(["-sS", "--max-time", "20", "--unix-socket"])
        .arg(&path)
        .args([
            "http://shop.example.com/cart",
            "http://shop.example.com/cart",
        ])
        .kill_on_drop(true);
    let Ok(output) = timeout(PATIENCE, curl.output()).await.unwrap() else {
        println!("left out: this machine has no curl");
        return;
    };
    let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    assert_eq!(
        said.matches("x-forwarded-for: 127.0.0.1\n").count(),
        2,
        "{said}"
    );
}

#[tokio::test]
async fn haproxy_sends_proxy_headers_to_a_path() {
    let lines = "proxy_protocol = true\ntrusted_proxies = [\"127.0.0.1\"]";
    let (_proxy, path, _backend) = listening(lines).await;
    let [port] = free_ports();
    let sections = format!(
        "listen p\n bind 127.0.0.1:{port}\n server s unix@{} send-proxy-v2\n",
        path.display()
    );
    let address = ([127, 0, 0, 1], port).into();
    let folder = tempfile::tempdir().unwrap();
    let Some(_haproxy) = HaProxy::start(folder, &sections, address).await else {
        return;
    };
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind(([127, 0, 0, 7], 0).into()).unwrap();
    let mut wire = Wire::new(socket.connect(address).await.unwrap());
    let answer = wire.ask(GET).await;
    assert!(answer.text().contains("x-forwarded-for: 127.0.0.7\n"));
}

/// The configuration of a process that listens at the path alone.
fn config(path: &Path, admin: u16, backend: &Backend) -> String {
    format!(
        "workers = 2\n[log]\nformat = \"text\"\n[drain]\nnotice = \"1h\"\ndeadline = \"1h\"\n\
         [[listen]]\naddress = \"unix:{}\"\n[admin]\naddress = \"127.0.0.1:{admin}\"\n{}",
        path.display(),
        text_of(&backend.address().to_string())
    )
}

#[tokio::test]
async fn a_path_has_one_proxy_and_what_a_dead_one_left_is_in_no_ones_way() {
    let folder = TempDir::new().unwrap();
    let path = socket(&folder);
    let backend = super::echoing().await;
    let [admin, other] = free_ports();
    let text = config(&path, admin, &backend);
    let mut first = Callboard::run(folder.path(), &text);
    first.until_logged("ready").await;
    let elsewhere = TempDir::new().unwrap();
    fs::write(
        elsewhere.path().join("proxy.toml"),
        config(&path, other, &backend),
    )
    .unwrap();
    let second = command(elsewhere.path()).kill_on_drop(true).output();
    let second = timeout(PATIENCE, second).await.unwrap().unwrap();
    assert_eq!(second.status.code(), Some(1));
    let said = String::from_utf8(second.stderr).unwrap();
    let expected = format!("cannot listen on unix:{}", path.display());
    assert!(
        said.contains(&expected) && said.contains("in use"),
        "{said}"
    );
    assert_eq!(connect(&path).await.ask(GET).await.status(), 200);
    first.kill().await;
    assert!(path.exists());
    let text = text.replace("notice = \"1h\"", "notice = \"0s\"");
    let mut third = Callboard::run(folder.path(), &text);
    third.until_logged("ready").await;
    assert_eq!(connect(&path).await.ask(GET).await.status(), 200);
    // No connection is left: it ends by itself, and takes the path with it.
    third.signal(Signal::SIGTERM);
    assert_eq!(third.ended().await.0, Some(0));
    assert!(!path.exists());
}

/// A socket file can be had from any process; only a predecessor's is.
#[tokio::test]
async fn another_programs_address_is_not_taken_while_a_predecessor_drains() {
    let folder = TempDir::new().unwrap();
    let (path, foreign) = (socket(&folder), folder.path().join("other.sock"));
    let backend = super::echoing().await;
    let [admin] = free_ports();
    let text = config(&path, admin, &backend);
    let mut old = Callboard::run(folder.path(), &text);
    old.until_logged("ready").await;
    old.signal(Signal::SIGTERM);
    old.until_logged("draining").await;
    let other = UnixListener::bind(&foreign).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap();
    for taken in [format!("unix:{}", foreign.display()), port.to_string()] {
        let ours = format!("address = \"unix:{}\"", path.display());
        let both = format!("address = [\"unix:{}\", \"{taken}\"]", path.display());
        let elsewhere = TempDir::new().unwrap();
        let text = text.replace(&ours, &both);
        fs::write(elsewhere.path().join("proxy.toml"), text).unwrap();
        let new = command(elsewhere.path()).kill_on_drop(true).output();
        let new = timeout(PATIENCE, new).await.unwrap().unwrap();
        assert_eq!(new.status.code(), Some(1));
        let said = String::from_utf8(new.stderr).unwrap();
        let expected = format!("cannot listen on {taken}");
        assert!(
            said.contains(&expected) && said.contains("in use"),
            "{said}"
        );
    }
    let client = UnixStream::connect(&foreign).await.unwrap();
    assert!(timeout(PATIENCE, other.accept()).await.unwrap().is_ok());
    drop(client);
    // Nor is the predecessor's own, where the start comes to nothing.
    assert_eq!(connect(&path).await.ask(GET).await.status(), 200);
}

#[tokio::test]
async fn a_successor_that_cannot_start_leaves_the_path_to_the_one_before() {
    let folder = TempDir::new().unwrap();
    let path = socket(&folder);
    let backend = super::echoing().await;
    let [admin] = free_ports();
    let text = config(&path, admin, &backend);
    let mut old = Callboard::run(folder.path(), &text);
    old.until_logged("ready").await;
    old.signal(Signal::SIGTERM);
    old.until_logged("draining").await;
    let elsewhere = TempDir::new().unwrap();
    fs::write(elsewhere.path().join("ca.pem"), "no certificate").unwrap();
    let registry = "[registry.consul]\naddress = \"https://127.0.0.1:1\"\n\
                    tls = { ca = \"ca.pem\" }\n";
    fs::write(elsewhere.path().join("proxy.toml"), text + registry).unwrap();
    let new = command(elsewhere.path()).kill_on_drop(true).output();
    let new = timeout(PATIENCE, new).await.unwrap().unwrap();
    let said = String::from_utf8(new.stderr).unwrap();
    assert_eq!(new.status.code(), Some(1), "{said}");
    assert!(said.contains("registry.consul.tls"), "{said}");
    for _ in 0..3 {
        assert_eq!(connect(&path).await.ask(GET).await.status(), 200);
    }
    let names = fs::read_dir(folder.path()).unwrap();
    let names: Vec<_> = names.map(|entry| entry.unwrap().file_name()).collect();
    // The socket, and the file.
    assert_eq!(names.len(), 2, "{names:?}");
}

/// Others' files in a sticky folder are not removed, as in `/tmp`.
#[tokio::test]
async fn a_file_that_was_left_behind_and_may_not_be_removed_is_named() {
    // Only root can be another user.
    let folder = TempDir::new().unwrap();
    if fs::metadata(folder.path()).unwrap().uid() != 0 {
        println!("left out: this is not root");
        return;
    }
    let everybodys = |path: &Path, mode| fs::set_permissions(path, Permissions::from_mode(mode));
    everybodys(folder.path(), 0o1777).unwrap();
    let path = socket(&folder);
    drop(UnixListener::bind(&path).unwrap());
    everybodys(&path, 0o666).unwrap();
    let backend = super::echoing().await;
    let [admin] = free_ports();
    let text = config(&path, admin, &backend);
    fs::write(folder.path().join("proxy.toml"), text).unwrap();
    let mut new = command(folder.path());
    let new = new.uid(65534).gid(65534).kill_on_drop(true).output();
    let Ok(new) = timeout(PATIENCE, new).await.unwrap() else {
        println!("left out: another user may not run the binary");
        return;
    };
    let said = String::from_utf8(new.stderr).unwrap();
    assert_eq!(new.status.code(), Some(1), "{said}");
    let expected = "a process has left behind cannot be removed";
    assert!(said.contains(expected), "{said}");
    assert!(path.exists());
}

/// Asks on one new connection after the other until it is told to stop: how often, and what failed.
async fn ask_on_and_on(path: PathBuf, stop: CancellationToken) -> (usize, Vec<String>) {
    let (mut asked, mut failed) = (0, Vec::new());
    while !stop.is_cancelled() {
        asked += 1;
        match tokio::net::UnixStream::connect(&path).await {
            Err(error) => failed.push(error.to_string()),
            Ok(stream) => {
                let mut client = super::wire(stream);
                client
                    .send(GET.replace("Host", "Connection: close\r\nHost"))
                    .await;
                match client.message().await {
                    Some(got) if got.status() == 200 => {}
                    Some(got) => failed.push(got.text().to_owned()),
                    None => failed.push("no answer".to_owned()),
                }
            }
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    (asked, failed)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_successor_has_the_path_without_a_gap() {
    let folder = TempDir::new().unwrap();
    let path = socket(&folder);
    let backend = super::echoing().await;
    let [admin] = free_ports();
    let text = config(&path, admin, &backend);
    let mut old = Callboard::run(folder.path(), &text);
    old.until_logged("ready").await;
    let stop = CancellationToken::new();
    let asking = tokio::spawn(ask_on_and_on(path.clone(), stop.clone()));
    for _ in 0..3 {
        old.signal(Signal::SIGTERM);
        old.until_logged("draining").await;
        let mut new = Callboard::run(folder.path(), &text);
        new.until_logged("hands its addresses over").await;
        new.until_logged("ready").await;
        assert_eq!(old.ended().await.0, Some(0));
        let served = async || connect(&path).await.ask(GET).await;
        eventually("the new one serves", served, |got| {
            got.field("connection").is_none()
        })
        .await;
        old = new;
    }
    stop.cancel();
    let (asked, failed) = asking.await.unwrap();
    println!(
        "{asked} requests over three restarts, {} failed",
        failed.len()
    );
    assert!(failed.is_empty(), "{} of {asked}: {failed:?}", failed.len());
    assert!(asked > 0);
}
