//! What became of the lines of the access log, where there is one.

use std::fmt;

use super::scrape::{Samples, Scrape};

pub(super) fn made(scrape: &Scrape<'_>, samples: &mut Samples<'_>) -> fmt::Result {
    let workers = scrape.context.view.workers.iter();
    let mut lines = workers
        .filter_map(|worker| worker.access_log.as_ref())
        .peekable();
    if lines.peek().is_none() {
        return Ok(());
    }
    samples.add(&[], lines.map(|lines| lines.made.value()).sum::<u64>())
}

pub(super) fn lost(scrape: &Scrape<'_>, samples: &mut Samples<'_>) -> fmt::Result {
    let Some(log) = &scrape.context.view.shared.access_log else {
        return Ok(());
    };
    samples.add(&["overflow"], log.overflowed())?;
    samples.add(&["failure"], log.failed())
}
