//! The admin server: is it alive, is it ready, what does it do, in numbers, in JSON and as a page. Shows, and
//! changes nothing but whether a service is pinned to a set, which of its endpoints are drained or have other weights, what shares
//! routes give, what of proxy.toml runs, what the log says, and which process has the addresses.

mod change;
mod change_lock;
mod control;
mod drain;
mod explain;
mod findings;
mod handover;
mod history;
mod leaving;
mod live;
mod log;
mod log_level;
mod metrics;
mod page;
mod ready;
mod reload;
mod reloader;
mod routes;
mod selection;
mod series;
mod service;
mod share;
mod status;
mod timeline;
mod upgrade;
mod upgrader;
mod view;
mod weight;

pub use change_lock::ChangeLock;
pub use control::{Control, StartError};
pub use leaving::LeavingListener;
pub use log_level::{LogLevel, LogLevelError, LogLevelStatus};
pub use metrics::{Kind, METRICS, Metric};
pub use ready::DRAINING;
pub use reloader::{LastReload, Reload, ReloadError, ReloadStatus};
pub use upgrader::{Upgrade, UpgradeError, Upgraded, WITHIN};
pub use view::View;

use std::{
    io,
    net::{self, SocketAddr},
    os::fd::{AsFd as _, OwnedFd},
    sync::Arc,
    time::{Instant, SystemTime},
};

