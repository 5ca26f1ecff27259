//! The process that is to be replaced: it starts the new one, hands over what that one needs, and lets go of
//! it when that one serves.

use std::{
    io,
    os::fd::OwnedFd,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::{process::Child, task::spawn_blocking, time::timeout};
use tokio_util::sync::CancellationToken;

use super::{
    channel::{self, Channel},
    follower::Follower,
    offered::{Offered, ServerSockets, Sockets, left},
    origin::Origin,
    packet::{Offer, Reply},
    program::Program,
    temporary::Temporary,
};
use crate::{
    admin::{ChangeLock, Upgrade, UpgradeError, Upgraded},
    app::supervisor::Supervisor,
    embedded::Loan,
    proxy::Shared,
    saved::Store,
};

/// How long a new process may take to say why it ends, or to open the embedded registry's state.
const AT_ONCE: Duration = Duration::from_secs(10);
/// How long it may take to end.
const ENDS: Duration = Duration::from_secs(2);
/// How many processes may drain while there is another upgrade: each is a process as a whole.
const DRAINING: usize = 3;

/// Has a new binary take the place of this process.
#[derive(Clone)]
pub(in crate::app) struct Upgrader(Arc<Inner>);

struct Inner {
    program: Option<Program>,
    follower: Option<Follower>,
    supervisor: Supervisor,
    shared: Arc<Shared>,
    snapshot: Option<Arc<Store>>,
    /// `None` once the process is on its way out.
    sockets: Mutex<Option<Arc<Sockets>>>,
    /// Held while an upgrade is under way.
    turn: tokio::sync::Mutex<()>,
    /// Closed from its last step on: what is changed for a while after that would end at once.
    changes: Arc<ChangeLock>,
    /// Gives up an upgrade that is under way.
    ending: CancellationToken,
    /// A new process has taken this one's place.
    done: CancellationToken,
    /// Has everything end but for the requests under way.
    handover: CancellationToken,
    /// What the new process has for good.
    lent: Mutex<Option<Loan>>,
    /// The channels of the processes before this one, each open at its other end until that one is gone.
    before: Vec<Arc<OwnedFd>>,
    /// The new process's, open until this one is gone.
    successor: Mutex<Option<Channel>>,
    failed: AtomicU64,
}

/// What was asked for.
#[derive(Clone, Copy)]
struct Asked {
    since: Instant,
    /// How long the new process may take to get ready, with what this one waits for before it starts it.
    within: Duration,
    is_forced: bool,
}

impl Asked {
    /// The time that is left.
    fn left(self) -> Duration {
        self.within.saturating_sub(self.since.elapsed())
    }
}

/// What a new process has that is ready.
struct Ready {
    listeners: Vec<usize>,
    admin: bool,
    wants_state: bool,
}

impl Upgrader {
    pub(in crate::app) fn new(
        origin: Origin,
        shared: Arc<Shared>,
        snapshot: Option<Arc<Store>>,
        sockets: Sockets,
        handover: CancellationToken,
    ) -> Self {
        let before = origin.before.into_iter().map(Arc::new);
        Self(Arc::new(Inner {
            program: origin.program,
            follower: origin.follower,
            supervisor: origin.supervisor,
            shared,
            snapshot,
            sockets: Mutex::new(Some(Arc::new(sockets))),
            turn: tokio::sync::Mutex::default(),
            changes: Arc::default(),
            ending: CancellationToken::new(),
            done: CancellationToken::new(),
            handover,
            lent: Mutex::default(),
            before: origin.parent.into_iter().chain(before).collect(),
            successor: Mutex::default(),
            failed: AtomicU64::new(0),
        }))
    }

    /// Cancelled when a new process has taken this one's place.
    pub(in crate::app) fn done(&self) -> &CancellationToken {
        &self.0.done
    }

    /// Keeps changes for a while away from the last step of an upgrade.
    pub(in crate::app) fn changes(&self) -> &Arc<ChangeLock> {
        &self.0.changes
    }

    /// Ends an upgrade that is under way, lets go of the sockets, and does no other. Whether a new process
    /// has taken this one's place.
    pub(in crate::app) async fn end(&self) -> bool {
        self.0.ending.cancel();
        let _turn = self.0.turn.lock().await;
        // An open descriptor would keep a socket that its worker closes.
        if let Some(sockets) = self.0.sockets.lock().take() {
            sockets.listeners.forget_duplicates();
        }
        self.0.done.is_cancelled()
    }
}

impl Upgrade for Upgrader {
    fn upgrade(
        &self,
        within: Duration,
        is_forced: bool,
    ) -> BoxFuture<'static, Result<Upgraded, UpgradeError>> {
        let inner = Arc::clone(&self.0);
        Box::pin(async move {
            // It goes on though the client that has asked for it leaves.
            let asked = Asked {
                since: Instant::now(),
                within,
                is_forced,
            };
            let upgrading = tokio::spawn(async move { inner.upgrade(asked).await });
            let failed =
                |panic: tokio::task::JoinError| Err(UpgradeError::BrokenOff(panic.to_string()));
            upgrading.await.unwrap_or_else(failed)
        })
    }

    fn failed(&self) -> u64 {
        self.0.failed.load(Relaxed)
    }
}

