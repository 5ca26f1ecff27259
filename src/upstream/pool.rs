//! One endpoint's connections on one worker. Its lock is taken by that worker alone, except when the
//! endpoint is removed, or the status is read.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use http::StatusCode;
use parking_lot::{Mutex, MutexGuard};
use tokio::time::Instant;

use super::{
    FailureKind,
    dial::SendProxy,
    http1,
    http2::{Keep, Lease, Links},
    idle_limits::IdleLimits,
    load::{Counted, Load},
    record::{LatencySum, Quiet, Record, Recorded, micros},
    stream::Ask,
    tls::{Handshake, Protocol, Tls},
};
use crate::{instance::Address, metrics::Counter, proxy_protocol::Opener};

/// What all workers' connections to one endpoint have in common.
#[derive(Debug)]
pub struct Target {
    address: Address,
    /// Where it is called over TLS.
    secured: Option<Box<Secured>>,
    protocol: Protocol,
    limits: Arc<IdleLimits>,
    /// From when on a balancer asks for it.
    load: OnceLock<Arc<Load>>,
    made: Instant,
    /// When the exchanges of an endpoint that was removed are cut, in milliseconds after `made`; 0
    /// is "not".
    cut_at: AtomicU64,
}

/// How an endpoint is called over TLS.
#[derive(Debug)]
struct Secured {
    tls: Arc<Tls>,
    /// From the first connection on: it is large, and most endpoints of a large registry are never
    /// called.
    handshake: OnceLock<Handshake>,
}

/// One endpoint's connections on one worker, and what that worker counts of it.
#[derive(Debug)]
pub struct Pool {
    target: Arc<Target>,
    idle: Mutex<Vec<Idle>>,
    /// Of an endpoint that speaks HTTP/1.1 there is none.
    http2: OnceLock<Box<Links>>,
    in_flight: Counter,
    /// Of an endpoint that was never called there is none.
    record: OnceLock<Box<Record>>,
    /// Attempts made.
    pub attempts: Counter,
    /// Attempts that failed.
    pub failures: Counter,
    /// Connections opened.
    pub opened: Counter,
    /// Connections that have gone over to another protocol.
    pub tunnels: Counter,
}

#[derive(Debug)]
struct Idle {
    connection: http1::Connection,
    since: Instant,
    /// When it is too old; `None` where that is beyond all time.
    until: Option<Instant>,
}

impl Idle {
    fn is_too_old(&self, now: Instant) -> bool {
        self.until.is_some_and(|until| now >= until)
    }

    /// Whether its endpoint was told whose it is, and it serves no other client.
    fn is_of_a_client(&self) -> bool {
        self.connection.origin.opener.is_some()
    }

    /// Ends a connection on which nothing is under way. One of a single client's is reset: there may be as
    /// many as there are clients, and of each that this side closes the kernel keeps the port for a minute.
    fn end(mut self) {
        if self.is_of_a_client() {
            self.connection.stream.reset();
        }
    }
}

/// What a request is sent over.
#[derive(Debug)]
pub enum Connection {
    /// A connection of HTTP/1.1, between two requests.
    Http1(http1::Connection),
    /// A stream's place on a connection of HTTP/2.
    Http2(Lease),
}

/// How the connection of an attempt was come by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// It was opened for the attempt, and is its own.
    New,
    /// It was opened for the attempt, and other requests may have joined.
    Opened,
    /// It was kept, and had nothing to do.
    Idle,
    /// It has other requests.
    Shared,
}

impl Connection {
    /// How one that was just opened was come by.
    pub(crate) fn opened(&self) -> Found {
        match self {
            Self::Http1(_) => Found::New,
            Self::Http2(_) => Found::Opened,
        }
    }

    /// How one that was there already was come by: asked when it has just been.
    pub(crate) fn found(&self) -> Found {
        match self {
            Self::Http2(lease) if !lease.is_alone() => Found::Shared,
            Self::Http1(_) | Self::Http2(_) => Found::Idle,
        }
    }
}

