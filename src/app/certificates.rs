//! The certificates of the listeners that speak TLS: opened once for each table, and followed from then on.

use std::{iter::zip, sync::Arc};

use crate::{
    config::{Config, ListenAddress, ListenTls, Listener},
    listen::Tls,
    tls::{Server, TlsError},
};

/// The TLS of each `[[listen]]` that has it. The addresses of one table share it.
pub(super) struct Certificates(Vec<Opened>);

struct Opened {
    settings: Arc<ListenTls>,
    server: Arc<Server>,
    tls: Arc<Tls>,
}

impl Certificates {
    /// Reads the files.
    ///
    /// # Errors
    /// Where one cannot be used.
    pub(super) fn open(config: &Config) -> Result<Self, TlsError> {
        let mut opened = Self(Vec::new());
        for listener in &config.listeners {
            if let Some(settings) = &listener.tls
                && opened.find(listener).is_none()
            {
                let server = Arc::new(Server::open(settings, listener.protocol)?);
                server.follow();
                let most = listener.limits.handshakes;
                opened.0.push(Opened {
                    settings: Arc::clone(settings),
                    tls: Arc::new(Tls::new(Arc::clone(&server), most)),
                    server,
                });
            }
        }
        Ok(opened)
    }

    /// What a listener does its handshakes by.
    pub(super) fn of(&self, listener: &Listener) -> Option<Arc<Tls>> {
        self.find(listener).map(|opened| Arc::clone(&opened.tls))
    }

    /// All of them, each by the first address that it is shown at.
    pub(super) fn shown(
        self,
        config: &Config,
        addresses: &[ListenAddress],
    ) -> Vec<(ListenAddress, Arc<Server>)> {
        let first = |opened: Opened| {
            let mut listeners = zip(&config.listeners, addresses);
            let (_, address) = listeners.find(|(listener, _)| opened.is_of(listener))?;
            Some((address.clone(), opened.server))
        };
        self.0.into_iter().filter_map(first).collect()
    }

    fn find(&self, listener: &Listener) -> Option<&Opened> {
        self.0.iter().find(|opened| opened.is_of(listener))
    }
}

impl Opened {
    fn is_of(&self, listener: &Listener) -> bool {
        let settings = listener.tls.as_ref();
        settings.is_some_and(|settings| Arc::ptr_eq(settings, &self.settings))
    }
}
