//! `callboard drain` and `undrain`: keep requests from an endpoint of a running proxy, and end that.

use std::{process::ExitCode, time::Duration};

use clap::Args;
use serde_json::{Value, json};

use super::{admin_server::AdminServer, duration, output::say, table::time};

#[derive(Args)]
pub(super) struct Drain {
    /// The service whose endpoint it is
    #[arg(value_name = "SERVICE")]
    service: String,
    /// The endpoint that gets no new requests: its address, or its id
    #[arg(value_name = "ENDPOINT")]
    endpoint: String,
    /// For how long, up to 24h [default: 30m]
    #[arg(long = "for", value_name = "TIME", value_parser = duration::some)]
    time: Option<Duration>,
    /// Drain it though no other endpoint could be picked
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    server: AdminServer,
}

#[derive(Args)]
pub(super) struct Undrain {
    /// The service whose endpoint it is
    #[arg(value_name = "SERVICE")]
    service: String,
    /// The endpoint that gets requests again: its address, or its id
    #[arg(value_name = "ENDPOINT")]
    endpoint: String,
    #[command(flatten)]
    server: AdminServer,
}

pub(super) fn drain(drain: &Drain) -> anyhow::Result<ExitCode> {
    let body = json!({ "endpoint": drain.endpoint, "force": drain.force });
    let path = ["api", "services", &drain.service, "drain"];
    let answer = drain.server.begin(&path, body, drain.time)?;
    let drained: Value = answer.good()?;
    let left = drained["seconds_left"].as_f64().unwrap_or_default();
    let endpoint = drained["endpoint"].as_str().unwrap_or_default();
    let endpoint = super::plain::Plain(endpoint);
    say(&format!("{endpoint} is drained for {}\n", time(left)))
}

pub(super) fn undrain(undrain: &Undrain) -> anyhow::Result<ExitCode> {
    let path = ["api", "services", &undrain.service, "drain"];
    let query = [("endpoint", undrain.endpoint.as_str())];
    undrain.server.end(&path, &query)?.good::<Value>()?;
    say("no longer drained\n")
}
