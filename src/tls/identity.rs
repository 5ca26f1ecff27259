//! A certificate with its key, in files that are read again when they change. One that is not valid now takes
//! the place of none that is.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use rustls::{crypto::CryptoProvider, sign::CertifiedKey};

use super::{
    certificate::Certificate,
    followed::{Change, Followed},
    pem::{TlsError, certificates_in, key_in},
    stamp::{Stamp, stamp},
};
use crate::config::CertificateFiles;

/// How long before its end a certificate is warned of, and how often.
const SOON: Duration = Duration::from_secs(14 * 24 * 3600);
const DAILY: Duration = Duration::from_secs(24 * 3600);

/// A certificate that is shown, with its key.
pub(super) struct Identity {
    pub(super) files: CertificateFiles,
    pub(super) followed: Followed<[Option<Stamp>; 2]>,
    pub(super) key: Arc<CertifiedKey>,
    /// What the certificate says.
    pub(super) says: Certificate,
    /// What stands in the files, while that is not to be used yet.
    waiting: Option<Pair>,
    warned: Option<SystemTime>,
    /// Whether another is ordered in time by the proxy itself, of whatever lifetime.
    pub(super) is_ordered: bool,
}

/// A certificate with its key, and what it says.
type Pair = (Arc<CertifiedKey>, Certificate);

impl Identity {
    /// Reads the files.
    ///
    /// # Errors
    /// Where they cannot be used.
    pub(super) fn read(
        files: &CertificateFiles,
        provider: &CryptoProvider,
    ) -> Result<Self, TlsError> {
        // Before the files, which are no older then.
        let followed = Followed::new(stamps(files));
        let (key, says) = pair(files, provider)?;
        Ok(Self {
            files: files.clone(),
            followed,
            key,
            says,
            waiting: None,
            warned: None,
            is_ordered: false,
        })
    }

    /// The same of a certificate that the proxy has ordered.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub(super) fn of_order(
        files: &CertificateFiles,
        provider: &CryptoProvider,
    ) -> Result<Self, TlsError> {
        let read = Self::read(files, provider)?;
        Ok(Self {
            is_ordered: true,
            ..read
        })
    }

    /// Reads the files again where they have changed, and takes them over when that is right.
    pub(super) fn follow(&mut self, provider: &CryptoProvider, now: SystemTime) -> Change {
        if self.followed.have_changed(stamps(&self.files)) {
            match pair(&self.files, provider) {
                Ok(pair) => self.waiting = Some(pair),
                Err(error) => {
                    self.waiting = None;
                    return self.refuse(&error);
                }
            }
        }
        let Some((_, says)) = &self.waiting else {
            return Change::None;
        };
        // Where neither is valid, what stands in the files is at least what was wanted.
        if let Err(error) = is_valid(says, &self.files, now)
            && is_valid(&self.says, &self.files, now).is_ok()
        {
            return self.refuse(&error);
        }
        if let Some((key, says)) = self.waiting.take() {
            let (certificate, not_after) = (self.files.cert.display(), says.not_after);
            tracing::info!(%certificate, not_after, "a new certificate is used");
            (self.key, self.says, self.warned) = (key, says, None);
        }
        self.followed.take()
    }

    fn refuse(&mut self, error: &TlsError) -> Change {
        let change = self.followed.refuse(error);
        if change == Change::Refused {
            let certificate = self.files.cert.display();
            tracing::warn!(%certificate, %error, "a new certificate cannot be used, and the old one stays");
        }
        change
    }

    /// Warns of one that ends soon, or is not valid yet.
    pub(super) fn warn(&mut self, now: SystemTime) {
        let certificate = self.files.cert.display();
        let is_due = |at: SystemTime| now.duration_since(at).is_ok_and(|since| since >= DAILY);
        if !self.warned.is_none_or(is_due) {
            return;
        }
        let soon = match self.is_ordered {
            true => SOON.min(lifetime(&self.says) / 6),
            false => SOON,
        };
        if let Some(days) = days_to_warn_of(self.says.not_after, soon, now) {
            self.warned = Some(now);
            tracing::warn!(%certificate, days, "a certificate ends soon, or has ended");
        } else if self.says.not_before > seconds(now) {
            self.warned = Some(now);
            let not_before = self.says.not_before;
            tracing::warn!(%certificate, not_before, "a certificate is not valid yet");
        }
    }
}

fn lifetime(says: &Certificate) -> Duration {
    let seconds = says.not_after.saturating_sub(says.not_before);
    Duration::from_secs(seconds.max(0).cast_unsigned())
}

/// How many days a certificate has left, from so long before its end.
fn days_to_warn_of(not_after: i64, soon: Duration, now: SystemTime) -> Option<i64> {
    let left = not_after.saturating_sub(seconds(now));
    let is_soon = left < soon.as_secs().cast_signed();
    is_soon.then(|| left.div_euclid(DAILY.as_secs().cast_signed()))
}

fn is_valid(says: &Certificate, files: &CertificateFiles, now: SystemTime) -> Result<(), TlsError> {
    let (path, now) = (files.cert.clone(), seconds(now));
    if now < says.not_before {
        let from = says.not_before;
        return Err(TlsError::NotYetValid { path, from });
    }
    if now > says.not_after {
        let until = says.not_after;
        return Err(TlsError::Ended { path, until });
    }
    Ok(())
}