impl Inner {
    async fn upgrade(&self, asked: Asked) -> Result<Upgraded, UpgradeError> {
        // Held until the outcome is logged, so that a drain is logged after it.
        let turn = self.turn.try_lock();
        let done = match &turn {
            Ok(_) => self.replace(asked).await,
            Err(_) => Err(UpgradeError::UnderWay),
        };
        match &done {
            Ok(Upgraded {
                pid,
                took,
                unpinned,
                undrained,
                unweighed,
                shares_reset,
            }) => {
                let milliseconds = took.as_millis() as u64;
                if !unpinned.is_empty() {
                    let services = unpinned.join(", ");
                    tracing::warn!(services, "pins end with the process that had them");
                }
                if !undrained.is_empty() {
                    let endpoints = undrained.join(", ");
                    tracing::warn!(endpoints, "drains end with the process that had them");
                }
                if !unweighed.is_empty() {
                    let endpoints = unweighed.join(", ");
                    tracing::warn!(
                        endpoints,
                        "other weights end with the process that had them"
                    );
                }
                if !shares_reset.is_empty() {
                    let routes = shares_reset.join(", ");
                    tracing::warn!(routes, "other shares end with the process that had them");
                }
                tracing::info!(pid, milliseconds, "a new process has the addresses now");
            }
            // Also by a signal, whose sender hears of it here alone.
            Err(error @ UpgradeError::Holds(_)) => tracing::warn!(
                %error,
                "not upgraded, since what was changed for a while would end"
            ),
            Err(error) if error.is_refusal() => tracing::info!(%error, "not upgraded"),
            Err(error) => {
                self.failed.fetch_add(1, Relaxed);
                tracing::error!(%error, "not upgraded: this process goes on");
            }
        }
        done
    }

    /// What this upgrade starts from, where nothing is against it.
    fn admit(&self, is_forced: bool) -> Result<(&Program, Arc<Sockets>), UpgradeError> {
        let program = self.program.as_ref().ok_or(UpgradeError::NoProgram)?;
        if std::process::id() == 1 {
            return Err(UpgradeError::First);
        }
        if let Some(follower) = &self.follower {
            return Err(follower.refusal());
        }
        let sockets = self.sockets.lock().clone();
        let sockets = sockets.filter(|_| !self.done.is_cancelled());
        let sockets = sockets.ok_or(UpgradeError::Draining)?;
        let before = self.draining().len();
        if before >= DRAINING {
            return Err(UpgradeError::Crowded(before));
        }
        self.look_for_changes(is_forced)?;
        Ok((program, sockets))
    }

    /// Refuses to end what was changed for a while, unless that is forced.
    fn look_for_changes(&self, is_forced: bool) -> Result<(), UpgradeError> {
        let holds = Temporary::of(&self.shared).in_words();
        match is_forced || holds.is_empty() {
            true => Ok(()),
            false => Err(UpgradeError::Holds(holds)),
        }
    }

