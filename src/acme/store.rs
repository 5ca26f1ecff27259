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
    /// Of whom the certificate is that is there, where that is known.
    pub(super) issued_by: Option<String>,
    /// Orders in a row that have failed.
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
}

/// What is there of a name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Held {
    /// `None` where there is none that can be used.
    pub(super) issued: Option<Issued>,
    pub(super) last: Option<LastOrder>,
}

/// What tells whether files of a name have changed.
pub(super) type Stamps = [Option<Stamp>; 2];

/// An account at an authority, as it is kept.
#[derive(Serialize, Deserialize)]
pub(super) struct KeptAccount {
    /// Of whom it is.
    pub(super) directory: String,
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
        let pem = fs::read(self.certificate(name)).ok();
        Held {
            issued: pem.and_then(|pem| issued(&pem, name).ok()),
            last: self.json(&self.last(name)),
        }
    }

    /// Keeps a new certificate.
    ///
    /// # Errors
    /// Where the disk takes none.
    pub(super) fn keep(&self, name: &str, pem: &str) -> io::Result<()> {
        disk::replace(&self.certificate(name), pem.as_bytes())
    }

    /// Notes what became of an order.
    ///
    /// # Errors
    /// As for [`Self::keep`].
    pub(super) fn note(&self, name: &str, last: &LastOrder) -> io::Result<()> {
        self.write(&self.last(name), last)
    }

    pub(super) fn account(&self) -> Option<KeptAccount> {
        self.json(&self.account_file())
    }

    /// Keeps an account.
    ///
    /// # Errors
    /// As for [`Self::keep`].
    pub(super) fn keep_account(&self, account: &KeptAccount) -> io::Result<()> {
        self.write(&self.account_file(), account)
    }

    /// Lets go of an account that the authority does not know any more, unless there is another one by now.
    pub(super) fn forget_account(&self, id: &str) {
        let file = self.account_file();
        let kept: Option<serde_json::Value> = self.json(&file);
        if kept.is_some_and(|kept| kept["credentials"]["id"] == id) {
            // One that cannot be removed is asked for, and refused, again.
            let _ = fs::remove_file(file);
        }
    }

    /// The proofs that are wanted now of whichever process has the folder. One that was ended amid an order
    /// has left its own there.
    pub(super) fn proofs(&self) -> Vec<Proof> {
        let file = self.proofs_file();
        let written = fs::metadata(&file).and_then(|found| found.modified());
        let is_wanted = written.is_ok_and(|at| at.elapsed().unwrap_or_default() < LONGEST);
        let proofs = is_wanted.then(|| self.json(&file)).flatten();
        proofs.unwrap_or_default()
    }

    /// Has the other processes give these proofs as well.
    ///
    /// # Errors
    /// As for [`Self::keep`].
    pub(super) fn share(&self, proofs: &[Proof]) -> io::Result<()> {
        if proofs.is_empty() {
            return match fs::remove_file(self.proofs_file()) {
                Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            };
        }
        self.write(&self.proofs_file(), proofs)
    }

    fn certificate(&self, name: &str) -> PathBuf {
        certificate_file(&self.folder, name)
    }

    fn last(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.order.json"))
    }

    fn account_file(&self) -> PathBuf {
        self.folder.join("account.json")
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
    Ok(Issued { validity, der })
}

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::PermissionsExt as _, time::SystemTime};

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
        store.keep(name, &pem(name)).unwrap();
        let last = LastOrder {
            failures: 3,
            error: Some("no".to_owned()),
            ..LastOrder::default()
        };
        store.note(name, &last).unwrap();
        assert_ne!(store.stamps(name), before);
        let held = store.read(name);
        assert_eq!(held.last, Some(last));
        assert!(held.issued.is_some());
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
            // Nothing stands in the lock.
            let is_lock = entry.file_name() == "lock";
            assert!(is_lock || mode & 0o777 == 0o600, "{entry:?}: {mode:o}");
        }
        let long_ago = fs::File::open(store.proofs_file()).unwrap();
        long_ago
            .set_modified(SystemTime::now() - 2 * LONGEST)
            .unwrap();
        assert_eq!(store.proofs(), []);
        store.share(&[]).unwrap();
        store.share(&[]).unwrap();
        assert_eq!(store.proofs(), []);
    }

    #[test]
    fn a_certificate_is_none_without_its_key_or_for_another_name() {
        let name = "shop.example.com";
        let pem = pem(name);
        assert!(issued(pem.as_bytes(), name).is_ok());
        let other = issued(pem.as_bytes(), "cart.example.com").unwrap_err();
        assert!(other.contains("not for cart.example.com"), "{other}");
        let (certificate, _) = pem.split_once("-----BEGIN PRIVATE").unwrap();
        assert!(issued(certificate.as_bytes(), name).is_err());
        assert!(issued(b"", name).is_err());
    }
}
