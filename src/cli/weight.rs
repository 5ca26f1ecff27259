//! `callboard weight`: has an endpoint of a running proxy be picked by another weight for a while.

use std::{process::ExitCode, time::Duration};

use clap::Args;
use serde_json::{Value, json};

use super::{admin_server::AdminServer, duration, output::say, plain::Plain, table::time};

#[derive(Args)]
pub(super) struct Weight {
    /// The service whose endpoint it is
    #[arg(value_name = "SERVICE")]
    service: String,
    /// The endpoint: its address, or its id
    #[arg(value_name = "ENDPOINT")]
    endpoint: String,
    /// The weight that it is picked by, 1 to 65535
    #[arg(value_name = "WEIGHT", required_unless_present = "reset")]
    weight: Option<u32>,
    /// For how long, up to 24h [default: 30m]
    #[arg(long = "for", value_name = "TIME", value_parser = duration::some)]
    time: Option<Duration>,
    /// Have it be picked by its own weight again
    #[arg(long, conflicts_with_all = ["weight", "time"])]
    reset: bool,
    #[command(flatten)]
    server: AdminServer,
}

pub(super) fn weight(weight: &Weight) -> anyhow::Result<ExitCode> {
    let path = ["api", "services", &weight.service, "weight"];
    let Some(wanted) = weight.weight else {
        let query = [("endpoint", weight.endpoint.as_str())];
        weight.server.end(&path, &query)?.good::<Value>()?;
        return say("picked by its own weight again\n");
    };
    let body = json!({ "endpoint": weight.endpoint, "weight": wanted });
    let answer = weight.server.begin(&path, body, weight.time)?;
    let said: Value = answer.good()?;
    let left = time(said["seconds_left"].as_f64().unwrap_or_default());
    let endpoint = Plain(said["endpoint"].as_str().unwrap_or_default());
    say(&format!("{endpoint} has the weight {wanted} for {left}\n"))
}
