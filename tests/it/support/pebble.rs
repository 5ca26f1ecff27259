//! A real Pebble of the test's own, Let's Encrypt's authority for tests, and the DNS by which it finds the
//! names that it gives certificates for. Gone when the test is.

use std::{net::SocketAddr, path::PathBuf, process::Command};

use reqwest::StatusCode;
use serde_json::json;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

use super::{
    authority::Authority,
    eventually,
    server::{self, Process, free_ports},
};

/// Names below are found, and nothing listens where they are.
pub(crate) const AWAY: &str = "away.example.com";
/// A name for which it gives no certificate.
pub(crate) const BLOCKED: &str = "blocked.example.com";

pub(crate) struct Pebble {
    /// Of its directory, and of what tests ask of it beside.
    ports: [u16; 2],
    /// Where it asks for proofs: in the clear, and by TLS.
    asked: [u16; 2],
    http: reqwest::Client,
    _process: Process,
    dns: JoinHandle<()>,
    folder: TempDir,
}

/// How a Pebble behaves.
#[derive(Clone, Copy)]
pub(crate) struct Behaviour {
    /// Percent of the nonces that it does not take.
    pub(crate) bad_nonces: u8,
    /// Seconds that it may think about a proof at the most.
    pub(crate) sleep: u8,
    /// Seconds for which its certificates hold.
    pub(crate) validity: u32,
}

impl Default for Behaviour {
    fn default() -> Self {
        Self {
            bad_nonces: 0,
            sleep: 0,
            validity: 90 * 24 * 3600,
        }
    }
}

impl Pebble {
    /// One that behaves; `None` (said on a line) where `tests/run` has found that it cannot be had on this
    /// machine.
    pub(crate) async fn start() -> Option<Self> {
        Self::start_with(Behaviour::default()).await
    }

    pub(crate) async fn start_with(behaviour: Behaviour) -> Option<Self> {
        let binary = server::binary("pebble")?;
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::new(folder.path());
        let (certificate, key) = authority.issue("pebble");
        let [directory, management, clear, tls] = free_ports();
        let config = json!({"pebble": {
            "listenAddress": format!("127.0.0.1:{directory}"),
            "managementListenAddress": format!("127.0.0.1:{management}"),
            "certificate": certificate,
            "privateKey": key,
            "httpPort": clear,
            "tlsPort": tls,
            "domainBlocklist": [BLOCKED],
            "retryAfter": {"authz": 1, "order": 1},
            "keyAlgorithm": "ecdsa",
            "profiles": {"default": {"description": "", "validityPeriod": behaviour.validity}},
        }});
        let file = folder.path().join("pebble.json");
        std::fs::write(&file, config.to_string()).unwrap();
        let (resolver, dns) = resolver().await;
        let mut command = Command::new(binary);
        command
            .arg("-config")
            .arg(file)
            .arg("-dnsserver")
            .arg(resolver.to_string())
            .env("PEBBLE_WFE_NONCEREJECT", behaviour.bad_nonces.to_string())
            .env("PEBBLE_AUTHZREUSE", "0");
        match behaviour.sleep {
            0 => command.env("PEBBLE_VA_NOSLEEP", "1"),
            seconds => command.env("PEBBLE_VA_SLEEPTIME", seconds.to_string()),
        };
        let _process = Process::start(command, folder.path());
        let ca = std::fs::read(authority.ca()).unwrap();
        let http = reqwest::Client::builder()
            .no_proxy()
            // It answers no client without a name.
            .user_agent("callboard-tests")
            .tls_certs_only([reqwest::Certificate::from_pem(&ca).unwrap()])
            .build()
            .unwrap();
        let pebble = Self {
            ports: [directory, management],
            asked: [clear, tls],
            http,
            _process,
            dns,
            folder,
        };
        let answers = async || {
            let answers = pebble.ask("/roots/0").await;
            let directory = pebble.http.get(pebble.directory()).send().await;
            answers.is_some() && directory.is_ok()
        };
        eventually("pebble answers", answers, |answers| *answers).await;
        Some(pebble)
    }

    /// The URL of its directory.
    pub(crate) fn directory(&self) -> String {
        format!("https://127.0.0.1:{}/dir", self.ports[0])
    }

    /// Whom its own certificate is from.
    pub(crate) fn ca(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// Where it asks in the clear, and by TLS.
    pub(crate) fn asks_at(&self) -> [u16; 2] {
        self.asked
    }

    /// The file of the authority that its certificates are from.
    pub(crate) async fn root(&self) -> PathBuf {
        let file = self.folder.path().join("root.pem");
        std::fs::write(&file, self.ask("/roots/0").await.unwrap()).unwrap();
        file
    }

    /// How many orders were begun, of all accounts.
    pub(crate) fn orders(&self) -> usize {
        let log = server::log(self.folder.path());
        log.matches("Added order ").count()
    }

    /// How many accounts were made.
    pub(crate) fn accounts(&self) -> usize {
        let log = server::log(self.folder.path());
        log.matches("accounts in memory").count()
    }

    /// Has it say that a certificate is to be renewed in a window of the past.
    pub(crate) async fn wants_renewed(&self, pem: &str) {
        let window = json!({"suggestedWindow": {
            "start": "2020-01-01T00:00:00Z", "end": "2020-01-02T00:00:00Z",
        }});
        let body = json!({"certificate": pem, "ariResponse": window.to_string()});
        let url = format!("https://127.0.0.1:{}/set-renewal-info/", self.ports[1]);
        let answer = self.http.post(url).json(&body).send().await.unwrap();
        let status = answer.status();
        assert_eq!(status, StatusCode::OK, "{}", answer.text().await.unwrap());
    }

    /// What stands in its log.
    pub(crate) fn log(&self) -> String {
        server::log(self.folder.path())
    }

    async fn ask(&self, path: &str) -> Option<String> {
        let url = format!("https://127.0.0.1:{}{path}", self.ports[1]);
        self.http.get(url).send().await.ok()?.text().await.ok()
    }
}

impl Drop for Pebble {
    fn drop(&mut self) {
        self.dns.abort();
    }
}

/// A server of DNS, over TCP alone: each name is this machine, and [`AWAY`] is a part of it where nothing
/// listens.
async fn resolver() -> (SocketAddr, JoinHandle<()>) {
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    let serving = tokio::spawn(async move {
        while let Ok((stream, _)) = socket.accept().await {
            tokio::spawn(answer(stream));
        }
    });
    (address, serving)
}

/// Answers one client's questions until it goes.
async fn answer(mut stream: TcpStream) -> Option<()> {
    loop {
        let length = stream.read_u16().await.ok()?;
        let mut asked = vec![0; length.into()];
        stream.read_exact(&mut asked).await.ok()?;
        // The name ends with an empty label, and the kind follows.
        let end = 12 + asked.get(12..)?.iter().position(|byte| *byte == 0)? + 1;
        let question = asked.get(12..end + 4)?;
        let wants_ipv4 = question.ends_with(&[0, 1, 0, 1]);
        let is_away = String::from_utf8_lossy(question).contains("away");
        let last = if is_away { 9 } else { 1 };
        let mut said = asked[..2].to_vec();
        // A response, with recursion, to one question.
        said.extend([0x81, 0x80, 0, 1, 0, u8::from(wants_ipv4), 0, 0, 0, 0]);
        said.extend(question);
        if wants_ipv4 {
            said.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4, 127, 0, 0, last]);
        }
        stream.write_u16(said.len() as u16).await.ok()?;
        stream.write_all(&said).await.ok()?;
    }
}
