//! TLS of a client of ours, from its files: whom it believes, and as whom it comes. Knows nothing of
//! whom it calls.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    ClientConfig, Error, RootCertStore,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};

use crate::config::ClientTls;

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
    /// The system trusts nobody.
    #[error("the system has no certificate authorities; set tls.ca")]
    NoAuthorities,
}

/// What a client of ours with these settings needs; where they name no authority, the system's are
/// believed.
///
/// # Errors
/// Where a file cannot be used, or the system's authorities are wanted and there are none.
pub fn client_config(settings: &ClientTls) -> Result<ClientConfig, TlsError> {
    let authorities = match &settings.ca {
        Some(path) => authorities_in(path)?,
        None => authorities_of_the_system()?,
    };
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("the provider has suites for them")
        .with_root_certificates(authorities);
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

fn authorities_in(path: &Path) -> Result<RootCertStore, TlsError> {
    let mut authorities = RootCertStore::empty();
    for certificate in certificates_in(path)? {
        let added = authorities.add(certificate);
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
