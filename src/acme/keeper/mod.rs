//! Keeps the certificates of an account: looks every second what there is in its folder, and orders what is
//! missing or due. Of several proxies that share the folder one orders at a time, and the others see what
//! comes of it.

mod ordering;
mod renewal;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::ErrorKind,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::{
    task::spawn_blocking,
    time::{Instant, MissedTickBehavior, interval, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    board::{Board, NameStatus},
    challenges::Challenges,
    client::Client,
    known::Known,
    pauses::Pauses,
    stage::{PACE, Stage},
    store::{Held, Stamps, Store, certificate_file},
    ways::Ways,
};
use crate::config::AcmeAccount;

/// How long names are ordered one after the other, before the lock is let go of and it is looked what else has
/// changed. An order that has begun goes on to its end.
const ROUND: Duration = Duration::from_secs(60);

/// How long the end of the process waits for the disk.
const FAREWELL: Duration = Duration::from_secs(1);

/// What keeps the certificates of an account.
pub(crate) struct Keeper {
    account: AcmeAccount,
    ways: Ways,
    stage: Stage,
    board: Arc<Board>,
    /// Opened when it is needed.
    client: Option<Client>,
    names: BTreeMap<String, Known>,
    pauses: Pauses,
    /// That of the folder, while names are ordered.
    lock: Option<File>,
    /// The name whose order is under way, once that is noted.
    ordering: Option<String>,
}

/// What listeners want of an account.
pub(crate) struct Wanted {
    /// The names that they want certificates for.
    pub names: BTreeSet<String>,
    /// How they can be asked for a proof.
    pub ways: Ways,
}

impl Keeper {
    /// Begins with what the folder holds for what is wanted.
    pub(crate) fn new(
        account: AcmeAccount,
        wanted: Wanted,
        challenges: Arc<Challenges>,
        board: Arc<Board>,
    ) -> Self {
        let store = Store {
            folder: account.folder.clone(),
        };
        let Wanted { names, ways } = wanted;
        let read = names.into_iter().map(|name| (read(&store, &name), name));
        let read: Vec<_> = read
            .map(|((stamps, held), name)| (name, stamps, held))
            .collect();
        let mut keeper = Self {
            pauses: Pauses::new(&account.directory),
            account,
            ways,
            stage: Stage::new(store, challenges),
            board,
            client: None,
            names: BTreeMap::new(),
            lock: None,
            ordering: None,
        };
        keeper.note(read);
        keeper.show();
        keeper
    }

    /// Keeps the certificates of the names that are wanted now, until its end, which may be the `process`'s.
    pub(crate) async fn run(
        mut self,
        wanted: impl Fn() -> Wanted + Send + Sync,
        ending: CancellationToken,
        process: CancellationToken,
    ) {
        let following = self.stage.clone().follow_others(ending.clone());
        tokio::join!(self.keep(wanted, &ending), following);
        if !process.is_cancelled() {
            let _ = timeout(FAREWELL, self.take_back_the_attempt()).await;
        }
        if self.lock.is_some() {
            // It ends amid an order. What the disk takes too late, the others give for some minutes.
            let _ = timeout(FAREWELL, self.stage.show(Vec::new())).await;
        }
        self.stage.challenges.show(&self.account.folder, Vec::new());
    }

    async fn keep(
        &mut self,
        wanted: impl Fn() -> Wanted + Send + Sync,
        ending: &CancellationToken,
    ) {
        let mut tick = interval(PACE);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while ending.run_until_cancelled(tick.tick()).await.is_some() {
            let round = self.round(&wanted);
            if ending.run_until_cancelled(round).await.is_none() {
                break;
            }
        }
    }

    async fn round(&mut self, wanted: &(impl Fn() -> Wanted + Sync)) {
        let Wanted { names, ways } = wanted();
        self.ways = ways;
        self.look(names).await;
        let due = self.due();
        if due.is_empty() {
            self.pauses.unlocked();
            if !self.pauses.is_waiting(now()) {
                self.ask_for_a_window().await;
            }
        } else {
            self.order_due(due, wanted).await;
        }
        self.show();
    }

