//! Where the proofs of an account are given: by the listeners of this process, and through the folder by those
//! of the others that share it, of which the authority may ask any.

use std::{io, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::{
    task::spawn_blocking,
    time::{Instant, MissedTickBehavior, interval, sleep},
};
use tokio_util::sync::CancellationToken;

use super::{
    challenges::{Challenges, Proof},
    failure::Failure,
    store::{LONGEST, Pending, Store},
};

/// How often it is looked whether anything is to be done.
pub(super) const PACE: Duration = Duration::from_secs(1);

/// How long the other proxies of a folder may take to have its proofs: they look every second.
const SHARED: Duration = Duration::from_millis(1500);

/// See the module.
#[derive(Clone)]
pub(super) struct Stage {
    pub(super) store: Store,
    pub(super) challenges: Arc<Challenges>,
    /// Held while proofs go into the folder or come from it: else an order's own would be taken away by what
    /// stood there just before.
    seen: Arc<Mutex<Seen>>,
}

/// The proofs that stood in the folder last, and since when they are known.
#[derive(Default)]
struct Seen(Option<(Vec<Proof>, Instant)>);

impl Seen {
    /// Those that are given. A process that was ended amid an order has left its own there: after the time of
    /// the longest order they are wanted no more. Clocks of other machines have no say in it.
    fn wanted(&mut self, there: Vec<Proof>, now: Instant) -> Vec<Proof> {
        let before = self.0.take().filter(|(before, _)| *before == there);
        let since = before.map_or(now, |(_, since)| since);
        self.0 = Some((there.clone(), since));
        match now.duration_since(since) < LONGEST {
            true => there,
            false => Vec::new(),
        }
    }
}

impl Stage {
    pub(super) fn new(store: Store, challenges: Arc<Challenges>) -> Self {
        Self {
            store,
            challenges,
            seen: Arc::default(),
        }
    }

    /// Has the listeners of all proxies of the folder give these proofs, and no others.
    ///
    /// # Errors
    /// Where the disk takes none.
    pub(super) async fn show(&self, proofs: Vec<Proof>) -> Result<(), Failure> {
        let stage = self.clone();
        let is_any = !proofs.is_empty();
        let shown = spawn_blocking(move || {
            let _seen = stage.seen.lock();
            stage.challenges.show(&stage.store.folder, proofs.clone());
            stage.store.share(&proofs)
        });
        match shown.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                let folder = self.store.folder.display();
                let words = format!("nothing can be written to {folder}: {error}");
                return Err(Failure::new(words));
            }
            Err(error) => return Err(Failure::new(error.to_string())),
        }
        if is_any {
            sleep(SHARED).await;
        }
        Ok(())
    }

    /// Has the listeners give the proofs that another proxy of the folder wants, until the process ends. That
    /// one waits for no answer: whatever else is done here holds this up.
    pub(super) async fn follow_others(self, ending: CancellationToken) {
        let mut tick = interval(PACE);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while ending.run_until_cancelled(tick.tick()).await.is_some() {
            let stage = self.clone();
            let look = spawn_blocking(move || {
                let mut seen = stage.seen.lock();
                let proofs = seen.wanted(stage.store.proofs(), Instant::now());
                stage.challenges.show(&stage.store.folder, proofs);
            });
            // A disk that does not answer holds no exit up.
            ending.run_until_cancelled(look).await;
        }
    }

    /// The order of a name whose certificate may be issued.
    pub(super) async fn pending(&self, name: &str) -> Option<Pending> {
        let (store, name) = (self.store.clone(), name.to_owned());
        let read = spawn_blocking(move || store.pending(&name)).await;
        read.ok().flatten()
    }

    /// Keeps the key of a certificate before it is issued: without it, what was issued is of no use.
    ///
    /// # Errors
    /// Where the disk takes none.
    pub(super) async fn keep_key(&self, name: &str, pending: Pending) -> Result<(), Failure> {
        let (store, name) = (self.store.clone(), name.to_owned());
        let kept = spawn_blocking(move || store.set_pending(&name, &pending)).await;
        kept.map_err(io::Error::from).flatten().map_err(|error| {
            let folder = self.store.folder.display();
            Failure::new(format!("the key cannot be written to {folder}: {error}"))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proof(token: &str) -> Proof {
        Proof {
            name: "shop.example.com".to_owned(),
            token: token.to_owned(),
            answer: "a".to_owned(),
        }
    }

    #[test]
    fn what_a_process_that_was_ended_has_left_is_given_for_as_long_as_an_order_lasts() {
        let (start, mut seen) = (Instant::now(), Seen::default());
        let second = Duration::from_secs(1);
        for (after, there, given) in [
            (Duration::ZERO, vec![proof("a")], 1),
            (LONGEST - second, vec![proof("a")], 1),
            (LONGEST, vec![proof("a")], 0),
            (2 * LONGEST, vec![proof("b"), proof("c")], 2),
            (2 * LONGEST + second, vec![], 0),
            (2 * LONGEST + 2 * second, vec![proof("b")], 1),
            (3 * LONGEST, vec![proof("b")], 1),
            (3 * LONGEST + 2 * second, vec![proof("b")], 0),
        ] {
            let wanted = seen.wanted(there, start + after);
            assert_eq!(wanted.len(), given, "{after:?}");
        }
    }
}
