//! The certificates of a listener that are ordered, each in a file of its own that may not be there yet.
//! Knows nothing of who orders them.

use std::{path::PathBuf, sync::Arc, time::SystemTime};

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
    pub(super) there: Vec<Identity>,
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
            there: Vec::new(),
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
            let is_wanted = |one: &Identity| wanted.iter().any(|it| it.file == one.files.cert);
            self.there.retain(is_wanted);
            change = Change::Taken;
        }
        for identity in &mut self.there {
            let of_one = identity.follow(provider, now);
            identity.warn(now);
            if change != Change::Taken && of_one != Change::None {
                change = of_one;
            }
        }
        for one in wanted.iter() {
            let is_there = self.there.iter().any(|it| it.files.cert == one.file);
            // One that cannot be used is ordered anew.
            if !is_there
                && stamp(&one.file).is_some()
                && let Ok(identity) = Identity::of_order(&files(one), provider)
            {
                let (certificate, not_after) = (one.file.display(), identity.says.not_after);
                tracing::info!(%certificate, not_after, "a new certificate is used");
                self.there.push(identity);
                change = Change::Taken;
            }
        }
        if change == Change::Taken {
            self.stand_in_for_missing(provider);
        }
        change
    }

    fn stand_in_for_missing(&mut self, provider: &CryptoProvider) {
        let is_there = |one: &Ordered| self.there.iter().any(|it| it.files.cert == one.file);
        let missing = self.wanted.iter().filter(|one| !is_there(one));
        let missing: Vec<_> = missing.map(|one| one.host.clone()).collect();
        let before = self.stand_in.take().filter(|it| it.hosts == missing);
        if !missing.is_empty() {
            self.stand_in = before.or_else(|| StandIn::new(missing, provider));
        }
    }
}

fn files(one: &Ordered) -> CertificateFiles {
    CertificateFiles {
        cert: one.file.clone(),
        key: one.file.clone(),
    }
}
