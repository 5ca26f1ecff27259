//! The folder of an account: its key, the certificates with theirs, what became of the last orders, and the
//! proofs that are wanted now. Each file is written as a whole, and readable by its owner only. Takes as
//! long as the disk takes.

use std::{
    fs::{self, DirBuilder, File},
    io::{self, ErrorKind},
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use aws_lc_rs::digest;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{challenges::Proof, schedule::Validity};
use crate::{
    disk,
    tls::{Certificate, Stamp, stamp},
};

/// The longest that an order may take.
pub(super) const LONGEST: Duration = Duration::from_secs(600);

/// The file in which the certificate for a name stands, with its chain and its key.
pub(crate) fn certificate_file(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("{name}.pem"))
}

/// The folder.
#[derive(Clone, Debug)]
pub(super) struct Store {
    pub(super) folder: PathBuf,
}

/// What became of the last order for a name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct LastOrder {
    /// Of whom it was.
    pub(super) directory: String,
    /// Orders in a row that have failed, or were broken off.
    pub(super) failures: u32,
    /// Why the last one has.
    pub(super) error: Option<String>,
    /// Unix time in seconds before which no other is made.
    pub(super) next: i64,
}

/// A certificate that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Issued {
    pub(super) validity: Validity,
    /// The certificate itself.
    pub(super) der: CertificateDer<'static>,
    /// The directory of whom it is, unless it was put there by hand.
    pub(super) by: Option<String>,
}

/// How the first line of a certificate's file begins, which says of whom it is. It stands in the same file, so
/// that neither is ever without the other.
const ISSUED_BY: &str = "Issued by ";

/// An order whose certificate may be issued: with its key, what was issued can be had after a restart.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Pending {
    /// The URL of the account that it is of.
    pub(super) account: String,
    /// Its own URL.
    pub(super) order: String,
    /// The certificate's key in PEM form.
    pub(super) key: String,
}

/// How long an account is not used: what concerns it would meet every name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Pause {
    /// Of whom the account is.
    pub(super) directory: String,
    /// Failures in a row that concern it.
    pub(super) failures: u32,
    /// Unix time in seconds.
    pub(super) not_before: i64,
}

/// What is there of a name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Held {
    /// `None` where there is none that can be used.
    pub(super) issued: Option<Issued>,
    pub(super) last: Option<LastOrder>,
    /// Why a file cannot be read that may be there: then nothing is ordered in its place.
    pub(super) unreadable: Option<String>,
}

impl Held {
    /// Goes on with what was there before where a file of a name cannot be read, or where a certificate that was
    /// there has gone: a folder may be on a disk that is not there for a while, and listeners show what they have.
    pub(super) fn follow(&mut self, before: &Self, stamps: Stamps, folder: &Path) {
        let has_gone = stamps[0].is_none() && before.issued.is_some();
        if has_gone && self.unreadable.is_none() {
            self.unreadable = Some(format!(
                "the certificate is not in {} any more; another is ordered after a restart",
                folder.display()
            ));
        }
        if self.unreadable.is_some() {
            self.issued.clone_from(&before.issued);
            self.last.clone_from(&before.last);
        }
    }
}

/// What tells whether files of a name have changed.
pub(super) type Stamps = [Option<Stamp>; 2];

/// An account at an authority, as it is kept.
#[derive(Serialize, Deserialize)]
pub(super) struct KeptAccount {
    /// Of whom it is.
    pub(super) directory: String,
    /// The mailbox that the authority knows.
    #[serde(default)]
    pub(super) email: Option<String>,
    pub(super) credentials: instant_acme::AccountCredentials,
}

impl Store {
    /// Takes the folder, which is made where it is not there, for the one process that orders.
    ///
    /// # Errors
    /// [`ErrorKind::WouldBlock`] while another process has it; else why it cannot be had.
    pub(super) fn lock(&self) -> io::Result<File> {
        let mut folders = DirBuilder::new();
        folders.recursive(true).mode(0o700).create(&self.folder)?;
        disk::lock(&self.folder.join("lock"))
    }

