//! The HTTP API, as Consul 1.20 speaks it: which path leads where, and who is let in.
//! Knows nothing of sockets.

mod agent;
mod catalog;
mod health;
mod page;
mod query;
mod request;

use std::sync::Arc;

use axum::{
    Router,
    extract::{DefaultBodyLimit, Request, State as Shared},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{MethodRouter, get, put},
};
use http::{Method, StatusCode, Uri};

use super::guard;
pub(super) use query::Context;
use query::Query;
use request::{BODY_MAX, Failure};

/// All paths.
pub(super) fn router(context: Arc<Context>) -> Router {
    let routes = Router::new()
        .route(
            "/",
            get(async || "Callboard's embedded registry: the Consul HTTP API is under /v1/\n"),
        )
        .route("/ui/", get(page::status_page))
        .route("/v1/status/leader", get(leader))
        .route("/v1/status/peers", get(peers))
        .route("/v1/agent/self", get(agent::this))
        .route("/v1/agent/services", get(agent::services))
        .route("/v1/agent/checks", get(agent::checks))
        .route("/v1/agent/maintenance", put(agent::maintain_node))
        .route("/v1/agent/service/register", put(agent::register))
        .route("/v1/agent/check/register", put(agent::register_check))
        .route("/v1/catalog/datacenters", get(catalog::datacenters))
        .route("/v1/catalog/nodes", get(catalog::nodes))
        .route("/v1/catalog/services", get(catalog::services));
    let under: [(&str, MethodRouter<Arc<Context>>); 13] = [
        ("/v1/agent/service/", get(agent::service)),
        ("/v1/agent/service/deregister/", put(agent::deregister)),
        ("/v1/agent/service/maintenance/", put(agent::maintain)),
        ("/v1/agent/check/deregister/", put(agent::deregister_check)),
        ("/v1/agent/check/pass/", put(agent::pass)),
        ("/v1/agent/check/warn/", put(agent::warn)),
        ("/v1/agent/check/fail/", put(agent::fail)),
        ("/v1/agent/check/update/", put(agent::update)),
        ("/v1/catalog/service/", get(catalog::service)),
        ("/v1/health/service/", get(health::service)),
        ("/v1/health/checks/", get(health::checks)),
        ("/v1/health/state/", get(health::state)),
        ("/v1/health/node/", get(health::node)),
    ];
    under
        .into_iter()
        .fold(routes, |routes, (prefix, method)| {
            let rest = format!("{prefix}{{*rest}}");
            routes.route(prefix, method.clone()).route(&rest, method)
        })
        .fallback(unknown)
        .method_not_allowed_fallback(wrong_method)
        .layer(DefaultBodyLimit::max(BODY_MAX))
        .layer(middleware::from_fn_with_state(Arc::clone(&context), admit))
        .with_state(context)
}

/// Refuses a request that a stranger's page had a browser send, and a change without the token.
async fn admit(Shared(context): Shared<Arc<Context>>, request: Request, next: Next) -> Response {
    let headers = request.headers();
    let sent = guard::sent_token(headers);
    if !context.gate.is_meant(request.uri(), headers, sent) {
        let text = "Forbidden: the Host header names no address of this registry: call it by an IP \
                    address, send the token, or list the name in the registry's `hosts`";
        return (StatusCode::FORBIDDEN, text).into_response();
    }
    let reads = matches!(
        *request.method(),
        Method::GET | Method::HEAD | Method::OPTIONS
    );
    if !reads && let Err(reason) = guard::allows_change(&context.gate, headers) {
        return (StatusCode::FORBIDDEN, reason).into_response();
    }
    next.run(request).await
}

async fn unknown(uri: Uri) -> Failure {
    let text = if uri.path().contains("/v1/") {
        "Invalid URL path: not a recognized HTTP API endpoint\n"
    } else {
        "Invalid URL path: if attempting to use the HTTP API, ensure the path starts with '/v1/'\n"
    };
    (StatusCode::NOT_FOUND, text.to_owned())
}

/// The router adds `Allow`.
async fn wrong_method(method: Method) -> Response {
    if method == Method::OPTIONS {
        return ().into_response();
    }
    let text = format!("method {method} not allowed");
    (StatusCode::METHOD_NOT_ALLOWED, text).into_response()
}

async fn leader(Query { context, params }: Query) -> Response {
    params.json(&context.address)
}

async fn peers(Query { context, params }: Query) -> Response {
    params.json(&[context.address])
}
