//! A stream that has gone over to another protocol (RFC 8441): its data are the bytes of a tunnel, which its end
//! ends, and a reset breaks.

use std::{
    future::{Future, poll_fn},
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::timeout,
};

use super::{
    super::stop::{Orders, Stop},
    streams::Stream,
};
use crate::proxy::{Parting, Tunnel, TunnelClient};

/// How long a client may take to read what the endpoint of its tunnel said last.
const LEAVE: Duration = Duration::from_secs(10);

/// What the library has a stream's data sent by. It ends with the last of them, or where the client has reset the
/// stream.
pub(super) type Sender = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Serves the tunnel of a stream whose answer is written, to its end.
pub(super) async fn serve(
    stream: &Stream,
    upgraded: OnUpgrade,
    sender: Sender,
    tunnel: Box<Tunnel>,
) {
    let Ok(upgraded) = upgraded.await else {
        return;
    };
    let mut client = StreamBytes {
        bytes: TokioIo::new(upgraded),
        sender: Some(sender),
        is_shut: false,
    };
    stream.goes_over(tunnel.watch());
    let mut orders = Orders::to(&stream.signal);
    let is_told = |cx: &mut Context<'_>| orders.last(cx.waker()) == Stop::Cut;
    match tunnel.run(&mut client, Bytes::new(), is_told).await {
        Parting::Leave => {
            let mut orders = Orders::to(&stream.signal);
            let shut = poll_fn(|cx| match orders.last(cx.waker()) {
                Stop::Cut => Poll::Ready(Ok(())),
                Stop::Serve | Stop::Finish => Pin::new(&mut client).poll_shutdown(cx),
            });
            // One that does not take it is reset.
            let _ = timeout(LEAVE, shut).await;
        }
        // A stream that is let go of before both its ends is reset, and what the library has not written of it is
        // lost.
        Parting::Close | Parting::Reset => {}
    }
}

/// The bytes of a stream. What sends them is driven here, and not by a task of its own: its end tells at once that
/// the client is gone.
struct StreamBytes {
    bytes: TokioIo<Upgraded>,
    /// `None` when it has ended.
    sender: Option<Sender>,
    /// Nothing more is written.
    is_shut: bool,
}

impl StreamBytes {
    fn drive(&mut self, cx: &mut Context<'_>) {
        if let Some(sender) = &mut self.sender
            && sender.as_mut().poll(cx).is_ready()
        {
            self.sender = None;
        }
    }
}

impl TunnelClient for StreamBytes {
    fn is_gone(&mut self, cx: &mut Context<'_>) -> bool {
        self.drive(cx);
        self.sender.is_none() && !self.is_shut
    }
}

impl AsyncRead for StreamBytes {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.bytes).poll_read(cx, buffer))?;
        // The library may have taken a reset for an end.
        if buffer.filled().len() == before && self.is_gone(cx) {
            return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for StreamBytes {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.bytes).poll_write(cx, bytes);
        self.drive(cx);
        polled
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.bytes).poll_flush(cx);
        self.drive(cx);
        polled
    }

    /// Ready when the stream's end is where the library writes it from.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.is_shut = true;
        let polled = Pin::new(&mut self.bytes).poll_shutdown(cx);
        self.drive(cx);
        match &self.sender {
            None => Poll::Ready(Ok(())),
            Some(_) => polled,
        }
    }
}
