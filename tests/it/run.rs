//! `callboard run` as a person starts it: with the file that comes with it, on ports that may be
//! taken, and again after it was killed.

use std::{
    net::{SocketAddr, TcpListener},
    process::Output,
};

use serde_json::json;
use tempfile::TempDir;

use crate::support::{
    backend::Backend,
    callboard::{Callboard, command},
    eventually,
    server::free_ports,
};

/// proxy.toml as it comes, but on ports of the test's own.
struct Shipped {
    folder: TempDir,
    text: String,
    proxy: u16,
    registry: u16,
    admin: u16,
    http: reqwest::Client,
}

impl Shipped {
    fn new() -> Self {
        let [proxy, registry, admin] = free_ports();
        let mut text = include_str!("../../proxy.toml").to_owned();
        for (theirs, ours) in [
            ("\naddress = \"0.0.0.0:8080\"\n", proxy),
            ("\naddress = \"127.0.0.1:8500\"\n", registry),
            ("\naddress = \"127.0.0.1:9900\"\n", admin),
        ] {
            assert_eq!(text.matches(theirs).count(), 1, "{theirs}");
            text = text.replace(theirs, &format!("\naddress = \"127.0.0.1:{ours}\"\n"));
        }
        Self {
            folder: TempDir::new().unwrap(),
            text,
            proxy,
            registry,
            admin,
            http: reqwest::Client::builder().no_proxy().build().unwrap(),
        }
    }

    async fn run(&self) -> Callboard {
        let mut callboard = Callboard::run(self.folder.path(), &self.text);
        callboard.until_logged("the admin server is at").await;
        callboard
    }

    async fn register(&self, name: &str, address: SocketAddr) {
        let url = format!(
            "http://127.0.0.1:{}/v1/agent/service/register",
            self.registry
        );
        let service = json!({"Name": name, "Address": address.ip(), "Port": address.port()});
        let answer = self.http.put(url).json(&service).send().await.unwrap();
        assert!(answer.status().is_success(), "{answer:?}");
    }

    async fn get(&self, port: u16, path: &str) -> (u16, String) {
        let url = format!("http://127.0.0.1:{port}{path}");
        let answer = self.http.get(url).send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    }

    async fn until_served(&self, path: &str) -> String {
        let ask = async || self.get(self.proxy, path).await;
        let served = eventually("it is served", ask, |(status, _)| *status == 200);
        served.await.1
    }
}

fn echo(id: &'static str) -> crate::support::backend::Setup {
    Backend::named(id).answering(move |request| async move {
        let prefix = request.headers().get("x-forwarded-prefix").unwrap();
        format!("{id} {} {}", request.uri(), prefix.to_str().unwrap())
    })
}

#[tokio::test]
async fn the_file_that_comes_with_callboard_serves_as_its_comments_say() {
    let shipped = Shipped::new();
    let _callboard = shipped.run().await;
    assert_eq!(shipped.get(shipped.proxy, "/hello").await.0, 404);
    let hello = echo("hello").start().await;
    shipped.register("hello", hello.address()).await;
    let got = shipped.until_served("/hello/world?x").await;
    assert_eq!(got, "hello /world?x /hello");
    assert_eq!(shipped.get(shipped.admin, "/live").await.0, 200);
    let ready = async || shipped.get(shipped.admin, "/ready").await;
    eventually("it is ready", ready, |(status, _)| *status == 200).await;
}

/// Nobody signs in a second time.
#[tokio::test]
async fn what_was_registered_is_served_again_after_kill_9() {
    let shipped = Shipped::new();
    let (hello, cart) = (echo("hello").start().await, echo("cart").start().await);
    let callboard = shipped.run().await;
    shipped.register("hello", hello.address()).await;
    shipped.until_served("/hello").await;
    // The answer is all that is waited for.
    shipped.register("cart", cart.address()).await;
    callboard.kill().await;

    let _callboard = shipped.run().await;
    assert_eq!(shipped.until_served("/hello/1").await, "hello /1 /hello");
    assert_eq!(shipped.until_served("/cart/2").await, "cart /2 /cart");
}

/// It must end, with 1, and with one line that names the address.
#[track_caller]
fn assert_taken(output: &Output, says: &str) {
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = String::from_utf8(output.stderr.clone()).unwrap();
    let wanted = format!("error: {says}: Address already in use");
    assert!(said.starts_with(&wanted), "{wanted:?}: {said:?}");
    assert_eq!(said.lines().count(), 1, "{said:?}");
}

#[tokio::test]
async fn it_refuses_to_start_on_a_port_that_is_taken() {
    for workers in [1, 2] {
        let shipped = Shipped::new();
        let text = shipped
            .text
            .replace("#workers = 4", &format!("workers = {workers}"));
        assert_ne!(text, shipped.text);
        std::fs::write(shipped.folder.path().join("proxy.toml"), text).unwrap();
        for (port, says) in [
            (shipped.proxy, "cannot listen on"),
            (shipped.registry, "the registry cannot listen on"),
            (shipped.admin, "the admin server cannot listen on"),
        ] {
            let _taken = TcpListener::bind(("127.0.0.1", port)).unwrap();
            let output = command(shipped.folder.path()).output().await.unwrap();
            assert_taken(&output, &format!("{says} 127.0.0.1:{port}"));
        }
    }
}

