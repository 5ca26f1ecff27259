//! Queries of the catalog and of health: waiting until there is something new, choosing, and the
//! headers of the answer.

use std::{net::SocketAddr, sync::Arc};

use axum::response::{IntoResponse, Response};
use http::StatusCode;
use serde::Serialize;
use tokio::sync::Semaphore;

use super::request::{Failure, Params};
use crate::{
    control::access::Access,
    embedded::{
        blocking,
        render::{DATACENTER, Node},
        state::{Entry, State, Topic},
        store::Store,
    },
};

/// What every request needs.
#[derive(Debug)]
pub(in crate::embedded) struct Context {
    pub(in crate::embedded) store: Arc<Store>,
    pub(in crate::embedded) node: Node,
    pub(in crate::embedded) gate: Access,
    pub(in crate::embedded) address: SocketAddr,
    /// One for each query that may wait at once.
    pub(in crate::embedded) waits: Semaphore,
}

/// What a catalog or health query found, and the headers that say when.
pub(super) struct Found<T> {
    pub(super) content: T,
    index: u64,
    consistency: &'static str,
}

/// Answers a query of a topic, once it has changed if the query says so.
pub(super) async fn find<T>(
    context: &Context,
    params: &Params,
    topic: &Topic,
    look: impl FnOnce(&State) -> T,
) -> Result<Found<T>, Failure> {
    for dc in ["datacenter", "dc"] {
        if !matches!(params.first(dc).unwrap_or_default(), "" | DATACENTER) {
            let text = "No path to datacenter".to_owned();
            return Err((StatusCode::INTERNAL_SERVER_ERROR, text));
        }
    }
    let (index, wait) = (params.index()?, params.wait()?);
    let consistency = params.consistency()?;
    if index > 0 {
        // An index above the server's is from another life of its state: there is nothing to wait
        // for, and the answer's lower index tells the client so.
        let passed = |state: &State| state.index_of(topic) > index || index > state.index();
        // The rest of the connections is for those who register, and for probes.
        let _waits = context.waits.try_acquire().map_err(|_| {
            let text = "Too many queries wait for a change already".to_owned();
            (StatusCode::TOO_MANY_REQUESTS, text)
        })?;
        blocking::until(&context.store, topic, wait, passed).await;
    }
    let (index, content) = context
        .store
        .read(|state| (state.index_of(topic), look(state)));
    Ok(Found {
        content,
        index: index.max(1),
        consistency,
    })
}

impl<T> Found<T> {
    /// The answer, with `view` as its body.
    pub(super) fn shown(&self, params: &Params, view: &impl Serialize) -> Response {
        let headers = [
            ("x-consul-index", self.index.to_string()),
            ("x-consul-knownleader", "true".to_owned()),
            ("x-consul-lastcontact", "0".to_owned()),
            (
                "x-consul-effective-consistency",
                self.consistency.to_owned(),
            ),
        ];
        (headers, params.json(view)).into_response()
    }
}

/// Whether the instance has every tag that is asked for.
pub(super) fn tagged(entry: &Entry, params: &Params) -> bool {
    params.all("tag").all(|tag| entry.has_tag(tag))
}

/// Whether the node has the metadata that is asked for.
pub(super) fn on_node(context: &Context, params: &Params) -> bool {
    params.all("node-meta").all(|pair| {
        let (key, value) = pair.split_once(':').unwrap_or((pair, ""));
        context.node.has_meta(key, value)
    })
}
