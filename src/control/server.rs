//! The HTTP server of the control plane, which the admin server and the embedded registry share:
//! its connections begin, and all end together. Where all of its places are taken, the connection
//! that has been silent for longest makes room. Knows nothing of what they ask for.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use axum::{Router, body::Body};
use http_body_util::BodyExt as _;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Notify, OwnedSemaphorePermit, Semaphore},
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::ServiceExt as _;

use crate::backoff::Repeated;

/// How long a request's head may take, and an idle connection may stay.
const HEAD_TIME: Duration = Duration::from_secs(90);
/// How long a connection that makes room may take to send the end of its last answer.
const LAST_WORDS: Duration = Duration::from_millis(100);
/// Bytes of a request's head, and of an answer that is not taken: of each connection.
const BUFFER: usize = 16 * 1024;
/// How long requests may take to end once the server goes down.
const DRAIN: Duration = Duration::from_secs(1);

/// Answers with `router`, on at most so many connections at once, until `ending`. Then requests
/// have a second to end, and every connection has ended when this returns. If it is dropped, they
/// end soon after.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    connections: usize,
    ending: CancellationToken,
) {
    let ending = ending.child_token();
    let _ends = ending.clone().drop_guard();
    let troubles = Repeated::default();
    let (tasks, places) = (TaskTracker::new(), Arc::new(Semaphore::new(connections)));
    let silent = Silent::default();
    while let Some(accepted) = ending.run_until_cancelled(listener.accept()).await {
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of descriptors, most likely: accepting again at once would spin.
                if let Some(times) = troubles.note() {
                    tracing::warn!(%error, times, "the control plane cannot accept a connection");
                }
                sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let Some(place) = ending.run_until_cancelled(silent.place(&places)).await else {
            break;
        };
        let served = converse(stream, router.clone(), silent.clone(), ending.clone());
        tasks.spawn(async move {
            served.await;
            drop(place);
        });
    }
    drop(listener);
    tasks.close();
    tasks.wait().await;
}

/// Connections on which no request is being answered.
#[derive(Clone, Default)]
struct Silent(Arc<Waiting>);

#[derive(Default)]
struct Waiting {
    line: Mutex<Line>,
    /// One more has fallen silent.
    fell: Notify,
}

/// What ends them, in the order in which they fell silent.
#[derive(Default)]
struct Line {
    next: u64,
    ends: BTreeMap<u64, CancellationToken>,
}

/// One of them, for as long as it lives.
struct Quiet {
    silent: Silent,
    number: u64,
}

impl Silent {
    /// A place for one more, which the connection that has been silent for longest makes where
    /// there is none.
    async fn place(&self, places: &Arc<Semaphore>) -> OwnedSemaphorePermit {
        loop {
            if let Ok(place) = Arc::clone(places).try_acquire_owned() {
                return place;
            }
            let is_made = self.close_oldest();
            tokio::select! {
                place = Arc::clone(places).acquire_owned() => {
                    return place.expect("the semaphore is never closed");
                }
                () = self.0.fell.notified(), if !is_made => {}
            }
        }
    }

    fn close_oldest(&self) -> bool {
        let oldest = self.lock().ends.pop_first();
        oldest.inspect(|(_, end)| end.cancel()).is_some()
    }

    fn fall(&self, end: CancellationToken) -> Quiet {
        let mut line = self.lock();
        let number = line.next;
        line.next += 1;
        line.ends.insert(number, end);
        drop(line);
        self.0.fell.notify_one();
        let silent = self.clone();
        Quiet { silent, number }
    }

    fn lock(&self) -> MutexGuard<'_, Line> {
        self.0.line.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        self.silent.lock().ends.remove(&self.number);
    }
}

/// Whether a connection is silent: it is not from a request's head to the end of its answer.
#[derive(Clone)]
struct Voice {
    silent: Silent,
    end: CancellationToken,
    quiet: Arc<Mutex<Option<Quiet>>>,
    has_spoken: Arc<AtomicBool>,
}

impl Voice {
    fn new(silent: Silent) -> Self {
        let end = CancellationToken::new();
        let quiet = silent.fall(end.clone());
        Self {
            silent,
            end,
            quiet: Arc::new(Mutex::new(Some(quiet))),
            has_spoken: Arc::default(),
        }
    }

    /// A request is answered until this is dropped.
    fn speak(&self) -> Speaking {
        self.has_spoken.store(true, Relaxed);
        self.set(None);
        Speaking(self.clone())
    }