/// Which idle connection will do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reuse {
    /// Any: the request may be repeated should the connection turn out to be dead.
    Any,
    /// Only one that was used within the last 500 ms and that the kernel, asked at this moment,
    /// knows of no end of: the request may not be repeated, and servers close idle connections. Of HTTP/2
    /// any will do: a server that closes one says which requests it has not begun with.
    Fresh,
}

/// The longest idleness that [`Reuse::Fresh`] accepts.
const FRESH: Duration = Duration::from_millis(500);

impl Target {
    /// `address`, which is called over this TLS, or in the clear, and in this protocol; exchanges count
    /// in the endpoint's load where there is one.
    pub fn new(
        address: Address,
        tls: Option<Arc<Tls>>,
        protocol: Protocol,
        limits: Arc<IdleLimits>,
        load: Option<Arc<Load>>,
    ) -> Self {
        let secured = |tls| {
            Box::new(Secured {
                tls,
                handshake: OnceLock::new(),
            })
        };
        Self {
            address,
            secured: tls.map(secured),
            protocol,
            limits,
            load: load.map(OnceLock::from).unwrap_or_default(),
            made: Instant::now(),
            cut_at: AtomicU64::new(0),
        }
    }

    /// How busy it is, over all workers, where its balancer compares that.
    pub fn load(&self) -> Option<&Arc<Load>> {
        self.load.get()
    }

    /// A balancer asks for its load from now on: exchanges that begin count in it. It stays with the
    /// first.
    pub(crate) fn keep_load(&self, load: Arc<Load>) {
        self.load.get_or_init(|| load);
    }

    /// The endpoint was removed: connections that come back are closed then, and exchanges that
    /// still run are cut at `cut_at`. Those that are idle are [`Pool::close_idle`]'s.
    pub fn retire(&self, cut_at: Instant) {
        self.cut_at.store(self.millis(cut_at), Relaxed);
    }

    /// The endpoint is back: what still runs goes on, and connections are kept again.
    pub fn restore(&self) {
        self.cut_at.store(0, Relaxed);
    }

    fn millis(&self, at: Instant) -> u64 {
        1 + at.saturating_duration_since(self.made).as_millis() as u64
    }
}

impl Pool {
    /// An empty pool of connections to this target.
    pub fn new(target: Arc<Target>) -> Self {
        Self {
            target,
            idle: Mutex::default(),
            http2: OnceLock::new(),
            in_flight: Counter::default(),
            record: OnceLock::new(),
            attempts: Counter::default(),
            failures: Counter::default(),
            opened: Counter::default(),
            tunnels: Counter::default(),
        }
    }

    /// Where its connections lead.
    pub fn address(&self) -> &Address {
        &self.target.address
    }

    pub(super) fn handshake(&self) -> Option<&Handshake> {
        let Target {
            address,
            secured,
            protocol,
            ..
        } = &*self.target;
        let Secured { tls, handshake } = &**secured.as_ref()?;
        Some(handshake.get_or_init(|| tls.handshake(address, *protocol)))
    }

    /// What it is called in.
    pub(super) fn protocol(&self) -> Protocol {
        self.target.protocol
    }

    /// A connection that is open and has room: the idle one used last that is still good, or a place on
    /// one that requests share.
    pub fn checkout(
        &self,
        now: Instant,
        reuse: Reuse,
        opener: Option<Opener>,
    ) -> Option<Connection> {
        if self.target.protocol != Protocol::Http1
            && let Some(lease) = self.lease(now, None).or_else(|| self.lease_meanwhile(now))
        {
            return Some(Connection::Http2(lease));
        }
        self.checkout_idle(now, reuse, opener)
            .map(Connection::Http1)
    }

    /// A place on a connection of HTTP/2 that is open, and not older than this.
    pub(super) fn lease(&self, now: Instant, oldest: Option<Instant>) -> Option<Lease> {
        self.http2.get()?.lease(now, &self.keep(), oldest)
    }

    /// The same on one that another is being opened in the place of.
    fn lease_meanwhile(&self, now: Instant) -> Option<Lease> {
        self.http2.get()?.lease_meanwhile(now, &self.keep())
    }

