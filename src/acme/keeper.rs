//! Keeps the certificates of an account: looks every second what there is in its folder, and orders what is
//! missing or due. Of several proxies that share the folder one orders at a time, and the others see what
//! comes of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, ErrorKind},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use instant_acme::{CertificateIdentifier, Error};
use tokio::{
    task::spawn_blocking,
    time::{Instant, interval, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    board::{Board, NameStatus},
    challenges::Challenges,
    client::Client,
    failure::{Concern, Failure},
    known::{Attempt, Known},
    order::{Stage, order},
    schedule::{Window, after_account_failure, after_success, believed},
    store::{Held, LONGEST, LastOrder, Pause, Stamps, Store, certificate_file, issued},
    ways::Ways,
};
use crate::config::AcmeAccount;

/// How often it is looked whether anything is to be done.
const PACE: Duration = Duration::from_secs(1);

/// How long after a question for the time of a renewal the next is made, where the authority does not say:
/// in seconds.
const ASK_AGAIN: i64 = 6 * 3600;
/// At least.
const LEAST: i64 = 60;

/// How long after a folder took nothing it is tried again. No authority is asked for that.
const FOLDER_AGAIN: Duration = Duration::from_secs(5);

/// What keeps the certificates of an account.
pub(crate) struct Keeper {
    account: AcmeAccount,
    ways: Ways,
    stage: Stage,
    board: Arc<Board>,
    /// Opened when it is needed.
    client: Option<Client>,
    names: BTreeMap<String, Known>,
    /// That of the account, as the folder has it.
    pause: Option<Pause>,
    /// Why the folder takes nothing, where it does not, and when it is tried again.
    obstacle: Option<(String, Instant)>,
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
            account,
            ways,
            stage: Stage { store, challenges },
            board,
            client: None,
            names: BTreeMap::new(),
            pause: None,
            obstacle: None,
        };
        keeper.note(read);
        keeper.show();
        keeper
    }

    /// Keeps the certificates of the names that are wanted now, until its end.
    pub(crate) async fn run(
        mut self,
        wanted: impl Fn() -> Wanted + Send,
        ending: CancellationToken,
    ) {
        let mut tick = interval(PACE);
        while ending.run_until_cancelled(tick.tick()).await.is_some() {
            let Wanted { names, ways } = wanted();
            self.ways = ways;
            let round = self.round(names);
            if ending.run_until_cancelled(round).await.is_none() {
                break;
            }
        }
        self.stage.challenges.show(&self.account.folder, Vec::new());
    }

    async fn round(&mut self, wanted: BTreeSet<String>) {
        self.look(wanted).await;
        let due = self.due();
        if due.is_empty() {
            if !self.is_waiting(now()) {
                self.ask_for_a_window().await;
            }
            self.follow_others().await;
        } else {
            match self.aside(Store::lock).await {
                Some(Ok(lock)) => {
                    for name in due {
                        if self.is_waiting(now()) {
                            break;
                        }
                        self.order(name).await;
                    }
                    drop(lock);
                }
                Some(Err(error)) if error.kind() == ErrorKind::WouldBlock => {
                    self.follow_others().await;
                }
                Some(Err(error)) => {
                    let folder = self.account.folder.display();
                    let words = format!("{folder} cannot be written to: {error}");
                    self.obstructed(words);
                }
                // The process ends.
                None => {}
            }
        }
        self.show();
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
            self.pause = pause;
        }
    }

    fn note(&mut self, read: Vec<(String, Stamps, Held)>) {
        for (name, stamps, mut held) in read {
            let before = self.names.get(&name);
            if let (Some(before), true) = (before, held.unreadable.is_some()) {
                held.issued = before.held.issued.clone();
                held.last = before.held.last.clone();
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
        if self.is_waiting(now) {
            return Vec::new();
        }
        let is_due = |known: &Known| {
            known.held.unreadable.is_none() && known.due_at(&self.account.directory, now) <= now
        };
        let names = self.names.iter();
        let due = names.filter(|(_, known)| is_due(known));
        due.map(|(name, _)| name.clone()).collect()
    }

    /// Whether all names wait, for the account or for the folder.
    fn is_waiting(&self, now: i64) -> bool {
        let obstacle = self.obstacle.as_ref();
        self.paused_until(now) > now || obstacle.is_some_and(|(_, until)| *until > Instant::now())
    }

    fn paused_until(&self, now: i64) -> i64 {
        let pause = self.pause.as_ref();
        let pause = pause.filter(|pause| pause.directory == self.account.directory);
        pause.map_or(0, |pause| believed(pause.not_before, now))
    }

    /// Waits for a folder that takes nothing. That is no failure of an order: no authority was asked.
    fn obstructed(&mut self, words: String) {
        let before = self.obstacle.as_ref();
        if before.is_none_or(|(before, _)| *before != words) {
            tracing::warn!(error = words, "no certificate can be ordered");
        }
        self.obstacle = Some((words, Instant::now() + FOLDER_AGAIN));
    }

    /// Has the listeners give the proofs that another proxy of the folder wants.
    async fn follow_others(&self) {
        if let Some(proofs) = self.aside(Store::proofs).await {
            self.stage.challenges.show(&self.account.folder, proofs);
        }
    }

    /// Orders a certificate, unless another proxy has done so meanwhile.
    async fn order(&mut self, name: String) {
        let asked = name.clone();
        let Some((stamps, held)) = self.aside(move |store| read(store, &asked)).await else {
            return;
        };
        let is_known = self
            .names
            .get(&name)
            .is_some_and(|known| known.stamps == stamps);
        if !is_known || held.unreadable.is_some() {
            self.note(vec![(name.clone(), stamps, held)]);
            if !self.due().contains(&name) {
                return;
            }
        }
        let outcome = match self.note_attempt(&name).await {
            Ok(()) => self.order_by_an_account(&name).await,
            Err(failure) => Err(failure),
        };
        let outcome = match outcome {
            Ok(pem) => self.issued(&name, pem).await,
            failed => failed.map(drop),
        };
        match outcome {
            Ok(()) => self.set_pause(None).await,
            Err(failure) => self.failed(&name, failure).await,
        }
        self.show();
    }

    /// Notes an order before it begins, as one that is broken off. What is in memory stays until its end.
    async fn note_attempt(&mut self, name: &str) -> Result<(), Failure> {
        if let Some(client) = &mut self.client {
            client.write(&self.stage.store)?;
        }
        let attempt = Attempt {
            now: now(),
            asked: None,
            luck: fastrand::f64(),
            error: None,
        };
        let begun = self.names[name].failing(&self.account.directory, attempt);
        let name = name.to_owned();
        let note = move |store: &Store| store.note(&name, &begun);
        if let Some(Err(error)) = self.aside(note).await {
            let folder = self.account.folder.display();
            let words = format!("nothing can be written to {folder}: {error}");
            return Err(Failure::of_folder(words));
        }
        self.obstacle = None;
        Ok(())
    }

    /// Orders, once more by a new account where the authority does not know the one that there is.
    async fn order_by_an_account(&mut self, name: &str) -> Result<String, Failure> {
        let mut outcome = self.try_to_order(name).await;
        if let Err(failure) = &outcome
            && failure.concerns == Concern::UnknownAccount
            && let Some(client) = self.client.take()
        {
            let id = client.account.id().to_owned();
            self.aside(move |store| store.forget_account(&id)).await;
            outcome = self.try_to_order(name).await;
        }
        // What cannot be written now is written over by the next order.
        let _ = self.stage.show(Vec::new()).await;
        outcome
    }

    async fn try_to_order(&mut self, name: &str) -> Result<String, Failure> {
        let known = &self.names[name];
        let last = known.held.last.as_ref();
        let by = self
            .ways
            .after(last.map_or(0, |last| last.failures))
            .clone();
        // One that was put there by hand is none of this account's orders.
        let issued = known.held.issued.as_ref();
        let own = issued.filter(|it| it.by.as_ref() == Some(&self.account.directory));
        let before = own.and_then(|issued| identifier(&issued.der));
        if self.client.is_none() {
            self.client = Some(Client::open(&self.account, &self.stage.store).await?);
        }
        let Some(client) = &mut self.client else {
            return Err(Failure::new("there is no account"));
        };
        client.write(&self.stage.store)?;
        // What was asked before is of another order.
        client.asked_to_wait();
        let held = self.names[name].held.issued.as_ref();
        let ordering = order(&client.account, name, &by, before, held, &self.stage);
        match timeout(LONGEST, ordering).await {
            Ok(outcome) => outcome,
            Err(_) => Err(Failure::new("the order has not come to an end in time")),
        }
    }

    /// Keeps a certificate that was issued.
    async fn issued(&mut self, name: &str, pem: String) -> Result<(), Failure> {
        let validity = issued(pem.as_bytes(), name).map_err(Failure::new)?.validity;
        let last = LastOrder {
            directory: self.account.directory.clone(),
            failures: 0,
            error: None,
            next: after_success(now(), validity),
        };
        let (asked, directory) = (name.to_owned(), self.account.directory.clone());
        let keep = move |store: &Store| -> io::Result<_> {
            store.keep(&asked, &pem, &directory)?;
            store.note(&asked, &last)?;
            // One that stays gives the certificate that is there, which is not taken again.
            let _ = store.forget_pending(&asked);
            Ok(read(store, &asked))
        };
        match self.aside(keep).await {
            Some(Ok((stamps, held))) => {
                self.note(vec![(name.to_owned(), stamps, held)]);
                self.board.issued.add_one();
                tracing::info!(name, not_after = validity.until, "a certificate was issued");
                Ok(())
            }
            Some(Err(error)) => {
                let folder = self.account.folder.display();
                let words = format!("the certificate cannot be written to {folder}: {error}");
                Err(Failure::new(words))
            }
            None => Ok(()),
        }
    }

    /// Notes that there is no certificate, and when the next is ordered.
    async fn failed(&mut self, name: &str, failure: Failure) {
        if failure.concerns == Concern::Folder {
            let last = self.names.get(name).and_then(|it| it.held.last.clone());
            let name = name.to_owned();
            let restore = move |store: &Store| store.restore(&name, last.as_ref());
            // What cannot be taken back waits as an order that was broken off does.
            self.aside(restore).await;
            return self.obstructed(failure.words);
        }
        self.board.failed.add_one();
        let asked = self.client.as_ref().and_then(Client::asked_to_wait);
        let now = now();
        let pause = (failure.concerns != Concern::Name).then(|| self.longer_pause(now, asked));
        self.set_pause(pause).await;
        let Some(known) = self.names.get_mut(name) else {
            return;
        };
        let error = failure.words;
        let attempt = Attempt {
            now,
            asked,
            luck: fastrand::f64(),
            error: Some(error.clone()),
        };
        let last = known.failing(&self.account.directory, attempt);
        let seconds = last.next - now;
        tracing::warn!(
            name,
            error,
            seconds,
            "no certificate was issued, and what is there stays"
        );
        known.held.last = Some(last.clone());
        let name = name.to_owned();
        let note = move |store: &Store| {
            store
                .note(&name, &last)
                .map(|()| (store.stamps(&name), name))
        };
        // Where it cannot be written this process knows it all the same.
        if let Some(Ok((stamps, name))) = self.aside(note).await
            && let Some(known) = self.names.get_mut(&name)
        {
            known.stamps = stamps;
        }
    }

    fn longer_pause(&self, now: i64, asked: Option<i64>) -> Pause {
        let before = self.pause.as_ref();
        let before = before.filter(|before| before.directory == self.account.directory);
        let failures = before.map_or(0, |before| before.failures).saturating_add(1);
        Pause {
            directory: self.account.directory.clone(),
            failures,
            not_before: after_account_failure(now, failures, asked, fastrand::f64()),
        }
    }

    async fn set_pause(&mut self, pause: Option<Pause>) {
        if self.pause != pause {
            self.pause.clone_from(&pause);
            // Where it cannot be written no order can be noted either, and none is made.
            self.aside(move |store| store.set_pause(pause.as_ref()))
                .await;
        }
    }

    /// Asks the authority when it would have a certificate renewed, where it has not said so for long.
    async fn ask_for_a_window(&mut self) {
        let now = now();
        let is_due = |known: &Known| {
            // Further off than it is ever set: by a clock that was wrong.
            let is_time = known.ask_at <= now || known.ask_at > now + 5 * ASK_AGAIN;
            is_time && known.is_of(&self.account.directory)
        };
        let mut names = self.names.iter();
        let due = names.find_map(|(name, known)| {
            let issued = known.held.issued.as_ref().filter(|_| is_due(known))?;
            Some((name.clone(), identifier(&issued.der)))
        });
        let Some((name, identifier)) = due else {
            return;
        };
        let asked = match identifier {
            Some(identifier) => self.window(&identifier).await,
            None => None,
        };
        if let Some(known) = self.names.get_mut(&name) {
            let again = asked.map_or(ASK_AGAIN, |(_, again)| again);
            known.ask_at = now + again.clamp(LEAST, 4 * ASK_AGAIN);
            known.window = asked.map(|(window, _)| window).or(known.window);
        }
    }

    /// When a certificate is to be renewed, and after how many seconds to ask again.
    async fn window(&mut self, of: &CertificateIdentifier<'_>) -> Option<(Window, i64)> {
        if self.client.is_none() {
            // An account is made for an order, and not to ask.
            self.aside(Store::account).await?.ok()??;
            self.client = Client::open(&self.account, &self.stage.store).await.ok();
        }
        match self.client.as_ref()?.account.renewal_info(of).await {
            Ok((info, again)) => {
                let window = Window {
                    from: info.suggested_window.start.unix_timestamp(),
                    until: info.suggested_window.end.unix_timestamp(),
                };
                Some((window, again.as_secs().cast_signed()))
            }
            Err(Error::Unsupported(_)) => None,
            Err(error) => {
                tracing::debug!(%error, "the authority does not say when to renew");
                None
            }
        }
    }

    fn show(&self) {
        let now = now();
        let paused_until = self.paused_until(now);
        let names = self.names.iter().map(|(name, known)| {
            let last = known.held.last.as_ref();
            let last = last.filter(|last| last.directory == self.account.directory);
            let due_at = known.due_at(&self.account.directory, now);
            let obstacle = self.obstacle.as_ref().filter(|_| due_at <= now);
            let obstacle = obstacle.map(|(words, _)| words.clone());
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

/// How the authority knows a certificate (RFC 9773 4.1).
fn identifier(
    der: &rustls::pki_types::CertificateDer<'_>,
) -> Option<CertificateIdentifier<'static>> {
    let identifier = CertificateIdentifier::try_from(der).ok()?;
    Some(identifier.into_owned())
}

/// Unix time in seconds.
fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap_or_default().as_secs().cast_signed()
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    const NAMES: [&str; 2] = ["cart.example.com", "shop.example.com"];

    fn names() -> BTreeSet<String> {
        NAMES.map(str::to_owned).into()
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
        let wanted = Wanted {
            names: names(),
            ways: Ways::of(&[]),
        };
        Keeper::new(account, wanted, Arc::default(), board)
    }

    #[tokio::test]
    async fn an_authority_that_is_not_reached_is_asked_for_one_name_and_then_none() {
        let folder = tempfile::tempdir().unwrap();
        let gone = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let authority = gone.local_addr().unwrap();
        drop(gone);
        let mut keeper = keeper(folder.path(), authority);
        keeper.round(names()).await;
        let failures = keeper.board.names().into_iter().map(|one| one.failures);
        assert_eq!(failures.collect::<Vec<_>>(), [1, 0]);
        let waits = |keeper: &Keeper| keeper.board.names().iter().all(|one| one.next > now());
        assert!(waits(&keeper));
        // A restart goes on with the pause.
        let mut after = super::tests::keeper(folder.path(), authority);
        after.round(names()).await;
        assert!(waits(&after));
        assert_eq!(after.board.failed.value(), 0);
        // It was written by a clock that is years ahead.
        let mut pause = after.pause.clone().unwrap();
        pause.not_before += 1_000_000_000;
        after.stage.store.set_pause(Some(&pause)).unwrap();
        after.round(names()).await;
        assert_eq!(after.board.failed.value(), 1);
    }

    #[tokio::test]
    async fn an_order_that_the_processs_end_breaks_off_is_not_made_again_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let authority = silent.local_addr().unwrap();
        let mut first = keeper(folder.path(), authority);
        tokio::select! {
            () = first.round(names()) => panic!("it waits for the authority"),
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
    async fn what_cannot_be_read_has_nothing_ordered_in_its_place() {
        let folder = tempfile::tempdir().unwrap();
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let authority = silent.local_addr().unwrap();
        let certificate = certificate_file(folder.path(), NAMES[0]);
        std::fs::create_dir(&certificate).unwrap();
        let mut keeper = keeper(folder.path(), authority);
        assert_eq!(keeper.due(), [NAMES[1]]);
        std::fs::write(folder.path().join("account.json"), "{").unwrap();
        keeper.round(names()).await;
        let shown = keeper.board.names();
        let errors: Vec<_> = shown.into_iter().filter_map(|one| one.error).collect();
        assert!(errors[0].contains("cannot be read"), "{errors:?}");
        assert!(errors[1].contains("the account in "), "{errors:?}");
        assert_eq!(keeper.board.failed.value(), 0);
        std::fs::remove_dir(&certificate).unwrap();
        keeper.look(names()).await;
        keeper.obstacle = None;
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
        keeper.round(names()).await;
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
        keeper.obstacle = None;
        keeper.round(names()).await;
        assert!(keeper.obstacle.is_some());
        assert_eq!(keeper.board.failed.value(), 0);
        std::fs::remove_dir(&noted).unwrap();
        keeper.obstacle = None;
        assert_eq!(keeper.due(), NAMES, "both are due at once");
    }
}
