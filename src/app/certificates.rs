//! The certificates of the listeners that speak TLS: opened once for each table, and followed from then on;
//! and those of them that the proxy orders itself.

use std::{collections::BTreeSet, iter::zip, sync::Arc, time::Duration};

use tokio::time::interval;
use tokio_util::sync::CancellationToken;

use super::tasks::ControlTasks;
use crate::{
    acme::{Board, Challenges, Keeper, Ways, certificate_file},
    config::{Acme, AcmeAccount, Config, ListenAddress, ListenTls, Listener},
    listen::Tls,
    proxy::Shared,
    tls::{Ordered, Server, TlsError},
};

/// How often it is looked whether certificates for other names are wanted.
const PACE: Duration = Duration::from_secs(1);

/// The TLS of each `[[listen]]` that has it. The addresses of one table share it.
pub(super) struct Certificates {
    opened: Vec<Opened>,
    challenges: Arc<Challenges>,
}

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
        let mut opened = Self {
            opened: Vec::new(),
            challenges: Arc::default(),
        };
        for listener in &config.listeners {
            if let Some(settings) = &listener.tls
                && opened.find(listener).is_none()
            {
                let ordered = ordered(settings, config);
                let server = Arc::new(Server::open(settings, ordered, listener.protocol)?);
                server.follow();
                let challenges = Arc::clone(&opened.challenges);
                let most = listener.limits.handshakes;
                opened.opened.push(Opened {
                    settings: Arc::clone(settings),
                    tls: Arc::new(Tls::new(Arc::clone(&server), challenges, most)),
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

    /// What orders those of them that are ordered.
    pub(super) fn orders(&self, config: &Config) -> Orders {
        let ordering = self.opened.iter().filter(|one| one.settings.acme.is_some());
        let place = |one: &Opened| {
            let mut listeners = config.listeners.iter();
            listeners.position(|listener| one.is_of(listener))
        };
        let servers = ordering.filter_map(|one| Some((place(one)?, Arc::clone(&one.server))));
        let board = Arc::default();
        Orders {
            servers: servers.collect(),
            keepers: keepers(config, &self.challenges, &board),
            challenges: Arc::clone(&self.challenges),
            board,
        }
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
        self.opened.into_iter().filter_map(first).collect()
    }

    fn find(&self, listener: &Listener) -> Option<&Opened> {
        self.opened.iter().find(|opened| opened.is_of(listener))
    }
}

impl Opened {
    fn is_of(&self, listener: &Listener) -> bool {
        let settings = listener.tls.as_ref();
        settings.is_some_and(|settings| Arc::ptr_eq(settings, &self.settings))
    }
}

/// The certificates that are ordered for a listener.
fn ordered(settings: &ListenTls, config: &Config) -> Vec<Ordered> {
    let Some(acme) = &settings.acme else {
        return Vec::new();
    };
    let names = config.names_to_order(acme).into_iter();
    names
        .map(|host| Ordered {
            file: certificate_file(&acme.account.folder, &host),
            host,
        })
        .collect()
}

/// The certificates that the proxy orders itself.
pub(super) struct Orders {
    /// Those that show them, each with the place of its first listener.
    servers: Vec<(usize, Arc<Server>)>,
    keepers: Vec<(AcmeAccount, Keeper)>,
    /// Where listeners find the proofs that an authority asks for.
    pub(super) challenges: Arc<Challenges>,
    /// How the orders stand.
    pub(super) board: Arc<Board>,
}

impl Orders {
    /// Orders what is missing or due, for the names of the file that runs.
    pub(super) fn begin(self, shared: &Arc<Shared>, tasks: &mut ControlTasks) {
        for (account, keeper) in self.keepers {
            let shared = Arc::clone(shared);
            let wanted = move || names(&shared.generation.load().config, &account);
            tasks.spawn(|ending| keeper.run(wanted, ending));
        }
        if !self.servers.is_empty() {
            let shared = Arc::clone(shared);
            tasks.spawn(|ending| follow_names(shared, self.servers, ending));
        }
    }
}

/// What keeps the certificates of each account that listeners have.
fn keepers(
    config: &Config,
    challenges: &Arc<Challenges>,
    board: &Arc<Board>,
) -> Vec<(AcmeAccount, Keeper)> {
    let ways = Ways::of(&config.listeners);
    let mut keepers = Vec::<(AcmeAccount, Keeper)>::new();
    for acme in config.listeners.iter().filter_map(acme_of) {
        if keepers.iter().all(|(account, _)| *account != acme.account) {
            let account = acme.account.clone();
            let keeper = Keeper::new(
                account.clone(),
                ways.clone(),
                Arc::clone(challenges),
                Arc::clone(board),
                names(config, &account),
            );
            keepers.push((account, keeper));
        }
    }
    keepers
}

fn acme_of(listener: &Listener) -> Option<&Acme> {
    listener.tls.as_ref()?.acme.as_ref()
}

/// The names for which listeners want certificates of an account.
fn names(config: &Config, account: &AcmeAccount) -> BTreeSet<String> {
    let all = config.listeners.iter().filter_map(acme_of);
    let own = all.filter(|acme| acme.account == *account);
    own.flat_map(|acme| config.names_to_order(acme)).collect()
}

/// Has listeners show certificates for the names of the file that runs, which a reload may change.
async fn follow_names(
    shared: Arc<Shared>,
    servers: Vec<(usize, Arc<Server>)>,
    ending: CancellationToken,
) {
    let mut tick = interval(PACE);
    let mut known = Arc::clone(&shared.generation.load().config);
    while ending.run_until_cancelled(tick.tick()).await.is_some() {
        let config = Arc::clone(&shared.generation.load().config);
        if Arc::ptr_eq(&config, &known) {
            continue;
        }
        for (place, server) in &servers {
            let listener = config.listeners.get(*place);
            if let Some(settings) = listener.and_then(|listener| listener.tls.as_ref()) {
                server.order(ordered(settings, &config));
            }
        }
        known = config;
    }
}