    fn set(&self, quiet: Option<Quiet>) {
        *self.quiet.lock().unwrap_or_else(PoisonError::into_inner) = quiet;
    }
}

struct Speaking(Voice);

impl Drop for Speaking {
    fn drop(&mut self) {
        let Voice { silent, end, .. } = &self.0;
        self.0.set(Some(silent.fall(end.clone())));
    }
}

/// Where a program on this machine reaches a server that listens at `address`.
pub fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address {
        SocketAddr::V4(v4) if v4.ip().is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        SocketAddr::V6(v6) if v6.ip().is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        bound => bound.ip(),
    };
    SocketAddr::new(ip, address.port())
}

/// Serves one connection to its end, which comes at once where it is silent and another needs its
/// place, and within [`DRAIN`] once the server goes down.
async fn converse(stream: TcpStream, router: Router, silent: Silent, ending: CancellationToken) {
    if stream.set_nodelay(true).is_err() {
        return; // It is gone already.
    }
    let voice = Voice::new(silent);
    let (end, has_spoken) = (voice.end.clone(), Arc::clone(&voice.has_spoken));
    let service = service_fn(move |request: http::Request<Incoming>| {
        let speaking = voice.speak();
        let answering = router.clone().oneshot(request);
        async move {
            let answer = answering.await?;
            // It speaks until the answer's body is at its end.
            let body = |body: Body| {
                body.map_err(move |error| {
                    let _ = &speaking;
                    error
                })
            };
            Ok::<_, std::convert::Infallible>(answer.map(body))
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME)
        .max_buf_size(BUFFER)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = end.cancelled() => {
            // The end of its last answer may be on the way out still.
            if has_spoken.load(Relaxed) {
                connection.as_mut().graceful_shutdown();
                let _ = timeout(LAST_WORDS, connection).await;
            }
            return;
        }
        () = ending.cancelled() => {
            connection.as_mut().graceful_shutdown();
            match timeout(DRAIN, connection).await {
                Ok(ended) => ended,
                Err(_) => return,
            }
        }
    };
    if let Err(error) = ended {
        // The other side's doing: it went away, or spoke no HTTP.
        tracing::debug!(%error, "a connection of the control plane broke off");
    }
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        sync::Notify,
    };

    use super::*;

    /// A server of two places, of whose paths one answers once it is told to.
    async fn start(told: Arc<Notify>) -> (SocketAddr, CancellationToken) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let waits = move || async move { told.notified().await };
        let router = Router::new()
            .route("/", get(async || "here"))
            .route("/waits", get(waits));
        let ending = CancellationToken::new();
        tokio::spawn(serve(listener, router, 2, ending.clone()));
        (address, ending)
    }

    async fn ask(stream: &mut TcpStream, path: &str) {
        let head = format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
    }

    /// What comes first.
    async fn read(stream: &mut TcpStream) -> String {
        let mut bytes = [0; 512];
        let length = stream.read(&mut bytes).await.unwrap_or(0);
        String::from_utf8_lossy(&bytes[..length]).into_owned()
    }

    #[tokio::test]
    async fn the_connection_that_was_silent_for_longest_makes_room() {
        let (address, ending) = start(Arc::default()).await;
        let connect = async || TcpStream::connect(address).await.unwrap();
        let (mut first, mut second) = (connect().await, connect().await);
        ask(&mut first, "/").await;
        assert!(read(&mut first).await.ends_with("here"));
        // It has asked, and so the other one is silent for longer.
        let mut third = connect().await;
        ask(&mut third, "/").await;
        assert!(read(&mut third).await.contains("content-length: 4"));
        assert_eq!(read(&mut second).await, "");
        ask(&mut first, "/").await;
        assert!(read(&mut first).await.ends_with("here"));
        ending.cancel();
    }

    #[tokio::test]
    async fn a_connection_whose_request_is_being_answered_makes_no_room() {
        let told = Arc::new(Notify::new());
        let (address, ending) = start(Arc::clone(&told)).await;
        let connect = async || TcpStream::connect(address).await.unwrap();
        let (mut first, mut second) = (connect().await, connect().await);
        for stream in [&mut first, &mut second] {
            ask(stream, "/waits").await;
        }
        let mut third = connect().await;
        ask(&mut third, "/").await;
        for stream in [&mut first, &mut second] {
            told.notify_one();
            assert!(read(stream).await.starts_with("HTTP/1.1 200"));
        }
        // There is room once these are silent, and another comes.
        assert!(read(&mut third).await.ends_with("here"));
        ending.cancel();
    }
}
