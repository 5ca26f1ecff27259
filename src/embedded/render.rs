//! What the registry holds, as Consul's HTTP API shows it. Knows nothing of how it is asked for.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
};

use serde::Serialize;

use super::{
    duration,
    model::{Check, Indexed, Kind, Probe, Service, TaggedAddress, Target, Weights},
    state::Entry,
};

/// The only datacenter there is.
pub(super) const DATACENTER: &str = "dc1";
/// The only node's name.
const NODE: &str = "callboard";

/// The node that everything is registered at.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Node {
    #[serde(rename = "ID")]
    id: String,
    #[serde(rename = "Node")]
    name: &'static str,
    address: IpAddr,
    datacenter: &'static str,
    tagged_addresses: BTreeMap<&'static str, IpAddr>,
    meta: BTreeMap<&'static str, &'static str>,
    create_index: u64,
    modify_index: u64,
}

impl Node {
    /// The node of this id, whose registry listens here.
    pub(super) fn new(id: String, listens: SocketAddr) -> Self {
        // An instance without an address is on this machine.
        let address = match listens.ip() {
            ip if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
            ip => ip,
        };
        let tags = match address {
            IpAddr::V4(_) => ["lan", "lan_ipv4", "wan", "wan_ipv4"],
            IpAddr::V6(_) => ["lan", "lan_ipv6", "wan", "wan_ipv6"],
        };
        Self {
            id,
            name: NODE,
            address,
            datacenter: DATACENTER,
            tagged_addresses: tags.map(|tag| (tag, address)).into(),
            meta: BTreeMap::from([("consul-network-segment", "")]),
            create_index: 1,
            modify_index: 1,
        }
    }

    pub(super) fn id(&self) -> &str {
        &self.id
    }

    pub(super) fn name(&self) -> &'static str {
        self.name
    }

    pub(super) fn address(&self) -> IpAddr {
        self.address
    }

    /// What every instance has in its metadata, as a reader of the HTTP API puts it there.
    pub(super) fn meta_of_instances(&self) -> BTreeMap<String, String> {
        let own = self.meta.iter().map(|(key, value)| (*key, *value));
        let datacenter = ("consul-datacenter", self.datacenter);
        own.chain([datacenter])
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect()
    }

    /// Whether the node's metadata has this pair.
    pub(super) fn has_meta(&self, key: &str, value: &str) -> bool {
        self.meta.get(key) == Some(&value)
    }
}

#[derive(Default, Serialize)]
struct Empty {}

/// An element of `/v1/health/service/:name`.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct HealthEntry<'a> {
    node: &'a Node,
    service: HealthService<'a>,
    checks: Vec<CheckView<'a>>,
}

impl<'a> HealthEntry<'a> {
    pub(super) fn new(node: &'a Node, shared: &'a [Arc<Indexed<Check>>], entry: &'a Entry) -> Self {
        let own = entry
            .checks
            .values()
            .map(|check| CheckView::new(check, Some(&entry.service)));
        Self {
            node,
            service: HealthService::new(&entry.service),
            checks: std::iter::once(CheckView::serf())
                .chain(shared.iter().map(|check| CheckView::new(check, None)))
                .chain(own)
                .collect(),
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct HealthService<'a> {
    #[serde(rename = "ID")]
    id: &'a str,
    service: &'a str,
    tags: &'a [String],
    address: &'a str,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    tagged_addresses: &'a BTreeMap<String, TaggedAddress>,
    meta: Option<&'a BTreeMap<String, String>>,
    #[serde(skip_serializing_if = "is_zero")]
    port: i64,
    #[serde(skip_serializing_if = "str::is_empty")]
    socket_path: &'a str,
    weights: Weights,
    enable_tag_override: bool,
    proxy: Proxy,
    connect: Empty,
    peer_name: &'static str,
    create_index: u64,
    modify_index: u64,
}

/// Always empty, and always there: clients in languages without null look into it.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Proxy {
    mode: &'static str,
    mesh_gateway: Empty,
    expose: Empty,
}

const NO_PROXY: Proxy = Proxy {
    mode: "",
    mesh_gateway: Empty {},
    expose: Empty {},
};

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_zero(port: &i64) -> bool {
    *port == 0
}

impl<'a> HealthService<'a> {
    fn new(service: &'a Indexed<Service>) -> Self {
        Self {
            id: &service.id,
            service: &service.name,
            tags: &service.tags,
            address: &service.address,
            tagged_addresses: &service.tagged_addresses,
            meta: service.meta.as_ref(),
            port: service.port,
            socket_path: &service.socket_path,
            weights: service.weights,
            enable_tag_override: service.enable_tag_override,
            proxy: NO_PROXY,
            connect: Empty {},
            peer_name: "",
            create_index: service.created,
            modify_index: service.modified,
        }
    }
}

/// An element of `/v1/catalog/service/:name`.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct CatalogEntry<'a> {
    #[serde(rename = "ID")]
    id: &'a str,
    node: &'a str,
    address: IpAddr,
    datacenter: &'a str,
    tagged_addresses: &'a BTreeMap<&'static str, IpAddr>,
    node_meta: &'a BTreeMap<&'static str, &'static str>,
    service_kind: &'static str,
    #[serde(rename = "ServiceID")]
    service_id: &'a str,
    service_name: &'a str,
    service_tags: &'a [String],
    service_address: &'a str,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    service_tagged_addresses: &'a BTreeMap<String, TaggedAddress>,
    service_weights: Weights,
    service_meta: &'a BTreeMap<String, String>,
    service_port: i64,
    service_socket_path: &'a str,
    service_enable_tag_override: bool,
    service_proxy: Proxy,
    service_connect: Empty,
    service_locality: Option<Empty>,
    create_index: u64,
    modify_index: u64,
}

