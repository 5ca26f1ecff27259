//! `/v1/agent`: what providers call to register, report and leave.

use std::collections::BTreeMap;

use axum::response::{IntoResponse, Response};
use http::{HeaderName, StatusCode};
use serde_json::json;

use super::{
    query::{Checked, Query},
    request::{Content, Failure, Params, Rest, bad, parse_bool, refused},
};
use crate::embedded::{
    blocking, decode,
    model::Status,
    render::{AgentService, CheckView, DATACENTER},
    state::{Entry, Topic},
};

/// The Consul version whose API this is; clients look at it to know what they may ask.
const API_VERSION: &str = "1.20.0";

pub(super) async fn this(Query { context, params }: Query) -> Response {
    let (node, listens) = (&context.node, context.address);
    params.json(&json!({
        "Config": {
            "Datacenter": DATACENTER,
            "PrimaryDatacenter": DATACENTER,
            "NodeName": node.name(),
            "NodeID": node.id(),
            "Server": true,
            "Revision": "",
            "Version": API_VERSION,
            "VersionMetadata": concat!("callboard-", env!("CARGO_PKG_VERSION")),
        },
        "DebugConfig": { "Datacenter": DATACENTER, "NodeName": node.name(), "DevMode": false },
        "Member": {
            "Name": node.name(),
            "Addr": node.address(),
            "Port": listens.port(),
            "Tags": { "dc": DATACENTER, "id": node.id(), "role": "consul" },
            "Status": 1,
        },
        "Stats": {},
        "Meta": {},
    }))
}

pub(super) async fn services(Query { context, params }: Query) -> Response {
    let entries: Vec<Entry> = context
        .store
        .read(|state| state.services().cloned().collect());
    let views: BTreeMap<&str, _> = entries
        .iter()
        .map(|entry| (entry.service.id.as_str(), AgentService::new(&entry.service)))
        .collect();
    params.json(&views)
}

/// One instance. `?hash=` waits until it is not the one with that hash.
pub(super) async fn service(
    Rest(id): Rest,
    Query { context, params }: Query,
) -> Result<Response, Failure> {
    let hash = |entry: &Entry| format!("{:x}", entry.service.modified);
    let (store, wait) = (&context.store, params.wait()?);
    let known = store.read(|state| state.service(&id).cloned());
    if let Some(entry) = known
        && params.first("hash") == Some(hash(&entry).as_str())
    {
        let topic = Topic::name(&entry.service.name);
        let modified = entry.service.modified;
        blocking::until(store, &topic, wait, |state| {
            let now = state.service(&id);
            now.is_none_or(|entry| entry.service.modified != modified)
        })
        .await;
    }
    let Some(entry) = store.read(|state| state.service(&id).cloned()) else {
        return Err((StatusCode::NOT_FOUND, format!("unknown service ID: {id}")));
    };
    let hash = hash(&entry);
    let header = HeaderName::from_static("x-consul-contenthash");
    let view = AgentService::new(&entry.service).with_hash(hash.clone());
    Ok(([(header, hash)], params.json(&view)).into_response())
}

pub(super) async fn checks(Query { context, params }: Query) -> Response {
    let look = |state: &_| Checked::of(state, state.services());
    let Checked { shared, entries } = context.store.read(look);
    let shared = shared
        .iter()
        .map(|check| (&check.id, CheckView::new(check, None)));
    let own = entries.iter().flat_map(|entry| {
        let checks = entry.checks.values();
        checks.map(|check| (&check.id, CheckView::new(check, Some(&entry.service))))
    });
    let views: BTreeMap<_, _> = shared.chain(own).collect();
    params.json(&views)
}

pub(super) async fn register(
    Query { context, params }: Query,
    Content(body): Content,
) -> Result<(), Failure> {
    let (service, checks) = decode::registration(&body).map_err(bad)?;
    let replace = matches!(params.first("replace-existing-checks"), Some("" | "true"));
    let registered = context.store.register(service, checks, replace);
    registered.map_err(refused)
}

pub(super) async fn deregister(Rest(id): Rest, query: Query) -> Result<(), Failure> {
    query.context.store.deregister(&id).map_err(refused)
}

pub(super) async fn maintain(rest: Rest, Query { context, params }: Query) -> Result<(), Failure> {
    let id = rest.filled("service ID")?;
    let reason = maintenance(&params, "service")?;
    context.store.maintain(&id, reason).map_err(refused)
}

pub(super) async fn maintain_node(Query { context, params }: Query) -> Result<(), Failure> {
    let reason = maintenance(&params, "node")?;
    context.store.maintain_node(reason).map_err(refused)
}

/// The reason for maintenance; `None` where it is to end.
fn maintenance(params: &Params, what: &str) -> Result<Option<String>, Failure> {
    let enable = params
        .first("enable")
        .ok_or(bad("Missing value for enable"))?;
    let enable =
        parse_bool(enable).ok_or_else(|| bad(format!("Invalid value for enable: {enable:?}")))?;
    let reason = params.first("reason").filter(|reason| !reason.is_empty());
    let reason = reason.map_or_else(
        || {
            format!(
                "Maintenance mode is enabled for this {what}, but no reason was provided. \
                 This is a default message."
            )
        },
        str::to_owned,
    );
    Ok(enable.then_some(reason))
}

pub(super) async fn register_check(query: Query, Content(body): Content) -> Result<(), Failure> {
    let check = decode::check(&body).map_err(bad)?;
    query.context.store.register_check(check).map_err(refused)
}

pub(super) async fn deregister_check(Rest(id): Rest, query: Query) -> Result<(), Failure> {
    let deregistered = query.context.store.deregister_check(&id);
    deregistered.map_err(refused)
}

pub(super) async fn pass(rest: Rest, query: Query) -> Result<(), Failure> {
    report(&rest, &query, Status::Passing)
}

pub(super) async fn warn(rest: Rest, query: Query) -> Result<(), Failure> {
    report(&rest, &query, Status::Warning)
}

pub(super) async fn fail(rest: Rest, query: Query) -> Result<(), Failure> {
    report(&rest, &query, Status::Critical)
}

fn report(Rest(id): &Rest, query: &Query, status: Status) -> Result<(), Failure> {
    let note = query.params.first("note").unwrap_or_default();
    let store = &query.context.store;
    store.report_ttl(id, status, note).map_err(refused)
}

pub(super) async fn update(
    Rest(id): Rest,
    query: Query,
    Content(body): Content,
) -> Result<(), Failure> {
    let (status, output) = decode::update(&body).map_err(bad)?;
    let store = &query.context.store;
    store.report_ttl(&id, status, &output).map_err(refused)
}
