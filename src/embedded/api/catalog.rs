//! `/v1/catalog`: which services there are, and where.

use std::collections::BTreeMap;

use axum::response::Response;

use super::{
    query::Query,
    request::{Failure, Params, Rest},
};
use crate::embedded::{
    render::{CatalogEntry, DATACENTER},
    state::Topic,
};

pub(super) async fn datacenters(params: Params) -> Response {
    params.json(&[DATACENTER])
}

pub(super) async fn nodes(query: Query) -> Result<Response, Failure> {
    let found = query.find(&Topic::Node, |_| ()).await?;
    let node = query.wants_node().then_some(&query.context.node);
    Ok(found.shown(&query, &Vec::from_iter(node)))
}

/// Every name with all tags of its instances.
pub(super) async fn services(query: Query) -> Result<Response, Failure> {
    let wants = query.wants_node();
    let found = query.find(&Topic::Catalog, |state| {
        let catalog = state.catalog().into_iter().filter(|_| wants);
        let owned = |tag: &str| tag.to_owned();
        let catalog = catalog.map(|(name, tags)| {
            let tags: Vec<_> = tags.into_iter().map(owned).collect();
            (owned(name), tags)
        });
        catalog.collect::<BTreeMap<_, _>>()
    });
    let found = found.await?;
    Ok(found.shown(&query, &found.content))
}

pub(super) async fn service(rest: Rest, query: Query) -> Result<Response, Failure> {
    let name = rest.filled("service name")?;
    let found = query.instances(&name).await?;
    let entries = found.content.entries.iter();
    let views: Vec<_> = entries
        .filter(|entry| query.wants(entry))
        .map(|entry| CatalogEntry::new(&query.context.node, &entry.service))
        .collect();
    Ok(found.shown(&query, &views))
}
