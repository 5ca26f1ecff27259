//! A backend of the test's own: it says who it is, counts what it was sent, and goes as
//! a test wants it to go: gracefully, or as one that is killed.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use axum::{
    body::Body,
    response::{IntoResponse, Response},
};
use futures_util::future::BoxFuture;
use http::{HeaderValue, Method, Request};
use http_body_util::BodyExt as _;
use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// The header of every answer that names the backend.
pub(crate) const BACKEND: &str = "x-backend";

/// Who has given an answer.
pub(crate) fn by(answer: &reqwest::Response) -> String {
    answer.headers()[BACKEND].to_str().unwrap().to_owned()
}

/// How long one that closes waits for the first request of a connection.
const FIRST_REQUEST: Duration = Duration::from_secs(1);

/// A backend that serves, on tasks of the test's runtime. Dropped, it is killed.
pub(crate) struct Backend {
    id: Arc<str>,
    address: SocketAddr,
    counts: Arc<Counts>,
    /// Takes no more requests; those that run may end.
    closing: CancellationToken,
    /// Closes every socket as it stands.
    killed: CancellationToken,
    tasks: TaskTracker,
}

/// A backend in the making.
pub(crate) struct Setup {
    id: Arc<str>,
    address: SocketAddr,
    idle: Option<Duration>,
    /// Speaks HTTP/2 with prior knowledge, and takes so many streams on a connection.
    streams: Option<u32>,
    handler: Handler,
    left: Option<Left>,
}

/// Takes the socket of a connection that the backend has ended.
type Left = Arc<dyn Fn(std::net::TcpStream) + Send + Sync>;

type Handler = Arc<dyn Fn(Request<Incoming>) -> BoxFuture<'static, Response> + Send + Sync>;

#[derive(Default)]
struct Counts {
    requests: Mutex<BTreeMap<String, usize>>,
    connections: AtomicUsize,
}

impl Backend {
    /// One that answers every request with its id, having read the body.
    pub(crate) async fn start(id: &str) -> Self {
        Self::named(id).start().await
    }

    /// The same, to be changed before it starts.
    pub(crate) fn named(id: &str) -> Setup {
        let id: Arc<str> = id.into();
        Setup {
            id: Arc::clone(&id),
            address: (Ipv4Addr::LOCALHOST, 0).into(),
            idle: None,
            streams: None,
            left: None,
            handler: Arc::new(move |request| {
                let id = id.to_string();
                Box::pin(async move {
                    // A body that breaks off gets the answer of one that does not.
                    let _ = request.into_body().collect().await;
                    id.into_response()
                })
            }),
        }
    }

    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Requests whose head arrived, with any method.
    pub(crate) fn requests(&self) -> usize {
        self.counts.requests.lock().unwrap().values().sum()
    }

    /// Those with this method.
    pub(crate) fn requests_with(&self, method: &Method) -> usize {
        let requests = self.counts.requests.lock().unwrap();
        requests.get(method.as_str()).copied().unwrap_or_default()
    }

    /// Connections accepted.
    pub(crate) fn connections(&self) -> usize {
        self.counts.connections.load(Relaxed)
    }

    /// Ends it as a good server does: takes no more connections and closes the idle ones at once;
    /// the requests that run, and those of the last connections, get their answers.
    pub(crate) async fn close(self) {
        self.closing.cancel();
        self.tasks.wait().await;
    }

    /// Ends it as kill -9 does: every socket is closed as it stands.
    pub(crate) async fn kill(self) {
        self.killed.cancel();
        self.tasks.wait().await;
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.killed.cancel();
    }
}

impl Setup {
    /// Listens there, and not on a free port.
    pub(crate) fn at(mut self, address: SocketAddr) -> Self {
        self.address = address;
        self
    }

    /// Closes connections that are idle for so long.
    pub(crate) fn closing_idle_after(mut self, idle: Duration) -> Self {
        self.idle = Some(idle);
        self
    }

    /// Speaks HTTP/2 in the clear, and takes so many streams on a connection at once.
    pub(crate) fn http2(mut self, streams: u32) -> Self {
        self.streams = Some(streams);
        self
    }

