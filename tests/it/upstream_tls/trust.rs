//! Who is called: only who proves to be the one that is meant, and as whom we come.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use callboard::config::Pin;
use http::{Method, StatusCode};
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, date_time_ymd};
use rustls::{ProtocolVersion, server::ParsedCertificate};
use serde_json::{Value, json};

use super::{CA, DEFAULTS, authority, proxy, register, serve};
use crate::support::{
    authority::Authority,
    backend::Backend,
    eventually,
    proxy::{endpoints, instance},
    raw::{RawBackend, Wire},
    server::{Process, free_ports, log},
    tls::{End, Identity, TlsBackend, VERSIONS, server},
};

/// A backend that names itself, behind TLS with this certificate.
async fn behind(identity: &Identity) -> (Backend, TlsBackend) {
    let backend = Backend::start("tls").await;
    let config = server(identity, &VERSIONS, None);
    let tls = TlsBackend::before(backend.address(), config, End::Said).await;
    (backend, tls)
}

/// A session that was begun under the old authority would prove nothing to the new one.
#[tokio::test]
async fn a_new_authority_is_believed_and_the_old_one_and_its_sessions_no_more() {
    for version in VERSIONS {
        let (folder, old) = authority();
        let ca = old.ca();
        let others = tempfile::tempdir().unwrap();
        let new = Authority::new(others.path());
        let closes = || Backend::named("tls").answering(async |_| [("connection", "close")]);
        let (first, second) = (closes().start().await, closes().start().await);
        let config = server(&old.issue("cart"), &[version], None);
        let first = TlsBackend::before(first.address(), config, End::Said).await;
        let config = server(&new.issue("cart"), &[version], None);
        let second = TlsBackend::before(second.address(), config, End::Said).await;
        let proxy = proxy(folder, CA).await;
        serve(&proxy, &first).await;
        let get = async |path: &str| proxy.get(path).await.status();
        assert_eq!(get("/cart/x").await, StatusCode::OK);
        assert!(first.handshakes()[1].resumed, "{version:?}");

        std::fs::write(&ca, "none").unwrap();
        assert_eq!(get("/cart/x").await, StatusCode::OK);
        std::fs::copy(new.ca(), &ca).unwrap();
        let refused = async || get("/cart/x").await;
        let is_refused = |status: &StatusCode| *status == StatusCode::BAD_GATEWAY;
        eventually("the old authority is believed no more", refused, is_refused).await;
        register(&proxy, "cart", second.address()).await;
        let served = async || get("/cart/x").await;
        let is_served = |status: &StatusCode| *status == StatusCode::OK;
        eventually("the new authority is believed", served, is_served).await;
    }
}

#[tokio::test]
async fn who_has_a_certificate_of_the_services_authority_is_called() {
    for (version, spoken) in [
        (VERSIONS[0], ProtocolVersion::TLSv1_2),
        (VERSIONS[1], ProtocolVersion::TLSv1_3),
    ] {
        let (folder, authority) = authority();
        let backend = Backend::named("tls")
            .answering(async |request| {
                request.headers()["x-forwarded-proto"]
                    .clone()
                    .to_str()
                    .unwrap()
                    .to_owned()
            })
            .start()
            .await;
        let config = server(&authority.issue("cart"), &[version], None);
        let tls = TlsBackend::before(backend.address(), config, End::Said).await;
        let proxy = proxy(folder, CA).await;
        serve(&proxy, &tls).await;
        // It is the client's side that this speaks of.
        assert_eq!(proxy.until_served("/cart/x").await, "http");
        let handshake = tls.handshakes().remove(0);
        assert_eq!(handshake.version, spoken);
        assert_eq!(handshake.protocol.as_deref(), Some("http/1.1"));
        // An address is no name to ask for.
        assert_eq!(handshake.server_name, None);
        assert!(!handshake.certified);
        let service = proxy.service("cart").await;
        assert_eq!(service["endpoints"][0]["tls"], true, "{service}");
    }
}

