//! Programs of the field that ask for WebSocket by HTTP/2 go over, and end as they do by HTTP/1.1.

use std::process::Stdio;

use serde_json::json;
use tokio::process::Command;

use super::*;
use crate::support::{authority::Authority, backend::Backend, browser::Browser, server};

/// A proxy that speaks TLS in front of a page and of a server of WebSocket, and the file of its access log.
async fn secured(page: SocketAddr, chat: SocketAddr) -> (Proxy, std::path::PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    Authority::new(folder.path()).issue_for("site", &["localhost", "127.0.0.1"], |_| {});
    let log = folder.path().join("access.log");
    let config = format!(
        "workers = 1\n[[listen]]\naddress = \"127.0.0.1:0\"\n\
         tls = {{ certificates = [{{ cert = \"site-certificate.pem\", key = \"site-key.pem\" }}] }}\n\
         [[route]]\npath = \"/page\"\nservice = \"page\"\n\
         [[route]]\npath = \"/cart\"\nservice = \"cart\"\n\
         [access_log]\nto = \"file:{}\"\nformat = \"{{path}} {{status}} {{protocol}}\"\n",
        log.display()
    );
    let proxy = Proxy::start_in(folder, &config).await;
    proxy.register("page", page).await;
    proxy.until_states("page", &[(page, "serving")]).await;
    know(&proxy, &[chat]).await;
    (proxy, log)
}

/// Waits until these lines are among those of the access log.
async fn until_logged(log: &std::path::Path, lines: &[&str]) {
    let read = async || std::fs::read_to_string(log).unwrap_or_default();
    let has = |text: &String| lines.iter().all(|line| text.lines().any(|is| is == *line));
    eventually("it is logged", read, has).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_browser_has_a_websocket_on_the_connection_of_its_page() {
    let page = Backend::start("page").await;
    let (chat, mut closes) = super::websocket::server().await;
    let (proxy, log) = secured(page.address(), chat).await;
    let Some(mut browser) = Browser::start("light", 800).await else {
        return;
    };
    let url = format!("https://127.0.0.1:{}/page", proxy.address().port());
    browser.open(&url).await;
    let said = browser
        .value(
            "new Promise((done, fail) => {
                const socket = new WebSocket(`wss://${location.host}/cart`);
                socket.onopen = () => socket.send('hello');
                socket.onmessage = ({ data }) => {
                    socket.onclose = ({ code, wasClean }) => done([data, code, wasClean]);
                    socket.close(3001);
                };
                socket.onerror = () => fail('error');
            })",
        )
        .await;
    assert_eq!(said, json!(["hello", 3001, true]));
    assert_eq!(closes.recv().await.flatten().map(u16::from), Some(3001));
    until_logged(&log, &["/page 200 HTTP/2.0", "/cart 101 HTTP/2.0"]).await;
    until_open(&proxy, 0).await;
    assert_eq!(ended(&proxy, "client_reset").await, 0);
}

#[tokio::test]
async fn node_goes_over_and_sends_and_hears_all_of_it() {
    if !server::has_program(
        std::process::Command::new("node")
            .arg("--version")
            .stdout(Stdio::null()),
    ) {
        return;
    }
    let page = Backend::start("page").await;
    let echo = super::connect::accepting(echo).await;
    let (proxy, log) = secured(page.address(), echo.address()).await;
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/upgrades/connect.mjs");
    let url = format!("https://localhost:{}", proxy.address().port());
    let node = Command::new("node")
        .args([script, &url, "/cart"])
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(crate::support::PATIENCE, node).await;
    let output = output.expect("node ends").unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "200 3000000\n");
    until_logged(&log, &["/cart 101 HTTP/2.0"]).await;
    until_ended(&proxy, "client", 1).await;
}
