//! One core of the data plane: a thread with its own runtime, its own sockets and its own pools.
//! A connection stays on the worker that it was assigned to, and so do its requests.

use std::{
    collections::HashMap,
    io, iter, mem,
    net::SocketAddr,
    sync::{
        Arc, Weak,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    thread::JoinHandle,
    time::Duration,
};

use parking_lot::{Mutex, MutexGuard};
use tokio::{
    net::TcpStream,
    sync::{
        mpsc::{self, error::SendError},
        watch,
    },
    time::{Instant, MissedTickBehavior, sleep, sleep_until, timeout_at},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    listen::{
        Accepted, Bound, Connection, Drain, Entrance, OpenSockets, Stop, Unwatched, accept, serve,
    },
    metrics::Padded,
    proxy::Worker,
};

/// How often a worker looks for clients that are late.
const TICK: Duration = Duration::from_millis(250);
/// Every so many ticks it looks for idle connections to endpoints that are too old; a request takes
/// none of those, however late that is.
const SWEEP: u64 = 4;
/// In a tick it looks at no more services than this on average: with thousands of them, few of which
/// are called, looking for what is not there would be a good part of what it costs to do nothing.
const SWEPT: u64 = 125;
/// How many connections more than the least loaded worker is notably more.
const NOTABLY: usize = 8;
/// How long a connection that never had a request may go on when the rest finish.
const LAST_CHANCE: Duration = Duration::from_secs(1);
/// How often it is looked, on the way out, whether the listeners may be closed.
const LOOK: Duration = Duration::from_millis(20);
/// Before the deadline the listeners close so much earlier, or a quarter of it, for those who came
/// last.
const LAST_CALL: Duration = Duration::from_secs(3);

/// What the data plane is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Accepting and serving.
    Serve,
    /// Serving what was accepted, and accepting no more: another process does. Clients of HTTP/2 finish.
    HandedOver,
    /// Serving what was accepted to its end; and for as long as that takes, accepting and serving
    /// one request each, so that the address is not dead.
    Finish,
    /// Serving what was accepted to its end, and no more.
    Close,
    /// Over.
    Cut,
}

/// All workers.
pub(crate) struct Workers {
    workers: Vec<Arc<Worker>>,
    loads: Arc<[WorkerLoad]>,
    phase: watch::Sender<Phase>,
    threads: Vec<JoinHandle<()>>,
    intake: Intake,
}

/// Where workers get the sockets that they accept from, also while they run.
#[derive(Clone)]
pub(crate) struct Intake(Arc<[mpsc::UnboundedSender<Socket>]>);

impl Intake {
    /// Has each worker accept from its socket of a listener.
    pub(crate) fn open(&self, bound: Bound) {
        let workers = self.0.iter().cycle();
        // One that is inherited may have more sockets than there are workers now.
        for (worker, socket) in iter::zip(workers, bound.sockets) {
            let entrance = Arc::clone(&bound.entrance);
            let open = entrance.open.clone();
            let socket = Socket {
                socket,
                open,
                entrance,
            };
            // One that has ended takes none: the process is on its way out.
            let _ = worker.send(socket);
        }
    }
}

/// A worker, as the others see it.
struct WorkerLoad {
    connections: Padded<AtomicUsize>,
    handover: mpsc::UnboundedSender<HandedOver>,
}

/// A connection on its way from one worker's runtime to another's.
type HandedOver = (std::net::TcpStream, Box<Accepted>);

impl Workers {
    /// Starts a thread for each worker, which accepts nothing before it is given a socket.
    ///
    /// # Errors
    /// Where the system gives no thread.
    pub(crate) fn start(workers: Vec<Arc<Worker>>) -> io::Result<Self> {
        let (loads, receivers): (Vec<_>, Vec<_>) = workers
            .iter()
            .map(|_| {
                let (handover, handed_over) = mpsc::unbounded_channel();
                let connections = Padded::default();
                (
                    WorkerLoad {
                        connections,
                        handover,
                    },
                    handed_over,
                )
            })
            .unzip();
        let loads: Arc<[WorkerLoad]> = loads.into();
        let phase = watch::Sender::new(Phase::Serve);
        let (intake, sockets): (Vec<_>, Vec<_>) =
            workers.iter().map(|_| mpsc::unbounded_channel()).unzip();
        let threads = workers
            .iter()
            .zip(receivers)
            .zip(sockets)
            .map(|((worker, handed_over), sockets)| {
                let tasks = Arc::new(WorkerTasks {
                    worker: Arc::clone(worker),
                    loads: Arc::clone(&loads),
                    connections: Mutex::default(),
                    tracker: TaskTracker::new(),
                });
                let phase = phase.subscribe();
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()?;
                std::thread::Builder::new()
                    .name(format!("worker-{}", worker.index))
                    .spawn(move || {
                        runtime.block_on(tasks.run(sockets, handed_over, phase));
                        // A name that is still being resolved is not waited for.
                        runtime.shutdown_background();
                    })
            })
            .collect::<io::Result<_>>()?;
        Ok(Self {
            workers,
            loads,
            phase,
            threads,
            intake: Intake(intake.into()),
        })
    }