    pub(super) fn stamps(&self, name: &str) -> Stamps {
        [self.certificate(name), self.last(name)].map(|file| stamp(&file))
    }

    pub(super) fn read(&self, name: &str) -> Held {
        let both = || -> io::Result<_> {
            let [certificate, last] = [self.certificate(name), self.last(name)];
            Ok((content(&certificate)?, content(&last)?))
        };
        match both() {
            Ok((pem, last)) => Held {
                issued: pem.and_then(|pem| issued(&pem, name).ok()),
                last: last.and_then(|text| serde_json::from_slice(&text).ok()),
                unreadable: None,
            },
            Err(error) => Held {
                unreadable: Some(format!(
                    "what there is of {name} in {} cannot be read: {error}",
                    self.folder.display()
                )),
                ..Held::default()
            },
        }
    }

    /// Keeps a new certificate, of this directory.
    ///
    /// # Errors
    /// Where the disk takes none.
    pub(super) fn keep(&self, name: &str, pem: &str, directory: &str) -> io::Result<()> {
        let text = format!("{ISSUED_BY}{directory}\n{pem}");
        disk::replace(&self.certificate(name), text.as_bytes())
    }

    /// Takes back what was noted of an order that did not begin.
    ///
    /// # Errors
    /// As for [`Self::keep`].
    pub(super) fn restore(&self, name: &str, last: Option<&LastOrder>) -> io::Result<()> {
        match last {
            Some(last) => self.note(name, last),
            None => remove(&self.last(name)),
        }
    }

    pub(super) fn pending(&self, name: &str) -> Option<Pending> {
        self.json(&self.pending_file(name))
    }

    /// Keeps the key of an order that is about to be issued.
    ///
    /// # Errors
    /// As for [`Self::keep`].
    pub(super) fn set_pending(&self, name: &str, pending: &Pending) -> io::Result<()> {
        self.write(&self.pending_file(name), pending)
    }

    /// Lets go of the key of an order whose certificate is there.
    ///
    /// # Errors
    /// Where it cannot be removed.
    pub(super) fn forget_pending(&self, name: &str) -> io::Result<()> {
        remove(&self.pending_file(name))
    }

    pub(super) fn pause(&self) -> Option<Pause> {
        self.json(&self.pause_file())
    }

    /// Has the account pause; `None` ends it.
    ///
    /// # Errors
    /// As for [`Self::keep`].
    pub(super) fn set_pause(&self, pause: Option<&Pause>) -> io::Result<()> {
        match pause {
            Some(pause) => self.write(&self.pause_file(), pause),
            None => remove(&self.pause_file()),
        }
    }

    /// Notes what became of an order.
    ///
    /// # Errors
    /// As for [`Self::keep`].
    pub(super) fn note(&self, name: &str, last: &LastOrder) -> io::Result<()> {
        self.write(&self.last(name), last)
    }

    /// The account that is there of a directory. One that cannot be read is not replaced by another.
    ///
    /// # Errors
    /// Where there is a file that cannot be read, or that holds none.
    pub(super) fn account(&self, directory: &str) -> io::Result<Option<KeptAccount>> {
        let text = content(&self.account_file(directory))?;
        let account = text.map(|text| serde_json::from_slice(&text)).transpose();
        account.map_err(io::Error::from)
    }

    /// Keeps an account.
    ///
    /// # Errors
    /// As for [`Self::keep`].
    pub(super) fn keep_account(&self, account: &KeptAccount) -> io::Result<()> {
        self.write(&self.account_file(&account.directory), account)
    }

