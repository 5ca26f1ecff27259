//! Certificates that the proxy orders itself, of a real authority: Pebble.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use aws_lc_rs::digest::{SHA256, digest};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{Client, answer, ask, certificate_in};
use crate::support::{
    authority::Authority,
    backend::Backend,
    eventually,
    pebble::{AWAY, BLOCKED, Behaviour, Pebble},
    proxy::Proxy,
    server::free_ports,
    tls::VERSIONS,
};

const SHOP: &str = "shop.example.com";
const CART: &str = "cart.example.com";

/// A folder for an account and its certificates, which outlives proxies.
struct Kept {
    folder: TempDir,
    acme: String,
}

impl Kept {
    fn of(pebble: &Pebble) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let acme = format!(
            "directory = \"{}\", ca = \"{}\", folder = \"{}\", email = \"ops@example.com\"",
            pebble.directory(),
            pebble.ca().display(),
            folder.path().display()
        );
        Self { folder, acme }
    }

    /// The file of the account at this authority.
    fn account(&self, pebble: &Pebble) -> PathBuf {
        let digest = digest(&SHA256, pebble.directory().as_bytes());
        let start: String = digest.as_ref()[..8]
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        self.folder.path().join(format!("account.{start}.json"))
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(format!("{name}.pem"))
    }

    /// The certificate for a name.
    fn certificate(&self, name: &str) -> Vec<u8> {
        certificate_in(&self.file(name)).to_vec()
    }

    /// A proxy that listens in the clear and by TLS, at these ports, and orders for these names.
    fn config(&self, [clear, tls]: [u16; 2], names: &[&str]) -> String {
        self.config_with("", [clear, tls], names)
    }

    /// The same, with more lines of the listener in the clear.
    fn config_with(&self, lines: &str, [clear, tls]: [u16; 2], names: &[&str]) -> String {
        format!(
            "workers = 1\n[[listen]]\naddress = \"127.0.0.1:{clear}\"\n{lines}\n\
             [[listen]]\naddress = \"127.0.0.1:{tls}\"\n{}",
            self.tls(names)
        )
    }

    fn tls(&self, names: &[&str]) -> String {
        let acme = &self.acme;
        format!("tls = {{ acme = {{ domains = {names:?}, {acme} }} }}\n")
    }

    /// Puts a certificate there that another authority has issued, and that is due for long.
    fn issue_old(&self, name: &str) -> Authority {
        self.issue(name, 2000, 2036)
    }

    /// Puts one there that holds from the first day of one year until that of another.
    fn issue(&self, name: &str, from: i32, until: i32) -> Authority {
        let authority = Authority::new(self.folder.path());
        let (certificate, key) = authority.issue_for("old", &[name], |params| {
            params.not_before = rcgen::date_time_ymd(from, 1, 1);
            params.not_after = rcgen::date_time_ymd(until, 1, 1);
        });
        let both = [certificate, key].map(|file| fs::read_to_string(file).unwrap());
        fs::write(self.file(name), both.concat()).unwrap();
        authority
    }
}

/// A client of the listener that speaks TLS, which believes whom a file names.
fn client(proxy: &Proxy, place: usize, ca: &Path, name: &str) -> Client {
    Client {
        address: proxy.address_of(place),
        ca: ca.to_owned(),
        name: name.to_owned(),
        versions: VERSIONS.to_vec(),
        identity: None,
        config: None,
    }
}

/// What the status says of a name.
async fn name(proxy: &Proxy, name: &str) -> Value {
    let status = proxy.status().await;
    let names = status["acme"].as_array().unwrap();
    let found = names.iter().find(|one| one["name"] == name);
    found.cloned().unwrap_or_default()
}

async fn until_issued(proxy: &Proxy, of: &str) -> Value {
    let what = format!("{of} has a certificate");
    eventually(
        &what,
        async || name(proxy, of).await,
        |one| one["issued"] == true && one["error"].is_null(),
    )
    .await
}

/// The certificate that a client is shown for a name, once it believes it.
async fn until_shown(client: &Client) -> Vec<u8> {
    let shown = async || client.shown().await.map(|shown| shown.to_vec());
    let shown = eventually("a certificate is believed", shown, Result::is_ok).await;
    shown.unwrap()
}