    /// Where they get the sockets that they accept from.
    pub(crate) fn intake(&self) -> Intake {
        self.intake.clone()
    }

    /// The workers.
    pub(crate) fn all(&self) -> &[Arc<Worker>] {
        &self.workers
    }

    /// A function that counts the open client connections.
    pub(crate) fn connection_count(&self) -> impl Fn() -> usize + Send + Sync + use<> {
        let loads = Arc::clone(&self.loads);
        move || {
            let count = |load: &WorkerLoad| load.connections.load(Relaxed);
            loads.iter().map(count).sum()
        }
    }

    /// Accepts no more, and goes on serving: another process has the sockets now.
    pub(crate) fn hand_over(&self) {
        self.phase.send_replace(Phase::HandedOver);
    }

    /// Lets the requests of the connections that there are finish, and cuts at the deadline those
    /// that do not. Goes on accepting meanwhile, until `successor` or shortly before the deadline.
    /// Returns how many connections were cut.
    pub(crate) async fn finish(self, deadline: Duration, successor: &CancellationToken) -> usize {
        let end = Instant::now() + deadline;
        let last_call = end - LAST_CALL.min(deadline / 4);
        self.phase.send_replace(Phase::Finish);
        let count = self.connection_count();
        let threads = self.threads;
        let mut joining = tokio::task::spawn_blocking(move || {
            for thread in threads {
                if thread.join().is_err() {
                    tracing::error!("a worker panicked");
                }
            }
        });
        tokio::select! {
            _ = &mut joining => return 0,
            () = successor.cancelled() => {}
            () = sleep_until(last_call) => {}
        }
        self.phase.send_replace(Phase::Close);
        let mut cut = 0;
        if timeout_at(end, &mut joining).await.is_err() {
            cut = count();
            self.phase.send_replace(Phase::Cut);
            // It ends now: connections that were told so end when they are next polled.
            let _ = joining.await;
        }
        cut
    }
}

/// A listener's socket for one worker.
struct Socket {
    socket: Unwatched,
    open: OpenSockets,
    entrance: Arc<Entrance>,
}

/// What ends a socket's accepting: its listener's way out, or the process's.
struct Gate {
    /// Ends accepting.
    stop: CancellationToken,
    /// Ends the wait for the clients whose handshake has begun.
    cut: CancellationToken,
    /// Of its listener, while that is there.
    drain: Weak<Drain>,
}

/// What one worker's tasks share.
struct WorkerTasks {
    worker: Arc<Worker>,
    loads: Arc<[WorkerLoad]>,
    connections: Mutex<HashMap<u64, Arc<Connection>>>,
    tracker: TaskTracker,
}

/// How far a worker's end has come.
#[derive(Default)]
struct End {
    /// The sockets that it accepts from.
    gates: Vec<Gate>,
    /// Whether accepting has ended.
    is_closed: bool,
    /// Whether the wait has for the clients whose handshake has begun.
    is_cut: bool,
    /// What connections are told, and since when; `None` while the process serves.
    order: Option<(Stop, Instant)>,
    /// Since when another process accepts.
    handed_over: Option<Instant>,
    /// The connections that were there when the process began to end have a lower id.
    newcomers: u64,
}

impl End {
    fn follow(&mut self, phase: Phase, next_id: impl FnOnce() -> u64) {
        let now = Instant::now();
        match phase {
            Phase::Serve => {}
            Phase::HandedOver => {
                self.handed_over = Some(now);
                self.close();
            }
            Phase::Finish => {
                self.newcomers = next_id();
                self.order = Some((Stop::Finish, now));
            }
            Phase::Close => {
                self.order.get_or_insert((Stop::Finish, now));
                self.close();
            }
            Phase::Cut => {
                self.order = Some((Stop::Cut, now));
                self.close();
                self.is_cut = true;
                self.gates.iter().for_each(|gate| gate.cut.cancel());
            }
        }
    }