#[tokio::test]
async fn the_name_that_is_asked_for_is_the_configured_one_or_the_hosts() {
    let (folder, authority) = authority();
    let (_backend, tls) = behind(&authority.issue_for("named", &["cart.internal"], |_| {})).await;
    let named = proxy(folder, &format!("{CA}, server_name = \"cart.internal\"")).await;
    serve(&named, &tls).await;
    let asked_for = |tls: &TlsBackend| tls.handshakes().remove(0).server_name.unwrap();
    assert_eq!(asked_for(&tls), "cart.internal");

    let (folder, authority) = super::authority();
    let (_backend, tls) = behind(&authority.issue_for("host", &["localhost"], |_| {})).await;
    let by_host = proxy(folder, CA).await;
    let more = json!({"Address": "localhost", "Meta": {"scheme": "https"}});
    by_host.register_with("cart", tls.address(), more).await;
    by_host.until_served("/cart").await;
    assert_eq!(asked_for(&tls), "localhost");
}

#[tokio::test]
async fn who_wants_to_know_us_is_shown_our_certificate() {
    for version in VERSIONS {
        let (folder, authority) = authority();
        authority.issue("ours");
        let ca = authority.ca();
        let backend = Backend::start("tls").await;
        let config = server(&authority.issue("cart"), &[version], Some(&ca));
        let tls = TlsBackend::before(backend.address(), config, End::Said).await;
        let identity = "certificate = \"ours-certificate.pem\", key = \"ours-key.pem\"";
        let proxy = proxy(folder, &format!("{CA}, {identity}")).await;
        serve(&proxy, &tls).await;
        let posted = proxy.http.post(proxy.url("/cart")).body("text").send();
        assert_eq!(posted.await.unwrap().status(), StatusCode::OK);
        assert!(tls.handshakes()[0].certified);
    }
}

#[tokio::test]
async fn who_fails_the_handshake_fails_nobody_while_there_is_another() {
    let (folder, authority) = authority();
    let other = tempfile::tempdir().unwrap();
    let (well, well_tls) = behind(&authority.issue("well")).await;
    let (stranger, stranger_tls) = behind(&Authority::new(other.path()).issue("stranger")).await;
    let ca = authority.ca();
    let mut strict = Vec::new();
    for version in VERSIONS {
        let backend = Backend::start("strict").await;
        let config = server(&authority.issue("strict"), &[version], Some(&ca));
        let tls = TlsBackend::before(backend.address(), config, End::Said).await;
        strict.push((backend, tls));
    }
    // Takes a connection, and never says a word.
    let mute = RawBackend::serving(async |mut wire: Wire| drop(wire.rest().await)).await;
    let config = format!("{CA} }}\ntimeout = {{ connect = \"2s\"");
    let proxy = proxy(folder, &config).await;
    serve(&proxy, &well_tls).await;
    let bad = [
        stranger_tls.address(),
        strict[0].1.address(),
        strict[1].1.address(),
        mute.address(),
    ];
    for address in bad {
        register(&proxy, "cart", address).await;
    }
    proxy
        .until_service("cart", "all are known", |cart| endpoints(cart).count() == 5)
        .await;
    for _ in 0..20 {
        let posted = proxy.http.post(proxy.url("/cart")).body("text").send();
        assert_eq!(posted.await.unwrap().status(), StatusCode::OK);
    }
    assert_eq!(well.requests_with(&Method::POST), 20);
    assert_eq!(stranger.requests(), 0);
    assert!(strict.iter().all(|(backend, _)| backend.requests() == 0));
    let cart = proxy.service("cart").await;
    for address in bad {
        let address = address.to_string();
        let endpoint = endpoints(&cart).find(|endpoint| endpoint["address"] == address);
        let endpoint = endpoint.unwrap();
        assert_eq!(endpoint["state"], "doubted", "{endpoint}");
        // Tried at first, and a few times since, but not by every request.
        assert!(endpoint["attempts"].as_u64() < Some(10), "{endpoint}");
    }
}

