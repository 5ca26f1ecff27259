//! TLS of a client of ours, from its files: whom it believes, and as whom it comes. Knows nothing of
//! whom it calls.

mod trust;

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    ClientConfig, Error, RootCertStore,
    client::WebPkiServerVerifier,
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};

use crate::config::ClientTls;
use trust::Trust;

/// Why a `tls` of the file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file is not what it should be.
    #[error("{} holds no {wanted} in PEM form", path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// "certificate" or "private key".
        wanted: &'static str,
    },
    /// The certificate and the key cannot be used together.
    #[error("the certificate {} cannot be used with its key: {source}", path.display())]
    Identity {
        /// The certificate's file.
        path: PathBuf,
        /// Why.
        source: Error,
    },
    /// The system has no certificate authorities.
    #[error("the system has no certificate authorities; set tls.ca")]
    NoAuthorities,
}

/// What a client of ours with these settings needs; where they name no authority and no key, the
/// system's authorities are believed.
///
/// # Errors
/// Where a file cannot be used, or the system's authorities are wanted and there are none.
pub fn client_config(settings: &ClientTls) -> Result<ClientConfig, TlsError> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let trust = Arc::new(trust(settings, Arc::clone(&provider))?);
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the provider has suites for them")
        .dangerous()
        .with_custom_certificate_verifier(trust);
    Ok(match &settings.identity {
        None => config.with_no_client_auth(),
        Some((chain, key)) => {
            let identity = |source| TlsError::Identity {
                path: chain.clone(),
                source,
            };
            config
                .with_client_auth_cert(certificates_in(chain)?, key_in(key)?)
                .map_err(identity)?
        }
    })
}

fn trust(settings: &ClientTls, provider: Arc<CryptoProvider>) -> Result<Trust, TlsError> {
    let named = match &settings.ca {
        Some(path) => certificates_in(path)?,
        None => Vec::new(),
    };
    let authorities = match &settings.ca {
        Some(path) => Some(authorities_among(&named, path)?),
        None if settings.pins.is_empty() => Some(authorities_of_the_system()?),
        None => None,
    };
    let verifier = |authorities| {
        WebPkiServerVerifier::builder_with_provider(Arc::new(authorities), Arc::clone(&provider))
            .build()
            .expect("there is an authority, and no list of revoked certificates")
    };
    Ok(Trust {
        authorities: authorities.map(verifier),
        named,
        pins: settings.pins.clone(),
        provider,
    })
}

fn authorities_among(
    certificates: &[CertificateDer<'static>],
    path: &Path,
) -> Result<RootCertStore, TlsError> {
    let mut authorities = RootCertStore::empty();
    for certificate in certificates {
        let added = authorities.add(certificate.clone());
        added.map_err(|_| no_pem(path, "certificate"))?;
    }
    Ok(authorities)
}

fn authorities_of_the_system() -> Result<RootCertStore, TlsError> {
    let mut authorities = RootCertStore::empty();
    // Some that cannot be read, of the many that a system has, do no harm.
    authorities.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if authorities.is_empty() {
        return Err(TlsError::NoAuthorities);
    }
    Ok(authorities)
}

fn certificates_in(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    CertificateDer::pem_slice_iter(&read(path)?)
        .collect::<Result<Vec<_>, _>>()
        .ok()
        .filter(|certificates| !certificates.is_empty())
        .ok_or_else(|| no_pem(path, "certificate"))
}

fn key_in(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_slice(&read(path)?).map_err(|_| no_pem(path, "private key"))
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path).map_err(|source| TlsError::Read {
        path: path.to_owned(),
        source,
    })
}

fn no_pem(path: &Path, wanted: &'static str) -> TlsError {
    TlsError::Pem {
        path: path.to_owned(),
        wanted,
    }
}
