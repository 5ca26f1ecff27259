//! A listener that speaks TLS serves as all others do, shows the certificate that is asked for, and holds
//! out against clients that do nothing but begin.

mod acme;
mod certificates;
mod clients;
mod handshakes;
mod requests;

use std::{fs, io, net::SocketAddr, path::PathBuf, sync::Arc};

use rcgen::DnType;
use rustls::{
    ClientConfig, RootCertStore, SupportedProtocolVersion,
    crypto::aws_lc_rs::default_provider,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::support::{authority::Authority, backend::Backend, proxy::Proxy, tls::VERSIONS};

/// The certificate of most tests: for this machine, by the name `site`.
const SITE: &str = "{ cert = \"site-certificate.pem\", key = \"site-key.pem\" }";

/// A proxy whose first listener speaks in the clear, and whose second speaks TLS, in front of a backend
/// that answers with the head of the request.
struct Site {
    proxy: Proxy,
    authority: Authority,
    backend: Backend,
    folder: PathBuf,
}

impl Site {
    /// With one certificate, and what `tls` says beside it.
    async fn start(tls: &str) -> Self {
        Self::with(&format!("certificates = [{SITE}], {tls}"), "", |_| {}).await
    }

    /// With this `tls` and these lines of the listener; `prepare` issues more certificates.
    async fn with(tls: &str, listener: &str, prepare: impl FnOnce(&Authority)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().to_owned();
        let authority = Authority::new(&path);
        authority.issue_for("site", &["localhost", "127.0.0.1"], |params| {
            // One that goes by its authority's name is taken to be self-signed by OpenSSL.
            params.distinguished_name.push(DnType::CommonName, "site");
        });
        prepare(&authority);
        let config = format!(
            "workers = 2\n[[listen]]\naddress = \"127.0.0.1:0\"\n[[listen]]\n\
             address = \"127.0.0.1:0\"\ntls = {{ {tls} }}\n{listener}\n"
        );
        let proxy = Proxy::start_in(folder, &config).await;
        let backend = Backend::named("site").answering(|request| async move {
            let fields = request.headers().iter().map(|(name, value)| {
                format!("{name}: {}\n", String::from_utf8_lossy(value.as_bytes()))
            });
            fields.collect::<String>()
        });
        let backend = backend.start().await;
        proxy.register("site", backend.address()).await;
        proxy.until_served("/site/").await;
        Self {
            proxy,
            authority,
            backend,
            folder: path,
        }
    }

    /// Where TLS is spoken.
    fn address(&self) -> SocketAddr {
        self.proxy.address_of(1)
    }

    fn url(&self, path: &str) -> String {
        format!("https://localhost:{}{path}", self.address().port())
    }

    /// What reqwest needs, which speaks TLS by a library of its own settings.
    fn reqwest(&self) -> reqwest::Client {
        let ca = fs::read(self.authority.ca()).unwrap();
        reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .tls_certs_only([reqwest::Certificate::from_pem(&ca).unwrap()])
            .build()
            .unwrap()
    }

    /// What `/api/status` says of its TLS.
    async fn status(&self) -> Value {
        let mut status = self.proxy.status().await;
        status["tls"][0].take()
    }

    /// How many handshakes came to this.
    async fn handshakes(&self, result: &str) -> u64 {
        self.status().await["handshakes"][result].as_u64().unwrap()
    }

    /// A client that trusts the other's authority.
    fn client_of(&self, other: &Self) -> Client {
        let address = self.address();
        Client {
            address,
            ..other.client()
        }
    }

    /// A client that trusts the authority alone.
    fn client(&self) -> Client {
        Client {
            address: self.address(),
            ca: self.authority.ca(),
            name: "localhost".to_owned(),
            versions: VERSIONS.to_vec(),
            identity: None,
            config: None,
        }
    }
}

/// A client of TLS, as a test wants it.
#[derive(Clone)]
struct Client {
    address: SocketAddr,
    ca: PathBuf,
    name: String,
    versions: Vec<&'static SupportedProtocolVersion>,
    identity: Option<(PathBuf, PathBuf)>,
    /// Where connections are to share their sessions.
    config: Option<Arc<ClientConfig>>,
}

impl Client {
    fn asking_for(mut self, name: &str) -> Self {
        name.clone_into(&mut self.name);
        self
    }

    fn speaking(mut self, version: &'static SupportedProtocolVersion) -> Self {
        self.versions = vec![version];
        self
    }

    fn showing(mut self, identity: (PathBuf, PathBuf)) -> Self {
        self.identity = Some(identity);
        self
    }

    fn config(&self) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(certificates(&self.ca));
        let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_protocol_versions(&self.versions)
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match &self.identity {
            None => config.with_no_client_auth(),
            Some((chain, key)) => {
                let key = PrivateKeyDer::from_pem_file(key).unwrap();
                config
                    .with_client_auth_cert(certificates(chain), key)
                    .unwrap()
            }
        };
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        config
    }

    /// One whose connections resume each other's sessions.
    fn remembering(mut self) -> Self {
        self.config = Some(Arc::new(self.config()));
        self
    }

    async fn connect(&self) -> io::Result<TlsStream<TcpStream>> {
        let config = self
            .config
            .clone()
            .unwrap_or_else(|| Arc::new(self.config()));
        let socket = TcpStream::connect(self.address).await?;
        let name = ServerName::try_from(self.name.clone()).unwrap();
        TlsConnector::from(config).connect(name, socket).await
    }

    /// The certificate that it is shown.
    async fn shown(&self) -> io::Result<CertificateDer<'static>> {
        let stream = self.connect().await?;
        let shown = stream.get_ref().1.peer_certificates().unwrap();
        Ok(shown[0].clone().into_owned())
    }

    /// The answer to one request, to the end of the connection.
    async fn get(&self, path: &str) -> io::Result<String> {
        let mut stream = self.connect().await?;
        ask(&mut stream, path, "Connection: close\r\n").await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok(answer)
    }
}

/// Sends a request with these fields more.
async fn ask(stream: &mut TlsStream<TcpStream>, path: &str, fields: &str) -> io::Result<()> {
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n");
    stream.write_all(request.as_bytes()).await?;
    stream.flush().await
}

/// Reads an answer whose length is said, and leaves its connection.
async fn answer(stream: &mut TlsStream<TcpStream>) -> String {
    let mut read = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&read).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head
                .lines()
                .find_map(|line| line.strip_prefix("content-length: "));
            if length.is_some_and(|length| length.parse() == Ok(body.len())) {
                return text;
            }
        }
        assert_ne!(stream.read_buf(&mut read).await.unwrap(), 0, "{text}");
    }
}

fn certificates(path: &std::path::Path) -> Vec<CertificateDer<'static>> {
    let certificates = CertificateDer::pem_file_iter(path).unwrap();
    certificates.map(Result::unwrap).collect()
}

/// The first certificate in a file.
fn certificate_in(path: &std::path::Path) -> CertificateDer<'static> {
    certificates(path).remove(0)
}
