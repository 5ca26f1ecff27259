//! A place that lines go to: a thread of its own writes there what was handed over, for as long as a log
//! goes there, and then what is left.

use std::{io, sync::Arc, thread};

use super::{
    queue::{Losses, Queue},
    sink::Sink,
};
use crate::config::LogTarget;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Outlet {
    /// What waits to be written there.
    pub(super) queue: Arc<Queue>,
}

impl Outlet {
    /// Begins to write there, and counts what is lost.
    ///
    /// # Errors
    /// Where nothing can be written.
    pub(super) fn open(to: &LogTarget, losses: &Arc<Losses>) -> io::Result<Self> {
        let sink = Sink::open(to)?;
        let is_of_file = matches!(to, LogTarget::File(_));
        let queue = Arc::new(Queue::counting(losses, is_of_file));
        let from = Arc::clone(&queue);
        thread::Builder::new()
            .name("access-log".to_owned())
            .spawn(move || write_all(&from, sink))?;
        Ok(Self { queue })
    }
}

impl Drop for Outlet {
    fn drop(&mut self) {
        self.queue.finish();
    }
}

fn write_all(queue: &Queue, mut sink: Sink) {
    let mut is_failing = false;
    loop {
        let due = queue.next();
        if due.reopen {
            reopen(&mut sink);
        }
        for piece in due.pieces {
            let lost = sink.write(&piece);
            match lost {
                Ok(()) => is_failing = false,
                Err(failure) => {
                    queue.losses.failed.add(failure.lines);
                    if !is_failing {
                        let error = failure.error;
                        tracing::warn!(%error, "the access log cannot be written: lines are lost");
                    }
                    is_failing = true;
                }
            }
        }
        if due.is_last {
            queue.ended();
            return;
        }
    }
}

fn reopen(sink: &mut Sink) {
    match sink.reopen() {
        Ok(()) => tracing::info!("the access log is opened anew"),
        Err(error) => {
            tracing::warn!(%error, "the access log cannot be opened anew, and goes on where it was");
        }
    }
}
