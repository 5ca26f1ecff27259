//! TLS of a listener: the certificates that it shows, by the name that a client asks for, and what it
//! asks of clients. Files are read again when they change; where a new one cannot be used, the old one
//! stays.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
use parking_lot::{Mutex, MutexGuard};
use rustls::{
    RootCertStore, ServerConfig, SupportedProtocolVersion,
    crypto::{CryptoProvider, aws_lc_rs},
    server::{
        ClientHello, NoServerSessionStorage, ProducesTickets, ResolvesServerCert,
        WebPkiClientVerifier, danger::ClientCertVerifier,
    },
    sign::CertifiedKey,
    version::{TLS12, TLS13},
};
use serde::Serialize;

use super::{
    certificate::Certificate,
    pem::{TlsError, authorities_among, certificates_in, key_in},
    stamp::{Stamp, stamp},
};
use crate::{
    config::{CertificateFiles, ClientCertificates, ListenTls, TlsVersion, UnknownName},
    metrics::Counter,
};

/// What is spoken within, as the handshake names it.
const PROTOCOLS: [&[u8]; 1] = [b"http/1.1"];

/// How long before its end a certificate is warned of, and how often.
const SOON: Duration = Duration::from_secs(14 * 24 * 3600);
const DAILY: Duration = Duration::from_secs(24 * 3600);

/// TLS of a listener.
pub struct Server {
    settings: Arc<ListenTls>,
    provider: Arc<CryptoProvider>,
    /// What new connections are served with.
    current: ArcSwap<ServerConfig>,
    files: Mutex<Files>,
    /// The handshakes of its connections.
    pub handshakes: Handshakes,
    /// How often files that had changed were taken over, and how often they could not be.
    pub reloads: Reloads,
}

/// What became of handshakes.
#[derive(Debug, Default)]
pub struct Handshakes {
    /// Begun, and not over.
    pub pending: Counter,
    /// Done, with all of the work.
    pub full: Counter,
    /// Done, with a ticket of an earlier one.
    pub resumed: Counter,
    /// Ended by an error of either side.
    pub failed: Counter,
    /// Not done in time, or when the process ended.
    pub late: Counter,
    /// Given up for newer ones, since there were too many.
    pub evicted: Counter,
    /// Not TLS.
    pub not_tls: Counter,
}

/// What became of files that had changed.
#[derive(Debug, Default)]
pub struct Reloads {
    /// They are used now.
    pub taken: Counter,
    /// They cannot be used, and the ones before still are.
    pub failed: Counter,
}

/// A certificate of a listener, as it stands.
#[derive(Clone, Debug, Serialize)]
pub struct CertificateStatus {
    /// Its file.
    pub file: PathBuf,
    /// The hosts that it is for.
    pub hosts: Vec<String>,
    /// Unix time in seconds.
    pub not_before: i64,
    /// The same.
    pub not_after: i64,
    /// The SHA-256 of all of it, in hexadecimal.
    pub fingerprint: String,
    /// Why the file's new content is not used, where it is not.
    pub error: Option<String>,
}

struct Files {
    certificates: Vec<Shown>,
    clients: Option<Believed>,
    tickets: Option<Arc<dyn ProducesTickets>>,
}

/// A certificate that is shown, with its key.
struct Shown {
    files: CertificateFiles,
    followed: Followed<[Option<Stamp>; 2]>,
    key: Arc<CertifiedKey>,
    says: Certificate,
    warned: Option<SystemTime>,
}

/// Whose signatures count under clients' certificates.
struct Believed {
    settings: ClientCertificates,
    followed: Followed<Option<Stamp>>,
    verifier: Arc<dyn ClientCertVerifier>,
}

/// What is known of files that are read again when they change.
struct Followed<S> {
    /// None where they could not be read, which is tried again.
    stamps: Option<S>,
    /// Why what stands in them is not used.
    error: Option<String>,
}

impl<S: PartialEq> Followed<S> {
    fn new(stamps: S) -> Self {
        Self {
            stamps: Some(stamps),
            error: None,
        }
    }

    /// Whether the files are others now.
    fn have_changed(&mut self, stamps: S) -> bool {
        let before = self.stamps.replace(stamps);
        before != self.stamps
    }

    /// Notes why they cannot be used; whether that is news.
    fn is_news(&mut self, error: &TlsError) -> bool {
        if matches!(error, TlsError::Read { .. }) {
            self.stamps = None;
        }
        let why = Some(error.to_string());
        let is_news = self.error != why;
        self.error = why;
        is_news
    }
}

