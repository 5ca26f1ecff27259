//! How far an HTTP/2 connection has come, noted in passing by its socket and its streams, and read by its
//! worker's tick.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use super::{super::stop::Stop, place::OwnPlace, streams::Streams};
use crate::{config::ListenTimeouts, proxy::Client};

/// How long a client may take to leave that was told to, and has nothing to wait for.
const FAREWELL: Duration = Duration::from_secs(10);

/// A client that is silent is asked after `timeout.ping` whether it is there, and is gone after as many of them.
const SILENCES: u32 = 3;

/// For how long a client may leave unacknowledged what it was sent, before the kernel takes it for gone. As long as
/// it may be silent, and no shorter than it may take nothing.
pub(super) fn unacknowledged(limits: &ListenTimeouts) -> Duration {
    limits.ping.saturating_mul(SILENCES).max(limits.write)
}

/// How far a connection has come. Times are of the worker's clock, plus 1; 0 is "not".
pub(in super::super) struct Progress {
    pub(super) client: Arc<Client>,
    pub(super) streams: Streams,
    /// The client's preface has come.
    pub(super) is_begun: AtomicBool,
    /// When the head that is being read began.
    pub(super) head_began: AtomicU64,
    /// Since when the client takes nothing.
    pub(super) stuck: AtomicU64,
    /// When it took something last.
    pub(super) taken: AtomicU64,
    /// When something of it was read last.
    pub(super) read: AtomicU64,
    /// Since when it is to leave.
    finishing: AtomicU64,
    requests: AtomicU64,
    /// The place of its first tunnel.
    pub(super) own_place: Arc<OwnPlace>,
    /// The last of the requests that are taken of a client that is to leave.
    last_request: AtomicU64,
}

impl Progress {
    /// Of a connection without a request yet.
    pub(super) fn new(client: Arc<Client>) -> Self {
        Self {
            client,
            streams: Streams::default(),
            is_begun: AtomicBool::new(false),
            head_began: AtomicU64::new(0),
            stuck: AtomicU64::new(0),
            taken: AtomicU64::new(0),
            read: AtomicU64::new(0),
            finishing: AtomicU64::new(0),
            requests: AtomicU64::new(0),
            own_place: Arc::default(),
            last_request: AtomicU64::new(u64::MAX),
        }
    }

    /// Whether there was never a request.
    pub(in super::super) fn is_new(&self) -> bool {
        self.requests.load(Relaxed) == 0
    }

    /// Counts a request, and returns which it is.
    pub(super) fn begin_request(&self) -> u64 {
        self.requests.fetch_add(1, Relaxed) + 1
    }

    /// The client is told to leave.
    pub(super) fn finish(&self) {
        let streams = self.client.listener.limits.streams as u64;
        let last = self.requests.load(Relaxed).saturating_add(2 * streams);
        self.last_request.store(last, Relaxed);
        self.finishing.store(self.client.now(), Relaxed);
    }

    /// Whether a request is taken that is the client's so manieth. The library takes them until the client has
    /// answered a question that stands behind the word to leave, which it may never do: it has time for that, and may
    /// send as many requests until then as are on their way within a round trip.
    pub(super) fn takes(&self, number: u64) -> bool {
        let finishing = self.finishing.load(Relaxed);
        let passed = u128::from(self.client.now().saturating_sub(finishing));
        finishing == 0
            || number <= self.last_request.load(Relaxed) && passed <= FAREWELL.as_millis()
    }

    /// What a client is told whose connection is open since then, and that has taken longer than the
    /// listener allows. Ends the streams that have.
    pub(in super::super) fn late(&self, open: u64, now: u64) -> Option<Stop> {
        let limits = &self.client.listener.timeout;
        let passed = |since: u64, limit: Duration| {
            since != 0 && u128::from(now.saturating_sub(since)) > limit.as_millis()
        };
        let stuck = self.stuck.load(Relaxed);
        let taken = self.taken.load(Relaxed);
        let heard = self.read.load(Relaxed).max(taken).max(open);
        if passed(stuck, limits.write)
            || passed(self.head_began.load(Relaxed), limits.header)
            || !self.is_begun.load(Relaxed) && passed(open, limits.header)
            || passed(heard, limits.ping.saturating_mul(SILENCES))
        {
            return Some(Stop::Cut);
        }
        let late = self.streams.cut_the_late(limits, now, stuck != 0);
        self.client.worker.http2.late.add(late);
        let activity = &self.client.activity;
        if activity.requests.value() > 0 {
            return None;
        }
        let rests = activity.answered.load(Relaxed).max(open);
        let finishing = self.finishing.load(Relaxed);
        if finishing != 0 {
            let since = finishing.max(rests).max(taken);
            return passed(since, FAREWELL).then_some(Stop::Cut);
        }
        passed(rests, limits.idle).then_some(Stop::Finish)
    }
}