use arc_swap::ArcSwap;
use axum::{
    Router,
    extract::{Request, State},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use tokio_util::sync::CancellationToken;

use crate::{
    config,
    control::{
        access::{self, Access, Denied},
        server::serve,
    },
    door::Sharing,
};
use view::{Context, Shown, Started, accepts};

/// Connections at once.
const CONNECTIONS: usize = 256;

/// What is asked for without a token wherever the server listens: probes have none.
const OPEN: [&str; 2] = ["/live", "/ready"];

const INDEX: &str = "\
Callboard

/ui/                   the status page, which a browser is shown here, too
/live                  200 while the process runs
/ready                 200 where it may be sent traffic, else 503 and what is missing
/metrics               for Prometheus; ?service=NAME for some services
/api/status            routes, services, endpoints, watchers: one JSON object
                       ?service=NAME for some services, ?limit=100&after=NAME for a page of them
/api/services/{name}   one service of it
    …/journal          what became of its set
    …/history          its last fifteen minutes, and its endpoints'
    …/pin              POST {\"set\": 17, \"for\": \"30m\"} holds it to a set of the journal, DELETE ends that
    …/weight           POST {\"endpoint\": \"10.0.0.7:8080\", \"weight\": 1} has it be picked by another weight, DELETE ?endpoint=… ends that
    …/drain            POST {\"endpoint\": \"10.0.0.7:8080\", \"for\": \"30m\"} keeps requests from it, DELETE ?endpoint=… ends that
/api/explain           what becomes of a request: ?method=GET&url=http://shop.example.com/cart&header=A: b
/api/events            what of that changes, as it does (server-sent events)
/api/history           the last fifteen minutes; ?service=NAME for some services, too
/api/journal           what became of all sets, the latest first; ?limit=100&since=SECONDS
/api/openapi.json      these paths and what they answer, for programs
/api/share             POST {\"route\": \"/cart\", \"weights\": {\"cart-v2\": 50}, \"for\": \"30m\"} has a route's shares be others, DELETE ?route=… ends that
/api/log-level         the log's level; POST {\"level\": \"debug\", \"for\": \"10m\"} changes it for a while, DELETE ends that
/api/reload            POST {} has proxy.toml read again, {\"dry_run\": true} says what would change
/api/upgrade           POST {} has the new binary take over, {\"within\": \"30s\"} gives it so long,
                       {\"force\": true} though pins and drains end
/api/handover          POST: a successor wants the addresses of a proxy that drains
";

/// The admin server, bound and not yet serving.
#[derive(Debug)]
pub struct Server {
    listener: tokio::net::TcpListener,
    gate: Arc<ArcSwap<Access>>,
    started: Started,
    sharing: Sharing,
    control: Control,
}

impl Server {
    /// Binds the address; port 0 takes a free one.
    ///
    /// # Errors
    /// Where it cannot be had, or the token cannot be read.
    pub async fn bind(config: &config::Admin) -> Result<Self, StartError> {
        let failed = |error| StartError::Bind(config.address, error);
        let listener = tokio::net::TcpListener::bind(config.address)
            .await
            .map_err(failed)?;
        Self::at(listener, config)
    }

    /// The same at a socket that another process has bound.
    ///
    /// # Errors
    /// As for [`Self::bind`].
    pub(crate) fn inherit(socket: OwnedFd, config: &config::Admin) -> Result<Self, StartError> {
        let socket = net::TcpListener::from(socket);
        let watched = socket
            .set_nonblocking(true)
            .and_then(|()| tokio::net::TcpListener::from_std(socket));
        let failed = |error| StartError::Bind(config.address, error);
        Self::at(watched.map_err(failed)?, config)
    }

    fn at(listener: tokio::net::TcpListener, config: &config::Admin) -> Result<Self, StartError> {
        let started = Started {
            at: SystemTime::now(),
            since: Instant::now(),
        };
        let failed = |error| StartError::Bind(config.address, error);
        let address = listener.local_addr().map_err(failed)?;
        let gate = Arc::new(ArcSwap::from_pointee(control::gate(config, address)?));
        let control = Control::new(address, Arc::clone(&gate), Arc::default());
        Ok(Self {
            listener,
            gate,
            started,
            sharing: Sharing::default(),
            control,
        })
    }

    /// What changes it while it runs.
    pub fn control(&self) -> Control {
        self.control.clone()
    }

    /// Its socket by another descriptor, for a successor, and whether one goes on with it.
    ///
    /// # Errors
    /// Where the process has no descriptor left.
    pub(crate) fn duplicate(&self) -> io::Result<(OwnedFd, Sharing)> {
        let socket = self.listener.as_fd().try_clone_to_owned()?;
        Ok((socket, self.sharing.clone()))
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.listener
            .local_addr()
            .expect("a bound socket has an address")
    }

    /// Serves until `ending`; requests then have a second to end.
    pub async fn run(self, view: View, ending: CancellationToken) {
        let live = self.control.live;
        let context = Arc::new(Context::new(view, self.gate, live, self.started));
        let router = router(Arc::clone(&context));
        let following = live::follow(&context, ending.clone());
        let serving = serve(self.listener, router, CONNECTIONS, &self.sharing, ending);
        tokio::join!(serving, following);
    }
}

/// All of this, for programs.
const OPENAPI: &str = include_str!("openapi.json");

async fn openapi() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], OPENAPI)
}

fn router(context: Arc<Context>) -> Router {
    Router::new()
        .route("/", get(index))
        .route("/ui/", get(page::index))
        .route("/ui/{*name}", get(page::file))
        .route("/live", get(async || "alive\n"))
        .route("/ready", get(ready::ready))
        .route("/metrics", get(metrics::metrics))
        .route("/api/status", get(status::status))
        .route("/api/explain", get(explain::explain))
        .route("/api/events", get(live::events))
        .route("/api/history", get(series::history))
        .route("/api/journal", get(timeline::journal))
        .route("/api/openapi.json", get(openapi))
        .route("/api/reload", post(reload::reload))
        .route("/api/upgrade", post(upgrade::upgrade))
        .route(
            "/api/log-level",
            get(log::show).post(log::set).delete(log::restore),
        )
        .route("/api/share", post(share::begin).delete(share::end))
        .route("/api/handover", post(handover::hand_over))
        .route(
            "/api/services/{*name}",
            get(service::show).post(service::begin).delete(service::end),
        )
        .fallback(async || (StatusCode::NOT_FOUND, "no such page; / lists them\n"))
        .method_not_allowed_fallback(async || {
            (StatusCode::METHOD_NOT_ALLOWED, "nothing is changed here\n")
        })
        .layer(middleware::from_fn_with_state(Arc::clone(&context), admit))
        .with_state(context)
}

/// The page, for a browser; for others the list of paths.
async fn index(headers: HeaderMap) -> Response {
    let mut answer = match accepts(&headers, "text/html") {
        true => page::index(headers).await,
        false => INDEX.into_response(),
    };
    let vary = HeaderValue::from_static("accept");
    answer.headers_mut().insert(header::VARY, vary);
    answer
}

/// Whether it is the page, which is the same for everyone and holds no secret: a browser that opens it
/// has no token to send.
fn is_page(path: &str, headers: &HeaderMap) -> bool {
    path.starts_with("/ui/") || (path == "/" && accepts(headers, "text/html"))
}

/// Whether a browser says that a page of another site asks, and not the person who uses it: such a page
/// cannot read what it gets, but it can take places and time.
fn is_for_another_site(headers: &HeaderMap) -> bool {
    let says = |name: &str, value: &str| headers.get(name).is_some_and(|said| said == value);
    let is_another = ["cross-site", "same-site"].map(|site| says("sec-fetch-site", site));
    is_another.contains(&true) && !says("sec-fetch-dest", "document")
}

/// Refuses a request that a stranger's page had a browser send, and a request without the token
/// where a token is needed.
async fn admit(State(context): Shown, request: Request, next: Next) -> Response {
    let headers = request.headers();
    let sent = access::bearer(headers);
    let is_open = OPEN.contains(&request.uri().path());
    let is_probe = is_open && Access::is_nameless(request.uri(), headers);
    let gate = context.gate.load_full();
    if !is_probe && !gate.is_meant(request.uri(), headers, sent) {
        let text = "the Host header names no address of this server: call it by an IP address, \
                    send the token, or list the name in admin.hosts\n";
        return (StatusCode::FORBIDDEN, text).into_response();
    }
    let is_page = is_page(request.uri().path(), headers);
    if !is_open && !is_page && is_for_another_site(headers) {
        let text = "a page of another site had a browser ask for this\n";
        return (StatusCode::FORBIDDEN, text).into_response();
    }
    let admitted = if is_open || is_page {
        Ok(())
    } else {
        gate.admit(sent)
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use axum::body::Body;
    use tower::ServiceExt as _;

    use super::*;
    use crate::config::Secret;

    /// The status of an answer of a server that listens beyond loopback.
    async fn beyond_loopback(token: Option<&str>, host: &str, sent: &str, path: &str) -> u16 {
        let gate = Access::new("0.0.0.0:9900".parse().unwrap(), token.map(str::to_owned));
        let context = Arc::new(view::testing::context(gate));
        let mut request = Request::get(path);
        if !host.is_empty() {
            request = request.header(header::HOST, host);
        }
        let request = request.header(header::AUTHORIZATION, format!("Bearer {sent}"));
        let request = request.body(Body::empty()).unwrap();
        router(context)
            .oneshot(request)
            .await
            .unwrap()
            .status()
            .as_u16()
    }

    #[tokio::test]
    async fn beyond_loopback_only_the_probes_are_answered_without_a_token() {
        let host = "192.0.2.1:9900";
        for token in [None, Some("s3cret")] {
            assert_eq!(beyond_loopback(token, host, "", "/live").await, 200);
            assert_eq!(beyond_loopback(token, host, "", "/ready").await, 503);
        }
        // The page is the same for everyone, and asks for the token by itself.
        for token in [None, Some("s3cret")] {
            assert_eq!(beyond_loopback(token, host, "", "/ui/").await, 200);
            assert_eq!(beyond_loopback(token, host, "", "/ui/main.js").await, 200);
            let name = "callboard.example:9900";
            assert_eq!(beyond_loopback(token, name, "", "/ui/").await, 403);
            assert_eq!(beyond_loopback(token, "", "", "/ui/").await, 403);
        }
        for path in [
            "/",
            "/metrics",
            "/api/status",
            "/api/events",
            "/api/history",
            "/api/journal",
            "/live/",
            "/nothing",
            "/ui",
        ] {
            assert_eq!(beyond_loopback(None, host, "s3cret", path).await, 403);
            assert_eq!(beyond_loopback(Some("s3cret"), host, "", path).await, 401);
        }
        for path in ["/", "/metrics", "/api/status"] {
            assert_eq!(
                beyond_loopback(Some("s3cret"), host, "s3cret", path).await,
                200
            );
        }
        let name = "callboard.example:9900";
        for (sent, status) in [("s3cret", 200), ("", 403), ("other", 403)] {
            let answered = beyond_loopback(Some("s3cret"), name, sent, "/metrics").await;
            assert_eq!(answered, status, "{sent:?} under a name");
        }
        assert_eq!(
            beyond_loopback(Some("s3cret"), name, "", "/live").await,
            403
        );
        // As a probe of HTTP/1.0 does it.
        assert_eq!(beyond_loopback(None, "", "", "/ready").await, 503);
        assert_eq!(beyond_loopback(None, "", "", "/live").await, 200);
        assert_eq!(beyond_loopback(None, "", "", "/metrics").await, 403);
    }

    #[tokio::test]
    async fn no_change_for_a_while_is_made_once_a_new_process_takes_this_ones_place() {
        let gate = Access::new("127.0.0.1:9900".parse().unwrap(), None);
        let context = Arc::new(view::testing::context(gate));
        let changes = Arc::clone(&context.view.changes);
        let router = router(context);
        let statuses = async || {
            let mut statuses = Vec::new();
            for path in [
                "/api/services/cart/pin",
                "/api/services/cart/drain",
                "/api/services/cart/weight",
                "/api/share",
            ] {
                let request = Request::post(path)
                    .header(header::HOST, "127.0.0.1:9900")
                    .header(header::CONTENT_TYPE, "application/json");
                let body = Body::from(r#"{"route": "/cart", "weights": {}}"#);
                let answer = router.clone().oneshot(request.body(body).unwrap()).await;
                statuses.push(answer.unwrap().status().as_u16());
            }
            statuses
        };
        assert_eq!(statuses().await, [404; 4]);
        changes.close();
        assert_eq!(statuses().await, [409; 4]);
        changes.open();
        assert_eq!(statuses().await, [404; 4]);
    }

    fn settings(address: SocketAddr, token: Option<Secret>) -> config::Admin {
        config::Admin {
            address,
            token,
            hosts: Vec::new(),
            ready_timeout: Duration::ZERO,
        }
    }

    #[tokio::test]
    async fn it_does_not_start_where_its_token_cannot_be_known_or_its_address_is_taken() {
        let free = SocketAddr::from(([127, 0, 0, 1], 0));
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("token");
        let bind = async || {
            let token = Some(Secret::File(file.clone()));
            let bound = Server::bind(&settings(free, token)).await;
            bound.map(|_| ()).unwrap_err().to_string()
        };
        assert!(
            bind()
                .await
                .contains(&format!("cannot read {}", file.display()))
        );
        std::fs::write(&file, " \n").unwrap();
        assert_eq!(bind().await, "the admin server's token: it is empty");

        let first = Server::bind(&settings(free, None)).await.unwrap();
        let taken = first.address();
        let second = Server::bind(&settings(taken, None)).await;
        assert!(matches!(second, Err(StartError::Bind(address, _)) if address == taken));
    }
}
