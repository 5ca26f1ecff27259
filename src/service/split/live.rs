//! The turns of a split as they are now: by the weights of the file or, for a while, by others. Goes on from one
//! generation to the next where the file says the same.

use std::{
    sync::{
        Arc, Weak,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use crate::{
    metrics::Padded,
    service::balance::order,
    term::{Term, TermError, TermStatus},
};

/// See the module.
#[derive(Debug)]
pub(super) struct Live {
    /// Which requests are parted.
    of: String,
    /// The file's weights.
    file: Box<[u32]>,
    turns: ArcSwap<Turns>,
    change: Mutex<Change>,
}

/// That the turns are by other weights.
#[derive(Debug, Default)]
struct Change {
    /// For how long.
    term: Option<Term>,
    /// The file has others by now: no request to come goes by these turns.
    is_past: bool,
}

/// What ends it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Expired,
    Asked,
    Reloaded,
}

/// Whose turn it is, in rounds.
#[derive(Debug)]
pub(super) struct Turns {
    weights: Box<[u32]>,
    /// The places of those shares that have turns, in the order of their turns in a round.
    order: Box<[u32]>,
    next: Arc<Padded<AtomicUsize>>,
}

impl Turns {
    /// By these weights, of which at least one is more than 0; they go on where they are those of before.
    fn by(weights: Box<[u32]>, before: Option<&Self>) -> Self {
        let active = std::iter::zip(0.., &weights).filter(|(_, weight)| **weight > 0);
        let (places, active): (Vec<u32>, Vec<u32>) = active.unzip();
        let order = match order(&active) {
            // As many turns for each: one.
            order if order.is_empty() => places.into(),
            order => order.iter().map(|at| places[*at as usize]).collect(),
        };
        let same = before.filter(|before| before.order == order);
        let next = match same {
            Some(same) => Arc::clone(&same.next),
            // Proxies that start together should not all start with the same.
            None => Arc::new(Padded(AtomicUsize::new(fastrand::usize(..usize::MAX / 2)))),
        };
        Self {
            weights,
            order,
            next,
        }
    }
}

impl Live {
    /// By the file's weights; with the turns of the one before where these are the same.
    pub(super) fn new(of: String, file: Box<[u32]>, before: Option<&Self>) -> Self {
        let before = before.map(|before| before.turns.load());
        let turns = Turns::by(file.clone(), before.as_ref().map(|turns| &***turns));
        Self {
            of,
            file,
            turns: ArcSwap::from_pointee(turns),
            change: Mutex::default(),
        }
    }

    /// The place of the share whose turn it is.
    pub(super) fn next(&self) -> usize {
        let turns = self.turns.load();
        let turn = turns.next.fetch_add(1, Relaxed) % turns.order.len();
        turns.order[turn] as usize
    }

    pub(super) fn file(&self) -> &[u32] {
        &self.file
    }

    /// The weights that hold now.
    pub(super) fn weights(&self) -> Box<[u32]> {
        self.turns.load().weights.clone()
    }

    /// For how long others hold than the file's, where others do.
    pub(super) fn changed(&self) -> Option<TermStatus> {
        self.change.lock().term.as_ref().map(Term::status)
    }

    /// Has other weights hold for so long, of which at least one is more than 0. An earlier change ends. `None`
    /// where the file has other shares by now.
    ///
    /// # Errors
    /// Where that is too short or too long.
    pub(super) fn change(
        this: &Arc<Self>,
        weights: Box<[u32]>,
        time: Duration,
    ) -> Result<Option<TermStatus>, TermError> {
        let live = Arc::downgrade(this);
        let new = Term::begin(time, move |began| expire(&live, began))?;
        let status = new.status();
        let mut change = this.change.lock();
        if change.is_past {
            return Ok(None);
        }
        change.term = Some(new);
        this.go_by(weights);
        Ok(Some(status))
    }

    /// Has the file's weights hold again. Returns whether others did.
    pub(super) fn restore(&self) -> bool {
        self.end(|_| true, End::Asked)
    }

    /// Ends a change, and has none be made any more: the file has other shares, or no such route.
    pub(super) fn retire(&self) {
        self.change.lock().is_past = true;
        self.end(|_| true, End::Reloaded);
    }

    fn end(&self, is_it: impl FnOnce(&Term) -> bool, end: End) -> bool {
        let mut change = self.change.lock();
        let Some(ended) = change.term.take_if(|term| is_it(term)) else {
            return false;
        };
        self.go_by(self.file.clone());
        drop(change);
        drop(ended);
        tracing::warn!(
            route = self.of,
            expired = end == End::Expired,
            reloaded = end == End::Reloaded,
            "the shares of a route are those of the file again"
        );
        true
    }

    fn go_by(&self, weights: Box<[u32]>) {
        let before = self.turns.load();
        let turns = Turns::by(weights, Some(&before));
        self.turns.store(Arc::new(turns));
    }
}

fn expire(live: &Weak<Live>, began: Instant) {
    if let Some(live) = live.upgrade() {
        // A later one has an end of its own.
        live.end(|term| term.is(began), End::Expired);
    }
}
