//! TLS of a client of ours: whom it believes, and as whom it comes. Its files are read again when they
//! change. Knows nothing of whom it calls.

use std::{
    fmt,
    path::PathBuf,
    sync::{Arc, OnceLock},
    time::SystemTime,
};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use rustls::{
    ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    client::{
        ResolvesClientCert, Resumption, WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
    sign::CertifiedKey,
};

use super::{
    followed::{Change, Followed, Follower},
    identity::Identity,
    pem::{TlsError, authorities_among, certificates_in},
    stamp::{Stamp, stamp},
    trust::Trust,
};
use crate::config::{CertificateFiles, ClientTls};

/// TLS of a client of ours.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    current: Arc<Current>,
    config: ClientConfig,
}

/// What a client of ours needs whose connections resume no session.
///
/// # Errors
/// As [`Client::open`].
pub(crate) fn client_config(settings: &ClientTls) -> Result<ClientConfig, TlsError> {
    Client::open(settings).map(|client| client.config)
}

impl Client {
    /// Reads the files of the settings, and follows them for as long as this or a configuration of it is
    /// there. Where they name no authority and no key, the system's authorities are believed.
    ///
    /// # Errors
    /// Where a file cannot be used, or the system's authorities are wanted and there are none.
    pub(crate) fn open(settings: &ClientTls) -> Result<Self, TlsError> {
        let current = Arc::new(Current::open(settings)?);
        if settings.ca.is_some() || settings.identity.is_some() {
            let follower = Follower::start(&current, Current::look_after)?;
            let _ = current.follower.set(follower);
        }
        let mut config = ClientConfig::builder_with_provider(Arc::clone(&current.provider))
            .with_safe_default_protocol_versions()
            .expect("the provider has suites for them")
            .dangerous()
            .with_custom_certificate_verifier(Arc::clone(&current) as _)
            .with_client_cert_resolver(Arc::clone(&current) as _);
        // A session that is resumed is not verified again, whatever the files say by then.
        config.resumption = Resumption::disabled();
        Ok(Self { current, config })
    }

    /// What a connection needs. Each is made by what stands in the files then; none resumes a session.
    pub(crate) fn config(&self) -> &ClientConfig {
        &self.config
    }

    /// How often new files were taken over. Sessions from before are not to be resumed.
    pub(crate) fn generation(&self) -> u64 {
        self.current.shown.load().generation
    }
}

/// What stands in a client's files.
struct Current {
    provider: Arc<CryptoProvider>,
    shown: ArcSwap<Shown>,
    /// Held while files are read, which may take for ever: only what looks after them takes it.
    files: Mutex<Files>,
    follower: OnceLock<Follower>,
}

/// Whom connections believe, and as whom they come.
struct Shown {
    trust: Trust,
    identity: Option<Arc<CertifiedKey>>,
    generation: u64,
}

struct Files {
    settings: ClientTls,
    ca: Option<(PathBuf, Followed<Option<Stamp>>)>,
    identity: Option<Identity>,
}

impl Current {
    fn open(settings: &ClientTls) -> Result<Self, TlsError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let ca = settings.ca.clone();
        let ca = ca.map(|path| (path.clone(), Followed::new(stamp(&path))));
        let identity = settings.identity.as_ref().map(|(chain, key)| {
            let files = CertificateFiles {
                cert: chain.clone(),
                key: key.clone(),
            };
            Identity::read(&files, &provider)
        });
        let identity = identity.transpose()?;
        let shown = Shown {
            trust: trust(settings, &provider)?,
            identity: identity.as_ref().map(|identity| Arc::clone(&identity.key)),
            generation: 0,
        };
        Ok(Self {
            provider,
            shown: ArcSwap::from_pointee(shown),
            files: Mutex::new(Files {
                settings: settings.clone(),
                ca,
                identity,
            }),
            follower: OnceLock::new(),
        })
    }

    /// Reads again the files that have changed. Blocks for as long as the file system does.
    fn look_after(&self, now: SystemTime) {
        let Files {
            settings,
            ca,
            identity,
        } = &mut *self.files.lock();
        if let Some((path, followed)) = ca
            && followed.have_changed(stamp(path))
        {
            let ca = path.display();
            match trust(settings, &self.provider) {
                Ok(trust) => {
                    followed.take();
                    tracing::info!(%ca, "new authorities are believed");
                    let identity = self.shown.load().identity.clone();
                    self.show(trust, identity);
                }
                Err(error) => {
                    if followed.refuse(&error) == Change::Refused {
                        tracing::warn!(%ca, %error, "new authorities cannot be used, and the old ones stay");
                    }
                }
            }
        }
        if let Some(identity) = identity {
            let change = identity.follow(&self.provider, now);
            identity.warn(now);
            if change == Change::Taken {
                let trust = self.shown.load().trust.clone();
                self.show(trust, Some(Arc::clone(&identity.key)));
            }
        }
    }

    fn show(&self, trust: Trust, identity: Option<Arc<CertifiedKey>>) {
        let generation = self.shown.load().generation + 1;
        self.shown.store(Arc::new(Shown {
            trust,
            identity,
            generation,
        }));
    }
}

