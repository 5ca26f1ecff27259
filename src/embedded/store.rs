//! The registry at work: every change goes to the journal, then into the state, then wakes those
//! who wait for it; every check that needs running has one task, which ends with the check.
//! Knows nothing of HTTP or of Consul's formats.

use std::{
    collections::{BTreeMap, HashMap},
    io, mem,
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use tokio::time::Instant;
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

use super::{
    checks::{self, Clients},
    decode::OUTPUT_MAX,
    journal::Journal,
    model::{Check, Indexed, Kind, Service, Status},
    state::{Change, State, Topic},
    waiting::{Waiting, Watch},
};

/// How often services are looked for that were critical for too long.
const REAP_EVERY: Duration = Duration::from_secs(30);
const NODE_MAINTENANCE: &str = "_node_maintenance";

/// The registry's content, who waits for it, and its running checks.
#[derive(Debug)]
pub(super) struct Store {
    inner: Mutex<Inner>,
    waiting: Waiting,
    clients: Clients,
    tasks: TaskTracker,
    /// Of the time until the registry goes down, or is lent.
    closing: Mutex<CancellationToken>,
}

#[derive(Debug)]
struct Inner {
    state: State,
    journal: Journal,
    running: HashMap<String, CheckTask>,
    rewriting: bool,
    /// Why the state cannot be had back that was lent.
    trouble: Option<String>,
}

/// What is known of a check's task beside its status. Dropping it ends the task.
#[derive(Debug)]
struct CheckTask {
    _stop: DropGuard,
    critical_since: Option<Instant>,
    /// For a TTL check: when it runs out, and what its provider last said.
    runs_out: Option<Instant>,
    said: String,
}

/// Why a change was not made.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refused {
    #[error(
        "Unknown service ID {0:?}. Ensure that the service ID is passed, not the service name."
    )]
    UnknownService(String),
    #[error("Unknown check ID {0:?}. Ensure that the check ID is passed, not the check name.")]
    UnknownCheck(String),
    #[error("ServiceID {0:?} does not exist")]
    NoService(String),
    #[error("CheckID {0:?} does not have associated TTL")]
    NotTtl(String),
    #[error("the registry's journal cannot be written: {0}")]
    Journal(#[from] io::Error),
}

impl Store {
    pub(super) fn new(journal: Journal, state: State) -> Arc<Self> {
        let inner = Inner {
            state,
            journal,
            running: HashMap::new(),
            rewriting: false,
            trouble: None,
        };
        Arc::new(Self {
            inner: Mutex::new(inner),
            waiting: Waiting::default(),
            clients: Clients::default(),
            tasks: TaskTracker::new(),
            closing: Mutex::default(),
        })
    }

    /// Starts the checks that were there before, and the search for services to deregister.
    /// Each of these tasks ends by itself when `closing` is cancelled.
    pub(super) fn start(self: &Arc<Self>) {
        let mut inner = self.inner.lock();
        let checks: Vec<_> = inner.state.all_checks().cloned().collect();
        for check in checks {
            self.run_check(&mut inner, &check, true);
        }
        let store = Arc::clone(self);
        self.tasks
            .spawn(self.closing().run_until_cancelled_owned(async move {
                loop {
                    tokio::time::sleep(REAP_EVERY).await;
                    store.reap();
                }
            }));
    }

    /// Cancelled when the registry goes down; blocking queries answer then.
    pub(super) fn closing(&self) -> CancellationToken {
        self.closing.lock().clone()
    }