    /// Ends accepting.
    fn close(&mut self) {
        self.is_closed = true;
        self.gates.iter().for_each(|gate| gate.stop.cancel());
    }

    /// What ends accepting from another socket.
    fn gate_of(&mut self, entrance: &Entrance) -> (CancellationToken, CancellationToken) {
        let stop = entrance.drain.closing().child_token();
        let cut = CancellationToken::new();
        self.gates.push(Gate {
            stop: stop.clone(),
            cut: cut.clone(),
            drain: Arc::downgrade(&entrance.drain),
        });
        if self.is_closed {
            stop.cancel();
        }
        if self.is_cut {
            cut.cancel();
        }
        (stop, cut)
    }

    /// Ends the waits at listeners that are on their way out, when it is time, and forgets those that are
    /// gone. Returns whether any is on its way out.
    fn follow_listeners(&mut self, now: Instant) -> bool {
        let mut any = false;
        self.gates.retain(|gate| {
            let Some(drain) = gate.drain.upgrade() else {
                return false;
            };
            let order = drain.order(now);
            if order.is_some_and(|(order, _)| order == Stop::Cut) {
                gate.cut.cancel();
            }
            any |= order.is_some();
            true
        });
        any
    }
}

impl WorkerTasks {
    async fn run(
        self: Arc<Self>,
        mut sockets: mpsc::UnboundedReceiver<Socket>,
        mut handed_over: mpsc::UnboundedReceiver<HandedOver>,
        mut phase: watch::Receiver<Phase>,
    ) {
        let mut end = End::default();
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut ticks, mut next_sweep) = (0, SWEEP);
        loop {
            let is_ending = end.order.is_some();
            tokio::select! {
                Some(handed) = handed_over.recv() => self.take_over(handed),
                Some(socket) = sockets.recv() => self.accept_from(socket, &mut end),
                _ = tick.tick() => {
                    // By the last tick's time: what was noted since then began up to a tick later
                    // than the clock said, and no connection may be cut before its time is over.
                    self.cut_the_late();
                    self.write_access_log();
                    ticks += 1;
                    self.worker.clock.store(ticks * TICK.as_millis() as u64, Relaxed);
                    if ticks == next_sweep {
                        next_sweep = ticks + SWEEP.max(self.sweep_pools() / SWEPT);
                    }
                    let any_leaves = end.follow_listeners(Instant::now());
                    if any_leaves || is_ending || end.handed_over.is_some() {
                        self.tell_to_end(&end);
                    }
                }
                Ok(()) = phase.changed() => {
                    let phase = *phase.borrow_and_update();
                    end.follow(phase, || self.next_id());
                    self.tell_to_end(&end);
                    self.close_when_due(&mut end);
                }
                () = sleep(LOOK), if is_ending && !end.is_closed => {
                    self.close_when_due(&mut end);
                }
                () = self.tracker.wait(), if is_ending => {
                    // What is on its way here is served, and what is not yet is its sender's.
                    handed_over.close();
                    match handed_over.try_recv() {
                        Ok(handed) => self.take_over(handed),
                        Err(_) => return self.write_access_log(),
                    }
                }
            }
        }
    }

    /// Hands over what was logged since the last time.
    fn write_access_log(&self) {
        if let Some(lines) = &*self.worker.access_log.load() {
            lines.flush();
        }
    }

    /// Accepts what comes to a socket, until the end.
    fn accept_from(self: &Arc<Self>, socket: Socket, end: &mut End) {
        let listener = match socket.socket.watch() {
            Ok(listener) => listener,
            Err(error) => {
                tracing::error!(%error, "a worker cannot use its socket");
                return;
            }
        };
        let tasks = Arc::clone(self);
        let assign = move |stream, arrival| tasks.assign(stream, arrival);
        let worker = Arc::clone(&self.worker);
        let turned_away = move |peer: SocketAddr| {
            worker.turned_away.add_one();
            tracing::debug!(client = %peer.ip(), "has too many connections");
        };
        let (stop, cut) = end.gate_of(&socket.entrance);
        let listener = (listener, socket.open);
        let accepting = accept(listener, socket.entrance, stop, cut, assign, turned_away);
        self.tracker.spawn(accepting);
    }

    /// Stops accepting once the connections that were there when the process began to end are gone,
    /// or once that was told.
    fn close_when_due(&self, end: &mut End) {
        let is_due = end.is_closed || !self.has_older_than(end.newcomers);
        if end.order.is_some() && is_due {
            end.close();
            self.tracker.close();
        }
    }

    /// Assigns a connection to this worker, or to the one with the fewest where that is notably fewer:
    /// long-lived connections would stay as unevenly as the kernel's hashing put them.
    fn assign(self: &Arc<Self>, stream: TcpStream, arrival: Accepted) {
        let load = |worker: &WorkerLoad| worker.connections.load(Relaxed);
        let own = load(&self.loads[self.worker.index]);
        // On the way out a worker that has none may be gone already.
        let draining = self.worker.shared.draining.load(Relaxed);
        let least = self.loads.iter().min_by_key(|worker| load(worker));
        let fewer = least.filter(|least| own > load(least) + NOTABLY.max(load(least) / 8));
        match fewer {
            Some(least) if !draining => {
                // Counted at once, so that a burst is not all handed to the same one.
                least.connections.fetch_add(1, Relaxed);
                let handed = stream
                    .into_std()
                    .map(|stream| least.handover.send((stream, Box::new(arrival))));
                if !matches!(handed, Ok(Ok(()))) {
                    least.connections.fetch_sub(1, Relaxed);
                }
                match handed {
                    Ok(Ok(())) => {}
                    // The other one has begun to end since.
                    Ok(Err(SendError(back))) => {
                        self.enter();
                        self.take_over(back);
                    }
                    Err(error) => {
                        tracing::warn!(%error, "a connection was lost on its way to another worker");
                    }
                }
            }
            _ => {
                self.enter();
                self.serve(stream, arrival);
            }
        }
    }

    fn take_over(self: &Arc<Self>, (stream, arrival): HandedOver) {
        match TcpStream::from_std(stream) {
            Ok(stream) => self.serve(stream, *arrival),
            Err(error) => {
                tracing::warn!(%error, "a connection was lost on its way to another worker");
                self.leave();
            }
        }
    }

    /// Serves a connection that is counted already.
    fn serve(self: &Arc<Self>, stream: TcpStream, arrival: Accepted) {
        let Accepted {
            peer,
            listener,
            tls,
            addresses,
            drain,
            room,
            permit,
            place,
        } = arrival;
        let worker = Arc::clone(&self.worker);
        let connection = Connection::new(worker, listener, peer, drain, room);
        let connection = Arc::new(connection);
        let tasks = Arc::clone(self);
        let id = self.next_id();
        self.connections().insert(id, Arc::clone(&connection));
        self.tracker.spawn(async move {
            let _permit = (permit, place);
            let _open = OpenConnection { tasks, id };
            serve(connection, stream, tls, addresses).await;
        });
    }

    fn next_id(&self) -> u64 {
        static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
        NEXT.fetch_add(1, Relaxed)
    }

    fn enter(&self) {
        self.loads[self.worker.index]
            .connections
            .fetch_add(1, Relaxed);
    }

    fn leave(&self) {
        self.loads[self.worker.index]
            .connections
            .fetch_sub(1, Relaxed);
    }

    fn cut_the_late(&self) {
        let now = self.worker.clock.load(Relaxed) + 1;
        for connection in self.connections().values() {
            if let Some(order) = connection.late(now) {
                connection.order(order);
            }
        }
    }

    /// Whether one of the connections that were there before this id is there still.
    fn has_older_than(&self, id: u64) -> bool {
        self.connections().keys().any(|other| *other < id)
    }

    /// Tells connections to end, those of a process or of a listener that is on its way out: again and again,
    /// for some are assigned late. New ones, whose first request may be on its way, are given a moment before
    /// they are told to finish. Where another process accepts, those of HTTP/2 need no answer to be told by.
    fn tell_to_end(&self, end: &End) {
        let now = Instant::now();
        let clock = self.worker.clock.load(Relaxed);
        for connection in self.connections().values() {
            let leaving = connection.drain().order(now);
            let since = end.handed_over.filter(|_| connection.is_http2());
            let handed_over = since.map(|since| (Stop::Finish, since));
            let orders = [leaving, end.order, handed_over].into_iter().flatten();
            let Some((order, since)) = orders.max_by_key(|(order, _)| *order) else {
                continue;
            };
            let chance = now.saturating_duration_since(since) < LAST_CHANCE;
            let is_new =
                connection.is_new() && (chance || connection.is_younger(LAST_CHANCE, clock));
            let is_due = order == Stop::Cut || !is_new;
            if is_due
                && connection.order(order)
                && leaving.is_some_and(|(order, _)| order == Stop::Cut)
            {
                connection.drain().count_cut();
            }
        }
    }

    /// Returns how many services it looked at.
    fn sweep_pools(&self) -> u64 {
        let now = Instant::now();
        let generation = self.worker.generation();
        let directory = &generation.directory;
        directory.each(|service| service.sweep(self.worker.index, now))
    }

    fn connections(&self) -> MutexGuard<'_, HashMap<u64, Arc<Connection>>> {
        self.connections.lock()
    }
}

