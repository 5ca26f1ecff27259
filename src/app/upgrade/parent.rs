//! The process before this one, as its successor sees it: what it hands over, and what it is told.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Read as _, Seek as _},
    os::fd::OwnedFd,
    path::Path,
    sync::Arc,
    time::Duration,
};

use rustix::stdio::dup2_stdin;
use tokio::{task::spawn_blocking, time::timeout};

use super::{
    channel::Channel,
    origin::Origin,
    packet::{Offer, Reply, VERSION},
};
use crate::{
    app::start_error::StartError, config::ListenAddress, listen::Inherited, saved::Contents,
};

/// How long it may take to say what follows at once.
const AT_ONCE: Duration = Duration::from_secs(10);

/// The process before this one, which waits for this one to get ready.
#[derive(Debug)]
pub(in crate::app) struct Parent {
    channel: Channel,
    /// By their places there; `None` where they are taken.
    listeners: BTreeMap<usize, Option<Inherited>>,
    admin: Option<(String, OwnedFd)>,
    registry: Option<(String, OwnedFd)>,
    sets: Option<File>,
    /// Whether the admin server's socket is taken.
    has_admin: bool,
}

impl Parent {
    /// Hears all that it hands over; `None` where this process is no successor.
    ///
    /// # Errors
    /// Where it is gone, or says what is not understood.
    pub(in crate::app) async fn of(origin: &Origin) -> Result<Option<Self>, StartError> {
        let Some(channel) = &origin.parent else {
            return Ok(None);
        };
        let channel = Channel::over(channel.try_clone().map_err(broken)?);
        let mut parent = Self {
            channel: channel.map_err(broken)?,
            listeners: BTreeMap::new(),
            admin: None,
            registry: None,
            sets: None,
            has_admin: false,
        };
        loop {
            match parent.next().await? {
                (Offer::All(VERSION), _) => return Ok(Some(parent)),
                (Offer::All(other), _) => {
                    let text = format!("it speaks version {other}, and this one {VERSION}");
                    return Err(StartError::Upgrade(text));
                }
                (offer, Some(descriptor)) => parent.take(offer, descriptor)?,
                (offer, None) => return Err(unexpected(&offer)),
            }
        }
    }

    fn take(&mut self, offer: Offer, descriptor: OwnedFd) -> Result<(), StartError> {
        match offer {
            Offer::Listener {
                place,
                wanted,
                address,
                is_kept,
            } => {
                let listener = self.listeners.entry(place).or_insert_with(|| {
                    Some(Inherited {
                        wanted: address_of(&wanted)?,
                        address: address_of(&address)?,
                        sockets: Vec::new(),
                        is_kept,
                    })
                });
                let text = || StartError::Upgrade(format!("{wanted} is no address"));
                let listener = listener.as_mut().ok_or_else(text)?;
                listener.sockets.push(descriptor);
            }
            Offer::Admin(wanted) => self.admin = Some((wanted, descriptor)),
            Offer::Registry(wanted) => self.registry = Some((wanted, descriptor)),
            Offer::Sets => self.sets = Some(descriptor.into()),
            Offer::Input => dup2_stdin(descriptor).map_err(|error| broken(error.into()))?,
            other => return Err(unexpected(&other)),
        }
        Ok(())
    }

    /// The sockets of the listener with this address in the file; once.
    pub(in crate::app) fn listener(&mut self, wanted: &ListenAddress) -> Option<Inherited> {
        let is_it = |listener: &&mut Option<Inherited>| {
            let listener = listener.as_ref();
            listener.is_some_and(|listener| listener.wanted == *wanted)
        };
        self.listeners.values_mut().find(is_it)?.take()
    }

    /// The admin server's socket, where it has this address in the file.
    pub(in crate::app) fn admin(&mut self, wanted: &str) -> Option<OwnedFd> {
        let (_, socket) = self.admin.take_if(|(address, _)| address == wanted)?;
        self.has_admin = true;
        Some(socket)
    }

