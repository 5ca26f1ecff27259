//! `callboard services`, `pin`, `unpin` and `journal`: what a running proxy knows of its services, and
//! the one thing that is changed of them. Clients of the admin API.

use std::{
    collections::BTreeMap,
    process::ExitCode,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use clap::Args;
use serde_json::{Value, json};

use super::{
    admin_server::AdminServer,
    duration,
    output::{Format, say},
    plain,
    table::{moment, table, time},
};

/// So many changes are asked for of all services: as many as there are at most.
const MOST: &str = "1000";

#[derive(Args)]
pub(super) struct Services {
    /// Show the endpoints of this service, and what stands in their way
    #[arg(value_name = "SERVICE")]
    service: Option<String>,
    #[command(flatten)]
    server: AdminServer,
    /// Text for people, or the admin server's JSON
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

#[derive(Args)]
pub(super) struct Pin {
    /// The service that stays with a set
    #[arg(value_name = "SERVICE")]
    service: String,
    /// The set after this change of the journal [default: that of this moment]
    #[arg(long, value_name = "NUMBER")]
    set: Option<u64>,
    /// For how long, up to 24h [default: 30m]
    #[arg(long = "for", value_name = "TIME", value_parser = duration::some)]
    time: Option<Duration>,
    #[command(flatten)]
    server: AdminServer,
}

#[derive(Args)]
pub(super) struct Unpin {
    /// The service that follows its registries again
    #[arg(value_name = "SERVICE")]
    service: String,
    #[command(flatten)]
    server: AdminServer,
}

#[derive(Args)]
pub(super) struct Journal {
    /// The service whose changes are shown [default: those of all services]
    #[arg(value_name = "SERVICE")]
    service: Option<String>,
    /// Only changes that are no older than this
    #[arg(long, value_name = "TIME", value_parser = duration::some)]
    since: Option<Duration>,
    #[command(flatten)]
    server: AdminServer,
    /// Text for people, or the admin server's JSON
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

pub(super) fn services(services: &Services) -> anyhow::Result<ExitCode> {
    let answer = match &services.service {
        None => services.server.get(&["api", "status"], &[])?,
        Some(name) => services.server.get(&["api", "services", name], &[])?,
    };
    let said: Value = answer.good()?;
    let shown = match &services.service {
        None => &said["services"],
        Some(_) => &said,
    };
    say(&match (services.format, &services.service) {
        (Format::Json, _) => plain::json(&format!("{shown}\n")),
        (Format::Text, None) => of_all(each(shown).iter()),
        (Format::Text, Some(_)) => of_one(shown),
    })
}

pub(super) fn pin(pin: &Pin) -> anyhow::Result<ExitCode> {
    let path = ["api", "services", &pin.service, "pin"];
    let answer = pin
        .server
        .begin(&path, json!({ "set": pin.set }), pin.time)?;
    let pinned: Value = answer.good()?;
    let left = time(pinned["seconds_left"].as_f64().unwrap_or_default());
    say(&format!("pinned to set {} for {left}\n", pinned["set"]))
}

pub(super) fn unpin(unpin: &Unpin) -> anyhow::Result<ExitCode> {
    let path = ["api", "services", &unpin.service, "pin"];
    unpin.server.end(&path, &[])?.good::<Value>()?;
    say("no longer pinned\n")
}

pub(super) fn journal(journal: &Journal) -> anyhow::Result<ExitCode> {
    let answer = match &journal.service {
        Some(name) => journal
            .server
            .get(&["api", "services", name, "journal"], &[])?,
        None => journal
            .server
            .get(&["api", "journal"], &[("limit", MOST)])?,
    };
    let mut entries: Vec<Value> = answer.good()?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.unwrap_or_default().as_secs_f64();
    if let Some(since) = journal.since {
        let oldest = now - since.as_secs_f64();
        entries.retain(|entry| entry["at"].as_f64().is_some_and(|at| at >= oldest));
    }
    say(&match journal.format {
        Format::Json => plain::json(&format!("{}\n", Value::from(entries))),
        Format::Text => of_journal(&entries, journal.service.is_none(), now),
    })
}

pub(super) fn each(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

pub(super) fn text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// A line for each service.
pub(super) fn of_all<'v>(services: impl Iterator<Item = &'v Value>) -> String {
    let rows = services.map(|service| {
        let pin = &service["pin"]["set"];
        let pin = (!pin.is_null()).then(|| format!("pinned to set {pin}"));
        let drains = each(&service["drains"]).len();
        let drains = (drains > 0).then(|| format!("{drains} drained"));
        let weights = each(&service["weights"]).len();
        let weights = (weights > 0).then(|| format!("{weights} reweighed"));
        let notes: Vec<_> = pin.into_iter().chain(drains).chain(weights).collect();
        [
            text(&service["name"]),
            states(each(&service["endpoints"])),
            text(&service["requests"]),
            text(&service["failed"]),
            text(&service["retries"]),
            notes.join(", "),
        ]
    });
    let head = ["service", "endpoints", "requests", "failed", "retries", ""];
    table(head, rows)
}

/// How many endpoints are in which state.
fn states(endpoints: &[Value]) -> String {
    let mut counts = BTreeMap::new();
    for endpoint in endpoints {
        *counts.entry(text(&endpoint["state"])).or_insert(0) += 1;
    }
    let counts: Vec<_> = counts
        .iter()
        .map(|(state, count)| format!("{count} {state}"))
        .collect();
    match &counts[..] {
        [] => "none".to_owned(),
        some => some.join(", "),
    }
}

/// A line for each endpoint of a service.
fn of_one(service: &Value) -> String {
    let rows = each(&service["endpoints"]).iter().map(|endpoint| {
        let latency = endpoint["latency"]["p99_seconds"].as_f64();
        let latency = latency.map(|seconds| format!("{:.1} ms", seconds * 1e3));
        [
            text(&endpoint["address"]),
            text(&endpoint["instance"]),
            text(&endpoint["state"]),
            text(&endpoint["in_flight"]),
            text(&endpoint["attempts"]),
            text(&endpoint["failures"]),
            latency.unwrap_or_default(),
            reason(endpoint),
        ]
    });
    let head = [
        "endpoint",
        "instance",
        "state",
        "in flight",
        "attempts",
        "failures",
        "p99",
        "",
    ];
    table(head, rows)
}

/// Why an endpoint is not as it should be, where that is known.
fn reason(endpoint: &Value) -> String {
    let of = |what: &str, word: &str| endpoint[what][word].as_str();
    let why = of("ejection", "reason")
        .or_else(|| of("doubt", "reason"))
        .or_else(|| of("check", "error"))
        .or_else(|| of("held", "why"));
    why.unwrap_or_default().to_owned()
}

/// A line for each change of an instance, the latest first.
fn of_journal(entries: &[Value], is_of_all: bool, now: f64) -> String {
    let rows = entries.iter().flat_map(|entry| {
        let at = entry["at"].as_f64().unwrap_or_default();
        let why = match entry["why"].as_str().unwrap_or_default() {
            "registry" => text(&entry["registry"]),
            "pinned" => format!("pinned to set {}", entry["set"]),
            "drained" => format!("{} is drained", text(&entry["endpoint"])),
            "undrained" => format!("{} is no longer drained", text(&entry["endpoint"])),
            "drain_expired" => format!("the drain of {} is over", text(&entry["endpoint"])),
            "reweighed" => {
                let (endpoint, weight) = (text(&entry["endpoint"]), text(&entry["weight"]));
                format!("{endpoint} has the weight {weight} for a while")
            }
            "unweighed" => format!("{} has its own weight again", text(&entry["endpoint"])),
            other => other.replace('_', " "),
        };
        let why = match entry["applied"].as_bool() {
            Some(false) => format!("{why}, not followed while pinned"),
            _ => why,
        };
        let row = move |what: String| {
            [
                text(&entry["number"]),
                moment(at),
                format!("{} ago", time((now - at).max(0.0))),
                what,
                why.clone(),
            ]
        };
        let changes = each(&entry["changes"]);
        let of = match is_of_all {
            true => format!("{}: ", text(&entry["service"])),
            false => String::new(),
        };
        let said = changes.iter().map(|change| {
            let what = text(&change["what"]).replace('_', " ");
            format!("{what} {}", text(&change["address"]))
        });
        let nothing = changes.is_empty().then(|| "no instance".to_owned());
        let more = entry["more"].as_u64().filter(|more| *more > 0);
        let more = more.map(|more| format!("{more} more"));
        let said = said.chain(nothing).chain(more);
        let said = said.map(move |said| format!("{of}{said}"));
        said.map(row)
    });
    table(["set", "at", "", "change", "by"], rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_endpoints_and_changes_are_a_line_each() {
        let endpoint = |address: &str, state: &str, why: &Value| {
            json!({"address": address, "instance": "i", "state": state, "in_flight": 1,
                   "attempts": 7, "failures": 2, "latency": {"p99_seconds": 0.0123},
                   "ejection": why})
        };
        let why = json!({"reason": "5 failures in a row"});
        let cart = json!({"name": "cart", "requests": 9, "failed": 1, "retries": 2, "pin": {"set": 3},
            "endpoints": [endpoint("10.0.0.1:80", "serving", &Value::Null),
                          endpoint("10.0.0.2:80", "ejected", &why)]});
        let hat = json!({"name": "hat", "requests": 0, "failed": 0, "retries": 0, "endpoints": []});
        assert_eq!(
            of_all([cart.clone(), hat].iter()),
            "service  endpoints             requests  failed  retries\n\
             cart     1 ejected, 1 serving  9         1       2        pinned to set 3\n\
             hat      none                  0         0       0\n"
        );
        assert_eq!(
            of_one(&cart),
            "endpoint     instance  state    in flight  attempts  failures  p99\n\
             10.0.0.1:80  i         serving  1          7         2         12.3 ms\n\
             10.0.0.2:80  i         ejected  1          7         2         12.3 ms  5 failures in a row\n"
        );
        let entries = [
            json!({"number": 4, "at": 120.0, "why": "registry", "registry": "main", "applied": false,
                   "changes": [{"what": "weight_changed", "address": "10.0.0.1:80"},
                               {"what": "removed", "address": "10.0.0.2:80"}]}),
            json!({"number": 3, "at": 60.0, "why": "pinned", "set": 1, "applied": true, "changes": []}),
        ];
        let by = "main, not followed while pinned";
        assert_eq!(
            of_journal(&entries, false, 180.0),
            format!(
                "set  at                               change                      by\n\
                 4    1970-01-01T00:02:00Z  60 s ago   weight changed 10.0.0.1:80  {by}\n\
                 4    1970-01-01T00:02:00Z  60 s ago   removed 10.0.0.2:80         {by}\n\
                 3    1970-01-01T00:01:00Z  2 min ago  no instance                 pinned to set 1\n"
            )
        );
    }
}
