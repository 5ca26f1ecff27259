//! TLS of a listener: the certificates that it shows, by the name that a client asks for, and what it
//! asks of clients. Files are read again when they change; where a new one cannot be used, the old one
//! stays.

use std::{
    path::PathBuf,
    sync::{Arc, OnceLock},
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use rustls::{
    ServerConfig, SupportedProtocolVersion,
    crypto::{CryptoProvider, aws_lc_rs},
    server::{NoServerSessionStorage, ProducesTickets},
    version::{TLS12, TLS13},
};
use serde::Serialize;
use tokio::time::Instant;

use super::{
    by_name::ByName,
    client_authorities::ClientAuthorities,
    followed::{Change, Follower},
    identity::Identity,
    ordered::{Ordered, OrderedCertificates},
    pem::TlsError,
    tickets::TicketFile,
};
use crate::{
    config::{ListenProtocol, ListenTls, TlsVersion},
    metrics::Counter,
};

/// What may be spoken within, as the handshake names it (RFC 7301), the first choice first.
const PROTOCOLS: [&[u8]; 2] = [HTTP2, b"http/1.1"];
/// HTTP/2 (RFC 9113 3.1).
pub(crate) const HTTP2: &[u8] = b"h2";

/// A file system that has not answered for so long is said to be at fault.
const STALLED: Duration = Duration::from_secs(10);

/// TLS of a listener.
pub struct Server {
    settings: Arc<ListenTls>,
    /// What clients may speak within.
    protocols: &'static [&'static [u8]],
    provider: Arc<CryptoProvider>,
    /// What new connections are served with.
    current: ArcSwap<ServerConfig>,
    /// The certificates that are ordered for it.
    ordered: ArcSwap<Vec<Ordered>>,
    status: ArcSwap<Status>,
    /// Held while files are read, which may take for ever: only what looks after them takes it.
    files: Mutex<Files>,
    /// Since when files are looked at, while they are.
    looking: Mutex<Option<Instant>>,
    follower: OnceLock<Follower>,
    /// The handshakes of its connections.
    pub handshakes: Arc<Handshakes>,
    /// How often files that had changed were taken over, and how often they could not be.
    pub reloads: Arc<Reloads>,
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

impl Reloads {
    fn count(&self, change: Change) {
        match change {
            Change::None => {}
            Change::Refused => self.failed.add_one(),
            Change::Taken => self.taken.add_one(),
        }
    }
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
    /// Whether the proxy has ordered it, and orders another in time.
    #[serde(skip)]
    pub is_ordered: bool,
}

/// The file of the keys of session tickets, as it stands.
#[derive(Clone, Debug, Serialize)]
pub struct TicketStatus {
    /// The file.
    pub file: PathBuf,
    /// The public names of the keys, the one that encrypts first.
    pub keys: Vec<String>,
    /// Why the file's new content is not used, where it is not.
    pub error: Option<String>,
}

/// What is told of the files.
struct Status {
    certificates: Vec<CertificateStatus>,
    error_of_clients: Option<String>,
    tickets: Option<TicketStatus>,
}

struct Files {
    certificates: Vec<Identity>,
    ordered: OrderedCertificates,
    clients: Option<ClientAuthorities>,
    tickets: Tickets,
}

/// Whose keys the tickets of sessions have.
enum Tickets {
    /// There are none: a session that is resumed shows no certificate of its client again, be it over or
    /// stolen meanwhile.
    None,
    /// This process's own, which change every six hours and are kept for as long again.
    Own(Arc<dyn ProducesTickets>),
    /// A file's, which other proxies have too.
    File(Box<TicketFile>),
}

impl Server {
    /// Reads the files of the settings, and those of `ordered` that are there.
    ///
    /// # Errors
    /// Where one of the settings cannot be used.
    pub fn open(
        settings: &Arc<ListenTls>,
        ordered: Vec<Ordered>,
        protocol: ListenProtocol,
    ) -> Result<Self, TlsError> {
        let protocols = match protocol {
            ListenProtocol::Auto => &PROTOCOLS[..],
            ListenProtocol::Http1 => &PROTOCOLS[1..],
        };
        let provider = Arc::new(aws_lc_rs::default_provider());
        let certificates = settings.certificates.iter();
        let certificates = certificates.map(|files| Identity::read(files, &provider));
        let ordered = Arc::new(ordered);
        let clients = settings.client.as_ref();
        let clients = clients.map(|clients| ClientAuthorities::read(clients, &provider));
        let files = Files {
            certificates: certificates.collect::<Result<_, _>>()?,
            ordered: OrderedCertificates::read(Arc::clone(&ordered), &provider, SystemTime::now()),
            clients: clients.transpose()?,
            tickets: Tickets::open(settings)?,
        };
        Ok(Self {
            current: ArcSwap::new(config(settings, protocols, &provider, &files)),
            ordered: ArcSwap::new(ordered),
            status: ArcSwap::from_pointee(files.status()),
            settings: Arc::clone(settings),
            protocols,
            provider,
            files: Mutex::new(files),
            looking: Mutex::default(),
            follower: OnceLock::new(),
            handshakes: Arc::default(),
            reloads: Arc::default(),
        })
    }

    /// The same in the place of another one, whose counts go on.
    #[must_use]
    pub fn in_place_of(self, before: &Self) -> Self {
        Self {
            handshakes: Arc::clone(&before.handshakes),
            reloads: Arc::clone(&before.reloads),
            ..self
        }
    }

    /// Whether its counts are those of another one.
    pub fn counts_with(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.handshakes, &other.handshakes)
    }

    /// Has files that change be read again, for as long as this is there.
    ///
    /// # Errors
    /// Where the system gives no thread for it.
    pub fn follow(self: &Arc<Self>) -> Result<(), TlsError> {
        if self.follower.get().is_none() {
            let follower = Follower::start(self, Self::look_after)?;
            // A second one would end at once.
            let _ = self.follower.set(follower);
        }
        Ok(())
    }

    /// Has these certificates be those that are ordered for it, within a second.
    pub fn order(&self, certificates: Vec<Ordered>) {
        self.ordered.store(Arc::new(certificates));
    }

    /// What a new connection is served with.
    pub fn current(&self) -> Arc<ServerConfig> {
        self.current.load_full()
    }

    /// Reads again the files that have changed, and warns of certificates that end soon. Blocks for as
    /// long as the file system does.
    fn look_after(&self, now: SystemTime) {
        let mut files = self.files.lock();
        *self.looking.lock() = Some(Instant::now());
        // Each is taken over at once: the file system of the next may not answer.
        for place in 0..files.certificates.len() {
            let certificate = &mut files.certificates[place];
            let change = certificate.follow(&self.provider, now);
            certificate.warn(now);
            self.publish(&files, change);
        }
        let ordered = self.ordered.load_full();
        let change = files.ordered.follow(&ordered, &self.provider, now);
        self.publish(&files, change);
        if let Some(clients) = &mut files.clients {
            let change = clients.follow(&self.provider);
            self.publish(&files, change);
        }
        if let Tickets::File(tickets) = &mut files.tickets {
            let change = tickets.follow();
            self.publish(&files, change);
        }
        *self.looking.lock() = None;
    }

    fn publish(&self, files: &Files, change: Change) {
        self.reloads.count(change);
        if change == Change::Taken {
            let config = config(&self.settings, self.protocols, &self.provider, files);
            self.current.store(config);
        }
        if change != Change::None {
            self.status.store(Arc::new(files.status()));
        }
    }

    /// Its certificates as they stand, in the order of the configuration.
    pub fn certificates(&self) -> Vec<CertificateStatus> {
        let mut certificates = self.status.load().certificates.clone();
        if let Some(stalled) = self.stalled() {
            for certificate in &mut certificates {
                certificate.error.get_or_insert_with(|| stalled.clone());
            }
        }
        certificates
    }

    /// Why new authorities of clients are not used, where they are not.
    pub fn error_of_clients(&self) -> Option<String> {
        let error = self.status.load().error_of_clients.clone();
        error.or_else(|| self.stalled().filter(|_| self.settings.client.is_some()))
    }

    /// The file that the keys of its tickets are from, where they are from one.
    pub fn tickets(&self) -> Option<TicketStatus> {
        let mut tickets = self.status.load().tickets.clone()?;
        tickets.error = tickets.error.or_else(|| self.stalled());
        Some(tickets)
    }

    /// What is said while it is not known whether the files have changed.
    fn stalled(&self) -> Option<String> {
        let since = (*self.looking.lock())?.elapsed();
        let seconds = since.as_secs();
        let says = || format!("the file system has not answered for {seconds} seconds");
        (since >= STALLED).then(says)
    }
}

