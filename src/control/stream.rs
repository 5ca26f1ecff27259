//! A client's socket, and what was heard of the client: whether a connection that is to end for want
//! of a request has one after all. Knows nothing of why it is to end.

use std::{
    io::{self, Read as _},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll},
};

use socket2::SockRef;
use tokio::{
    io::{AsyncRead, ReadBuf},
    net::TcpStream,
};

use crate::io::writes_by;

/// What was heard of a client.
#[derive(Debug, Default)]
pub(super) struct Heard {
    /// It has sent a request.
    has_asked: AtomicBool,
    /// Its request is being answered.
    is_answered: AtomicBool,
    /// Something came that is no request yet.
    amid_a_head: AtomicBool,
    /// The next read asks the kernel, and not the runtime, which may not have heard of what came last.
    looks: AtomicBool,
    /// The next answer is the last.
    ends: AtomicBool,
}

impl Heard {
    pub(super) fn a_head(&self) {
        self.has_asked.store(true, Relaxed);
        self.is_answered.store(true, Relaxed);
        self.amid_a_head.store(false, Relaxed);
    }

    /// The answer is at its end.
    pub(super) fn the_end(&self) {
        self.is_answered.store(false, Relaxed);
    }

    /// What comes while a request is answered is its body.
    fn something(&self) {
        if !self.is_answered.load(Relaxed) {
            self.amid_a_head.store(true, Relaxed);
        }
    }

    /// The connection is to end, once a request that has come is answered.
    pub(super) fn end(&self) {
        self.ends.store(true, Relaxed);
        self.looks.store(true, Relaxed);
    }

    pub(super) fn is_ending(&self) -> bool {
        self.ends.load(Relaxed)
    }

    pub(super) fn has_asked(&self) -> bool {
        self.has_asked.load(Relaxed)
    }

    pub(super) fn is_amid_a_head(&self) -> bool {
        self.amid_a_head.load(Relaxed)
    }
}

/// A client's socket.
pub(super) struct ClientStream {
    stream: TcpStream,
    heard: Arc<Heard>,
}

impl ClientStream {
    pub(super) fn new(stream: TcpStream, heard: Arc<Heard>) -> Self {
        Self { stream, heard }
    }

    /// What lies in the socket, whatever the runtime knows of it.
    fn look(&self, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match (&*SockRef::from(&self.stream)).read(buffer.initialize_unfilled()) {
            Ok(count) => {
                buffer.advance(count);
                Poll::Ready(Ok(()))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Poll::Pending,
            Err(error) => Poll::Ready(Err(error)),
        }
    }
}

impl AsyncRead for ClientStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let looked = if self.heard.looks.swap(false, Relaxed) {
            self.look(buffer)
        } else {
            Poll::Pending
        };
        let read = match looked {
            Poll::Ready(read) => Poll::Ready(read),
            Poll::Pending => Pin::new(&mut self.stream).poll_read(cx, buffer),
        };
        if buffer.filled().len() > before {
            self.heard.something();
        }
        read
    }
}

writes_by!(ClientStream: stream of Self { stream, .. });
