//! What a listener's handshake has come to: what is known of a client's connection from then on.

use rustls::{ProtocolVersion, ServerConnection};

use super::Certificate;

/// See the module.
#[derive(Debug)]
pub(crate) struct Session {
    /// As nginx and OpenSSL write it: `TLSv1.3`.
    pub version: &'static str,
    /// IANA's name of the cipher suite.
    pub cipher: String,
    /// The host that the client has asked for (SNI).
    pub name: Option<String>,
    /// What the client has shown of itself.
    pub certificate: Option<Certificate>,
}

impl Session {
    /// Of a connection whose handshake is done.
    ///
    /// # Errors
    /// What is wrong with the client's certificate.
    pub(crate) fn of(connection: &ServerConnection) -> Result<Self, String> {
        let shown = connection.peer_certificates().and_then(<[_]>::first);
        let certificate = shown.map(|shown| Certificate::parse(shown)).transpose()?;
        let version = match connection.protocol_version() {
            Some(ProtocolVersion::TLSv1_2) => "TLSv1.2",
            _ => "TLSv1.3",
        };
        let suite = connection
            .negotiated_cipher_suite()
            .map(|suite| suite.suite());
        let suite = suite.and_then(|suite| suite.as_str()).unwrap_or_default();
        Ok(Self {
            version,
            // IANA's suites of TLS 1.3 do not say which TLS they are of.
            cipher: suite.replacen("TLS13_", "TLS_", 1),
            name: connection.server_name().map(str::to_owned),
            certificate,
        })
    }
}
