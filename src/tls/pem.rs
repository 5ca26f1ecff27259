//! Certificates and keys in PEM files, and why they cannot be used.

use std::{
    io,
    path::{Path, PathBuf},
};

use rustls::{
    Error, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use x509_parser::time::ASN1Time;

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
    /// A certificate is not one of X.509.
    #[error("the certificate {} cannot be understood: {reason}", path.display())]
    Certificate {
        /// The certificate's file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// Its files could not be read again when they change.
    #[error("the system gives no thread to read its files again: {0}")]
    Thread(io::Error),
    /// A file holds no keys of session tickets.
    #[error("{} cannot be used for the keys of session tickets: {reason}", path.display())]
    Tickets {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A certificate is not valid yet.
    #[error("the certificate {} is not valid before {}", path.display(), date(*from))]
    NotYetValid {
        /// The certificate's file.
        path: PathBuf,
        /// Unix time.
        from: i64,
    },
    /// A certificate is not valid any more.
    #[error("the certificate {} has ended at {}", path.display(), date(*until))]
    Ended {
        /// The certificate's file.
        path: PathBuf,
        /// Unix time.
        until: i64,
    },
    /// The system has no certificate authorities.
    #[error("the system has no certificate authorities; set tls.ca")]
    NoAuthorities,
}

/// A moment of Unix time, for people.
fn date(seconds: i64) -> String {
    let date = ASN1Time::from_timestamp(seconds).ok();
    let date = date.and_then(|date| date.to_rfc2822().ok());
    date.unwrap_or_else(|| seconds.to_string())
}

pub(super) fn authorities_among(
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

pub(super) fn certificates_in(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    CertificateDer::pem_slice_iter(&read(path)?)
        .collect::<Result<Vec<_>, _>>()
        .ok()
        .filter(|certificates| !certificates.is_empty())
        .ok_or_else(|| no_pem(path, "certificate"))
}

pub(super) fn key_in(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_slice(&read(path)?).map_err(|_| no_pem(path, "private key"))
}

pub(super) fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
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