    /// Waits until every task has ended.
    pub(super) async fn close(&self) {
        self.closing().cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Lets another process have the folder, while this one may still answer reads. Called when no
    /// change can come any more.
    pub(super) fn release(&self) {
        self.inner.lock().journal.release();
    }

    /// Goes on with what another process has left, after [`Store::close`] and [`Store::release`].
    pub(super) fn reopen(&self, journal: Journal, state: State) {
        let mut inner = self.inner.lock();
        *self.closing.lock() = CancellationToken::new();
        self.tasks.reopen();
        *inner = Inner {
            state,
            journal,
            running: HashMap::new(),
            rewriting: false,
            trouble: None,
        };
        self.waiting.wake_all();
    }

    /// Notes that what another process has left cannot be read, and why; until [`Store::reopen`].
    pub(super) fn fail(&self, why: String) {
        self.inner.lock().trouble = Some(why);
        self.waiting.wake_all();
    }

    /// Looks at the state as [`Store::read`] does.
    ///
    /// # Errors
    /// Where it is not this process's any more, and why it cannot be had back.
    pub(super) fn try_read<T>(&self, look: impl FnOnce(&State) -> T) -> Result<T, String> {
        let inner = self.inner.lock();
        match &inner.trouble {
            Some(why) => Err(why.clone()),
            None => Ok(look(&inner.state)),
        }
    }

    /// Looks at the state at one moment. Must not take long: changes wait meanwhile.
    pub(super) fn read<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.inner.lock().state)
    }

    /// From now on every change of the topic is noticed.
    pub(super) fn watch(&self, topic: &Topic) -> Watch {
        self.waiting.watch(topic)
    }

    /// Registers an instance and its checks; those that it has beside them stay, unless
    /// `replace`. A check that is registered again keeps its status, so that nothing flaps.
    pub(super) fn register(
        self: &Arc<Self>,
        service: Service,
        checks: Vec<Check>,
        replace: bool,
    ) -> Result<(), Refused> {
        let mut inner = self.inner.lock();
        let index = inner.state.index() + 1;
        let mut changes = Vec::new();
        let before = inner.state.service(&service.id);
        if replace && let Some(before) = before {
            let gone = |id: &&String| checks.iter().all(|check| check.id != **id);
            let gone = before.checks.keys().filter(gone).cloned();
            changes.extend(gone.map(Change::DropCheck));
        }
        let before = before.map(|entry| &*entry.service);
        if before.is_none_or(|before| *before.value() != service) {
            let service = Indexed::replacing(before, service, index);
            changes.push(Change::PutService(service));
        }
        let mut again = Vec::new();
        for check in checks {
            again.push(check.id.clone());
            changes.extend(put_check(&inner.state, check, index));
        }
        self.commit(&mut inner, index, changes)?;
        for id in again {
            inner.renew(&id);
        }
        Ok(())
    }

    /// Registers a check of a service that is there, or of the node.
    pub(super) fn register_check(self: &Arc<Self>, check: Check) -> Result<(), Refused> {
        let mut inner = self.inner.lock();
        if let Some(service) = &check.service
            && inner.state.service(service).is_none()
        {
            return Err(Refused::NoService(service.clone()));
        }
        let (id, index) = (check.id.clone(), inner.state.index() + 1);
        let changes = put_check(&inner.state, check, index).into_iter().collect();
        self.commit(&mut inner, index, changes)?;
        inner.renew(&id);
        Ok(())
    }

    pub(super) fn deregister(self: &Arc<Self>, id: &str) -> Result<(), Refused> {
        let mut inner = self.inner.lock();
        if inner.state.service(id).is_none() {
            return Err(Refused::UnknownService(id.to_owned()));
        }
        self.commit_one(&mut inner, Change::DropService(id.to_owned()))
    }

    pub(super) fn deregister_check(self: &Arc<Self>, id: &str) -> Result<(), Refused> {
        let mut inner = self.inner.lock();
        if inner.state.check(id).is_none() {
            return Err(Refused::UnknownCheck(id.to_owned()));
        }
        self.commit_one(&mut inner, Change::DropCheck(id.to_owned()))
    }

    /// Takes what a provider says of its TTL check, which then has its whole time again.
    pub(super) fn report_ttl(
        self: &Arc<Self>,
        id: &str,
        status: Status,
        output: &str,
    ) -> Result<(), Refused> {
        let mut inner = self.inner.lock();
        let check = inner.state.check(id);
        match check.map(|check| &check.kind) {
            None => return Err(Refused::UnknownCheck(id.to_owned())),
            Some(Kind::Ttl(_)) => {}
            Some(_) => return Err(Refused::NotTtl(id.to_owned())),
        }
        let output = shortened(output);
        self.set_status(&mut inner, id, status, output.clone())?;
        inner.renew(id);
        if let Some(running) = inner.running.get_mut(id) {
            running.said = output;
        }
        Ok(())
    }

    /// Puts an instance into maintenance for this reason, or takes it out.
    pub(super) fn maintain(
        self: &Arc<Self>,
        service: &str,
        reason: Option<String>,
    ) -> Result<(), Refused> {
        let mut inner = self.inner.lock();
        if inner.state.service(service).is_none() {
            return Err(Refused::UnknownService(service.to_owned()));
        }
        let id = format!("_service_maintenance:{service}");
        let name = "Service Maintenance Mode";
        self.set_maintenance(&mut inner, id, name, Some(service.to_owned()), reason)
    }

    /// The same for all of them.
    pub(super) fn maintain_node(self: &Arc<Self>, reason: Option<String>) -> Result<(), Refused> {
        let id = NODE_MAINTENANCE.to_owned();
        self.set_maintenance(
            &mut self.inner.lock(),
            id,
            "Node Maintenance Mode",
            None,
            reason,
        )
    }

    fn set_maintenance(
        self: &Arc<Self>,
        inner: &mut Inner,
        id: String,
        name: &str,
        service: Option<String>,
        reason: Option<String>,
    ) -> Result<(), Refused> {
        let change = match (inner.state.check(&id).is_some(), reason) {
            (false, Some(notes)) => {
                let check = Check {
                    id,
                    name: name.to_owned(),
                    notes,
                    service,
                    kind: Kind::Maintenance,
                    deregister_after: None,
                    status: Status::Critical,
                    output: String::new(),
                };
                let index = inner.state.index() + 1;
                Change::PutCheck(Indexed::replacing(None, check, index))
            }
            (true, None) => Change::DropCheck(id),
            _ => return Ok(()),
        };
        self.commit_one(inner, change)
    }

    fn commit_one(self: &Arc<Self>, inner: &mut Inner, change: Change) -> Result<(), Refused> {
        let index = inner.state.index() + 1;
        self.commit(inner, index, vec![change])
    }

    /// Journal first, then the state, then the tasks and those who wait.
    fn commit(
        self: &Arc<Self>,
        inner: &mut Inner,
        index: u64,
        changes: Vec<Change>,
    ) -> Result<(), Refused> {
        if changes.is_empty() {
            return Ok(());
        }
        inner.journal.append(index, &changes)?;
        let mut started = Vec::new();
        for change in &changes {
            match change {
                Change::PutService(_) => {}
                Change::DropService(id) => {
                    let checks = inner.state.service(id).into_iter();
                    for id in checks.flat_map(|entry| entry.checks.keys()) {
                        inner.running.remove(id);
                    }
                }
                Change::PutCheck(check) => started.push(check.id.clone()),
                Change::DropCheck(id) => drop(inner.running.remove(id)),
                Change::SetStatus { check, status, .. } => {
                    if let Some(running) = inner.running.get_mut(check) {
                        running.note(*status);
                    }
                }
            }
        }
        let touched = inner.state.apply(index, changes);
        for id in started {
            if let Some(check) = inner.state.check(&id).cloned() {
                self.run_check(inner, &check, false);
            }
        }
        self.waiting.wake(&touched);
        if inner.journal.is_due() && !mem::replace(&mut inner.rewriting, true) {
            self.rewrite(inner);
        }
        Ok(())
    }

    /// Rewrites the journal on a thread that may wait for the disk.
    fn rewrite(self: &Arc<Self>, inner: &Inner) {
        let snapshot = inner.journal.snapshot(&inner.state);
        let store = Arc::clone(self);
        self.tasks.spawn_blocking(move || {
            let written = snapshot.write();
            let mut inner = store.inner.lock();
            if let Err(error) = written.and_then(|written| inner.journal.adopt(written)) {
                tracing::warn!(%error, "the registry's journal cannot be rewritten, and grows");
            }
            inner.rewriting = false;
        });
    }

    fn set_status(
        self: &Arc<Self>,
        inner: &mut Inner,
        id: &str,
        status: Status,
        output: String,
    ) -> Result<(), Refused> {
        let Some(check) = inner.state.check(id) else {
            return Ok(());
        };
        if check.status == status {
            inner.state.set_output(id, output);
            return Ok(());
        }
        tracing::info!(
            check = id,
            from = check.status.name(),
            to = status.name(),
            "check"
        );
        let check = id.to_owned();
        self.commit_one(
            inner,
            Change::SetStatus {
                check,
                status,
                output,
            },
        )
    }

    /// Starts the check's task, in place of the one that it may have had.
    fn run_check(self: &Arc<Self>, inner: &mut Inner, check: &Indexed<Check>, known: bool) {
        let stop = self.closing().child_token();
        let (store, id, token) = (Arc::clone(self), check.id.clone(), stop.clone());
        let mut runs_out = None;
        match &check.kind {
            Kind::Maintenance => {
                inner.running.remove(&id);
                return;
            }
            Kind::Ttl(ttl) => {
                let first = Instant::now() + *ttl;
                runs_out = Some(first);
                let task =
                    async move { checks::ttl(first, || store.look_at_ttl(&token, &id)).await };
                self.tasks
                    .spawn(stop.clone().run_until_cancelled_owned(task));
            }
            Kind::Probe(probe) => {
                let probe = probe.clone();
                let task = async move {
                    let report = |status, output| store.report(&token, &id, status, output);
                    checks::probe(&probe, known, &store.clients, report).await;
                };
                self.tasks
                    .spawn(stop.clone().run_until_cancelled_owned(task));
            }
        }
        let mut running = CheckTask {
            _stop: stop.drop_guard(),
            critical_since: None,
            runs_out,
            said: String::new(),
        };
        running.note(check.status);
        inner.running.insert(check.id.clone(), running);
    }

    /// Takes a probe's result, unless its check has gone or changed meanwhile.
    fn report(
        self: &Arc<Self>,
        stop: &CancellationToken,
        id: &str,
        status: Status,
        output: String,
    ) {
        let mut inner = self.inner.lock();
        if stop.is_cancelled() {
            return;
        }
        if let Err(error) = self.set_status(&mut inner, id, status, output) {
            tracing::error!(check = id, %error, "a check's result is lost");
        }
    }

    /// Makes a TTL check critical if it has run out; says when to look again.
    fn look_at_ttl(self: &Arc<Self>, stop: &CancellationToken, id: &str) -> Instant {
        let mut inner = self.inner.lock();
        let now = Instant::now();
        let running = inner.running.get(id).filter(|_| !stop.is_cancelled());
        let Some((running, runs_out)) = running.and_then(|r| Some((r, r.runs_out?))) else {
            return now + REAP_EVERY; // Never comes: the task is about to end.
        };
        if runs_out > now {
            return runs_out;
        }
        let output = match running.said.as_str() {
            "" => "TTL expired".to_owned(),
            said => format!("TTL expired (last output before timeout follows): {said}"),
        };
        if let Err(error) = self.set_status(&mut inner, id, Status::Critical, output) {
            tracing::error!(check = id, %error, "a check's expiry is lost");
        }
        inner.renew(id).unwrap_or(now + REAP_EVERY)
    }

    /// Deregisters what was critical for longer than its check allows.
    fn reap(self: &Arc<Self>) {
        let mut inner = self.inner.lock();
        let mut overdue = BTreeMap::new();
        for check in inner.state.all_checks() {
            let running = inner.running.get(&check.id);
            let critical = running.and_then(|running| running.critical_since);
            if let (Some(service), Some(after), Some(since)) =
                (&check.service, check.deregister_after, critical)
                && since.elapsed() > after
            {
                overdue.insert(service.clone(), check.id.clone());
            }
        }
        for (service, check) in overdue {
            tracing::info!(service, check, "deregistered: it was critical for too long");
            if let Err(error) = self.commit_one(&mut inner, Change::DropService(service)) {
                tracing::error!(%error, "a critical service cannot be deregistered");
            }
        }
    }
}

