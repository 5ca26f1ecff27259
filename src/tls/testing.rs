//! What the tests of this folder share.

use std::path::PathBuf;

use rcgen::{CertificateParams, KeyPair};
use tempfile::TempDir;

use crate::config::CertificateFiles;

/// A folder with certificates.
pub(crate) struct Folder(TempDir);

impl Folder {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Writes a certificate for these hosts, and its key.
    pub(crate) fn write(&self, name: &str, hosts: &[&str]) -> CertificateFiles {
        self.write_with(name, hosts, (2020, 2050))
    }

    /// Writes a certificate that is valid from the first day of one year until that of another.
    pub(crate) fn write_for(&self, name: &str, years: (i32, i32)) -> CertificateFiles {
        self.write_with(name, &["example.com"], years)
    }

    fn write_with(
        &self,
        name: &str,
        hosts: &[&str],
        (from, until): (i32, i32),
    ) -> CertificateFiles {
        let hosts: Vec<_> = hosts.iter().map(|host| (*host).to_owned()).collect();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(hosts).unwrap();
        params.not_before = rcgen::date_time_ymd(from, 1, 1);
        params.not_after = rcgen::date_time_ymd(until, 1, 1);
        let certificate = params.self_signed(&key).unwrap();
        let files = CertificateFiles {
            cert: self.file(&format!("{name}.pem")),
            key: self.file(&format!("{name}-key.pem")),
        };
        std::fs::write(&files.cert, certificate.pem()).unwrap();
        std::fs::write(&files.key, key.serialize_pem()).unwrap();
        files
    }
}
