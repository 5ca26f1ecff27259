//! A connection whose frames are followed: its bytes go out in pieces, other frames come between those of the
//! library, and it ends in the middle.

use std::{
    io,
    pin::Pin,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use fastrand::Rng;
use futures_util::task::AtomicWaker;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Sleep, sleep},
};

use super::{super::endpoint::Socket, one_in};
use crate::support::frames::{
    CONTINUATION, END_HEADERS, GOAWAY, HEADERS, PING, PREFACE, PRIORITY, RST_STREAM, frame,
};

/// Where a side ends its connection, in bytes of one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) struct Cut {
    at: usize,
    /// Of what it reads, and not of what it writes.
    of_read: bool,
    is_reset: bool,
}

impl Cut {
    pub(in super::super) fn draw(dice: &mut Rng) -> Self {
        // Most of a small conversation is in its first bytes.
        let below = [100, 1_000, 1_000, 20_000][dice.usize(..4)];
        Self {
            at: dice.usize(..below),
            of_read: one_in(dice, 3),
            is_reset: dice.bool(),
        }
    }
}

/// How a side handles its connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in super::super) struct Manners {
    pub(in super::super) cut: Option<Cut>,
    /// Bytes that it writes at once.
    pub(in super::super) most: usize,
    /// It waits between pieces now and then.
    pub(in super::super) rests: bool,
    /// It reads in sips.
    pub(in super::super) sips: bool,
    /// Frames that ask for nothing come between the others.
    pub(in super::super) chats: bool,
    /// A client says behind its last request that it leaves.
    pub(in super::super) goes_away: bool,
    pub(in super::super) seed: u64,
}

/// What is known of a connection outside of it.
#[derive(Default)]
pub(super) struct Notes {
    cut: AtomicBool,
    /// It ends now, by a reset or not.
    ends: Mutex<Option<bool>>,
    inserted: Mutex<Vec<u8>>,
    waker: AtomicWaker,
}

impl Notes {
    /// Whether this side has ended it in the middle.
    pub(super) fn is_cut(&self) -> bool {
        self.cut.load(Relaxed)
    }

    /// Has it end at once, in the middle of whatever there is.
    pub(super) fn end(&self, is_reset: bool) {
        *self.ends.lock().unwrap() = Some(is_reset);
        self.waker.wake();
    }

    /// Has these frames go out before those that the library has not begun to write.
    pub(super) fn insert(&self, frames: &[u8]) {
        self.inserted.lock().unwrap().extend_from_slice(frames);
        self.waker.wake();
    }
}

/// What is seen of an endpoint's frames, by their streams, that its library does not tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// It resets one, be it of a request that it has not taken.
    Reset(u32),
    Trailers(u32),
}

/// An endpoint's side, of which something is seen.
struct Watch {
    inward: Walk,
    /// The last stream that has begun.
    last: u32,
    seen: Box<dyn Fn(Seen) + Send>,
}

impl Watch {
    fn follow_read(&mut self, bytes: &[u8]) {
        let (last, seen) = (&mut self.last, &self.seen);
        self.inward.follow(bytes, |head| {
            if head.kind == HEADERS && head.stream > *last {
                *last = head.stream;
            } else if head.kind == HEADERS {
                seen(Seen::Trailers(head.stream));
            }
        });
    }

    fn note_written(&self, head: &Head) {
        if head.kind == RST_STREAM {
            (self.seen)(Seen::Reset(head.stream));
        }
    }
}

/// Where in the frames of one direction the next byte stands.
#[derive(Default)]
struct Walk {
    /// Bytes of the preface that are still to come.
    preface: usize,
    header: Vec<u8>,
    left: usize,
    /// A head has begun that goes on in another frame.
    is_amid_head: bool,
    frames: usize,
}

/// The frame that has just ended.
struct Head {
    kind: u8,
    stream: u32,
}

impl Walk {
    fn is_between_frames(&self) -> bool {
        let is_between = self.preface == 0 && self.header.is_empty() && self.left == 0;
        is_between && !self.is_amid_head && self.frames > 0
    }

