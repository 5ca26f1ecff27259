//! The alerts and the dashboard of `contrib/` ask for metrics that are there, by labels that these have;
//! and each alert fires where it should.

use std::{collections::BTreeSet, fmt::Write as _, fs, process::Command};

use callboard::admin::METRICS;
use serde_json::Value;

use super::page::{Page, codes, root};
use crate::support::server;

/// What Prometheus adds to a metric, and to a histogram's buckets.
const ADDED: [&str; 3] = ["job", "instance", "le"];

const ALERTS: &str = "contrib/prometheus/alerts.yml";
const DASHBOARD: &str = "contrib/grafana/callboard.json";

/// Each rule's name and what it asks.
fn alerts() -> Vec<(String, String)> {
    let mut alerts: Vec<(String, String)> = Vec::new();
    let mut is_expression = false;
    for line in Page::read(ALERTS).text.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix("- alert: ") {
            alerts.push((name.to_owned(), String::new()));
        }
        is_expression &= !line.starts_with("for: ");
        let text = match line.strip_prefix("expr: ") {
            Some(text) => text.trim_start_matches(">-"),
            None if is_expression => line,
            None => continue,
        };
        is_expression = true;
        let (_, expression) = alerts.last_mut().unwrap();
        write!(expression, "{text} ").unwrap();
    }
    alerts
}

fn dashboard() -> Value {
    serde_json::from_str(&Page::read(DASHBOARD).text).unwrap()
}

/// The title of each panel and what it asks, as Prometheus would be asked.
fn queries() -> Vec<(String, String)> {
    let dashboard = dashboard();
    let mut queries = Vec::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        for target in panel["targets"].as_array().into_iter().flatten() {
            let query = target["expr"].as_str().unwrap();
            let query = query.replace("$__rate_interval", "5m");
            queries.push((panel["title"].to_string(), query));
        }
    }
    queries
}

/// The words of a query, outside what stands between quotes.
fn words(query: &str) -> Vec<&str> {
    let code = query.split('"').step_by(2);
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let words = code.flat_map(|code| code.split(move |c| !is_part(c)));
    words.filter(|word| !word.is_empty()).collect()
}

/// The labels by which a query selects, or makes sums.
fn labels(query: &str) -> Vec<&str> {
    let mut labels = Vec::new();
    for part in query.split("by (").skip(1) {
        labels.extend(words(part.split(')').next().unwrap()));
    }
    for part in query.split('{').skip(1) {
        labels.extend(words(part.split('}').next().unwrap()));
    }
    labels
}

/// What is wrong with a query; with how many metrics it names.
fn look_over(title: &str, query: &str, wrong: &mut String) -> usize {
    let mut known: BTreeSet<_> = ADDED.into();
    let mut named = 0;
    for word in words(query) {
        if !word.starts_with("callboard_") && !word.starts_with("process_") {
            continue;
        }
        let name = word.strip_suffix("_bucket").unwrap_or(word);
        match METRICS.iter().find(|metric| metric.name == name) {
            Some(metric) => known.extend(metric.labels),
            None => writeln!(wrong, "{title}: no metric {word}").unwrap(),
        }
        named += 1;
    }
    for label in labels(query) {
        if !known.contains(label) {
            writeln!(wrong, "{title}: no label {label} in {query}").unwrap();
        }
    }
    named
}

#[test]
fn every_metric_and_label_that_an_alert_or_a_panel_asks_for_is_there() {
    let mut wrong = String::new();
    let mut named = 0;
    for (title, query) in alerts().iter().chain(&queries()) {
        named += look_over(title, query, &mut wrong);
    }
    assert!(wrong.is_empty(), "\n{wrong}");
    assert!(named > 40, "{named} metrics were found");
}

#[test]
fn the_page_lists_each_alert_in_the_order_of_its_file() {
    let rows = Page::read("docs/production.md").rows("Alerts");
    let listed = rows[1..].iter().flat_map(|row| codes(&row[0]));
    let listed: Vec<_> = listed.map(str::to_owned).collect();
    let alerts: Vec<_> = alerts().into_iter().map(|(name, _)| name).collect();
    assert_eq!(listed, alerts);
    let tests = Page::read("contrib/prometheus/alerts-test.yml").text;
    for name in alerts {
        assert!(tests.contains(&name), "{name} has no test");
    }
}

#[test]
fn the_panels_have_numbers_of_their_own_and_do_not_overlap() {
    let dashboard = dashboard();
    let (mut numbers, mut cells) = (BTreeSet::new(), BTreeSet::new());
    for panel in dashboard["panels"].as_array().unwrap() {
        let title = &panel["title"];
        assert!(numbers.insert(panel["id"].as_u64().unwrap()), "{title}");
        let at = |key: &str| panel["gridPos"][key].as_u64().unwrap();
        assert!(at("x") + at("w") <= 24, "{title}");
        for x in at("x")..at("x") + at("w") {
            for y in at("y")..at("y") + at("h") {
                assert!(cells.insert((x, y)), "{title} overlaps");
            }
        }
    }
}

#[test]
fn promtool_takes_alerts_and_panels_and_each_alert_fires_where_it_should() {
    let Some(promtool) = server::binary("promtool") else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    // A panel's query is looked over as a rule's.
    let mut rules = "groups:\n  - name: panels\n    rules:\n".to_owned();
    for (n, (_, query)) in queries().iter().enumerate() {
        let query = query.replace("=~\"$", "=~\".*");
        writeln!(
            rules,
            "      - record: panel:{n}\n        expr: |-\n          {query}"
        )
        .unwrap();
    }
    let panels = folder.path().join("panels.yml");
    fs::write(&panels, rules).unwrap();
    let alerts = root().join(ALERTS);
    let tests = root().join("contrib/prometheus/alerts-test.yml");
    for (what, file) in [("check", &alerts), ("check", &panels), ("test", &tests)] {
        let output = Command::new(&promtool)
            .args([what, "rules"])
            .arg(file)
            .output();
        let output = output.unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let said = said + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{}: {said}", file.display());
    }
}
