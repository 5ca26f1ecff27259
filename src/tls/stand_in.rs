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

/// What stands in the certificate instead of a name. A client that asks for nothing would read all names of the
/// routes in it, were they there.
const NO_NAME: &str = "not-issued-yet.invalid";

/// A certificate that is shown for hosts that no other is for.
#[derive(Debug)]
pub(super) struct StandIn {
    pub(super) hosts: Vec<String>,
    pub(super) key: Arc<CertifiedKey>,
}

impl StandIn {
    /// A new one; `None` where the system gives no randomness.
    pub(super) fn new(hosts: Vec<String>, provider: &CryptoProvider) -> Option<Self> {
        let params = CertificateParams::new([NO_NAME.to_owned()]).ok()?;
        let pair = KeyPair::generate().ok()?;
        let certificate = params.self_signed(&pair).ok()?;
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(pair.serialize_der()));
        let chain = vec![certificate.der().clone()];
        let key = CertifiedKey::from_der(chain, key, provider).ok()?;
        let key = Arc::new(key);
        Some(Self { hosts, key })
    }

    /// The same certificate, shown for other hosts.
    pub(super) fn for_hosts(self, hosts: Vec<String>) -> Self {
        Self { hosts, ..self }
    }
}

#[cfg(test)]
mod tests {
    use rustls::crypto::aws_lc_rs::default_provider;

    use super::*;
    use crate::tls::Certificate;

    #[test]
    fn no_name_that_waits_for_its_certificate_stands_in_it() {
        let provider = default_provider();
        let hosts = vec!["internal.example.com".to_owned()];
        let stand_in = StandIn::new(hosts, &provider).unwrap();
        let said = Certificate::parse(&stand_in.key.cert[0]).unwrap();
        assert_eq!(said.hosts().collect::<Vec<_>>(), [NO_NAME]);
        let key = Arc::clone(&stand_in.key);
        let other = stand_in.for_hosts(vec!["a.example.com".to_owned()]);
        assert!(Arc::ptr_eq(&other.key, &key), "no key is made for it");
    }
}