    /// Answers as `handler` does. What is a body to axum is one here: text, bytes, or a stream.
    pub(crate) fn answering<F, A>(
        mut self,
        handler: impl Fn(Request<Incoming>) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = A> + Send + 'static,
        A: IntoResponse,
    {
        self.handler = Arc::new(move |request| {
            let answer = handler(request);
            Box::pin(async move { answer.await.into_response() })
        });
        self
    }

    /// Gives away the socket of each connection that the backend has ended, to which bytes may still
    /// come.
    pub(crate) fn leaving_sockets_to(
        mut self,
        left: impl Fn(std::net::TcpStream) + Send + Sync + 'static,
    ) -> Self {
        self.left = Some(Arc::new(left));
        self
    }

    pub(crate) async fn start(self) -> Backend {
        let listener = TcpListener::bind(self.address).await.unwrap();
        let backend = Backend {
            id: Arc::clone(&self.id),
            address: listener.local_addr().unwrap(),
            counts: Arc::default(),
            closing: CancellationToken::new(),
            killed: CancellationToken::new(),
            tasks: TaskTracker::new(),
        };
        let floor = Arc::new(Floor {
            setup: self,
            counts: Arc::clone(&backend.counts),
            closing: backend.closing.clone(),
        });
        let (tasks, killed) = (backend.tasks.clone(), backend.killed.clone());
        backend.tasks.spawn(async move {
            let accepting = floor.accept(listener, &tasks, &killed);
            killed.run_until_cancelled(accepting).await;
        });
        backend.tasks.close();
        backend
    }
}

/// What the tasks of one backend share.
struct Floor {
    setup: Setup,
    counts: Arc<Counts>,
    closing: CancellationToken,
}

impl Floor {
    async fn accept(
        self: &Arc<Self>,
        listener: TcpListener,
        tasks: &TaskTracker,
        killed: &CancellationToken,
    ) {
        let seat = |stream| {
            self.counts.connections.fetch_add(1, Relaxed);
            let (floor, killed) = (Arc::clone(self), killed.clone());
            tasks.spawn(async move { killed.run_until_cancelled(floor.serve(stream)).await });
        };
        while let Some(accepted) = self.closing.run_until_cancelled(listener.accept()).await {
            seat(accepted.unwrap().0);
        }
        // Whoever is still in the queue of a listener that closes is reset.
        let listener = listener.into_std().unwrap();
        while let Ok((stream, _)) = listener.accept() {
            stream.set_nonblocking(true).unwrap();
            seat(TcpStream::from_std(stream).unwrap());
        }
    }

    async fn serve(self: Arc<Self>, stream: TcpStream) {
        stream.set_nodelay(true).unwrap();
        if let Some(streams) = self.setup.streams {
            return self.serve_http2(stream, streams).await;
        }
        let stream = stream.into_std().unwrap();
        let arrivals = stream.try_clone().unwrap();
        let stream = TcpStream::from_std(stream).unwrap();
        let mut builder = http1::Builder::new();
        // hyper's header timeout counts the idle time before a head as well.
        builder
            .timer(TokioTimer::new())
            .header_read_timeout(self.setup.idle);
        let asked = CancellationToken::new();
        let service = service_fn(|request| {
            asked.cancel();
            self.answer(request)
        });
        let connection = builder.serve_connection(TokioIo::new(stream), service);
        tokio::pin!(connection);
        let closing = async {
            self.closing.cancelled().await;
            // Who has just connected is about to ask.
            let first = tokio::time::timeout(FIRST_REQUEST, asked.cancelled());
            if first.await.is_err() {
                return;
            }
            // A close would throw a request away that has come and was not read yet, and the other
            // side could not tell. The kernel knows of it before the runtime does.
            while arrivals.peek(&mut [0]).is_ok_and(|count| count > 0) {
                tokio::task::yield_now().await;
            }
        };
        let ended = tokio::select! {
            biased;
            ended = connection.as_mut() => ended,
            () = closing => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        // How a connection ends is the other side's to assert.
        drop(ended);
        if let Some(left) = &self.setup.left {
            left(arrivals);
        }
    }

    async fn serve_http2(self: Arc<Self>, stream: TcpStream, streams: u32) {
        let floor = Arc::clone(&self);
        // Each stream is answered by a task of its own.
        let service = service_fn(move |request| {
            let floor = Arc::clone(&floor);
            async move { floor.answer(request).await }
        });
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder.max_concurrent_streams(streams);
        let connection = builder.serve_connection(TokioIo::new(stream), service);
        tokio::pin!(connection);
        let ended = tokio::select! {
            biased;
            ended = connection.as_mut() => ended,
            () = self.closing.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        // How a connection ends is the other side's to assert.
        drop(ended);
    }

    async fn answer(&self, request: Request<Incoming>) -> Result<Response<Body>, std::io::Error> {
        let method = request.method().to_string();
        *self
            .counts
            .requests
            .lock()
            .unwrap()
            .entry(method)
            .or_default() += 1;
        let mut answer = (self.setup.handler)(request).await;
        let id = HeaderValue::from_str(&self.setup.id).unwrap();
        answer.headers_mut().insert(BACKEND, id);
        Ok(answer)
    }
}
