//! `kind = "consul"`: an agent, and what it is asked.

use std::path::Path;

use crate::config::{ClientTls, Secret, reader::Table, report::Wrong, tls, value};

/// `[registry.consul]`
#[derive(Clone, Debug)]
pub struct Consul {
    /// The agent's base URL, without a trailing slash.
    pub address: String,
    /// The ACL token.
    pub token: Option<Secret>,
    /// `dc`
    pub datacenter: Option<String>,
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
    /// TLS to the agent.
    pub tls: ClientTls,
}

pub(super) fn read(table: &mut Table<'_>, base: &Path) -> Consul {
    const EXAMPLE: &str = "\"http://127.0.0.1:8500\"";
    let address = table
        .take("address")
        .and_then(|field| field.parse("a URL", EXAMPLE, value::base_url))
        .unwrap_or_else(|| "http://127.0.0.1:8500".to_owned());
    Consul {
        token: table.secret("token", base),
        datacenter: datacenter(table),
        namespace: table.text("namespace", "\"team-a\""),
        partition: table.text("partition", "\"east\""),
        tags: table.texts("tags", "\"v2\"").unwrap_or_default(),
        near: table.text("near", "\"_agent\""),
        filter: table.text("filter", "'Service.Meta.version == \"2\"'"),
        stale: table.flag("stale", false),
        tls: tls::of_url(table, base, &address),
        address,
    }
}

fn datacenter(table: &mut Table<'_>) -> Option<String> {
    const EXAMPLE: &str = "\"dc1\"";
    let field = table.take("datacenters")?;
    let elements = field.elements(EXAMPLE);
    if let Some(second) = elements.get(1) {
        second.wrong(
            Wrong::new("for now a registry reads one datacenter")
                .suggest("write one of them here, and another `[registry.NAME]` for each other"),
        );
    }
    elements.first()?.parse("a text", EXAMPLE, value::filled)
}
