//! The certificates of a listener that are ordered, each in a file of its own that may not be there yet.
//! Knows nothing of who orders them.

use std::{
    collections::{BTreeMap, HashMap},
    path::PathBuf,
    sync::Arc,
    time::SystemTime,
};

use rustls::crypto::CryptoProvider;

use super::{followed::Change, identity::Identity, stamp::stamp, stand_in::StandIn};
use crate::config::CertificateFiles;

/// A certificate that is ordered, or will be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ordered {
    /// The name that it is for, in lower case.
    pub host: String,
    /// The PEM file in which it stands with its chain and its key, once it is there.
    pub file: PathBuf,
}

/// Those of a listener, as they stand.
pub(super) struct OrderedCertificates {
    wanted: Arc<Vec<Ordered>>,
    /// By their hosts.
    there: BTreeMap<String, Identity>,
    /// For names whose certificates are not there.
    pub(super) stand_in: Option<StandIn>,
}

impl OrderedCertificates {
    /// Reads those that are there.
    pub(super) fn read(
        wanted: Arc<Vec<Ordered>>,
        provider: &CryptoProvider,
        now: SystemTime,
    ) -> Self {
        let mut certificates = Self {
            wanted: Arc::default(),
            there: BTreeMap::new(),
            stand_in: None,
        };
        certificates.follow(&wanted, provider, now);
        certificates
    }

    /// Reads those that have changed, or come, and lets go of those that are not wanted any more.
    pub(super) fn follow(
        &mut self,
        wanted: &Arc<Vec<Ordered>>,
        provider: &CryptoProvider,
        now: SystemTime,
    ) -> Change {
        let mut change = Change::None;
        if *wanted != self.wanted {
            self.wanted = Arc::clone(wanted);
            let files = wanted.iter().map(|one| (&*one.host, &one.file));
            let files: HashMap<_, _> = files.collect();
            self.there
                .retain(|host, one| files.get(&**host) == Some(&&one.files.cert));
            change = Change::Taken;
        }
        for identity in self.there.values_mut() {
            let of_one = identity.follow(provider, now);
            identity.warn(now);
            if change != Change::Taken && of_one != Change::None {
                change = of_one;
            }
        }
        for one in wanted.iter() {
            // One that cannot be used is ordered anew.
            if !self.there.contains_key(&one.host)
                && stamp(&one.file).is_some()
                && let Ok(identity) = Identity::of_order(&files(one), provider)
            {
                let (certificate, not_after) = (one.file.display(), identity.says.not_after);
                tracing::info!(%certificate, not_after, "a new certificate is used");
                self.there.insert(one.host.clone(), identity);
                change = Change::Taken;
            }
        }
        if change == Change::Taken {
            self.stand_in_for_missing(provider);
        }
        change
    }

    fn stand_in_for_missing(&mut self, provider: &CryptoProvider) {
        let hosts = self.wanted.iter().map(|one| &one.host);
        let missing = hosts.filter(|host| !self.there.contains_key(*host));
        let missing: Vec<_> = missing.cloned().collect();
        let before = self.stand_in.take().filter(|_| !missing.is_empty());
        self.stand_in = match before {
            Some(before) => Some(before.for_hosts(missing)),
            None if missing.is_empty() => None,
            None => StandIn::new(missing, provider),
        };
    }

    /// Those that are there.
    pub(super) fn shown(&self) -> impl Iterator<Item = &Identity> {
        self.there.values()
    }
}

fn files(one: &Ordered) -> CertificateFiles {
    CertificateFiles {
        cert: one.file.clone(),
        key: one.file.clone(),
    }
}
