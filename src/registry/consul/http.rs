//! The connections to one agent. An agent counts them, and refuses a client that has too many, so
//! none is ever opened beside one that could be used: each is driven by the exchange that is under
//! way on it, in that exchange's own future, and is kept or closed before the exchange is over. So
//! there are never more connections than there ever were exchanges at once. (A pool that opens one
//! while another is on its way back, as ready-made ones do, cannot promise that.) Knows nothing of
//! what is asked.

use std::{
    fmt, io,
    pin::{Pin, pin},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode, response::Parts};
use http_body_util::{BodyExt as _, Empty};
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, pki_types::ServerName};
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::{Instant, timeout},
};
use tokio_rustls::TlsConnector;

use crate::{
    error::root_cause,
    registry::room::{Body, Room},
};

const CONNECT: Duration = Duration::from_secs(5);

/// Finds a machine that is gone while a question waits there.
const KEEPALIVE: Duration = Duration::from_secs(15);

/// How long a connection is kept for another question.
const IDLE: Duration = Duration::from_secs(30);

/// A kept connection that is dead says so at once.
const ALIVE: Duration = Duration::from_secs(1);

/// The largest answer that is read: some 50,000 instances of one service. There is one of those at a
/// time.
pub(super) const MAX_BODY: usize = 64 << 20;

/// How much of an error's body is looked at.
const MAX_ERROR_BODY: usize = 4 << 10;

/// What came back.
pub(super) struct Reply {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    /// Up to a limit.
    pub(super) body: Body,
    /// Whether that was all of it.
    pub(super) whole: bool,
}

/// Why nothing came back.
#[derive(Debug, thiserror::Error)]
pub(super) enum Broken {
    #[error("{0}")]
    Connect(io::Error),
    #[error("no connection within {} s", CONNECT.as_secs())]
    Late,
    #[error("{0}")]
    Tls(io::Error),
    #[error("{}", root_cause(.0))]
    Http(hyper::Error),
    /// Of an exchange that changes something, whose URL may hold credentials, and is left out.
    #[error("{}", root_cause(.0))]
    Change(reqwest::Error),
}

/// The way to one agent.
pub(super) struct Wire {
    host: String,
    port: u16,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    /// That of all answers of the registry.
    room: Arc<Room>,
    /// The last one that was used is the first one that is used again.
    idle: Mutex<Vec<Idle>>,
}

struct Idle {
    connection: Connection,
    since: Instant,
}

impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

impl Wire {
    /// To this host (an IP address without brackets, or a name), which proves who it is where
    /// there is TLS. Connects to nothing yet.
    pub(super) fn new(
        host: String,
        port: u16,
        tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
        room: Arc<Room>,
    ) -> Self {
        Self {
            host,
            port,
            tls: tls.map(|(config, name)| (config.into(), name)),
            room,
            idle: Mutex::default(),
        }
    }

    /// One exchange; `request` must be one that may be made twice, since a kept connection may be
    /// dead. Dropped, it closes its connection.
    pub(super) async fn exchange(&self, request: Request<Empty<Bytes>>) -> Result<Reply, Broken> {
        while let Some(kept) = self.take() {
            let asked = Instant::now();
            match self.over(kept, request.clone()).await {
                Ok(reply) => return Ok(reply),
                // It was alive: asked again, a query that waits would wait for twice its time.
                Err(error) if asked.elapsed() >= ALIVE => return Err(Broken::Http(error)),
                Err(_) => {}
            }
        }
        let fresh = self.connect().await?;
        self.over(fresh, request).await.map_err(Broken::Http)
    }

    /// Closes the connections on which nothing is under way.
    pub(super) fn close_idle(&self) {
        self.idle().clear();
    }

    async fn over(
        &self,
        mut connection: Connection,
        request: Request<Empty<Bytes>>,
    ) -> hyper::Result<Reply> {
        let reply = connection.exchange(request, &self.room).await?;
        if reply.whole && connection.is_usable().await {
            let since = Instant::now();
            let mut idle = self.idle();
            idle.retain(|idle| idle.since + IDLE > since);
            idle.push(Idle { connection, since });
        }
        Ok(reply)
    }

    async fn connect(&self) -> Result<Connection, Broken> {
        timeout(CONNECT, async {
            let tcp = TcpStream::connect((&*self.host, self.port)).await;
            let tcp = tcp.map_err(Broken::Connect)?;
            let keepalive = TcpKeepalive::new().with_time(KEEPALIVE);
            SockRef::from(&tcp)
                .set_tcp_keepalive(&keepalive)
                .and_then(|()| tcp.set_nodelay(true))
                .map_err(Broken::Connect)?;
            let stream: Box<dyn Stream> = match &self.tls {
                None => Box::new(tcp),
                Some((connector, name)) => {
                    let tls = connector.connect(name.clone(), tcp).await;
                    Box::new(tls.map_err(Broken::Tls)?)
                }
            };
            Connection::over(stream).await.map_err(Broken::Http)
        })
        .await
        .unwrap_or(Err(Broken::Late))
    }

    fn take(&self) -> Option<Connection> {
        let idle = self.idle().pop()?;
        Some(idle.connection)
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Idle>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

type Driver = Pin<Box<http1::Connection<TokioIo<Box<dyn Stream>>, Empty<Bytes>>>>;

struct Connection {
    sender: http1::SendRequest<Empty<Bytes>>,
    /// `None` once it has ended.
    driver: Option<Driver>,
}

impl Connection {
    async fn over(stream: Box<dyn Stream>) -> hyper::Result<Self> {
        let (sender, driver) = http1::handshake(TokioIo::new(stream)).await?;
        Ok(Self {
            sender,
            driver: Some(Box::pin(driver)),
        })
    }

    async fn exchange(
        &mut self,
        request: Request<Empty<Bytes>>,
        room: &Room,
    ) -> hyper::Result<Reply> {
        let sending = self.sender.send_request(request);
        let (head, body) = driven(&mut self.driver, sending).await?.into_parts();
        driven(&mut self.driver, reply(head, body, room)).await
    }

    /// Whether another request can follow.
    async fn is_usable(&mut self) -> bool {
        driven(&mut self.driver, self.sender.ready()).await.is_ok() && self.driver.is_some()
    }
}

/// Does something that needs the connection to go on.
async fn driven<O>(driver: &mut Option<Driver>, something: impl Future<Output = O>) -> O {
    let mut something = pin!(something);
    std::future::poll_fn(|context| {
        let ended = |driver: &mut Driver| driver.as_mut().poll(context).is_ready();
        if driver.as_mut().is_some_and(ended) {
            // What it ended with is told to who sent the request.
            *driver = None;
        }
        something.as_mut().poll(context)
    })
    .await
}

async fn reply(head: Parts, mut incoming: Incoming, room: &Room) -> hyper::Result<Reply> {
    let success = head.status == StatusCode::OK;
    let limit = if success { MAX_BODY } else { MAX_ERROR_BODY };
    let (mut body, mut whole) = (room.body(limit), true);
    while let Some(frame) = incoming.frame().await {
        let data = match frame {
            Ok(frame) => frame.into_data().unwrap_or_default(),
            // An error's body that breaks off must not hide its status.
            Err(_) if !success => break,
            Err(error) => return Err(error),
        };
        if !body.push(&data).await {
            whole = false;
            break;
        }
    }
    Ok(Reply {
        status: head.status,
        headers: head.headers,
        body,
        whole,
    })
}
