//! The admin server: is it alive, is it ready, what does it do, in numbers and in JSON. Shows
//! and changes nothing.

mod metrics;
mod ready;
mod status;
mod view;

pub use metrics::{Kind, METRICS, Metric};
pub use view::View;

use std::{
    io,
    net::SocketAddr,
    sync::Arc,
    time::{Instant, SystemTime},
};

use axum::{
    Router,
    extract::{Request, State},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::get,
};
use http::{StatusCode, header};
use tokio_util::sync::CancellationToken;

use crate::{
    config::{self, Secret},
    gate::{self, Denied, Gate},
    serve::serve,
};
use view::{Context, Shown, Started};

/// Connections at once.
const CONNECTIONS: usize = 256;

/// What is asked for without a token wherever the server listens: probes have none.
const OPEN: [&str; 2] = ["/live", "/ready"];

const INDEX: &str = "\
Callboard

/live                  200 while the process runs
/ready                 200 where it may be sent traffic, else 503 and what is missing
/metrics               for Prometheus
/api/status            routes, services, endpoints, watchers: one JSON object
/api/services/{name}   one service of it
";

/// Why the admin server cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Its address cannot be had.
    #[error("the admin server cannot listen on {0}: {1}")]
    Bind(SocketAddr, io::Error),
    /// Its token cannot be read, or is empty.
    #[error("the admin server's token: {0}")]
    Token(String),
}

/// The admin server, bound and not yet serving.
#[derive(Debug)]
pub struct Server {
    listener: tokio::net::TcpListener,
    gate: Gate,
    started: Started,
}

impl Server {
    /// Binds the address; port 0 takes a free one.
    ///
    /// # Errors
    /// Where it cannot be had, or the token cannot be read.
    pub async fn bind(config: &config::Admin) -> Result<Self, StartError> {
        let started = Started {
            at: SystemTime::now(),
            since: Instant::now(),
        };
        let failed = |error| StartError::Bind(config.address, error);
        let listener = tokio::net::TcpListener::bind(config.address)
            .await
            .map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let token = config.token.as_ref().map(Secret::read).transpose();
        let token = token.map_err(StartError::Token)?;
        if token.as_ref().is_some_and(String::is_empty) {
            return Err(StartError::Token("it is empty".to_owned()));
        }
        if token.is_none() && !address.ip().is_loopback() {
            tracing::warn!(
                %address,
                "the admin server listens beyond loopback without a token: it will answer \
                 nothing but /live and /ready"
            );
        }
        Ok(Self {
            listener,
            gate: Gate::new(address, token),
            started,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.listener
            .local_addr()
            .expect("a bound socket has an address")
    }

    /// Serves until `ending`; requests then have a second to end.
    pub async fn run(self, view: View, ending: CancellationToken) {
        let context = Context {
            view,
            gate: self.gate,
            started: self.started,
        };
        serve(self.listener, router(context), CONNECTIONS, ending).await;
    }
}

fn router(context: Context) -> Router {
    let context = Arc::new(context);
    Router::new()
        .route("/", get(async || INDEX))
        .route("/live", get(async || "alive\n"))
        .route("/ready", get(ready::ready))
        .route("/metrics", get(metrics::metrics))
        .route("/api/status", get(status::status))
        .route("/api/services/{*name}", get(status::service))
        .fallback(async || (StatusCode::NOT_FOUND, "no such page; / lists them\n"))
        .method_not_allowed_fallback(async || {
            (StatusCode::METHOD_NOT_ALLOWED, "nothing is changed here\n")
        })
        .layer(middleware::from_fn_with_state(Arc::clone(&context), admit))
        .with_state(context)
}

/// Lets nobody in who was sent here by a stranger's page, and nobody without the token where one
/// is needed.
async fn admit(State(context): Shown, request: Request, next: Next) -> Response {
    let headers = request.headers();
    if !context.gate.knows_host(request.uri(), headers) {
        let text = "the Host header names no address of this server\n";
        return (StatusCode::FORBIDDEN, text).into_response();
    }
    let admitted = if OPEN.contains(&request.uri().path()) {
        Ok(())
    } else {
        context.gate.admit(gate::bearer(headers))
    };
    match admitted {
        Ok(()) => next.run(request).await,
        Err(denied) => refuse(denied),
    }
}

fn refuse(denied: Denied) -> Response {
    let text = match denied {
        Denied::NoneSet => {
            let text = "beyond loopback this needs a token, and none is set (admin.token)\n";
            return (StatusCode::FORBIDDEN, text).into_response();
        }
        Denied::Missing => "this needs the token, as `Authorization: Bearer TOKEN`\n",
        Denied::Wrong => "the token is not the admin server's\n",
    };
    let challenge = [(header::WWW_AUTHENTICATE, "Bearer")];
    (StatusCode::UNAUTHORIZED, challenge, text).into_response()
}
