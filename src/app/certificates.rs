//! The certificates of the listeners that speak TLS: opened once for each table, and looked after for as
//! long as the process runs.

use std::{
    iter::zip,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::{task::spawn_blocking, time::sleep};
use tokio_util::sync::CancellationToken;

use crate::{
    config::{Config, ListenTls, Listener},
    listen::Tls,
    tls::{Server, TlsError},
};

/// How often it is looked whether a file has changed.
const PACE: Duration = Duration::from_secs(1);

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
                let server = Arc::new(Server::open(settings)?);
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
        addresses: &[SocketAddr],
    ) -> Vec<(SocketAddr, Arc<Server>)> {
        let first = |opened: Opened| {
            let mut listeners = zip(&config.listeners, addresses);
            let (_, address) = listeners.find(|(listener, _)| opened.is_of(listener))?;
            Some((*address, opened.server))
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

/// Takes new files over when they are there, and warns of certificates that end soon.
pub(super) async fn look_after(servers: Vec<(SocketAddr, Arc<Server>)>, ending: CancellationToken) {
    let servers: Arc<[_]> = servers.into();
    loop {
        let looked = Arc::clone(&servers);
        // A folder may be on a server that does not answer.
        let looking = spawn_blocking(move || {
            for (_, server) in looked.iter() {
                server.look_after(SystemTime::now());
            }
        });
        let paced = async {
            if let Err(error) = looking.await {
                tracing::error!(%error, "certificates are not looked after");
            }
            sleep(PACE).await;
        };
        if ending.run_until_cancelled(paced).await.is_none() {
            return;
        }
    }
}
