//! Samples of the certificates that the proxy orders itself; none where it orders none.

use std::fmt;

use super::scrape::{Samples, Scrape};

pub(super) fn orders(scrape: &Scrape<'_>, samples: &mut Samples<'_>) -> fmt::Result {
    let board = &scrape.context.view.orders;
    if board.names().is_empty() {
        return Ok(());
    }
    samples.add(&["issued"], board.issued.value())?;
    samples.add(&["failed"], board.failed.value())
}

pub(super) fn failures(scrape: &Scrape<'_>, samples: &mut Samples<'_>) -> fmt::Result {
    let names = scrape.context.view.orders.names();
    let mut names = names.iter();
    names.try_for_each(|one| samples.add(&[&one.name], u64::from(one.failures)))
}
