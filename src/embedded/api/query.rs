//! Queries of the catalog and of health: waiting until there is something new, choosing, and the
//! headers of the answer.

use std::{
    net::SocketAddr,
    sync::{Arc, OnceLock},
};

use axum::{
    extract::FromRequestParts,
    response::{IntoResponse, Response},
};
use http::{StatusCode, request::Parts};
use serde::Serialize;
use tokio::sync::Semaphore;

use super::request::{Failure, Params};
use crate::{
    control::access::Access,
    embedded::{
        blocking,
        model::{Check, Indexed},
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
    /// Where the status page of its proxy is, once that is known.
    pub(in crate::embedded) status_page: OnceLock<SocketAddr>,
    /// One for each query that may wait at once.
    pub(in crate::embedded) waits: Semaphore,
}

/// A request without its path and body.
pub(super) struct Query {
    pub(super) context: Arc<Context>,
    pub(super) params: Params,
}

impl FromRequestParts<Arc<Context>> for Query {
    type Rejection = Failure;

    async fn from_request_parts(
        parts: &mut Parts,
        context: &Arc<Context>,
    ) -> Result<Self, Failure> {
        Ok(Self {
            params: Params::from_request_parts(parts, context).await?,
            context: Arc::clone(context),
        })
    }
}

/// Checks of the node, and instances with their own.
pub(super) struct Checked {
    pub(super) shared: Vec<Arc<Indexed<Check>>>,
    pub(super) entries: Vec<Entry>,
}

impl Checked {
    pub(super) fn of<'e>(state: &State, entries: impl Iterator<Item = &'e Entry>) -> Self {
        Self {
            shared: state.node_checks().values().cloned().collect(),
            entries: entries.cloned().collect(),
        }
    }
}

/// What a catalog or health query found, and the headers that say when.
pub(super) struct Found<T> {
    pub(super) content: T,
    index: u64,
    consistency: &'static str,
}

impl Query {
    /// Answers a query of a topic, once it has changed if the query says so.
    pub(super) async fn find<T>(
        &self,
        topic: &Topic,
        look: impl FnOnce(&State) -> T,
    ) -> Result<Found<T>, Failure> {
        let Self { context, params } = self;
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
        let look = |state: &State| (state.index_of(topic), look(state));
        let (index, content) = context.store.read(look);
        Ok(Found {
            content,
            index: index.max(1),
            consistency,
        })
    }

    /// The instances of the service of this name.
    pub(super) async fn instances(&self, name: &str) -> Result<Found<Checked>, Failure> {
        let look = |state: &State| Checked::of(state, state.named(name));
        self.find(&Topic::name(name), look).await
    }

    /// Whether the instance is wanted: it has every tag that is asked for, and so has the node its
    /// metadata.
    pub(super) fn wants(&self, entry: &Entry) -> bool {
        self.wants_node() && self.params.all("tag").all(|tag| entry.has_tag(tag))
    }

    /// Whether the node has the metadata that is asked for.
    pub(super) fn wants_node(&self) -> bool {
        self.params.all("node-meta").all(|pair| {
            let (key, value) = pair.split_once(':').unwrap_or((pair, ""));
            self.context.node.has_meta(key, value)
        })
    }
}

impl<T> Found<T> {
    /// The answer, with `view` as its body.
    pub(super) fn shown(&self, query: &Query, view: &impl Serialize) -> Response {
        let headers = [
            ("x-consul-index", self.index.to_string()),
            ("x-consul-knownleader", "true".to_owned()),
            ("x-consul-lastcontact", "0".to_owned()),
            (
                "x-consul-effective-consistency",
                self.consistency.to_owned(),
            ),
        ];
        (headers, query.params.json(view)).into_response()
    }
}
