//! TLS towards endpoints: who they must be, as whom we come, and the handshake. Knows nothing of
//! services and instances.

use std::{
    fmt, io,
    sync::{Arc, OnceLock},
};

use arc_swap::ArcSwap;
use futures_util::future::BoxFuture;
use rustls::{
    AlertDescription, CertificateError, Error, InvalidMessage, client::Resumption,
    pki_types::ServerName,
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::{
    config::EndpointTls,
    instance::Address,
    tls::{Client, TlsError},
};

/// HTTP/2 as the handshake names it.
pub(super) const H2: &[u8] = b"h2";
const HTTP1: &[u8] = b"http/1.1";

/// What is spoken within.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// HTTP/1.1
    Http1,
    /// HTTP/2
    Http2,
    /// Whichever the endpoint chooses.
    Either,
}

impl Protocol {
    /// Its names in the handshake, the first choice first.
    fn alpn(self) -> Vec<Vec<u8>> {
        let names: &[&[u8]] = match self {
            Self::Http1 => &[HTTP1],
            Self::Http2 => &[H2],
            Self::Either => &[H2, HTTP1],
        };
        names.iter().map(|name| name.to_vec()).collect()
    }
}

/// Sessions that are kept of an endpoint: as many as rustls keeps of one server.
const SESSIONS: usize = 8;

/// The TLS of services that have the same settings.
#[derive(Debug)]
pub struct Tls {
    settings: EndpointTls,
    client: OnceLock<Result<Arc<Client>, TlsError>>,
}

impl Tls {
    /// Reads the files of the settings, and follows them. Where nothing is set, the system's authorities
    /// are read when the first endpoint needs them: most services have none that does, and a small image
    /// has no authorities.
    ///
    /// # Errors
    /// Where a file cannot be used, or the system's authorities are wanted and there are none.
    pub fn open(settings: &EndpointTls) -> Result<Self, TlsError> {
        let tls = Self {
            settings: settings.clone(),
            client: OnceLock::new(),
        };
        if *settings != EndpointTls::default() {
            let client = Client::open(&settings.client)?;
            // It cannot be set yet: no other thread has `tls`.
            let _ = tls.client.set(Ok(Arc::new(client)));
        }
        Ok(tls)
    }

    /// What a handshake with the endpoint at `address` needs.
    pub fn handshake(&self, address: &Address, protocol: Protocol) -> Handshake {
        let init = || Client::open(&self.settings.client).map(Arc::new);
        let client = match self.client.get_or_init(init) {
            Ok(client) => client,
            Err(error) => return Handshake(Err(error.to_string())),
        };
        let host = address.host();
        let name = match &self.settings.server_name {
            Some(name) => Ok(name.clone()),
            None => ServerName::try_from(host.clone().into_owned()),
        };
        let Ok(name) = name else {
            let reason = format!("no certificate can be for `{host}`; set tls.server_name");
            return Handshake(Err(reason));
        };
        Handshake(Ok(Secure {
            connector: ArcSwap::from_pointee(Connector::new(client, protocol)),
            client: Arc::clone(client),
            protocol,
            name,
        }))
    }
}

/// What a handshake with one endpoint needs, or why there can be none.
pub struct Handshake(Result<Secure, String>);

struct Secure {
    client: Arc<Client>,
    protocol: Protocol,
    name: ServerName<'static>,
    connector: ArcSwap<Connector>,
}

/// What connects to one endpoint, with the sessions that it has there.
struct Connector {
    /// Whom the endpoint was proven to by these sessions, and who it had to be.
    generation: u64,
    connector: TlsConnector,
}

impl Connector {
    fn new(client: &Client, protocol: Protocol) -> Self {
        // Before the rest, which is no older then.
        let generation = client.generation();
        let mut config = client.config().clone();
        config.alpn_protocols = protocol.alpn();
        // A session of one endpoint is of no use at another, though both go by one name.
        config.resumption = Resumption::in_memory_sessions(SESSIONS);
        let connector = Arc::new(config).into();
        Self {
            generation,
            connector,
        }
    }
}

impl Secure {
    /// What connects now. A session that was begun before new files were taken over is resumed no more: its
    /// endpoint would not have to prove itself to those who are believed now.
    fn connector(&self) -> TlsConnector {
        let known = self.connector.load();
        if known.generation == self.client.generation() {
            return known.connector.clone();
        }
        let new = Connector::new(&self.client, self.protocol);
        let connector = new.connector.clone();
        self.connector.store(Arc::new(new));
        connector
    }
}

impl Handshake {
    /// Makes the endpoint prove who it is. Boxed, so that no request's future is larger for it.
    pub(super) fn over(
        &self,
        socket: TcpStream,
    ) -> BoxFuture<'_, io::Result<TlsStream<TcpStream>>> {
        Box::pin(async move {
            let secure = self.0.as_ref().map_err(|why| io::Error::other(&**why))?;
            let connecting = secure.connector().connect(secure.name.clone(), socket);
            connecting.await.map_err(with_hint)
        })
    }
}

impl fmt::Debug for Handshake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Handshake")
    }
}

/// The same error, and what to look at.
pub(super) fn with_hint(error: io::Error) -> io::Error {
    use CertificateError as Certificate;

    let hint = match cause(&error) {
        _ if is_of_our_certificate(&error) => "check tls.certificate",
        Some(Error::InvalidCertificate(
            Certificate::NotValidForName | Certificate::NotValidForNameContext { .. },
        )) => "check tls.server_name",
        // Of an authority that only calls itself by the name of one that is known.
        Some(Error::InvalidCertificate(Certificate::UnknownIssuer | Certificate::BadSignature)) => {
            "check tls.ca"
        }
        Some(Error::InvalidMessage(InvalidMessage::InvalidContentType)) => {
            "does it speak TLS there?"
        }
        _ => return error,
    };
    io::Error::new(error.kind(), format!("{error}; {hint}"))
}

/// Whether the other side does not take our certificate, or misses it.
pub(super) fn is_of_our_certificate(error: &io::Error) -> bool {
    matches!(
        cause(error),
        Some(Error::AlertReceived(
            AlertDescription::CertificateRequired
                | AlertDescription::BadCertificate
                | AlertDescription::UnsupportedCertificate
                | AlertDescription::CertificateRevoked
                | AlertDescription::CertificateExpired
                | AlertDescription::CertificateUnknown
                | AlertDescription::UnknownCA
        ))
    )
}

fn cause(error: &io::Error) -> Option<&Error> {
    error.get_ref()?.downcast_ref()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ClientTls;

    #[test]
    fn a_host_that_no_certificate_can_be_for_needs_a_server_name() {
        let folder = tempfile::tempdir().unwrap();
        let ca = folder.path().join("ca.pem");
        let authority = rcgen::generate_simple_self_signed(["ca".to_owned()]).unwrap();
        std::fs::write(&ca, authority.cert.pem()).unwrap();
        let mut settings = EndpointTls {
            client: ClientTls {
                ca: Some(ca),
                ..ClientTls::default()
            },
            server_name: None,
        };
        let address = Address::new("cart..internal", 443).unwrap();
        let handshake = |settings: &EndpointTls| {
            let tls = Tls::open(settings).unwrap();
            tls.handshake(&address, Protocol::Http1).0
        };
        assert_eq!(
            handshake(&settings).err().as_deref(),
            Some("no certificate can be for `cart..internal`; set tls.server_name")
        );
        settings.server_name = ServerName::try_from("cart.internal").ok();
        let name = handshake(&settings).map(|secure| secure.name).ok();
        assert_eq!(name, settings.server_name);
    }
}
