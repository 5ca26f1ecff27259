//! `callboard status`: how a running proxy stands, on one screen: what is unusual, and its services.

use std::{collections::BTreeSet, process::ExitCode};

use clap::Args;
use serde_json::Value;

use super::{
    admin_server::AdminServer,
    output::{Format, say},
    plain::Plain,
    services::{each, of_all, text},
    table::time,
};

/// So many services are shown.
const MOST: usize = 30;

#[derive(Args)]
pub(super) struct Status {
    #[command(flatten)]
    server: AdminServer,
    /// Text for people, or the admin server's JSON
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

pub(super) fn status(status: &Status) -> anyhow::Result<ExitCode> {
    let answer = status.server.get(&["api", "status"], &[])?;
    let said: Value = answer.good()?;
    say(&match status.format {
        Format::Json => format!("{said}\n"),
        Format::Text => screen(&said),
    })?;
    Ok(match said["ready"].as_bool() {
        Some(true) => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    })
}

fn screen(said: &Value) -> String {
    let mut screen = format!(
        "callboard {}, up {}: {}; {} connections\n\n",
        text(&said["version"]),
        time(said["uptime_seconds"].as_f64().unwrap_or_default()),
        readiness(said),
        said["connections"]
    );
    match said["findings"].as_array().map(Vec::as_slice) {
        None => screen += "this proxy does not say what is unusual\n",
        Some([]) => screen += "nothing is unusual\n",
        Some(findings) => {
            for finding in findings {
                let level = text(&finding["level"]);
                let said = text(&finding["text"]);
                screen += &format!("{level:<8} {}\n", Plain(said));
            }
        }
    }
    let services = first(each(&said["services"]), each(&said["findings"]));
    let (shown, more) = services.split_at(services.len().min(MOST));
    if !shown.is_empty() {
        screen += &format!("\n{}", of_all(shown.iter().copied()));
    }
    if !more.is_empty() {
        let count = more.len();
        screen += &format!("and {count} more, which `callboard services` has\n");
    }
    screen
}

/// Services of which something is unusual, and then those with the most requests.
fn first<'v>(services: &'v [Value], findings: &[Value]) -> Vec<&'v Value> {
    let unusual: BTreeSet<_> = findings
        .iter()
        .filter_map(|finding| finding["service"].as_str())
        .collect();
    let mut services: Vec<_> = services.iter().collect();
    services.sort_by_key(|service| {
        let is_unusual = service["name"]
            .as_str()
            .is_some_and(|name| unusual.contains(name));
        let requests = service["requests"].as_u64().unwrap_or_default();
        (!is_unusual, std::cmp::Reverse(requests))
    });
    services
}

fn readiness(said: &Value) -> String {
    if said["draining"] == true {
        return "it drains".to_owned();
    }
    let names = |what: &Value| -> Vec<_> { each(what).iter().map(text).collect() };
    let missing = names(&said["missing"]);
    match (said["ready"] == true, missing.is_empty()) {
        (true, _) => "ready".to_owned(),
        (false, true) => "not ready".to_owned(),
        (false, false) => format!("not ready, since it has not read {}", missing.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn service(name: &str, requests: u64) -> Value {
        json!({"name": name, "endpoints": [{"state": "serving"}], "requests": requests,
               "failed": 0, "retries": 0, "pin": null})
    }

    #[test]
    fn what_is_unusual_stands_first_and_so_do_the_services_of_which_it_is() {
        let said = json!({"version": "0.1.0", "uptime_seconds": 7_200.0, "ready": true,
            "draining": false, "missing": [], "connections": 17,
            "findings": [{"level": "bad", "service": "hat", "text": "hat: no endpoint\u{1b}"},
                         {"level": "note", "service": null, "text": "it is late"}],
            "services": [service("cart", 9), service("hat", 0), service("pay", 20)]});
        assert_eq!(
            screen(&said),
            "callboard 0.1.0, up 2 h: ready; 17 connections\n\n\
             bad      hat: no endpoint\\u{1b}\n\
             note     it is late\n\n\
             service  endpoints  requests  failed  retries\n\
             hat      1 serving  0         0       0\n\
             pay      1 serving  20        0       0\n\
             cart     1 serving  9         0       0\n"
        );
    }

    #[test]
    fn a_screen_has_no_more_services_than_it_has_room_for() {
        let services: Vec<_> = (0..35).map(|n| service(&n.to_string(), n)).collect();
        let said = json!({"version": "0.1.0", "uptime_seconds": 1, "ready": false, "draining": false,
            "missing": ["service cart"], "connections": 0, "findings": [], "services": services});
        let screen = screen(&said);
        assert!(screen.contains("not ready, since it has not read service cart; 0"));
        assert!(screen.contains("\nnothing is unusual\n"), "{screen}");
        assert!(screen.ends_with("and 5 more, which `callboard services` has\n"));
        assert_eq!(screen.lines().count(), 4 + 1 + 30 + 1);
    }
}
