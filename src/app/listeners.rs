//! The listeners of the process: those of the file, and those on their way out that a reload has taken out
//! of it. Knows how one file's go over to another's, and nothing of what is served.

use std::{
    io::ErrorKind,
    iter::zip,
    mem,
    sync::{Arc, Weak},
};

use parking_lot::Mutex;

use super::certificates::ListenerTls;
use crate::{
    acme::Challenges,
    admin::LeavingListener,
    config::{self, Config, ListenAddress, predecessors},
    listen::{self, BindError, Bound, Duplicate, Entrance, SocketFile},
    tls::{Server, TlsError},
    worker::Intake,
};

/// The listeners of a process that runs.
pub(super) struct Listeners {
    intake: Intake,
    /// How many sockets an address has.
    workers: usize,
    challenges: Arc<Challenges>,
    /// Held while they are handed over to a new process, or changed.
    pub(super) turn: tokio::sync::Mutex<()>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// In the order of the file.
    open: Vec<Listener>,
    /// Those that are out of the file, until their last connections are gone.
    leaving: Vec<Listener>,
    /// Whether the sockets are had by other descriptors, too, for a successor.
    lends: bool,
}

/// A listener with its sockets, which workers have.
struct Listener {
    settings: config::Listener,
    /// With the port that was taken for 0.
    address: ListenAddress,
    entrance: Arc<Entrance>,
    /// Where it has a path, until its sockets are closed.
    file: Weak<SocketFile>,
    tls: Option<ListenerTls>,
    /// Its sockets for a successor; `None` once it is on its way out: open, it would keep them.
    duplicate: Option<Arc<Duplicate>>,
}

/// The listeners of another file, on their way to take the place of those that are.
pub(super) struct Prepared(Vec<Next>);

struct Next {
    settings: config::Listener,
    tls: Option<ListenerTls>,
    /// The place of the one that it goes on as.
    place: Option<usize>,
    /// The sockets of one that is new, and those for a successor.
    bound: Option<(Bound, Option<Arc<Duplicate>>)>,
}

impl State {
    /// TLS of the listener that has left an address last, while it has connections and no other has the same:
    /// its counts go on where the address comes back.
    fn left_at(&self, address: &ListenAddress) -> Option<ListenerTls> {
        let is_it = |one: &&Listener| one.settings.address == *address && !one.is_gone();
        let mut leaving = self.leaving.iter().rev();
        let left = leaving.find(is_it)?.tls.as_ref()?;
        let mut open = self.open.iter().filter_map(|one| one.tls.as_ref());
        let is_had = open.any(|tls| tls.server.counts_with(&left.server));
        (!is_had).then(|| left.clone())
    }
}

impl Prepared {
    /// Has the files of certificates be read again when they change.
    ///
    /// # Errors
    /// Where the system gives no thread for it.
    pub(super) fn follow_files(&self) -> Result<(), TlsError> {
        let mut tls = self.0.iter().filter_map(|next| next.tls.as_ref());
        tls.try_for_each(|tls| tls.server.follow())
    }

    /// The places of those that go on.
    fn going_on(&self) -> Vec<usize> {
        self.0.iter().filter_map(|next| next.place).collect()
    }
}

impl Listener {
    fn of(
        bound: &Bound,
        duplicate: Option<Arc<Duplicate>>,
        settings: config::Listener,
        tls: Option<ListenerTls>,
    ) -> Self {
        let listener = Self {
            duplicate,
            settings: config::Listener::default(),
            address: bound.address.clone(),
            entrance: Arc::clone(&bound.entrance),
            file: bound.file().map(Arc::downgrade).unwrap_or_default(),
            tls: None,
        };
        listener.goes_on_by(settings, tls)
    }

    /// The same socket, by other settings.
    fn goes_on_by(self, settings: config::Listener, tls: Option<ListenerTls>) -> Self {
        self.permit(settings.mode);
        let handshakes = tls.as_ref().map(|one| Arc::clone(&one.tls));
        self.entrance.change(settings.clone(), handshakes);
        Self {
            settings,
            tls,
            ..self
        }
    }

    /// Gives the file of its socket these permissions, where it has others. They are no part of what a reload
    /// may fail of: what it had given before it failed would stay.
    fn permit(&self, mode: u32) {
        let Some(file) = self.file.upgrade() else {
            return;
        };
        if self.settings.mode != mode
            && let Err(error) = file.change_mode(mode)
        {
            let address = &self.address;
            tracing::warn!(%address, %error, "the permissions of a unix socket cannot be set");
        }
    }