impl Files {
    /// Its certificates: those of the file first.
    fn shown(&self) -> Vec<&Identity> {
        let of_the_file = self.certificates.iter();
        of_the_file.chain(self.ordered.shown()).collect()
    }

    fn status(&self) -> Status {
        let clients = self.clients.as_ref();
        Status {
            certificates: self.shown().into_iter().map(status).collect(),
            error_of_clients: clients.and_then(|clients| clients.followed.error().cloned()),
            tickets: match &self.tickets {
                Tickets::None | Tickets::Own(_) => None,
                Tickets::File(file) => Some(TicketStatus {
                    file: file.path.clone(),
                    keys: file.keys.names(),
                    error: file.followed.error().cloned(),
                }),
            },
        }
    }
}

impl Tickets {
    fn open(settings: &ListenTls) -> Result<Self, TlsError> {
        if settings.client.is_some() {
            return Ok(Self::None);
        }
        if let Some(path) = &settings.tickets {
            return Ok(Self::File(Box::new(TicketFile::read(path)?)));
        }
        // Where the system gives no randomness, all handshakes are full ones.
        Ok(aws_lc_rs::Ticketer::new().map_or(Self::None, Self::Own))
    }

    fn producer(&self) -> Option<Arc<dyn ProducesTickets>> {
        match self {
            Self::None => None,
            Self::Own(own) => Some(Arc::clone(own)),
            Self::File(file) => Some(Arc::new(file.keys.clone())),
        }
    }
}

