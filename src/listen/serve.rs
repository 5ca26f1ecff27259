//! Serving a connection: hyper's HTTP/1.1 server over a watched socket.

use std::{
    convert::Infallible,
    future::{Future, poll_fn},
    pin::Pin,
    sync::{Arc, atomic::Ordering::Relaxed},
    task::Poll,
};

use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::{Connection, Order, leave::Leave, wire::Wire};
use crate::{
    config::HeaderCase,
    proxy::{self, Activity},
};

enum Ended {
    Done,
    Cut,
}

/// Serves a connection until either side ends it.
pub async fn serve(connection: Arc<Connection>, stream: TcpStream) {
    let listener = &connection.client.listener;
    let service = service_fn(|request| {
        connection.head_began.store(0, Relaxed);
        let client = Arc::clone(&connection.client);
        async move { Ok::<_, Infallible>(proxy::handle(client, request).await) }
    });
    let wire = Wire::new(stream, Arc::clone(&connection));
    let mut serving = http1::Builder::new()
        // The wire looks for clients that are gone, where they are to be looked for.
        .half_close(true)
        .title_case_headers(listener.header_case == HeaderCase::Title)
        .max_buf_size(listener.limits.header_bytes)
        .serve_connection(TokioIo::new(wire), service);
    let mut finishing = false;
    let served = poll_fn(|cx| {
        match connection.ordered(cx.waker()) {
            Order::Serve => {}
            Order::Finish if finishing => {}
            Order::Finish => {
                finishing = true;
                Pin::new(&mut serving).graceful_shutdown();
            }
            Order::Cut => return Poll::Ready(Ok(Ended::Cut)),
        }
        let polled = Pin::new(&mut serving).poll(cx).map_ok(|()| Ended::Done);
        let Activity { rest, requests, .. } = &connection.client.activity;
        if rest.is_abandoned() && polled.is_pending() && requests.value() == 0 {
            rest.poll_away(cx, !finishing);
        }
        polled
    })
    .await;
    // What is in progress now ends with the connection.
    let unfinished = connection.client.activity.requests.value() > 0;
    if unfinished && !matches!(served, Ok(Ended::Done)) {
        connection.client.activity.cut_short.store(true, Relaxed);
    }
    let is_whole = !connection.client.activity.cut_short.load(Relaxed);
    if is_whole && !matches!(served, Ok(Ended::Cut)) {
        leave(&connection, serving.into_parts().io.into_inner()).await;
    }
    if let Err(error) = served {
        // Mostly clients that went away; what an endpoint did wrong was logged with its request.
        tracing::debug!(client = %connection.client.peer.ip, %error, "a connection ended with an error");
    }
}

/// Ends a connection on which all is written.
async fn leave(connection: &Connection, mut wire: Wire) {
    let mut leave = Leave::new(connection.client.activity.rest.may_come());
    let stream = wire.shut();
    poll_fn(|cx| match connection.ordered(cx.waker()) {
        Order::Cut => Poll::Ready(()),
        Order::Serve | Order::Finish => leave.poll(cx, stream),
    })
    .await;
}