    /// How many of these bytes there are up to the end of this frame.
    fn room(&self, bytes: &[u8]) -> usize {
        if self.preface > 0 {
            return self.preface.min(bytes.len());
        }
        let mut header = self.header.clone();
        let rest = bytes.len().min(9_usize.saturating_sub(header.len()));
        header.extend_from_slice(&bytes[..rest]);
        match header.len() {
            9 if self.header.len() < 9 => (rest + length(&header)).min(bytes.len()),
            9 => self.left.min(bytes.len()),
            _ => rest,
        }
    }

    /// Passes over bytes, none of which are of the next frame.
    fn pass(&mut self, bytes: &[u8]) -> Option<Head> {
        if self.preface > 0 {
            self.preface -= bytes.len();
            return None;
        }
        let rest = bytes.len().min(9 - self.header.len());
        if rest > 0 {
            self.header.extend_from_slice(&bytes[..rest]);
            if self.header.len() < 9 {
                return None;
            }
            self.left = length(&self.header);
        }
        self.left -= bytes.len() - rest;
        if self.left > 0 {
            return None;
        }
        let stream = u32::from_be_bytes(self.header[5..9].try_into().unwrap());
        let (kind, flags) = (self.header[3], self.header[4]);
        self.header.clear();
        self.frames += 1;
        if matches!(kind, HEADERS | CONTINUATION) {
            self.is_amid_head = flags & END_HEADERS == 0;
        }
        Some(Head { kind, stream })
    }

    /// Passes over any bytes.
    fn follow(&mut self, mut bytes: &[u8], mut ended: impl FnMut(&Head)) {
        while !bytes.is_empty() {
            let (now, rest) = bytes.split_at(self.room(bytes));
            bytes = rest;
            if let Some(head) = self.pass(now) {
                ended(&head);
            }
        }
    }
}

fn length(header: &[u8]) -> usize {
    u32::from_be_bytes([0, header[0], header[1], header[2]]) as usize
}

/// A connection that does as it is told.
pub(super) struct Wire<S> {
    socket: S,
    manners: Manners,
    notes: std::sync::Arc<Notes>,
    dice: Rng,
    out: Walk,
    written: usize,
    read: usize,
    /// What goes out before any byte of the library.
    between: Vec<u8>,
    /// The last stream of a client that leaves behind it.
    last: Option<u32>,
    watch: Option<Watch>,
    pause: Option<Pin<Box<Sleep>>>,
}

impl<S: Socket> Wire<S> {
    /// A client's, of which `last` is the last stream.
    pub(super) fn of_client(
        socket: S,
        manners: Manners,
        last: u32,
        notes: std::sync::Arc<Notes>,
    ) -> Self {
        let mut wire = Self::new(socket, manners, notes);
        wire.out.preface = PREFACE.len();
        wire.last = manners.goes_away.then_some(last);
        wire
    }

    /// An endpoint's, which is told what is seen of its frames, before the library acts on it.
    pub(super) fn of_endpoint(
        socket: S,
        manners: Manners,
        notes: std::sync::Arc<Notes>,
        seen: impl Fn(Seen) + Send + 'static,
    ) -> Self {
        let mut wire = Self::new(socket, manners, notes);
        let inward = Walk {
            preface: PREFACE.len(),
            ..Walk::default()
        };
        wire.watch = Some(Watch {
            inward,
            last: 0,
            seen: Box::new(seen),
        });
        wire
    }

    fn new(socket: S, manners: Manners, notes: std::sync::Arc<Notes>) -> Self {
        Self {
            socket,
            manners,
            notes,
            dice: Rng::with_seed(manners.seed),
            out: Walk::default(),
            written: 0,
            read: 0,
            between: Vec::new(),
            last: None,
            watch: None,
            pause: None,
        }
    }