    /// Whether an address is one that its open sockets have.
    fn listens_at(&self, address: &ListenAddress) -> bool {
        self.entrance.open.any()
            && match address {
                ListenAddress::Tcp(_) => self.address.overlaps(address),
                ListenAddress::Unix(path) => {
                    let file = self.file.upgrade();
                    file.is_some_and(|file| file.is_ours_at(path))
                }
            }
    }

    /// Whether its sockets, those that wait for a place, and its connections are gone.
    fn is_gone(&self) -> bool {
        Arc::strong_count(&self.entrance) == 1 && Arc::strong_count(&self.entrance.drain) == 1
    }
}

impl Listeners {
    /// Those of a process that begins, in the order of its file. Where it `lends`, their sockets are had by
    /// other descriptors, too, for a successor.
    ///
    /// # Errors
    /// Where the process has no descriptor left.
    pub(super) fn new(
        config: &Config,
        bound: &[Bound],
        tls: Vec<Option<ListenerTls>>,
        challenges: Arc<Challenges>,
        intake: Intake,
        lends: bool,
    ) -> Result<Self, BindError> {
        let settings = config.listeners.iter().cloned();
        let each = zip(settings, zip(bound, tls));
        let open = each.map(|(settings, (bound, tls))| {
            let duplicate = duplicate(bound, lends)?;
            Ok(Listener::of(bound, duplicate, settings, tls))
        });
        let state = State {
            open: open.collect::<Result<_, _>>()?,
            leaving: Vec::new(),
            lends,
        };
        Ok(Self {
            state: Mutex::new(state),
            workers: config.workers.get(),
            challenges,
            turn: tokio::sync::Mutex::default(),
            intake,
        })
    }

    /// Has workers accept from the sockets of a process that begins.
    pub(super) fn begin(&self, bound: Vec<Bound>) {
        bound.into_iter().for_each(|bound| self.intake.open(bound));
    }

    /// Their sockets by other descriptors, in the order of the file.
    pub(super) fn duplicates(&self) -> Vec<Arc<Duplicate>> {
        let state = self.state.lock();
        let open = state.open.iter();
        open.filter_map(|one| one.duplicate.clone()).collect()
    }

    /// Lets go of those: the process is on its way out.
    pub(super) fn forget_duplicates(&self) {
        let mut state = self.state.lock();
        state.lends = false;
        for listener in &mut state.open {
            listener.duplicate = None;
        }
    }

    /// Where it listens, in the order of the file.
    pub(super) fn addresses(&self) -> Vec<ListenAddress> {
        let state = self.state.lock();
        let open = state.open.iter();
        open.map(|listener| listener.address.clone()).collect()
    }

    /// Those on their way out.
    pub(super) fn leaving(&self) -> Vec<LeavingListener> {
        let state = self.state.lock();
        let leaving = state.leaving.iter().filter(|one| !one.is_gone());
        let shown = leaving.map(|listener| LeavingListener {
            address: listener.address.clone(),
            connections: listener.entrance.connections(),
            left: listener.entrance.drain.left(),
        });
        shown.collect()
    }

    /// The certificates of those that speak TLS, each by the first address that it is shown at; those on
    /// their way out last.
    pub(super) fn certificates(&self) -> Vec<(ListenAddress, Arc<Server>)> {
        let state = self.state.lock();
        // The one that left last first.
        let leaving = state.leaving.iter().rev();
        let leaving = leaving.filter(|listener| !listener.is_gone());
        let mut shown = Vec::<(ListenAddress, Arc<Server>)>::new();
        for listener in state.open.iter().chain(leaving) {
            let Some(tls) = &listener.tls else { continue };
            let is_shown = |(address, server): &(ListenAddress, Arc<Server>)| {
                *address == listener.address || server.counts_with(&tls.server)
            };
            if !shown.iter().any(is_shown) {
                shown.push((listener.address.clone(), Arc::clone(&tls.server)));
            }
        }
        shown
    }

    /// Reads what the listeners of another file need.
    ///
    /// # Errors
    /// Where a certificate cannot be used.
    pub(super) fn prepare(&self, next: &Config) -> Result<Prepared, TlsError> {
        let (places, before) = {
            let state = self.state.lock();
            let running: Vec<_> = state.open.iter().map(|one| one.settings.clone()).collect();
            let places = predecessors(&running, &next.listeners);
            let before = zip(&next.listeners, &places).map(|(listener, place)| match place {
                Some(place) => state.open[*place].tls.clone(),
                None => state.left_at(&listener.address),
            });
            let before: Vec<_> = before.collect();
            (places, before)
        };
        let tls = ListenerTls::open_all(next, &before, &self.challenges)?;
        let settings = next.listeners.iter().cloned();
        let each = zip(settings, zip(tls, places));
        let each = each.map(|(settings, (tls, place))| Next {
            settings,
            tls,
            place,
            bound: None,
        });
        Ok(Prepared(each.collect()))
    }