    /// Lets go of an account that the authority does not know any more, unless there is another one by now.
    pub(super) fn forget_account(&self, directory: &str, id: &str) {
        let file = self.account_file(directory);
        let kept: Option<serde_json::Value> = self.json(&file);
        if kept.is_some_and(|kept| kept["credentials"]["id"] == id) {
            // One that cannot be removed is asked for, and refused, again.
            let _ = fs::remove_file(file);
        }
    }

    /// The proofs of whichever process has the folder, or had it: one that was ended amid an order has left its
    /// own there.
    pub(super) fn proofs(&self) -> Vec<Proof> {
        self.json(&self.proofs_file()).unwrap_or_default()
    }

    /// Has the other processes give these proofs as well.
    ///
    /// # Errors
    /// As for [`Self::keep`].
    pub(super) fn share(&self, proofs: &[Proof]) -> io::Result<()> {
        if proofs.is_empty() {
            return remove(&self.proofs_file());
        }
        self.write(&self.proofs_file(), proofs)
    }

    fn certificate(&self, name: &str) -> PathBuf {
        certificate_file(&self.folder, name)
    }

    fn last(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.order.json"))
    }

    /// One for each directory: staging's does not take the place of the other one's.
    pub(super) fn account_file(&self, directory: &str) -> PathBuf {
        let digest = digest::digest(&digest::SHA256, directory.as_bytes());
        let start = digest.as_ref()[..8].iter();
        let start: String = start.map(|byte| format!("{byte:02x}")).collect();
        self.folder.join(format!("account.{start}.json"))
    }

    fn pending_file(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.key.json"))
    }

    fn pause_file(&self) -> PathBuf {
        self.folder.join("pause.json")
    }

    fn proofs_file(&self) -> PathBuf {
        self.folder.join("proofs.json")
    }

    /// `None` where the file is not there, or another's work.
    fn json<T: DeserializeOwned>(&self, path: &Path) -> Option<T> {
        serde_json::from_slice(&fs::read(path).ok()?).ok()
    }

    fn write<T: Serialize + ?Sized>(&self, path: &Path, value: &T) -> io::Result<()> {
        let text = serde_json::to_vec(value).map_err(io::Error::other)?;
        disk::replace(path, &text)
    }
}