async fn metric(proxy: &Proxy, line: &str) -> Option<f64> {
    let metrics = proxy.page("/metrics").await.text().await.unwrap();
    let value = metrics.lines().find_map(|one| one.strip_prefix(line));
    value.and_then(|value| value.trim().parse().ok())
}

#[tokio::test]
async fn a_certificate_comes_by_http_and_a_restart_orders_none_anew() {
    let behaviour = Behaviour {
        bad_nonces: 30,
        ..Behaviour::default()
    };
    let Some(pebble) = Pebble::start_with(behaviour).await else {
        return;
    };
    let kept = Kept::of(&pebble);
    let ports = [pebble.asks_at()[0], 0];
    let config = |names: &[&str]| kept.config_with("redirect_to_https = true", ports, names);
    let proxy = Proxy::start(&config(&[SHOP])).await;
    let of_shop = until_issued(&proxy, SHOP).await;
    assert_eq!(of_shop["failures"], 0, "{of_shop}");
    let root = pebble.root().await;
    let shown = until_shown(&client(&proxy, 1, &root, SHOP)).await;
    assert_eq!(shown, kept.certificate(SHOP));
    assert_eq!(
        metric(&proxy, "callboard_acme_orders_total{result=\"issued\"}").await,
        Some(1.0)
    );
    // No order is under way any more.
    let path = "/.well-known/acme-challenge/token";
    let asked = async || proxy.get(path).await.status().as_u16();
    eventually("the client is sent to https", asked, |status| {
        *status == 308
    })
    .await;
    for entry in fs::read_dir(kept.folder.path()).unwrap() {
        let entry = entry.unwrap();
        let mode = entry.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{entry:?}: {mode:o}");
    }
    proxy.drain().await;

    let account = fs::read(kept.account(&pebble)).unwrap();
    let proxy = Proxy::start(&config(&[SHOP])).await;
    let shown = client(&proxy, 1, &root, SHOP).shown().await.unwrap();
    assert_eq!(*shown, kept.certificate(SHOP), "it is there from the start");
    let again = name(&proxy, SHOP).await["next"].as_i64().unwrap();
    let left = again - of_shop["next"].as_i64().unwrap();
    assert!(left.abs() < 4 * 24 * 3600, "nothing is due: {again}");
    // A second name is ordered by the same account.
    proxy.write(&config(&[SHOP, CART]));
    let reload = proxy.http.post(proxy.admin("/api/reload")).json(&json!({}));
    assert!(reload.send().await.unwrap().status().is_success());
    until_issued(&proxy, CART).await;
    until_shown(&client(&proxy, 1, &root, CART)).await;
    assert_eq!(
        (pebble.orders(), pebble.accounts()),
        (2, 1),
        "{}",
        pebble.log()
    );
    let now = fs::read(kept.account(&pebble)).unwrap();
    assert_eq!(now, account);
    proxy.drain().await;
}

#[tokio::test]
async fn a_certificate_comes_by_tls_alone_from_an_authority_that_takes_its_time() {
    let behaviour = Behaviour {
        sleep: 2,
        ..Behaviour::default()
    };
    let Some(pebble) = Pebble::start_with(behaviour).await else {
        return;
    };
    let kept = Kept::of(&pebble);
    let (port, tls) = (pebble.asks_at()[1], kept.tls(&[SHOP]));
    let config = format!("workers = 1\n[[listen]]\naddress = \"127.0.0.1:{port}\"\n{tls}");
    let proxy = Proxy::start(&config).await;
    until_issued(&proxy, SHOP).await;
    let root = pebble.root().await;
    let shown = until_shown(&client(&proxy, 0, &root, SHOP)).await;
    assert_eq!(shown, kept.certificate(SHOP));
    assert_eq!(name(&proxy, SHOP).await["failures"], 0, "{}", pebble.log());
    proxy.drain().await;
}