/// Takes a connection off its worker's books, however it ends.
struct OpenConnection {
    tasks: Arc<WorkerTasks>,
    id: u64,
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        let gone = self.tasks.connections().remove(&self.id);
        mem::drop(gone);
        self.tasks.leave();
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;
    use crate::{
        config,
        listen::{Addresses, Permits, Room},
    };

    type HandedOvers = mpsc::UnboundedReceiver<HandedOver>;

    /// The first of two workers, and what is handed over to each.
    fn two_workers() -> (Arc<WorkerTasks>, [HandedOvers; 2]) {
        let worker = || {
            let (handover, handed_over) = mpsc::unbounded_channel();
            let connections = Padded::default();
            let load = WorkerLoad {
                connections,
                handover,
            };
            (load, handed_over)
        };
        let ((own, own_handed), (other, other_handed)) = (worker(), worker());
        let tasks = WorkerTasks {
            worker: Worker::without_services(),
            loads: [own, other].into(),
            connections: Mutex::default(),
            tracker: TaskTracker::new(),
        };
        (Arc::new(tasks), [own_handed, other_handed])
    }

    /// A client that has asked, and what was accepted of it.
    async fn asking() -> (TcpStream, TcpStream, Accepted) {
        let socket = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(socket.local_addr().unwrap());
        let (client, accepted) = tokio::join!(client, socket.accept());
        let (mut client, (stream, peer)) = (client.unwrap(), accepted.unwrap());
        let get = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
        client.write_all(get).await.unwrap();
        let (permits, addresses) = (Arc::new(Permits::new(1)), Arc::new(Addresses::new(1)));
        let permit = permits.acquire().await;
        let arrival = Accepted {
            peer,
            listener: Arc::new(config::Listener::default()),
            tls: None,
            addresses: None,
            drain: Arc::default(),
            room: Room::of(&permits, &addresses),
            permit,
            place: None,
        };
        (client, stream, arrival)
    }