    /// The embedded registry's socket, where it has this address in the file.
    pub(in crate::app) fn registry(&mut self, wanted: &str) -> Option<OwnedFd> {
        let (_, socket) = self.registry.take_if(|(address, _)| address == wanted)?;
        Some(socket)
    }

    /// The last good sets of the registries with these identities.
    pub(in crate::app) async fn sets(
        &mut self,
        identities: BTreeMap<Arc<str>, String>,
    ) -> Option<Contents> {
        let file = self.sets.take()?;
        let read = spawn_blocking(move || read_sets(file, &identities)).await;
        match read.unwrap_or_else(|panic| Err(panic.to_string())) {
            Ok(contents) => Some(contents),
            Err(error) => {
                tracing::warn!(
                    error,
                    "the last good sets of the process before are not used"
                );
                None
            }
        }
    }

    /// Has the embedded registry's state, which is that process's until then.
    ///
    /// # Errors
    /// Where it is gone.
    pub(in crate::app) async fn borrow_state(&self) -> Result<(), StartError> {
        self.say(&Reply::WantsState).await?;
        match self.next().await? {
            (Offer::State, _) => Ok(()),
            (other, _) => Err(unexpected(&other)),
        }
    }

    /// Says that this process is ready, and waits until it may serve.
    ///
    /// # Errors
    /// Where that one has given it up.
    pub(in crate::app) async fn until_go(
        &mut self,
        missing: Vec<String>,
    ) -> Result<(), StartError> {
        // What is not taken must be open here no longer, for it is to be closed there.
        let is_taken =
            |(place, left): (&usize, &Option<Inherited>)| left.is_none().then_some(*place);
        let listeners = self.listeners.iter().filter_map(is_taken).collect();
        self.listeners.clear();
        (self.admin, self.registry) = (None, None);
        let ready = Reply::Ready {
            missing,
            listeners,
            admin: self.has_admin,
        };
        self.say(&ready).await?;
        match self.next().await? {
            (Offer::Go, _) => Ok(()),
            (other, _) => Err(unexpected(&other)),
        }
    }

    /// Ends where that process does, or gives this one up.
    pub(in crate::app) async fn gone(&self) -> StartError {
        match self.next().await {
            Ok((offer, _)) => unexpected(&offer),
            Err(error) => error,
        }
    }

    /// Says that this process serves, and waits until that one has let go of everything.
    pub(in crate::app) async fn serves(self) {
        // Where it is gone it has let go, too.
        let told = async {
            self.say(&Reply::Serves).await?;
            self.next().await
        };
        let _ = timeout(AT_ONCE, told).await;
    }

    async fn say(&self, reply: &Reply) -> Result<(), StartError> {
        self.channel.send(reply, None).await.map_err(broken)
    }

    async fn next(&self) -> Result<(Offer, Option<OwnedFd>), StartError> {
        let next = self.channel.next().await.map_err(broken)?;
        next.ok_or_else(|| StartError::Upgrade("it is gone, or has given this one up".to_owned()))
    }
}

fn read_sets(mut file: File, identities: &BTreeMap<Arc<str>, String>) -> Result<Contents, String> {
    let mut bytes = Vec::new();
    let read = file.rewind().and_then(|()| file.read_to_end(&mut bytes));
    read.map_err(|error| error.to_string())?;
    let mut contents = Contents::read(&bytes).map_err(|error| error.to_string())?;
    contents.drop_others(identities);
    Ok(contents)
}

fn address_of(text: &str) -> Option<ListenAddress> {
    match text.strip_prefix("unix:") {
        Some(path) => Some(ListenAddress::Unix(Path::new(path).to_owned())),
        None => text.parse().ok().map(ListenAddress::Tcp),
    }
}

fn broken(error: io::Error) -> StartError {
    StartError::Upgrade(error.to_string())
}

fn unexpected(offer: &Offer) -> StartError {
    StartError::Upgrade(format!("it says {offer:?} out of turn"))
}
