//! `callboard health` says by its status whether a proxy is alive, and on one line why not.

use std::{path::Path, process::Output};

use http::StatusCode;
use tokio::process::Command;

use super::support::{backend::Backend, proxy::Proxy, server::free_ports};

async fn health(folder: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_callboard"));
    // A proxy of the machine's is no way to this machine itself.
    command.env("HTTP_PROXY", "http://127.0.0.1:1");
    command.arg("health").args(args).current_dir(folder);
    command.output().await.unwrap()
}

fn assert_well(output: &Output) {
    assert!(output.status.success(), "{output:?}");
    assert!(output.stdout.is_empty() && output.stderr.is_empty());
}

/// The line that says why.
fn assert_ill(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(output.stdout.is_empty());
    said
}

#[tokio::test]
async fn a_proxy_that_lives_is_well_and_one_that_is_gone_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let proxy = Proxy::start("").await;
    let url = proxy.admin("");
    assert_well(&health(folder.path(), &["--admin", &url]).await);
    assert_well(&health(folder.path(), &["--admin", &format!("{url}/")]).await);
    proxy.drain().await;
    let said = assert_ill(&health(folder.path(), &["--admin", &url]).await);
    assert!(
        said.contains(&format!("no answer from {url}/live")),
        "{said}"
    );
}

#[tokio::test]
async fn a_machine_without_certificate_authorities_asks_all_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let proxy = Proxy::start("").await;
    for command in ["health", "status"] {
        let mut command_line = Command::new(env!("CARGO_BIN_EXE_callboard"));
        command_line
            .args([command, "--admin", &proxy.admin("")])
            .env("SSL_CERT_FILE", "/dev/null")
            .env("SSL_CERT_DIR", folder.path());
        let output = command_line.output().await.unwrap();
        assert!(output.status.success(), "{command}: {output:?}");
    }
    proxy.drain().await;
}

#[tokio::test]
async fn another_server_in_its_place_is_not_well() {
    let folder = tempfile::tempdir().unwrap();
    let other = Backend::named("other")
        .answering(async |_| StatusCode::NOT_FOUND)
        .start()
        .await;
    let url = format!("http://{}", other.address());
    let said = assert_ill(&health(folder.path(), &["--admin", &url]).await);
    assert!(said.contains("404"), "{said}");
}

#[tokio::test]
async fn the_address_comes_from_the_file_that_is_named_or_from_proxy_toml() {
    let folder = tempfile::tempdir().unwrap();
    let [port] = free_ports();
    let proxy = Proxy::start(&format!("[admin]\naddress = \"127.0.0.1:{port}\"\n")).await;
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    let route = "[[route]]\nservice = \"cart\"\n[admin]\naddress = ";
    let there = ["--config", "other.toml"];
    // Where it listens everywhere, it is asked on loopback.
    let token = "token = { env = \"UNSET\" }";
    write(
        "other.toml",
        &format!("{route}\"0.0.0.0:{port}\"\n{token}\n"),
    );
    assert_well(&health(folder.path(), &there).await);
    // An error elsewhere in the file is none of the proxy's that runs.
    write(
        "other.toml",
        &format!("servce = 1\n{route}\"127.0.0.1:{port}\"\n"),
    );
    assert_well(&health(folder.path(), &there).await);
    let said = assert_ill(&health(folder.path(), &["--config", "another.toml"]).await);
    assert!(said.contains("another.toml is not there"), "{said}");

    write("proxy.toml", &format!("{route}\"127.0.0.1:{port}\"\n"));
    assert_well(&health(folder.path(), &[]).await);
    write("proxy.toml", &format!("{route}\"127.0.0.1:0\"\n"));
    let said = assert_ill(&health(folder.path(), &[]).await);
    assert!(said.contains("--admin"), "{said}");
    drop(proxy);
}
