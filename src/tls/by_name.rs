//! Which of a listener's certificates a client is shown.

use std::{collections::HashMap, sync::Arc};

use rustls::{
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};

use super::identity::Identity;
use crate::config::UnknownName;

/// Certificates by the names that clients ask for. Several for one name differ in their kind of key:
/// a client is shown the first that it can verify.
#[derive(Debug)]
pub(super) struct ByName {
    exact: HashMap<String, Vec<Arc<CertifiedKey>>>,
    /// `*.example.com` stands under `example.com`.
    wildcard: HashMap<String, Vec<Arc<CertifiedKey>>>,
    /// The first, and those for its hosts.
    default: Vec<Arc<CertifiedKey>>,
    unknown_name: UnknownName,
}

impl ByName {
    pub(super) fn new(certificates: &[Identity], unknown_name: UnknownName) -> Self {
        let mut by_name = Self {
            exact: HashMap::new(),
            wildcard: HashMap::new(),
            default: Vec::new(),
            unknown_name,
        };
        for shown in certificates {
            for host in shown.says.hosts() {
                let (names, host) = match host.strip_prefix("*.") {
                    Some(domain) => (&mut by_name.wildcard, domain),
                    None => (&mut by_name.exact, host),
                };
                let keys = names.entry(host.to_owned()).or_default();
                keys.push(Arc::clone(&shown.key));
            }
            let first = &certificates[0];
            if shown.says.hosts().eq(first.says.hosts()) {
                by_name.default.push(Arc::clone(&shown.key));
            }
        }
        by_name
    }

    /// Those for the host that a client asks for.
    fn find(&self, host: Option<&str>) -> Option<&[Arc<CertifiedKey>]> {
        let of_host = host.and_then(|host| {
            let host = host.to_ascii_lowercase();
            self.exact.get(&host).or_else(|| {
                let (_, domain) = host.split_once('.')?;
                self.wildcard.get(domain)
            })
        });
        match (of_host, self.unknown_name) {
            (Some(keys), _) => Some(keys),
            (None, UnknownName::Default) => Some(&self.default),
            (None, UnknownName::Refuse) => None,
        }
    }
}

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let keys = self.find(hello.server_name())?;
        let known = hello.signature_schemes();
        let fits = |key: &&Arc<CertifiedKey>| key.key.choose_scheme(known).is_some();
        keys.iter().find(fits).or(keys.first()).cloned()
    }
}

#[cfg(test)]
mod tests {
    use rustls::crypto::aws_lc_rs::default_provider;

    use super::{super::testing::Folder, *};

    #[test]
    fn a_name_is_looked_for_as_it_is_then_by_its_domain_and_then_the_first_is_shown() {
        let folder = Folder::new();
        let certificates = [
            ("first", "example.com"),
            ("wild", "*.example.com"),
            ("shop", "shop.example.com"),
        ];
        let certificates = certificates.map(|(name, host)| {
            let files = folder.write(name, &[host]);
            Identity::read(&files, &default_provider()).unwrap()
        });
        let by_name = ByName::new(&certificates, UnknownName::Default);
        let strict = ByName::new(&certificates, UnknownName::Refuse);
        for (host, place, is_known) in [
            (Some("example.com"), 0, true),
            (Some("shop.example.com"), 2, true),
            (Some("Shop.Example.com"), 2, true),
            (Some("hat.example.com"), 1, true),
            (Some("a.hat.example.com"), 0, false),
            (Some("example.org"), 0, false),
            (None, 0, false),
        ] {
            let found = by_name.find(host).unwrap();
            let expected = &certificates[place].key;
            assert!(Arc::ptr_eq(&found[0], expected), "{host:?}");
            assert_eq!(strict.find(host).is_some(), is_known, "{host:?}");
        }
    }
}
