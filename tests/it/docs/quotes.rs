//! What pages name in passing is there.

use std::collections::BTreeSet;

use callboard::admin::METRICS;

use super::page::{all, codes};

#[test]
fn every_metric_that_a_page_names_is_one() {
    let metrics: BTreeSet<_> = METRICS.iter().map(|metric| metric.name).collect();
    let is_one = |name: &str| match name.split_once('…') {
        None => metrics.contains(name),
        Some((start, end)) => {
            let mut metrics = metrics.iter();
            metrics.any(|metric| metric.starts_with(start) && metric.ends_with(end))
        }
    };
    let mut named = 0;
    for page in all() {
        for (line, text) in page.prose() {
            let codes = codes(text).into_iter();
            for code in codes.filter(|code| code.starts_with("callboard_")) {
                // A metric may stand there with its labels.
                let name = code.split(['{', ' ']).next().unwrap_or(code);
                named += 1;
                assert!(is_one(name), "{}:{line}: {name}", page.name);
            }
        }
    }
    assert!(named > 60, "{named} were found");
}
