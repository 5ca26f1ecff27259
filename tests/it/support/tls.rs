//! TLS as a backend's side of it: what each handshake was, and an end with or without a word.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use rustls::{
    ClientConfig, HandshakeKind, ProtocolVersion, RootCertStore, ServerConfig,
    SupportedProtocolVersion,
    crypto::aws_lc_rs::default_provider,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
};
use tokio::{
    io::{AsyncWriteExt as _, copy, copy_bidirectional, split},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};
use tokio_rustls::{TlsAcceptor, TlsConnector, server::TlsStream};

/// Both versions.
pub(crate) const VERSIONS: [&SupportedProtocolVersion; 2] =
    [&rustls::version::TLS12, &rustls::version::TLS13];

/// A certificate chain and its key.
pub(crate) type Identity = (PathBuf, PathBuf);

/// What a backend with this certificate needs, who speaks these versions and, where `clients` is
/// an authority, wants a certificate of it.
pub(crate) fn server(
    (chain, key): &Identity,
    versions: &[&'static SupportedProtocolVersion],
    clients: Option<&Path>,
) -> ServerConfig {
    let provider = Arc::new(default_provider());
    let config = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(versions)
        .unwrap();
    let config = match clients {
        None => config.with_no_client_auth(),
        Some(authority) => {
            let mut roots = RootCertStore::empty();
            roots.add_parsable_certificates(certificates(authority));
            let verifier =
                WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
            config.with_client_cert_verifier(verifier.unwrap())
        }
    };
    let key = PrivateKeyDer::from_pem_file(key).unwrap();
    let mut config = config.with_single_cert(certificates(chain), key).unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config
}

/// What a client needs that trusts this authority, and speaks this version of TLS and these protocols (ALPN).
pub(crate) fn connector(
    authority: &Path,
    version: &'static SupportedProtocolVersion,
    protocols: &[&[u8]],
) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(certificates(authority));
    let mut config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
    Arc::new(config).into()
}

fn certificates(path: &Path) -> Vec<CertificateDer<'static>> {
    let certificates = CertificateDer::pem_file_iter(path).unwrap();
    certificates.map(Result::unwrap).collect()
}

/// How a handshake went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Handshake {
    pub(crate) resumed: bool,
    pub(crate) version: ProtocolVersion,
    /// Who was asked for.
    pub(crate) server_name: Option<String>,
    /// What was agreed upon.
    pub(crate) protocol: Option<String>,
    /// Whether the client showed a certificate.
    pub(crate) certified: bool,
}

/// How a connection ends whose backend has closed its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// As TLS wants it, with a `close_notify`.
    Said,
    /// As one that was cut off.
    Cut,
}

/// A backend over TLS, gone when it is dropped.
pub(crate) struct TlsBackend {
    address: SocketAddr,
    handshakes: Arc<Mutex<Vec<Handshake>>>,
    accepting: JoinHandle<()>,
}

impl TlsBackend {
    /// TLS in front of a backend that speaks none.
    pub(crate) async fn before(backend: SocketAddr, config: ServerConfig, end: End) -> Self {
        Self::serving(config, move |stream| relay(stream, backend, end)).await
    }

    /// Serves each connection as `serve` does.
    pub(crate) async fn serving<F>(
        config: ServerConfig,
        serve: impl Fn(TlsStream<TcpStream>) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let handshakes = Arc::<Mutex<Vec<_>>>::default();
        let notes = Arc::clone(&handshakes);
        let (acceptor, serve) = (TlsAcceptor::from(Arc::new(config)), Arc::new(serve));
        let accepting = tokio::spawn(async move {
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                socket.set_nodelay(true).unwrap();
                let (handshake, serve) = (acceptor.accept(socket), Arc::clone(&serve));
                let notes = Arc::clone(&notes);
                tokio::spawn(async move {
                    // A handshake that fails is the other side's to tell of.
                    if let Ok(stream) = handshake.await {
                        notes.lock().unwrap().push(Handshake::of(&stream));
                        serve(stream).await;
                    }
                });
            }
        });
        Self {
            address,
            handshakes,
            accepting,
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Those that came to an end, in their order.
    pub(crate) fn handshakes(&self) -> Vec<Handshake> {
        self.handshakes.lock().unwrap().clone()
    }
}

impl Drop for TlsBackend {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Handshake {
    fn of(stream: &TlsStream<TcpStream>) -> Self {
        let session = stream.get_ref().1;
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        Self {
            resumed: session.handshake_kind() == Some(HandshakeKind::Resumed),
            version: session.protocol_version().unwrap(),
            server_name: session.server_name().map(str::to_owned),
            protocol: session.alpn_protocol().map(text),
            certified: session.peer_certificates().is_some(),
        }
    }
}

async fn relay(mut stream: TlsStream<TcpStream>, backend: SocketAddr, end: End) {
    let Ok(mut backend) = TcpStream::connect(backend).await else {
        return;
    };
    backend.set_nodelay(true).unwrap();
    if end == End::Said {
        // Whoever ends it is heard by the other.
        drop(copy_bidirectional(&mut stream, &mut backend).await);
        return;
    }
    let (mut from_client, mut to_client) = split(stream);
    let (mut from_backend, mut to_backend) = backend.split();
    tokio::select! {
        answered = copy(&mut from_backend, &mut to_client) => drop(answered),
        asked = async {
            drop(copy(&mut from_client, &mut to_backend).await);
            to_backend.shutdown().await
        } => drop(asked),
    }
}
