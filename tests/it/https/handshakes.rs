//! Handshakes: how many may be under way, how long, and what comes of those that are none.

use std::{fs, sync::Arc};

use rustls::{AlertDescription, Error, pki_types::ServerName, version::TLS12};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

use super::{SITE, Site};
use crate::support::{eventually, tls::VERSIONS};

const ONE: &str = "certificates = [{ cert = \"site-certificate.pem\", key = \"site-key.pem\" }]";

#[tokio::test]
async fn clients_that_say_nothing_keep_no_other_from_its_handshake() {
    let limits = "limits = { handshakes = 8 }\ntimeout = { handshake = \"1h\" }";
    let site = Site::with(ONE, limits, |_| {}).await;
    let mut silent = Vec::new();
    for round in 0..10 {
        for place in 0..10 {
            let mut stream = TcpStream::connect(site.address()).await.unwrap();
            if place % 2 == 0 {
                // The start of a handshake, and no more.
                stream.write_all(&[22, 3, 1, 0, 200, 1]).await.unwrap();
            }
            silent.push(stream);
        }
        // A worker may be late to accept, and what it then accepts at once is newer than the client.
        let begun = async || {
            let handshakes = site.status().await["handshakes"].take();
            let count = |result: &str| handshakes[result].as_u64().unwrap();
            count("pending") + count("evicted")
        };
        eventually("all have begun", begun, |begun| *begun == 10 * (round + 1)).await;
        let answer = site.client().get("/site/").await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{round}: {answer}");
    }
    let pending = async || site.handshakes("pending").await;
    eventually("the rest is given up", pending, |pending| *pending <= 8).await;
    let evicted = site.handshakes("evicted").await;
    assert!((92..=110).contains(&evicted), "{evicted}");
    // The first of them are gone.
    assert_eq!(silent[1].read(&mut [0; 9]).await.unwrap_or(0), 0);
}

#[tokio::test]
async fn a_handshake_that_takes_too_long_is_ended() {
    let limits = "timeout = { handshake = \"2s\" }";
    let site = Site::with(ONE, limits, |_| {}).await;
    let mut in_time = site.client().connect().await.unwrap();
    let mut silent = TcpStream::connect(site.address()).await.unwrap();
    let mut begun = TcpStream::connect(site.address()).await.unwrap();
    begun.write_all(&[22, 3, 1, 0, 200, 1]).await.unwrap();
    for stream in [&mut silent, &mut begun] {
        assert_eq!(stream.read(&mut [0; 9]).await.unwrap_or(0), 0);
    }
    let handshakes = async || site.status().await["handshakes"].take();
    let are_over = |shown: &Value| shown["late"] == 2 && shown["pending"] == 0;
    eventually("both are counted, and over", handshakes, are_over).await;
    // What is done in time is not cut for it.
    super::ask(&mut in_time, "/site/", "").await.unwrap();
    assert!(
        super::answer(&mut in_time)
            .await
            .starts_with("HTTP/1.1 200")
    );
}

#[tokio::test]
async fn http_where_tls_is_spoken_is_told_so() {
    let site = Site::start("").await;
    let mut stream = TcpStream::connect(site.address()).await.unwrap();
    let request = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello";
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 400 Bad Request\r\n"),
        "{answer}"
    );
    assert!(
        answer.ends_with("this port speaks TLS; ask it with https://\n"),
        "{answer}"
    );
    let not_tls = async || site.handshakes("not_tls").await;
    eventually("it is counted", not_tls, |count| *count == 1).await;
    // Neither HTTP nor TLS.
    let mut stream = TcpStream::connect(site.address()).await.unwrap();
    stream.write_all(&[0, 1, 2, 3]).await.unwrap();
    assert_eq!(stream.read(&mut [0; 9]).await.unwrap_or(0), 0);
}

#[tokio::test]
async fn tls_where_none_is_spoken_gets_an_alert() {
    let site = Site::start("").await;
    let mut client = site.client();
    client.address = site.proxy.address();
    let error = client.connect().await.unwrap_err();
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref());
    let alert = Error::AlertReceived(AlertDescription::ProtocolVersion);
    assert_eq!(cause, Some(&alert));
}

