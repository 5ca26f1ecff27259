//! The HTTP server of the control plane, which the admin server and the embedded registry share:
//! its connections begin, and all end together. Where all of its places are taken, the connection
//! that has been silent for longest makes room. Knows nothing of what they ask for.

use std::{
    collections::VecDeque,
    convert::Infallible,
    future::poll_fn,
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    pin::{Pin, pin},
    sync::Arc,
    task::Poll,
    time::Duration,
};

use axum::{Router, body::Bytes};
use http::{HeaderValue, header::CONNECTION};
use http_body_util::BodyExt as _;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::SockRef;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::ServiceExt as _;

use super::{
    silent::{Silent, Speaking, Voice},
    stream::{ClientStream, Heard},
};
use crate::{
    backoff::Repeated,
    door::{self, Sharing},
};

/// How long an answer may lie with the kernel before the client takes more of it.
const UNTAKEN: Duration = Duration::from_secs(30);
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
/// end soon after. Where another process goes on with the socket, new clients are that one's from then on, and
/// those that are there are told to connect to it with their next answer.
pub(crate) async fn serve(
    listener: TcpListener,
    router: Router,
    connections: usize,
    sharing: &Sharing,
    ending: CancellationToken,
) {
    let ending = ending.child_token();
    let _ends = ending.clone().drop_guard();
    let troubles = Repeated::default();
    let (tasks, places) = (TaskTracker::new(), Arc::new(Semaphore::new(connections)));
    let silent = Silent::default();
    let seat = |stream, place| {
        let router = (router.clone(), sharing.clone());
        let served = converse(stream, router, silent.clone(), ending.clone());
        tasks.spawn(async move {
            served.await;
            drop(place);
        });
    };
    let mut waiting = VecDeque::new();
    let accepting = async {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    waiting.push_back(stream);
                    let place = silent.place(&places).await;
                    if let Some(stream) = waiting.pop_front() {
                        seat(stream, place);
                    }
                }
                Err(error) => rest_after(&error, &troubles).await,
            }
        }
    };
    {
        let mut accepting = pin!(accepting);
        tokio::select! {
            () = &mut accepting => {}
            () = ending.cancelled() => {}
            () = sharing.begun() => {}
        }
        if !sharing.is_shared() && door::close(&listener).is_ok() {
            let _ = timeout(door::THRESHOLD, accepting).await;
        }
    }
    match sharing.is_shared() {
        true => drop(listener),
        false => take_queued(listener, &mut waiting).await,
    }
    let seating = async {
        for stream in waiting {
            seat(stream, silent.place(&places).await);
        }
    };
    let _ = timeout(DRAIN, seating).await;
    ending.cancelled().await;
    tasks.close();
    tasks.wait().await;
}

/// Waits after an error that is not of one connection.
async fn rest_after(error: &io::Error, troubles: &Repeated) {
    if door::is_of_one_connection(error) {
        return;
    }
    // Out of descriptors, most likely: accepting again at once would spin.
    if let Some(times) = troubles.note() {
        tracing::warn!(%error, times, "the control plane cannot accept a connection");
    }
    sleep(door::REST).await;
}

/// Takes what is in the queue of a socket that closes.
async fn take_queued(listener: TcpListener, waiting: &mut VecDeque<TcpStream>) {
    if let Ok(socket) = listener.into_std() {
        let accept = || door::accept(&socket);
        door::queued(accept, |(stream, _)| waiting.push_back(stream)).await;
    }
}

/// Where a program on this machine reaches a server that listens at `address`.
pub(crate) fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address {
        SocketAddr::V4(v4) if v4.ip().is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        SocketAddr::V6(v6) if v6.ip().is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        bound => bound.ip(),
    };
    SocketAddr::new(ip, address.port())
}

/// A client that takes nothing of what it was sent is ended by the kernel: nothing here would see it.
fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    SockRef::from(stream).set_tcp_user_timeout(Some(UNTAKEN))
}

/// Serves one connection to its end, which comes at once where it is silent and another needs its
/// place, and within [`DRAIN`] once the server goes down.
async fn converse(
    stream: TcpStream,
    (router, sharing): (Router, Sharing),
    silent: Silent,
    ending: CancellationToken,
) {
    if prepare(&stream).is_err() {
        return; // It is gone already.
    }
    let heard = Arc::new(Heard::default());
    let voice = Voice::new(silent, Arc::clone(&heard));
    let end = voice.end.clone();
    let told = Arc::clone(&heard);
    let service = service_fn(move |request| {
        let router = (router.clone(), sharing.clone());
        answer(router, request, voice.speak(), Arc::clone(&told))
    });
    let mut connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME)
        .max_buf_size(BUFFER)
        .serve_connection(
            TokioIo::new(ClientStream::new(stream, Arc::clone(&heard))),
            service,
        );
    // Those that have begun to ask are waited for where there is time for it.
    let (begins, limit) = tokio::select! {
        biased;
        () = ending.cancelled() => (door::THRESHOLD, DRAIN),
        () = end.cancelled() => (Duration::ZERO, LAST_WORDS),
        ended = &mut connection => return note(ended),
    };
    let mut begins = pin!(sleep(begins));
    let mut is_told = false;
    heard.end();
    // hyper would close a connection at rest without a look at what has come.
    let finishing = poll_fn(|cx| {
        if let Poll::Ready(ended) = Pin::new(&mut connection).poll(cx) {
            return Poll::Ready(ended);
        }
        let is_new = begins.as_mut().poll(cx).is_pending() && !heard.has_asked();
        let asks = is_new || (limit == DRAIN && heard.is_amid_a_head());
        if !asks && !is_told {
            is_told = true;
            Pin::new(&mut connection).graceful_shutdown();
            return Pin::new(&mut connection).poll(cx);
        }
        Poll::Pending
    });
    // What is left of its last answer may be on the way out still.
    if let Ok(ended) = timeout(limit, finishing).await {
        note(ended);
    }
}

