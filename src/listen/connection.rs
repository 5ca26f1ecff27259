//! One client's connection: hyper's HTTP/1.1 server over a watched socket, and the orders that
//! reach it from outside.

use std::{
    convert::Infallible,
    future::{Future, poll_fn},
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicU64, Ordering::Relaxed},
    },
    task::Poll,
    time::Duration,
};

use futures_util::task::AtomicWaker;
use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::wire::Wire;
use crate::proxy::{self, Client};

/// A client's connection, as its worker sees it.
pub struct Connection {
    /// What its requests know of it.
    pub client: Arc<Client>,
    /// When it was accepted, by the worker's clock.
    accepted: u64,
    /// When the head that is being read began; 0 when none is.
    pub(super) head_began: AtomicU64,
    /// Since when the client takes none of an answer; 0 when it does.
    pub(super) stuck: AtomicU64,
    order: AtomicU8,
    waker: AtomicWaker,
}

/// What a connection is told from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Order {
    /// Go on.
    Serve = 0,
    /// End with the request that runs; at once where there is none.
    Finish = 1,
    /// End now.
    Cut = 2,
}

impl Connection {
    /// A connection that has just been accepted.
    pub fn new(client: Client) -> Self {
        Self {
            accepted: client.now(),
            client: Arc::new(client),
            head_began: AtomicU64::new(0),
            stuck: AtomicU64::new(0),
            order: AtomicU8::new(Order::Serve as u8),
            waker: AtomicWaker::new(),
        }
    }

    /// Tells it so, unless it was told more already.
    pub fn order(&self, order: Order) {
        if self.order.fetch_max(order as u8, Relaxed) < order as u8 {
            self.waker.wake();
        }
    }

    /// Whether it has never had a request: one may be on its way.
    pub fn is_new(&self) -> bool {
        let activity = &self.client.activity;
        activity.requests.value() == 0 && activity.answered.load(Relaxed) == 0
    }

    /// Whether the client has taken longer than the listener allows, at this moment of the
    /// worker's clock.
    pub fn is_late(&self, now: u64) -> bool {
        let limits = &self.client.listener.timeout;
        let activity = &self.client.activity;
        let passed = |since: u64, limit: Duration| {
            since != 0 && u128::from(now.saturating_sub(since)) > limit.as_millis()
        };
        if passed(self.stuck.load(Relaxed), limits.write) {
            return true;
        }
        if activity.requests.value() > 0 {
            return passed(activity.body_awaited.load(Relaxed), limits.body);
        }
        match (
            self.head_began.load(Relaxed),
            activity.answered.load(Relaxed),
        ) {
            (0, 0) => passed(self.accepted, limits.header),
            (0, answered) => passed(answered, limits.idle),
            (began, _) => passed(began, limits.header),
        }
    }

    /// Serves it until either side ends it.
    pub async fn serve(self: Arc<Self>, stream: TcpStream) {
        let listener = &self.client.listener;
        let service = service_fn(|request| {
            self.head_began.store(0, Relaxed);
            let client = Arc::clone(&self.client);
            async move { Ok::<_, Infallible>(proxy::handle(client, request).await) }
        });
        let wire = Wire {
            stream,
            connection: Arc::clone(&self),
        };
        let mut serving = pin!(
            http1::Builder::new()
                .half_close(listener.half_close)
                .max_buf_size(listener.limits.header_bytes)
                .serve_connection(TokioIo::new(wire), service)
        );
        let mut finishing = false;
        let served = poll_fn(|cx| {
            self.waker.register(cx.waker());
            let order = self.order.load(Relaxed);
            if order == Order::Cut as u8 {
                return Poll::Ready(Ok(()));
            }
            if order == Order::Finish as u8 && !finishing {
                finishing = true;
                serving.as_mut().graceful_shutdown();
            }
            serving.as_mut().poll(cx)
        })
        .await;
        if let Err(error) = served {
            // Mostly clients that went away; what an endpoint did wrong was logged with its request.
            tracing::debug!(client = %self.client.peer.ip, %error, "a connection ended with an error");
        }
    }
}
