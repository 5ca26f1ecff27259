//! `kind = "consul"`: its agents, and what they are asked.

use std::{ops::RangeInclusive, path::Path, time::Duration};

use crate::config::{
    ClientTls, Secret,
    document::{field::Field, report::Wrong, table::Table, value},
    tls,
};

/// Far below what an agent allows a client, which is 200 connections.
const MAX_WATCHES: usize = 100;

/// A query a minute for each watch, which is also about how long an agent that hangs goes unnoticed.
/// Far below Consul's default of 5 minutes.
const WAIT: Duration = Duration::from_secs(60);

/// Shorter ones are a question each time; Consul allows no longer ones.
const WAITS: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(600);

/// `[registry.consul]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Consul {
    /// The agents' base URLs, without a trailing slash, in the order in which they are asked; at
    /// least one.
    pub addresses: Vec<String>,
    /// The ACL token.
    pub token: Option<Secret>,
    /// `dc`, in the order in which they are preferred; empty for the agent's own.
    pub datacenters: Vec<String>,
    /// `ns` (Enterprise)
    pub namespace: Option<String>,
    /// `partition` (Enterprise)
    pub partition: Option<String>,
    /// Tags that an instance of any service must have.
    pub tags: Vec<String>,
    /// `near`
    pub near: Option<String>,
    /// `filter`
    pub filter: Option<String>,
    /// Whether any server may answer.
    pub stale: bool,
    /// What checks with warnings come to.
    pub warnings: Warnings,
    /// How long a blocking query may wait, from 1 s to 10 min.
    pub wait: Duration,
    /// Blocking queries at once; at least 1.
    pub max_watches: usize,
    /// TLS to the agents.
    pub tls: ClientTls,
}

/// `warning`: what an instance is whose checks pass but for warnings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Warnings {
    /// Not called, as one whose checks fail.
    Critical,
    /// Called, with its weight for warnings.
    Passing,
}

pub(super) fn read(table: &mut Table<'_>, base: &Path) -> Consul {
    let addresses = addresses(table);
    // `tls` is for all of them: one that is not https stands for the rest.
    let plain = addresses.iter().find(|url| !url.starts_with("https://"));
    let tls = tls::of_url(table, base, plain.unwrap_or(&addresses[0]));
    Consul {
        token: table.secret("token", base),
        datacenters: datacenters(table),
        namespace: table.text("namespace", "\"team-a\""),
        partition: table.text("partition", "\"east\""),
        tags: table.texts("tags", "\"v2\"").unwrap_or_default(),
        near: table.text("near", "\"_agent\""),
        filter: table.text("filter", "'Service.Meta.version == \"2\"'"),
        stale: table.flag("stale", false),
        warnings: table.choice(
            "warning",
            &[
                ("critical", Warnings::Critical),
                ("passing", Warnings::Passing),
            ],
            Warnings::Critical,
        ),
        wait: wait(table),
        max_watches: table.size("max_watches", 1..=10_000, MAX_WATCHES),
        tls,
        addresses,
    }
}

fn addresses(table: &mut Table<'_>) -> Vec<String> {
    const DEFAULT: &str = "http://127.0.0.1:8500";
    let example = format!("\"{DEFAULT}\"");
    let field = table.take("address");
    let written = field.iter().flat_map(|field| field.one_or_more(&example));
    let mut addresses = distinct(written, |field| {
        field.parse("a URL", &example, value::base_url)
    });
    if addresses.is_empty() {
        if let Some(field) = field.filter(Field::is_empty_array) {
            let wrong = Wrong::new("there is no address");
            field.wrong(wrong.suggest(format!("write `address = {example}`, or leave it out")));
        }
        addresses.push(DEFAULT.to_owned());
    }
    addresses
}

fn datacenters(table: &mut Table<'_>) -> Vec<String> {
    const EXAMPLE: &str = "\"dc1\"";
    let field = table.take("datacenters");
    let written = field.iter().flat_map(|field| field.elements(EXAMPLE));
    distinct(written, |field| {
        field.parse("a text", EXAMPLE, value::filled)
    })
}

fn wait(table: &mut Table<'_>) -> Duration {
    let Some(field) = table.take("wait") else {
        return WAIT;
    };
    let wait = field.duration(value::Zero::Refused);
    if wait.is_some_and(|wait| !WAITS.contains(&wait)) {
        let wrong = Wrong::new("a query of Consul waits from 1s to 10m");
        field.wrong(wrong.suggest("write a duration between, such as \"60s\""));
    }
    wait.unwrap_or(WAIT)
}

/// What can be read of an array in which nothing may stand twice.
fn distinct<'a>(
    fields: impl Iterator<Item = Field<'a>>,
    read: impl Fn(&Field<'a>) -> Option<String>,
) -> Vec<String> {
    let mut distinct = Vec::new();
    for field in fields {
        let Some(text) = read(&field) else { continue };
        if distinct.contains(&text) {
            field.wrong(Wrong::new(format!("`{text}` is here twice")));
        } else {
            distinct.push(text);
        }
    }
    distinct
}
