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
    budget::{Answered, Budget, Flood},
    frames::{Frames, Written},
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
    written: Written,
    budget: Budget,
    stall: Stall,
    /// There was a flood. Nothing more is read, and the client is told why.
    flood: Option<Farewell>,
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
            written: Written::default(),
            stall: Stall::default(),
            flood: None,
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

    /// The last word is said. What the library writes after it goes nowhere.
    fn has_left(&self) -> bool {
        self.flood.as_ref().is_some_and(|farewell| farewell.is_said)
    }

    /// Notes what was read. A flood ends the connection.
    fn note_read(&mut self, read: &mut [u8]) -> Result<(), Flood> {
        let Progress {
            client,
            is_begun,
            head_began,
            read: read_last,
            ..
        } = &*self.progress;
        let now = client.now();
        read_last.store(now, Relaxed);
        let answered = Answered {
            bytes: self.transport.socket().taken(),
            pieces: client.activity.pieces.value(),
            frames: self.written.data(),
            answers: self.written.ends(),
        };
        let (budget, mut flood) = (&mut self.budget, Ok(()));
        let heads = self.frames.heads();
        budget.refill(now, answered);
        self.frames.follow(read, now, |kind| {
            if flood.is_ok() {
                flood = budget.frame(kind);
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
        let has_taken = self.stall.note(&polled, bytes, stuck, || client.now());
        // The kernel takes a question also for a client that is gone, and one that is to leave may have many of its
        // own answered.
        if has_taken && self.written.has_news() {
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
        let this = &mut *self;
        if let Some(farewell) = &mut this.flood {
            return farewell.poll_end(cx, &mut this.transport).map(Err);
        }
        let before = buffer.filled().len();
        ready!(this.poll_more(cx, buffer))?;
        if this.note_read(&mut buffer.filled_mut()[before..]).is_err() {
            this.progress.client.worker.http2.floods.add_one();
            // An error would have the socket closed at once, and a reset take the answers that are not read
            // yet. The library writes what it has, and comes back.
            buffer.set_filled(before);
            this.flood = Some(Farewell::new(this.frames.last_stream()));
            return Poll::Pending;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for FrameStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.has_left() {
            return Poll::Ready(Ok(bytes.len()));
        }
        let polled = Pin::new(&mut self.transport).poll_write(cx, bytes);
        if let Poll::Ready(Ok(count)) = polled {
            self.written.follow(&bytes[..count]);
        }
        self.note_write(polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.has_left() {
            return Poll::Ready(Ok(slices.iter().map(|slice| slice.len()).sum()));
        }
        let polled = Pin::new(&mut self.transport).poll_write_vectored(cx, slices);
        if let Poll::Ready(Ok(mut left)) = polled {
            for slice in slices {
                let count = slice.len().min(left);
                self.written.follow(&slice[..count]);
                left -= count;
            }
        }
        self.note_write(polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.transport.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let flushed = match &mut this.flood {
            Some(farewell) => farewell.poll_say(cx, &mut this.transport),
            None => Pin::new(&mut this.transport).poll_flush(cx),
        };
        let flushed = this.note_write(flushed);
        if flushed.is_ready() {
            this.written.note_all_taken();
        }
        flushed
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

/// The end of a connection whose client floods it: `GOAWAY` with `ENHANCE_YOUR_CALM` (RFC 9113 6.8) after
/// whatever is written before, and a moment in which the client can read it.
struct Farewell {
    frame: [u8; 17],
    written: usize,
    is_said: bool,
    leave: Leave,
}

impl Farewell {
    /// Of a client that has opened streams up to this one.
    fn new(last_stream: u32) -> Self {
        let mut frame = [0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 11];
        frame[9..13].copy_from_slice(&last_stream.to_be_bytes());
        Self {
            frame,
            written: 0,
            is_said: false,
            leave: Leave::briefly(),
        }
    }

    /// Writes it where all of the frames before are written.
    fn poll_say(
        &mut self,
        cx: &mut Context<'_>,
        transport: &mut Transport,
    ) -> Poll<io::Result<()>> {
        if self.is_said {
            return Poll::Ready(Ok(()));
        }
        while self.written < self.frame.len() {
            let rest = &self.frame[self.written..];
            match ready!(Pin::new(&mut *transport).poll_write(cx, rest))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count => self.written += count,
            }
        }
        ready!(Pin::new(transport).poll_flush(cx))?;
        self.is_said = true;
        // The end is waited for where the library reads.
        cx.waker().wake_by_ref();
        Poll::Ready(Ok(()))
    }

    fn poll_end(&mut self, cx: &mut Context<'_>, transport: &mut Transport) -> Poll<io::Error> {
        if !self.is_said {
            return Poll::Pending;
        }
        ready!(self.leave.poll(cx, transport.socket().shut()));
        Poll::Ready(io::Error::new(io::ErrorKind::InvalidData, Flood))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt as _;

    use super::{
        super::super::{
            socket::Socket,
            testing::{client_of, connected},
        },
        *,
    };
    use crate::proxy::Scheme;

    #[tokio::test]
    async fn only_an_answer_that_the_kernel_takes_is_a_sign_of_a_client() {
        let (_client, connection, stream) = connected().await;
        let of = client_of(&connection, Scheme::Http);
        let progress = Arc::new(Progress::new(Arc::new(of)));
        let begun = Begun {
            transport: Transport::Clear(Socket::new(stream)),
            read: Bytes::new(),
        };
        let mut wire = FrameStream::new(begun, connection, Arc::clone(&progress));
        let ping = [0, 0, 8, 6, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8];
        let data = [0, 0, 1, 0, 0, 0, 0, 0, 1, b'a'];
        let acknowledgement = [0, 0, 0, 4, 1, 0, 0, 0, 0];
        let reset = [0, 0, 4, 3, 0, 0, 0, 0, 1, 0, 0, 0, 7];
        for (frame, is_sign) in [
            (&ping[..], false),
            (&data, true),
            (&ping, false),
            (&acknowledgement, false),
            (&reset, false),
        ] {
            progress.taken.store(0, Relaxed);
            wire.write_all(frame).await.unwrap();
            wire.flush().await.unwrap();
            assert_eq!(progress.taken.load(Relaxed) != 0, is_sign, "{frame:?}");
        }
    }
}
