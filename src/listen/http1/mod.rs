//! HTTP/1.1 on a client's connection: hyper's server over a watched socket.

mod chunks;
pub(super) mod framing;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
pub(super) mod progress;
mod stream;
mod target;
mod tunnel;

use std::{
    future::{Future, poll_fn},
    pin::Pin,
    sync::{Arc, atomic::Ordering::Relaxed},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::Request;
use http_body::Body as _;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::time::{Sleep, sleep};

use super::{
    Connection, Stop, connection::Protocol, linger::leave, preface::Begun, stop::Orders,
    transport::Transport,
};
use crate::{
    config::{self, HeaderCase},
    proxy::{self, Client, RequestStream},
};
use progress::Progress;
use stream::ClientStream;

/// How long a first request may be on its way on a connection that was to end before its handshake was over.
const FIRST: Duration = Duration::from_secs(1);

enum Ended {
    Done,
    Cut,
}

/// Serves a connection until either side ends it; or until it turns out that the client speaks HTTP/2.
pub(super) async fn serve(
    connection: &Arc<Connection>,
    client: Client,
    transport: Transport,
) -> Option<Begun> {
    let progress = Arc::new(Progress::new(client));
    let _untaken = Untaken(&progress.requests);
    connection.speaks(Protocol::Http1(Arc::clone(&progress)));
    let requests = &progress.requests;
    let service = service_fn(|mut request: Request<Incoming>| {
        let length = request.body().size_hint().exact();
        progress.begin_request(length.map_or(framing::Body::Chunked, framing::Body::Length));
        if let Some(text) = progress.take_text() {
            request.extensions_mut().insert(text);
        }
        proxy::handle(requests, request)
    });
    let wire = ClientStream::new(transport, Arc::clone(connection), Arc::clone(&progress));
    let mut serving = builder(&connection.listener).serve_connection(TokioIo::new(wire), service);
    let (mut finishing, mut first) = (false, FirstRequest::of(connection));
    let mut orders = Orders::to(&connection.signal);
    let served = poll_fn(|cx| {
        match orders.last(cx.waker()) {
            Stop::Serve => {}
            Stop::Finish if finishing => {}
            Stop::Finish => {
                // hyper would close a connection at rest without a look at what has come.
                if progress.is_at_rest()
                    && let Poll::Ready(served) = Pin::new(&mut serving).poll(cx)
                {
                    return Poll::Ready(served.map(|()| Ended::Done));
                }
                // hyper would say `close` with the answer, by which no client goes over.
                let may_go_on = progress.is_amid_a_head() || progress.may_go_over();
                if !first.is_awaited(&progress, cx) && !may_go_on {
                    finishing = true;
                    Pin::new(&mut serving).graceful_shutdown();
                }
            }
            Stop::Cut => return Poll::Ready(Ok(Ended::Cut)),
        }
        let may_go_over = progress.may_go_over();
        let polled = Pin::new(&mut serving).poll(cx).map_ok(|()| Ended::Done);
        if may_go_over && !progress.may_go_over() {
            // It has not, and may be to finish.
            cx.waker().wake_by_ref();
        }
        let RequestStream { rest, .. } = &**requests;
        if rest.is_abandoned() && polled.is_pending() && progress.is_at_rest() {
            rest.poll_away(cx, !finishing);
        }
        polled
    })
    .await;
    let parts = serving.into_parts();
    let wire = parts.io.into_inner();
    go_on(connection, &progress, wire, parts.read_buf, served).await
}

/// Lets go of a tunnel that was not begun: it and its request hold each other.
struct Untaken<'r>(&'r RequestStream);

impl Drop for Untaken<'_> {
    fn drop(&mut self) {
        drop(self.0.take_tunnel());
    }
}

/// What follows when hyper is done with a connection: HTTP/2, a tunnel, or its end. `read` is what hyper has
/// read, and not used.
async fn go_on(
    connection: &Connection,
    progress: &Progress,
    wire: ClientStream,
    read: Bytes,
    served: hyper::Result<Ended>,
) -> Option<Begun> {
    match (progress.requests.take_tunnel(), served) {
        _ if wire.speaks_http2() => return Some(wire.into_http2()),
        (None, served) => end(connection, progress, wire, served).await,
        (Some(tunnel), Ok(Ended::Done)) => {
            Box::pin(tunnel::serve(connection, progress, wire, read, tunnel)).await;
        }
        // The client has not had the answer.
        (Some(_), _) => {}
    }
    None
}

/// Ends a connection whose server is done with it.
async fn end(
    connection: &Connection,
    progress: &Progress,
    mut wire: ClientStream,
    served: hyper::Result<Ended>,
) {
    let requests = &progress.requests;
    // What is in progress now, or not written to its end, ends with the connection.
    if !progress.is_all_written() && !matches!(served, Ok(Ended::Done)) {
        requests.cut_short.store(true, Relaxed);
    }
    // An answer that says its end is seen to break off without a reset, which would take from a slow
    // client what it has not read of the answers before.
    let cut_short = requests.cut_short.load(Relaxed);
    if cut_short && requests.http10.load(Relaxed) {
        wire.reset();
    } else if !matches!(served, Ok(Ended::Cut)) {
        let may_come = requests.rest.may_come() || cut_short;
        if served.is_ok() {
            wire.say_end(&connection.signal).await;
        }
        leave(&connection.signal, wire.shut(), may_come).await;
    }
    if let Err(error) = served {
        // Mostly clients that went away; what an endpoint did wrong was logged with its request.
        tracing::debug!(client = %requests.client.peer.ip, %error, "a connection ended with an error");
    }
}

/// A first request that may be on its way, on a connection that was to end before its handshake was over.
struct FirstRequest(Option<Pin<Box<Sleep>>>);

