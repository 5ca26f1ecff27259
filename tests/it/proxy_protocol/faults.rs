//! What is no header, or comes from a stranger, is let in by no way, and is counted by why.

use std::net::SocketAddr;

use tokio::io::AsyncWriteExt as _;

use super::{GET, Site, V1, v2};
use crate::support::{authority::Authority, callboard::Callboard, eventually, raw::Wire};

/// Waits until so many headers came to this.
async fn until_counted(site: &Site, result: &str, count: u64) {
    let ask = async || site.count(result).await;
    eventually(result, ask, |found| *found == count).await;
}

#[tokio::test]
async fn a_stranger_is_closed_whatever_it_says() {
    let site = Site::start("trusted_proxies = [\"10.0.0.0/8\"]", "").await;
    for (count, said) in [(1, V1), (2, GET.as_bytes()), (3, b"")] {
        let mut wire = site.connect().await;
        // It may be closed already.
        let _ = wire.stream.write_all(said).await;
        wire.until_closed().await;
        until_counted(&site, "untrusted", count).await;
    }
    assert_eq!(site.backend.requests(), 0);
}

#[tokio::test]
async fn what_is_no_header_is_refused_and_counted_by_why() {
    let site = Site::trusting("", "").await;
    let mut refused = [0; 3];
    let cases: [(usize, Vec<u8>); 11] = [
        (0, GET.into()),
        (0, b"\x16\x03\x01\x02\0\x01\0".to_vec()),
        (0, b"\r\n\r\nGET / HTTP/1.1\r\n\r\n".to_vec()),
        (1, b"PROXY TCP4 203.0.113.9 10.0.0.1 4000 80\n".to_vec()),
        (1, b"PROXY TCP4 203.0.113.9 ::1 4000 80\r\n".to_vec()),
        (1, b"PROXY HTTP/1.1\r\n".to_vec()),
        (1, v2(0x21, 0x11, &[0; 11])),
        (1, v2(0x23, 0x11, &[0; 12])),
        (
            1,
            v2(0x21, 0x11, &[&[0; 12][..], &[2, 0, 9, b'x']].concat()),
        ),
        (2, [&b"PROXY TCP4 "[..], &[b'1'; 200]].concat()),
        (2, v2(0x20, 0, &vec![0; 4081])),
    ];
    for (why, said) in cases {
        let mut wire = site.passing_on(&said).await;
        let answer = wire.rest().await.unwrap();
        let answer = String::from_utf8(answer).unwrap();
        match said == GET.as_bytes() {
            true => {
                assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
                assert!(answer.contains("begin with a PROXY header"), "{answer}");
            }
            false => assert_eq!(answer, "", "{said:?}"),
        }
        refused[why] += 1;
        let reasons = ["missing", "malformed", "too_large"];
        until_counted(&site, reasons[why], refused[why]).await;
    }
    assert_eq!(site.backend.requests(), 0);
}

/// The first bytes of each are sent, and the rest is waited for.
#[tokio::test]
async fn a_header_is_whole_in_time_or_its_connection_ends() {
    let site = Site::trusting("timeout = { handshake = \"800ms\" }", "").await;
    let v2 = v2(0x20, 0, &[0; 100]);
    let mut late = 0;
    for begun in [
        &b""[..],
        &V1[..3],
        &V1[..V1.len() - 1],
        &v2[..13],
        &v2[..v2.len() - 1],
    ] {
        let mut wire = site.passing_on(begun).await;
        wire.until_closed().await;
        late += 1;
        until_counted(&site, "late", late).await;
    }
    // An end in the midst of one is counted, and one before it is of no interest.
    drop(site.passing_on(&V1[..7]).await);
    until_counted(&site, "closed", 1).await;
    let mut looks = site.connect().await;
    looks.stream.shutdown().await.unwrap();
    looks.until_closed().await;
    let answer = site.passing_on(V1).await.ask(GET).await;
    assert_eq!(answer.status(), 200);
    assert_eq!(site.count("closed").await, 1);
    assert_eq!(site.count("malformed").await, 0);
}

#[tokio::test]
async fn the_log_names_the_client_of_the_header_and_not_the_balancer() {
    let folder = tempfile::tempdir().unwrap();
    Authority::new(folder.path()).issue_for("site", &["localhost"], |_| {});
    let listener = "[[listen]]\naddress = \"127.0.0.1:0\"\nproxy_protocol = true\n\
                    trusted_proxies = [\"127.0.0.1\"]\n";
    let text = format!(
        "[log]\nformat = \"text\"\nlevel = \"debug\"\n[admin]\naddress = \"127.0.0.1:0\"\n\
         {listener}{listener}\
         tls = {{ certificates = [{{ cert = \"site-certificate.pem\", key = \"site-key.pem\" }}] }}\n\
         [service.cart]\nendpoints = [\"127.0.0.1:1\"]\n[[route]]\nservice = \"cart\"\n"
    );
    let mut callboard = Callboard::run(folder.path(), &text);
    let mut address = async || {
        let line = callboard.until_logged("listening on").await;
        let address = line.split("listening on ").nth(1).unwrap();
        address.trim().parse().unwrap()
    };
    let (clear, tls) = (address().await, address().await);
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    // Fields of the stream 0, which there is not; and a record of TLS that holds none.
    let cases: [(SocketAddr, Vec<u8>, &str); 2] = [
        (
            clear,
            [&preface[..], &[0, 0, 0, 1, 4, 0, 0, 0, 0]].concat(),
            "a connection ended with an error",
        ),
        (
            tls,
            b"\x16\x03\x01\0\x05hello".to_vec(),
            "a TLS handshake failed",
        ),
    ];
    for (address, said, line) in cases {
        let mut wire = Wire::connect(address).await;
        wire.send([V1, &said].concat()).await;
        let logged = callboard.until_logged(line).await;
        assert!(logged.contains("203.0.113.9"), "{logged}");
        assert!(!logged.contains("127.0.0.1"), "{logged}");
    }
}

/// A connection whose header has come is served to its end, and one without waits for nothing.
#[tokio::test]
async fn a_proxy_that_drains_serves_whose_header_has_come() {
    // None is cut, however long this takes.
    let drain = "[drain]\nnotice = \"0s\"\ndeadline = \"1h\"";
    let site = Site::trusting("timeout = { handshake = \"1h\" }", drain).await;
    let mut begun = site.passing_on(V1).await;
    until_counted(&site, "proxied", 1).await;
    let mut amid = site.passing_on(&V1[..9]).await;
    let mut silent = Wire::connect(site.address()).await;
    let draining = tokio::spawn(site.proxy.drain());
    assert_eq!(begun.ask(GET).await.status(), 200);
    silent.until_closed().await;
    // It has been told to end, too.
    let answer = amid.ask([&V1[9..], GET.as_bytes()].concat()).await;
    assert_eq!(answer.status(), 200);
    draining.await.unwrap();
}
