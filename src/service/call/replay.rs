//! A request's body that can be sent more than once: what was read of it is kept, up to a limit and
//! for as long as another attempt may follow. Knows nothing of who sends it or why.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use crate::upstream::Source;

/// The most bytes that are kept, and the most memory that holds them.
pub(crate) const LIMIT: usize = 64 * 1024;
/// What is sent again goes out in pieces of this size, each of which is a copy.
const PIECE: usize = 16 * 1024;

/// For how long what is read of a body is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// Until a byte of the request is written, after which no attempt may follow.
    UntilBegun,
    /// Until an answer is passed on.
    UntilAnswered,
}

/// A request's body as attempts need it.
pub trait Replay: Source {
    /// Whether it could be sent again.
    fn is_replayable(&self) -> bool;

    /// Gets ready for another attempt; `false` where the body cannot be sent again.
    fn rewind(&mut self) -> bool;

    /// Says how long the attempt that begins needs what it reads.
    fn keep(&mut self, keep: Keep);
}

/// A body with what was read of it. What is kept is copied: a piece of one byte may be a slice of a
/// buffer of thousands, which it would hold.
#[derive(Debug)]
pub struct ReplayBody<B> {
    body: B,
    /// What was read; `None` when it was too much, or is of no use any more.
    kept: Option<Vec<u8>>,
    /// Of `kept`, how much this attempt has sent: no more than [`LIMIT`]. Short, since each request has it twice.
    replayed: u32,
    keep: Keep,
    /// No attempt follows: what is kept goes when it is sent.
    is_last: bool,
    read: bool,
    /// Trailers came, which are not kept.
    had_trailers: bool,
}

impl<B> ReplayBody<B> {
    /// Keeps what is read of this body from now on.
    pub fn new(body: B) -> Self {
        Self {
            body,
            kept: Some(Vec::new()),
            replayed: 0,
            keep: Keep::UntilAnswered,
            is_last: false,
            read: false,
            had_trailers: false,
        }
    }

    /// What is still to be sent again.
    fn rest(&self) -> &[u8] {
        let kept = self.kept.as_deref().unwrap_or_default();
        &kept[(self.replayed as usize).min(kept.len())..]
    }

    fn next_piece(&mut self) -> Option<Bytes> {
        let rest = self.rest();
        if rest.is_empty() {
            return None;
        }
        let piece = Bytes::copy_from_slice(&rest[..rest.len().min(PIECE)]);
        self.replayed += piece.len() as u32;
        self.drop_what_is_sent();
        Some(piece)
    }

    fn drop_what_is_sent(&mut self) {
        if self.is_last && self.rest().is_empty() {
            self.kept = None;
        }
    }

    /// Keeps a piece, of which `more` bytes at the least will follow.
    fn note(&mut self, piece: &[u8], more: u64) {
        let Some(kept) = &mut self.kept else { return };
        let length = kept.len() + piece.len();
        if (length as u64).saturating_add(more) > LIMIT as u64 {
            self.kept = None;
            return;
        }
        if length > kept.capacity() {
            let capacity = length.max(2 * kept.capacity()).min(LIMIT);
            kept.reserve_exact(capacity - kept.len());
        }
        kept.extend_from_slice(piece);
        self.replayed = length as u32;
    }
}

impl<B> Source for ReplayBody<B>
where
    B: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Unpin,
{
    fn begun(&mut self) {
        if self.keep == Keep::UntilBegun {
            self.settled();
        }
    }

    fn settled(&mut self) {
        self.is_last = true;
        self.drop_what_is_sent();
    }
}

impl<B> Replay for ReplayBody<B>
where
    B: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Unpin,
{
    fn is_replayable(&self) -> bool {
        !self.read || (self.kept.is_some() && !self.had_trailers && !self.is_last)
    }

    fn rewind(&mut self) -> bool {
        self.replayed = 0;
        self.is_replayable()
    }

    fn keep(&mut self, keep: Keep) {
        self.keep = keep;
        if !self.read {
            self.is_last = false;
            self.kept.get_or_insert_default();
        }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for ReplayBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        if let Some(piece) = self.next_piece() {
            return Poll::Ready(Some(Ok(Frame::data(piece))));
        }
        let polled = ready!(Pin::new(&mut self.body).poll_frame(cx));
        self.read = true;
        if let Some(Ok(frame)) = &polled {
            match frame.data_ref() {
                Some(data) => {
                    let more = self.body.size_hint().lower();
                    self.note(data, more);
                }
                None => self.had_trailers = true,
            }
        }
        Poll::Ready(polled)
    }

    fn is_end_stream(&self) -> bool {
        self.rest().is_empty() && self.body.is_end_stream()
    }

    /// Of what is still to be sent.
    fn size_hint(&self) -> SizeHint {
        let (again, first) = (self.rest().len() as u64, self.body.size_hint());
        let mut hint = SizeHint::new();
        hint.set_lower(first.lower().saturating_add(again));
        if let Some(upper) = first.upper() {
            hint.set_upper(upper.saturating_add(again));
        }
        hint
    }
}