/// Unix time.
fn seconds(now: SystemTime) -> i64 {
    let since = now.duration_since(SystemTime::UNIX_EPOCH);
    since.unwrap_or_default().as_secs().cast_signed()
}

fn stamps(files: &CertificateFiles) -> [Option<Stamp>; 2] {
    [stamp(&files.cert), stamp(&files.key)]
}

fn pair(files: &CertificateFiles, provider: &CryptoProvider) -> Result<Pair, TlsError> {
    let chain = certificates_in(&files.cert)?;
    let unclear = |reason| TlsError::Certificate {
        path: files.cert.clone(),
        reason,
    };
    let says = Certificate::parse(&chain[0]).map_err(unclear)?;
    let key = key_in(&files.key)?;
    let key = CertifiedKey::from_der(chain, key, provider);
    let key = key.map_err(|source| TlsError::Identity {
        path: files.cert.clone(),
        source,
    })?;
    Ok((Arc::new(key), says))
}

#[cfg(test)]
mod tests {
    use rustls::crypto::aws_lc_rs::default_provider;

    use super::{super::testing::Folder, *};

    const DAY: u64 = 24 * 3600;

    fn day(day: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(day * DAY)
    }

    /// The day of a date.
    fn of(year: i32, month: u8, of_month: u8) -> u64 {
        let at = rcgen::date_time_ymd(year, month, of_month).unix_timestamp();
        at.unsigned_abs() / DAY
    }

    #[test]
    fn a_certificate_is_warned_of_from_two_weeks_before_its_end() {
        for (today, days) in [
            (85, None),
            (86, None),
            (87, Some(13)),
            (100, Some(0)),
            (102, Some(-2)),
        ] {
            let said = days_to_warn_of((100 * DAY).cast_signed(), SOON, day(today));
            assert_eq!(said, days, "{today}");
        }
    }

    #[test]
    fn it_is_warned_of_a_certificate_once_a_day() {
        let folder = Folder::new();
        let files = folder.write_for("a", (2026, 2027));
        let mut shown = Identity::read(&files, &default_provider()).unwrap();
        for (now, warned) in [
            // Not valid yet.
            (day(of(2025, 12, 1)), Some(day(of(2025, 12, 1)))),
            (
                day(of(2025, 12, 1)) + Duration::from_secs(9),
                Some(day(of(2025, 12, 1))),
            ),
            (day(of(2025, 12, 2)), Some(day(of(2025, 12, 2)))),
            (day(of(2026, 6, 1)), Some(day(of(2025, 12, 2)))),
            (day(of(2027, 2, 1)), Some(day(of(2027, 2, 1)))),
        ] {
            shown.warn(now);
            assert_eq!(shown.warned, warned, "{now:?}");
        }
    }

    #[test]
    fn one_that_is_not_valid_yet_waits_and_is_taken_by_itself() {
        let folder = Folder::new();
        let provider = default_provider();
        let files = folder.write_for("a", (2026, 2028));
        let mut shown = Identity::read(&files, &provider).unwrap();
        let first = shown.says.clone();
        folder.write_for("a", (2027, 2029));
        let now = day(of(2026, 12, 30));
        assert_eq!(shown.follow(&provider, now), Change::Refused);
        assert_eq!(shown.follow(&provider, now), Change::None);
        let error = shown.followed.error().unwrap();
        let says = "is not valid before Fri, 01 Jan 2027 00:00:00 +0000";
        assert!(error.contains(says), "{error}");
        assert_eq!(shown.says, first);
        let now = day(of(2027, 1, 1));
        assert_eq!(shown.follow(&provider, now), Change::Taken);
        assert_ne!(shown.says, first);
        assert_eq!(shown.followed.error(), None);
        assert_eq!(shown.follow(&provider, now), Change::None);
    }

    #[test]
    fn one_that_has_ended_takes_the_place_of_none_that_is_valid() {
        let folder = Folder::new();
        let provider = default_provider();
        let files = folder.write_for("a", (2026, 2028));
        let mut shown = Identity::read(&files, &provider).unwrap();
        let first = shown.says.clone();
        folder.write_for("a", (2025, 2026));
        let now = day(of(2026, 12, 30));
        assert_eq!(shown.follow(&provider, now), Change::Refused);
        let error = shown.followed.error().unwrap();
        assert!(error.contains("has ended at Thu, 01 Jan 2026"), "{error}");
        assert_eq!(shown.says, first);
        // When the one before has ended too, it is no better.
        let now = day(of(2028, 1, 2));
        assert_eq!(shown.follow(&provider, now), Change::Taken);
        assert_ne!(shown.says, first);
        // What is broken does not wait.
        folder.write_for("a", (2030, 2031));
        assert_eq!(shown.follow(&provider, now), Change::Taken);
    }

    #[test]
    fn files_that_are_broken_while_a_certificate_waits_end_its_wait() {
        let folder = Folder::new();
        let provider = default_provider();
        let files = folder.write_for("a", (2026, 2028));
        let mut shown = Identity::read(&files, &provider).unwrap();
        folder.write_for("a", (2027, 2029));
        let now = day(of(2026, 12, 30));
        assert_eq!(shown.follow(&provider, now), Change::Refused);
        std::fs::write(&files.cert, "none").unwrap();
        assert_eq!(shown.follow(&provider, now), Change::Refused);
        assert_eq!(shown.follow(&provider, day(of(2027, 1, 2))), Change::None);
        let error = shown.followed.error().unwrap();
        assert!(error.contains("holds no certificate"), "{error}");
    }
}