    async fn replace(&self, asked: Asked) -> Result<Upgraded, UpgradeError> {
        let (program, sockets) = self.admit(asked.is_forced)?;
        // No reload changes them meanwhile. One that stands still, for a file of a disk that does, holds up no end.
        let turn = timeout(asked.within, sockets.listeners.turn.lock());
        let turn = self.ending.run_until_cancelled(turn).await;
        let turn = turn.ok_or(UpgradeError::GivenUp)?;
        let _listeners = turn.map_err(|_| UpgradeError::Reloading(asked.within))?;
        let offered = Offered {
            before: self.draining(),
            listeners: sockets.listeners.duplicates(),
            sockets: Arc::clone(&sockets),
        };
        let started = channel::pair().and_then(|(channel, theirs)| {
            let child = program.start(theirs)?;
            Ok((channel, child))
        });
        let failed = |error| UpgradeError::Start(program.path().to_owned(), error);
        let (channel, child) = started.map_err(failed)?;
        let pid = child.id().unwrap_or_default();
        tracing::info!(pid, path = %program.path().display(), "a new process starts, to take this one's place");
        let mut loan = None;
        match self
            .hand_over(&channel, &offered, &mut loan, (pid, asked))
            .await
        {
            Ok(()) => {
                *self.lent.lock() = loan;
                *self.successor.lock() = Some(channel);
                let ended = Temporary::of(&self.shared);
                Ok(Upgraded {
                    pid,
                    took: asked.since.elapsed(),
                    unpinned: ended.pins,
                    undrained: ended.drains,
                    unweighed: ended.weights,
                    shares_reset: ended.shares,
                })
            }
            Err(error) => {
                self.changes.open();
                let error = match error {
                    Some(error) => Some(error),
                    None => last_word(&channel).await,
                };
                let status = end(channel, child).await;
                // Now that it is gone the registry may have its state back.
                drop(loan);
                Err(match (error, status) {
                    (None, Some(status)) => UpgradeError::Ended(status),
                    (None, None) => UpgradeError::Left,
                    (Some(error), _) => error,
                })
            }
        }
    }

    /// Has the new process get ready and serve. The error is `None` where it has left.
    async fn hand_over(
        &self,
        channel: &Channel,
        offered: &Offered,
        loan: &mut Option<Loan>,
        (pid, asked): (u32, Asked),
    ) -> Result<(), Option<UpgradeError>> {
        let (left_time, within) = (asked.left(), asked.within);
        let ready = async {
            offered.hand_over(channel, &self.shared, left_time).await?;
            let ready = self.until_ready(channel).await?;
            if ready.wants_state {
                lend(channel, &offered.sockets.servers, loan).await?;
            }
            Ok(ready)
        };
        let ready = tokio::select! {
            ready = timeout(left_time, ready) => ready.unwrap_or(Err(Some(UpgradeError::Late(within))))?,
            () = self.ending.cancelled() => return Err(Some(UpgradeError::GivenUp)),
        };
        self.changes.close();
        // What was changed since the first look.
        self.look_for_changes(asked.is_forced).map_err(Some)?;
        channel.send(&Offer::Go, None).await.map_err(left)?;
        until_serving(channel).await?;
        self.let_go(offered, &ready).await;
        // Before that one says anything, for what it says is heeded from here on.
        self.supervisor.replaced_by(pid);
        // One that is gone by now has served, and a supervisor looks after it.
        let _ = channel.send(&Offer::Farewell, None).await;
        Ok(())
    }

    /// Clients are the new process's alone from here on.
    async fn let_go(&self, offered: &Offered, ready: &Ready) {
        for place in &ready.listeners {
            if let Some(listener) = offered.listeners.get(*place) {
                listener.leave();
            }
        }
        if let (true, Some((_, _, sharing))) = (ready.admin, &offered.sockets.servers.admin) {
            sharing.begin();
        }
        if let Some(store) = self.snapshot.clone() {
            // It waits for what is being written.
            let _ = spawn_blocking(move || store.hand_over()).await;
        }
        self.done.cancel();
        self.handover.cancel();
    }

    async fn until_ready(&self, channel: &Channel) -> Result<Ready, Option<UpgradeError>> {
        let mut missing = Vec::new();
        loop {
            let received = channel.next().await;
            let received =
                received.map_err(|error| Some(UpgradeError::Misunderstood(error.to_string())))?;
            match received.ok_or(None)?.0 {
                Reply::Missing(some) => missing.extend(some),
                Reply::Ready {
                    listeners,
                    admin,
                    wants_state,
                } => {
                    let unread = beyond(missing, &self.shared.directory().unread());
                    return match unread.is_empty() {
                        true => Ok(Ready {
                            listeners,
                            admin,
                            wants_state,
                        }),
                        false => Err(Some(UpgradeError::Unread(unread))),
                    };
                }
                Reply::Fails(why) => return Err(Some(UpgradeError::Refused(why))),
                other @ (Reply::Serves | Reply::HasState) => return Err(Some(out_of_turn(&other))),
            }
        }
    }

