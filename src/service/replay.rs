//! A request's body that can be sent more than once: what was read of it is kept, up to a limit.
//! Knows nothing of who sends it or why.

use std::{
    error::Error as StdError,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

/// The most bytes that are kept.
pub(super) const LIMIT: usize = 64 * 1024;

/// A request's body as attempts need it.
pub trait Replay: Body<Data = Bytes, Error: Into<Box<dyn StdError + Send + Sync>>> + Unpin {
    /// Whether it could be sent again.
    fn is_replayable(&self) -> bool;

    /// Gets ready for another attempt; `false` where the body cannot be sent again.
    fn rewind(&mut self) -> bool;
}

/// A body with what was read of it.
#[derive(Debug)]
pub struct Kept<B> {
    body: B,
    /// What was read, for another attempt; `None` when it was too much.
    kept: Option<Vec<Bytes>>,
    kept_bytes: usize,
    /// Of `kept`, what this attempt has sent.
    replayed: usize,
    read: bool,
    /// Trailers came, which are not kept.
    had_trailers: bool,
}

impl<B> Kept<B> {
    /// Keeps what is read of this body from now on.
    pub fn new(body: B) -> Self {
        Self {
            body,
            kept: Some(Vec::new()),
            kept_bytes: 0,
            replayed: 0,
            read: false,
            had_trailers: false,
        }
    }

    fn keep(&mut self, data: &Bytes) {
        let Some(kept) = &mut self.kept else { return };
        self.kept_bytes += data.len();
        if self.kept_bytes > LIMIT {
            self.kept = None;
        } else {
            kept.push(data.clone());
            self.replayed = kept.len();
        }
    }
}

impl<B> Replay for Kept<B>
where
    B: Body<Data = Bytes, Error: Into<Box<dyn StdError + Send + Sync>>> + Unpin,
{
    fn is_replayable(&self) -> bool {
        !self.read || (self.kept.is_some() && !self.had_trailers)
    }

    fn rewind(&mut self) -> bool {
        self.replayed = 0;
        self.is_replayable()
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Kept<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        if let Some(data) = self.kept.as_ref().and_then(|kept| kept.get(self.replayed)) {
            let frame = Frame::data(data.clone());
            self.replayed += 1;
            return Poll::Ready(Some(Ok(frame)));
        }
        self.read = true;
        let polled = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if let Some(Ok(frame)) = &polled {
            match frame.data_ref() {
                Some(data) => self.keep(data),
                None => self.had_trailers = true,
            }
        }
        Poll::Ready(polled)
    }

    fn is_end_stream(&self) -> bool {
        self.kept
            .as_ref()
            .is_none_or(|kept| self.replayed == kept.len())
            && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
