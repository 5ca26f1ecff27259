//! What a request brings: the rest of its path, its parameters, its body. And what goes back where
//! it cannot be answered. Knows nothing of the registry's content.

use std::time::Duration;

use axum::{
    body::Bytes,
    extract::{FromRequest, FromRequestParts, Path, Query, Request},
    response::{IntoResponse, Response},
};
use http::{HeaderValue, StatusCode, header, request::Parts};
use serde::Serialize;

use crate::{
    embedded::{duration, store::Refused},
    registry::consul::NOT_OF_THE_MESH,
};

/// Bytes of a request's body, as with Consul.
pub(super) const BODY_MAX: usize = 512 * 1024;
/// How long a body may take to come.
const BODY_TIME: Duration = Duration::from_secs(10);

/// An answer that is not 200: Consul's are plain text.
pub(super) type Failure = (StatusCode, String);

/// What is behind a path's fixed beginning, percent-decoded; possibly nothing.
pub(super) struct Rest(pub(super) String);

impl Rest {
    /// What must not be nothing.
    pub(super) fn filled(self, what: &str) -> Result<String, Failure> {
        match self.0 {
            rest if rest.is_empty() => Err(bad(format!("Missing {what}"))),
            rest => Ok(rest),
        }
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Rest {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        let path = Option::<Path<String>>::from_request_parts(parts, state).await;
        let path = path.map_err(|error| (error.status(), error.body_text()))?;
        Ok(Self(path.map_or_else(String::new, |Path(rest)| rest)))
    }
}

/// A request's body, if it comes in time and is not too large.
pub(super) struct Content(pub(super) Bytes);

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
pub(super) struct Params(Vec<(String, String)>);

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
        // No service here is of a mesh: what leaves those out leaves nothing out.
        if params
            .first("filter")
            .is_some_and(|filter| !filter.is_empty() && filter != NOT_OF_THE_MESH)
        {
            return Err(bad("?filter is not supported by the embedded registry"));
        }
        Ok(params)
    }
}

impl Params {
    pub(super) fn first(&self, name: &str) -> Option<&str> {
        let mut named = self.0.iter().filter(|(key, _)| key == name);
        named.next().map(|(_, value)| value.as_str())
    }

    pub(super) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        let named = self.0.iter().filter(move |(key, _)| key == name);
        named.map(|(_, value)| value.as_str())
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.first(name).is_some()
    }

    /// What Go's `strconv.ParseBool` makes of it; a parameter without a value is true.
    pub(super) fn flag(&self, name: &str) -> Result<bool, &str> {
        match self.first(name) {
            None => Ok(false),
            Some("") => Ok(true),
            Some(value) => parse_bool(value).ok_or(value),
        }
    }

    pub(super) fn wait(&self) -> Result<Duration, Failure> {
        match self.first("wait").unwrap_or_default() {
            "" => Ok(Duration::ZERO),
            wait => duration::parse(wait).map_err(|_| bad("Invalid wait time")),
        }
    }

    pub(super) fn index(&self) -> Result<u64, Failure> {
        match self.first("index").unwrap_or_default() {
            "" => Ok(0),
            index => index.parse().map_err(|_| bad("Invalid index")),
        }
    }

    /// How the answer may be read, which is all the same to a single server.
    pub(super) fn consistency(&self) -> Result<&'static str, Failure> {
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

    pub(super) fn json(&self, value: &impl Serialize) -> Response {
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

pub(super) fn parse_bool(value: &str) -> Option<bool> {
    match value {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

pub(super) fn bad(text: impl Into<String>) -> Failure {
    (StatusCode::BAD_REQUEST, text.into())
}

pub(super) fn refused(refused: Refused) -> Failure {
    let status = match refused {
        Refused::UnknownService(_) | Refused::UnknownCheck(_) | Refused::NoService(_) => {
            StatusCode::NOT_FOUND
        }
        Refused::NotTtl(_) | Refused::Journal(_) => StatusCode::INTERNAL_SERVER_ERROR,
    };
    (status, refused.to_string())
}