impl Server {
    /// Reads the files of the settings.
    ///
    /// # Errors
    /// Where one cannot be used.
    pub fn open(settings: &Arc<ListenTls>) -> Result<Self, TlsError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let certificates = settings.certificates.iter();
        let certificates = certificates.map(|files| Shown::read(files, &provider));
        let clients = settings.client.as_ref();
        let clients = clients.map(|clients| Believed::read(clients, &provider));
        let files = Files {
            certificates: certificates.collect::<Result<_, _>>()?,
            clients: clients.transpose()?,
            tickets: tickets(),
        };
        Ok(Self {
            current: ArcSwap::new(config(settings, &provider, &files)),
            settings: Arc::clone(settings),
            provider,
            files: Mutex::new(files),
            handshakes: Handshakes::default(),
            reloads: Reloads::default(),
        })
    }

    /// What a new connection is served with.
    pub fn current(&self) -> Arc<ServerConfig> {
        self.current.load_full()
    }

    /// Reads again the files that have changed, and warns of certificates that end soon. Blocks.
    pub fn look_after(&self, now: SystemTime) {
        let mut files = self.files();
        let mut changed = false;
        for shown in &mut files.certificates {
            changed |= shown.follow(&self.provider, &self.reloads);
            shown.warn(now);
        }
        if let Some(believed) = &mut files.clients
            && believed.follow(&self.provider, &self.reloads)
        {
            // A ticket proves that its holder was believed, by those who were believed then.
            files.tickets = tickets();
            changed = true;
        }
        if changed {
            let config = config(&self.settings, &self.provider, &files);
            self.current.store(config);
        }
    }

    /// Its certificates as they stand, in the order of the configuration.
    pub fn certificates(&self) -> Vec<CertificateStatus> {
        self.files()
            .certificates
            .iter()
            .map(Shown::status)
            .collect()
    }

    /// Why new authorities of clients are not used, where they are not.
    pub fn error_of_clients(&self) -> Option<String> {
        self.files().clients.as_ref()?.followed.error.clone()
    }

    fn files(&self) -> MutexGuard<'_, Files> {
        self.files.lock()
    }
}

/// Keys for tickets, which change every six hours and are kept for as long again. None where the system
/// gives no randomness: then all handshakes are full ones.
fn tickets() -> Option<Arc<dyn ProducesTickets>> {
    aws_lc_rs::Ticketer::new().ok()
}

fn config(
    settings: &ListenTls,
    provider: &Arc<CryptoProvider>,
    files: &Files,
) -> Arc<ServerConfig> {
    let both: [&SupportedProtocolVersion; 2] = [&TLS12, &TLS13];
    let versions = match settings.min_version {
        TlsVersion::Tls12 => &both[..],
        TlsVersion::Tls13 => &both[1..],
    };
    let config = ServerConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(versions)
        .expect("the provider has suites for them");
    let config = match &files.clients {
        None => config.with_no_client_auth(),
        Some(believed) => config.with_client_cert_verifier(Arc::clone(&believed.verifier)),
    };
    let by_name = ByName::new(&files.certificates, settings.unknown_name);
    let mut config = config.with_cert_resolver(Arc::new(by_name));
    config.alpn_protocols = PROTOCOLS.iter().map(|name| name.to_vec()).collect();
    // What a session needs is in its ticket: strangers have nothing kept here.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    match &files.tickets {
        // A session that is resumed shows no certificate again, be it over or stolen meanwhile.
        Some(tickets) if files.clients.is_none() => {
            config.send_tls13_tickets = 1;
            config.ticketer = Arc::clone(tickets);
        }
        _ => config.send_tls13_tickets = 0,
    }
    Arc::new(config)
}

impl Shown {
    fn read(files: &CertificateFiles, provider: &CryptoProvider) -> Result<Self, TlsError> {
        // Before the files, which are no older then.
        let followed = Followed::new(stamps(files));
        let (key, says) = pair(files, provider)?;
        Ok(Self {
            files: files.clone(),
            followed,
            key,
            says,
            warned: None,
        })
    }

    /// Reads the files again where they have changed; whether others are used now.
    fn follow(&mut self, provider: &CryptoProvider, reloads: &Reloads) -> bool {
        if !self.followed.have_changed(stamps(&self.files)) {
            return false;
        }
        let file = self.files.cert.display();
        match pair(&self.files, provider) {
            Ok((key, says)) => {
                let not_after = says.not_after;
                tracing::info!(certificate = %file, not_after, "a new certificate is used");
                reloads.taken.add_one();
                (self.key, self.says, self.warned) = (key, says, None);
                self.followed.error = None;
                true
            }
            Err(error) => {
                if self.followed.is_news(&error) {
                    tracing::warn!(certificate = %file, %error, "a new certificate cannot be used, and the old one stays");
                    reloads.failed.add_one();
                }
                false
            }
        }
    }

