//! The streams of a connection that are open: which of them are late with their requests, or do not take
//! their answers.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use parking_lot::Mutex;
use rustc_hash::FxHashMap;

use super::super::stop::{Stop, StopSignal};
use crate::{config::ListenTimeouts, proxy::RequestStream};

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
    request: Arc<RequestStream>,
    pub(super) signal: StopSignal,
}

impl Stream {
    /// Of a request that has begun.
    pub(super) fn new(request: Arc<RequestStream>) -> Self {
        let signal = StopSignal::new();
        Self { request, signal }
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

    /// Ends those that are late at this moment of the worker's clock, and returns how many. Whether the
    /// client takes an answer, nothing can be said of while the socket takes nothing: `is_stuck`.
    pub(super) fn cut_the_late(&self, limits: &ListenTimeouts, now: u64, is_stuck: bool) -> u64 {
        let passed = |since: u64, limit: Duration| {
            since != 0 && u128::from(now.saturating_sub(since)) > limit.as_millis()
        };
        let table = self.open.lock();
        let late = table.streams.values().filter(|stream| {
            let RequestStream {
                body_awaited,
                untaken,
                ..
            } = &*stream.request;
            passed(body_awaited.load(Relaxed), limits.body)
                || !is_stuck && passed(untaken.load(Relaxed), limits.write)
        });
        let mut count = 0;
        for stream in late.filter(|stream| stream.signal.standing() != Stop::Cut) {
            stream.signal.give(Stop::Cut);
            count += 1;
        }
        count
    }
}
