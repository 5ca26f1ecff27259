//! What the code has stands in its reference once, and nothing else does.

use std::collections::{BTreeMap, BTreeSet};

use callboard::admin::{Kind, METRICS};

use super::page::{Page, codes};

#[test]
fn every_metric_stands_in_the_table_with_its_kind_and_its_labels() {
    let page = Page::read("docs/operations.md");
    let mut shown = BTreeMap::new();
    for row in page.rows("Metrics") {
        for name in codes(&row[0]) {
            let told = (row[1].clone(), row[2].clone());
            let before = shown.insert(name.to_owned(), told);
            assert!(before.is_none(), "{name} stands there twice");
        }
    }
    for metric in METRICS {
        let kind = match metric.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        let told = shown.remove(metric.name);
        let expected = (kind.to_owned(), metric.labels.join(", "));
        assert_eq!(told, Some(expected), "{}", metric.name);
    }
    let more: BTreeSet<_> = shown.keys().collect();
    assert!(more.is_empty(), "no such metrics: {more:?}");
}
