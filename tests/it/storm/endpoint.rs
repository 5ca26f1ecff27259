//! An endpoint: reads what the proxy sends strictly, compares it byte for byte with what the client
//! was to send, and answers as the plan has it.

use std::{
    future::poll_fn,
    net::SocketAddr,
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::Poll,
    time::Duration,
};

use rustls::ServerConfig;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::watch,
    time::sleep,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use super::{
    draw::Planner,
    http2,
    oracle::Oracle,
    pieces,
    plan::{Answer, Behind, Break, How, Id, Moment, Passage, Request, Trouble, Tunnel, is_http2},
    spoil::Spoilt,
};
use crate::support::strict::{Broken, Framed, Head, Reader};

/// What an endpoint needs to sign itself out.
pub(super) trait Leave: Send + Sync {
    /// Returns when the registry has it no more.
    fn leave(&self, address: SocketAddr) -> futures_util::future::BoxFuture<'static, ()>;
}

/// How often an endpoint that leaves says so.
const AGAIN: Duration = Duration::from_millis(100);

/// How it is told to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    Serving,
    /// It takes no more connections, and ends those that it has when they are idle.
    Closing,
    /// All that it has is reset.
    Killed,
}

/// A server of one service's requests.
pub(super) struct Endpoint {
    pub(super) address: SocketAddr,
    life: watch::Sender<Life>,
}

#[derive(Clone)]
pub(super) struct Shared {
    pub(super) service: &'static str,
    pub(super) address: SocketAddr,
    pub(super) planner: Planner,
    pub(super) oracle: Arc<Oracle>,
    /// How many connections it has had.
    connections: Arc<AtomicU64>,
    /// Itself and its way to the registry, where it may leave.
    leaving: Option<(Weak<dyn Leave>, watch::Sender<Life>)>,
}

impl Shared {
    /// Counts a connection, and returns the how manieth it is.
    pub(super) fn next_connection(&self) -> u64 {
        self.connections.fetch_add(1, Relaxed)
    }
}

/// A connection in the clear or over TLS.
pub(super) trait Socket: AsyncRead + AsyncWrite + Unpin + Send {
    fn tcp(&self) -> &TcpStream;
    const TLS: bool;
}

impl Socket for TcpStream {
    fn tcp(&self) -> &TcpStream {
        self
    }
    const TLS: bool = false;
}

impl Socket for TlsStream<TcpStream> {
    fn tcp(&self) -> &TcpStream {
        self.get_ref().0
    }
    const TLS: bool = true;
}

impl Socket for tokio_rustls::client::TlsStream<TcpStream> {
    fn tcp(&self) -> &TcpStream {
        self.get_ref().0
    }
    const TLS: bool = true;
}

impl Endpoint {
    pub(super) async fn start(
        service: &'static str,
        planner: Planner,
        oracle: Arc<Oracle>,
        tls: Option<Arc<ServerConfig>>,
        leaving: Option<Weak<dyn Leave>>,
    ) -> Self {
        // Addresses of the storm's own: the port of an endpoint that was killed is not soon that of
        // another program of this machine. The certificate is for 127.0.0.1.
        let own = if tls.is_some() {
            "127.0.0.1:0"
        } else {
            "127.83.0.1:0"
        };
        let listener = TcpListener::bind(own).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (life, told) = watch::channel(Life::Serving);
        let leaving = leaving.map(|leave| (leave, life.clone()));
        let shared = Shared {
            service,
            address,
            planner,
            oracle,
            connections: Arc::default(),
            leaving,
        };
        tokio::spawn(accept(listener, shared, tls, told));
        Self { address, life }
    }

    /// Takes no more connections; what is in progress comes to its end.
    pub(super) fn close(self) {
        let _ = self.life.send(Life::Closing);
    }

    /// Resets all of its connections.
    pub(super) fn kill(self) {
        let _ = self.life.send(Life::Killed);
    }
}

async fn accept(
    listener: TcpListener,
    shared: Shared,
    tls: Option<Arc<ServerConfig>>,
    mut told: watch::Receiver<Life>,
) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = told.wait_for(|life| *life != Life::Serving) => return,
        };
        let Ok((stream, _)) = accepted else { continue };
        let _ = stream.set_nodelay(true);
        let (shared, told) = (shared.clone(), told.clone());
        let tls = tls.clone();
        tokio::spawn(async move {
            match tls {
                None if is_http2(shared.service) => http2::endpoint::serve(stream, &shared).await,
                None => serve_until_told(Reader::new(stream), &shared, told).await,
                Some(config) => {
                    let Ok(stream) = TlsAcceptor::from(config).accept(stream).await else {
                        return;
                    };
                    match is_http2(shared.service) {
                        true => http2::endpoint::serve(stream, &shared).await,
                        false => serve_until_told(Reader::new(stream), &shared, told).await,
                    }
                }
            }
        });
    }
}