fn trust(settings: &ClientTls, provider: &Arc<CryptoProvider>) -> Result<Trust, TlsError> {
    let named = match &settings.ca {
        Some(path) => certificates_in(path)?,
        None => Vec::new(),
    };
    let authorities = match &settings.ca {
        Some(path) => Some(authorities_among(&named, path)?),
        None if settings.pins.is_empty() => Some(authorities_of_the_system()?),
        None => None,
    };
    let verifier = |authorities| {
        WebPkiServerVerifier::builder_with_provider(Arc::new(authorities), Arc::clone(provider))
            .build()
            .expect("there is an authority, and no list of revoked certificates")
    };
    Ok(Trust {
        authorities: authorities.map(verifier),
        named,
        pins: settings.pins.clone(),
    })
}

fn authorities_of_the_system() -> Result<RootCertStore, TlsError> {
    let mut authorities = RootCertStore::empty();
    // Some that cannot be read, of the many that a system has, do no harm.
    authorities.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if authorities.is_empty() {
        return Err(TlsError::NoAuthorities);
    }
    Ok(authorities)
}

impl ServerCertVerifier for Current {
    fn verify_server_cert(
        &self,
        shown: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let trust = &self.shown.load().trust;
        trust.verify_server_cert(shown, intermediates, name, ocsp, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        shown: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let known = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, shown, signed, known)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        shown: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let known = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, shown, signed, known)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let known = &self.provider.signature_verification_algorithms;
        known.supported_schemes()
    }
}

impl ResolvesClientCert for Current {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.shown.load().identity.clone()
    }

    fn has_certs(&self) -> bool {
        self.shown.load().identity.is_some()
    }
}

impl fmt::Debug for Current {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Current")
    }
}

#[cfg(test)]
mod tests {
    use super::{super::testing::Folder, *};

    #[test]
    fn new_authorities_and_certificates_are_taken_over_and_broken_ones_are_not() {
        let folder = Folder::new();
        let first = folder.write("ca", &["ca"]);
        let own = folder.write("own", &["own"]);
        let settings = ClientTls {
            ca: Some(first.cert.clone()),
            identity: Some((own.cert.clone(), own.key.clone())),
            ..ClientTls::default()
        };
        let client = Client::open(&settings).unwrap();
        let current = &client.current;
        let named = || current.shown.load().trust.named.clone();
        let shown = || Arc::clone(current.shown.load().identity.as_ref().unwrap());
        let (old, own_old) = (named(), shown());
        let now = SystemTime::now();
        current.look_after(now);
        assert_eq!(client.generation(), 0, "nothing has changed");

        std::fs::write(&first.cert, "none").unwrap();
        std::fs::write(&own.key, "none").unwrap();
        current.look_after(now);
        assert_eq!((client.generation(), named()), (0, old.clone()));
        folder.write("ca", &["ca"]);
        current.look_after(now);
        assert_eq!(client.generation(), 1);
        assert_ne!(named(), old);
        assert!(Arc::ptr_eq(&shown(), &own_old));
        folder.write("own", &["own"]);
        current.look_after(now);
        assert_eq!(client.generation(), 2);
        assert!(!Arc::ptr_eq(&shown(), &own_old));
    }

    /// One certificate that is not valid yet waits, as a listener's does.
    #[test]
    fn a_certificate_that_is_not_valid_yet_is_not_shown() {
        let folder = Folder::new();
        let (ca, own) = (folder.write("ca", &["ca"]), folder.write("own", &["own"]));
        let settings = ClientTls {
            ca: Some(ca.cert),
            identity: Some((own.cert, own.key)),
            ..ClientTls::default()
        };
        let client = Client::open(&settings).unwrap();
        folder.write_for("own", (2045, 2050));
        client.current.look_after(SystemTime::now());
        assert_eq!(client.generation(), 0);
    }
}
