//! `/v1/health`: instances and their checks.

use axum::response::Response;

use super::{
    query::{Checked, Query},
    request::{Failure, Rest, bad},
};
use crate::embedded::{
    model::Status,
    render::{CheckView, HealthEntry},
    state::{Entry, Topic},
};

/// The instances of a service with all their checks.
pub(super) async fn service(rest: Rest, query: Query) -> Result<Response, Failure> {
    let name = rest.filled("service name")?;
    let passing = query.params.flag("passing");
    let passing = passing.map_err(|_| bad("Invalid value for ?passing"))?;
    let found = query.instances(&name).await?;
    let Checked { shared, entries } = &found.content;
    let passes = |entry: &Entry| {
        let mut checks = shared.iter().chain(entry.checks.values());
        checks.all(|check| check.status == Status::Passing)
    };
    let views: Vec<_> = entries
        .iter()
        .filter(|entry| query.wants(entry) && (!passing || passes(entry)))
        .map(|entry| HealthEntry::new(&query.context.node, shared, entry))
        .collect();
    Ok(found.shown(&query, &views))
}

/// The checks of a service's instances, without the node's.
pub(super) async fn checks(rest: Rest, query: Query) -> Result<Response, Failure> {
    let name = rest.filled("service name")?;
    let found = query.instances(&name).await?;
    let views: Vec<_> = found.content.entries.iter().flat_map(views).collect();
    Ok(found.shown(&query, &views))
}

/// All checks of a status, or of `any`.
pub(super) async fn state(rest: Rest, query: Query) -> Result<Response, Failure> {
    let status = rest.filled("check state")?;
    let wanted = |shown: &str| status == "any" || shown == status;
    every_check(&query, true, wanted).await
}

/// All checks of the node, which is all there are.
pub(super) async fn node(rest: Rest, query: Query) -> Result<Response, Failure> {
    let is_here = rest.filled("node name")? == query.context.node.name();
    every_check(&query, is_here, |_| true).await
}

async fn every_check(
    query: &Query,
    any: bool,
    wanted: impl Fn(&str) -> bool,
) -> Result<Response, Failure> {
    let look = |state: &_| Checked::of(state, state.services());
    let found = query.find(&Topic::Checks, look).await?;
    let Checked { shared, entries } = &found.content;
    let views: Vec<_> = std::iter::once(CheckView::serf())
        .chain(shared.iter().map(|check| CheckView::new(check, None)))
        .chain(entries.iter().flat_map(views))
        .filter(|view| any && query.wants_node() && wanted(view.status()))
        .collect();
    Ok(found.shown(query, &views))
}

fn views(entry: &Entry) -> impl Iterator<Item = CheckView<'_>> {
    let checks = entry.checks.values();
    checks.map(|check| CheckView::new(check, Some(&entry.service)))
}