impl Inner {
    /// Gives a TTL check its whole time again; says until when.
    fn renew(&mut self, id: &str) -> Option<Instant> {
        let Kind::Ttl(ttl) = self.state.check(id)?.kind else {
            return None;
        };
        let until = Instant::now() + ttl;
        self.running.get_mut(id)?.runs_out = Some(until);
        Some(until)
    }
}

impl CheckTask {
    fn note(&mut self, status: Status) {
        self.critical_since = match status {
            Status::Critical => self.critical_since.or_else(|| Some(Instant::now())),
            _ => None,
        };
    }
}

/// The change that a registration of a check makes, if it makes one.
fn put_check(state: &State, mut check: Check, index: u64) -> Option<Change> {
    let before = state.check(&check.id).map(|check| &**check);
    if let Some(before) = before {
        check.status = before.status;
        check.output.clone_from(&before.output);
    }
    before
        .is_none_or(|before| *before.value() != check)
        .then(|| Change::PutCheck(Indexed::replacing(before, check, index)))
}

/// What a provider says, in Consul's way of cutting it.
fn shortened(output: &str) -> String {
    if output.len() <= OUTPUT_MAX {
        return output.to_owned();
    }
    let kept = &output[..output.floor_char_boundary(OUTPUT_MAX)];
    let (most, all) = (OUTPUT_MAX, output.len());
    format!("{kept} ... (captured {most} of {all} bytes)")
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::decode;
    use super::*;

    fn open(folder: &Path) -> Arc<Store> {
        let (journal, state) = Journal::open(folder).unwrap();
        let store = Store::new(journal, state);
        store.start();
        store
    }

    fn register(store: &Arc<Store>, body: &str) {
        let (service, checks) = decode::registration(body.as_bytes()).unwrap();
        store.register(service, checks, false).unwrap();
    }

    fn check(store: &Store, id: &str) -> Option<(Status, String)> {
        store.read(|state| {
            let check = state.check(id)?;
            Some((check.status, check.output.clone()))
        })
    }

    fn index(store: &Store, name: &str) -> u64 {
        store.read(|state| state.index_of(&Topic::name(name)))
    }

    const TTL: &str = r#"{"Name":"web","Check":{"TTL":"10s","Status":"passing",
        "DeregisterCriticalServiceAfter":"1s"}}"#;

    async fn seconds(count: u64) {
        tokio::time::sleep(Duration::from_secs(count)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_ttl_that_nobody_renews_turns_critical_once() {
        let folder = tempfile::tempdir().unwrap();
        let store = open(folder.path());
        register(&store, TTL);
        seconds(9).await;
        store
            .report_ttl("service:web", Status::Warning, "hm")
            .unwrap();
        seconds(9).await;
        assert_eq!(check(&store, "service:web").unwrap().0, Status::Warning);
        seconds(2).await;
        let expired = "TTL expired (last output before timeout follows): hm".to_owned();
        assert_eq!(
            check(&store, "service:web"),
            Some((Status::Critical, expired.clone()))
        );
        let at = index(&store, "web");
        seconds(11).await;
        assert_eq!(check(&store, "service:web").unwrap().1, expired);
        assert_eq!(index(&store, "web"), at);
        store
            .report_ttl("service:web", Status::Passing, "back")
            .unwrap();
        assert_eq!(check(&store, "service:web").unwrap().0, Status::Passing);
        store.close().await;
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_critical_too_long_is_deregistered_after_a_minute_at_least() {
        let folder = tempfile::tempdir().unwrap();
        let store = open(folder.path());
        register(&store, TTL);
        register(&store, r#"{"Name":"other","Check":{"TTL":"10s"}}"#);
        seconds(69).await;
        assert!(check(&store, "service:web").is_some());
        seconds(32).await;
        assert!(check(&store, "service:web").is_none());
        assert!(check(&store, "service:other").is_some());
        assert_eq!(store.inner.lock().running.len(), 1);
        store.close().await;
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_restart_a_ttl_keeps_its_status_and_has_its_whole_time() {
        let folder = tempfile::tempdir().unwrap();
        let store = open(folder.path());
        register(&store, TTL);
        seconds(9).await;
        store.close().await;
        drop(store);
        let store = open(folder.path());
        seconds(9).await;
        assert_eq!(check(&store, "service:web").unwrap().0, Status::Passing);
        seconds(2).await;
        assert_eq!(check(&store, "service:web").unwrap().0, Status::Critical);
        store.close().await;
    }

    #[tokio::test]
    async fn what_changes_nothing_moves_no_index_and_stops_no_check() {
        let folder = tempfile::tempdir().unwrap();
        let store = open(folder.path());
        register(&store, TTL);
        store
            .report_ttl("service:web", Status::Critical, "down")
            .unwrap();
        let at = index(&store, "web");
        // A provider that registers again does not bless itself.
        register(&store, TTL);
        store
            .report_ttl("service:web", Status::Critical, "still down")
            .unwrap();
        assert_eq!(index(&store, "web"), at);
        let (status, output) = check(&store, "service:web").unwrap();
        assert_eq!((status, output.as_str()), (Status::Critical, "still down"));
        store.close().await;
    }

    #[tokio::test]
    async fn a_check_that_went_reports_no_more() {
        let folder = tempfile::tempdir().unwrap();
        let store = open(folder.path());
        register(&store, TTL);
        let stopped = CancellationToken::new();
        stopped.cancel();
        store.report(&stopped, "service:web", Status::Critical, "late".to_owned());
        assert_eq!(check(&store, "service:web").unwrap().0, Status::Passing);
        store.close().await;
    }

    #[tokio::test]
    async fn checks_are_replaced_only_when_that_is_asked() {
        let folder = tempfile::tempdir().unwrap();
        let store = open(folder.path());
        register(
            &store,
            r#"{"Name":"web","Checks":[{"TTL":"1m"},{"TTL":"1m"}]}"#,
        );
        register(&store, TTL);
        let checks = |store: &Store| {
            store.read(|state| {
                let entry = state.service("web").unwrap();
                entry.checks.keys().cloned().collect::<Vec<_>>()
            })
        };
        assert_eq!(
            checks(&store),
            ["service:web", "service:web:1", "service:web:2"]
        );
        let (service, own) = decode::registration(TTL.as_bytes()).unwrap();
        store.register(service, own, true).unwrap();
        assert_eq!(checks(&store), ["service:web"]);
        assert_eq!(store.inner.lock().running.len(), 1);
        store.close().await;
    }

    #[tokio::test]
    async fn a_journal_that_grew_is_rewritten_while_changes_go_on() {
        let folder = tempfile::tempdir().unwrap();
        let store = open(folder.path());
        let tag = "t".repeat(10_000);
        let mut largest = 0;
        for port in 1..400 {
            let body = format!(r#"{{"Name":"web","Port":{port},"Tags":["{tag}"]}}"#);
            register(&store, &body);
            let file = folder.path().join("registry.jsonl");
            largest = largest.max(std::fs::metadata(file).unwrap().len());
            tokio::task::yield_now().await;
        }
        store.close().await;
        let length = std::fs::metadata(folder.path().join("registry.jsonl"))
            .unwrap()
            .len();
        assert!(length < largest, "{length} of {largest}");
        drop(store);
        let (_, state) = Journal::open(folder.path()).unwrap();
        assert_eq!(state.service("web").unwrap().service.port, 399);
    }
}