    /// Whether the addresses that are new could be had.
    ///
    /// # Errors
    /// Where one could not.
    pub(super) fn try_to_bind(&self, next: &Prepared) -> Result<(), BindError> {
        let going_on = next.going_on();
        let mut new = next.0.iter().filter(|next| next.place.is_none());
        new.try_for_each(|next| match listen::try_to_bind(&next.settings) {
            Err(error) if self.is_being_left(&error, &going_on) => {
                listen::try_to_bind_beside(&next.settings)
            }
            tried => tried,
        })
    }

    /// Binds the addresses that are new.
    ///
    /// # Errors
    /// Where one cannot be had.
    pub(super) fn bind(&self, next: &mut Prepared) -> Result<(), BindError> {
        let going_on = next.going_on();
        for next in &mut next.0 {
            if next.place.is_some() {
                continue;
            }
            let settings = || next.settings.clone();
            let bound = match listen::bind(settings(), self.workers) {
                Err(error) if self.is_being_left(&error, &going_on) => {
                    listen::bind_beside(settings(), self.workers)
                }
                // What had it may have left it by now.
                Err(error) if is_taken(&error) => listen::bind(settings(), self.workers),
                bound => bound,
            };
            let bound = bound?;
            let duplicate = duplicate(&bound, self.state.lock().lends)?;
            next.bound = Some((bound, duplicate));
        }
        Ok(())
    }

    /// Whether an address is taken by a listener of this process alone that is on its way out, or will be: by
    /// one of `0.0.0.0` where `127.0.0.1` is new.
    fn is_being_left(&self, error: &BindError, going_on: &[usize]) -> bool {
        let state = self.state.lock();
        let open = state.open.iter().enumerate();
        let left = open.filter(|(place, _)| !going_on.contains(place));
        let mut own = left.map(|(_, one)| one).chain(&state.leaving);
        is_taken(error) && own.any(|one| one.listens_at(&error.address))
    }

    /// Has the listeners that were prepared and bound take the place of those that are. Those that are in the
    /// file no more are on their way out from here on.
    pub(super) fn change(&self, next: Prepared, config: &Config) {
        let mut state = self.state.lock();
        let mut before: Vec<_> = mem::take(&mut state.open).into_iter().map(Some).collect();
        for next in next.0 {
            let Next {
                settings,
                tls,
                place,
                bound,
            } = next;
            let goes_on = place.and_then(|place| before[place].take());
            if let Some(listener) = goes_on {
                state.open.push(listener.goes_on_by(settings, tls));
            } else if let Some((bound, duplicate)) = bound {
                tracing::info!("listening on {}", bound.address);
                // That of one that leaves, which removes its own file alone.
                if let Err(error) = bound.take_path() {
                    let (address, error) = (&error.address, &error.source);
                    tracing::error!(%address, %error, "the path of a unix socket cannot be taken");
                }
                let duplicate = duplicate.filter(|_| state.lends);
                state
                    .open
                    .push(Listener::of(&bound, duplicate, settings, tls));
                self.intake.open(bound);
            }
        }
        for tls in state.open.iter().filter_map(|one| one.tls.as_ref()) {
            tls.follow_orders(config);
        }
        let drain = config.drain;
        for mut listener in before.into_iter().flatten() {
            listener.duplicate = None;
            let address = &listener.address;
            tracing::info!(%address, "no connections are accepted here any more: those that are drain");
            listener.entrance.drain.begin(drain.notice, drain.deadline);
            state.leaving.push(listener);
        }
    }

    /// Forgets those on their way out whose last connection is gone.
    pub(super) fn forget_gone(&self) {
        let gone: Vec<_> = {
            let mut state = self.state.lock();
            let gone = state.leaving.extract_if(.., |listener| listener.is_gone());
            gone.collect()
        };
        for Listener {
            address, entrance, ..
        } in gone
        {
            let cut = entrance.drain.cut();
            if cut > 0 {
                tracing::warn!(%address, connections = cut, "cut at the drain deadline");
            }
            tracing::info!(%address, "the last connection is gone");
        }
    }
}

fn is_taken(error: &BindError) -> bool {
    error.source.kind() == ErrorKind::AddrInUse
}

/// The sockets of a listener by other descriptors, where they are lent to a successor.
fn duplicate(bound: &Bound, lends: bool) -> Result<Option<Arc<Duplicate>>, BindError> {
    let duplicate = lends.then(|| bound.duplicate()).transpose();
    let failed = |source| BindError {
        address: bound.address.clone(),
        source,
    };
    duplicate
        .map(|duplicate| duplicate.map(Arc::new))
        .map_err(failed)
}
