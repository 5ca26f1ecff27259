//! Samples of the PROXY headers of clients' connections.

use std::{collections::BTreeMap, fmt};

use super::scrape::{Samples, Scrape};

pub(super) fn results(scrape: &Scrape<'_>, samples: &mut Samples<'_>) -> fmt::Result {
    let view = &scrape.context.view;
    let generation = view.shared.generation.load();
    let mut listeners = generation.config.listeners.iter();
    let is_expected = listeners.any(|listener| listener.proxy_protocol);
    let mut sums = BTreeMap::<_, u64>::new();
    for worker in &view.workers {
        for (result, count) in worker.proxy_headers.each() {
            *sums.entry(result).or_default() += count.value();
        }
    }
    // A listener that expected them may be out of the file, and its connections there.
    if !is_expected && sums.values().all(|sum| *sum == 0) {
        return Ok(());
    }
    let mut sums = sums.into_iter();
    sums.try_for_each(|(result, sum)| samples.add(&[result], sum))
}
