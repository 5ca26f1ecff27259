//! One direction of a tunnel: bytes are written as they were read, and no more is read while they are not
//! taken. A direction in which nothing is on its way holds no buffer.

use std::{
    cell::RefCell,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::frames::Frames;

/// The most that one read takes, and that one direction holds.
const SIZE: usize = 16 * 1024;

/// How often one direction reads and writes before its task lets others go first, and looks at the time.
const ROUNDS: usize = 16;

/// Buffers that a thread keeps for its tunnels.
const SPARES: usize = 64;

thread_local! {
    static BUFFERS: RefCell<Vec<Box<[u8]>>> = const { RefCell::new(Vec::new()) };
}

fn take_buffer() -> Box<[u8]> {
    let spare = BUFFERS.with_borrow_mut(Vec::pop);
    spare.unwrap_or_else(|| vec![0; SIZE].into())
}

fn give_buffer(buffer: Box<[u8]>) {
    BUFFERS.with_borrow_mut(|spares| {
        if spares.len() < SPARES {
            spares.push(buffer);
        }
    });
}

/// One direction.
#[derive(Debug, Default)]
pub(super) struct Pipe {
    /// What is written first.
    early: Bytes,
    /// What was read, and is not written yet.
    held: Option<Held>,
    /// Where WebSocket is spoken.
    frames: Option<Frames>,
    flow: Flow,
    /// It ends with the frame that has begun, and what else comes is thrown away.
    is_closing: bool,
    is_flushed: bool,
    /// It was left while more could be read.
    has_more: bool,
    /// Bytes that were written.
    written: u64,
}

#[derive(Debug)]
struct Held {
    buffer: Box<[u8]>,
    from: usize,
    to: usize,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Flow {
    #[default]
    Open,
    /// The receiver is told of the end when it has all.
    Ending,
    /// It was told, and the sender was not heard to its end.
    Discarding,
    Done,
}

/// The side that a direction broke at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Broken {
    Sender,
    Receiver,
}

impl Pipe {
    /// One in which frames of WebSocket are followed, or not.
    pub(super) fn new(is_websocket: bool) -> Self {
        Self {
            frames: is_websocket.then(Frames::default),
            ..Self::default()
        }
    }

    /// These bytes of the sender were read already.
    pub(super) fn begin(&mut self, early: Bytes) {
        if let Some(frames) = &mut self.frames {
            frames.follow(&early);
        }
        self.early = match early.is_empty() {
            // It may be a slice of a whole head.
            true => Bytes::new(),
            false => early,
        };
    }

    /// It is to end as soon as a frame ends.
    pub(super) fn close(&mut self) {
        self.is_closing = true;
    }

    /// Bytes that were written.
    pub(super) fn written(&self) -> u64 {
        self.written
    }

    /// Whether the sender was heard to its end.
    pub(super) fn has_ended(&self) -> bool {
        !self.is_closing && self.flow != Flow::Open
    }

    /// Whether the receiver was passed all that the sender had to say.
    pub(super) fn is_whole(&self) -> bool {
        self.flow == Flow::Done || (self.are_closed() && !self.is_held_up())
    }

    /// Whether bytes wait: for the receiver to take them, or for their turn.
    pub(super) fn is_held_up(&self) -> bool {
        self.has_more || self.held.is_some() || !self.early.is_empty()
    }

    /// Passes on what there is, or a part of it and has its task woken. Ready when the sender was heard to
    /// its end, and the receiver was told of it. A frame that closes is masked where it goes to a server.
    ///
    /// # Errors
    /// Where one of them is gone.
    pub(super) fn poll<R: AsyncRead + Unpin, W: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut R,
        to: &mut W,
        mask: Option<fn() -> [u8; 4]>,
    ) -> Poll<Result<(), Broken>> {
        self.has_more = false;
        for _ in 0..ROUNDS {
            ready!(self.poll_write(cx, to)).map_err(|_| Broken::Receiver)?;
            match self.flow {
                Flow::Open if self.is_closing && self.to_a_boundary() == 0 => {
                    let frame = self.frames.as_ref();
                    let frame = frame.and_then(|frames| frames.close(mask.map(|mask| mask())));
                    self.begin(frame.unwrap_or_default().into());
                    self.flow = Flow::Ending;
                }
                Flow::Open => match self.poll_read(cx, from) {
                    Poll::Ready(Ok(0)) => self.flow = Flow::Ending,
                    Poll::Ready(Ok(_)) => {}
                    // Of TLS that was not ended, or of a stream of HTTP/2 that was reset; many end them so
                    // behind the frame that closes.
                    Poll::Ready(Err(error))
                        if error.kind() == io::ErrorKind::UnexpectedEof && self.are_closed() =>
                    {
                        self.flow = Flow::Ending;
                    }
                    Poll::Ready(Err(_)) => return Poll::Ready(Err(Broken::Sender)),
                    Poll::Pending => {
                        ready!(self.poll_flush(cx, to)).map_err(|_| Broken::Receiver)?;
                        return Poll::Pending;
                    }
                },
                Flow::Ending => {
                    // A receiver that has ended as well may be gone.
                    let _ = ready!(Pin::new(&mut *to).poll_shutdown(cx));
                    self.flow = match self.is_closing {
                        true => Flow::Discarding,
                        false => Flow::Done,
                    };
                }
                Flow::Discarding => {
                    let read = ready!(self.poll_read(cx, from));
                    self.let_go();
                    if matches!(read, Ok(0) | Err(_)) {
                        self.flow = Flow::Done;
                    }
                }
                Flow::Done => return Poll::Ready(Ok(())),
            }
        }
        self.has_more = true;
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Whether the sender's last frame is one that closes.
    pub(super) fn are_closed(&self) -> bool {
        self.frames.as_ref().is_some_and(Frames::are_closed)
    }

    fn to_a_boundary(&self) -> u64 {
        self.frames.as_ref().map_or(0, Frames::to_a_boundary)
    }

    /// Reads once; 0 is the end.
    fn poll_read<R: AsyncRead + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut R,
    ) -> Poll<io::Result<usize>> {
        let most = match self.is_closing && self.flow == Flow::Open {
            true => usize::try_from(self.to_a_boundary()).map_or(SIZE, |left| left.min(SIZE)),
            false => SIZE,
        };
        let mut buffer = take_buffer();
        let mut space = ReadBuf::new(&mut buffer[..most]);
        let polled = Pin::new(from).poll_read(cx, &mut space);
        let count = space.filled().len();
        if !matches!(polled, Poll::Ready(Ok(()))) || count == 0 {
            give_buffer(buffer);
            return polled.map_ok(|()| 0);
        }
        if let Some(frames) = &mut self.frames {
            frames.follow(&buffer[..count]);
        }
        self.held = Some(Held {
            buffer,
            from: 0,
            to: count,
        });
        Poll::Ready(Ok(count))
    }

    /// Writes all that was read.
    fn poll_write<W: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        to: &mut W,
    ) -> Poll<io::Result<()>> {
        while !self.early.is_empty() {
            let count = ready!(Pin::new(&mut *to).poll_write(cx, &self.early))?;
            self.early.advance(count);
            self.note_written(count)?;
            if self.early.is_empty() {
                // It would hold the buffer that it is a slice of.
                self.early = Bytes::new();
            }
        }
        while let Some(held) = &mut self.held {
            let count =
                ready!(Pin::new(&mut *to).poll_write(cx, &held.buffer[held.from..held.to]))?;
            held.from += count;
            let is_all = held.from == held.to;
            self.note_written(count)?;
            if is_all {
                self.let_go();
            }
        }
        Poll::Ready(Ok(()))
    }

    fn note_written(&mut self, count: usize) -> io::Result<()> {
        self.written += count as u64;
        self.is_flushed = false;
        match count {
            0 => Err(io::ErrorKind::WriteZero.into()),
            _ => Ok(()),
        }
    }

    fn let_go(&mut self) {
        if let Some(held) = self.held.take() {
            give_buffer(held.buffer);
        }
    }

    /// Writes what TLS holds back.
    fn poll_flush<W: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        to: &mut W,
    ) -> Poll<io::Result<()>> {
        if !self.is_flushed {
            ready!(Pin::new(to).poll_flush(cx))?;
            self.is_flushed = true;
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use bytes::BytesMut;

    use super::*;

    /// A sender that never pauses.
    struct Flood {
        reads: usize,
    }

    impl AsyncRead for Flood {
        fn poll_read(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            buffer: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            self.reads += 1;
            // An end, so that a direction without a bound fails.
            if self.reads < 10_000 {
                buffer.put_slice(b"flood");
            }
            Poll::Ready(Ok(()))
        }
    }

    #[test]
    fn a_sender_that_never_pauses_lets_others_go_first() {
        for is_closing in [false, true] {
            let (mut flood, mut sink) = (Flood { reads: 0 }, Vec::new());
            let mut pipe = Pipe::new(false);
            if is_closing {
                pipe.close();
            }
            let mut cx = Context::from_waker(Waker::noop());
            for poll in 1..4 {
                assert!(pipe.poll(&mut cx, &mut flood, &mut sink, None).is_pending());
                assert!(pipe.is_held_up() && flood.reads <= poll * ROUNDS);
            }
        }
    }

    /// A sender whose connection ends as TLS does that was not ended.
    struct Cut<'b>(&'b [u8]);

    impl AsyncRead for Cut<'_> {
        fn poll_read(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            buffer: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            if self.0.is_empty() {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
            buffer.put_slice(std::mem::take(&mut self.0));
            Poll::Ready(Ok(()))
        }
    }

    #[test]
    fn a_cut_is_an_end_behind_a_whole_frame_that_closes_and_nowhere_else() {
        let broken = Poll::Ready(Err(Broken::Sender));
        for (bytes, expected) in [
            (&[0x88, 2, 3, 0xe8][..], Poll::Ready(Ok(()))),
            (&[0x88, 2, 3], broken),
            (&[0x82, 1, 7], broken),
            (&[0x88, 0, 0x82], broken),
        ] {
            let (mut cut, mut sink) = (Cut(bytes), Vec::new());
            let mut pipe = Pipe::new(true);
            let mut cx = Context::from_waker(Waker::noop());
            let polled = pipe.poll(&mut cx, &mut cut, &mut sink, None);
            assert_eq!((polled, &sink[..]), (expected, bytes));
        }
    }

    #[test]
    fn early_bytes_of_which_there_are_none_hold_no_head() {
        let mut read = BytesMut::from(&[b'a'; 60 * 1024][..]);
        let head = read.split_to(read.len()).freeze();
        let early = read.split().freeze();
        drop(read);
        assert!(early.is_empty() && !head.is_unique());
        let mut pipe = Pipe::new(false);
        pipe.begin(early);
        assert!(head.is_unique());
    }
}