    async fn order_due(&mut self, due: Vec<String>, wanted: &(impl Fn() -> Wanted + Sync)) {
        match self.aside(Store::lock).await {
            Some(Ok(lock)) => {
                self.lock = Some(lock);
                self.pauses.unlocked();
                let began = Instant::now();
                for name in due {
                    if self.pauses.is_waiting(now()) || began.elapsed() >= ROUND {
                        break;
                    }
                    // An order may take minutes, and a reload comes meanwhile.
                    let Wanted { names, ways } = wanted();
                    self.ways = ways;
                    if names.contains(&name) {
                        self.order(name).await;
                    }
                }
                self.lock = None;
            }
            Some(Err(error)) if error.kind() == ErrorKind::WouldBlock => {
                self.pauses.locked(&self.account.folder);
            }
            Some(Err(error)) => {
                let folder = self.account.folder.display();
                let words = format!("{folder} cannot be written to: {error}");
                self.pauses.obstructed(words);
            }
            // The process ends.
            None => {}
        }
    }

    /// Reads what has changed.
    async fn look(&mut self, wanted: BTreeSet<String>) {
        self.names.retain(|name, _| wanted.contains(name));
        let known = wanted.into_iter().map(|name| {
            let known = self.names.get(&name);
            // What cannot be read is tried again, though nothing has changed.
            let known = known.filter(|known| known.held.unreadable.is_none());
            let stamps = known.map(|known| known.stamps);
            (name, stamps)
        });
        let known: Vec<_> = known.collect();
        let look = move |store: &Store| {
            let changed = known.into_iter().filter_map(|(name, before)| {
                let is_known = before.is_some_and(|before| before == store.stamps(&name));
                (!is_known).then(|| {
                    let (stamps, held) = read(store, &name);
                    (name, stamps, held)
                })
            });
            (changed.collect::<Vec<_>>(), store.pause())
        };
        if let Some((read, pause)) = self.aside(look).await {
            self.note(read);
            self.pauses.follow(pause);
        }
    }

    fn note(&mut self, read: Vec<(String, Stamps, Held)>) {
        for (name, stamps, mut held) in read {
            let before = self.names.get(&name);
            if let Some(before) = before {
                held.follow(&before.held, stamps, &self.account.folder);
            }
            let same = before.filter(|before| before.held.issued == held.issued);
            let known = Known {
                window: same.and_then(|same| same.window),
                ask_at: same.map_or(0, |same| same.ask_at),
                luck: same.map_or_else(fastrand::f64, |same| same.luck),
                stamps,
                held,
            };
            self.names.insert(name, known);
        }
    }

    /// The names for which a certificate is to be ordered now.
    fn due(&self) -> Vec<String> {
        let now = now();
        if self.pauses.is_waiting(now) {
            return Vec::new();
        }
        let is_due = |known: &Known| {
            known.held.unreadable.is_none() && known.due_at(&self.account.directory, now) <= now
        };
        let names = self.names.iter();
        let mut due: Vec<_> = names.filter(|(_, known)| is_due(known)).collect();
        due.sort_by_key(|(_, known)| known.urgency(&self.account.directory, now));
        due.into_iter().map(|(name, _)| name.clone()).collect()
    }

    fn show(&self) {
        let now = now();
        let paused_until = self.pauses.until(now);
        let names = self.names.iter().map(|(name, known)| {
            let last = known.held.last.as_ref();
            let last = last.filter(|last| last.directory == self.account.directory);
            let due_at = known.due_at(&self.account.directory, now);
            let obstacle = self.pauses.obstacle().filter(|_| due_at <= now);
            let obstacle = obstacle.map(str::to_owned);
            NameStatus {
                name: name.clone(),
                file: certificate_file(&self.account.folder, name),
                issued: known.held.issued.is_some(),
                next: due_at.max(paused_until),
                failures: last.map_or(0, |last| last.failures),
                error: known
                    .held
                    .unreadable
                    .clone()
                    .or(obstacle)
                    .or_else(|| last.and_then(|last| last.error.clone())),
            }
        });
        self.board.show(&self.account.folder, names.collect());
    }

