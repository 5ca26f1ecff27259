//! Whose signatures count under clients' certificates, in a file that is read again when it changes.

use std::{path::Path, sync::Arc};

use rustls::{
    RootCertStore,
    crypto::CryptoProvider,
    server::{WebPkiClientVerifier, danger::ClientCertVerifier},
};

use super::{
    followed::{Change, Followed},
    pem::{TlsError, authorities_among, certificates_in},
    stamp::{Stamp, stamp},
};
use crate::config::ClientCertificates;

/// Whose signatures count under clients' certificates.
pub(super) struct ClientAuthorities {
    settings: ClientCertificates,
    pub(super) followed: Followed<Option<Stamp>>,
    pub(super) verifier: Arc<dyn ClientCertVerifier>,
}

impl ClientAuthorities {
    /// Reads the file.
    ///
    /// # Errors
    /// Where it cannot be used.
    pub(super) fn read(
        settings: &ClientCertificates,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Self, TlsError> {
        let followed = Followed::new(stamp(&settings.ca));
        Ok(Self {
            verifier: verifier(settings, provider)?,
            settings: settings.clone(),
            followed,
        })
    }

    /// Reads the file again where it has changed.
    pub(super) fn follow(&mut self, provider: &Arc<CryptoProvider>) -> Change {
        if !self.followed.have_changed(stamp(&self.settings.ca)) {
            return Change::None;
        }
        let ca = self.settings.ca.display();
        match verifier(&self.settings, provider) {
            Ok(verifier) => {
                tracing::info!(%ca, "new authorities of clients are used");
                self.verifier = verifier;
                self.followed.take()
            }
            Err(error) => {
                let change = self.followed.refuse(&error);
                if change == Change::Refused {
                    tracing::warn!(%ca, %error, "new authorities of clients cannot be used, and the old ones stay");
                }
                change
            }
        }
    }
}

fn verifier(
    settings: &ClientCertificates,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let ca: &Path = &settings.ca;
    let authorities: RootCertStore = authorities_among(&certificates_in(ca)?, ca)?;
    let builder =
        WebPkiClientVerifier::builder_with_provider(Arc::new(authorities), Arc::clone(provider));
    let builder = match settings.required {
        true => builder,
        false => builder.allow_unauthenticated(),
    };
    Ok(builder
        .build()
        .expect("there is an authority, and no list of revoked certificates"))
}