async fn serve_until_told<S: Socket>(
    mut connection: Reader<S>,
    shared: &Shared,
    mut told: watch::Receiver<Life>,
) {
    let closing = told.clone();
    let killed = tokio::select! {
        () = serve(&mut connection, shared, closing) => false,
        // Who has no more to say of it has not killed it.
        Ok(_) = told.wait_for(|life| *life == Life::Killed) => true,
    };
    if killed {
        reset(connection.source());
    }
}

fn reset(socket: &impl Socket) {
    let _ = socket.tcp().set_zero_linger();
}

async fn serve<S: Socket>(
    connection: &mut Reader<S>,
    shared: &Shared,
    mut closing: watch::Receiver<Life>,
) {
    loop {
        let head = tokio::select! {
            biased;
            head = connection.head() => head,
            _ = closing.wait_for(|life| *life != Life::Serving), if connection.unread.is_empty() => {
                return;
            }
        };
        match head {
            Ok(Some(head)) => {
                if !one(connection, shared, &head).await {
                    return;
                }
            }
            Ok(None) | Err(Broken::Ended | Broken::Error(_)) => return,
            Err(Broken::Malformed(why)) => {
                return shared
                    .oracle
                    .fault(None, &format!("a malformed request upstream: {why}"));
            }
        }
    }
}

/// Reads the request behind this head and answers it. Returns whether the connection goes on.
async fn one<S: Socket>(connection: &mut Reader<S>, shared: &Shared, head: &Head) -> bool {
    let oracle = &shared.oracle;
    let ids: Vec<_> = head.values("x-storm").collect();
    let id = match ids[..] {
        [id] => Id::parse(id),
        _ => None,
    };
    let Some(id) = id.filter(|id| oracle.has_begun(*id)) else {
        oracle.fault(
            None,
            &format!("a request upstream that no client made: {head:?}"),
        );
        return false;
    };
    let request = shared.planner.request(id);
    let arrival = oracle.arrives(&request, shared.service, shared.address);
    if let Err(why) = compare_head(&request, head) {
        oracle.fault(Some(&request), &format!("{why} upstream: {head:?}"));
    }
    let answer = shared.planner.answer(&request, arrival, shared.service);
    let mut body = Vec::new();
    let early = match answer.moment {
        Moment::Early(at) => Some(at),
        Moment::AtEnd => None,
    };
    // An early answer goes out while the request's body is still read.
    let read = read_body(connection, head, early, &mut body).await;
    // What is spoilt behind its head may be read up to there, and by a byte beyond.
    let sound = match request.spoilt {
        Some(_) => body.strip_suffix(b"a").unwrap_or(&body),
        None => &body,
    };
    if !request.body.starts_with(sound) {
        oracle.fault(
            Some(&request),
            &format!("another body upstream: {}", super::shown(&body)),
        );
        return false;
    }
    match read {
        Ok(Read::Whole(trailers)) => {
            if !note_whole(connection, shared, &request, arrival, &body, &trailers) {
                return false;
            }
            respond(connection, shared, &request, &answer).await
        }
        Ok(Read::Early(framed)) => {
            if !respond(connection, shared, &request, &answer).await {
                return false;
            }
            let rest = read_rest(connection, framed, &mut body).await;
            match rest {
                Ok(trailers) => note_whole(connection, shared, &request, arrival, &body, &trailers),
                Err(Broken::Malformed(why)) => {
                    oracle.fault(Some(&request), &format!("a malformed body upstream: {why}"));
                    false
                }
                Err(_) => false,
            }
        }
        Err(Broken::Malformed(why)) => {
            oracle.fault(Some(&request), &format!("a malformed body upstream: {why}"));
            false
        }
        Err(_) => false,
    }
}

enum Read {
    Whole(Head),
    /// Enough of a body of known length for an early answer, and how much of it is left.
    Early(u64),
}

