//! A connection of HTTP/1.1, between two requests or in one.

use tokio::time::Instant;

use crate::{
    proxy_protocol::Opener,
    upstream::{stream::Stream, timer::Timer},
};

/// A connection of HTTP/1.1 to an endpoint.
#[derive(Debug)]
pub struct Connection {
    pub(in crate::upstream) stream: Stream,
    pub(super) timer: Timer,
    /// Boxed, since each request's future holds a connection, and none of them asks for this.
    pub(in crate::upstream) origin: Box<Origin>,
}

/// Where a connection comes from.
#[derive(Debug)]
pub(in crate::upstream) struct Origin {
    /// Whose it is, where the endpoint was told.
    pub(in crate::upstream) opener: Option<Opener>,
    pub(in crate::upstream) opened: Instant,
}

impl Connection {
    pub(in crate::upstream) fn new(stream: Stream, opener: Option<Opener>) -> Self {
        Self {
            stream,
            timer: Timer::default(),
            origin: Box::new(Origin {
                opener,
                opened: Instant::now(),
            }),
        }
    }
}
