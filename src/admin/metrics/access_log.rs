//! What became of the lines of the access log, where there is one.

use std::fmt;

use super::scrape::{Samples, Scrape};

pub(super) fn made(scrape: &Scrape<'_>, samples: &mut Samples<'_>) -> fmt::Result {
    if !has_any(scrape) {
        return Ok(());
    }
    let workers = scrape.context.view.workers.iter();
    samples.add(
        &[],
        workers.map(|worker| worker.logged.value()).sum::<u64>(),
    )
}

pub(super) fn lost(scrape: &Scrape<'_>, samples: &mut Samples<'_>) -> fmt::Result {
    if !has_any(scrape) {
        return Ok(());
    }
    let losses = scrape.context.view.shared.access_logs.losses();
    samples.add(&["overflow"], losses.overflowed.value())?;
    samples.add(&["failure"], losses.failed.value())
}

fn has_any(scrape: &Scrape<'_>) -> bool {
    scrape.context.view.shared.access_logs.current().is_some()
}