#[tokio::test]
async fn a_renewal_drops_no_connection() {
    let Some(pebble) = Pebble::start().await else {
        return;
    };
    let kept = Kept::of(&pebble);
    let authority = kept.issue_old(SHOP);
    let proxy = Proxy::start(&kept.config([pebble.asks_at()[0], 0], &[SHOP])).await;
    let mut old = client(&proxy, 1, &authority.ca(), SHOP)
        .connect()
        .await
        .unwrap();
    let backend = Backend::start("site").await;
    proxy.register("site", backend.address()).await;
    proxy.until_served("/site/").await;
    let root = pebble.root().await;
    until_shown(&client(&proxy, 1, &root, SHOP)).await;
    ask(&mut old, "/site/", "").await.unwrap();
    assert!(answer(&mut old).await.starts_with("HTTP/1.1 200"));
    assert_eq!(pebble.orders(), 1);
    proxy.drain().await;
}

#[tokio::test]
async fn what_is_refused_says_why_and_leaves_what_is_there() {
    let Some(pebble) = Pebble::start().await else {
        return;
    };
    let kept = Kept::of(&pebble);
    let authority = kept.issue_old(AWAY);
    let names = [AWAY, BLOCKED, SHOP];
    let proxy = Proxy::start(&kept.config([pebble.asks_at()[0], 0], &names)).await;
    // While there is none, the handshake ends for the certificate, and is not broken off.
    let believing = client(&proxy, 1, &authority.ca(), BLOCKED);
    let error = believing.shown().await.unwrap_err().to_string();
    assert!(error.contains("invalid peer certificate"), "{error}");

    until_issued(&proxy, SHOP).await;
    for (of, says) in [
        (
            AWAY,
            "does not reach away.example.com at port 80 (http-01): ",
        ),
        (BLOCKED, "gives no certificate for this name: "),
    ] {
        let failed = async || name(&proxy, of).await;
        let failed = eventually("it is refused", failed, |one| one["error"].is_string()).await;
        let error = failed["error"].as_str().unwrap();
        assert!(
            error.starts_with("the authority ") && error.contains(says),
            "{error}"
        );
        assert_eq!(failed["failures"], 1);
        let line = format!("callboard_acme_failures{{name=\"{of}\"}}");
        assert_eq!(metric(&proxy, &line).await, Some(1.0));
    }
    let shown = client(&proxy, 1, &authority.ca(), AWAY).shown().await;
    assert_eq!(*shown.unwrap(), kept.certificate(AWAY), "the old one stays");
    let status = proxy.status().await;
    let findings = status["findings"].to_string();
    for says in [
        "another certificate for away.example.com was not issued: ",
        "a certificate for blocked.example.com was not issued: ",
    ] {
        assert!(findings.contains(says), "{findings}");
    }
    proxy.drain().await;

    // The pause goes on after a restart.
    let before = pebble.orders();
    let proxy = Proxy::start(&kept.config([pebble.asks_at()[0], 0], &names)).await;
    let failed = name(&proxy, AWAY).await;
    assert_eq!(failed["failures"], 1, "{failed}");
    assert!(failed["error"].is_string(), "{failed}");
    proxy.drain().await;
    assert_eq!(pebble.orders(), before);
}

#[tokio::test]
async fn an_account_that_cannot_be_written_is_made_once() {
    let Some(pebble) = Pebble::start().await else {
        return;
    };
    let kept = Kept::of(&pebble);
    // What takes the account's place is written here.
    let in_the_way = kept.account(&pebble).with_extension("json.new");
    fs::create_dir(&in_the_way).unwrap();
    let names = [CART, SHOP];
    let proxy = Proxy::start(&kept.config([pebble.asks_at()[0], 0], &names)).await;
    for of in names {
        let failed = async || name(&proxy, of).await;
        let says = "the account cannot be written";
        let failed = eventually("it is said", failed, |one| {
            one["error"].to_string().contains(says)
        });
        assert_eq!(failed.await["failures"], 0);
    }
    fs::remove_dir(&in_the_way).unwrap();
    for of in names {
        until_issued(&proxy, of).await;
    }
    let made = (pebble.orders(), pebble.accounts());
    assert_eq!(made, (2, 1), "{}", pebble.log());
    proxy.drain().await;
}

