//! The certificate that is shown while one that is ordered is not there yet: of this proxy's own making,
//! which no client believes. A handshake then ends with an error of the certificate, which says more than
//! one that was broken off.

use std::sync::Arc;

use rcgen::{CertificateParams, KeyPair};
use rustls::{
    crypto::CryptoProvider,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
    sign::CertifiedKey,
};

/// A certificate for hosts that no other is for.
#[derive(Debug)]
pub(super) struct StandIn {
    pub(super) hosts: Vec<String>,
    pub(super) key: Arc<CertifiedKey>,
}

impl StandIn {
    /// A new one; `None` where the system gives no randomness.
    pub(super) fn new(hosts: Vec<String>, provider: &CryptoProvider) -> Option<Self> {
        let params = CertificateParams::new(hosts.clone()).ok()?;
        let pair = KeyPair::generate().ok()?;
        let certificate = params.self_signed(&pair).ok()?;
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(pair.serialize_der()));
        let chain = vec![certificate.der().clone()];
        let key = CertifiedKey::from_der(chain, key, provider).ok()?;
        let key = Arc::new(key);
        Some(Self { hosts, key })
    }
}