    /// Does something with the folder, off the runtime's threads; `None` where the process ends.
    async fn aside<T: Send + 'static>(
        &self,
        what: impl FnOnce(&Store) -> T + Send + 'static,
    ) -> Option<T> {
        let store = self.stage.store.clone();
        spawn_blocking(move || what(&store)).await.ok()
    }
}

fn read(store: &Store, name: &str) -> (Stamps, Held) {
    // Before the files, which are no older then.
    let stamps = store.stamps(name);
    (stamps, store.read(name))
}

/// Unix time in seconds.
fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap_or_default().as_secs().cast_signed()
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::{super::challenges::Proof, *};

    const NAMES: [&str; 2] = ["cart.example.com", "shop.example.com"];

    fn names() -> BTreeSet<String> {
        NAMES.map(str::to_owned).into()
    }

    fn wanted() -> Wanted {
        Wanted {
            names: names(),
            ways: Ways::of(&[]),
        }
    }

    /// A keeper of these names, by an authority that listens there.
    fn keeper(folder: &std::path::Path, authority: std::net::SocketAddr) -> Keeper {
        let account = AcmeAccount {
            directory: format!("https://{authority}/directory"),
            email: None,
            ca: None,
            folder: folder.to_owned(),
        };
        let board = Arc::new(Board::default());
        Keeper::new(account, wanted(), Arc::default(), board)
    }

    #[tokio::test]
    async fn an_authority_that_is_not_reached_is_asked_for_one_name_and_then_none() {
        let folder = tempfile::tempdir().unwrap();
        let gone = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let authority = gone.local_addr().unwrap();
        drop(gone);
        let mut keeper = keeper(folder.path(), authority);
        keeper.round(&wanted).await;
        let failures = keeper.board.names().into_iter().map(|one| one.failures);
        assert_eq!(failures.collect::<Vec<_>>(), [1, 0]);
        let waits = |keeper: &Keeper| keeper.board.names().iter().all(|one| one.next > now());
        assert!(waits(&keeper));
        // A restart goes on with the pause.
        let mut after = super::tests::keeper(folder.path(), authority);
        after.round(&wanted).await;
        assert!(waits(&after));
        assert_eq!(after.board.failed.value(), 0);
        // It was written by a clock that is years ahead.
        let mut pause = after.stage.store.pause().unwrap();
        pause.not_before += 1_000_000_000;
        after.stage.store.set_pause(Some(&pause)).unwrap();
        after.round(&wanted).await;
        assert_eq!(after.board.failed.value(), 1);
    }

    #[tokio::test]
    async fn an_order_that_the_processs_end_breaks_off_is_not_made_again_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let authority = silent.local_addr().unwrap();
        let mut first = keeper(folder.path(), authority);
        tokio::select! {
            () = first.round(&wanted) => panic!("it waits for the authority"),
            asked = silent.accept() => drop(asked.unwrap()),
        }
        drop(first);
        let again = keeper(folder.path(), authority);
        let shown = again.board.names();
        assert_eq!(shown[0].failures, 1);
        assert!(shown[0].next > now() + 60, "{shown:?}");
        assert_eq!(again.due(), [NAMES[1]], "the other one was not begun");
    }

    #[tokio::test]
    async fn an_order_that_a_reload_breaks_off_is_no_failure() {
        let folder = tempfile::tempdir().unwrap();
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let authority = silent.local_addr().unwrap();
        let ending = CancellationToken::new();
        let running = keeper(folder.path(), authority);
        let running = running.run(wanted, ending.clone(), CancellationToken::new());
        let running = tokio::spawn(running);
        let (_asked, _) = silent.accept().await.unwrap();
        assert_eq!(
            keeper(folder.path(), authority).board.names()[0].failures,
            1
        );
        ending.cancel();
        running.await.unwrap();
        let again = keeper(folder.path(), authority);
        assert_eq!(again.board.names()[0].failures, 0);
        assert_eq!(again.due(), NAMES);
    }

    #[tokio::test]
    async fn a_name_that_is_wanted_no_more_is_not_ordered_in_the_round_that_runs() {
        let folder = tempfile::tempdir().unwrap();
        let gone = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut keeper = keeper(folder.path(), gone.local_addr().unwrap());
        drop(gone);
        let asked = std::sync::atomic::AtomicUsize::new(0);
        let at_first = || {
            let is_first = asked.fetch_add(1, std::sync::atomic::Ordering::Relaxed) == 0;
            Wanted {
                names: if is_first { names() } else { BTreeSet::new() },
                ways: Ways::of(&[]),
            }
        };
        keeper.round(&at_first).await;
        assert_eq!(keeper.board.failed.value(), 0);
        let shown = keeper.board.names();
        assert!(shown.iter().all(|one| one.failures == 0), "{shown:?}");
    }

    #[tokio::test]
    async fn another_proxys_proofs_are_given_while_this_one_waits_and_its_own_end_with_it() {
        let folder = tempfile::tempdir().unwrap();
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let keeper = keeper(folder.path(), silent.local_addr().unwrap());
        let stage = keeper.stage.clone();
        let ending = CancellationToken::new();
        let running = tokio::spawn(keeper.run(wanted, ending.clone(), ending.clone()));
        let (_asked, _) = silent.accept().await.unwrap();
        let proof = Proof {
            name: "a.example.com".to_owned(),
            token: "token".to_owned(),
            answer: "answer".to_owned(),
        };
        stage.store.share(&[proof]).unwrap();
        let path = "/.well-known/acme-challenge/token";
        let given = async {
            while stage.challenges.answer(path).is_none() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(Duration::from_secs(60), given).await.unwrap();
        // It ends amid an order.
        ending.cancel();
        running.await.unwrap();
        assert_eq!(stage.store.proofs(), []);
        assert!(stage.challenges.answer(path).is_none());
        stage.store.lock().unwrap();
    }

    #[tokio::test]
    async fn what_cannot_be_read_has_nothing_ordered_in_its_place() {
        let folder = tempfile::tempdir().unwrap();
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let authority = silent.local_addr().unwrap();
        let certificate = certificate_file(folder.path(), NAMES[0]);
        std::fs::create_dir(&certificate).unwrap();
        let mut keeper = keeper(folder.path(), authority);
        assert_eq!(keeper.due(), [NAMES[1]]);
        let account = keeper.stage.store.account_file(&keeper.account.directory);
        std::fs::write(account, "{").unwrap();
        keeper.round(&wanted).await;
        let shown = keeper.board.names();
        let errors: Vec<_> = shown.into_iter().filter_map(|one| one.error).collect();
        assert!(errors[0].contains("cannot be read"), "{errors:?}");
        assert!(errors[1].contains("the account in "), "{errors:?}");
        assert_eq!(keeper.board.failed.value(), 0);
        std::fs::remove_dir(&certificate).unwrap();
        keeper.look(names()).await;
        keeper.pauses.unobstructed();
        assert_eq!(keeper.due(), NAMES);
    }

    #[tokio::test]
    async fn a_folder_that_takes_nothing_is_no_order_that_failed() {
        let folder = tempfile::tempdir().unwrap();
        let own = folder.path().join("own");
        std::fs::create_dir_all(own.join("lock")).unwrap();
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let authority = silent.local_addr().unwrap();
        let mut keeper = keeper(&own, authority);
        keeper.round(&wanted).await;
        for one in keeper.board.names() {
            let error = one.error.unwrap_or_default();
            assert!(error.contains("cannot be written to"), "{error}");
            assert_eq!(one.failures, 0);
        }
        assert_eq!(keeper.board.failed.value(), 0);
        assert!(keeper.due().is_empty(), "it is not tried each second");
        // Nor is a folder that can be entered, in which no order can be noted.
        std::fs::remove_dir(own.join("lock")).unwrap();
        let noted = own.join(format!("{}.order.json.new", NAMES[0]));
        std::fs::create_dir_all(&noted).unwrap();
        keeper.pauses.unobstructed();
        keeper.round(&wanted).await;
        assert!(keeper.pauses.obstacle().is_some());
        assert_eq!(keeper.board.failed.value(), 0);
        std::fs::remove_dir(&noted).unwrap();
        keeper.pauses.unobstructed();
        assert_eq!(keeper.due(), NAMES, "both are due at once");
    }
}