/// As a client does that takes the port for a proxy's, or goes through one TLS too many.
#[tokio::test]
async fn tls_within_tls_gets_an_alert_within() {
    let site = Site::start("").await;
    let client = site.client();
    let outer = client.connect().await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let inner = TlsConnector::from(Arc::new(client.config()));
    let error = inner.connect(name, outer).await.unwrap_err();
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref());
    let alert = Error::AlertReceived(AlertDescription::ProtocolVersion);
    assert_eq!(cause, Some(&alert));
}

#[tokio::test]
async fn both_versions_are_spoken_or_the_newer_alone() {
    let site = Site::start("").await;
    for version in VERSIONS {
        let answer = site.client().speaking(version).get("/site/").await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
    for more in ["profile = \"modern\"", "min_version = \"1.3\""] {
        let site = Site::start(more).await;
        assert!(site.client().get("/site/").await.is_ok());
        let error = site
            .client()
            .speaking(&TLS12)
            .get("/site/")
            .await
            .unwrap_err();
        let cause = error.get_ref().and_then(|cause| cause.downcast_ref());
        let refused = Error::AlertReceived(AlertDescription::ProtocolVersion);
        assert_eq!(cause, Some(&refused), "{more}");
    }
}

#[tokio::test]
async fn a_session_is_resumed_at_another_proxy_with_the_same_keys_whichever_comes_first() {
    let (old, new) = ("a".repeat(64), "b".repeat(64));
    let tls = format!("certificates = [{SITE}], tickets = {{ file = \"keys\" }}");
    let start = async |keys: &str| {
        Site::with(&tls, "", |authority| {
            let folder = authority.ca().parent().unwrap().to_owned();
            fs::write(folder.join("keys"), keys).unwrap();
        })
        .await
    };
    let first = start(&format!("# old\n{old}\n")).await;
    let second = start(&format!("{new}\n{old}\n")).await;
    // One certificate for both, as proxies that stand for each other have.
    for file in ["site-certificate.pem", "site-key.pem"] {
        fs::copy(first.folder.join(file), second.folder.join(file)).unwrap();
    }
    let shown = async || second.client_of(&first).shown().await.ok();
    eventually("the certificate is shown", shown, Option::is_some).await;
    for (place, version) in (1..).zip(VERSIONS) {
        let mut client = first.client().speaking(version).remembering();
        client.get("/site/").await.unwrap();
        client.address = second.address();
        client.get("/site/").await.unwrap();
        assert_eq!(second.handshakes("resumed").await, place, "{version:?}");
        // The key that the second encrypts by is none of the first's yet.
        client.address = first.address();
        client.get("/site/").await.unwrap();
        assert_eq!(first.handshakes("resumed").await, 0, "{version:?}");
    }
    let keys = async || first.status().await["tickets"].clone();
    fs::write(first.folder.join("keys"), "none").unwrap();
    let is_said = |tickets: &Value| tickets["error"].is_string();
    let said = eventually("the broken file is said", keys, is_said).await;
    assert_eq!(said["keys"].as_array().unwrap().len(), 1);
    fs::write(first.folder.join("keys"), format!("{new}\n{old}\n")).unwrap();
    let is_taken = |tickets: &Value| tickets["error"].is_null();
    let said = eventually("the new keys are taken", keys, is_taken).await;
    assert_eq!(said["keys"], second.status().await["tickets"]["keys"]);
    let before = first.handshakes("resumed").await;
    let mut client = second.client_of(&first).remembering();
    client.get("/site/").await.unwrap();
    client.address = first.address();
    client.get("/site/").await.unwrap();
    assert_eq!(first.handshakes("resumed").await, before + 1);
}

#[tokio::test]
async fn a_second_connection_resumes_the_first_ones_session_and_so_it_does_after_a_new_certificate()
{
    for version in VERSIONS {
        let site = Site::with(&format!("certificates = [{SITE}]"), "", |_| {}).await;
        let client = site.client().speaking(version).remembering();
        client.get("/site/").await.unwrap();
        client.get("/site/").await.unwrap();
        assert_eq!(site.handshakes("resumed").await, 1, "{version:?}");
        site.authority.issue("site");
        let metrics = async || site.proxy.page("/metrics").await.text().await.unwrap();
        let is_taken = |metrics: &String| {
            let mut lines = metrics.lines();
            lines.any(|line| {
                line.contains("reloads_total{") && line.contains("taken") && line.ends_with(" 1")
            })
        };
        eventually("the new one is taken over", metrics, is_taken).await;
        client.get("/site/").await.unwrap();
        assert_eq!(site.handshakes("resumed").await, 2, "{version:?}");
    }
}