impl FirstRequest {
    fn of(connection: &Connection) -> Self {
        let is_late = connection.signal.standing() == Stop::Finish;
        Self(is_late.then(|| Box::pin(sleep(FIRST))))
    }

    fn is_awaited(&mut self, progress: &Progress, cx: &mut Context<'_>) -> bool {
        let Some(time) = &mut self.0 else {
            return false;
        };
        progress.is_new() && time.as_mut().poll(cx).is_pending()
    }
}

fn builder(listener: &config::Listener) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        // The stream looks for clients that are gone, where they are to be looked for.
        .half_close(true)
        .title_case_headers(listener.header_case == HeaderCase::Title)
        .max_buf_size(listener.limits.header_bytes);
    builder
}

#[cfg(test)]
mod tests {
    use std::io::{ErrorKind, Write as _};

    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpStream,
        task::{JoinHandle, yield_now},
    };

    use super::super::{
        serve,
        testing::{Secured, client_of, connected, secured},
    };
    use super::*;
    use crate::proxy::Scheme;

    const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

    /// A client that has had an answer.
    async fn idle() -> (TcpStream, Arc<Connection>, JoinHandle<()>) {
        let (mut client, connection, stream) = connected().await;
        let serving = tokio::spawn(serve(Arc::clone(&connection), stream, None, None));
        client.write_all(GET.as_bytes()).await.unwrap();
        let mut read = Vec::new();
        while !read.ends_with(b"\n") || !connection.progress().is_at_rest() {
            client.read_buf(&mut read).await.unwrap();
        }
        assert!(!connection.is_new());
        (client, connection, serving)
    }

    #[tokio::test]
    async fn a_request_that_has_come_before_its_connection_is_to_end_is_answered() {
        for pieces in [&[GET][..], &[&GET[..9], &GET[9..]]] {
            let (mut client, connection, serving) = idle().await;
            connection.worker.shared.draining.store(true, Relaxed);
            // The runtime does not hear of it before the order is.
            let written = client.try_write(pieces[0].as_bytes()).unwrap();
            assert_eq!(written, pieces[0].len());
            connection.order(Stop::Finish);
            if let Some(rest) = pieces.get(1) {
                while connection.progress().head_began.load(Relaxed) == 0 && !serving.is_finished()
                {
                    yield_now().await;
                }
                client.write_all(rest.as_bytes()).await.unwrap();
            }
            let mut answer = String::new();
            client.read_to_string(&mut answer).await.unwrap();
            assert!(answer.starts_with("HTTP/1.1 404"), "{pieces:?}: {answer}");
            assert!(answer.contains("connection: close"), "{answer}");
            drop(client);
            serving.await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_first_request_on_its_way_is_answered_where_the_handshake_ended_after_the_order() {
        let (mut client, connection, stream) = connected().await;
        connection.worker.shared.draining.store(true, Relaxed);
        connection.order(Stop::Finish);
        let serving = tokio::spawn(serve(Arc::clone(&connection), stream, None, None));
        while connection.is_in_its_prelude() {
            yield_now().await;
        }
        client.write_all(GET.as_bytes()).await.unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 404"), "{answer}");
        drop(client);
        serving.await.unwrap();
    }

    /// Its handler has come to its end, and the kernel has taken none of what it says.
    #[tokio::test]
    async fn an_answer_of_http_1_0_that_is_left_to_tls_ends_in_a_reset_when_it_is_cut() {
        let Secured {
            mut client,
            connection,
            stream,
            socket,
        } = secured().await;
        let of = client_of(&connection, Scheme::Https);
        // Nothing that is written from here on is taken, once what was is where it can be.
        for _ in 0..100 {
            while (&socket).write(&[0; 4096]).is_ok() {}
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let transport = Transport::Tls(Box::new(stream));
        let served = Arc::clone(&connection);
        let serving =
            tokio::spawn(async move { super::serve(&served, of, transport).await.is_none() });
        client.write_all(b"GET / HTTP/1.0\r\n\r\n").await.unwrap();
        client.flush().await.unwrap();
        while connection.is_in_its_prelude() || connection.progress().stuck.load(Relaxed) == 0 {
            yield_now().await;
        }
        assert!(connection.progress().is_at_rest());
        connection.order(Stop::Cut);
        assert!(serving.await.unwrap());
        drop(socket);
        let (mut client, _) = client.into_inner();
        let end = loop {
            match client.read(&mut [0; 4096]).await {
                Ok(1..) => {}
                end => break end,
            }
        };
        let end = end.map_err(|error| error.kind());
        assert_eq!(end, Err(ErrorKind::ConnectionReset));
    }

    #[tokio::test]
    async fn a_connection_without_a_request_ends_at_once_when_it_is_told_to_finish() {
        let (mut client, connection, serving) = idle().await;
        connection.order(Stop::Finish);
        assert_eq!(client.read(&mut [0]).await.unwrap(), 0);
        serving.await.unwrap();
    }

    #[tokio::test]
    async fn a_client_is_cut_for_being_slow_and_not_for_being_idle() {
        let (_client, connection, serving) = idle().await;
        assert_eq!(connection.late(1), None);
        assert_eq!(connection.late(u64::MAX), Some(Stop::Finish));
        connection.progress().head_began.store(1, Relaxed);
        assert_eq!(connection.late(u64::MAX), Some(Stop::Cut));
        serving.abort();
        let (_client, new, stream) = connected().await;
        let serving = tokio::spawn(serve(Arc::clone(&new), stream, None, None));
        yield_now().await;
        assert_eq!(new.late(u64::MAX), Some(Stop::Finish));
        serving.abort();
    }
}
