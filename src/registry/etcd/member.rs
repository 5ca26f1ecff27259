//! One member of a cluster: how it is connected to. Knows nothing of what is asked.

use std::{io, sync::Arc, time::Duration};

use http::Uri;
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, pki_types::ServerName};
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint, Error};

use crate::registry::BuildError;

/// Finds a machine that is gone where nothing is asked for a while.
const KEEPALIVE: Duration = Duration::from_secs(15);

/// A member of a cluster.
#[derive(Debug)]
pub(super) struct Member {
    /// Its URL.
    pub(super) address: String,
    endpoint: Endpoint,
    /// Where it speaks TLS.
    secure: Option<Secure>,
}

#[derive(Clone)]
struct Secure {
    connector: TlsConnector,
    name: ServerName<'static>,
    port: u16,
}

impl Member {
    /// The one at `address`; `tls` is for one that speaks it.
    pub(super) fn new(
        registry: &str,
        address: &str,
        tls: Option<&ClientConfig>,
    ) -> Result<Self, BuildError> {
        let wrong = || BuildError::address(registry, address);
        let uri: Uri = address.parse().map_err(|_| wrong())?;
        let secure = match (uri.scheme_str(), tls) {
            (Some("https"), Some(config)) => Some(Secure::to(&uri, config).ok_or_else(wrong)?),
            _ => None,
        };
        let agent = concat!("callboard/", env!("CARGO_PKG_VERSION"));
        let endpoint = match &secure {
            None => Endpoint::from_shared(address.to_owned()),
            // The TLS is ours, and tonic wants to know of none; etcd is told of it all the same.
            Some(_) => Endpoint::from_shared(address.replacen("https:", "http:", 1))
                .map(|endpoint| endpoint.origin(uri)),
        };
        let endpoint = endpoint.and_then(|endpoint| endpoint.user_agent(agent));
        Ok(Self {
            address: address.to_owned(),
            endpoint: endpoint
                .map_err(|_| wrong())?
                .tcp_keepalive(Some(KEEPALIVE)),
            secure,
        })
    }

    /// A connection to it.
    pub(super) async fn connect(&self) -> Result<Channel, Error> {
        let Some(secure) = self.secure.clone() else {
            return self.endpoint.connect().await;
        };
        let connector = tower::service_fn(move |_| {
            let secure = secure.clone();
            async move { secure.connect().await.map(TokioIo::new) }
        });
        self.endpoint.connect_with_connector(connector).await
    }
}

impl Secure {
    fn to(uri: &Uri, config: &ClientConfig) -> Option<Self> {
        let host = uri.host()?.trim_matches(['[', ']']).to_owned();
        let mut config = config.clone();
        config.alpn_protocols = vec![b"h2".to_vec()];
        Some(Self {
            connector: Arc::new(config).into(),
            name: ServerName::try_from(host).ok()?,
            port: uri.port_u16().unwrap_or(443),
        })
    }

    async fn connect(self) -> io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
        let host = self.name.to_str();
        let socket = TcpStream::connect((&*host, self.port)).await?;
        socket.set_nodelay(true)?;
        let keepalive = TcpKeepalive::new().with_time(KEEPALIVE);
        SockRef::from(&socket).set_tcp_keepalive(&keepalive)?;
        self.connector.connect(self.name.clone(), socket).await
    }
}

impl std::fmt::Debug for Secure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secure")
    }
}
