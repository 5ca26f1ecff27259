//! `/metrics`: what the workers have counted, added up at each scrape. The table of all metrics is
//! [`METRICS`]; what is not in it is not sent.

mod access_log;
mod acme;
mod calls;
mod process;
mod proxy_headers;
mod scrape;
mod services;
mod table;
mod tls;
mod tunnels;

use std::{fmt, sync::Arc};

use axum::{extract::State, response::IntoResponse};
use http::{HeaderMap, header};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, text},
    registry::Registry,
};

pub use scrape::{Kind, Metric};
pub use table::METRICS;

use super::{
    selection::Selection,
    view::{Context, Shown, accepts},
};
use scrape::Scrape;

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";

pub(super) async fn metrics(
    State(context): Shown,
    selection: Selection,
    headers: HeaderMap,
) -> impl IntoResponse {
    let open_metrics = accepts(&headers, "application/openmetrics-text");
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Everything {
        context,
        selection,
        open_metrics,
    }));
    let mut body = String::new();
    // A String takes every line; the encoder itself has no other error.
    text::encode(&mut body, &registry).expect("a String can be written");
    let kind = if open_metrics {
        OPEN_METRICS
    } else {
        PROMETHEUS
    };
    ([(header::CONTENT_TYPE, kind)], body)
}

/// The one collector: all of [`METRICS`].
struct Everything {
    context: Arc<Context>,
    selection: Selection,
    open_metrics: bool,
}

impl fmt::Debug for Everything {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Everything").finish_non_exhaustive()
    }
}

impl Collector for Everything {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let scrape = Scrape::new(&self.context, &self.selection);
        METRICS
            .iter()
            .try_for_each(|metric| metric.encode(&scrape, &mut encoder, self.open_metrics))
    }
}