#[tokio::test]
async fn another_mailbox_is_told_to_the_authority_and_the_account_stays() {
    let Some(pebble) = Pebble::start().await else {
        return;
    };
    let mut kept = Kept::of(&pebble);
    let ports = [pebble.asks_at()[0], 0];
    let account = kept.account(&pebble);
    let email = || {
        let account: Value = serde_json::from_slice(&fs::read(&account).unwrap()).unwrap();
        account["email"].clone()
    };
    let proxy = Proxy::start(&kept.config(ports, &[SHOP])).await;
    until_issued(&proxy, SHOP).await;
    proxy.drain().await;
    assert_eq!(email(), "ops@example.com");
    kept.acme = kept.acme.replace("ops@", "other@");
    let proxy = Proxy::start(&kept.config(ports, &[SHOP, CART])).await;
    until_issued(&proxy, CART).await;
    proxy.drain().await;
    assert_eq!(email(), "other@example.com");
    assert_eq!(pebble.accounts(), 1, "{}", pebble.log());
}

#[tokio::test]
async fn a_certificate_that_was_not_written_is_fetched_again_and_not_ordered() {
    let Some(pebble) = Pebble::start().await else {
        return;
    };
    let kept = Kept::of(&pebble);
    let in_the_way = kept.folder.path().join(format!("{SHOP}.pem.new"));
    fs::create_dir(&in_the_way).unwrap();
    let config = kept.config([pebble.asks_at()[0], 0], &[SHOP]);
    let proxy = Proxy::start(&config).await;
    let failed = async || name(&proxy, SHOP).await;
    let says = "the certificate cannot be written";
    let failed = eventually("it is said", failed, |one| {
        one["error"].to_string().contains(says)
    });
    failed.await;
    proxy.drain().await;

    fs::remove_dir(&in_the_way).unwrap();
    fs::remove_file(kept.folder.path().join(format!("{SHOP}.order.json"))).unwrap();
    let proxy = Proxy::start(&config).await;
    until_issued(&proxy, SHOP).await;
    let root = pebble.root().await;
    until_shown(&client(&proxy, 1, &root, SHOP)).await;
    assert_eq!(pebble.orders(), 1, "{}", pebble.log());
    let key = kept.folder.path().join(format!("{SHOP}.key.json"));
    assert!(!key.exists(), "it is in the certificate's file");
    proxy.drain().await;
}

#[tokio::test]
async fn proxies_of_one_folder_make_one_order_and_show_what_comes() {
    let Some(pebble) = Pebble::start().await else {
        return;
    };
    let kept = Kept::of(&pebble);
    let first = Proxy::start(&kept.config([pebble.asks_at()[0], 0], &[SHOP])).await;
    let second = Proxy::start(&kept.config([0, 0], &[SHOP])).await;
    let root = pebble.root().await;
    for proxy in [&first, &second] {
        until_issued(proxy, SHOP).await;
        let shown = until_shown(&client(proxy, 1, &root, SHOP)).await;
        assert_eq!(shown, kept.certificate(SHOP));
    }
    let made = (pebble.orders(), pebble.accounts());
    assert_eq!(made, (1, 1), "{}", pebble.log());
    first.drain().await;
    second.drain().await;
}

#[tokio::test]
async fn a_proxy_gives_the_proofs_that_another_of_its_folder_needs() {
    let Some(pebble) = Pebble::start().await else {
        return;
    };
    let kept = Kept::of(&pebble);
    kept.issue(CART, 2026, 2050);
    let asked = Proxy::start(&kept.config([pebble.asks_at()[0], 0], &[CART])).await;
    let ordering = Proxy::start(&kept.config([0, 0], &[SHOP])).await;
    let of_shop = until_issued(&ordering, SHOP).await;
    assert_eq!(of_shop["failures"], 0, "{}", pebble.log());
    assert_eq!(pebble.orders(), 1);
    ordering.drain().await;
    asked.drain().await;
}

