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
    /// Services that routes name and no registry knows: misspelt, or not there yet.
    pub(super) unregistered: Vec<String>,
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
        let generation = shared.generation.load();
        let directory = &generation.directory;
        Self {
            ready: shared.ready.load(Relaxed),
            draining: shared.draining.load(Relaxed),
            missing: directory.unread(),
            unregistered: directory.unregistered(),
        }
    }

    fn text(&self) -> String {
        if self.draining {
            return DRAINING.to_owned();
        }
        let mut text = if self.ready { "ready" } else { "not ready" }.to_owned();
        for (what, names) in [
            ("not read yet", &self.missing),
            ("not registered", &self.unregistered),
        ] {
            if !names.is_empty() {
                text = format!("{text}; {what}: {}", names.join(", "));
            }
        }
        text + "\n"
    }
}