/// What answers show where a registration had no metadata and null would not do.
static NO_META: BTreeMap<String, String> = BTreeMap::new();

impl<'a> CatalogEntry<'a> {
    pub(super) fn new(node: &'a Node, service: &'a Indexed<Service>) -> Self {
        Self {
            id: &node.id,
            node: node.name,
            address: node.address,
            datacenter: node.datacenter,
            tagged_addresses: &node.tagged_addresses,
            node_meta: &node.meta,
            service_kind: "",
            service_id: &service.id,
            service_name: &service.name,
            service_tags: &service.tags,
            service_address: &service.address,
            service_tagged_addresses: &service.tagged_addresses,
            service_weights: service.weights,
            service_meta: service.meta.as_ref().unwrap_or(&NO_META),
            service_port: service.port,
            service_socket_path: &service.socket_path,
            service_enable_tag_override: service.enable_tag_override,
            service_proxy: NO_PROXY,
            service_connect: Empty {},
            service_locality: None,
            create_index: service.created,
            modify_index: service.modified,
        }
    }
}

/// A value of `/v1/agent/services`, and `/v1/agent/service/:id`.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct AgentService<'a> {
    #[serde(rename = "ID")]
    id: &'a str,
    service: &'a str,
    tags: &'a [String],
    meta: &'a BTreeMap<String, String>,
    port: i64,
    address: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    socket_path: &'a str,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    tagged_addresses: &'a BTreeMap<String, TaggedAddress>,
    weights: Weights,
    enable_tag_override: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    content_hash: Option<String>,
    datacenter: &'static str,
}

impl<'a> AgentService<'a> {
    pub(super) fn new(service: &'a Service) -> Self {
        Self {
            id: &service.id,
            service: &service.name,
            tags: &service.tags,
            meta: service.meta.as_ref().unwrap_or(&NO_META),
            port: service.port,
            address: &service.address,
            socket_path: &service.socket_path,
            tagged_addresses: &service.tagged_addresses,
            weights: service.weights,
            enable_tag_override: service.enable_tag_override,
            content_hash: None,
            datacenter: DATACENTER,
        }
    }

    pub(super) fn with_hash(self, hash: String) -> Self {
        Self {
            content_hash: Some(hash),
            ..self
        }
    }
}

/// A check, wherever one is shown.
#[derive(Default, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct CheckView<'a> {
    node: &'static str,
    #[serde(rename = "CheckID")]
    check_id: &'a str,
    name: &'a str,
    status: &'static str,
    notes: &'a str,
    output: &'a str,
    #[serde(rename = "ServiceID")]
    service_id: &'a str,
    service_name: &'a str,
    service_tags: &'a [String],
    r#type: &'static str,
    interval: String,
    timeout: String,
    exposed_port: u16,
    definition: Empty,
    create_index: u64,
    modify_index: u64,
}

impl<'a> CheckView<'a> {
    /// A check of this service, or of the node.
    pub(super) fn new(check: &'a Indexed<Check>, service: Option<&'a Service>) -> Self {
        let (kind, probe) = match &check.kind {
            Kind::Ttl(_) => ("ttl", None),
            Kind::Maintenance => ("maintenance", None),
            Kind::Probe(probe) => match probe.target {
                Target::Http(_) => ("http", Some(probe)),
                Target::Tcp(_) => ("tcp", Some(probe)),
            },
        };
        Self {
            node: NODE,
            check_id: &check.id,
            name: &check.name,
            status: check.status.name(),
            notes: &check.notes,
            output: &check.output,
            service_id: service.map_or("", |service| &service.id),
            service_name: service.map_or("", |service| &service.name),
            service_tags: service.map_or(&[], |service| &service.tags),
            r#type: kind,
            interval: shown(probe, |probe| Some(probe.interval)),
            timeout: shown(probe, |probe| probe.timeout),
            create_index: check.created,
            modify_index: check.modified,
            ..Self::default()
        }
    }

    /// Its status' name.
    pub(super) fn status(&self) -> &'static str {
        self.status
    }

    /// The check that says that the node is alive, which every instance on it carries.
    pub(super) fn serf() -> Self {
        Self {
            node: NODE,
            check_id: "serfHealth",
            name: "Serf Health Status",
            status: "passing",
            output: "Agent alive and reachable",
            create_index: 1,
            modify_index: 1,
            ..Self::default()
        }
    }
}

fn shown(probe: Option<&Probe>, time: impl Fn(&Probe) -> Option<std::time::Duration>) -> String {
    probe
        .and_then(time)
        .map_or_else(String::new, duration::format)
}