fn status(shown: &Identity) -> CertificateStatus {
    let says = &shown.says;
    CertificateStatus {
        file: shown.files.cert.clone(),
        hosts: says.hosts().map(str::to_owned).collect(),
        not_before: says.not_before,
        not_after: says.not_after,
        fingerprint: says.fingerprint.clone(),
        error: shown.followed.error().cloned(),
        is_ordered: shown.is_ordered,
    }
}

fn config(
    settings: &ListenTls,
    protocols: &[&[u8]],
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
        Some(clients) => config.with_client_cert_verifier(Arc::clone(&clients.verifier)),
    };
    let stand_in = files.ordered.stand_in.as_ref();
    let by_name = ByName::new(&files.shown(), stand_in, settings.unknown_name);
    let mut config = config.with_cert_resolver(Arc::new(by_name));
    config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
    // What a session needs is in its ticket: strangers have nothing kept here.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    let tickets = files.tickets.producer();
    config.send_tls13_tickets = usize::from(tickets.is_some());
    if let Some(tickets) = tickets {
        config.ticketer = tickets;
    }
    Arc::new(config)
}

#[cfg(test)]
mod tests {
    use std::{fs::OpenOptions, process::Command, thread};

    use super::{super::testing::Folder, *};
    use crate::config::{CertificateFiles, UnknownName};

