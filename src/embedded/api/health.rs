//! `/v1/health`: instances and their checks.

use std::sync::Arc;

use axum::{extract::State as Shared, response::Response};

use super::{
    query::{Context, find, on_node, tagged},
    request::{Failure, Params, Rest, bad},
};
use crate::embedded::{
    model::{Check, Indexed, Status},
    render::{CheckView, HealthEntry},
    state::{Entry, State, Topic},
};

type Health = Shared<Arc<Context>>;
type Checks = Vec<Arc<Indexed<Check>>>;

/// The instances of a service with all their checks.
pub(super) async fn service(
    Shared(context): Health,
    rest: Rest,
    params: Params,
) -> Result<Response, Failure> {
    let name = rest.filled("service name")?;
    let passing = params
        .flag("passing")
        .map_err(|_| bad("Invalid value for ?passing"))?;
    let found = find(&context, &params, &Topic::name(&name), |state| {
        let entries = state.named(&name).cloned().collect::<Vec<Entry>>();
        (node_checks(state), entries)
    })
    .await?;
    let (shared, entries) = &found.content;
    let passes = |entry: &Entry| {
        let mut checks = shared.iter().chain(entry.checks.values());
        checks.all(|check| check.status == Status::Passing)
    };
    let views: Vec<_> = entries
        .iter()
        .filter(|entry| on_node(&context, &params) && tagged(entry, &params))
        .filter(|entry| !passing || passes(entry))
        .map(|entry| HealthEntry::new(&context.node, shared, entry))
        .collect();
    Ok(found.shown(&params, &views))
}

/// The checks of a service's instances, without the node's.
pub(super) async fn checks(
    Shared(context): Health,
    rest: Rest,
    params: Params,
) -> Result<Response, Failure> {
    let name = rest.filled("service name")?;
    let found = find(&context, &params, &Topic::name(&name), |state| {
        state.named(&name).cloned().collect::<Vec<Entry>>()
    })
    .await?;
    let views: Vec<_> = found.content.iter().flat_map(views).collect();
    Ok(found.shown(&params, &views))
}

/// All checks of a status, or of `any`.
pub(super) async fn state(
    Shared(context): Health,
    rest: Rest,
    params: Params,
) -> Result<Response, Failure> {
    let status = rest.filled("check state")?;
    every_check(&context, &params, true, |shown| {
        status == "any" || shown == status
    })
    .await
}

/// All checks of the node, which is all there are.
pub(super) async fn node(
    Shared(context): Health,
    rest: Rest,
    params: Params,
) -> Result<Response, Failure> {
    let node = rest.filled("node name")?;
    let here = node == context.node.name();
    every_check(&context, &params, here, |_| true).await
}

async fn every_check(
    context: &Context,
    params: &Params,
    any: bool,
    wanted: impl Fn(&str) -> bool,
) -> Result<Response, Failure> {
    let found = find(context, params, &Topic::Checks, |state| {
        (
            node_checks(state),
            state.services().cloned().collect::<Vec<Entry>>(),
        )
    })
    .await?;
    let (shared, entries) = &found.content;
    let views: Vec<_> = std::iter::once(CheckView::serf())
        .chain(shared.iter().map(|check| CheckView::new(check, None)))
        .chain(entries.iter().flat_map(views))
        .filter(|view| any && on_node(context, params) && wanted(view.status()))
        .collect();
    Ok(found.shown(params, &views))
}

fn views(entry: &Entry) -> impl Iterator<Item = CheckView<'_>> {
    let checks = entry.checks.values();
    checks.map(|check| CheckView::new(check, Some(&entry.service)))
}

fn node_checks(state: &State) -> Checks {
    state.node_checks().values().cloned().collect()
}