    /// The processes before this one that are there still.
    fn draining(&self) -> Vec<Arc<OwnedFd>> {
        let before = self.before.iter();
        let before = before.filter(|process| !channel::is_closed(*process));
        before.cloned().collect()
    }
}

/// What the new process could not read, and this one could. Each may be followed by the reason.
fn beyond(missing: Vec<String>, ours: &[String]) -> Vec<String> {
    let what = |text: &str| text.split(" (").next().map(str::to_owned);
    let ours: Vec<_> = ours.iter().map(|text| what(text)).collect();
    let missing = missing.into_iter();
    missing.filter(|text| !ours.contains(&what(text))).collect()
}

/// Lends the embedded registry's state to a new process that is ready. It has no client yet, and this process's
/// registry stands still meanwhile: it is waited for no longer than opening a file may take.
async fn lend(
    channel: &Channel,
    servers: &ServerSockets,
    loan: &mut Option<Loan>,
) -> Result<(), Option<UpgradeError>> {
    if let Some((_, _, lender)) = &servers.registry {
        *loan = lender.borrow().await;
    }
    channel.send(&Offer::State, None).await.map_err(left)?;
    let opened = timeout(AT_ONCE, channel.next()).await;
    match opened.map_err(|_| Some(UpgradeError::Unopened(AT_ONCE)))? {
        Ok(Some((Reply::HasState, _))) => Ok(()),
        Ok(Some((Reply::Fails(why), _))) => Err(Some(UpgradeError::Refused(why))),
        Ok(Some((other, _))) => Err(Some(out_of_turn(&other))),
        _ => Err(None),
    }
}

/// Waits until a process serves that was told to, however long that takes: it may have clients by now, whom
/// its end would cut.
async fn until_serving(channel: &Channel) -> Result<(), Option<UpgradeError>> {
    let serves = channel.next();
    tokio::pin!(serves);
    let said = match timeout(AT_ONCE, &mut serves).await {
        Ok(said) => said,
        Err(_) => {
            tracing::warn!(
                "a new process was told to serve, and does not yet: this one waits for it"
            );
            serves.await
        }
    };
    match said {
        Ok(Some((Reply::Serves, _))) => Ok(()),
        Ok(Some((Reply::Fails(why), _))) => Err(Some(UpgradeError::Refused(why))),
        _ => Err(None),
    }
}

fn out_of_turn(reply: &Reply) -> UpgradeError {
    UpgradeError::Misunderstood(format!("{reply:?} out of turn"))
}

/// Why a process that has left could not start, where it has said so.
async fn last_word(channel: &Channel) -> Option<UpgradeError> {
    match timeout(AT_ONCE, channel.next()).await {
        Ok(Ok(Some((Reply::Fails(why), _)))) => Some(UpgradeError::Refused(why)),
        _ => None,
    }
}

/// Ends a process that is given up: it is told so, or is killed. What it ended with, where it
/// ended by itself.
async fn end(channel: Channel, mut child: Child) -> Option<std::process::ExitStatus> {
    let ends = async {
        // One that has left cannot be told. The channel stays open until then: its bare end says to serve.
        let _ = channel.send(&Offer::GivenUp, None).await;
        child.wait().await
    };
    if let Ok(Ok(status)) = timeout(ENDS, ends).await {
        return Some(status);
    }
    // It is killed, and waited for: not for ever, since one that waits for a disk ends when that answers.
    let killed = timeout(ENDS, child.kill()).await;
    let late = || io::Error::new(io::ErrorKind::TimedOut, "it waits for the system");
    if let Err(error) = killed.unwrap_or_else(|_| Err(late())) {
        tracing::warn!(%error, "a new process that is given up cannot be ended");
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_neither_process_could_read_keeps_no_upgrade_back() {
        let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        let ours: Vec<_> = texts(&["service a (refused: 403)", "service b"]);
        let missing = texts(&["service a", "service b (timed out)", "service c"]);
        assert_eq!(beyond(missing, &ours), ["service c"]);
    }
}
