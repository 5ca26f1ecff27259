//! All watches of a connection, on one stream, as etcd means it: thousands cost little more than
//! one. Also finds out that a connection has died without a word. Knows nothing of what the keys
//! mean.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, OnceLock},
    time::Duration,
};

use futures_util::{StreamExt as _, TryStreamExt as _, future, stream};
use tokio::{
    sync::{Mutex, mpsc, oneshot, watch},
    time::timeout,
};
use tokio_util::task::AbortOnDropHandle;

use super::{
    connection::{Connection, EXCHANGE, Token},
    fault::Fault,
    keys::Keys,
    message::{Event, WatchCancel, WatchCommand, WatchCreate, WatchRequest, WatchResponse},
};

const WATCH: &str = "/etcdserverpb.Watch/Watch";

/// How often a connection with watches is asked whether it still lives. A watch itself says
/// nothing while nothing changes, nor when its server is gone.
const PROBE: Duration = Duration::from_secs(4);

/// A connection, with its watches.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) connection: Arc<Connection>,
    /// Where new watches go; older ones may stand on streams of their own, see [`Link::watch`].
    stream: Mutex<Option<Arc<Stream>>>,
    /// Begun with the first watch.
    probe: OnceLock<Probe>,
}

impl Link {
    pub(super) fn new(connection: Connection) -> Self {
        Self {
            connection: Arc::new(connection),
            stream: Mutex::default(),
            probe: OnceLock::new(),
        }
    }

    /// Watches a range for what happens after a revision that was read here. A watch is worth
    /// something for as long as its link is kept.
    pub(super) async fn watch(&self, keys: &Keys, after: i64) -> Result<Watcher, Fault> {
        let stream = self.stream(keys).await;
        let opened = match open(&stream, keys, after).await {
            // A stream has the token that it began with. The watches on it go on, and this one
            // begins another.
            Err(fault) if fault.is_stale_token() => {
                self.connection.renew(&stream.token).await?;
                self.forget(&stream).await;
                open(&self.stream(keys).await, keys, after).await
            }
            opened => opened,
        };
        opened.map_err(|fault| self.connection.note(fault))
    }

    async fn stream(&self, keys: &Keys) -> Arc<Stream> {
        let mut stream = self.stream.lock().await;
        if let Some(stream) = &*stream {
            return Arc::clone(stream);
        }
        let probe = || Probe::begin(&self.connection, keys.clone());
        let dead = self.probe.get_or_init(probe).dead.clone();
        let token = self.connection.token().await;
        let new = Arc::new(Stream::begin(&self.connection, token, dead));
        *stream = Some(Arc::clone(&new));
        new
    }

    async fn forget(&self, old: &Arc<Stream>) {
        let mut stream = self.stream.lock().await;
        stream.take_if(|stream| Arc::ptr_eq(stream, old));
    }
}

/// One watched range. Its watch ends when it is dropped.
#[derive(Debug)]
pub(super) struct Watcher {
    id: i64,
    told: mpsc::UnboundedReceiver<Result<Vec<Event>, Ended>>,
    stream: Arc<Stream>,
}

/// Why a watch is over.
#[derive(Debug)]
pub(super) enum Ended {
    /// The history from its revision on is no longer kept: what stands there must be read again.
    Compacted,
    Fault(Fault),
}

impl Watcher {
    /// What has happened since the last time, in its order; waits until something has. Loses
    /// nothing when it is dropped.
    pub(super) async fn changes(&mut self) -> Result<Vec<Event>, Ended> {
        let mut changes = self.told.recv().await.unwrap_or_else(|| {
            let gone = Fault::Connection("the watch is gone".to_owned());
            Err(Ended::Fault(gone))
        })?;
        while let Ok(more) = self.told.try_recv() {
            changes.append(&mut more?);
        }
        Ok(changes)
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        // Where the stream is over, so is the watch.
        let _ = self.stream.commands.send(Command::Close(self.id));
    }
}

/// A stream of watches, and the task that drives it.
#[derive(Debug)]
struct Stream {
    token: Token,
    commands: mpsc::UnboundedSender<Command>,
    _driver: AbortOnDropHandle<()>,
}

enum Command {
    Open(Open),
    Close(i64),
}

struct Open {
    keys: Keys,
    after: i64,
    opened: oneshot::Sender<Result<Opened, Fault>>,
}

type Opened = (i64, mpsc::UnboundedReceiver<Result<Vec<Event>, Ended>>);

async fn open(stream: &Arc<Stream>, keys: &Keys, after: i64) -> Result<Watcher, Fault> {
    let (opened, opens) = oneshot::channel();
    let command = Command::Open(Open {
        keys: keys.clone(),
        after,
        opened,
    });
    let gone = || Fault::Connection("the stream of watches is over".to_owned());
    stream.commands.send(command).map_err(|_| gone())?;
    let (id, told) = timeout(EXCHANGE, opens)
        .await
        .map_err(|_| Fault::Silent(EXCHANGE))?
        .map_err(|_| gone())??;
    Ok(Watcher {
        id,
        told,
        stream: Arc::clone(stream),
    })
}

impl Stream {
    fn begin(connection: &Arc<Connection>, token: Token, dead: Dead) -> Self {
        let (commands, commanded) = mpsc::unbounded_channel();
        let (connection, first) = (Arc::clone(connection), token.clone());
        let driver = tokio::spawn(async move {
            let mut watches = Watches::default();
            let fault = tokio::select! {
                fault = drive(&connection, first, commanded, &mut watches) => fault,
                fault = death(dead) => fault,
            };
            watches.end(&connection.note(fault));
        });
        Self {
            token,
            commands,
            _driver: AbortOnDropHandle::new(driver),
        }
    }
}