    fn server(files: &CertificateFiles) -> Server {
        let settings = ListenTls {
            certificates: vec![files.clone()],
            acme: None,
            unknown_name: UnknownName::Default,
            min_version: TlsVersion::Tls12,
            client: None,
            tickets: None,
            hsts: None,
        };
        Server::open(&Arc::new(settings), Vec::new(), ListenProtocol::Auto).unwrap()
    }

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
    }

    #[test]
    fn a_file_that_has_changed_is_read_again_and_a_broken_one_is_not_used() {
        let folder = Folder::new();
        let files = folder.write("a", &["a.example.com"]);
        let server = server(&files);
        let shown = || server.certificates().remove(0);
        let (before, first) = (server.current(), shown());
        server.look_after(now());
        assert!(
            Arc::ptr_eq(&before, &server.current()),
            "nothing has changed"
        );

        std::fs::write(&files.cert, "-----BEGIN CERTIFICATE-----").unwrap();
        server.look_after(now());
        server.look_after(now());
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
        server.look_after(now());
        assert!(
            shown()
                .error
                .is_some_and(|error| error.contains("with its key"))
        );
        std::fs::copy(&other.key, &files.key).unwrap();
        server.look_after(now());
        assert_eq!(shown().error, None);
        assert_eq!(shown().hosts, ["b.example.com"]);
        assert_eq!(server.reloads.taken.value(), 1);
        assert!(!Arc::ptr_eq(&before, &server.current()));
        std::fs::remove_file(&files.key).unwrap();
        server.look_after(now());
        assert!(
            shown()
                .error
                .is_some_and(|error| error.contains("cannot read"))
        );
        assert_eq!(shown().hosts, ["b.example.com"]);
    }

    /// A pipe that nothing is written to is as a file on a server that does not answer.
    #[test]
    fn a_file_that_takes_for_ever_to_be_read_holds_up_none_that_asks_what_is_shown() {
        let folder = Folder::new();
        let files = folder.write("a", &["a.example.com"]);
        let server = Arc::new(server(&files));
        let first = server.certificates().remove(0);
        std::fs::remove_file(&files.cert).unwrap();
        let made = Command::new("mkfifo").arg(&files.cert).status().unwrap();
        assert!(made.success());
        let reading = Arc::clone(&server);
        let reading = thread::spawn(move || reading.look_after(now()));
        // What opens it for writing waits until it is being read.
        let pipe = OpenOptions::new().write(true).open(&files.cert).unwrap();
        assert_eq!(server.certificates()[0].error, None);
        assert_eq!(server.certificates()[0].fingerprint, first.fingerprint);
        assert!(server.error_of_clients().is_none());
        server.current();
        let since = Instant::now().checked_sub(STALLED).unwrap();
        *server.looking.lock() = Some(since);
        let error = server.certificates().remove(0).error;
        let says = "the file system has not answered for 10 seconds";
        assert_eq!(error.as_deref(), Some(says));
        drop(pipe);
        reading.join().unwrap();
        assert_ne!(server.certificates()[0].error.as_deref(), Some(says));
    }
    fn one_file(folder: &Folder, host: &str) -> Ordered {
        let files = folder.write(host, &[host]);
        let both = [&files.cert, &files.key].map(|file| std::fs::read_to_string(file).unwrap());
        let file = folder.file(&format!("{host}.both"));
        std::fs::write(&file, both.concat()).unwrap();
        let host = host.to_owned();
        Ordered { host, file }
    }

    #[test]
    fn a_certificate_that_is_ordered_is_shown_once_it_is_there_and_none_is_needed_before() {
        let folder = Folder::new();
        let first = one_file(&folder, "a.example.com");
        let missing = Ordered {
            host: "b.example.com".to_owned(),
            file: folder.file("b.example.com.both"),
        };
        let settings = ListenTls {
            certificates: Vec::new(),
            ..ListenTls::clone(&server(&folder.write("x", &["x"])).settings)
        };
        let wanted = vec![missing, first];
        let server = Server::open(&Arc::new(settings), wanted.clone(), ListenProtocol::Auto);
        let server = server.unwrap();
        let hosts = || {
            let all = server.certificates().into_iter();
            all.flat_map(|one| one.hosts).collect::<Vec<_>>()
        };
        assert_eq!(hosts(), ["a.example.com"]);
        let before = server.current();
        server.look_after(now());
        assert!(Arc::ptr_eq(&before, &server.current()), "nothing has come");
        let stands_in = || {
            let files = server.files.lock();
            let stand_in = files.ordered.stand_in.as_ref();
            stand_in.map(|it| it.hosts.clone())
        };
        assert_eq!(stands_in(), Some(vec!["b.example.com".to_owned()]));
        one_file(&folder, "b.example.com");
        server.look_after(now());
        assert_eq!(hosts(), ["a.example.com", "b.example.com"]);
        assert_eq!(stands_in(), None);
        server.order(wanted[..1].to_vec());
        server.look_after(now());
        assert_eq!(hosts(), ["b.example.com"]);
    }
}