async fn read_body<S: Socket>(
    connection: &mut Reader<S>,
    head: &Head,
    early: Option<usize>,
    body: &mut Vec<u8>,
) -> Result<Read, Broken> {
    match head.framed()? {
        Framed::Unsaid => Ok(Read::Whole(Head::default())),
        Framed::Length(length) => match early {
            Some(at) if (at as u64) < length => {
                connection.exact(at as u64, body).await?;
                Ok(Read::Early(length - at as u64))
            }
            _ => {
                connection.exact(length, body).await?;
                Ok(Read::Whole(Head::default()))
            }
        },
        // An early answer to a chunked body comes at its end: reading chunks in parts is for
        // bodies of known length.
        Framed::Chunked => Ok(Read::Whole(connection.chunks(body).await?)),
    }
}

async fn read_rest<S: Socket>(
    connection: &mut Reader<S>,
    left: u64,
    body: &mut Vec<u8>,
) -> Result<Head, Broken> {
    connection.exact(left, body).await?;
    Ok(Head::default())
}

pub(super) fn compare_head(request: &Request, head: &Head) -> Result<(), String> {
    if head.start != request.line_upstream() {
        return Err(format!("not {:?}", request.line_upstream()));
    }
    if head.values("host").collect::<Vec<_>>() != ["storm.example:80"] {
        return Err("another host".to_owned());
    }
    for (name, value) in &request.fields {
        if head.values(name).collect::<Vec<_>>() != [value] {
            return Err(format!("no {name}: {value:?}"));
        }
    }
    for name in ["x-hop", "connection", "keep-alive", "upgrade"] {
        let values: Vec<_> = head.values(name).collect();
        let expected: &[&str] = match name {
            "connection" if request.passage.is_some() => &["upgrade"],
            "upgrade" if request.passage.is_some() => &["storm"],
            _ => &[],
        };
        if values != expected {
            return Err(format!("{name} {values:?}"));
        }
    }
    Ok(())
}

/// The request is there to its end. Returns whether it is the one that was to come.
fn note_whole<S: Socket>(
    connection: &Reader<S>,
    shared: &Shared,
    request: &Request,
    arrival: usize,
    body: &[u8],
    trailers: &Head,
) -> bool {
    // Behind a request that was answered already the next one may follow.
    let is_answered = shared
        .planner
        .answer(request, arrival, shared.service)
        .moment
        != Moment::AtEnd;
    if !is_answered && !connection.unread.is_empty() {
        let more = super::shown(&connection.unread);
        let why = format!("more than the request upstream: {more}");
        shared.oracle.fault(Some(request), &why);
        return false;
    }
    check_whole(shared, request, arrival, body, trailers)
}

/// Whether a request that has come to its end is the one that was to come.
pub(super) fn check_whole(
    shared: &Shared,
    request: &Request,
    arrival: usize,
    body: &[u8],
    trailers: &Head,
) -> bool {
    let oracle = &shared.oracle;
    let fault = |why: &str| {
        oracle.fault(Some(request), why);
        false
    };
    if request.spoilt == Some(Spoilt::TooLong) && body.len() + 1 == request.body.len() {
        // All that was said to come was there before what is too much.
        return true;
    }
    if !request.is_whole() {
        let (spoilt, breaks) = (request.spoilt, request.breaks);
        return fault(&format!(
            "an unfinished request is whole upstream ({spoilt:?}, {breaks:?})"
        ));
    }
    if body != request.body {
        return fault(&format!("another body upstream: {}", super::shown(body)));
    }
    let has = |(name, value): &(String, String)| {
        trailers.value(name).is_some_and(|theirs| theirs == value)
    };
    if trailers.fields.len() != request.trailers().len() || !request.trailers().iter().all(has) {
        return fault(&format!("other trailers upstream: {trailers:?}"));
    }
    oracle.is_whole(request, arrival);
    true
}