async fn answer(
    (router, sharing): (Router, Sharing),
    request: http::Request<Incoming>,
    speaking: Speaking,
    heard: Arc<Heard>,
) -> Result<http::Response<impl http_body::Body<Data = Bytes, Error = axum::Error>>, Infallible> {
    let mut answer = router.oneshot(request).await?;
    if heard.is_ending() || sharing.is_shared() {
        let close = HeaderValue::from_static("close");
        answer.headers_mut().insert(CONNECTION, close);
    }
    // It speaks until the answer's body is at its end.
    Ok(answer.map(|body| {
        body.map_err(move |error| {
            let _ = &speaking;
            error
        })
    }))
}

fn note(ended: hyper::Result<()>) {
    if let Err(error) = ended {
        // The other side's doing: it went away, or spoke no HTTP.
        tracing::debug!(%error, "a connection of the control plane broke off");
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;

    use axum::routing::get;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        sync::Notify,
        task::{spawn_blocking, yield_now},
    };

    use super::*;
    use crate::door::testing::{begins_to_connect, has_begun, until};

    /// A server of two places, of whose paths one answers once it is told to.
    async fn start(told: Arc<Notify>) -> (SocketAddr, CancellationToken) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let waits = move || async move { told.notified().await };
        let router = Router::new()
            .route("/", get(async || "here"))
            .route("/waits", get(waits));
        let ending = CancellationToken::new();
        tokio::spawn(alone(listener, router, ending.clone()));
        (address, ending)
    }

    /// Serves at a socket that no other process has.
    async fn alone(listener: TcpListener, router: Router, ending: CancellationToken) {
        serve(listener, router, 2, &Sharing::default(), ending).await;
    }

    #[tokio::test]
    async fn a_socket_that_another_process_goes_on_with_is_left_to_it_and_clients_that_are_there_go_on()
     {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let heirs = listener.as_fd().try_clone_to_owned().unwrap();
        let (sharing, ending) = (Sharing::default(), CancellationToken::new());
        let router = Router::new().route("/", get(async || "here"));
        let (shared, until) = (sharing.clone(), ending.clone());
        let serving = async move { serve(listener, router, 2, &shared, until).await };
        let serving = tokio::spawn(serving);
        let mut first = TcpStream::connect(address).await.unwrap();
        ask(&mut first, "/").await;
        let mut answer = Vec::new();
        while !answer.ends_with(b"here") {
            assert!(first.read_buf(&mut answer).await.unwrap() > 0);
        }
        sharing.begin();
        // The server has had its turn when it has answered, and says that it is gone.
        ask(&mut first, "/").await;
        first.read_to_end(&mut answer).await.unwrap();
        let answer = String::from_utf8(answer).unwrap();
        assert_eq!(answer.matches("connection: close").count(), 1, "{answer}");
        assert!(answer.ends_with("here"), "{answer}");
        let _late = TcpStream::connect(address).await.unwrap();
        let heir = std::net::TcpListener::from(heirs);
        heir.accept().unwrap();
        ending.cancel();
        serving.await.unwrap();
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

    #[tokio::test]
    async fn a_request_that_has_come_before_the_server_ends_is_answered() {
        const REQUEST: &str = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";
        for cut in [REQUEST.len(), 9] {
            let (address, ending) = start(Arc::default()).await;
            let mut stream = TcpStream::connect(address).await.unwrap();
            ask(&mut stream, "/").await;
            assert!(read(&mut stream).await.ends_with("here"));
            // The runtime does not hear of it before the end is told.
            let (begin, rest) = REQUEST.split_at(cut);
            assert_eq!(stream.try_write(begin.as_bytes()).unwrap(), cut);
            ending.cancel();
            if !rest.is_empty() {
                // The connection hears of it, and looks.
                for _ in 0..20 {
                    yield_now().await;
                }
                stream.write_all(rest.as_bytes()).await.unwrap();
            }
            let answer = read(&mut stream).await;
            assert!(answer.contains("connection: close"), "{cut}: {answer}");
            assert!(answer.ends_with("here"));
            assert_eq!(read(&mut stream).await, "");
        }
    }

    /// The clock stands still while something is done on a thread of its own.
    #[tokio::test(start_paused = true)]
    async fn a_client_whose_handshake_has_begun_when_the_server_ends_is_let_in() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let ending = CancellationToken::new();
        let router = Router::new().route("/", get(async || "here"));
        let serving = tokio::spawn(alone(listener, router, ending.clone()));
        let client = begins_to_connect(address);
        spawn_blocking(move || until(|| has_begun(address.port())))
            .await
            .unwrap();
        ending.cancel();
        yield_now().await;
        let client = spawn_blocking(move || {
            client.detach_filter().unwrap();
            until(|| client.peer_addr().is_ok());
            client
        });
        let client = client.await.unwrap();
        serving.await.unwrap();
        assert!(client.take_error().unwrap().is_none(), "it was not reset");
    }
}