#[tokio::test]
async fn a_certificate_is_renewed_when_the_authority_says_so() {
    let Some(pebble) = Pebble::start().await else {
        return;
    };
    let kept = Kept::of(&pebble);
    let config = kept.config([pebble.asks_at()[0], 0], &[SHOP]);
    let proxy = Proxy::start(&config).await;
    until_issued(&proxy, SHOP).await;
    proxy.drain().await;

    let first = kept.certificate(SHOP);
    let pem = fs::read_to_string(kept.file(SHOP)).unwrap();
    pebble.wants_renewed(&pem).await;
    // The pause after an order has passed.
    let file = kept.folder.path().join(format!("{SHOP}.order.json"));
    let mut last: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    last["next"] = json!(0);
    fs::write(&file, last.to_string()).unwrap();
    let proxy = Proxy::start(&config).await;
    let now = async || kept.certificate(SHOP);
    eventually("it is renewed", now, |now| *now != first).await;
    assert_eq!(pebble.orders(), 2);
    let log = pebble.log();
    assert!(log.contains("is a replacement of"), "{log}");
    proxy.drain().await;
}

#[tokio::test]
async fn certificates_are_ordered_for_the_hosts_of_routes_and_for_those_of_a_reload() {
    let Some(pebble) = Pebble::start().await else {
        return;
    };
    let kept = Kept::of(&pebble);
    let config = |hosts: &[&str]| {
        let routes = hosts
            .iter()
            .map(|host| format!("[[route]]\nhost = {host:?}\npath = \"/\"\nservice = \"site\"\n"));
        let listen = kept.config([pebble.asks_at()[0], 0], &[]);
        let listen = listen.replace("domains = []", "domains = \"routes\"");
        format!("{listen}{}", routes.collect::<String>())
    };
    let proxy = Proxy::start(&config(&[SHOP, "*.example.com"])).await;
    until_issued(&proxy, SHOP).await;
    let root = pebble.root().await;
    until_shown(&client(&proxy, 1, &root, SHOP)).await;
    // What a client asks for has nothing ordered.
    let other = client(&proxy, 1, &root, "hat.example.com");
    assert!(other.shown().await.is_err());
    let names = proxy.status().await["acme"].as_array().unwrap().len();
    assert_eq!((names, pebble.orders()), (1, 1));
    proxy.write(&config(&[CART, "*.example.com"]));
    let reload = proxy.http.post(proxy.admin("/api/reload")).json(&json!({}));
    assert!(reload.send().await.unwrap().status().is_success());
    until_issued(&proxy, CART).await;
    until_shown(&client(&proxy, 1, &root, CART)).await;
    proxy.drain().await;
}

#[tokio::test]
async fn a_listener_that_comes_with_a_reload_gets_its_certificate_and_one_that_goes_is_kept_no_longer()
 {
    let Some(pebble) = Pebble::start().await else {
        return;
    };
    let kept = Kept::of(&pebble);
    let [port] = free_ports();
    let clear = format!(
        "workers = 1\n[[listen]]\naddress = \"127.0.0.1:{}\"\n",
        pebble.asks_at()[0]
    );
    let listener = |tls: &str| format!("{clear}[[listen]]\naddress = \"127.0.0.1:{port}\"\n{tls}");
    let proxy = Proxy::start(&clear).await;
    assert_eq!(proxy.status().await["acme"], json!([]));
    let reload = async |text: &str| {
        let (status, said) = proxy.reload(text).await;
        assert_eq!(status, 200, "{said}");
    };
    let root = pebble.root().await;
    let at_port = |name: &str| Client {
        address: ([127, 0, 0, 1], port).into(),
        ..client(&proxy, 0, &root, name)
    };
    reload(&listener(&kept.tls(&[SHOP]))).await;
    until_issued(&proxy, SHOP).await;
    assert_eq!(until_shown(&at_port(SHOP)).await, kept.certificate(SHOP));

    // Another account with the folder takes its certificates over.
    let other = kept.tls(&[SHOP]).replace("ops@", "www@");
    reload(&listener(&other)).await;
    reload(&clear).await;
    let none = async || proxy.status().await["acme"].clone();
    eventually("none is kept", none, |names| *names == json!([])).await;
    reload(&listener(&other.replace(SHOP, CART))).await;
    until_issued(&proxy, CART).await;
    assert_eq!(until_shown(&at_port(CART)).await, kept.certificate(CART));
    assert!(at_port(SHOP).shown().await.is_err());
    assert!(kept.file(SHOP).exists());
    assert_eq!(pebble.orders(), 2, "{}", pebble.log());
    proxy.drain().await;
}
