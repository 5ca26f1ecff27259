//! May the proxy be sent traffic? Where not, the answer says what is missing.

use std::sync::atomic::Ordering::Relaxed;

use axum::{
    Json,
    extract::State,
    response::{IntoResponse, Response},
};
use http::{HeaderMap, StatusCode};
use serde::Serialize;

use super::view::{Shown, View, accepts};

/// What is said of a proxy that is on its way out.
pub const DRAINING: &str = "draining\n";

/// Whether the proxy may be sent traffic, and what it has not read.
#[derive(Debug, Serialize)]
pub(super) struct Readiness {
    pub(super) ready: bool,
    pub(super) draining: bool,
    /// Services and catalogs that were never read. A proxy that has waited long enough for them
    /// is ready all the same.
    pub(super) missing: Vec<String>,
}

pub(super) async fn ready(State(context): Shown, headers: HeaderMap) -> Response {
    let readiness = Readiness::of(&context.view);
    let status = if readiness.ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    if accepts(&headers, "json") {
        return (status, Json(readiness)).into_response();
    }
    (status, readiness.text()).into_response()
}

impl Readiness {
    pub(super) fn of(view: &View) -> Self {
        let shared = &view.shared;
        Self {
            ready: shared.ready.load(Relaxed),
            draining: shared.draining.load(Relaxed),
            missing: shared.generation.load().directory.unread(),
        }
    }

    fn text(&self) -> String {
        if self.draining {
            return DRAINING.to_owned();
        }
        let state = if self.ready { "ready" } else { "not ready" };
        if self.missing.is_empty() {
            format!("{state}\n")
        } else {
            format!("{state}; not read yet: {}\n", self.missing.join(", "))
        }
    }
}
