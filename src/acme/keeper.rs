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
    time::{interval, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    board::{Board, NameStatus},
    challenges::Challenges,
    client::Client,
    failure::Failure,
    known::Known,
    order::{Stage, order},
    schedule::{Window, after_failure, after_success},
    store::{Held, LONGEST, LastOrder, Stamps, Store, certificate_file, issued},
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

/// What keeps the certificates of an account.
pub(crate) struct Keeper {
    account: AcmeAccount,
    ways: Ways,
    stage: Stage,
    board: Arc<Board>,
    /// Opened when it is needed.
    client: Option<Client>,
    names: BTreeMap<String, Known>,
}

impl Keeper {
    /// Begins with what the folder holds for these names.
    pub(crate) fn new(
        account: AcmeAccount,
        ways: Ways,
        challenges: Arc<Challenges>,
        board: Arc<Board>,
        names: BTreeSet<String>,
    ) -> Self {
        let store = Store {
            folder: account.folder.clone(),
        };
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
        };
        keeper.note(read);
        keeper.show();
        keeper
    }

    /// Keeps the certificates of the names that are wanted now, until the process ends.
    pub(crate) async fn run(
        mut self,
        wanted: impl Fn() -> BTreeSet<String> + Send,
        ending: CancellationToken,
    ) {
        let mut tick = interval(PACE);
        while ending.run_until_cancelled(tick.tick()).await.is_some() {
            let round = self.round(wanted());
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
            self.ask_for_a_window().await;
            self.follow_others().await;
        } else {
            match self.aside(Store::lock).await {
                Some(Ok(lock)) => {
                    for name in due {
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
                    for name in due {
                        self.failed(&name, Failure::new(words.clone())).await;
                    }
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
            let stamps = self.names.get(&name).map(|known| known.stamps);
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
            changed.collect::<Vec<_>>()
        };
        if let Some(read) = self.aside(look).await {
            self.note(read);
        }
    }

    fn note(&mut self, read: Vec<(String, Stamps, Held)>) {
        for (name, stamps, held) in read {
            let before = self.names.get(&name);
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
        let names = self.names.iter();
        let due = names.filter(|(_, known)| known.due_at(&self.account.directory) <= now);
        due.map(|(name, _)| name.clone()).collect()
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
        if !is_known {
            self.note(vec![(name.clone(), stamps, held)]);
            if !self.due().contains(&name) {
                return;
            }
        }
        let mut outcome = self.try_to_order(&name).await;
        if outcome.as_ref().is_err_and(|failure| failure.is_of_account)
            && let Some(client) = self.client.take()
        {
            let id = client.account.id().to_owned();
            self.aside(move |store| store.forget_account(&id)).await;
            outcome = self.try_to_order(&name).await;
        }
        // What cannot be written now is written over by the next order.
        let _ = self.stage.show(Vec::new()).await;
        let outcome = match outcome {
            Ok(pem) => self.issued(&name, pem).await,
            failed => failed.map(drop),
        };
        if let Err(failure) = outcome {
            self.failed(&name, failure).await;
        }
        self.show();
    }

    async fn try_to_order(&mut self, name: &str) -> Result<String, Failure> {
        let known = &self.names[name];
        let last = known.held.last.as_ref();
        let by = self
            .ways
            .after(last.map_or(0, |last| last.failures))
            .clone();
        let is_of_this = known.is_of(&self.account.directory);
        let before = known.held.issued.as_ref().filter(|_| is_of_this);
        let before = before.and_then(|issued| identifier(&issued.der));
        if self.client.is_none() {
            self.client = Some(Client::open(&self.account, &self.stage.store).await?);
        }
        let Some(client) = &self.client else {
            return Err(Failure::new("there is no account"));
        };
        // What was asked before is of another order.
        client.asked_to_wait();
        let ordering = order(&client.account, name, &by, before, &self.stage);
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
            issued_by: Some(self.account.directory.clone()),
            failures: 0,
            error: None,
            next: after_success(now(), validity),
        };
        let asked = name.to_owned();
        let keep = move |store: &Store| -> io::Result<_> {
            store.keep(&asked, &pem)?;
            store.note(&asked, &last)?;
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
        self.board.failed.add_one();
        let asked = self.client.as_ref().and_then(Client::asked_to_wait);
        let Some(known) = self.names.get_mut(name) else {
            return;
        };
        let before = known.held.last.take().unwrap_or_default();
        let is_same = before.directory == self.account.directory;
        let failures = if is_same {
            before.failures.saturating_add(1)
        } else {
            1
        };
        let now = now();
        let next = after_failure(now, failures, asked, fastrand::f64());
        let seconds = next - now;
        let error = failure.words;
        tracing::warn!(
            name,
            error,
            seconds,
            "no certificate was issued, and what is there stays"
        );
        let last = LastOrder {
            directory: self.account.directory.clone(),
            issued_by: before.issued_by,
            failures,
            error: Some(error),
            next,
        };
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

    /// Asks the authority when it would have a certificate renewed, where it has not said so for long.
    async fn ask_for_a_window(&mut self) {
        let now = now();
        let is_due = |known: &Known| known.ask_at <= now && known.is_of(&self.account.directory);
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
            self.aside(Store::account).await??;
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
        let names = self.names.iter().map(|(name, known)| {
            let last = known.held.last.as_ref();
            let last = last.filter(|last| last.directory == self.account.directory);
            NameStatus {
                name: name.clone(),
                file: certificate_file(&self.account.folder, name),
                issued: known.held.issued.is_some(),
                next: known.due_at(&self.account.directory),
                failures: last.map_or(0, |last| last.failures),
                error: last.and_then(|last| last.error.clone()),
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
