//! The HTTP API, as Consul 1.20 speaks it: which path leads where, and what all of them share.
//! Knows the store's operations and the wire's formats; nothing of sockets.

mod agent;
mod catalog;
mod health;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Router,
    body::Bytes,
    extract::{
        DefaultBodyLimit, FromRequest, FromRequestParts, Path, Query, Request, State as Shared,
    },
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{MethodRouter, get, put},
};
use http::{HeaderValue, Method, StatusCode, Uri, header, request::Parts};
use serde::Serialize;

use super::{
    blocking, duration, guard,
    render::{DATACENTER, Node},
    state::{State, Topic},
    store::{Refused, Store},
};
use crate::gate::Gate;

/// Bytes of a request's body, as with Consul.
const BODY_MAX: usize = 512 * 1024;
/// How long a body may take to come.
const BODY_TIME: Duration = Duration::from_secs(10);

/// What every request needs.
#[derive(Debug)]
pub(super) struct Context {
    pub(super) store: Arc<Store>,
    pub(super) node: Node,
    pub(super) gate: Gate,
    pub(super) address: SocketAddr,
}

/// An answer that is not 200: Consul's are plain text.
type Failure = (StatusCode, String);

/// All paths.
pub(super) fn router(context: Arc<Context>) -> Router {
    let routes = Router::new()
        .route(
            "/",
            get(async || "Callboard's embedded registry: the Consul HTTP API is under /v1/\n"),
        )
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

/// Lets nobody in who was sent here by a stranger's page, and no change without the token.
async fn admit(Shared(context): Shared<Arc<Context>>, request: Request, next: Next) -> Response {
    let headers = request.headers();
    if !context.gate.knows_host(request.uri(), headers) {
        let text = "Forbidden: the Host header names no address of this registry";
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

async fn leader(Shared(context): Shared<Arc<Context>>, params: Params) -> Response {
    params.json(&context.address)
}

async fn peers(Shared(context): Shared<Arc<Context>>, params: Params) -> Response {
    params.json(&[context.address])
}

/// What is behind a path's fixed beginning, percent-decoded; possibly nothing.
struct Rest(String);

impl<S: Send + Sync> FromRequestParts<S> for Rest {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        let path = Option::<Path<String>>::from_request_parts(parts, state).await;
        let path = path.map_err(|error| (error.status(), error.body_text()))?;
        Ok(Self(path.map_or_else(String::new, |Path(rest)| rest)))
    }
}

/// A request's body, if it comes in time and is not too large.
struct Content(Bytes);

impl<S: Send + Sync> FromRequest<S> for Content {
    type Rejection = Failure;

    async fn from_request(request: Request, state: &S) -> Result<Self, Failure> {
        match tokio::time::timeout(BODY_TIME, Bytes::from_request(request, state)).await {
            Ok(Ok(bytes)) => Ok(Self(bytes)),
            Ok(Err(error)) if error.status() == StatusCode::PAYLOAD_TOO_LARGE => {
                let text = format!("Request body too large, max size: {BODY_MAX} bytes");
                Err((StatusCode::PAYLOAD_TOO_LARGE, text))
            }
            Ok(Err(error)) => Err((error.status(), error.body_text())),
            Err(_) => {
                let text = "Request body did not come in time".to_owned();
                Err((StatusCode::REQUEST_TIMEOUT, text))
            }
        }
    }
}

/// The query parameters. What this registry cannot do is refused here, for every path.
struct Params(Vec<(String, String)>);

impl<S: Send + Sync> FromRequestParts<S> for Params {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        let query = Query::<Vec<(String, String)>>::from_request_parts(parts, state).await;
        let Query(params) = query.map_err(|error| bad(error.body_text()))?;
        let params = Self(params);
        for (name, plural) in [("ns", "Namespaces"), ("partition", "Partitions")] {
            if !matches!(params.first(name).unwrap_or_default(), "" | "default") {
                let text = format!(
                    "Invalid query parameter: {name:?} - {plural} are a Consul Enterprise feature"
                );
                return Err(bad(text));
            }
        }
        if params
            .first("filter")
            .is_some_and(|filter| !filter.is_empty())
        {
            return Err(bad("?filter is not supported by the embedded registry"));
        }
        Ok(params)
    }
}

impl Params {
    fn first(&self, name: &str) -> Option<&str> {
        let mut named = self.0.iter().filter(|(key, _)| key == name);
        named.next().map(|(_, value)| value.as_str())
    }

    fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        let named = self.0.iter().filter(move |(key, _)| key == name);
        named.map(|(_, value)| value.as_str())
    }

    fn has(&self, name: &str) -> bool {
        self.first(name).is_some()
    }

    /// What Go's `strconv.ParseBool` makes of it; a parameter without a value is true.
    fn flag(&self, name: &str) -> Result<bool, &str> {
        match self.first(name) {
            None => Ok(false),
            Some("") => Ok(true),
            Some(value) => parse_bool(value).ok_or(value),
        }
    }

    fn wait(&self) -> Result<Duration, Failure> {
        match self.first("wait").unwrap_or_default() {
            "" => Ok(Duration::ZERO),
            wait => duration::parse(wait).map_err(|_| bad("Invalid wait time")),
        }
    }

    fn index(&self) -> Result<u64, Failure> {
        match self.first("index").unwrap_or_default() {
            "" => Ok(0),
            index => index.parse().map_err(|_| bad("Invalid index")),
        }
    }

    /// How the answer may be read, which is all the same to a single server.
    fn consistency(&self) -> Result<&'static str, Failure> {
        match (
            self.has("stale"),
            self.has("consistent"),
            self.has("cached"),
        ) {
            (true, true, _) => Err(bad(
                "Cannot specify ?stale with ?consistent, conflicting semantics.",
            )),
            (_, true, true) => Err(bad(
                "Cannot specify ?cached with ?consistent, conflicting semantics.",
            )),
            (true, ..) => Ok("stale"),
            (_, true, _) => Ok("consistent"),
            _ => Ok("leader"),
        }
    }

    fn json(&self, value: &impl Serialize) -> Response {
        let json = if self.has("pretty") {
            serde_json::to_vec_pretty(value)
        } else {
            serde_json::to_vec(value)
        };
        match json {
            Ok(json) => {
                let kind = HeaderValue::from_static("application/json");
                ([(header::CONTENT_TYPE, kind)], json).into_response()
            }
            Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
        }
    }
}

fn parse_bool(value: &str) -> Option<bool> {
    match value {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

fn bad(text: impl Into<String>) -> Failure {
    (StatusCode::BAD_REQUEST, text.into())
}

fn refused(refused: Refused) -> Failure {
    let status = match refused {
        Refused::UnknownService(_) | Refused::UnknownCheck(_) | Refused::NoService(_) => {
            StatusCode::NOT_FOUND
        }
        Refused::NotTtl(_) | Refused::Journal(_) => StatusCode::INTERNAL_SERVER_ERROR,
    };
    (status, refused.to_string())
}

/// What a catalog or health query found, and the headers that say when.
struct Found<T> {
    content: T,
    index: u64,
    consistency: &'static str,
}

/// Answers a query of a topic, once it has changed if the query says so.
async fn find<T>(
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
    fn shown(&self, params: &Params, view: &impl Serialize) -> Response {
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