#[cfg(test)]
mod tests {
    use std::{convert::Infallible, task::Waker};

    use http_body_util::{Full, StreamBody};

    use super::*;

    /// Slices of one byte, each of a buffer of its own, as a client's segments are.
    fn trickled(count: usize) -> impl Body<Data = Bytes, Error = Infallible> + Unpin {
        let pieces = (0..count).map(|at| {
            let buffer = Bytes::from(vec![at as u8; 8 * 1024]);
            Ok(Frame::data(buffer.slice(..1)))
        });
        StreamBody::new(futures_util::stream::iter(pieces))
    }

    fn next<B: Body<Data = Bytes, Error = Infallible> + Unpin>(body: &mut B) -> Option<Bytes> {
        let mut cx = Context::from_waker(Waker::noop());
        match Pin::new(body).poll_frame(&mut cx) {
            Poll::Ready(Some(Ok(frame))) => Some(frame.into_data().unwrap()),
            Poll::Ready(None) => None,
            Poll::Pending => panic!("all of it is there"),
        }
    }

    fn read<B: Body<Data = Bytes, Error = Infallible> + Unpin>(body: &mut B) -> Vec<u8> {
        let mut all = Vec::new();
        while let Some(piece) = next(body) {
            all.extend_from_slice(&piece);
        }
        all
    }

    #[test]
    fn what_holds_a_body_is_no_more_than_the_limit_however_it_comes() {
        for count in [1, 1_000, LIMIT - 1, LIMIT] {
            let mut kept = ReplayBody::new(trickled(count));
            let sent = read(&mut kept);
            let capacity = kept.kept.as_ref().unwrap().capacity();
            assert!(capacity <= LIMIT.min(2 * count), "{count}: {capacity}");
            assert!(kept.rewind());
            assert_eq!(read(&mut kept), sent, "{count}");
        }
        let mut kept = ReplayBody::new(trickled(LIMIT + 1));
        read(&mut kept);
        assert!(kept.kept.is_none() && !kept.rewind());
    }

    #[test]
    fn nothing_is_kept_of_what_is_known_to_be_too_much() {
        let body = Full::from(vec![0; LIMIT + 1]);
        let mut kept = ReplayBody::new(body);
        next(&mut kept);
        assert!(kept.kept.is_none());
    }

    #[test]
    fn the_length_is_that_of_what_is_still_to_be_sent() {
        let mut kept = ReplayBody::new(Full::from("of 11 bytes"));
        for _ in 0..2 {
            assert_eq!(kept.size_hint().exact(), Some(11));
            assert!(!kept.is_end_stream());
            assert_eq!(read(&mut kept), b"of 11 bytes");
            assert_eq!(kept.size_hint().exact(), Some(0));
            assert!(kept.is_end_stream());
            assert!(kept.rewind());
        }
        let large = vec![7; PIECE + 1];
        let mut kept = ReplayBody::new(Full::from(large));
        read(&mut kept);
        assert!(kept.rewind());
        next(&mut kept);
        assert_eq!(kept.size_hint().exact(), Some(1));
    }

    #[test]
    fn what_no_attempt_can_follow_keeps_nothing() {
        let mut kept = ReplayBody::new(trickled(10));
        kept.keep(Keep::UntilBegun);
        next(&mut kept);
        assert!(kept.is_replayable(), "no byte was written");
        kept.begun();
        next(&mut kept);
        assert!(kept.kept.is_none() && !kept.rewind());

        let mut kept = ReplayBody::new(trickled(10));
        kept.keep(Keep::UntilAnswered);
        next(&mut kept);
        kept.begun();
        assert!(kept.is_replayable());
        kept.settled();
        assert!(kept.kept.is_none() && !kept.is_replayable());
    }

    #[test]
    fn the_last_attempt_sends_all_of_what_the_others_have_read() {
        let body = vec![7; LIMIT];
        let mut kept = ReplayBody::new(Full::from(body.clone()));
        read(&mut kept);
        assert!(kept.rewind());
        kept.keep(Keep::UntilBegun);
        let mut sent = next(&mut kept).unwrap().to_vec();
        kept.begun();
        sent.extend(read(&mut kept));
        assert!(sent == body && kept.kept.is_none());
    }

    #[test]
    fn a_body_that_was_not_read_is_kept_by_the_next_attempt() {
        let mut kept = ReplayBody::new(trickled(10));
        kept.keep(Keep::UntilBegun);
        kept.begun();
        assert!(kept.rewind());
        kept.keep(Keep::UntilAnswered);
        assert_eq!(read(&mut kept).len(), 10);
        assert!(kept.rewind());
        assert_eq!(read(&mut kept).len(), 10);
    }
}