/// `callboard run` in a folder, with a registry and a log to look into.
struct Running {
    folder: PathBuf,
    listener: u16,
    registry: u16,
    http: reqwest::Client,
    process: Process,
}

impl Running {
    fn start(folder: &Path, services: &str, change: impl FnOnce(&mut Command)) -> Self {
        let [listener, admin, registry] = free_ports();
        let config = format!(
            "[[listen]]\naddress = \"127.0.0.1:{listener}\"\n\
             [admin]\naddress = \"127.0.0.1:{admin}\"\n\
             [registry.embedded]\naddress = \"127.0.0.1:{registry}\"\n\
             [[route]]\npath = \"/{{service}}\"\nservice = \"{{service}}\"\n{services}"
        );
        std::fs::write(folder.join("proxy.toml"), config).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_callboard"));
        command.arg("run");
        change(&mut command);
        Self {
            folder: folder.to_owned(),
            listener,
            registry,
            http: reqwest::Client::builder().no_proxy().build().unwrap(),
            process: Process::start(command, folder),
        }
    }

    async fn register(&self, name: &str, backend: std::net::SocketAddr) {
        let entry = json!({
            "ID": instance(name, backend), "Name": name, "Address": backend.ip(),
            "Port": backend.port(), "Meta": {"scheme": "https"},
        });
        let url = format!(
            "http://127.0.0.1:{}/v1/agent/service/register",
            self.registry
        );
        let ask = async || self.http.put(&url).json(&entry).send().await.is_ok();
        eventually("the registry listens", ask, |told| *told).await;
    }

    /// The status of the first answer that is an endpoint's or for want of one.
    async fn ask(&self, method: &Method, name: &str) -> StatusCode {
        let url = format!("http://127.0.0.1:{}/{name}", self.listener);
        let ask = async || {
            let answer = self.http.request(method.clone(), &url).send().await;
            answer.map(|answer| answer.status()).ok()
        };
        let settled = |status: &Option<StatusCode>| {
            status.is_some_and(|status| {
                status != StatusCode::NOT_FOUND && status != StatusCode::SERVICE_UNAVAILABLE
            })
        };
        eventually(name, ask, settled).await.unwrap()
    }

    /// What the log says of the requests of a service that had no answer.
    fn unanswered(&self, name: &str) -> Vec<String> {
        log(&self.folder)
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok())
            .filter(|line| line["message"] == "no answer" && line["service"] == name)
            .map(|line| line["attempts"].as_str().unwrap().to_owned())
            .collect()
    }
}

