//! A successor, which has the same configuration, asks a proxy that is on its way out for its
//! addresses, so that none of them is dead while this one ends what it has.

use std::sync::atomic::Ordering::Relaxed;

use axum::{
    extract::State,
    response::{IntoResponse, Response},
};
use http::{HeaderMap, StatusCode};

use super::view::{Shown, is_json};

/// `POST /api/handover`. The listeners, the embedded registry and this server close right after the
/// answer.
pub(super) async fn hand_over(State(context): Shown, headers: HeaderMap) -> Response {
    // A web page can post anything here but JSON without being asked whether it may.
    if !is_json(&headers) {
        let text = "send `Content-Type: application/json`, and {}\n";
        return (StatusCode::UNSUPPORTED_MEDIA_TYPE, text).into_response();
    }
    if !context.view.shared.draining.load(Relaxed) {
        let text = "this proxy is not on its way out: send it SIGTERM first\n";
        return (StatusCode::CONFLICT, text).into_response();
    }
    context.view.handover.cancel();
    "the addresses are yours\n".into_response()
}
