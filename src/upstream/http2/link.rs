//! The connections to one endpoint that requests of one worker share, and a request's place on one.
//! Knows nothing of what goes over them.

use std::{
    sync::{
        Arc,
        atomic::{
            AtomicBool, AtomicU8, AtomicU64, AtomicUsize,
            Ordering::{AcqRel, Acquire, Relaxed, Release},
        },
    },
    task::{Context, Waker},
    time::Duration,
};

use bytes::Bytes;
use h2::{RecvStream, client::SendRequest};
use parking_lot::Mutex;
use tokio::{
    sync::{MutexGuard, mpsc::UnboundedSender},
    time::Instant,
};

use super::resets::ResetRate;

/// How long connections are kept, and how much is asked of each.
#[derive(Clone, Copy, Debug)]
pub(in crate::upstream) struct Keep {
    /// How long one without a stream.
    pub(in crate::upstream) idle: Duration,
    /// How many without a stream.
    pub(in crate::upstream) connections: usize,
    /// How old one may be for another stream.
    pub(in crate::upstream) max_age: Option<Duration>,
    /// How many streams one has at once, where the endpoint does not want fewer.
    pub(in crate::upstream) streams: usize,
    /// After how much silence one is asked for a sign of life.
    pub(in crate::upstream) ping: Option<Duration>,
    /// The endpoint was removed: none is kept.
    pub(in crate::upstream) is_retired: bool,
}

/// What a connection's task and its streams have in common.
#[derive(Debug)]
pub(super) struct Link {
    opened: Instant,
    /// For how many streams at once its window has room.
    room: usize,
    streams: AtomicUsize,
    /// When the last stream was over, in milliseconds after `opened`.
    idle_since: AtomicU64,
    /// When it was let go of, in milliseconds after `opened`; [`NEVER`] is "not yet".
    released: AtomicU64,
    /// Bytes that came.
    pub(super) read: AtomicU64,
    /// Bytes that the socket took.
    pub(super) written: AtomicU64,
    end: AtomicU8,
    /// A request has failed of an error that ended it.
    has_failed_one: AtomicBool,
    resets: ResetRate,
    /// Requests that were refused since one was answered.
    refusals: AtomicUsize,
    /// Too many of its requests were given up of late: it takes streams until another connection is open.
    is_worn: AtomicBool,
    /// It takes no more streams, and ends with those that it has.
    is_draining: AtomicBool,
    rests: UnboundedSender<Rest>,
}

/// A request that is given up within this time has just begun.
const YOUNG: Duration = Duration::from_secs(1);

/// So many refusals in a row, with no answer between them, are all that a connection is good for.
const REFUSALS: usize = 8;

/// Later than any time.
const NEVER: u64 = u64::MAX;

/// How a connection has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum End {
    /// Not yet.
    None,
    /// It is over.
    Over,
    /// It was given up, since nothing came any more.
    Silent,
}

impl Link {
    /// One whose window has room for so many streams at once, and whose task reads these to their end.
    pub(super) fn new(room: usize, rests: UnboundedSender<Rest>) -> Self {
        Self {
            rests,
            opened: Instant::now(),
            room,
            streams: AtomicUsize::new(0),
            idle_since: AtomicU64::new(0),
            released: AtomicU64::new(NEVER),
            read: AtomicU64::new(0),
            written: AtomicU64::new(0),
            end: AtomicU8::new(End::None as u8),
            has_failed_one: AtomicBool::new(false),
            resets: ResetRate::default(),
            refusals: AtomicUsize::new(0),
            is_worn: AtomicBool::new(false),
            is_draining: AtomicBool::new(false),
        }
    }

    pub(super) fn streams(&self) -> usize {
        self.streams.load(Acquire)
    }

    pub(super) fn note_end(&self, end: End) {
        self.end.store(end as u8, Release);
    }

    /// Whether it has ended, however it did: nothing is written any more.
    fn has_ended(&self) -> bool {
        self.end.load(Acquire) != End::None as u8
    }

    /// Whether it was given up, since nothing came any more.
    pub(super) fn was_silent(&self) -> bool {
        self.end.load(Acquire) == End::Silent as u8
    }

    /// Notes that a request fails of an error that has ended the connection. Returns whether it is the first:
    /// its streams hear of the one error one after the other.
    pub(super) fn note_failed(&self) -> bool {
        !self.has_failed_one.swap(true, Relaxed)
    }

    /// Notes that a request was not answered in time which was handed over when so much had come. The
    /// connection takes no more streams where nothing came since: its endpoint may be gone, and a question
    /// (PING) takes its time or is not asked. Its other streams go on.
    pub(super) fn note_late(&self, read: u64) {
        if self.read.load(Relaxed) == read {
            self.is_draining.store(true, Relaxed);
        }
    }

    /// Notes that a request was refused. An endpoint that refuses the only one that it has on the connection, or
    /// several and answers none, counts requests that are over, and would refuse all that come: the connection
    /// takes no more.
    pub(super) fn note_refused(&self) {
        let in_a_row = self.refusals.fetch_add(1, Relaxed) + 1;
        if self.streams() == 1 || in_a_row >= REFUSALS {
            self.is_draining.store(true, Relaxed);
        }
    }

