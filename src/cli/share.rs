//! `callboard share`: has the shares of a route of a running proxy be others for a while.

use std::{collections::BTreeMap, process::ExitCode, time::Duration};

use anyhow::bail;
use clap::Args;
use serde::Deserialize;
use serde_json::json;

use super::{admin_server::AdminServer, duration, output::say, plain::Plain, table::time};

#[derive(Args)]
pub(super) struct Share {
    /// The route: its host and path, such as shop.example.com/cart; or a service that has a share of it alone
    #[arg(value_name = "ROUTE")]
    route: String,
    /// A service and its weight, up to 10000; those that are left out have the file's
    #[arg(value_name = "SERVICE=WEIGHT", value_parser = part, required_unless_present = "reset")]
    parts: Vec<(String, u32)>,
    /// For how long, up to 24h [default: 30m]
    #[arg(long = "for", value_name = "TIME", value_parser = duration::some)]
    time: Option<Duration>,
    /// Have the file's shares hold again
    #[arg(long, conflicts_with_all = ["parts", "time"])]
    reset: bool,
    #[command(flatten)]
    server: AdminServer,
}

/// What holds now.
#[derive(Deserialize)]
struct Shares {
    route: String,
    weights: BTreeMap<String, u32>,
    seconds_left: Option<f64>,
}

const PATH: [&str; 2] = ["api", "share"];

pub(super) fn share(share: &Share) -> anyhow::Result<ExitCode> {
    let answer = if share.reset {
        let query = [("route", share.route.as_str())];
        share.server.end(&PATH, &query)?
    } else {
        let weights = by_service(&share.parts)?;
        let body = json!({ "route": share.route, "weights": weights });
        share.server.begin(&PATH, body, share.time)?
    };
    let shares: Shares = answer.good()?;
    let weights = shares.weights.iter();
    let weights = weights.map(|(service, weight)| format!("{}={weight}", Plain(service)));
    let weights = weights.collect::<Vec<_>>().join(" ");
    let how_long = match shares.seconds_left {
        Some(left) => format!("for {}", time(left)),
        None => "as the file has them".to_owned(),
    };
    say(&format!("{}: {weights} {how_long}\n", Plain(&shares.route)))
}

/// The weights by their services, of which each is named once.
fn by_service(parts: &[(String, u32)]) -> anyhow::Result<BTreeMap<&str, u32>> {
    let mut weights = BTreeMap::new();
    for (service, weight) in parts {
        if weights.insert(service.as_str(), *weight).is_some() {
            bail!("`{service}` is named twice");
        }
    }
    Ok(weights)
}

fn part(text: &str) -> Result<(String, u32), String> {
    let (service, weight) = text
        .rsplit_once('=')
        .ok_or("write it as SERVICE=WEIGHT, such as cart-v2=50")?;
    let weight = weight
        .parse()
        .map_err(|_| format!("`{weight}` is no weight, which is a number from 0 to 10000"))?;
    Ok((service.to_owned(), weight))
}
