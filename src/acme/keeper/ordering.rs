//! One order after the other, and what comes of each: a certificate in the folder, or a pause.

use std::io;

use tokio::time::timeout;

use super::{Keeper, now, read, renewal::identifier};
use crate::acme::{
    client::Client,
    failure::{Concern, Failure},
    known::Attempt,
    order::order,
    schedule::after_success,
    store::{LONGEST, LastOrder, Pause, Store, issued},
};

impl Keeper {
    /// Orders a certificate, unless another proxy has done so meanwhile.
    pub(super) async fn order(&mut self, name: String) {
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
        self.ordering = None;
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
        self.ordering = Some(name.clone());
        let note = move |store: &Store| store.note(&name, &begun);
        if let Some(Err(error)) = self.aside(note).await {
            let folder = self.account.folder.display();
            let words = format!("nothing can be written to {folder}: {error}");
            return Err(Failure::of_folder(words));
        }
        self.pauses.unobstructed();
        Ok(())
    }

    /// Takes back what was noted of an order that a reload breaks off: it has not failed.
    pub(super) async fn take_back_the_attempt(&mut self) {
        let Some(name) = self.ordering.take() else {
            return;
        };
        let last = self.names.get(&name).and_then(|it| it.held.last.clone());
        let restore = move |store: &Store| store.restore(&name, last.as_ref());
        // What cannot be taken back waits as an order does that the process's end breaks off.
        self.aside(restore).await;
    }

    /// Orders, once more by a new account where the authority does not know the one that there is.
    async fn order_by_an_account(&mut self, name: &str) -> Result<String, Failure> {
        let mut outcome = self.try_to_order(name).await;
        if let Err(failure) = &outcome
            && failure.concerns == Concern::UnknownAccount
            && let Some(client) = self.client.take()
        {
            let (directory, id) = (
                self.account.directory.clone(),
                client.account.id().to_owned(),
            );
            self.aside(move |store| store.forget_account(&directory, &id))
                .await;
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
            self.take_back_the_attempt().await;
            return self.pauses.obstructed(failure.words);
        }
        self.board.failed.add_one();
        let asked = self.client.as_ref().and_then(Client::asked_to_wait);
        let now = now();
        let concerns_all = failure.concerns != Concern::Name;
        let pause = concerns_all.then(|| self.pauses.longer(now, asked));
        self.set_pause(pause).await;
        // What the authority's directory says, and whom the file of authorities believes, may be another by now.
        self.client = self
            .client
            .take()
            .filter(|client| !concerns_all || !client.is_written());
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

    async fn set_pause(&mut self, pause: Option<Pause>) {
        if self.pauses.follow(pause.clone()) {
            // Where it cannot be written no order can be noted either, and none is made.
            self.aside(move |store| store.set_pause(pause.as_ref()))
                .await;
        }
    }
}
