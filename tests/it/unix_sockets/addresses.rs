//! A listener may have several addresses, and those of IPv6 are its own.

use std::net::{Ipv6Addr, SocketAddr};

use super::{GET, connect, text_of};
use crate::support::{proxy::Proxy, raw::Wire, server::free_ports};

#[tokio::test]
async fn one_listener_has_addresses_of_both_families_and_a_path() {
    if std::net::TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_err() {
        println!("left out: this machine has no IPv6");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("http.sock");
    let backend = super::echoing().await;
    let [port] = free_ports();
    // `[::]` takes clients of IPv6 alone: both families have the one port side by side.
    let proxy = Proxy::start_in(
        folder,
        &format!(
            "[[listen]]\naddress = [\"0.0.0.0:{port}\", \"[::]:{port}\", \"unix:{}\"]\n{}",
            path.display(),
            text_of(&backend.address().to_string())
        ),
    )
    .await;
    let loopback = |ip: std::net::IpAddr| SocketAddr::new(ip, port);
    for (ip, told) in [
        (Ipv6Addr::LOCALHOST.into(), "::1"),
        ([127, 0, 0, 1].into(), "127.0.0.1"),
    ] {
        let answer = Wire::connect(loopback(ip)).await.ask(GET).await;
        let line = format!("x-forwarded-for: {told}\n");
        assert!(answer.text().contains(&line), "{}", answer.text());
    }
    let answer = connect(&path).await.ask(GET).await;
    assert!(answer.text().contains("x-forwarded-for: 127.0.0.1\n"));
    let listeners = &proxy.status().await["listeners"];
    let expected = [
        format!("0.0.0.0:{port}"),
        format!("[::]:{port}"),
        format!("unix:{}", path.display()),
    ];
    assert_eq!(*listeners, serde_json::json!(expected));
}

/// An IPv4 client of `[::]` would be `::ffff:127.0.0.1`, which no network of IPv4 has.
#[tokio::test]
async fn an_address_of_ipv6_takes_no_clients_of_ipv4() {
    if std::net::TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_err() {
        println!("left out: this machine has no IPv6");
        return;
    }
    let [port] = free_ports();
    let _proxy = Proxy::start(&format!("[[listen]]\naddress = \"[::]:{port}\"\n")).await;
    let connect = |ip: [u8; 4]| tokio::net::TcpStream::connect((std::net::IpAddr::from(ip), port));
    assert!(connect([127, 0, 0, 1]).await.is_err());
    assert!(
        tokio::net::TcpStream::connect((Ipv6Addr::LOCALHOST, port))
            .await
            .is_ok()
    );
}
