//! TLS of a client of ours: whom it believes, and as whom it comes. Knows nothing of whom it calls.

use std::sync::Arc;

use rustls::{
    ClientConfig, RootCertStore,
    client::WebPkiServerVerifier,
    crypto::{CryptoProvider, aws_lc_rs},
};

use super::{
    pem::{TlsError, authorities_among, certificates_in, key_in},
    trust::Trust,
};
use crate::config::ClientTls;

/// What a client of ours with these settings needs; where they name no authority and no key, the
/// system's authorities are believed.
///
/// # Errors
/// Where a file cannot be used, or the system's authorities are wanted and there are none.
pub(crate) fn client_config(settings: &ClientTls) -> Result<ClientConfig, TlsError> {
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

fn authorities_of_the_system() -> Result<RootCertStore, TlsError> {
    let mut authorities = RootCertStore::empty();
    // Some that cannot be read, of the many that a system has, do no harm.
    authorities.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if authorities.is_empty() {
        return Err(TlsError::NoAuthorities);
    }
    Ok(authorities)
}