    /// Its connections of HTTP/2.
    pub(super) fn links(&self) -> &Links {
        self.http2.get_or_init(Box::default)
    }

    /// How long its connections of HTTP/2 are kept, and how much is asked of each.
    pub(super) fn keep(&self) -> Keep {
        let limits = &self.target.limits;
        Keep {
            idle: limits.idle(),
            connections: limits.connections(),
            max_age: self.max_age(),
            streams: limits.streams(),
            ping: limits.ping(),
            is_retired: self.is_retired(),
        }
    }

    /// How old a connection may be for another request. An IP address leads to the same place for ever.
    fn max_age(&self) -> Option<Duration> {
        let Target {
            address, limits, ..
        } = &*self.target;
        limits.max_age().filter(|_| address.socket().is_none())
    }

    fn checkout_idle(
        &self,
        now: Instant,
        reuse: Reuse,
        opener: Option<Opener>,
    ) -> Option<http1::Connection> {
        let mut pooled = self.lock();
        loop {
            // Where no endpoint is told of clients all are alike, and this is the last.
            let mut there = pooled.iter();
            let at = there.rposition(|idle| idle.connection.origin.opener == opener)?;
            let since = pooled[at].since;
            if reuse == Reuse::Fresh && now.saturating_duration_since(since) > FRESH {
                // It may still serve a request that can be repeated.
                return None;
            }
            let mut idle = pooled.remove(at);
            let ask = match reuse {
                Reuse::Any => Ask::Runtime,
                Reuse::Fresh => Ask::Kernel,
            };
            if idle.connection.stream.is_quiet(ask) && !idle.is_too_old(now) {
                return Some(idle.connection);
            }
        }
    }

    /// Takes a connection back whose last exchange ended cleanly on both sides. `keep_alive` is
    /// how long the endpoint said that it keeps it.
    pub(super) fn give_back(
        &self,
        connection: http1::Connection,
        keep_alive: Option<Duration>,
        now: Instant,
    ) {
        // A second less than the server's own limit, so that the crossing is avoided.
        let limits = &self.target.limits;
        let keep = keep_alive.map_or(limits.idle(), |theirs| {
            let theirs = theirs.saturating_sub(Duration::from_secs(1));
            limits.idle().min(theirs)
        });
        let keep = self.max_age().map_or(keep, |most| {
            keep.min(most.saturating_sub(now.saturating_duration_since(connection.origin.opened)))
        });
        let mut idle = self.lock();
        // Looked at under the lock: who retires the target does so before it empties the pool.
        if keep.is_zero() || limits.connections() == 0 || self.is_retired() {
            return;
        }
        while idle.len() >= limits.connections() {
            // The others may be of clients that ask no more, or that none is asked for since a reload.
            let oldest = match limits.send_proxy() {
                Some(_) => Some(0),
                None => idle.iter().position(Idle::is_of_a_client),
            };
            let Some(oldest) = oldest else { return };
            idle.remove(oldest).end();
        }
        idle.push(Idle {
            connection,
            since: now,
            until: now.checked_add(keep),
        });
    }

    /// Closes what has been idle for too long, or was closed by the endpoint.
    pub fn sweep(&self, now: Instant) {
        let is_good = |idle: &mut Idle| {
            !idle.is_too_old(now) && idle.connection.stream.is_quiet(Ask::Runtime)
        };
        let ended: Vec<_> = self.lock().extract_if(.., |idle| !is_good(idle)).collect();
        ended.into_iter().for_each(Idle::end);
        if let Some(links) = self.http2.get() {
            links.sweep(now, &self.keep());
        }
    }

    /// Closes the idle connections, and those that requests share once these are over.
    pub fn close_idle(&self) {
        if let Some(links) = self.http2.get() {
            links.clear();
        }
        let closed = std::mem::take(&mut *self.lock());
        drop(closed);
    }

    /// In which version the endpoint is told whose connection it has, where it is.
    pub fn send_proxy(&self) -> SendProxy {
        self.target.limits.send_proxy()
    }