/// The kernel would let two share a port, and give each half of the connections.
#[tokio::test]
async fn it_refuses_to_share_a_port_with_another_callboard() {
    let first = Shipped::new();
    let hello = echo("hello").start().await;
    let _first = first.run().await;
    first.register("hello", hello.address()).await;
    first.until_served("/hello").await;
    let second = Shipped::new();
    let theirs = format!("127.0.0.1:{}", first.proxy);
    let text = second
        .text
        .replace(&format!("127.0.0.1:{}", second.proxy), &theirs);
    std::fs::write(second.folder.path().join("proxy.toml"), text).unwrap();
    let output = command(second.folder.path()).output().await.unwrap();
    assert_taken(&output, &format!("cannot listen on {theirs}"));
    for _ in 0..20 {
        assert_eq!(first.get(first.proxy, "/hello").await.0, 200);
    }
}

#[tokio::test]
async fn without_a_file_it_serves_what_signs_in_at_the_registry_of_the_command_line() {
    let folder = TempDir::new().unwrap();
    let [proxy, registry, admin] = free_ports();
    let url = format!("embedded://127.0.0.1:{registry}");
    let [listen, at] = [proxy, admin].map(|port| format!("127.0.0.1:{port}"));
    let mut callboard = command(folder.path());
    callboard.args(["--registry", &url, "--listen", &listen, "--admin", &at]);
    let mut callboard = Callboard::start(callboard);
    callboard.until_logged("the admin server is at").await;
    let shipped = Shipped {
        folder,
        text: String::new(),
        proxy,
        registry,
        admin,
        http: reqwest::Client::builder().no_proxy().build().unwrap(),
    };
    let hello = echo("hello").start().await;
    shipped.register("hello", hello.address()).await;
    assert_eq!(shipped.until_served("/hello/x").await, "hello /x /hello");
}

/// In a network of its own, since the ports are those that everyone has.
#[tokio::test]
async fn its_name_alone_in_an_empty_folder_serves_and_says_what_to_do_next() {
    let unshare = |script: &str| {
        let mut command = tokio::process::Command::new("unshare");
        command.args(["-rn", "sh", "-c", script]);
        command
    };
    let network = "ip link set lo up";
    let tried = unshare(network).output().await;
    if !tried.is_ok_and(|tried| tried.status.success()) {
        println!("left out: no network can be made here");
        return;
    }
    let folder = TempDir::new().unwrap();
    let binary = env!("CARGO_BIN_EXE_callboard");
    let mut command = unshare(&format!("{network} && exec {binary}"));
    command.current_dir(folder.path());
    let mut callboard = Callboard::start(command);
    let [_, next] = callboard
        .until_all_logged(["listening on", "there is no proxy.toml here"])
        .await;
    for word in ["callboard register NAME --port PORT", "callboard init"] {
        assert!(next.contains(word), "{next}");
    }
}

#[tokio::test]
async fn a_file_that_init_writes_is_served_by_its_name_alone() {
    let folder = TempDir::new().unwrap();
    let callboard = |words: &[&str]| {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_callboard"));
        command.args(words).current_dir(folder.path());
        command
    };
    let written = callboard(&["init", "mine.toml"]).output().await.unwrap();
    assert!(written.status.success(), "{written:?}");
    let again = callboard(&["init", "mine.toml"]).output().await.unwrap();
    assert_eq!(again.status.code(), Some(1), "{again:?}");
    let checked = callboard(&["check", "mine.toml"]).output().await.unwrap();
    assert!(checked.status.success(), "{checked:?}");
    // On free ports, which it does not have by itself.
    let path = folder.path().join("mine.toml");
    let mut text = std::fs::read_to_string(&path).unwrap();
    for port in ["8080", "8500"] {
        text = text.replace(&format!("127.0.0.1:{port}"), "127.0.0.1:0");
    }
    std::fs::write(&path, format!("admin.address = \"127.0.0.1:0\"\n{text}")).unwrap();
    let mut running = Callboard::start(callboard(&["run", "mine.toml"]));
    running.until_logged("the admin server is at").await;
}

#[tokio::test]
async fn who_has_a_consul_at_the_embedded_registrys_port_is_told_what_to_write() {
    let first = Shipped::new();
    let _first = first.run().await;
    let second = Shipped::new();
    let theirs = format!("127.0.0.1:{}", first.registry);
    let text = second
        .text
        .replace(&format!("127.0.0.1:{}", second.registry), &theirs);
    std::fs::write(second.folder.path().join("proxy.toml"), text).unwrap();
    let output = command(second.folder.path()).output().await.unwrap();
    assert_taken(&output, &format!("the registry cannot listen on {theirs}"));
    let said = String::from_utf8(output.stderr).unwrap();
    let advice = format!("`callboard run --registry consul://{theirs}`");
    assert!(said.contains(&advice), "{said}");
}
