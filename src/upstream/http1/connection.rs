//! A connection of HTTP/1.1, between two requests or in one.

use tokio::time::Instant;

use crate::upstream::{stream::Stream, timer::Timer};

/// A connection of HTTP/1.1 to an endpoint.
#[derive(Debug)]
pub struct Connection {
    pub(in crate::upstream) stream: Stream,
    pub(super) timer: Timer,
    pub(in crate::upstream) opened: Instant,
}

impl Connection {
    pub(in crate::upstream) fn new(stream: Stream) -> Self {
        Self {
            stream,
            timer: Timer::default(),
            opened: Instant::now(),
        }
    }
}