#[tokio::test]
async fn who_is_another_is_sent_nothing_and_the_log_says_why() {
    let (folder, authority) = authority();
    let other = tempfile::tempdir().unwrap();
    let stranger = Authority::new(other.path()).issue("stranger");
    let elsewhere = authority.issue_for("elsewhere", &["other.internal"], |_| {});
    let expired = authority.issue_for("expired", &["127.0.0.1"], |certificate| {
        certificate.not_before = date_time_ymd(2019, 1, 1);
        certificate.not_after = date_time_ymd(2020, 1, 1);
    });
    let well = authority.issue("well");
    let ca = authority.ca();
    let mut backends = Vec::new();
    let mut expected = Vec::new();
    let mut services = DEFAULTS.to_owned();
    for (name, config, tls, words) in [
        (
            "stranger",
            server(&stranger, &VERSIONS, None),
            CA.to_owned(),
            vec!["tls: invalid peer certificate: BadSignature; check tls.ca"],
        ),
        (
            "unset",
            server(&well, &VERSIONS, None),
            String::new(),
            vec!["tls: invalid peer certificate: UnknownIssuer; check tls.ca"],
        ),
        (
            "elsewhere",
            server(&elsewhere, &VERSIONS, None),
            CA.to_owned(),
            vec!["127.0.0.1", "other.internal", "; check tls.server_name"],
        ),
        (
            "misnamed",
            server(&well, &VERSIONS, None),
            format!("{CA}, server_name = \"cart.internal\""),
            vec!["cart.internal", "; check tls.server_name"],
        ),
        (
            "expired",
            server(&expired, &VERSIONS, None),
            CA.to_owned(),
            vec!["tls: invalid peer certificate: certificate expired"],
        ),
        (
            "strict12",
            server(&well, &VERSIONS[..1], Some(&ca)),
            CA.to_owned(),
            vec!["tls: received fatal alert", "; check tls.certificate"],
        ),
        (
            "strict13",
            server(&well, &VERSIONS[1..], Some(&ca)),
            CA.to_owned(),
            vec!["tls: received fatal alert: CertificateRequired; check tls.certificate"],
        ),
    ] {
        let backend = Backend::start(name).await;
        let front = TlsBackend::before(backend.address(), config, End::Said).await;
        services += &format!("[service.{name}]\ntls = {{ {tls} }}\n");
        expected.push((name, front.address(), words));
        backends.push((backend, Some(front)));
    }
    let plain = Backend::start("plain").await;
    services += &format!("[service.plain]\ntls = {{ {CA} }}\n");
    expected.push((
        "plain",
        plain.address(),
        vec!["tls: ", "; does it speak TLS there?"],
    ));
    backends.push((plain, None));
    let proxy = Running::start(folder.path(), &services, |_| {});
    for (name, address, _) in &expected {
        proxy.register(name, *address).await;
    }
    for (name, address, words) in expected {
        for method in [Method::GET, Method::POST] {
            let status = proxy.ask(&method, name).await;
            assert_eq!(status, StatusCode::BAD_GATEWAY, "{name}");
        }
        let logged = async || proxy.unanswered(name);
        let attempts = eventually("it is logged", logged, |lines| lines.len() >= 2).await;
        for attempt in attempts {
            let told = words.iter().all(|word| attempt.contains(word));
            assert!(
                told && attempt.contains(&address.to_string()),
                "{name}: {attempt}"
            );
            assert!(attempt.contains("processed: Never"), "{name}: {attempt}");
        }
    }
    assert!(backends.iter().all(|(backend, _)| backend.requests() == 0));
}

/// A certificate as `openssl req -x509` makes it, an authority's and for no host, with its key.
fn self_signed(folder: &Path, name: &str) -> (Identity, Pin) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new([]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let certificate = params.self_signed(&key).unwrap();
    let file = |kind| folder.join(format!("{name}-{kind}.pem"));
    std::fs::write(file("certificate"), certificate.pem()).unwrap();
    std::fs::write(file("key"), key.serialize_pem()).unwrap();
    let parsed = ParsedCertificate::try_from(certificate.der()).unwrap();
    let pin = Pin::of_key(&parsed.subject_public_key_info());
    ((file("certificate"), file("key")), pin)
}

#[tokio::test]
async fn a_certificate_that_is_named_itself_is_believed_and_so_is_a_key() {
    let (folder, authority) = authority();
    let (own, pin) = self_signed(folder.path(), "own");
    let (_, other) = self_signed(folder.path(), "other");
    let signed = authority.issue("signed");
    let named = "ca = \"own-certificate.pem\"".to_owned();
    let pinned = |pin: &Pin| format!("pin = [\"{pin}\"]");
    let both = |pin: &Pin| format!("{CA}, {}", pinned(pin));
    let [wrong_key, wrong_ca] = ["its key is sha256/", "it is an authority's own"].map(Some);
    let mut started = Vec::new();
    let mut services = DEFAULTS.to_owned();
    for (name, identity, tls, refused) in [
        ("named", &own, named.clone(), None),
        (
            "elsewhere",
            &own,
            format!("{named}, server_name = \"x.internal\""),
            None,
        ),
        ("another", &own, CA.to_owned(), wrong_ca),
        ("pinned", &own, pinned(&pin), None),
        ("mispinned", &own, pinned(&other), wrong_key),
        // An authority and a pin are both asked for.
        ("half", &own, both(&pin), wrong_ca),
        ("signed", &signed, both(&other), wrong_key),
    ] {
        let (backend, front) = behind(identity).await;
        services += &format!("[service.{name}]\ntls = {{ {tls} }}\n");
        started.push((name, backend, front, refused));
    }
    let proxy = Running::start(folder.path(), &services, |_| {});
    for (name, _, front, _) in &started {
        proxy.register(name, front.address()).await;
    }
    for (name, backend, _, refused) in started {
        let status = proxy.ask(&Method::GET, name).await;
        let Some(why) = refused else {
            assert_eq!(status, StatusCode::OK, "{name}");
            continue;
        };
        assert_eq!(status, StatusCode::BAD_GATEWAY, "{name}");
        let logged = async || proxy.unanswered(name);
        let attempts = eventually("it is logged", logged, |lines| !lines.is_empty()).await;
        assert!(attempts[0].contains(why), "{name}: {attempts:?}");
        assert_eq!(backend.requests(), 0, "{name}");
    }
}

