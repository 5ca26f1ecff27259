//! The process before this one, as its successor sees it: what it hands over, and what it is told.

use std::{
    collections::BTreeMap,
    fs::File,
    future::pending,
    io::{self, Read as _, Seek as _},
    mem,
    os::fd::OwnedFd,
    path::Path,
    sync::Arc,
    time::Duration,
};

use rustix::stdio::dup2_stdin;
use tokio::{
    task::spawn_blocking,
    time::{Instant, timeout},
};

use super::{
    channel::{Channel, Received},
    origin::Origin,
    packet::{Offer, Reply, VERSION},
};
use crate::{
    app::start_error::StartError,
    config::ListenAddress,
    listen::{Inherited, is_at},
    saved::Contents,
};

/// How long it may take to say what follows at once.
const AT_ONCE: Duration = Duration::from_secs(10);

/// How many names one packet has at most.
const NAMES: usize = 20;

/// The process before this one, which waits for this one to get ready.
#[derive(Debug)]
pub(in crate::app) struct Parent {
    channel: Channel,
    /// By their places there; `None` where they are taken.
    listeners: BTreeMap<usize, Option<Inherited>>,
    admin: Option<(String, OwnedFd)>,
    registry: Option<(String, OwnedFd)>,
    sets: Option<File>,
    /// The channels of the processes before that one.
    before: Vec<OwnedFd>,
    /// When it waits no longer for this process to be ready.
    ready_by: Option<Instant>,
    /// Whether the admin server's socket is taken.
    has_admin: bool,
}

impl Parent {
    /// Hears all that it hands over; `None` where this process is no successor.
    ///
    /// # Errors
    /// Where it is gone, or says what is not understood.
    pub(in crate::app) async fn of(origin: &mut Origin) -> Result<Option<Self>, StartError> {
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
            before: Vec::new(),
            ready_by: None,
            has_admin: false,
        };
        loop {
            let next = parent.next().await?;
            let next = next.ok_or_else(|| StartError::Upgrade("it is gone".to_owned()))?;
            match next {
                (Offer::All(VERSION), _) => {
                    origin.before = mem::take(&mut parent.before);
                    return Ok(Some(parent));
                }
                (Offer::ReadyTimeout(left), _) => {
                    parent.ready_by = Some(Instant::now() + Duration::from_millis(left));
                }
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
                file,
                is_kept,
            } => {
                let listener = self.listeners.entry(place).or_insert_with(|| {
                    Some(Inherited {
                        wanted: address_of(&wanted)?,
                        address: address_of(&address)?,
                        sockets: Vec::new(),
                        file,
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
            Offer::Before => self.before.push(descriptor),
            Offer::Input => dup2_stdin(descriptor).map_err(|error| broken(error.into()))?,
            other => return Err(unexpected(&other)),
        }
        Ok(())
    }

    /// The sockets of the listener with this address in the file; once. None of a path that they have no
    /// more.
    pub(in crate::app) fn listener(&mut self, wanted: &ListenAddress) -> Option<Inherited> {
        let is_it = |listener: &&mut Option<Inherited>| {
            let listener = listener.as_ref();
            listener.is_some_and(|listener| listener.wanted == *wanted && has_its_path(listener))
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

    /// Waits until the embedded registry's state is this process's to open.
    ///
    /// # Errors
    /// Where that one has given this one up.
    pub(in crate::app) async fn until_lent(&self) -> Result<(), StartError> {
        match self.next().await? {
            // The state of a process that is gone is free.
            Some((Offer::State, _)) | None => Ok(()),
            Some((other, _)) => Err(unexpected(&other)),
        }
    }

    /// Says that this process has opened that state.
    ///
    /// # Errors
    /// Where it cannot be said.
    pub(in crate::app) async fn has_state(&self) -> Result<(), StartError> {
        self.say(&Reply::HasState).await
    }

    /// How long this process may still wait for its registries.
    pub(in crate::app) fn time_left(&self) -> Option<Duration> {
        Some(self.ready_by?.saturating_duration_since(Instant::now()))
    }

    /// Says that this process is ready but for what it could not read, and for the state of the embedded registry
    /// where it wants that.
    ///
    /// # Errors
    /// Where it cannot be said.
    pub(in crate::app) async fn is_ready(
        &mut self,
        missing: Vec<String>,
        wants_state: bool,
    ) -> Result<(), StartError> {
        // What is not taken must be open here no longer, for it is to be closed there.
        let is_taken =
            |(place, left): (&usize, &Option<Inherited>)| left.is_none().then_some(*place);
        let listeners = self.listeners.iter().filter_map(is_taken).collect();
        self.listeners.clear();
        (self.admin, self.registry) = (None, None);
        let ready = Reply::Ready {
            listeners,
            admin: self.has_admin,
            wants_state,
        };
        // Of many names one packet could be too long.
        for some in missing.chunks(NAMES) {
            self.say(&Reply::Missing(some.to_vec())).await?;
        }
        self.say(&ready).await
    }

    /// Waits until this process may serve: also where that one is gone, which leaves the clients to this one.
    ///
    /// # Errors
    /// Where that one has given it up.
    pub(in crate::app) async fn until_go(&self) -> Result<(), StartError> {
        match self.next().await? {
            Some((Offer::Go, _)) | None => Ok(()),
            Some((other, _)) => Err(unexpected(&other)),
        }
    }

    /// Ends where that process gives this one up; never, where it is gone.
    pub(in crate::app) async fn given_up(&self) -> StartError {
        match self.next().await {
            Ok(Some((offer, _))) => unexpected(&offer),
            Ok(None) => pending().await,
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
        match self.channel.send(reply, None).await {
            // It is gone, as the next packet of it will tell.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            sent => sent.map_err(broken),
        }
    }

    /// What it says next; `None` where it is gone.
    async fn next(&self) -> Result<Option<Received<Offer>>, StartError> {
        match self.channel.next().await.map_err(broken)? {
            Some((Offer::GivenUp, _)) => {
                Err(StartError::Upgrade("it has given this one up".to_owned()))
            }
            next => Ok(next),
        }
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

fn has_its_path(listener: &Inherited) -> bool {
    match (&listener.wanted, listener.file) {
        (ListenAddress::Unix(path), Some(file)) => is_at(path, file),
        _ => true,
    }
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
