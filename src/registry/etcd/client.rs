//! The members of a cluster, and the one connection to one of them that all who ask share. Knows
//! nothing of what is asked.

use std::{sync::Arc, time::Duration};

use tokio::{sync::Mutex, time::Instant};
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity};

use super::{
    connection::{Connection, User},
    fault::Failure,
    watch::Link,
};
use crate::{
    config::{self, ClientTls},
    registry::{BuildError, RegistryError, http_api},
    tls::TlsError,
};

/// No connection is made sooner after another: for so long, one who has tried has tried for all.
/// A thousand watches are no reason to knock a thousand times.
const TRIED: Duration = Duration::from_millis(200);

/// A cluster, and how to talk to it.
#[derive(Debug)]
pub(crate) struct Client {
    user: Arc<User>,
    /// At least one, each with its URL.
    members: Vec<(String, Endpoint)>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The last one.
    link: Option<Arc<Link>>,
    /// When it was made, or when that failed.
    tried: Option<Instant>,
    /// Why there is none.
    failure: Failure,
    /// The member that is tried first.
    next: usize,
}

impl Client {
    /// Reads the TLS files, and connects to nothing yet.
    pub(crate) fn new(registry: &str, settings: &config::Etcd) -> Result<Self, BuildError> {
        let https = |address: &String| address.starts_with("https://");
        // What is wrong with a file is said here as it is of every other registry's.
        let _ = http_api::client(
            registry,
            settings.addresses.iter().any(https),
            &settings.tls,
        )?;
        let tls = tls(registry, &settings.tls)?;
        let member = |address: &String| {
            let endpoint = endpoint(registry, address, &tls)?;
            Ok((address.clone(), endpoint))
        };
        Ok(Self {
            user: Arc::new(User {
                registry: registry.to_owned(),
                credentials: settings.credentials.clone(),
            }),
            members: settings
                .addresses
                .iter()
                .map(member)
                .collect::<Result<_, _>>()?,
            state: Mutex::default(),
        })
    }

    /// The connection that there is, or a new one to the next member that takes one. `subject`
    /// is for the error.
    pub(crate) async fn link(&self, subject: &str) -> Result<Arc<Link>, RegistryError> {
        let mut state = self.state.lock().await;
        if let Some(link) = &state.link {
            let connection = &link.connection;
            let Some(fault) = connection.broken() else {
                return Ok(Arc::clone(link));
            };
            state.failure = Failure(vec![(connection.member.clone(), fault.clone())]);
            state.link = None;
            state.next += 1;
        }
        let tried = state.tried.is_some_and(|at| at.elapsed() < TRIED);
        if !tried {
            state.failure = Failure::default();
            for _ in &self.members {
                if let Some(link) = self.try_next(&mut state).await {
                    return Ok(link);
                }
                // A password that is wrong for one is wrong for all.
                let last = state.failure.0.last();
                if last.is_some_and(|(_, fault)| !fault.is_the_members()) {
                    break;
                }
            }
        }
        Err(state.failure.explain(&self.user.registry, subject))
    }

    async fn try_next(&self, state: &mut State) -> Option<Arc<Link>> {
        let (member, endpoint) = &self.members[state.next % self.members.len()];
        let opened = Connection::open(&self.user, member, endpoint).await;
        state.tried = Some(Instant::now());
        match opened {
            Ok(connection) => {
                state.link = Some(Arc::new(Link::new(connection)));
                state.link.clone()
            }
            Err(fault) => {
                state.next += 1;
                state.failure.0.push((member.clone(), fault));
                None
            }
        }
    }
}

fn endpoint(registry: &str, address: &str, tls: &ClientTlsConfig) -> Result<Endpoint, BuildError> {
    let endpoint = Endpoint::from_shared(address.to_owned())
        .and_then(|endpoint| endpoint.user_agent(concat!("callboard/", env!("CARGO_PKG_VERSION"))))
        .map_err(|_| BuildError::Address {
            registry: registry.to_owned(),
            address: address.to_owned(),
        })?
        // Finds a machine that is gone where nothing is asked for a while.
        .tcp_keepalive(Some(Duration::from_secs(15)));
    if !address.starts_with("https://") {
        return Ok(endpoint);
    }
    endpoint
        .tls_config(tls.clone())
        .map_err(|error| BuildError::Unsuited {
            registry: registry.to_owned(),
            reason: format!("its `tls` cannot be used: {error:?}"),
        })
}

fn tls(registry: &str, tls: &ClientTls) -> Result<ClientTlsConfig, BuildError> {
    let read = |path: &std::path::Path| {
        std::fs::read(path).map_err(|source| BuildError::Tls {
            registry: registry.to_owned(),
            error: TlsError::Read {
                path: path.to_owned(),
                source,
            },
        })
    };
    let mut client = ClientTlsConfig::new();
    client = match &tls.ca {
        Some(ca) => client.ca_certificate(Certificate::from_pem(read(ca)?)),
        None => client.with_native_roots(),
    };
    if let Some((chain, key)) = &tls.identity {
        client = client.identity(Identity::from_pem(read(chain)?, read(key)?));
    }
    Ok(client)
}