#[tokio::test]
async fn without_an_authority_of_the_services_own_the_systems_are_believed() {
    let (folder, authority) = authority();
    let (backend, tls) = behind(&authority.issue("cart")).await;
    for (file, status, words) in [
        ("ca.pem", StatusCode::OK, ""),
        (
            "none.pem",
            StatusCode::BAD_GATEWAY,
            "tls: the system has no certificate authorities; set tls.ca",
        ),
    ] {
        std::fs::write(folder.path().join("none.pem"), "").unwrap();
        let proxy = Running::start(folder.path(), DEFAULTS, |command| {
            command.env("SSL_CERT_FILE", folder.path().join(file));
            command.env_remove("SSL_CERT_DIR");
        });
        proxy.register("cart", tls.address()).await;
        assert_eq!(proxy.ask(&Method::POST, "cart").await, status, "{file}");
        if !words.is_empty() {
            let logged = async || proxy.unanswered("cart");
            let attempts = eventually("it is logged", logged, |lines| !lines.is_empty()).await;
            assert!(attempts[0].contains(words), "{attempts:?}");
        }
        drop(proxy);
        std::fs::remove_dir_all(folder.path().join("callboard-data")).unwrap();
    }
    assert_eq!(backend.requests(), 1);
}

#[tokio::test]
async fn a_file_that_cannot_be_used_is_named_at_the_start() {
    let (folder, authority) = authority();
    let (own, others) = (authority.issue("own"), authority.issue("others"));
    let path = |file: &Path| file.display().to_string();
    std::fs::write(folder.path().join("empty.pem"), "nothing\n").unwrap();
    for (services, error) in [
        (
            "[service.cart]\ntls = { ca = \"gone.pem\" }\n",
            "service.cart.tls: cannot read gone.pem: No such file or directory (os error 2)"
                .to_owned(),
        ),
        (
            "[defaults]\ntls = { ca = \"empty.pem\" }\n",
            "defaults.tls: empty.pem holds no certificate in PEM form".to_owned(),
        ),
        (
            "[service.cart]\ntls = { ca = \"ca.pem\", certificate = \"own-certificate.pem\", key = \"empty.pem\" }\n",
            "service.cart.tls: empty.pem holds no private key in PEM form".to_owned(),
        ),
        (
            &format!(
                "[service.cart]\ntls = {{ ca = \"ca.pem\", certificate = {:?}, key = {:?} }}\n",
                path(&own.0),
                path(&others.1)
            ),
            format!(
                "service.cart.tls: the certificate {} cannot be used with its key: keys may not be consistent: KeyMismatch",
                path(&own.0)
            ),
        ),
    ] {
        let mut proxy = Running::start(folder.path(), services, |_| {});
        let ended = async || proxy.process.has_ended();
        eventually("it ends", ended, |ended| *ended).await;
        let said = log(folder.path());
        let last = said.lines().last().unwrap_or_default();
        assert_eq!(last, format!("error: {error}"), "{said}");
    }
}
