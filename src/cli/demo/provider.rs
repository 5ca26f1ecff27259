//! One provider of the demo, as a deployment of any service would be: it listens, signs in at the
//! registry, answers, and on SIGTERM signs out before it closes. Knows nothing of the proxy.

use std::{
    convert::Infallible,
    io::{self, Write},
    pin::pin,
    time::Duration,
};

use anyhow::Context;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::{
    body::{Bytes, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::{
    net::{TcpListener, TcpStream},
    time::{Instant, sleep, timeout, timeout_at},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::process;
use crate::{
    cli::{registry, signals::Signals},
    instance::Address,
    register::{self, Check},
};

/// How often the registry asks whether it is well.
const PROBED: Duration = Duration::from_secs(1);

/// After the sign-out no client has connected for this long: the accept queue is empty, and the
/// registry's watchers know of the sign-out.
const QUIET: Duration = Duration::from_millis(200);

/// From the sign-out to the end, whatever still comes in or is under way.
const DEADLINE: Duration = Duration::from_secs(10);

/// The hidden command `callboard provider`
#[derive(clap::Args)]
pub(in crate::cli) struct Provider {
    /// The service that it provides
    #[arg(long)]
    name: String,

    /// Its id at the registry; the name and the address where it is left out
    #[arg(long)]
    id: Option<String>,

    /// The registry's URL
    #[arg(long)]
    registry: String,

    /// Where it listens on 127.0.0.1; 0 takes a free port
    #[arg(long, default_value_t = 0)]
    port: u16,

    /// End at once when standard input closes, as it does when the parent process dies
    #[arg(long)]
    tied: bool,
}

impl Provider {
    /// Serves until a signal asks to end. Prints one line when it is registered.
    pub(super) async fn run(self) -> anyhow::Result<()> {
        if self.tied {
            process::tie_to_parent();
        }
        let mut signals = Signals::take()?;
        let listener = TcpListener::bind(("127.0.0.1", self.port))
            .await
            .with_context(|| format!("cannot listen on 127.0.0.1:{}", self.port))?;
        let address = listener.local_addr()?;
        let usual = register::Provider::new(
            &self.name,
            Address::new(&address.ip().to_string(), address.port().into())?,
        );
        let id = self.id.unwrap_or_else(|| usual.id.clone());
        let provider = register::Provider {
            id: id.clone(),
            check: Check::Http {
                url: format!("http://{address}/health"),
                interval: PROBED,
            },
            ..usual
        };
        let registry = registry::choose(Some(&self.registry), None)?;
        let mut entry = register::entry(&registry.name, &registry.kind, provider)?;

        let leaving = CancellationToken::new();
        let serving = tokio::spawn(serve(listener, id.clone(), leaving.clone()));
        entry.sign_in().await?;
        writeln!(io::stdout(), "{id} is registered and listens at {address}")?;

        signals.until_end().await;
        // It goes on accepting until the registry knows: until then it is sent requests.
        if let Err(error) = entry.sign_out().await {
            eprintln!("{id}: {error}");
        }
        leaving.cancel();
        serving.await.context("the server ended badly")
    }
}

/// Accepts until it leaves, then until the accept queue has stayed empty, then lets the requests
/// under way finish. A connection that is still in the queue of a listener that closes is reset.
async fn serve(listener: TcpListener, id: String, leaving: CancellationToken) {
    let answer = Bytes::from(format!("hello from {id}\n"));
    let closing = CancellationToken::new();
    let connections = TaskTracker::new();
    let accept = async || match listener.accept().await {
        Ok((stream, _)) => {
            connections.spawn(connection(stream, answer.clone(), closing.clone()));
        }
        // Out of descriptors, for one: a moment later there may be some.
        Err(_) => sleep(Duration::from_millis(50)).await,
    };
    while leaving.run_until_cancelled(accept()).await.is_some() {}

    let deadline = Instant::now() + DEADLINE;
    while Instant::now() < deadline && timeout(QUIET, accept()).await.is_ok() {}
    drop(listener);
    closing.cancel();
    connections.close();
    let _ = timeout_at(deadline, connections.wait()).await;
}

async fn connection(stream: TcpStream, answer: Bytes, closing: CancellationToken) {
    let service = service_fn(|request: Request<Incoming>| {
        let answer = answer.clone();
        async move {
            // Read to its end, so that the connection can be used again.
            let _ = request.into_body().collect().await;
            Ok::<_, Infallible>(Response::new(Full::new(answer)))
        }
    });
    let mut serving = pin!(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
    tokio::select! {
        _ = serving.as_mut() => return,
        () = closing.cancelled() => serving.as_mut().graceful_shutdown(),
    }
    let _ = serving.await;
}
