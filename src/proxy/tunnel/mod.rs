//! A client's connection that has gone over to another protocol, such as WebSocket: bytes go both ways
//! between it and an endpoint's, until both sides have ended, or the tunnel is told to. Takes two streams
//! of bytes, and knows nothing of how the client's came about.
//!
//! A tunnel that the proxy ends says so to both sides, where they speak WebSocket: with a frame behind the
//! last whole one. Then it waits for them for a moment, since to close a socket in which unread bytes lie
//! would take the frame from who has not read it yet.

mod frames;
#[cfg(any(test, fuzzing))]
pub(super) mod fuzzing;
mod pipe;

use std::{
    future::{Future as _, poll_fn},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::HeaderValue;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::{Sleep, sleep},
};

use super::Worker;
use crate::{
    metrics::Padded,
    service::{ServiceStats, TunnelEnd},
    upstream::{Pool, Switched},
};
use pipe::{Broken, Pipe};

/// How long both sides of a tunnel that the proxy ends may take to end a frame, and to hear of the end.
const GRACE: Duration = Duration::from_secs(1);

/// Two connections that have gone over to another protocol.
pub(crate) struct Tunnel {
    /// From the client to the endpoint.
    up: Pipe,
    /// From the endpoint to the client.
    down: Pipe,
    endpoint: Box<Switched>,
    watch: Arc<TunnelWatch>,
    count: TunnelCount,
    closing: Option<Closing>,
    /// Whether the endpoint is heard before the client, which is so every other time.
    endpoint_first: bool,
    /// The side that has ended first.
    first: Option<TunnelEnd>,
    /// The side that is gone.
    gone: Option<TunnelEnd>,
    worker: Arc<Worker>,
    owner: Box<dyn TunnelOwner>,
}

/// How a client's connection ends behind a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Parting {
    /// Both sides know.
    Close,
    /// It is shut, and what the client still sends is read: it has not read yet what the endpoint said last.
    Leave,
    /// By a reset.
    Reset,
}

/// The client's side of a tunnel.
pub(crate) trait TunnelClient: AsyncRead + AsyncWrite + Unpin {
    /// Whether it was heard that the client is gone, which reading tells only where something is read. Has the
    /// task woken when it is.
    fn is_gone(&mut self, _: &mut Context<'_>) -> bool {
        false
    }
}

/// Kept for as long as a tunnel is open.
pub(super) trait TunnelOwner: Send {
    /// The tunnel is over, in which the client was sent so many bytes; in good order or not.
    fn end(&mut self, bytes: u64, whole: bool);
}

/// How far a direction has come.
type Polled = Poll<Result<(), Broken>>;

/// The end of a tunnel that the proxy has decided on.
struct Closing {
    why: TunnelEnd,
    late: Pin<Box<Sleep>>,
}

/// What is looked at of a tunnel from time to time, by its worker's clock.
pub(crate) struct TunnelWatch {
    pool: Arc<Pool>,
    /// How long it may be silent, in milliseconds.
    idle: u64,
    /// When a byte was written last.
    moved: AtomicU64,
}

impl TunnelWatch {
    /// Whether it is to end at this moment.
    pub(crate) fn is_late(&self, now: u64) -> bool {
        self.late(now).is_some()
    }

    fn late(&self, now: u64) -> Option<TunnelEnd> {
        if self.pool.is_cut() {
            Some(TunnelEnd::Removed)
        } else if now.saturating_sub(self.moved.load(Relaxed)) > self.idle {
            Some(TunnelEnd::Idle)
        } else {
            None
        }
    }
}

impl Tunnel {
    /// Silence after which the kernel looks for a side that is gone, which nothing else would find out where
    /// a tunnel may be silent for ever.
    pub(crate) const KEEP_ALIVE: Duration = Duration::from_secs(60);

    /// To this endpoint's connection, which has gone over to `protocol`; counted there, and in these
    /// counters of its service. This worker serves it.
    pub(super) fn new(
        endpoint: Box<Switched>,
        protocol: Option<&HeaderValue>,
        stats: Option<Arc<Padded<ServiceStats>>>,
        worker: Arc<Worker>,
        owner: Box<dyn TunnelOwner>,
    ) -> Self {
        let is_websocket = |protocol: &HeaderValue| {
            let protocol = protocol.as_bytes();
            protocol.eq_ignore_ascii_case(b"websocket")
        };
        let is_websocket = protocol.is_some_and(is_websocket);
        endpoint.keep_alive(Self::KEEP_ALIVE);
        let millis = |idle: Duration| u64::try_from(idle.as_millis()).unwrap_or(u64::MAX);
        Self {
            up: Pipe::new(is_websocket),
            down: Pipe::new(is_websocket),
            watch: Arc::new(TunnelWatch {
                pool: Arc::clone(endpoint.pool()),
                idle: endpoint.idle().map_or(u64::MAX, millis),
                moved: AtomicU64::new(worker.now()),
            }),
            count: TunnelCount::begin(stats),
            endpoint,
            closing: None,
            endpoint_first: false,
            first: None,
            gone: None,
            worker,
            owner,
        }
    }

    /// What is to be looked at from time to time.
    pub(crate) fn watch(&self) -> &Arc<TunnelWatch> {
        &self.watch
    }

