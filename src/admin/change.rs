//! What is asked for with a change that lasts for a while: a body of JSON, and for how long. Knows nothing
//! of what is changed.

use std::time::Duration;

use axum::{
    Json,
    response::{IntoResponse, Response},
};
use http::{HeaderMap, StatusCode};
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
#[expect(clippy::result_large_err, reason = "it is the answer")]
pub(super) fn read<T: DeserializeOwned>(
    headers: &HeaderMap,
    body: &[u8],
    example: &str,
    and_more: &str,
) -> Result<T, Response> {
    // A web page can post anything here but this without being asked whether it may.
    if !is_json(headers) {
        let text = format!(
            "send `Content-Type: application/json`, with a body such as {example}{and_more}"
        );
        return Err(refuse(StatusCode::UNSUPPORTED_MEDIA_TYPE, &text));
    }
    serde_json::from_slice(body).map_err(|error| {
        let text = format!("{error}; write it as {example}");
        refuse(StatusCode::BAD_REQUEST, &text)
    })
}

/// For how long, as durations are written in proxy.toml; half an hour where that is not said.
#[expect(clippy::result_large_err, reason = "it is the answer")]
pub(super) fn time(said: Option<&str>) -> Result<Duration, Response> {
    let Some(said) = said else {
        return Ok(USUAL);
    };
    config::duration(said)
        .map_err(|error| refuse(StatusCode::BAD_REQUEST, &format!("`for`: {error}")))
}

/// Lets the change be made while what is returned lives; else how it is refused.
#[expect(clippy::result_large_err, reason = "it is the answer")]
pub(super) fn begin(context: &Context) -> Result<Changing<'_>, Response> {
    let text = "a new binary takes this process's place, with which this would end: try again";
    let begun = context.view.changes.begin();
    begun.ok_or_else(|| refuse(StatusCode::CONFLICT, text))
}

pub(super) fn refuse(status: StatusCode, error: &str) -> Response {
    (status, Json(json!({ "error": error }))).into_response()
}
