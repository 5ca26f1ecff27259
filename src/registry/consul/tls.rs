//! TLS to an agent: who it must be, and as whom we come. Knows nothing of what is asked.

use std::{path::Path, sync::Arc};

use rustls::{
    ClientConfig, RootCertStore,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};

use crate::{config::ClientTls, registry::BuildError};

/// The `tls` of `[registry.NAME]`; where it names no authority, the system's are read.
pub(super) fn client_config(
    registry: &str,
    settings: &ClientTls,
) -> Result<ClientConfig, BuildError> {
    let files = Files { registry };
    let roots = match &settings.ca {
        Some(path) => files.roots(path)?,
        None => files.roots_of_the_system()?,
    };
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("the provider has suites for them")
        .with_root_certificates(roots);
    let Some((chain, key)) = &settings.identity else {
        return Ok(config.with_no_client_auth());
    };
    let (certificates, private) = files.identity(chain, key)?;
    config
        .with_client_auth_cert(certificates, private)
        .map_err(|error| {
            files.unsuited(format!(
                "the certificate {} cannot be used with its key: {error}",
                chain.display()
            ))
        })
}

struct Files<'a> {
    registry: &'a str,
}

impl Files<'_> {
    fn roots(&self, path: &Path) -> Result<RootCertStore, BuildError> {
        const WANTED: &str = "certificate";
        let mut roots = RootCertStore::empty();
        for certificate in certificates(&self.read(path)?).unwrap_or_default() {
            roots
                .add(certificate)
                .map_err(|_| self.not_pem(path, WANTED))?;
        }
        if roots.is_empty() {
            return Err(self.not_pem(path, WANTED));
        }
        Ok(roots)
    }

    fn roots_of_the_system(&self) -> Result<RootCertStore, BuildError> {
        let found = rustls_native_certs::load_native_certs();
        let mut roots = RootCertStore::empty();
        // Some systems keep one that nobody understands.
        roots.add_parsable_certificates(found.certs);
        if roots.is_empty() {
            let reason = "the system has no certificate authorities; set tls.ca";
            return Err(self.unsuited(reason.to_owned()));
        }
        Ok(roots)
    }

    fn identity(
        &self,
        chain: &Path,
        key: &Path,
    ) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), BuildError> {
        let certificates = certificates(&self.read(chain)?);
        let private = PrivateKeyDer::from_pem_slice(&self.read(key)?).ok();
        certificates
            .filter(|chain| !chain.is_empty())
            .zip(private)
            .ok_or_else(|| self.not_pem(chain, "certificate and key"))
    }

    fn read(&self, path: &Path) -> Result<Vec<u8>, BuildError> {
        std::fs::read(path).map_err(|source| BuildError::Read {
            registry: self.registry.to_owned(),
            path: path.to_owned(),
            source,
        })
    }

    fn not_pem(&self, path: &Path, wanted: &'static str) -> BuildError {
        BuildError::Pem {
            registry: self.registry.to_owned(),
            path: path.to_owned(),
            wanted,
        }
    }

    fn unsuited(&self, reason: String) -> BuildError {
        BuildError::Unsuited {
            registry: self.registry.to_owned(),
            reason,
        }
    }
}

fn certificates(pem: &[u8]) -> Option<Vec<CertificateDer<'static>>> {
    CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .ok()
}
