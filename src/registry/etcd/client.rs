//! The members of a cluster, and the one connection to one of them that all who ask share. Knows
//! nothing of what is asked.

use std::{sync::Arc, time::Duration};

use tokio::{sync::Mutex, time::Instant};

use super::{
    connection::{Connection, User},
    fault::Failure,
    member::Member,
    watch::Link,
};
use crate::{
    config,
    registry::{BuildError, RegistryError},
    tls::client_config,
};

/// No connection is made sooner after another: for so long, one who has tried has tried for all.
/// A thousand watches are no reason to knock a thousand times.
const TRIED: Duration = Duration::from_millis(200);

/// A cluster, and how to talk to it.
#[derive(Debug)]
pub(crate) struct Client {
    user: Arc<User>,
    /// At least one.
    members: Vec<Member>,
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
        let addresses = &settings.addresses;
        let mut any = addresses.iter();
        let tls = any.any(|address| address.starts_with("https://"));
        let tls = tls.then(|| client_config(&settings.tls)).transpose();
        let tls = tls.map_err(|error| BuildError::tls(registry, error))?;
        let member = |address: &String| Member::new(registry, address, tls.as_ref());
        Ok(Self {
            user: Arc::new(User {
                registry: registry.to_owned(),
                credentials: settings.credentials.clone(),
            }),
            members: addresses.iter().map(member).collect::<Result<_, _>>()?,
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
        let member = &self.members[state.next % self.members.len()];
        let opened = Connection::open(&self.user, member).await;
        state.tried = Some(Instant::now());
        match opened {
            Ok(connection) => {
                state.link = Some(Arc::new(Link::new(connection)));
                state.link.clone()
            }
            Err(fault) => {
                state.next += 1;
                state.failure.0.push((member.address.clone(), fault));
                None
            }
        }
    }
}
