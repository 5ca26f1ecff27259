//! The streams of a connection that are open: which of them are late with their requests, or do not take
//! their answers.

use std::{
    sync::{Arc, OnceLock, atomic::Ordering::Relaxed},
    time::Duration,
};

use hyper::upgrade::OnUpgrade;
use parking_lot::Mutex;
use rustc_hash::FxHashMap;

use super::{
    super::stop::{Stop, StopSignal},
    place::TunnelPlace,
};
use crate::{
    config::ListenTimeouts,
    proxy::{RequestStream, TunnelWatch},
};

/// Those of a connection.
#[derive(Default)]
pub(super) struct Streams {
    open: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    next: u64,
    streams: FxHashMap<u64, Arc<Stream>>,
}

/// One of them, as the connection's worker sees it.
pub(super) struct Stream {
    pub(super) request: Arc<RequestStream>,
    pub(super) signal: StopSignal,
    /// Where it asks to go over to another protocol.
    pub(super) upgrade: Option<Upgrade>,
    /// Of what it has gone over to.
    tunnel: OnceLock<Arc<TunnelWatch>>,
}

/// What a stream has that asks to go over to another protocol.
pub(super) struct Upgrade {
    /// Its bytes, once it has.
    pub(super) bytes: OnUpgrade,
    /// Its place in the listener's limits, kept for as long as the stream. It is refused without.
    pub(super) place: Option<TunnelPlace>,
}

impl Stream {
    /// Of a request that has begun, and perhaps goes over to another protocol.
    pub(super) fn new(request: Arc<RequestStream>, upgrade: Option<Upgrade>) -> Self {
        Self {
            request,
            signal: StopSignal::new(),
            upgrade,
            tunnel: OnceLock::new(),
        }
    }

    /// From now on its time-outs are those of its tunnel.
    pub(super) fn goes_over(&self, tunnel: &Arc<TunnelWatch>) {
        // No stream goes over twice.
        let _ = self.tunnel.set(Arc::clone(tunnel));
    }
}

impl Streams {
    /// Takes in one that has begun, and returns its number.
    pub(super) fn add(&self, stream: Arc<Stream>) -> u64 {
        let mut table = self.open.lock();
        let id = table.next;
        table.next += 1;
        table.streams.insert(id, stream);
        id
    }

    /// Forgets one that is over.
    pub(super) fn remove(&self, id: u64) {
        let gone = self.open.lock().streams.remove(&id);
        drop(gone);
    }

    /// Has all tunnels end.
    pub(super) fn cut_tunnels(&self) {
        let table = self.open.lock();
        let streams = table.streams.values();
        for stream in streams.filter(|stream| stream.tunnel.get().is_some()) {
            stream.signal.give(Stop::Cut);
        }
    }

    /// Ends those that are late at this moment of the worker's clock, and returns how many of them were no tunnels.
    /// Whether the client takes an answer, nothing can be said of while the socket takes nothing: `is_stuck`.
    pub(super) fn cut_the_late(&self, limits: &ListenTimeouts, now: u64, is_stuck: bool) -> u64 {
        let passed = |since: u64, limit: Duration| {
            since != 0 && u128::from(now.saturating_sub(since)) > limit.as_millis()
        };
        let is_late = |stream: &Stream| {
            let RequestStream {
                body_awaited,
                untaken,
                ..
            } = &*stream.request;
            passed(body_awaited.load(Relaxed), limits.body)
                || !is_stuck && passed(untaken.load(Relaxed), limits.write)
        };
        let table = self.open.lock();
        let mut count = 0;
        for stream in table.streams.values() {
            let (is_late, counts) = match stream.tunnel.get() {
                Some(tunnel) => (tunnel.is_late(now), 0),
                None => (is_late(stream), 1),
            };
            if is_late && stream.signal.standing() != Stop::Cut {
                stream.signal.give(Stop::Cut);
                count += counts;
            }
        }
        count
    }
}
