//! Which connections are silent, and which of them makes room for another. Knows nothing of what is
//! asked over them.

use std::{collections::BTreeMap, sync::Arc};

use parking_lot::Mutex;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use super::stream::Heard;

/// Connections on which no request is being answered.
#[derive(Clone, Default)]
pub(super) struct Silent(Arc<Waiting>);

#[derive(Default)]
struct Waiting {
    line: Mutex<Line>,
    /// One more has fallen silent.
    fell: Notify,
}

/// What ends them, in the order in which they fell silent.
#[derive(Default)]
struct Line {
    next: u64,
    ends: BTreeMap<u64, CancellationToken>,
}

/// One of them, for as long as it lives.
pub(super) struct Quiet {
    silent: Silent,
    number: u64,
}

impl Silent {
    /// A place for one more, which the connection that has been silent for longest makes where
    /// there is none.
    pub(super) async fn place(&self, places: &Arc<Semaphore>) -> OwnedSemaphorePermit {
        loop {
            if let Ok(place) = Arc::clone(places).try_acquire_owned() {
                return place;
            }
            let is_made = self.close_oldest();
            tokio::select! {
                place = Arc::clone(places).acquire_owned() => {
                    return place.expect("the semaphore is never closed");
                }
                () = self.0.fell.notified(), if !is_made => {}
            }
        }
    }

    fn close_oldest(&self) -> bool {
        let oldest = self.0.line.lock().ends.pop_first();
        oldest.inspect(|(_, end)| end.cancel()).is_some()
    }

    fn fall(&self, end: CancellationToken) -> Quiet {
        let mut line = self.0.line.lock();
        let number = line.next;
        line.next += 1;
        line.ends.insert(number, end);
        drop(line);
        self.0.fell.notify_one();
        let silent = self.clone();
        Quiet { silent, number }
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        self.silent.0.line.lock().ends.remove(&self.number);
    }
}

/// Whether a connection is silent: it is not from a request's head to the end of its answer.
#[derive(Clone)]
pub(super) struct Voice {
    silent: Silent,
    /// It makes room for another.
    pub(super) end: CancellationToken,
    quiet: Arc<Mutex<Option<Quiet>>>,
    heard: Arc<Heard>,
}

impl Voice {
    pub(super) fn new(silent: Silent, heard: Arc<Heard>) -> Self {
        let end = CancellationToken::new();
        let quiet = silent.fall(end.clone());
        Self {
            silent,
            end,
            quiet: Arc::new(Mutex::new(Some(quiet))),
            heard,
        }
    }

    /// A request is answered until this is dropped.
    pub(super) fn speak(&self) -> Speaking {
        self.heard.a_head();
        self.set(None);
        Speaking(self.clone())
    }

    fn set(&self, quiet: Option<Quiet>) {
        *self.quiet.lock() = quiet;
    }
}

pub(super) struct Speaking(Voice);

impl Drop for Speaking {
    fn drop(&mut self) {
        let Voice {
            silent, end, heard, ..
        } = &self.0;
        heard.the_end();
        self.0.set(Some(silent.fall(end.clone())));
    }
}
