//! Which of a listener's certificates a client is shown.

use std::{collections::HashMap, sync::Arc};

use rustls::{
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};

use super::{identity::Identity, stand_in::StandIn};
use crate::config::UnknownName;

/// Certificates by the names that clients ask for. Several for one name differ in their kind of key:
/// a client is shown the first that it can verify.
#[derive(Debug)]
pub(super) struct ByName {
    exact: HashMap<String, Vec<Arc<CertifiedKey>>>,
    /// `*.example.com` stands under `example.com`.
    wildcard: HashMap<String, Vec<Arc<CertifiedKey>>>,
    /// The first, and those for its hosts; where there is none, what stands in.
    default: Vec<Arc<CertifiedKey>>,
    unknown_name: UnknownName,
}

impl ByName {
    /// What stands in is shown for its hosts where no certificate is for them.
    pub(super) fn new(
        certificates: &[&Identity],
        stand_in: Option<&StandIn>,
        unknown_name: UnknownName,
    ) -> Self {
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
            let first = certificates[0];
            if shown.says.hosts().eq(first.says.hosts()) {
                by_name.default.push(Arc::clone(&shown.key));
            }
        }
        if let Some(stand_in) = stand_in {
            by_name.stand_in(stand_in);
        }
        by_name
    }

    fn stand_in(&mut self, stand_in: &StandIn) {
        for host in &stand_in.hosts {
            let domain = host.split_once('.').map(|(_, domain)| domain);
            if !domain.is_some_and(|domain| self.wildcard.contains_key(domain)) {
                let keys = self.exact.entry(host.clone());
                keys.or_insert_with(|| vec![Arc::clone(&stand_in.key)]);
            }
        }
        if self.default.is_empty() {
            self.default.push(Arc::clone(&stand_in.key));
        }
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
        let all: Vec<_> = certificates.iter().collect();
        let by_name = ByName::new(&all, None, UnknownName::Default);
        let strict = ByName::new(&all, None, UnknownName::Refuse);
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
    #[test]
    fn what_stands_in_is_shown_for_names_that_no_certificate_is_for() {
        let folder = Folder::new();
        let provider = default_provider();
        let files = folder.write("a", &["*.example.com", "a.example.org"]);
        let own = Identity::read(&files, &provider).unwrap();
        let hosts = ["shop.example.com", "a.example.org", "b.example.org"];
        let stand_in = StandIn::new(hosts.map(str::to_owned).to_vec(), &provider).unwrap();
        let by_name = ByName::new(&[&own], Some(&stand_in), UnknownName::Refuse);
        for (host, expected) in [
            ("shop.example.com", &own.key),
            ("a.example.org", &own.key),
            ("b.example.org", &stand_in.key),
        ] {
            let found = by_name.find(Some(host)).unwrap();
            assert!(Arc::ptr_eq(&found[0], expected), "{host}");
        }
        assert!(by_name.find(Some("c.example.org")).is_none());
        let alone = ByName::new(&[], Some(&stand_in), UnknownName::Default);
        let found = alone.find(None).unwrap();
        assert!(Arc::ptr_eq(&found[0], &stand_in.key));
        assert!(
            ByName::new(&[], None, UnknownName::Default)
                .find(None)
                .unwrap()
                .is_empty()
        );
    }
}