    /// Whether the endpoint was removed.
    pub fn is_retired(&self) -> bool {
        self.target.cut_at.load(Relaxed) != 0
    }

    /// Whether the endpoint was removed, and its drain deadline has passed.
    pub(crate) fn is_cut(&self) -> bool {
        let cut_at = self.target.cut_at.load(Relaxed);
        cut_at != 0 && self.target.millis(Instant::now()) >= cut_at
    }

    /// Notes for its load how long the endpoint took that was asked then: to the head of its answer,
    /// or until it was given up.
    pub fn took(&self, began: Instant) {
        if let Some(load) = self.target.load() {
            load.took(began);
        }
    }

    /// Exchanges that run now.
    pub fn in_flight(&self) -> u64 {
        self.in_flight.value()
    }

    /// Idle connections.
    pub fn idle(&self) -> usize {
        self.lock().len() + self.http2.get().map_or(0, |links| links.idle())
    }

    /// Counts one exchange for as long as the guard lives.
    pub fn enter(self: &Arc<Self>) -> InFlight {
        self.attempts.add_one();
        self.in_flight.add_one();
        InFlight {
            counted: self.target.load().map(|load| load.enter()),
            pool: Arc::clone(self),
            waits_since: None,
        }
    }

    /// Counts an attempt that failed, or an answer that broke off.
    pub fn note_failure(&self, kind: &FailureKind) {
        self.failures.add_one();
        self.record().note_failure(kind);
    }

    /// Adds what was heard over these connections.
    pub fn add_record(&self, sum: &mut Recorded) {
        if let Some(record) = self.record.get() {
            record.add_to(sum);
        }
    }

    /// Adds how long answers took lately.
    pub fn add_latencies(&self, sum: &mut LatencySum) {
        if let Some(record) = self.record.get() {
            record.latencies.add_to(sum);
        }
    }

    /// Whether requests wait here for so long that it is time to ask why.
    #[inline]
    pub fn is_silence_due(&self, now: Instant) -> bool {
        let record = self.record.get();
        record.is_some_and(|record| record.silence.is_due(|| self.age(now)))
    }

    /// What is known of the endpoint's silence.
    pub fn quiet(&self, now: Instant) -> Quiet {
        let record = self.record.get();
        record.map_or(Quiet::default(), |record| {
            record.silence.observed(self.age(now))
        })
    }

    /// Notes that it was looked at; for the worker whose pool this is.
    pub fn note_look(&self, now: Instant) {
        if let Some(record) = self.record.get() {
            record.silence.note_look(self.age(now));
        }
    }

    fn record(&self) -> &Record {
        self.record.get_or_init(Box::default)
    }

    /// Microseconds since its target was made.
    fn age(&self, at: Instant) -> u64 {
        micros(at.saturating_duration_since(self.target.made))
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Idle>> {
        self.idle.lock()
    }
}

/// One exchange in flight; it lives until the end of the answer's body.
#[derive(Debug)]
pub struct InFlight {
    pool: Arc<Pool>,
    /// Where a balancer asked for the endpoint's load when it began.
    counted: Option<Counted>,
    /// Since when the endpoint has all of the request, and has not answered: microseconds after its target was
    /// made.
    waits_since: Option<u64>,
}

impl InFlight {
    /// The pool that counts it.
    pub fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    /// The endpoint has all of the request since then.
    #[inline]
    pub(super) fn note_sent(&mut self, at: Instant) {
        if self.waits_since.is_none() {
            let at = self.pool.age(at);
            self.waits_since = Some(at);
            self.pool.record().silence.note_request(at);
        }
    }

    /// The head of its answer is there.
    pub(super) fn note_answer(&mut self, status: StatusCode, now: Instant) {
        let at = self.pool.age(now);
        let waited = self
            .waits_since
            .take()
            .map(|since| at.saturating_sub(since));
        self.pool.record().note_answer(status, waited, at);
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.pool.in_flight.sub_one();
        if let Some((load, counted)) = self.pool.target.load().zip(self.counted) {
            load.leave(counted);
        }
        if self.waits_since.is_some() {
            self.pool.record().silence.note_loss();
        }
    }
}
