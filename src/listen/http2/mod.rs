//! HTTP/2 on a client's connection: hyper's server over a socket whose frames are watched. A request of a
//! stream is made one of HTTP/1.1 in all but its version (`request`), and goes the way of all others; also where
//! the stream is to go over to another protocol (`tunnel`).

mod budget;
mod frames;
#[cfg(any(test, fuzzing))]
pub(super) mod fuzzing;
mod place;
pub(super) mod progress;
mod request;
mod stream;
mod streams;
mod tasks;
mod tunnel;

use std::{
    future::{Future as _, poll_fn},
    pin::pin,
    sync::Arc,
    task::Poll,
    time::Duration,
};

use http::Request;
use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::time::sleep;

use super::{Connection, Stop, connection::Protocol, preface::Begun, stop::Orders};
use crate::{
    config,
    metrics::Counter,
    proxy::{self, Client, RequestStream},
};
use place::TunnelPlace;
use progress::Progress;
use stream::FrameStream;
use streams::Upgrade;
use tasks::StreamTasks;

/// What is held of the body of one request that is not passed on yet. A connection has room for that of all its
/// requests: those whose endpoints do not take them hold up no other.
const STREAM_WINDOW: u32 = 64 * 1024;

/// What is held of one answer that its client would take, and the socket does not.
const SEND_BUFFER: usize = 64 * 1024;

/// The library asks a silent client whether it is there, and would not see that one takes what waits for it, before
/// which it finds no question. Who is gone is told by [`Progress::late`].
const PONG: Duration = Duration::from_secs(365 * 24 * 3600);

/// How long an endpoint may take to take what a tunnel has for it whose client is gone.
const LAST_WORDS: Duration = Duration::from_secs(10);

/// Serves a connection until either side ends it.
pub(super) async fn serve(connection: Arc<Connection>, client: Client, mut begun: Begun) {
    // One that is gone amid answers is not silent, and there is room in its socket for hours of small ones.
    let most = progress::unacknowledged(&connection.listener.timeout);
    begun.transport.socket().give_up_unacknowledged(most);
    let worker = Arc::clone(&connection.worker);
    let _open = Open::new(&worker.http2.connections);
    let progress = Arc::new(Progress::new(Arc::new(client)));
    connection.speaks(Protocol::Http2(Arc::clone(&progress)));
    let tasks = StreamTasks::new(Arc::clone(&progress));
    let service = service_fn(|mut request: Request<Incoming>| {
        let (stream, is_taken) = begin(&connection, &progress, &tasks, &mut request);
        async move {
            if !is_taken {
                // The client may send it again elsewhere (RFC 9113 8.7).
                return Err(h2::Error::from(h2::Reason::REFUSED_STREAM));
            }
            let handled = proxy::handle(&stream, request::as_http1(request)).await;
            handled.map_err(|never| match never {})
        }
    });
    let wire = FrameStream::new(begun, Arc::clone(&connection), Arc::clone(&progress));
    let served = {
        let builder = builder(&connection.listener, tasks.clone());
        let mut serving = pin!(builder.serve_connection(TokioIo::new(wire), service));
        let mut finishing = false;
        let mut orders = Orders::to(&connection.signal);
        let mut tunnels_end = pin!(tasks.end_tunnels());
        poll_fn(|cx| {
            let order = orders.last(cx.waker());
            if order == Stop::Finish && !finishing {
                finishing = true;
                progress.finish();
                // Requests that are on their way are served: the last word follows when the client
                // has answered the first (RFC 9113 6.8).
                serving.as_mut().graceful_shutdown();
            }
            let polled = serving.as_mut().poll(cx);
            if order == Stop::Cut && polled.is_pending() {
                // Those tell both sides, and are ended within a moment.
                return tunnels_end.as_mut().poll(cx).map(Ok);
            }
            polled
        })
        .await
    };
    if let Err(error) = served {
        let client = connection.client();
        tracing::debug!(%client, %error, "a connection ended with an error");
    }
    end_streams(&connection, &tasks).await;
}

/// The stream of a request that has come, and whether that is taken.
fn begin(
    connection: &Connection,
    progress: &Progress,
    tasks: &StreamTasks,
    request: &mut Request<Incoming>,
) -> (Arc<RequestStream>, bool) {
    connection.worker.http2.requests.add_one();
    let number = progress.begin_request();
    if number == connection.listener.limits.requests_per_connection as u64 {
        connection.order(Stop::Finish);
    }
    let upgrade = request::goes_over(request).then(|| Upgrade {
        bytes: hyper::upgrade::on(request),
        place: TunnelPlace::take(&progress.own_place, || connection.take_room()),
    });
    let has_room = upgrade.as_ref().is_none_or(|it| it.place.is_some());
    let stream = tasks.begin(upgrade);
    (stream, has_room && progress.takes(number))
}

/// The streams that were open hear of their connection's end, and end with it. A tunnel may have something to
/// say to its endpoint still, which may not take it.
async fn end_streams(connection: &Connection, tasks: &StreamTasks) {
    let mut orders = Orders::to(&connection.signal);
    let is_cut = poll_fn(|cx| match orders.last(cx.waker()) {
        Stop::Cut => Poll::Ready(()),
        Stop::Serve | Stop::Finish => Poll::Pending,
    });
    tokio::select! {
        biased;
        () = tasks.ended() => return,
        () = is_cut => {}
        () = sleep(LAST_WORDS) => {}
    }
    tasks.end_tunnels().await;
    tasks.ended().await;
}

fn builder(listener: &config::Listener, tasks: StreamTasks) -> http2::Builder<StreamTasks> {
    let limits = &listener.limits;
    let fits = |size: usize| u32::try_from(size).unwrap_or(u32::MAX);
    let mut builder = http2::Builder::new(tasks);
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(fits(limits.streams))
        .max_header_list_size(fits(limits.header_bytes))
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(fits(limits.streams).saturating_mul(STREAM_WINDOW))
        .max_send_buf_size(SEND_BUFFER)
        .enable_connect_protocol()
        .keep_alive_interval(listener.timeout.ping)
        .keep_alive_timeout(PONG);
    builder
}

/// One more of what is open.
struct Open<'c>(&'c Counter);

impl<'c> Open<'c> {
    fn new(count: &'c Counter) -> Self {
        count.add_one();
        Self(count)
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.sub_one();
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use socket2::SockRef;
    use tokio::{net::TcpStream, task::yield_now};

    use super::{
        super::{
            socket::Socket,
            testing::{client_of, connected},
            transport::Transport,
        },
        *,
    };
    use crate::proxy::Scheme;

    #[tokio::test]
    async fn the_kernel_ends_a_client_that_acknowledges_nothing_for_as_long_as_it_may_be_silent() {
        let (client, connection, stream) = connected().await;
        let stream = stream.into_std().unwrap();
        let below = stream.try_clone().unwrap();
        let socket = Socket::new(TcpStream::from_std(stream).unwrap());
        let begun = Begun {
            transport: Transport::Clear(socket),
            read: Bytes::new(),
        };
        let of = client_of(&connection, Scheme::Http);
        let limits = &connection.listener.timeout;
        let expected = (3 * limits.ping).max(limits.write);
        let serving = tokio::spawn(serve(Arc::clone(&connection), of, begun));
        while SockRef::from(&below).tcp_user_timeout().unwrap() != Some(expected) {
            assert!(!serving.is_finished());
            yield_now().await;
        }
        drop(client);
        serving.await.unwrap();
    }
}