    async fn assert_answered(mut client: TcpStream) {
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 404"), "{answer:?}");
    }

    #[tokio::test]
    async fn a_connection_on_its_way_to_a_worker_that_ends_is_served() {
        // Which of two things a worker does first is a matter of chance.
        for _ in 0..20 {
            let (tasks, [handed_over, _]) = two_workers();
            let (client, stream, arrival) = asking().await;
            let phase = watch::Sender::new(Phase::Serve);
            let phases = phase.subscribe();
            phase.send_replace(Phase::Close);
            let load = &tasks.loads[0];
            load.connections.fetch_add(1, Relaxed);
            let sent = load
                .handover
                .send((stream.into_std().unwrap(), Box::new(arrival)));
            assert!(sent.is_ok());
            let (_intake, sockets) = mpsc::unbounded_channel();
            let running = tokio::spawn(Arc::clone(&tasks).run(sockets, handed_over, phases));
            assert_answered(client).await;
            running.await.unwrap();
            assert_eq!(tasks.loads[0].connections.load(Relaxed), 0);
        }
    }

    #[tokio::test]
    async fn a_connection_that_another_worker_does_not_take_any_more_is_served_here() {
        let (tasks, [_own, others]) = two_workers();
        drop(others);
        let (client, stream, arrival) = asking().await;
        tasks.loads[0].connections.fetch_add(100, Relaxed);
        tasks.assign(stream, arrival);
        let counts = || [0, 1].map(|worker| tasks.loads[worker].connections.load(Relaxed));
        assert_eq!(counts(), [101, 0]);
        assert_answered(client).await;
        tasks.tracker.close();
        tasks.tracker.wait().await;
        assert_eq!(counts(), [100, 0]);
    }
}
