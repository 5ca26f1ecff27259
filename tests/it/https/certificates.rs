//! The certificate that a client is shown: by its name, and the newest that can be used.

use std::{fs, process::Command, time::Duration};

use rustls::{AlertDescription, Error};
use tokio::{task::spawn_blocking, time::timeout};

use super::{Site, answer, ask, certificate_in};
use crate::support::eventually;

const NAMED: &str = "certificates = [{ cert = \"site-certificate.pem\", key = \"site-key.pem\" }, \
    { cert = \"wild-certificate.pem\", key = \"wild-key.pem\" }, \
    { cert = \"shop-certificate.pem\", key = \"shop-key.pem\" }]";

async fn named(more: &str) -> Site {
    Site::with(&format!("{NAMED}, {more}"), "", |authority| {
        authority.issue_for("wild", &["*.example.com"], |_| {});
        authority.issue_for("shop", &["shop.example.com"], |_| {});
    })
    .await
}

#[tokio::test]
async fn a_client_is_shown_the_certificate_of_the_host_that_it_asks_for() {
    let site = named("").await;
    for (host, file) in [
        ("shop.example.com", "shop"),
        ("hat.example.com", "wild"),
        ("localhost", "site"),
        // An IP address is never sent.
        ("127.0.0.1", "site"),
    ] {
        let shown = site.client().asking_for(host).shown().await.unwrap();
        let expected = certificate_in(&site.folder.join(format!("{file}-certificate.pem")));
        assert_eq!(shown, expected, "{host}");
    }
    let error = site
        .client()
        .asking_for("example.org")
        .shown()
        .await
        .unwrap_err();
    let error = error.to_string();
    assert!(
        error.contains("not valid for name"),
        "the first is shown: {error}"
    );
}

#[tokio::test]
async fn a_host_that_no_certificate_is_for_is_refused_where_that_is_said() {
    let site = named("unknown_name = \"refuse\"").await;
    let known = site.client().asking_for("hat.example.com").shown().await;
    assert!(known.is_ok(), "{known:?}");
    for host in ["example.org", "127.0.0.1"] {
        let error = site.client().asking_for(host).shown().await.unwrap_err();
        let cause = error.get_ref().and_then(|cause| cause.downcast_ref());
        let refused = Error::AlertReceived(AlertDescription::AccessDenied);
        assert_eq!(cause, Some(&refused), "{host}");
    }
    // The alert is on its way before it is counted.
    let failed = async || site.handshakes("failed").await;
    eventually("both are counted", failed, |failed| *failed == 2).await;
}

#[tokio::test]
async fn a_new_certificate_is_shown_and_a_broken_one_is_not_and_no_connection_is_dropped() {
    let site = Site::start("").await;
    let mut old = site.client().connect().await.unwrap();
    let file = site.folder.join("site-certificate.pem");
    let first = site.client().shown().await.unwrap();

    site.authority.issue("site");
    let second = certificate_in(&file);
    assert_ne!(first, second);
    let shown = async || site.client().shown().await.unwrap();
    eventually("the new certificate is shown", shown, |shown| {
        *shown == second
    })
    .await;

    fs::write(&file, "no certificate").unwrap();
    let broken = async || site.status().await["certificates"][0]["error"].clone();
    let said = eventually("the broken file is said", broken, |error| error.is_string()).await;
    let said = said.as_str().unwrap();
    assert!(said.contains("holds no certificate in PEM form"), "{said}");
    let metrics = site.proxy.page("/metrics").await.text().await.unwrap();
    let line = metrics
        .lines()
        .find(|line| line.starts_with("callboard_tls_certificate_unusable"));
    assert!(line.is_some_and(|line| line.ends_with(" 1")), "{line:?}");
    assert_eq!(site.client().shown().await.unwrap(), second);

    site.authority.issue("site");
    let third = certificate_in(&file);
    eventually("the mended certificate is shown", shown, |shown| {
        *shown == third
    })
    .await;
    let error = async || site.status().await["certificates"][0]["error"].clone();
    eventually("it is healed", error, |error| error.is_null()).await;

    ask(&mut old, "/site/", "").await.unwrap();
    assert!(answer(&mut old).await.starts_with("HTTP/1.1 200"));
}

/// A pipe that nothing is written to is as a file on a server that does not answer.
#[tokio::test]
async fn a_file_that_takes_for_ever_to_be_read_holds_up_nothing() {
    let site = Site::start("").await;
    let key = site.folder.join("site-key.pem");
    let pipe = site.folder.join("pipe");
    assert!(
        Command::new("mkfifo")
            .arg(&pipe)
            .status()
            .unwrap()
            .success()
    );
    fs::rename(&pipe, &key).unwrap();
    // What opens it for writing waits until it is being read.
    let path = key.clone();
    let opening = spawn_blocking(move || fs::OpenOptions::new().write(true).open(path));
    let pipe = timeout(Duration::from_secs(20), opening).await;
    let pipe = pipe.expect("the new file is read").unwrap().unwrap();

    let metrics = site.proxy.page("/metrics").await.text().await.unwrap();
    assert!(metrics.contains("callboard_tls_certificate_unusable"));
    assert!(site.status().await["certificates"][0]["error"].is_null());
    let answer = site.client().get("/site/").await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    site.proxy.drain().await;
    drop(pipe);
}

#[tokio::test]
async fn it_is_known_when_a_certificate_ends() {
    let site = Site::with(
        &format!("certificates = [{}]", super::SITE),
        "",
        |authority| {
            authority.issue_for("site", &["localhost"], |params| {
                params.not_after = rcgen::date_time_ymd(2031, 2, 3);
            });
        },
    )
    .await;
    let status = site.status().await;
    let certificate = &status["certificates"][0];
    assert_eq!(certificate["hosts"][0], "localhost");
    assert_eq!(certificate["not_after"], 1_927_843_200);
    let metrics = site.proxy.page("/metrics").await.text().await.unwrap();
    let expiry = metrics
        .lines()
        .find(|line| line.starts_with("callboard_tls_certificate_expiry_timestamp_seconds{"));
    let expiry = expiry.and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
    assert_eq!(expiry, Some(1_927_843_200.0));
}
