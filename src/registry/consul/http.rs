//! The connections to one agent. An agent counts them, and refuses a client that has too many, so
//! none is ever opened beside one that could be used: each is driven by the exchange that is under
//! way on it, in that exchange's own future, and is kept or closed before the exchange is over. So
//! there are never more connections than there ever were exchanges at once. (A pool that opens one
//! while another is on its way back, as ready-made ones do, cannot promise that.) Knows nothing of
//! what is asked.

use std::{
    fmt, io,
    pin::{Pin, pin},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode, response::Parts};
use http_body_util::{BodyExt as _, Empty};
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
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
    registry::room::{Body, Room, Stalled},
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
    Http(#[from] hyper::Error),
    #[error("no answer within {} s", .0.as_secs())]
    Silent(Duration),
    #[error(transparent)]
    Stalled(#[from] Stalled),
    /// Of an exchange that changes something, whose URL may hold credentials, and is left out.
    #[error("{}", root_cause(.0))]
    Change(reqwest::Error),
}

/// The way to one agent.
pub(super) struct Http {
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

impl fmt::Debug for Http {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

impl Http {
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

    /// One exchange, whose answer has so long to begin; `request` must be one that may be made
    /// twice, since a kept connection may be dead. Dropped, it closes its connection.
    pub(super) async fn exchange(
        &self,
        request: Request<Empty<Bytes>>,
        patience: Duration,
    ) -> Result<Reply, Broken> {
        let begun = timeout(patience, self.begin(request)).await;
        let (mut connection, answer) = begun.map_err(|_| Broken::Silent(patience))??;
        let (head, body) = answer.into_parts();
        let reply = driven(&mut connection.driver, reply(head, body, &self.room)).await?;
        if reply.whole && connection.is_usable().await {
            let since = Instant::now();
            let mut idle = self.idle.lock();
            idle.retain(|idle| idle.since + IDLE > since);
            idle.push(Idle { connection, since });
        }
        Ok(reply)
    }

    /// Closes the connections on which nothing is under way.
    pub(super) fn close_idle(&self) {
        self.idle.lock().clear();
    }

    /// Sends the request. The answer is that of a connection that goes on while its body is read.
    async fn begin(
        &self,
        request: Request<Empty<Bytes>>,
    ) -> Result<(Connection, Response<Incoming>), Broken> {
        while let Some(mut kept) = self.take() {
            let asked = Instant::now();
            match kept.send(request.clone()).await {
                Ok(answer) => return Ok((kept, answer)),
                // It was alive: asked again, a query that waits would wait for twice its time.
                Err(error) if asked.elapsed() >= ALIVE => return Err(error.into()),
                Err(_) => {}
            }
        }
        let mut fresh = self.connect().await?;
        let answer = fresh.send(request).await?;
        Ok((fresh, answer))
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
        let idle = self.idle.lock().pop()?;
        Some(idle.connection)
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

    async fn send(&mut self, request: Request<Empty<Bytes>>) -> hyper::Result<Response<Incoming>> {
        let sending = self.sender.send_request(request);
        driven(&mut self.driver, sending).await
    }

    /// Whether another request can follow.
    async fn is_usable(&mut self) -> bool {
        let ready = timeout(ALIVE, driven(&mut self.driver, self.sender.ready())).await;
        ready.is_ok_and(|ready| ready.is_ok()) && self.driver.is_some()
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

async fn reply(head: Parts, mut incoming: Incoming, room: &Room) -> Result<Reply, Broken> {
    let success = head.status == StatusCode::OK;
    let limit = if success { MAX_BODY } else { MAX_ERROR_BODY };
    let (mut body, mut whole) = (room.body(limit), true);
    loop {
        let next = body.next(incoming.frame()).await;
        let data = match next.map_err(Broken::from) {
            Ok(None) => break,
            Ok(Some(Ok(frame))) => frame.into_data().unwrap_or_default(),
            // An error's body that breaks off must not hide its status.
            Ok(Some(Err(_))) | Err(_) if !success => {
                whole = false;
                break;
            }
            Ok(Some(Err(error))) => return Err(error.into()),
            Err(stalled) => return Err(stalled),
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

#[cfg(test)]
mod tests {
    use super::*;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};

    /// Less than the time that a body may stand still.
    const PATIENCE: Duration = Duration::from_secs(1);
    const LARGE: usize = 2 << 20;

    async fn keep(wire: &Http) -> DuplexStream {
        let (ours, agents) = tokio::io::duplex(64 << 10);
        let connection = Connection::over(Box::new(ours)).await.unwrap();
        let since = Instant::now();
        wire.idle.lock().push(Idle { connection, since });
        agents
    }

    /// Takes a request, and answers with so many bytes of a large body.
    async fn answer(agent: &mut DuplexStream, bytes: usize) {
        let mut request = [0; 1024];
        assert!(agent.read(&mut request).await.unwrap() > 0);
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {LARGE}\r\n\r\n");
        agent.write_all(head.as_bytes()).await.unwrap();
        for _ in 0..bytes / 1024 {
            // It fails where the client has given up.
            let _ = agent.write_all(&[b'x'; 1024]).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_large_answer_that_stalls_keeps_no_other_from_being_read() {
        let wire = Http::new("agent".to_owned(), 80, None, Arc::default());
        let ask = || {
            let request = Request::get("/").body(Empty::new()).unwrap();
            wire.exchange(request, PATIENCE)
        };
        let mut stalls = keep(&wire).await;
        let ill = ask();
        let ill = async {
            let answers = answer(&mut stalls, LARGE / 2 + 1024);
            tokio::join!(ill, answers).0
        };
        let mut ill = pin!(ill);
        assert!(timeout(PATIENCE * 2, &mut ill).await.is_err(), "it stands");
        let mut agents = [keep(&wire).await, keep(&wire).await];
        let well = agents.each_mut().map(|agent| answer(agent, LARGE));
        let [one, other] = well;
        let begun = Instant::now();
        // Understood at once, which makes room for the next.
        let read = async || ask().await.unwrap().body.len();
        let (ill, first, second, ..) = tokio::join!(ill, read(), read(), one, other);
        assert!(matches!(ill, Err(Broken::Stalled(_))));
        assert!(
            begun.elapsed() > PATIENCE,
            "both have waited for their room"
        );
        assert_eq!([first, second], [LARGE, LARGE]);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_does_not_begin_is_not_waited_for() {
        let wire = Http::new("agent".to_owned(), 80, None, Arc::default());
        let _agent = keep(&wire).await;
        let request = Request::get("/").body(Empty::new()).unwrap();
        let reply = wire.exchange(request, PATIENCE).await;
        assert!(matches!(reply, Err(Broken::Silent(PATIENCE))));
    }
}