    /// Passes bytes on until the end. `early` is what the client has sent already; `is_told` says whether
    /// the tunnel is to end now, and has its task woken otherwise. Returns how the client's connection is
    /// to end.
    pub(crate) async fn run<S: TunnelClient>(
        mut self: Box<Self>,
        client: &mut S,
        early: Bytes,
        mut is_told: impl FnMut(&mut Context<'_>) -> bool,
    ) -> Parting {
        self.up.begin(early);
        self.down.begin(self.endpoint.take_early());
        let end = poll_fn(|cx| {
            if self.closing.is_none() && is_told(cx) {
                self.close();
            }
            self.poll(cx, client)
        })
        .await;
        // A reset takes what its receiver has not read, and would take the last word of the side that is gone.
        if self.gone.is_some() && !self.up.is_whole() {
            self.endpoint.reset();
        }
        let parting = match self.gone {
            None => Parting::Close,
            Some(TunnelEnd::EndpointReset) if self.down.is_whole() => Parting::Leave,
            Some(_) => Parting::Reset,
        };
        let to_client = self.down.written();
        tracing::debug!(
            endpoint = %self.endpoint.pool().address(), end = end.as_str(), to_client,
            from_client = self.up.written(), "a tunnel ended"
        );
        self.count.end = end;
        self.owner.end(to_client, self.gone.is_none());
        parting
    }

    /// Begins the end that the proxy has decided on.
    fn close(&mut self) {
        let why = self.watch.late(self.worker.now());
        self.closing = Some(Closing {
            why: why.unwrap_or(TunnelEnd::Drained),
            late: Box::pin(sleep(GRACE)),
        });
        self.up.close();
        self.down.close();
    }

    fn poll<S: TunnelClient>(&mut self, cx: &mut Context<'_>, client: &mut S) -> Poll<TunnelEnd> {
        // Before the directions, which may use up what the runtime allows a task at a time.
        if let Some(closing) = &mut self.closing
            && closing.late.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(closing.why);
        }
        let (mut up, mut down) = self.poll_both(cx, client);
        // Asked each time: it has the client sent what waits for it, too.
        if client.is_gone(cx) {
            if !self.up.are_closed() {
                up = Poll::Ready(Err(Broken::Sender));
            } else if matches!(up, Poll::Ready(Ok(()))) {
                // Many clients leave so behind the frame that closes, and nothing can be said to them.
                down = Poll::Ready(Ok(()));
            }
        }
        let Some(end) = self.end(up, down) else {
            return Poll::Pending;
        };
        let told = self.closing.as_ref().map(|closing| closing.why);
        Poll::Ready(told.unwrap_or(end))
    }

    /// Passes on what there is, both ways.
    fn poll_both<S: TunnelClient>(
        &mut self,
        cx: &mut Context<'_>,
        client: &mut S,
    ) -> (Polled, Polled) {
        let before = (self.up.written(), self.down.written());
        let endpoint = &mut *self.endpoint;
        self.endpoint_first = !self.endpoint_first;
        let polled = if self.endpoint_first {
            let down = self.down.poll(cx, endpoint, client, None);
            (self.up.poll(cx, client, endpoint, Some(mask)), down)
        } else {
            let up = self.up.poll(cx, client, endpoint, Some(mask));
            (up, self.down.poll(cx, endpoint, client, None))
        };
        let now = (self.up.written(), self.down.written());
        if now != before {
            self.watch.moved.store(self.worker.now(), Relaxed);
            self.count.moved(now.0 - before.0, now.1 - before.1);
        }
        polled
    }

    /// What the two directions come to: `None` while one of them goes on.
    fn end(&mut self, up: Polled, down: Polled) -> Option<TunnelEnd> {
        if self.first.is_none() {
            self.first = match (self.up.has_ended(), self.down.has_ended()) {
                (true, _) => Some(TunnelEnd::Client),
                (_, true) => Some(TunnelEnd::Endpoint),
                _ => None,
            };
        }
        let (end, other_is_held_up) = match (up, down) {
            (Poll::Ready(Err(Broken::Sender)), _) | (_, Poll::Ready(Err(Broken::Receiver))) => {
                (TunnelEnd::ClientReset, false)
            }
            (_, Poll::Ready(Err(Broken::Sender))) => (TunnelEnd::EndpointReset, false),
            // What it has said before is passed on.
            (Poll::Ready(Err(Broken::Receiver)), other) => (
                TunnelEnd::EndpointReset,
                other.is_pending() && self.down.is_held_up(),
            ),
            (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => {
                return self.first.or(Some(TunnelEnd::Client));
            }
            _ => return None,
        };
        if other_is_held_up {
            return None;
        }
        // A tunnel that the proxy ends has told both sides what there is to say.
        if self.closing.is_none() {
            self.gone = Some(end);
        }
        Some(end)
    }
}

/// Any bytes but foreseeable ones (RFC 6455 5.3).
fn mask() -> [u8; 4] {
    fastrand::u32(..).to_ne_bytes()
}

/// Counts a tunnel for as long as it is open, and how it ends.
struct TunnelCount {
    stats: Option<Arc<Padded<ServiceStats>>>,
    end: TunnelEnd,
}

impl TunnelCount {
    fn begin(stats: Option<Arc<Padded<ServiceStats>>>) -> Self {
        if let Some(stats) = &stats {
            stats.tunnels.opened.add_one();
            stats.tunnels.open.add_one();
        }
        Self {
            stats,
            // One whose client did not wait for the answer.
            end: TunnelEnd::ClientReset,
        }
    }

    fn moved(&self, up: u64, down: u64) {
        if let Some(stats) = &self.stats {
            stats.tunnels.from_clients.add(up);
            stats.tunnels.to_clients.add(down);
        }
    }
}

impl Drop for TunnelCount {
    fn drop(&mut self) {
        if let Some(stats) = &self.stats {
            stats.tunnels.open.sub_one();
            stats.tunnels.ends[self.end.index()].add_one();
        }
    }
}
