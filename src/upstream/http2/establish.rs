//! Opening a connection of HTTP/2, and the task that drives it to its end.

use std::{
    error::Error as _,
    future::poll_fn,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use h2::client::{Builder, Connection};
use tokio::{
    sync::mpsc::{UnboundedReceiver, unbounded_channel},
    time::{Instant, sleep},
};

use super::{
    link::{End, Keep, Link, Rest, Shared},
    rest, silence,
    watched::Watched,
};
use crate::upstream::{FailureKind, stream::Stream, tls};

/// Bytes of one answer that may be on their way or wait to be read. A connection has as much for each of
/// its streams: an answer whose client does not read stops no other.
const WINDOW: u32 = 64 * 1024;
/// Bytes of one request that wait in the connection for the socket.
const SEND_BUFFER: usize = 64 * 1024;
/// What answers that are not read may hold beside their bytes: for each piece of less than 256 bytes as much
/// as is missing. Without it some 13,000 messages of a few bytes, which fit in one stream's window, would end
/// the connection with all its streams.
const PIECES: usize = 32 << 20;
/// The most bytes of an answer's head, as HTTP/2 counts them: as many as a service may allow at most, and 32
/// for each field. A service that allows less refuses a head when it is there: the crate would not say why
/// it has refused one, and ends the connection, with all its streams, where a head has four times as many.
const HEAD: u32 = 1024 * 1024 + 32 * 10_001;
/// Of so many streams that were given up a connection knows that what still comes is to be dropped.
const GIVEN_UP: usize = 1024;

/// How long a connection that is let go of may take to end when it has no stream any more.
const FAREWELL: Duration = Duration::from_secs(10);

/// Begins with HTTP/2 on a stream of bytes, and waits for what the endpoint has to say first: how many
/// streams it takes at once.
///
/// # Errors
/// Where there is no HTTP/2, or no connection any more.
pub(in crate::upstream) async fn establish(
    stream: Stream,
    keep: &Keep,
) -> Result<Shared, FailureKind> {
    let (rests_to, rests) = unbounded_channel();
    let link = Arc::new(Link::new(keep.streams, rests_to));
    let watched = Watched::new(stream, Arc::clone(&link));
    let streams = u32::try_from(keep.streams).unwrap_or(u32::MAX);
    let shaking = Builder::new()
        .enable_push(false)
        // None before the endpoint has said how many.
        .initial_max_send_streams(0)
        .initial_window_size(WINDOW)
        .initial_connection_window_size(WINDOW.saturating_mul(streams).min(i32::MAX as u32))
        .data_frame_budget(PIECES)
        .max_send_buffer_size(SEND_BUFFER)
        .max_header_list_size(HEAD)
        .max_concurrent_reset_streams(GIVEN_UP)
        // Counted over a connection's whole life, which may be long.
        .max_local_error_reset_streams(None)
        .handshake::<_, Bytes>(watched);
    let (sender, mut connection) = shaking.await.map_err(why)?;
    poll_fn(|cx| poll_settings(&mut connection, cx)).await?;
    tokio::spawn(drive(connection, Arc::clone(&link), rests, keep.ping));
    Ok(Shared { sender, link })
}

fn poll_settings(
    connection: &mut Connection<Watched>,
    cx: &mut Context<'_>,
) -> Poll<Result<(), FailureKind>> {
    match Pin::new(&mut *connection).poll(cx) {
        Poll::Ready(Ok(())) => Poll::Ready(Err(closed())),
        Poll::Ready(Err(error)) => Poll::Ready(Err(why(error))),
        Poll::Pending if connection.max_concurrent_send_streams() > 0 => Poll::Ready(Ok(())),
        Poll::Pending => Poll::Pending,
    }
}

fn closed() -> FailureKind {
    let why = "closed before its first frame";
    FailureKind::Connect(io::Error::new(io::ErrorKind::ConnectionReset, why))
}

/// Why there is no connection of HTTP/2.
fn why(error: h2::Error) -> FailureKind {
    if !error.is_io() {
        let why = format!("{error}; does it speak HTTP/2 there?");
        return FailureKind::NoHttp2(io::Error::other(why));
    }
    match error.into_io() {
        Some(error) if tls::is_of_our_certificate(&error) => {
            FailureKind::Handshake(tls::with_hint(error))
        }
        Some(error) if error.kind() != io::ErrorKind::UnexpectedEof => FailureKind::Connect(error),
        _ => closed(),
    }
}

/// Drives a connection until its endpoint closes it, nothing comes from it any more, or no handle of it
/// is left: neither the pool's nor a stream's. That last one is how it ends in good order, which an endpoint
/// that takes nothing puts off for [`FAREWELL`] at most.
async fn drive(
    mut connection: Connection<Watched>,
    link: Arc<Link>,
    rests: UnboundedReceiver<Rest>,
    ping: Option<Duration>,
) {
    let pings = connection.ping_pong();
    let end = tokio::select! {
        ended = &mut connection => {
            if let Err(error) = ended {
                tracing::debug!(%error, cause = error.source(), "a connection of HTTP/2 has broken");
            }
            End::Over
        }
        () = silence::dead(&link, pings, ping) => End::Silent,
        () = released(&link) => {
            tracing::debug!("a connection of HTTP/2 was let go of, and its endpoint does not let it end");
            End::Over
        }
        () = rest::read_all(rests) => End::Over,
    };
    link.note_end(end);
    // Its streams hear of it now.
    drop(connection);
}

/// Returns when a connection has been let go of for so long that it should have ended.
async fn released(link: &Link) {
    loop {
        sleep(FAREWELL).await;
        if link.is_released_for(FAREWELL, Instant::now()) {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use h2::client::SendRequest;
    use http::Request;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::{TcpListener, TcpStream},
        time::timeout,
    };

    use super::*;

    const KEEP: Keep = Keep {
        idle: Duration::from_secs(4),
        connections: 256,
        max_age: None,
        streams: 100,
        ping: None,
        is_retired: false,
    };

    /// SETTINGS that give each stream a window of 2^31 - 1 bytes, and as much to the connection.
    const WIDE: &[u8] = &[
        0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 4, 0x7f, 0xff, 0xff, 0xff, //
        0, 0, 4, 8, 0, 0, 0, 0, 0, 0x7f, 0xff, 0, 0,
    ];

    /// Sends on a stream until the socket takes no more.
    async fn fill(sender: &mut SendRequest<Bytes>) {
        let request = Request::post("http://a/").body(()).unwrap();
        let (_answer, mut body) = sender.send_request(request, false).unwrap();
        loop {
            body.reserve_capacity(16 * 1024);
            let room = poll_fn(|cx| body.poll_capacity(cx));
            let Ok(Some(Ok(room))) = timeout(Duration::from_secs(1), room).await else {
                return;
            };
            body.send_data(vec![0; room].into(), false).unwrap();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_endpoint_that_takes_nothing_does_not_hold_a_connection_that_is_let_go_of() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let socket = TcpStream::connect(listener.local_addr().unwrap());
        let (socket, accepted) = tokio::join!(socket, listener.accept());
        let mut endpoint = accepted.unwrap().0;
        endpoint.write_all(WIDE).await.unwrap();
        let stream = Stream::Plain(socket.unwrap());
        let mut shared = establish(stream, &KEEP).await.unwrap();
        fill(&mut shared.sender).await;
        let link = Arc::downgrade(&shared.link);
        drop(shared);
        let ended = async {
            while link.strong_count() > 0 {
                sleep(Duration::from_secs(1)).await;
            }
        };
        timeout(FAREWELL * 3, ended).await.unwrap();
        // What was sent before is there, and then the end.
        let mut came = Vec::new();
        let _ = endpoint.read_to_end(&mut came).await;
        assert!(came.starts_with(b"PRI * HTTP/2.0"));
    }
}
