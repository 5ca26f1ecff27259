//! Which servers a client of ours trusts: those with a certificate that an authority has signed, with
//! one that `tls.ca` names itself, or with a key that `tls.pin` names.

use std::{error::Error as StdError, fmt, sync::Arc};

use rustls::{
    CertificateError, Error, OtherError,
    client::{
        WebPkiServerVerifier,
        danger::{ServerCertVerified, ServerCertVerifier as _},
    },
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::ParsedCertificate,
};

use crate::config::Pin;

/// Which servers are trusted.
#[derive(Clone, Debug)]
pub(super) struct Trust {
    /// Whose signatures count; `None` where the pins alone do.
    pub(super) authorities: Option<Arc<WebPkiServerVerifier>>,
    /// Certificates that stand in `tls.ca`. A server that shows one of them byte for byte, and has
    /// its key, is trusted, whatever name the certificate is for, however old it is, and whether it
    /// is an authority's or not.
    pub(super) named: Vec<CertificateDer<'static>>,
    /// Where not empty, one of these must be the certificate's key.
    pub(super) pins: Vec<Pin>,
}

impl Trust {
    /// Whether a server is trusted that shows this certificate.
    ///
    /// # Errors
    /// Why not.
    pub(super) fn verify_server_cert(
        &self,
        shown: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if !self.pins.is_empty() {
            let key = ParsedCertificate::try_from(shown)?.subject_public_key_info();
            let pin = Pin::of_key(&key);
            if !self.pins.contains(&pin) {
                return Err(refused(Why::Key(pin)));
            }
        }
        if self.named.iter().any(|named| **named == **shown) {
            return Ok(ServerCertVerified::assertion());
        }
        let Some(authorities) = &self.authorities else {
            return Ok(ServerCertVerified::assertion());
        };
        let verified = authorities.verify_server_cert(shown, intermediates, name, ocsp, now);
        verified.map_err(|error| match &error {
            Error::InvalidCertificate(CertificateError::Other(other))
                if other.to_string().contains("CaUsedAsEndEntity") =>
            {
                refused(Why::Authority)
            }
            _ => error,
        })
    }
}

/// What is wrong with a certificate that authorities have no word for.
enum Why {
    Authority,
    Key(Pin),
}

fn refused(why: Why) -> Error {
    CertificateError::Other(OtherError(Arc::new(why))).into()
}

impl StdError for Why {}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Authority => f.write_str(
                "it is an authority's own, such as `openssl req -x509` makes, and not one of \
                 tls.ca: name this very one there, or its key in tls.pin",
            ),
            Self::Key(pin) => write!(f, "its key is {pin}, which is none of tls.pin"),
        }
    }
}

/// `rustls` shows the causes that it does not know so.
impl fmt::Debug for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
