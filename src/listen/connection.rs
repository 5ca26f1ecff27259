//! One client's connection as its worker sees it: whether it is late, and what it is told.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use super::{
    Drain, Room,
    http1::progress::Progress,
    http2::progress::Progress as Http2Progress,
    room::Extra,
    stop::{Stop, StopSignal},
};
use crate::{config, proxy::Worker};

/// A client's connection, as its worker sees it.
pub(crate) struct Connection {
    /// The worker that serves it.
    pub(super) worker: Arc<Worker>,
    /// The listener's settings.
    pub(super) listener: Arc<config::Listener>,
    /// The other end of its socket.
    pub(super) address: SocketAddr,
    /// The way out of the listener.
    pub(super) drain: Arc<Drain>,
    /// Where its tunnels count beside it.
    room: Room,
    /// The client that a proxy in front names, once it has.
    proxied: OnceLock<IpAddr>,
    /// When it was accepted, by the worker's clock.
    accepted: u64,
    /// Since when a first request may come: [`BUSY`] while a handshake is under way.
    open: AtomicU64,
    pub(super) signal: StopSignal,
    /// Known after the prelude.
    protocol: OnceLock<Protocol>,
    /// Of a client that turned out to speak another one.
    instead: OnceLock<Protocol>,
}

/// That a connection is at a handshake, which a request would follow.
const BUSY: u64 = u64::MAX;

/// What is spoken on a connection, and how far that has come.
pub(super) enum Protocol {
    Http1(Arc<Progress>),
    Http2(Arc<Http2Progress>),
}

impl Connection {
    /// A connection that has just been accepted.
    pub(crate) fn new(
        worker: Arc<Worker>,
        listener: Arc<config::Listener>,
        address: SocketAddr,
        drain: Arc<Drain>,
        room: Room,
    ) -> Self {
        let accepted = worker.now();
        Self {
            accepted,
            open: AtomicU64::new(accepted),
            worker,
            listener,
            address,
            drain,
            room,
            proxied: OnceLock::new(),
            signal: StopSignal::new(),
            protocol: OnceLock::new(),
            instead: OnceLock::new(),
        }
    }

    /// A proxy in front has passed it on for this client.
    pub(super) fn is_passed_on_for(&self, client: IpAddr) {
        // It says so once.
        let _ = self.proxied.set(client);
    }

    /// Who asks, as the log has it.
    pub(super) fn client(&self) -> IpAddr {
        let proxied = self.proxied.get().copied();
        proxied.unwrap_or_else(|| self.address.ip())
    }

    /// A place for a tunnel that counts as another connection of the same client; `None`, and counted, where there
    /// is none.
    pub(super) fn take_room(&self) -> Option<Extra> {
        let client = self.client();
        // Those of a trusted proxy are of many clients.
        let counted = (!self.listener.trusts(client)).then_some(client);
        let extra = self.room.take(counted);
        if extra.is_none() {
            self.worker.turned_away.add_one();
            tracing::debug!(%client, "has too many tunnels for its listener's limits");
        }
        extra
    }

    /// The client has begun a handshake.
    pub(super) fn begin_handshake(&self) {
        self.open.store(BUSY, Relaxed);
    }

    /// This is spoken from now on.
    pub(super) fn speaks(&self, protocol: Protocol) {
        self.open.store(self.worker.now(), Relaxed);
        if let Err(instead) = self.protocol.set(protocol) {
            // No client changes it twice.
            let _ = self.instead.set(instead);
        }
    }

    fn protocol(&self) -> Option<&Protocol> {
        self.instead.get().or_else(|| self.protocol.get())
    }

    /// Tells it so, unless it was told as much already; returns whether it was not.
    pub(crate) fn order(&self, order: Stop) -> bool {
        self.signal.give(order)
    }

    /// The way out of its listener.
    pub(crate) fn drain(&self) -> &Drain {
        &self.drain
    }

    /// Whether HTTP/2 is spoken, whose clients hear of an end without asking anything.
    pub(crate) fn is_http2(&self) -> bool {
        matches!(self.protocol(), Some(Protocol::Http2(_)))
    }

    /// Whether it has never had a request: one may be on its way.
    pub(crate) fn is_new(&self) -> bool {
        match self.protocol() {
            None => true,
            Some(Protocol::Http1(progress)) => progress.is_new(),
            Some(Protocol::Http2(progress)) => progress.is_new(),
        }
    }

    /// Whether a first request could not come before `age` ago, at this moment of the worker's clock.
    pub(crate) fn is_younger(&self, age: Duration, now: u64) -> bool {
        u128::from(now.saturating_sub(self.open.load(Relaxed))) < age.as_millis()
    }

    /// Whether it has taken longer than the listener allows.
    pub(super) fn is_late(&self) -> bool {
        self.late(self.worker.now()).is_some()
    }

    /// What a client is told that has taken longer than the listener allows, at this moment of the
    /// worker's clock. A request of an idle client may have come just now, and is answered.
    pub(crate) fn late(&self, now: u64) -> Option<Stop> {
        match self.protocol() {
            None => {
                let passed = u128::from(now.saturating_sub(self.accepted));
                let limit = self.listener.timeout.handshake.as_millis();
                (passed > limit).then_some(Stop::Cut)
            }
            Some(Protocol::Http1(progress)) => progress.late(self.open.load(Relaxed), now),
            Some(Protocol::Http2(progress)) => progress.late(self.open.load(Relaxed), now),
        }
    }
}

#[cfg(test)]
impl Connection {
    /// Whether it is not known yet what is spoken.
    pub(super) fn is_in_its_prelude(&self) -> bool {
        self.protocol.get().is_none()
    }

    /// How far it has come, after its prelude.
    pub(super) fn progress(&self) -> &Progress {
        let Some(Protocol::Http1(progress)) = self.protocol() else {
            panic!("it does not speak HTTP/1.1");
        };
        progress
    }
}
