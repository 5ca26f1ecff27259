//! What became of the lines of the access log, where there is one.

use std::fmt;

use super::scrape::{Samples, Scrape, over_workers};

pub(super) fn made(scrape: &Scrape<'_>, samples: &mut Samples<'_>) -> fmt::Result {
    if !has_any(scrape) {
        return Ok(());
    }
    over_workers(scrape, samples, |worker| &worker.logged)
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