/// Asks again and again whether a connection still lives.
#[derive(Debug)]
struct Probe {
    dead: Dead,
    _task: AbortOnDropHandle<()>,
}

/// What a connection has died of, once it has.
type Dead = watch::Receiver<Option<Fault>>;

impl Probe {
    /// `keys` is a range that may be read.
    fn begin(connection: &Arc<Connection>, keys: Keys) -> Self {
        let (dies, dead) = watch::channel(None);
        let connection = Arc::clone(connection);
        let task = tokio::spawn(async move {
            let fault = probe(&connection, &keys).await;
            dies.send_replace(Some(connection.note(fault)));
        });
        Self {
            dead,
            _task: AbortOnDropHandle::new(task),
        }
    }
}

/// Returns once the connection is known to be dead, or to lead to another cluster.
async fn probe(connection: &Connection, keys: &Keys) -> Fault {
    loop {
        tokio::time::sleep(PROBE).await;
        match connection.probe(keys).await {
            // A right that was taken away is the business of those who read.
            Err(fault) if fault.is_the_members() => return fault,
            _ => {}
        }
    }
}

async fn death(mut dead: Dead) -> Fault {
    let died = dead.wait_for(Option::is_some).await;
    match died.ok().and_then(|fault| fault.clone()) {
        Some(fault) => fault,
        // The probe ended with the last watch, so that no fault can come.
        None => future::pending().await,
    }
}

async fn drive(
    connection: &Connection,
    token: Token,
    mut commanded: mpsc::UnboundedReceiver<Command>,
    watches: &mut Watches,
) -> Fault {
    let (requests, mut requested) = mpsc::unbounded_channel::<WatchRequest>();
    let requested = stream::poll_fn(move |cx| requested.poll_recv(cx));
    // Its head comes with the first answer, and that after the first request.
    let answers = stream::once(connection.stream(WATCH, requested, token))
        .map_ok(|answers| answers.map_err(|status| Fault::call(&status)))
        .try_flatten();
    let mut answers = std::pin::pin!(answers);
    let send = |command| {
        let command = Some(command);
        // Where the stream is over, its answers say so.
        let _ = requests.send(WatchRequest { command });
    };
    loop {
        tokio::select! {
            command = commanded.recv() => match command {
                Some(Command::Open(open)) => send(WatchCommand::Create(watches.ask(open))),
                Some(Command::Close(watch_id)) => {
                    if watches.by_id.remove(&watch_id).is_some() {
                        send(WatchCommand::Cancel(WatchCancel { watch_id }));
                    }
                }
                // The last watch is gone: there is no command left to come, and no watch to end.
                None => future::pending().await,
            },
            answer = answers.next() => match answer {
                Some(Ok(answer)) => {
                    if let Err(unwanted) = watches.hear(connection, answer) {
                        send(WatchCommand::Cancel(unwanted));
                    }
                }
                Some(Err(fault)) => return fault,
                None => return Fault::Connection("the stream of watches ended".to_owned()),
            },
        }
    }
}

/// The watches of a stream.
#[derive(Default)]
struct Watches {
    /// Asked for and not answered yet; etcd answers in the order in which it was asked.
    asked: VecDeque<(i64, oneshot::Sender<Result<Opened, Fault>>)>,
    by_id: HashMap<i64, mpsc::UnboundedSender<Result<Vec<Event>, Ended>>>,
}

impl Watches {
    fn ask(&mut self, open: Open) -> WatchCreate {
        self.asked.push_back((open.after, open.opened));
        WatchCreate {
            key: open.keys.start,
            range_end: open.keys.end,
            start_revision: open.after + 1,
        }
    }

    /// Hands an answer to the watch that it concerns.
    ///
    /// # Errors
    /// The watch to cancel, where its receiver is gone.
    fn hear(&mut self, connection: &Connection, answer: WatchResponse) -> Result<(), WatchCancel> {
        let watch_id = answer.watch_id;
        if answer.created {
            let Some((after, opened)) = self.asked.pop_front() else {
                return Ok(());
            };
            if answer.canceled {
                let _ = opened.send(Err(Fault::canceled(&answer.cancel_reason)));
                return Ok(());
            }
            let header = answer.header.unwrap_or_default();
            // A watch from a revision that its server has not reached would stay silent.
            if let Err(fault) = connection.recognise(&header, after) {
                let _ = opened.send(Err(fault));
                return Err(WatchCancel { watch_id });
            }
            let (tells, told) = mpsc::unbounded_channel();
            self.by_id.insert(watch_id, tells);
            if opened.send(Ok((watch_id, told))).is_err() {
                self.by_id.remove(&watch_id);
                return Err(WatchCancel { watch_id });
            }
            return Ok(());
        }
        let ended = if answer.compact_revision != 0 {
            Some(Ended::Compacted)
        } else {
            answer
                .canceled
                .then(|| Ended::Fault(Fault::canceled(&answer.cancel_reason)))
        };
        let Some(tells) = self.by_id.get(&watch_id) else {
            // It was closed a moment ago.
            return Ok(());
        };
        if let Some(ended) = ended {
            let _ = tells.send(Err(ended));
            self.by_id.remove(&watch_id);
        } else if !answer.events.is_empty() && tells.send(Ok(answer.events)).is_err() {
            self.by_id.remove(&watch_id);
            return Err(WatchCancel { watch_id });
        }
        Ok(())
    }

    /// Tells everyone why it is over.
    fn end(self, fault: &Fault) {
        for (_, opened) in self.asked {
            let _ = opened.send(Err(fault.clone()));
        }
        for tells in self.by_id.into_values() {
            let _ = tells.send(Err(Ended::Fault(fault.clone())));
        }
    }
}