    fn warn(&mut self, now: SystemTime) {
        if let Some(days) = days_to_warn_of(self.says.not_after, self.warned, now) {
            self.warned = Some(now);
            let certificate = self.files.cert.display();
            tracing::warn!(%certificate, days, "a certificate ends soon, or has ended");
        }
    }

    fn status(&self) -> CertificateStatus {
        CertificateStatus {
            file: self.files.cert.clone(),
            hosts: self.says.hosts().map(str::to_owned).collect(),
            not_before: self.says.not_before,
            not_after: self.says.not_after,
            fingerprint: self.says.fingerprint.clone(),
            error: self.followed.error.clone(),
        }
    }
}

impl Believed {
    fn read(
        settings: &ClientCertificates,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Self, TlsError> {
        let followed = Followed::new(stamp(&settings.ca));
        Ok(Self {
            verifier: verifier(settings, provider)?,
            settings: settings.clone(),
            followed,
        })
    }

    fn follow(&mut self, provider: &Arc<CryptoProvider>, reloads: &Reloads) -> bool {
        if !self.followed.have_changed(stamp(&self.settings.ca)) {
            return false;
        }
        let file = self.settings.ca.display();
        match verifier(&self.settings, provider) {
            Ok(verifier) => {
                tracing::info!(ca = %file, "new authorities of clients are used");
                reloads.taken.add_one();
                (self.verifier, self.followed.error) = (verifier, None);
                true
            }
            Err(error) => {
                if self.followed.is_news(&error) {
                    tracing::warn!(ca = %file, %error, "new authorities of clients cannot be used, and the old ones stay");
                    reloads.failed.add_one();
                }
                false
            }
        }
    }
}

/// How many days a certificate has left, where that is to be said now: from two weeks before its end, and
/// once a day.
fn days_to_warn_of(not_after: i64, warned: Option<SystemTime>, now: SystemTime) -> Option<i128> {
    let since = now.duration_since(SystemTime::UNIX_EPOCH);
    let left = i128::from(not_after) - i128::from(since.unwrap_or_default().as_secs());
    let is_due = |at: SystemTime| now.duration_since(at).is_ok_and(|since| since >= DAILY);
    let is_said = left < i128::from(SOON.as_secs()) && warned.is_none_or(is_due);
    is_said.then(|| left.div_euclid(i128::from(DAILY.as_secs())))
}

fn stamps(files: &CertificateFiles) -> [Option<Stamp>; 2] {
    [stamp(&files.cert), stamp(&files.key)]
}

/// A certificate with its key, and what it says.
fn pair(
    files: &CertificateFiles,
    provider: &CryptoProvider,
) -> Result<(Arc<CertifiedKey>, Certificate), TlsError> {
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

fn verifier(
    settings: &ClientCertificates,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let ca: &Path = &settings.ca;
    let authorities: RootCertStore = authorities_among(&certificates_in(ca)?, ca)?;
    let builder =
        WebPkiClientVerifier::builder_with_provider(Arc::new(authorities), Arc::clone(provider));
    let builder = match settings.required {
        true => builder,
        false => builder.allow_unauthenticated(),
    };
    Ok(builder
        .build()
        .expect("there is an authority, and no list of revoked certificates"))
}

/// Certificates by the names that clients ask for. Several for one name differ in their kind of key:
/// a client is shown the first that it can verify.
#[derive(Debug)]
struct ByName {
    exact: HashMap<String, Vec<Arc<CertifiedKey>>>,
    /// `*.example.com` stands under `example.com`.
    wildcard: HashMap<String, Vec<Arc<CertifiedKey>>>,
    /// The first, and those for its hosts.
    default: Vec<Arc<CertifiedKey>>,
    unknown_name: UnknownName,
}

impl ByName {
    fn new(certificates: &[Shown], unknown_name: UnknownName) -> Self {
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
    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    struct Folder(tempfile::TempDir);

    impl Folder {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        /// Writes a certificate for these hosts, and its key.
        fn write(&self, name: &str, hosts: &[&str]) -> CertificateFiles {
            let hosts: Vec<_> = hosts.iter().map(|host| (*host).to_owned()).collect();
            let key = KeyPair::generate().unwrap();
            let mut params = CertificateParams::new(hosts).unwrap();
            params.not_after = rcgen::date_time_ymd(2030, 1, 1);
            let certificate = params.self_signed(&key).unwrap();
            let path = |suffix: &str| self.0.path().join(format!("{name}{suffix}.pem"));
            std::fs::write(path(""), certificate.pem()).unwrap();
            std::fs::write(path("-key"), key.serialize_pem()).unwrap();
            CertificateFiles {
                cert: path(""),
                key: path("-key"),
            }
        }
    }

    fn settings(certificates: Vec<CertificateFiles>, unknown_name: UnknownName) -> Arc<ListenTls> {
        Arc::new(ListenTls {
            certificates,
            unknown_name,
            min_version: TlsVersion::Tls12,
            client: None,
            hsts: None,
        })
    }

    #[test]
    fn a_name_is_looked_for_as_it_is_then_by_its_domain_and_then_the_first_is_shown() {
        let folder = Folder::new();
        let files = [
            folder.write("first", &["example.com"]),
            folder.write("wild", &["*.example.com"]),
            folder.write("shop", &["shop.example.com"]),
        ];
        let open = |unknown_name| {
            let server = Server::open(&settings(files.to_vec(), unknown_name)).unwrap();
            let files = server.files();
            let keys: Vec<_> = files
                .certificates
                .iter()
                .map(|shown| Arc::clone(&shown.key))
                .collect();
            (ByName::new(&files.certificates, unknown_name), keys)
        };
        let (by_name, keys) = open(UnknownName::Default);
        let (strict, _) = open(UnknownName::Refuse);
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
            assert!(Arc::ptr_eq(&found[0], &keys[place]), "{host:?}");
            assert_eq!(strict.find(host).is_some(), is_known, "{host:?}");
        }
    }

    #[test]
    fn a_certificate_is_warned_of_two_weeks_before_its_end_and_then_once_a_day() {
        const DAY: u64 = 24 * 3600;
        let day = |day: u64| SystemTime::UNIX_EPOCH + Duration::from_secs(day * DAY);
        for (today, warned, days) in [
            (85, None, None),
            (86, None, None),
            (87, None, Some(13)),
            (87, Some(87), None),
            (88, Some(87), Some(12)),
            (100, Some(99), Some(0)),
            (102, Some(101), Some(-2)),
        ] {
            let said = days_to_warn_of(100 * DAY as i64, warned.map(day), day(today));
            assert_eq!(said, days, "{today} {warned:?}");
        }
    }

    #[test]
    fn a_file_that_has_changed_is_read_again_and_a_broken_one_is_not_used() {
        let folder = Folder::new();
        let files = folder.write("a", &["a.example.com"]);
        let server = Server::open(&settings(vec![files.clone()], UnknownName::Default)).unwrap();
        let now = SystemTime::UNIX_EPOCH;
        let shown = || server.certificates().remove(0);
        let (before, first) = (server.current(), shown());
        server.look_after(now);
        assert!(
            Arc::ptr_eq(&before, &server.current()),
            "nothing has changed"
        );

        std::fs::write(&files.cert, "-----BEGIN CERTIFICATE-----").unwrap();
        server.look_after(now);
        server.look_after(now);
        assert!(Arc::ptr_eq(&before, &server.current()));
        let error = shown().error.unwrap();
        assert!(
            error.contains("holds no certificate in PEM form"),
            "{error}"
        );
        assert_eq!(server.reloads.failed.value(), 1);
        assert_eq!(shown().fingerprint, first.fingerprint);

        // The certificate is there, and its key is not yet.
        let other = folder.write("b", &["b.example.com"]);
        std::fs::copy(&other.cert, &files.cert).unwrap();
        server.look_after(now);
        assert!(
            shown()
                .error
                .is_some_and(|error| error.contains("with its key"))
        );
        std::fs::copy(&other.key, &files.key).unwrap();
        server.look_after(now);
        assert_eq!(shown().error, None);
        assert_eq!(shown().hosts, ["b.example.com"]);
        assert_eq!(server.reloads.taken.value(), 1);
        assert!(!Arc::ptr_eq(&before, &server.current()));
        std::fs::remove_file(&files.key).unwrap();
        server.look_after(now);
        assert!(
            shown()
                .error
                .is_some_and(|error| error.contains("cannot read"))
        );
        assert_eq!(shown().hosts, ["b.example.com"]);
    }
}