    /// Notes that the endpoint has answered a request.
    pub(super) fn note_answered(&self) {
        if self.refusals.load(Relaxed) != 0 {
            self.refusals.store(0, Relaxed);
        }
    }

    /// Notes that a request was given up by its client when it had just begun. Where that happens often another
    /// connection takes this one's place: the endpoint may end it for an attack, and all of them with it.
    fn note_reset(&self, now: Instant) {
        if self.resets.note(self.age(now)) {
            self.is_worn.store(true, Relaxed);
        }
    }

    fn is_worn(&self) -> bool {
        self.is_worn.load(Relaxed)
    }

    /// Has a stream read to its end. Where the connection has none any more, there is nothing to be read.
    pub(super) fn read_rest(rest: Rest) {
        let rests = rest.lease.link.rests.clone();
        let _ = rests.send(rest);
    }

    /// Whether nothing went out since it had written so much, and nothing will. A request waits behind
    /// what was written; while the connection is driven it may go out yet, whether its stream was given
    /// up or not.
    pub(super) fn has_kept_back_since(&self, written: u64) -> bool {
        self.has_ended() && self.written.load(Relaxed) == written
    }

    /// Whether it has had no stream for so long.
    fn is_idle_for(&self, time: Duration, now: Instant) -> bool {
        let idle = self.age(now).saturating_sub(self.idle_since.load(Relaxed));
        self.streams() == 0 && u128::from(idle) >= time.as_millis()
    }

    /// Whether it has been let go of, and had no stream, for so long.
    pub(super) fn is_released_for(&self, time: Duration, now: Instant) -> bool {
        // Never is later than any time.
        let released = self.age(now).saturating_sub(self.released.load(Relaxed));
        u128::from(released) >= time.as_millis() && self.is_idle_for(time, now)
    }

    /// In milliseconds.
    fn age(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.opened).as_millis() as u64
    }
}

/// A connection that takes streams. When it is dropped, it is let go of.
#[derive(Debug)]
pub(in crate::upstream) struct Shared {
    pub(super) sender: SendRequest<Bytes>,
    pub(super) link: Arc<Link>,
}

impl Shared {
    /// Whether it takes streams still: its endpoint may have said that it does not, be gone, or seem so.
    fn is_open(&mut self) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        // Not ready is: the crate asks only whether a stream waits, of which this handle has none.
        let is_refused = matches!(
            self.sender.poll_ready(&mut cx),
            std::task::Poll::Ready(Err(_))
        );
        !is_refused && !self.link.has_ended() && !self.link.is_draining.load(Relaxed)
    }

    fn is_good(&mut self, keep: &Keep, now: Instant) -> bool {
        let age = now.saturating_duration_since(self.link.opened);
        keep.max_age.is_none_or(|most| age < most) && self.is_open()
    }

    fn has_room(&self, keep: &Keep) -> bool {
        let theirs = self.sender.current_max_send_streams();
        // The configuration may allow more by now than when the window was sized.
        let ours = keep.streams.min(self.link.room);
        self.link.streams() < theirs.min(ours)
    }

    fn lease(&self) -> Lease {
        self.link.streams.fetch_add(1, AcqRel);
        Lease {
            sender: self.sender.clone(),
            link: Arc::clone(&self.link),
            asked: None,
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let released = self.link.age(Instant::now());
        self.link.released.store(released, Relaxed);
    }
}

/// A stream's place on a connection, which stays open for as long.
#[derive(Debug)]
pub struct Lease {
    pub(super) sender: SendRequest<Bytes>,
    pub(super) link: Arc<Link>,
    /// When the endpoint was asked; `None` where it was not, and when the exchange is over. An exchange that
    /// is dropped before that was given up by its client.
    asked: Option<Instant>,
}

impl Lease {
    /// Whether its connection has no other stream.
    pub(in crate::upstream) fn is_alone(&self) -> bool {
        self.link.streams() == 1
    }

    /// The request went out on its stream.
    pub(super) fn note_asked(&mut self, now: Instant) {
        self.asked = Some(now);
    }

    /// Whatever becomes of the stream from here on is not the client's doing.
    pub(super) fn note_over(&mut self) {
        self.asked = None;
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let now = Instant::now();
        if let Some(asked) = self.asked
            && now.saturating_duration_since(asked) < YOUNG
        {
            self.link.note_reset(now);
        }
        self.link.idle_since.store(self.link.age(now), Relaxed);
        self.link.streams.fetch_sub(1, AcqRel);
    }
}

/// A stream to be read to its end, and its place on the connection. What is not at its end is reset when it
/// is dropped, and so it stands before `lease`.
#[derive(Debug)]
pub(super) struct Rest {
    pub(super) stream: RecvStream,
    pub(super) lease: Lease,
}