    /// How many bytes more there are of a direction; an error where it is at its end.
    fn left(&mut self, of_read: bool) -> io::Result<usize> {
        let ends = *self.notes.ends.lock().unwrap();
        if let Some(is_reset) = ends {
            if is_reset {
                let _ = self.socket.tcp().set_zero_linger();
            }
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        let Some(cut) = self.manners.cut.filter(|cut| cut.of_read == of_read) else {
            return Ok(usize::MAX);
        };
        let passed = if of_read { self.read } else { self.written };
        let left = cut.at.saturating_sub(passed);
        if left > 0 {
            return Ok(left);
        }
        if cut.is_reset {
            let _ = self.socket.tcp().set_zero_linger();
        }
        self.notes.cut.store(true, Relaxed);
        Err(io::ErrorKind::ConnectionAborted.into())
    }

    fn poll_pause(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(pause) = &mut self.pause {
            ready!(pause.as_mut().poll(cx));
            self.pause = None;
        }
        Poll::Ready(())
    }

    fn pause(&mut self) {
        self.pause = Some(Box::pin(sleep(Duration::from_millis(1))));
    }

    /// Writes what goes between the library's frames.
    fn poll_between(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.between.is_empty() {
            if !self.out.is_between_frames() {
                return Poll::Ready(Ok(()));
            }
            std::mem::swap(&mut self.between, &mut self.notes.inserted.lock().unwrap());
        }
        while !self.between.is_empty() {
            let count = self.between.len().min(self.left(false)?);
            let socket = Pin::new(&mut self.socket);
            let count = ready!(socket.poll_write(cx, &self.between[..count]))?;
            self.written += count;
            self.between.drain(..count);
        }
        Poll::Ready(Ok(()))
    }

    fn note_written(&mut self, bytes: &[u8]) {
        self.written += bytes.len();
        let (last, mut leaves) = (self.last, false);
        let before = self.out.frames;
        let watch = &self.watch;
        self.out.follow(bytes, |head| {
            if let Some(watch) = watch {
                watch.note_written(head);
            }
            leaves |= last == Some(head.stream) && matches!(head.kind, HEADERS | CONTINUATION);
        });
        if !self.out.is_between_frames() || self.out.frames == before {
            return;
        }
        if leaves {
            self.last = None;
            self.between
                .extend(frame(GOAWAY, 0, 0, &0_u64.to_be_bytes()));
        }
        if self.manners.chats && one_in(&mut self.dice, 4) {
            self.between.extend(match self.dice.u8(..3) {
                0 => frame(PING, 0, 0, &[7; 8]),
                1 => frame(PRIORITY, 0, 1, &[0, 0, 0, 0, 16]),
                _ => frame(77, 255, 1, b"of a kind that is not known"),
            });
        }
        if self.manners.rests && one_in(&mut self.dice, 3) {
            self.pause();
        }
    }
}

impl<S: Socket> AsyncWrite for Wire<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        ready!(this.poll_pause(cx));
        ready!(this.poll_between(cx))?;
        let most = this.manners.most.min(this.left(false)?);
        // Up to where another frame may come between.
        let count = this.out.room(bytes).min(most);
        let count = ready!(Pin::new(&mut this.socket).poll_write(cx, &bytes[..count]))?;
        this.note_written(&bytes[..count]);
        Poll::Ready(Ok(count))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_between(cx))?;
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

impl<S: Socket> AsyncRead for Wire<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        this.notes.waker.register(cx.waker());
        // Where it cannot be written now, that is what wakes it.
        if let Poll::Ready(written) = this.poll_between(cx) {
            written?;
        }
        let most = if this.manners.sips { 700 } else { 16 * 1024 };
        let most = most.min(this.left(true)?).min(buffer.remaining());
        let mut piece = [0; 16 * 1024];
        let mut piece = ReadBuf::new(&mut piece[..most]);
        ready!(Pin::new(&mut this.socket).poll_read(cx, &mut piece))?;
        this.read += piece.filled().len();
        if let Some(watch) = &mut this.watch {
            watch.follow_read(piece.filled());
        }
        buffer.put_slice(piece.filled());
        Poll::Ready(Ok(()))
    }
}
