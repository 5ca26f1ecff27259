//! What is handed over to be written, and not yet taken: bounded, and what finds it full is counted as
//! lost.

use std::{collections::VecDeque, mem, sync::Arc, time::Duration};

use parking_lot::{Condvar, Mutex};

use crate::metrics::Counter;

/// Bytes that wait at most; as many may be on their way to be written.
pub(super) const MOST: usize = 4 << 20;

/// Lines, each with its end.
#[derive(Debug, Default)]
pub(super) struct Piece {
    /// Their bytes.
    pub bytes: Vec<u8>,
    /// How many they are.
    pub lines: u64,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Queue {
    state: Mutex<State>,
    /// There is something to do, or nothing will be any more.
    changed: Condvar,
    /// Of this one, and of others that count with it.
    pub losses: Arc<Losses>,
    /// It is written to a file, which may be moved.
    is_of_file: bool,
}

/// Lines that were written nowhere.
#[derive(Debug, Default)]
pub(crate) struct Losses {
    /// There was no room for them: more came than could be written.
    pub overflowed: Counter,
    /// Their writing failed.
    pub failed: Counter,
}

#[derive(Debug, Default)]
struct State {
    pieces: VecDeque<Piece>,
    bytes: usize,
    /// Lines were lost since something was taken last, and that was said.
    overflows: bool,
    reopen: bool,
    is_ending: bool,
    is_over: bool,
}

/// What is to be done.
pub(super) struct Due {
    /// To be written, in this order.
    pub pieces: VecDeque<Piece>,
    /// The file is opened anew before that.
    pub reopen: bool,
    /// Nothing will come.
    pub is_last: bool,
}

impl Queue {
    /// Nothing waits yet of what is written to a file, or elsewhere.
    pub(super) fn counting(losses: &Arc<Losses>, is_of_file: bool) -> Self {
        Self {
            losses: Arc::clone(losses),
            is_of_file,
            ..Self::default()
        }
    }

    /// Adds a piece, or counts what is lost.
    pub(super) fn hand_over(&self, piece: Piece) {
        let mut state = self.state.lock();
        if state.bytes + piece.bytes.len() <= MOST {
            state.bytes += piece.bytes.len();
            state.pieces.push_back(piece);
            self.changed.notify_all();
            return;
        }
        self.losses.overflowed.add(piece.lines);
        if !mem::replace(&mut state.overflows, true) {
            drop(state);
            tracing::warn!("the access log is not written as fast as lines come: some are lost");
        }
    }

    /// Has the file opened anew, if it is written to one; returns whether it is.
    pub(super) fn reopen(&self) -> bool {
        if self.is_of_file {
            self.state.lock().reopen = true;
            self.changed.notify_all();
        }
        self.is_of_file
    }

    /// Waits for something to do.
    pub(super) fn next(&self) -> Due {
        let mut state = self.state.lock();
        while state.pieces.is_empty() && !state.reopen && !state.is_ending {
            self.changed.wait(&mut state);
        }
        state.bytes = 0;
        state.overflows = false;
        Due {
            pieces: mem::take(&mut state.pieces),
            reopen: mem::take(&mut state.reopen),
            is_last: state.is_ending,
        }
    }

    /// All is written.
    pub(super) fn ended(&self) {
        self.state.lock().is_over = true;
        self.changed.notify_all();
    }

    /// Nothing comes any more: what is there is the last.
    pub(super) fn finish(&self) {
        self.state.lock().is_ending = true;
        self.changed.notify_all();
    }

    /// Waits until all that was handed over is written, but no longer than this. Returns whether it is.
    pub(super) fn end(&self, patience: Duration) -> bool {
        let mut state = self.state.lock();
        let still = |state: &mut State| !state.is_over;
        let waited = self.changed.wait_while_for(&mut state, still, patience);
        !waited.timed_out()
    }
}
