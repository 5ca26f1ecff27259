//! What is asked for with a change that lasts for a while: a body of JSON, and for how long. Knows nothing
//! of what is changed.

use std::time::Duration;

use axum::{
    Json,
    response::{IntoResponse, Response},
};
use http::{HeaderMap, StatusCode, header};
use serde::de::DeserializeOwned;
use serde_json::json;

use super::{
    change_lock::Changing,
    view::{Context, is_json},
};
use crate::config;

/// How long a change lasts for which nothing else is said.
const USUAL: Duration = Duration::from_secs(30 * 60);

/// The body; else how it is refused. `example` shows one, and `and_more` says what else there is to say of it.
pub(super) fn read<T: DeserializeOwned>(
    headers: &HeaderMap,
    body: &[u8],
    example: &str,
    and_more: &str,
) -> Result<T, Refusal> {
    // A web page can post anything here but this without being asked whether it may.
    if !is_json(headers) {
        let text = format!(
            "send `Content-Type: application/json`, with a body such as {example}{and_more}"
        );
        return Err(refuse(StatusCode::UNSUPPORTED_MEDIA_TYPE, text));
    }
    serde_json::from_slice(body).map_err(|error| {
        let text = format!("{error}; write it as {example}");
        refuse(StatusCode::BAD_REQUEST, text)
    })
}

/// For how long, as durations are written in proxy.toml; half an hour where that is not said.
pub(super) fn time(said: Option<&str>) -> Result<Duration, Refusal> {
    let Some(said) = said else {
        return Ok(USUAL);
    };
    config::duration(said)
        .map_err(|error| refuse(StatusCode::BAD_REQUEST, format!("`for`: {error}")))
}

/// Lets the change be made while what is returned lives.
pub(super) fn begin(context: &Context) -> Result<Changing<'_>, Refusal> {
    let text = "a new binary takes this process's place, with which this would end: try again";
    let begun = context.view.changes.begin();
    begun.ok_or_else(|| refuse(StatusCode::CONFLICT, text))
}

/// What a query names of which a change ends; else it is asked for with an example.
pub(super) fn named<'n>(name: Option<&'n str>, asked: &str) -> Result<&'n str, Refusal> {
    name.ok_or_else(|| refuse(StatusCode::BAD_REQUEST, asked))
}

/// Why nothing is changed, as JSON.
#[derive(Debug)]
pub(super) struct Refusal {
    status: StatusCode,
    error: String,
    /// The methods that there are, where it is for the method.
    allowed: Option<&'static str>,
}

/// What a request for a change is answered.
pub(super) type Answer = Result<Response, Refusal>;

pub(super) fn refuse(status: StatusCode, error: impl Into<String>) -> Refusal {
    Refusal {
        status,
        error: error.into(),
        allowed: None,
    }
}

/// A path has no such method, but others.
pub(super) fn not_allowed(error: String, allowed: &'static str) -> Refusal {
    Refusal {
        allowed: Some(allowed),
        ..refuse(StatusCode::METHOD_NOT_ALLOWED, error)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let allowed = self.allowed.map(|allowed| [(header::ALLOW, allowed)]);
        let body = Json(json!({ "error": self.error }));
        (self.status, allowed, body).into_response()
    }
}