/// Answers. Returns whether the connection goes on.
async fn respond<S: Socket>(
    connection: &mut Reader<S>,
    shared: &Shared,
    request: &Request,
    answer: &Answer,
) -> bool {
    sleep(Duration::from_millis(answer.delay_ms)).await;
    let (mut bytes, head) = answer.wire(request);
    let mut pieces =
        shared
            .planner
            .pieces(request.id, 1 + answer.arrival as u64, bytes.len(), head);
    let mut stop = bytes.len();
    match answer.trouble {
        Some(Trouble::Silence) => {
            until_closed(connection.source()).await;
            return false;
        }
        Some(Trouble::Leaves) => {
            leave(shared).await;
            return false;
        }
        Some(Trouble::Breaks(Break { at, .. })) => stop = at,
        _ => {}
    }
    if answer.babbles {
        // In one write with the end of the answer: what comes later may be taken for the answer to the
        // connection's next request, and nothing tells the two apart.
        bytes.extend_from_slice(b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\nbabbled");
        stop = bytes.len();
        if let Some(last) = pieces.last_mut() {
            last.end = stop;
        }
        shared.oracle.upset(shared.service, shared.address);
    }
    let socket = connection.source();
    let written = pieces::write(socket, &bytes, &pieces, 0, stop).await;
    shared.oracle.is_answered(request, answer.arrival);
    if let Some(Trouble::Breaks(Break { how, .. })) = answer.trouble {
        if how == How::Reset {
            reset(socket);
        } else if S::TLS && answer.takes_leave() {
            let _ = socket.shutdown().await;
        }
        return false;
    }
    if let (Some(tunnel), Some(passage)) = (&answer.tunnel, &request.passage) {
        let oracle = &shared.oracle;
        // Its client may have left before, and the proxy waits no longer for an answer that comes too late.
        let may_break =
            || !oracle.has_passed(request.id) || oracle.was_held_up(request, answer.arrival);
        if let Err(why) = pass(connection, tunnel, passage, may_break).await {
            oracle.fault(Some(request), &why);
        }
        return false;
    }
    if answer.closes {
        if S::TLS {
            let _ = socket.shutdown().await;
        }
        return false;
    }
    if answer.closes_unsaid {
        shared.oracle.upset(shared.service, shared.address);
        sleep(Duration::from_millis(answer.delay_ms)).await;
        shared.oracle.upset(shared.service, shared.address);
        return false;
    }
    written.is_ok() && answer.trouble.is_none()
}

/// A tunnel, to its end. Which may come before all bytes where `may_break` says so by then.
async fn pass<S: Socket>(
    connection: &mut Reader<S>,
    tunnel: &Tunnel,
    passage: &Passage,
    may_break: impl Fn() -> bool,
) -> Result<(), String> {
    let mut heard = Vec::new();
    let mut piece = vec![0; 16 * 1024];
    if tunnel.behind == Behind::Listens {
        let _ = connection.source().shutdown().await;
    }
    let stop = match tunnel.behind {
        Behind::Breaks(Break { at, .. }) => at,
        Behind::Echoes | Behind::Listens => usize::MAX,
    };
    while heard.len() < stop {
        let read = connection.source().read(&mut piece).await;
        let Ok(count @ 1..) = read else {
            let (length, whole) = (heard.len(), passage.length());
            return match read {
                _ if !tunnel.is_sound(passage) || may_break() => Ok(()),
                Ok(_) if length == whole => Ok(()),
                Ok(_) => Err(format!(
                    "a tunnel's end upstream after {length} of {whole} bytes"
                )),
                Err(error) => Err(format!("a sound tunnel broke off upstream: {error}")),
            };
        };
        heard.extend_from_slice(&piece[..count]);
        if !passage.bytes[..passage.length()].starts_with(&heard) {
            return Err("other bytes in a tunnel upstream".to_owned());
        }
        let echo = &piece[..count];
        if tunnel.behind != Behind::Listens && connection.source().write_all(echo).await.is_err() {
            return Ok(());
        }
    }
    if let Behind::Breaks(Break {
        how: How::Reset, ..
    }) = tunnel.behind
    {
        reset(connection.source());
    }
    Ok(())
}

async fn leave(shared: &Shared) {
    let Some((way, life)) = &shared.leaving else {
        return;
    };
    shared.oracle.upset(shared.service, shared.address);
    let _ = life.send(Life::Closing);
    if let Some(way) = way.upgrade() {
        let mut leaving = way.leave(shared.address);
        // Until it has left, which a busy disk of the registry's makes long, it takes no connection.
        while tokio::time::timeout(AGAIN, &mut leaving).await.is_err() {
            shared.oracle.upset(shared.service, shared.address);
        }
    }
    shared.oracle.upset(shared.service, shared.address);
}

/// Waits until the proxy gives up.
async fn until_closed(socket: &mut impl Socket) {
    let mut byte = [0; 64];
    poll_fn(|cx| {
        let mut buffer = tokio::io::ReadBuf::new(&mut byte);
        match std::pin::Pin::new(&mut *socket).poll_read(cx, &mut buffer) {
            Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Poll::Ready(_) => Poll::Ready(()),
            Poll::Pending => Poll::Pending,
        }
    })
    .await;
}
