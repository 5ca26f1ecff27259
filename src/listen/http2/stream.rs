//! A client's bytes, watched: which frames it sends, when a head began, and since when it takes nothing, is
//! noted in passing.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::{Arc, atomic::Ordering::Relaxed},
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{
    super::{Connection, Stop, linger::Leave, preface::Begun, stall::Stall, transport::Transport},
    budget::{self, Budget, Flood},
    frames::{Frames, Kind},
    progress::Progress,
};

/// A client's bytes, as hyper reads and writes them.
pub(super) struct FrameStream {
    transport: Transport,
    connection: Arc<Connection>,
    progress: Arc<Progress>,
    /// Read already, and not handed over.
    held: Bytes,
    frames: Frames,
    budget: Budget,
    stall: Stall,
    /// The end, when nothing more is written.
    leave: Option<Leave>,
    /// The kernel was asked, when the connection was to end, for what the runtime had not heard of.
    has_looked: bool,
}

impl FrameStream {
    pub(super) fn new(begun: Begun, connection: Arc<Connection>, progress: Arc<Progress>) -> Self {
        Self {
            transport: begun.transport,
            held: begun.read,
            budget: Budget::new(progress.client.now()),
            connection,
            progress,
            frames: Frames::new(),
            stall: Stall::default(),
            leave: None,
            has_looked: false,
        }
    }

    /// Reads what has come, or hands over what was read before.
    fn poll_more(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.held.is_empty() {
            let count = buffer.remaining().min(self.held.len());
            buffer.put_slice(&self.held[..count]);
            self.held.advance(count);
            return Poll::Ready(Ok(()));
        }
        if !self.has_looked && self.connection.signal.standing() == Stop::Finish {
            self.has_looked = true;
            self.transport.socket().look();
        }
        Pin::new(&mut self.transport).poll_read(cx, buffer)
    }

    /// Notes what was read. A flood ends the connection.
    fn note_read(&mut self, read: &[u8]) -> Result<(), Flood> {
        let Progress {
            client,
            is_begun,
            head_began,
            ..
        } = &*self.progress;
        let now = client.now();
        let (budget, mut flood) = (&mut self.budget, Ok(()));
        let heads = self.frames.heads();
        budget.refill(now, self.transport.socket().taken());
        self.frames.follow(read, |kind| {
            let cost = match kind {
                Kind::Data | Kind::Headers => 0,
                Kind::Reset => budget::RESET,
                Kind::Other => budget::FRAME,
            };
            if flood.is_ok() {
                flood = budget.spend(cost);
            }
        });
        is_begun.store(!self.frames.is_before_all(), Relaxed);
        let is_another = self.frames.heads() != heads || head_began.load(Relaxed) == 0;
        match self.frames.is_amid_a_head() {
            true if is_another => head_began.store(now, Relaxed),
            true => {}
            false => head_began.store(0, Relaxed),
        }
        flood
    }

    /// Notes since when the client has taken nothing of what waits for it.
    fn note_write<T>(&mut self, polled: Poll<T>) -> Poll<T> {
        let Progress {
            client,
            stuck,
            taken,
            ..
        } = &*self.progress;
        let bytes = self.transport.socket().taken();
        if self.stall.note(&polled, bytes, stuck, || client.now()) {
            taken.store(client.now(), Relaxed);
        }
        polled
    }
}

impl AsyncRead for FrameStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(self.poll_more(cx, buffer))?;
        let noted = self.note_read(&buffer.filled()[before..]);
        Poll::Ready(noted.map_err(|flood| {
            self.progress.client.worker.http2.floods.add_one();
            io::Error::new(io::ErrorKind::InvalidData, flood)
        }))
    }
}

impl AsyncWrite for FrameStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.transport).poll_write(cx, bytes);
        self.note_write(polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.transport).poll_write_vectored(cx, slices);
        self.note_write(polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.transport.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.transport).poll_flush(cx);
        self.note_write(flushed)
    }

    /// Ends the connection in good order: the client may be sending still.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.leave.is_none() {
            let shut = Pin::new(&mut this.transport).poll_shutdown(cx);
            ready!(this.note_write(shut))?;
        }
        let leave = this.leave.get_or_insert_with(|| Leave::new(true));
        leave.poll(cx, this.transport.socket().shut()).map(Ok)
    }
}
