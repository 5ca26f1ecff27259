//! Everything that a proxy listens on, and what is behind it.

use std::{collections::BTreeMap, net::SocketAddr, os::fd::OwnedFd, sync::Arc};

use super::{
    certificates::ListenerTls, predecessor::Predecessor, start_error::StartError,
    tasks::ControlTasks, upgrade::ServerSockets,
};
use crate::{
    acme::Challenges,
    admin,
    config::{Config, RegistryKind},
    embedded,
    listen::{BindError, Bound},
    registry::{self, BuildError, Registry},
};

/// Everything that is listened on, and what is behind it.
pub(super) struct Doors {
    pub(super) bound: Vec<Bound>,
    /// Of each listener that speaks it.
    pub(super) tls: Vec<Option<ListenerTls>>,
    pub(super) admin: admin::Server,
    pub(super) registries: Registries,
    pub(super) registry: Option<EmbeddedRegistry>,
    /// What opens the embedded registry's state, where that may be another process's.
    pub(super) awaited: Option<embedded::Awaited>,
}

/// The embedded registry, which runs.
pub(super) struct EmbeddedRegistry {
    pub(super) address: SocketAddr,
    /// Its socket by another descriptor.
    socket: Option<OwnedFd>,
    /// Its address in the file.
    wanted: SocketAddr,
    lender: embedded::Lender,
    /// What opens its state, where that may be another process's.
    awaited: Option<embedded::Awaited>,
}

impl Doors {
    /// Opens them all; the embedded registry begins to serve, where no other process may have it.
    pub(super) async fn open(
        config: &Config,
        challenges: &Arc<Challenges>,
        predecessor: &mut Predecessor<'_>,
        tasks: &mut ControlTasks,
    ) -> Result<Self, StartError> {
        let none = vec![None; config.listeners.len()];
        let tls = ListenerTls::open_all(config, &none, challenges)?;
        let mut speaking = tls.iter().flatten();
        speaking.try_for_each(|tls| tls.server.follow())?;
        let bound = bind(config, predecessor).await?;
        predecessor.leave_supervised();
        let registries = open_registries(config)?;
        predecessor.take_paths(&bound)?;
        let admin = predecessor.admin_server().await?;
        let embedded = serve_embedded(config, registries, admin.address(), predecessor, tasks);
        let (registries, mut registry) = embedded.await?;
        let awaited = registry.as_mut().and_then(|one| one.awaited.take());
        Ok(Self {
            tls,
            bound,
            admin,
            registries,
            registry,
            awaited,
        })
    }

    /// The sockets of the servers by other descriptors, for a successor.
    pub(super) fn duplicate(&self, config: &Config) -> Result<ServerSockets, StartError> {
        let wanted = config.admin.address;
        let failed = |error| admin::StartError::Bind(wanted, error);
        let (socket, sharing) = self.admin.duplicate().map_err(failed)?;
        let registry = self.registry.as_ref().and_then(|registry| {
            let socket = registry.socket.as_ref()?.try_clone().ok()?;
            Some((registry.wanted.to_string(), socket, registry.lender.clone()))
        });
        Ok(ServerSockets {
            admin: Some((wanted.to_string(), socket, sharing)),
            registry,
        })
    }
}

/// Binds the listeners of the file.
async fn bind(config: &Config, predecessor: &mut Predecessor<'_>) -> Result<Vec<Bound>, BindError> {
    let mut all = Vec::new();
    for listener in &config.listeners {
        all.push(predecessor.listener(listener, config.workers.get()).await?);
    }
    Ok(all)
}

/// Registries by their names in the file.
type Registries = BTreeMap<Arc<str>, Arc<dyn Registry>>;

/// Opens the registries of the file that are elsewhere.
fn open_registries(config: &Config) -> Result<Registries, BuildError> {
    let mut registries = Registries::new();
    for (name, registry) in &config.registries {
        if !matches!(registry.kind, RegistryKind::Embedded(_)) {
            let opened = registry::open(name, &registry.kind)?;
            registries.insert(Arc::clone(name), opened);
        }
    }
    Ok(registries)
}

/// Begins to serve the embedded registry, where the file has one, and adds it to the others; it leads to the
/// admin server. Beside a process that hands over it serves when that is over.
async fn serve_embedded(
    config: &Config,
    mut registries: Registries,
    admin: SocketAddr,
    predecessor: &mut Predecessor<'_>,
    tasks: &mut ControlTasks,
) -> Result<(Registries, Option<EmbeddedRegistry>), StartError> {
    let mut embedded = None;
    for (name, registry) in &config.registries {
        if let RegistryKind::Embedded(settings) = &registry.kind {
            let (server, awaited) = predecessor.registry(settings).await?;
            embedded = Some(EmbeddedRegistry {
                address: server.address(),
                socket: server.duplicate().ok().flatten(),
                wanted: settings.address,
                lender: server.lender(),
                awaited,
            });
            server.leads_to(admin);
            registries.insert(Arc::clone(name), server.reader());
            tasks.spawn(|ending| server.run(ending));
        }
    }
    Ok((registries, embedded))
}
