//! Programs that speak the PROXY protocol are understood.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use tokio::{process::Command, time::timeout};

use super::{Site, forwarded};
use crate::support::{PATIENCE, authority::Authority, haproxy::HaProxy, server::free_ports};

/// Where a client of this machine comes from that is not the proxy in front.
const CLIENT: &str = "127.0.0.7";

fn client() -> reqwest::ClientBuilder {
    let address: IpAddr = CLIENT.parse().unwrap();
    reqwest::Client::builder().no_proxy().local_address(address)
}

#[tokio::test]
async fn curl_says_who_it_is() {
    let site = Site::trusting("", "").await;
    let mut curl = Command::new("curl");
    curl.args(["-sS", "--noproxy", "*", "--haproxy-protocol"])
        .args(["--max-time", "20", "--interface", CLIENT])
        .arg(site.proxy.url("/cart"))
        .arg(site.proxy.url("/cart"));
    let output = timeout(PATIENCE, curl.kill_on_drop(true).output()).await;
    let Ok(output) = output.unwrap() else {
        println!("left out: this machine has no curl");
        return;
    };
    // That it comes from there makes it a stranger.
    assert!(!output.status.success());
    assert_eq!(site.count("untrusted").await, 2);

    // By HTTP/2 this curl asks once: it cannot go on with such a connection.
    for (asked, version) in [(2, "--http1.1"), (1, "--http2-prior-knowledge")] {
        let before = site.count("proxied").await;
        let mut curl = Command::new("curl");
        curl.args(["-sS", "--noproxy", "*", "--haproxy-protocol", version])
            .args(["--max-time", "20"])
            .args(vec![site.proxy.url("/cart"); asked]);
        let output = timeout(PATIENCE, curl.kill_on_drop(true).output()).await;
        let said = String::from_utf8(output.unwrap().unwrap().stdout).unwrap();
        let told = said.matches("x-forwarded-for: 127.0.0.1\n").count();
        assert_eq!(told, asked, "{version}: {said}");
        assert_eq!(site.count("proxied").await, before + 1);
    }
}

#[tokio::test]
async fn haproxy_in_front_says_who_the_client_is_in_both_versions() {
    let site = Site::trusting("", "").await;
    let ports: [u16; 3] = free_ports();
    let mut sections = String::new();
    for (port, send) in ports.into_iter().zip([
        "send-proxy",
        "send-proxy-v2",
        "send-proxy-v2 proxy-v2-options crc32c,unique-id,authority",
    ]) {
        sections += &format!(
            "listen p{port}\n bind 127.0.0.1:{port}\n server s {} {send} check\n",
            site.address()
        );
    }
    let address = SocketAddr::from(([127, 0, 0, 1], ports[2]));
    let folder = tempfile::tempdir().unwrap();
    let Some(_haproxy) = HaProxy::start(folder, &sections, address).await else {
        return;
    };
    for port in ports {
        let client = client().build().unwrap();
        for _ in 0..3 {
            let url = format!("http://127.0.0.1:{port}/cart");
            let answer = client.get(url).send().await.unwrap().text().await.unwrap();
            assert_eq!(forwarded(&answer), Some(CLIENT));
        }
    }
    for result in ["malformed", "missing", "too_large", "late"] {
        assert_eq!(site.count(result).await, 0, "{result}");
    }
    assert!(site.count("proxied").await >= 3);
}

/// The header stands before the handshake, in which HTTP/2 is chosen.
#[tokio::test]
async fn a_client_that_chooses_http2_in_the_handshake_is_the_one_of_the_header() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new(folder.path());
    authority.issue_for("site", &["localhost", "127.0.0.1"], |_| {});
    let lines = "trusted_proxies = [\"127.0.0.1\"]\n\
        tls = { certificates = [{ cert = \"site-certificate.pem\", key = \"site-key.pem\" }] }";
    let site = Site::start_in(folder, lines, "").await;
    let mut curl = Command::new("curl");
    curl.args(["-sS", "--noproxy", "*", "--haproxy-protocol", "--http2"])
        .args(["-k", "--max-time", "20", "-w", "spoken: %{http_version}\\n"])
        .arg(format!("https://{}/cart", site.address()));
    let output = timeout(PATIENCE, curl.kill_on_drop(true).output()).await;
    let Ok(output) = output.unwrap() else {
        println!("left out: this machine has no curl");
        return;
    };
    let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    assert!(said.contains("x-forwarded-for: 127.0.0.1\n"), "{said}");
    assert!(said.contains("x-forwarded-proto: https\n"), "{said}");
    assert!(said.contains("spoken: 2\n"), "{said}");
    assert_eq!(site.count("proxied").await, 1);
}

/// TLS is ended in front, or passed through and ended here.
#[tokio::test]
async fn a_client_of_tls_comes_by_https_wherever_its_tls_ends() {
    let [ends, passes] = free_ports();
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new(folder.path());
    authority.issue_for("site", &["localhost", "127.0.0.1"], |_| {});
    let read = |name: &str| fs::read_to_string(folder.path().join(name)).unwrap();
    let pem = read("site-certificate.pem") + &read("site-key.pem");
    let ca = fs::read(authority.ca()).unwrap();
    let own = tempfile::tempdir().unwrap();
    fs::write(own.path().join("site.pem"), pem).unwrap();
    let trusted = "trusted_proxies = [\"127.0.0.1\"]";
    let clear = Site::start(trusted, "").await;
    let tls =
        "tls = { certificates = [{ cert = \"site-certificate.pem\", key = \"site-key.pem\" }] }";
    let secured = Site::start_in(folder, &format!("{trusted}\n{tls}"), "").await;
    let sections = format!(
        "listen ends\n bind 127.0.0.1:{ends} ssl crt site.pem\n server s {} send-proxy-v2-ssl\n\
         listen passes\n bind 127.0.0.1:{passes}\n server s {} send-proxy\n",
        clear.address(),
        secured.address()
    );
    let address = SocketAddr::from(([127, 0, 0, 1], passes));
    let Some(_haproxy) = HaProxy::start(own, &sections, address).await else {
        return;
    };
    let client = client()
        .tls_certs_only([reqwest::Certificate::from_pem(&ca).unwrap()])
        .timeout(Duration::from_secs(20));
    let client = client.build().unwrap();
    for port in [ends, passes] {
        let url = format!("https://localhost:{port}/cart");
        let answer = client.get(url).send().await.unwrap().text().await.unwrap();
        assert_eq!(forwarded(&answer), Some(CLIENT));
        assert!(answer.contains("x-forwarded-proto: https\n"), "{answer}");
    }
}
