//! `/v1/catalog`: which services there are, and where.

use std::{collections::BTreeMap, sync::Arc};

use axum::{extract::State as Shared, response::Response};

use super::{
    query::{Context, find, on_node, tagged},
    request::{Failure, Params, Rest},
};
use crate::embedded::{
    render::{CatalogEntry, DATACENTER},
    state::{Entry, Topic},
};

type Catalog = Shared<Arc<Context>>;

pub(super) async fn datacenters(params: Params) -> Response {
    params.json(&[DATACENTER])
}

pub(super) async fn nodes(Shared(context): Catalog, params: Params) -> Result<Response, Failure> {
    let found = find(&context, &params, &Topic::Node, |_| ()).await?;
    let nodes: Vec<_> = on_node(&context, &params)
        .then_some(&context.node)
        .into_iter()
        .collect();
    Ok(found.shown(&params, &nodes))
}

/// Every name with all tags of its instances.
pub(super) async fn services(
    Shared(context): Catalog,
    params: Params,
) -> Result<Response, Failure> {
    let found = find(&context, &params, &Topic::Catalog, |state| {
        let owned = |tags: std::collections::BTreeSet<&str>| {
            tags.into_iter().map(str::to_owned).collect::<Vec<_>>()
        };
        let catalog = state.catalog().into_iter();
        let catalog = catalog.map(|(name, tags)| (name.to_owned(), owned(tags)));
        catalog.collect::<BTreeMap<String, Vec<String>>>()
    })
    .await?;
    if on_node(&context, &params) {
        Ok(found.shown(&params, &found.content))
    } else {
        Ok(found.shown(&params, &BTreeMap::<String, String>::new()))
    }
}

pub(super) async fn service(
    Shared(context): Catalog,
    rest: Rest,
    params: Params,
) -> Result<Response, Failure> {
    let name = rest.filled("service name")?;
    let found = find(&context, &params, &Topic::name(&name), |state| {
        state.named(&name).cloned().collect::<Vec<Entry>>()
    })
    .await?;
    let views: Vec<_> = found
        .content
        .iter()
        .filter(|entry| on_node(&context, &params) && tagged(entry, &params))
        .map(|entry| CatalogEntry::new(&context.node, &entry.service))
        .collect();
    Ok(found.shown(&params, &views))
}