/// A worker's connections of HTTP/2 to one endpoint.
#[derive(Debug, Default)]
pub(in crate::upstream) struct Links {
    open: Mutex<Vec<Shared>>,
    /// Held while one is opened.
    turn: tokio::sync::Mutex<()>,
    /// The endpoint has chosen HTTP/1.1 last.
    is_http1: AtomicBool,
}

impl Links {
    /// A place on a connection that is open, and not older than this: on the first that has one, so that
    /// there are no more connections than streams need. There is none on a worn one.
    pub(in crate::upstream) fn lease(
        &self,
        now: Instant,
        keep: &Keep,
        oldest: Option<Instant>,
    ) -> Option<Lease> {
        let mut open = self.good(now, keep);
        let is_worn = |shared: &Shared| shared.link.is_worn();
        if !open.iter().all(is_worn) {
            // Another has taken its place.
            open.retain(|shared| !is_worn(shared));
        }
        let fresh = open.iter().filter(|shared| !is_worn(shared));
        place_on(fresh, keep, oldest)
    }

    /// A place on a worn connection, where there is no other and one is being opened: else a client that gives up
    /// many requests would have all others wait for that.
    pub(in crate::upstream) fn lease_meanwhile(&self, now: Instant, keep: &Keep) -> Option<Lease> {
        match self.turn.try_lock() {
            Ok(_) => None,
            Err(_) => self.lease_any(now, keep, None),
        }
    }

    /// A place on a connection that is open, and not older than this, be it a worn one.
    pub(in crate::upstream) fn lease_any(
        &self,
        now: Instant,
        keep: &Keep,
        oldest: Option<Instant>,
    ) -> Option<Lease> {
        place_on(self.good(now, keep).iter(), keep, oldest)
    }

    /// Those that take streams still; the others are let go of.
    fn good(&self, now: Instant, keep: &Keep) -> parking_lot::MutexGuard<'_, Vec<Shared>> {
        let mut open = self.open.lock();
        open.retain_mut(|shared| shared.is_good(keep, now));
        open
    }

    /// A place on a connection that was just opened, which others find as well; but not where the
    /// endpoint was removed meanwhile.
    pub(in crate::upstream) fn add(
        &self,
        shared: Shared,
        is_retired: impl FnOnce() -> bool,
    ) -> Lease {
        let lease = shared.lease();
        let mut open = self.open.lock();
        // Looked at under the lock: the one that retires the endpoint does so before it clears this.
        if !is_retired() {
            open.push(shared);
        }
        lease
    }

    /// Waits until no other connection is being opened.
    pub(in crate::upstream) async fn turn(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().await
    }

    /// Whether the endpoint has chosen HTTP/1.1 last.
    pub(in crate::upstream) fn is_http1(&self) -> bool {
        self.is_http1.load(Relaxed)
    }

    pub(in crate::upstream) fn note_http1(&self, is_http1: bool) {
        self.is_http1.store(is_http1, Relaxed);
    }

    /// Lets go of those that have been idle for too long, or are idle and too many, are too old, or are over.
    /// One that is let go of ends with its last stream.
    pub(in crate::upstream) fn sweep(&self, now: Instant, keep: &Keep) {
        let goes = |shared: &mut Shared| {
            keep.is_retired || !shared.is_good(keep, now) || shared.link.is_idle_for(keep.idle, now)
        };
        let mut idle = 0;
        self.open.lock().retain_mut(|shared| {
            if goes(shared) {
                return false;
            }
            idle += usize::from(shared.link.streams() == 0);
            shared.link.streams() > 0 || idle <= keep.connections
        });
    }

    /// Lets go of all.
    pub(in crate::upstream) fn clear(&self) {
        let gone = std::mem::take(&mut *self.open.lock());
        drop(gone);
    }

    /// How many have no stream.
    pub(in crate::upstream) fn idle(&self) -> usize {
        let open = self.open.lock();
        let idle = open.iter().filter(|shared| shared.link.streams() == 0);
        idle.count()
    }
}

/// A place on the first of these that has one, and is not older than this.
fn place_on<'s>(
    mut open: impl Iterator<Item = &'s Shared>,
    keep: &Keep,
    oldest: Option<Instant>,
) -> Option<Lease> {
    let is_young = |shared: &Shared| oldest.is_none_or(|oldest| shared.link.opened >= oldest);
    let found = open.find(|shared| is_young(shared) && shared.has_room(keep));
    found.map(Shared::lease)
}

#[cfg(test)]
impl Lease {
    /// Has its request be given up at once.
    pub(in crate::upstream) fn give_up(mut self) {
        self.note_asked(Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc::unbounded_channel;

    use super::*;

    #[test]
    fn only_a_connection_that_is_over_keeps_a_request_back() {
        for (end, written, has_kept_back) in [
            (End::None, 100, false),
            (End::None, 101, false),
            (End::Over, 100, true),
            (End::Over, 101, false),
            (End::Silent, 100, true),
            (End::Silent, 101, false),
        ] {
            let link = Link::new(10, unbounded_channel().0);
            link.written.store(written, Relaxed);
            link.note_end(end);
            assert_eq!(
                link.has_kept_back_since(100),
                has_kept_back,
                "{end:?} {written}"
            );
        }
    }
}
