//! What listeners answer an authority that wants a proof: by HTTP (http-01, RFC 8555 8.3), or by TLS
//! (tls-alpn-01, RFC 8737). Requests and handshakes look here without a lock, and there is nothing here
//! but while an order is under way.

use std::{
    collections::{BTreeMap, HashMap},
    path::{Path, PathBuf},
    sync::Arc,
};

use arc_swap::ArcSwapOption;
use aws_lc_rs::digest;
use bytes::Bytes;
use parking_lot::Mutex;
use rcgen::{CertificateParams, CustomExtension, KeyPair};
use rustls::{
    ServerConfig,
    crypto::aws_lc_rs::default_provider,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
    server::ClientHello,
    sign::{CertifiedKey, SingleCertAndKey},
};
use serde::{Deserialize, Serialize};

/// Where an authority asks by HTTP; the token follows.
const WELL_KNOWN: &str = "/.well-known/acme-challenge/";

/// What an authority that asks by TLS speaks within (RFC 8737 6.2).
pub(crate) const ACME_TLS: &[u8] = b"acme-tls/1";

/// The proof that a name is this account's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Proof {
    /// The name.
    pub(super) name: String,
    /// What the authority asks for.
    pub(super) token: String,
    /// What it is to hear (RFC 8555 8.1).
    pub(super) answer: String,
}

/// The proofs that are wanted now.
#[derive(Default)]
pub(crate) struct Challenges {
    answers: ArcSwapOption<Answers>,
    /// By the folder of the account.
    proofs: Mutex<BTreeMap<PathBuf, Vec<Proof>>>,
}

#[derive(Default)]
struct Answers {
    by_token: HashMap<String, Bytes>,
    by_name: HashMap<String, Arc<ServerConfig>>,
}

impl Challenges {
    /// The answer to a request for this path, where an authority has made it.
    pub(crate) fn answer(&self, path: &str) -> Option<Bytes> {
        let token = path.strip_prefix(WELL_KNOWN)?;
        let answers = self.answers.load();
        answers.as_ref()?.by_token.get(token).cloned()
    }

    /// Whether a handshake may be an authority's.
    pub(crate) fn are_there(&self) -> bool {
        self.answers.load().is_some()
    }

    /// What a handshake is done by that an authority has begun: it offers nothing but its own protocol.
    pub(crate) fn config_for(&self, hello: &ClientHello<'_>) -> Option<Arc<ServerConfig>> {
        if !hello.alpn()?.eq([ACME_TLS]) {
            return None;
        }
        let name = hello.server_name()?.to_ascii_lowercase();
        let answers = self.answers.load();
        answers.as_ref()?.by_name.get(&name).cloned()
    }

    /// Has these be the proofs of the account of a folder.
    pub(super) fn show(&self, folder: &Path, proofs: Vec<Proof>) {
        let mut all = self.proofs.lock();
        let are_known = match all.get(folder) {
            Some(before) => *before == proofs,
            None => proofs.is_empty(),
        };
        if are_known {
            return;
        }
        match proofs.is_empty() {
            true => all.remove(folder),
            false => all.insert(folder.to_owned(), proofs),
        };
        let mut answers = Answers::default();
        for proof in all.values().flatten() {
            let answer = Bytes::from(proof.answer.clone());
            answers.by_token.insert(proof.token.clone(), answer);
            if let Some(config) = config(proof) {
                answers.by_name.insert(proof.name.clone(), config);
            }
        }
        let is_any = !answers.by_token.is_empty();
        self.answers.store(is_any.then(|| Arc::new(answers)));
    }
}

/// The certificate that is the proof (RFC 8737 3), as a listener shows it; `None` where the system gives no
/// randomness.
fn config(proof: &Proof) -> Option<Arc<ServerConfig>> {
    let digest = digest::digest(&digest::SHA256, proof.answer.as_bytes());
    let mut params = CertificateParams::new([proof.name.clone()]).ok()?;
    params.custom_extensions = vec![CustomExtension::new_acme_identifier(digest.as_ref())];
    let pair = KeyPair::generate().ok()?;
    let certificate = params.self_signed(&pair).ok()?;
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(pair.serialize_der()));
    let provider = default_provider();
    // Not `with_single_cert`, which reads the certificate and refuses its critical extension.
    let key = provider.key_provider.load_private_key(key).ok()?;
    let shown = CertifiedKey::new(vec![certificate.der().clone()], key);
    let mut config = ServerConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()
        .ok()?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(shown)));
    config.alpn_protocols = vec![ACME_TLS.to_vec()];
    config.send_tls13_tickets = 0;
    Some(Arc::new(config))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proof(name: &str, token: &str) -> Proof {
        Proof {
            name: name.to_owned(),
            token: token.to_owned(),
            answer: format!("{token}.thumb"),
        }
    }

    #[test]
    fn a_token_is_answered_while_its_order_is_under_way() {
        let challenges = Challenges::default();
        let path = |token: &str| format!("{WELL_KNOWN}{token}");
        let answer = |token: &str| challenges.answer(&path(token));
        assert!(!challenges.are_there() && answer("a").is_none());
        let (one, other) = (Path::new("/one"), Path::new("/other"));
        challenges.show(one, vec![proof("a.example.com", "a")]);
        challenges.show(other, vec![proof("b.example.com", "b")]);
        assert!(challenges.are_there());
        assert_eq!(answer("a").unwrap(), "a.thumb");
        assert_eq!(answer("b").unwrap(), "b.thumb");
        for path in [path("c"), path(""), path("a/"), "/a".to_owned()] {
            assert_eq!(challenges.answer(&path), None, "{path}");
        }
        let answers = challenges.answers.load_full().unwrap();
        let by_tls = &answers.by_name["a.example.com"];
        assert_eq!(by_tls.alpn_protocols, [ACME_TLS]);
        challenges.show(one, Vec::new());
        assert!(answer("a").is_none() && answer("b").is_some());
        challenges.show(other, Vec::new());
        assert!(!challenges.are_there());
    }
}
