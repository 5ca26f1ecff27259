//! The attempts of a request that failed: whom they were made to, and how each went. Knows nothing
//! of what follows from them.

use std::{fmt, sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{rules::was_asked, tried::Tried};
use crate::{instance::Address, service::WorkerEndpoint, upstream::Failure};

/// Attempts that failed, and why there was no other.
#[derive(Debug)]
pub struct Attempts {
    /// In their order; at least one.
    pub failed: Vec<Attempt>,
    /// Whether another attempt was wanted, and the retry budget refused it.
    pub out_of_budget: bool,
}

/// An attempt that failed.
#[derive(Debug)]
pub struct Attempt {
    /// Who was called.
    pub endpoint: Address,
    /// How it failed.
    pub failure: Failure,
    /// For how long it was tried.
    pub took: Duration,
}

/// The attempts that failed.
#[derive(Default)]
pub(crate) struct AttemptLog {
    pub(crate) tried: Tried,
    pub(crate) failed: Vec<Attempt>,
    /// How many endpoints were asked.
    pub(crate) asked: u32,
}

impl AttemptLog {
    pub(crate) fn note(&mut self, line: Arc<WorkerEndpoint>, failure: Failure, began: Instant) {
        line.pool().note_failure(&failure.kind);
        self.asked += u32::from(was_asked(&failure.kind));
        self.failed.push(Attempt {
            endpoint: line.pool().address().clone(),
            failure,
            took: began.elapsed(),
        });
        self.tried.add(line);
    }

    pub(crate) fn last_unless_removed(&self) -> Option<Arc<WorkerEndpoint>> {
        let last = self.tried.last();
        last.filter(|line| !line.pool().is_retired()).cloned()
    }
}

impl fmt::Display for Attempts {
    /// Each with who was called, in a line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, attempt) in self.failed.iter().enumerate() {
            let Attempt {
                endpoint,
                failure,
                took,
            } = attempt;
            write!(
                f,
                "{}{endpoint}: {failure}, processed: {:?}, after {:.1} ms",
                if n == 0 { "" } else { "; " },
                failure.processed,
                took.as_secs_f64() * 1e3
            )?;
        }
        Ok(())
    }
}
