//! The access log of a process, as a reload changes it: requests under way go on by the one before, and
//! nothing of what was handed over is lost.

use std::{
    fs, io,
    path::PathBuf,
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use super::{
    AccessLog, Lines,
    outlet::Outlet,
    queue::{Losses, Queue},
    sink,
};
use crate::config::{self, LogTarget};

/// How long the end of the process waits for what is not written.
const PATIENCE: Duration = Duration::from_secs(2);

/// The access log of a process, where it has one, and what is left of those before.
#[derive(Debug, Default)]
pub(crate) struct AccessLogs {
    state: Mutex<State>,
    losses: Arc<Losses>,
}

#[derive(Debug, Default)]
struct State {
    current: Option<Arc<AccessLog>>,
    /// Those of all logs that are not written to their ends.
    queues: Vec<Arc<Queue>>,
    /// Those of all workers, of each log that is used still.
    lines: Vec<Weak<Lines>>,
}

/// A log that another file asks for, if it does. Where it is dropped before it takes over, it leaves no file that is
/// new.
#[derive(Debug)]
pub(crate) struct PreparedLog {
    log: Option<Arc<AccessLog>>,
    /// The file that was made for it.
    made: Option<PathBuf>,
}

impl Drop for PreparedLog {
    fn drop(&mut self) {
        if let Some(path) = &self.made
            && fs::metadata(path).is_ok_and(|file| file.is_file() && file.len() == 0)
        {
            // One that cannot be removed is empty, and stays.
            let _ = fs::remove_file(path);
        }
    }
}

/// The end of a process's access log: dropped, what was handed over is written first.
#[derive(Debug)]
pub(crate) struct Writing(pub(crate) Arc<AccessLogs>);

impl AccessLogs {
    /// Begins the one that the file asks for, if it does.
    ///
    /// # Errors
    /// Where nothing can be written there.
    pub(crate) fn start(settings: Option<&config::AccessLog>) -> io::Result<Self> {
        let logs = Self::default();
        let first = logs.prepare(settings)?;
        logs.change(first);
        Ok(logs)
    }

    /// What another file asks for: the current one where that is the same. One that goes to the same place
    /// goes on with its queue, so that lines stay in their order.
    ///
    /// # Errors
    /// Where nothing can be written there.
    pub(crate) fn prepare(&self, settings: Option<&config::AccessLog>) -> io::Result<PreparedLog> {
        let mut prepared = PreparedLog {
            log: None,
            made: None,
        };
        let Some(settings) = settings else {
            return Ok(prepared);
        };
        let current = self.current();
        if let Some(same) = current.as_ref().filter(|log| log.settings == *settings) {
            prepared.log = Some(Arc::clone(same));
            return Ok(prepared);
        }
        let goes_there = current.filter(|log| log.settings.to == settings.to);
        let outlet = match goes_there {
            Some(log) => Arc::clone(&log.outlet),
            None => {
                let missing = sink::missing_file(&settings.to);
                let outlet = Arc::new(Outlet::open(&settings.to, &self.losses)?);
                prepared.made = missing;
                outlet
            }
        };
        let queue = &outlet.queue;
        let mut state = self.state.lock();
        let is_it = |known: &Arc<Queue>| Arc::ptr_eq(known, queue);
        if !state.queues.iter().any(is_it) {
            state.queues.push(Arc::clone(queue));
        }
        drop(state);
        prepared.log = Some(Arc::new(AccessLog::of(settings.clone(), outlet)));
        Ok(prepared)
    }

    /// Whether another file's could be begun, as far as can be said without writing.
    ///
    /// # Errors
    /// Where it could not.
    pub(crate) fn try_to_begin(&self, settings: Option<&config::AccessLog>) -> io::Result<()> {
        let current = self.current();
        let goes_there = |to: &LogTarget| current.is_some_and(|log| log.settings.to == *to);
        match settings {
            Some(settings) if !goes_there(&settings.to) => sink::try_to_open(&settings.to),
            _ => Ok(()),
        }
    }

    /// Has new requests go by this one. Returns whether it is another one than before: then each worker goes
    /// over to [`Self::lines`].
    pub(crate) fn change(&self, mut next: PreparedLog) -> bool {
        next.made = None;
        let next = next.log.take();
        let mut state = self.state.lock();
        let is_same = match (&state.current, &next) {
            (Some(before), Some(next)) => Arc::ptr_eq(before, next),
            (before, next) => before.is_none() && next.is_none(),
        };
        let before = std::mem::replace(&mut state.current, next);
        // Its writer has ended, and nothing comes any more.
        state.queues.retain(|queue| Arc::strong_count(queue) > 1);
        state.lines.retain(|lines| lines.strong_count() > 0);
        drop(state);
        drop(before);
        !is_same
    }

    /// The one that new requests go by.
    pub(crate) fn current(&self) -> Option<Arc<AccessLog>> {
        self.state.lock().current.clone()
    }

    /// A worker's lines of that one.
    pub(crate) fn lines(&self) -> Option<Arc<Lines>> {
        let mut state = self.state.lock();
        let lines = Arc::new(Lines::new(state.current.as_ref()?));
        state.lines.push(Arc::downgrade(&lines));
        Some(lines)
    }

    /// What was written nowhere.
    pub(crate) fn losses(&self) -> &Losses {
        &self.losses
    }

    /// Has the files opened anew, for tools that have moved them, and those of logs before that still get lines;
    /// whether there is any.
    pub(crate) fn reopen(&self) -> bool {
        let state = self.state.lock();
        let is_written = |queue: &&Arc<Queue>| Arc::strong_count(queue) > 1;
        let queues = state.queues.iter().filter(is_written);
        queues.fold(false, |any, queue| queue.reopen() | any)
    }

    /// Writes what is left.
    fn end(&self) {
        let State { queues, lines, .. } = &*self.state.lock();
        for lines in lines.iter().filter_map(Weak::upgrade) {
            lines.flush();
        }
        queues.iter().for_each(|queue| queue.finish());
        // One place that stands still takes no time from the others.
        let patient = Instant::now() + PATIENCE;
        let is_written =
            |queue: &Arc<Queue>| queue.end(patient.saturating_duration_since(Instant::now()));
        let are_written = queues
            .iter()
            .map(is_written)
            .fold(true, |all, one| all & one);
        if !are_written {
            tracing::warn!("the access log took no more at the end: lines are lost");
        }
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        self.0.end();
    }
}