/// What stands in a file; `None` where it is not there.
fn content(file: &Path) -> io::Result<Option<Vec<u8>>> {
    match fs::read(file) {
        Ok(content) => Ok(Some(content)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn remove(file: &Path) -> io::Result<()> {
    match fs::remove_file(file) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// A certificate with its key in PEM form, of which the certificate is for this name.
///
/// # Errors
/// What is wrong with it.
pub(super) fn issued(pem: &[u8], name: &str) -> Result<Issued, String> {
    let der = CertificateDer::from_pem_slice(pem).map_err(|error| error.to_string())?;
    PrivateKeyDer::from_pem_slice(pem).map_err(|error| error.to_string())?;
    let says = Certificate::parse(&der)?;
    if !says.hosts().any(|host| host == name) {
        return Err(format!("the certificate is not for {name}"));
    }
    let validity = Validity {
        from: says.not_before,
        until: says.not_after,
    };
    let first = pem.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let by = str::from_utf8(first)
        .ok()
        .and_then(|first| first.strip_prefix(ISSUED_BY));
    Ok(Issued {
        validity,
        der,
        by: by.map(|by| by.trim_end().to_owned()),
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    fn pem(name: &str) -> String {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new([name.to_owned()]).unwrap();
        let certificate = params.self_signed(&key).unwrap();
        format!("{}{}", certificate.pem(), key.serialize_pem())
    }

    #[test]
    fn what_is_kept_is_read_again_and_is_its_owners() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store {
            folder: folder.path().join("a/b"),
        };
        let lock = store.lock().unwrap();
        assert_eq!(store.lock().unwrap_err().kind(), ErrorKind::WouldBlock);
        drop(lock);
        let name = "shop.example.com";
        assert_eq!(store.read(name), Held::default());
        let before = store.stamps(name);
        store.keep(name, &pem(name), "https://own/dir").unwrap();
        let last = LastOrder {
            failures: 3,
            error: Some("no".to_owned()),
            ..LastOrder::default()
        };
        store.note(name, &last).unwrap();
        assert_ne!(store.stamps(name), before);
        let held = store.read(name);
        assert_eq!(held.last, Some(last));
        assert_eq!(held.issued.unwrap().by.as_deref(), Some("https://own/dir"));
        store.restore(name, None).unwrap();
        assert_eq!(store.read(name).last, None);
        let pause = Pause {
            failures: 2,
            ..Pause::default()
        };
        store.set_pause(Some(&pause)).unwrap();
        assert_eq!(store.pause(), Some(pause));
        assert!(store.account("a").unwrap().is_none());
        assert_ne!(store.account_file("a"), store.account_file("b"));
        let pending = Pending {
            account: "a".to_owned(),
            order: "b".to_owned(),
            key: "c".to_owned(),
        };
        store.set_pending(name, &pending).unwrap();
        assert_eq!(store.pending(name), Some(pending));
        store.forget_pending(name).unwrap();
        assert_eq!(store.pending(name), None);
        store.set_pause(None).unwrap();
        assert_eq!(store.pause(), None);
        let proof = Proof {
            name: name.to_owned(),
            token: "a".to_owned(),
            answer: "b".to_owned(),
        };
        store.share(std::slice::from_ref(&proof)).unwrap();
        assert_eq!(store.proofs(), [proof]);
        for entry in fs::read_dir(&store.folder).unwrap() {
            let entry = entry.unwrap();
            let mode = entry.metadata().unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{entry:?}: {mode:o}");
        }
        store.share(&[]).unwrap();
        store.share(&[]).unwrap();
        assert_eq!(store.proofs(), []);
    }

    #[test]
    fn a_certificate_that_has_gone_is_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store {
            folder: folder.path().to_owned(),
        };
        let name = "shop.example.com";
        store.keep(name, &pem(name), "https://own/dir").unwrap();
        let before = store.read(name);
        let now = |before: &Held| {
            let mut held = store.read(name);
            held.follow(before, store.stamps(name), &store.folder);
            held
        };
        assert_eq!(now(&before), before);
        fs::remove_file(store.certificate(name)).unwrap();
        let gone = now(&before);
        assert_eq!(gone.issued, before.issued);
        assert!(gone.unreadable.is_some());
        assert!(now(&gone).unreadable.is_some(), "nor is it forgotten");
        store.keep(name, &pem(name), "https://own/dir").unwrap();
        assert_eq!(now(&gone).unreadable, None);
        fs::write(store.certificate(name), "no certificate").unwrap();
        assert_eq!(now(&gone), Held::default(), "another is ordered for it");
    }

    #[test]
    fn what_cannot_be_read_is_not_taken_for_missing() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store {
            folder: folder.path().to_owned(),
        };
        let name = "shop.example.com";
        fs::create_dir(store.certificate(name)).unwrap();
        let why = store.read(name).unreadable.unwrap_or_default();
        assert!(why.contains("of shop.example.com in "), "{why}");
        fs::write(store.account_file("a"), "{").unwrap();
        assert!(store.account("a").is_err());
    }

    #[test]
    fn a_certificate_is_none_without_its_key_or_for_another_name() {
        let name = "shop.example.com";
        let pem = pem(name);
        assert_eq!(issued(pem.as_bytes(), name).unwrap().by, None);
        let other = issued(pem.as_bytes(), "cart.example.com").unwrap_err();
        assert!(other.contains("not for cart.example.com"), "{other}");
        let (certificate, _) = pem.split_once("-----BEGIN PRIVATE").unwrap();
        assert!(issued(certificate.as_bytes(), name).is_err());
        assert!(issued(b"", name).is_err());
    }
}
