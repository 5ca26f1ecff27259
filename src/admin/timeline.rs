//! The journals of all services as one, the latest change first.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Query, State},
    response::{IntoResponse, Response},
};
use http::StatusCode;
use serde::{Deserialize, Serialize};

use super::view::Shown;
use crate::service::EntryStatus;

/// As many entries are shown where nothing else is said, and at most.
const ENTRIES: usize = 100;
const MOST: usize = 1_000;
/// As many changes of an entry are shown: a first set may be thousands.
const CHANGES: usize = 20;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    limit: Option<usize>,
    /// In seconds since 1970.
    since: Option<f64>,
}

#[derive(Serialize)]
struct Entry {
    service: Arc<str>,
    #[serde(flatten)]
    entry: EntryStatus,
    /// Changes that are not shown.
    more: usize,
}

impl Entry {
    fn of(service: &Arc<str>, mut entry: EntryStatus) -> Self {
        let more = entry.changes.len().saturating_sub(CHANGES);
        entry.changes.truncate(CHANGES);
        Self {
            service: Arc::clone(service),
            entry,
            more,
        }
    }
}

/// `GET /api/journal`
pub(super) async fn journal(
    State(context): Shown,
    wanted: Result<Query<Wanted>, axum::extract::rejection::QueryRejection>,
) -> Response {
    let wanted = match wanted {
        Ok(Query(wanted)) => wanted,
        Err(error) => {
            let text = format!("the query is not understood: {error}\n");
            return (StatusCode::BAD_REQUEST, text).into_response();
        }
    };
    let limit = wanted.limit.unwrap_or(ENTRIES).min(MOST);
    let since = wanted.since.unwrap_or(0.0);
    let mut all = Vec::new();
    for service in context.view.shared.directory().services() {
        let entries = service.changes().into_iter();
        let entries = entries.take(limit).take_while(|entry| entry.at >= since);
        all.extend(entries.map(|entry| Entry::of(service.name(), entry)));
        // Of ten thousand services no more is held than is shown.
        if all.len() > 4 * MOST {
            latest(&mut all, limit);
        }
    }
    latest(&mut all, limit);
    Json(all).into_response()
}

fn latest(all: &mut Vec<Entry>, limit: usize) {
    all.sort_by(|a, b| b.entry.at.total_cmp(&a.entry.at));
    all.truncate(limit);
}
