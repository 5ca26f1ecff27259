//! The end of a connection to a client that may be sending still. To close a socket in which unread
//! bytes lie, or still arrive, is a reset, and a reset takes the answer from a client that has not read
//! it yet. So the sending side is shut first, which tells the client that no more comes, and what it
//! sends is read and thrown away for a while (RFC 9112 9.6).

use std::{
    future::{Future as _, poll_fn},
    mem::MaybeUninit,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead as _, ReadBuf},
    net::TcpStream,
    time::{Instant, Sleep, sleep},
};

use super::stop::{Orders, Stop, StopSignal};

/// A client that sends nothing for so long has been told.
const SILENCE: Duration = Duration::from_secs(2);
/// Such times that a client which sends on is waited for.
const LONGEST: u32 = 5;

/// Ends a connection whose sending side is shut, and on which more may come.
pub(super) async fn leave(signal: &StopSignal, stream: &mut TcpStream, may_come: bool) {
    let mut leave = Leave::new(may_come);
    let mut orders = Orders::to(signal);
    poll_fn(|cx| match orders.last(cx.waker()) {
        Stop::Cut => Poll::Ready(()),
        Stop::Serve | Stop::Finish => leave.poll(cx, stream),
    })
    .await;
}

/// Waiting for a client's end of a connection whose sending side is shut.
pub(super) struct Leave {
    /// Whether the client is expected to send more. Else it is looked for once.
    may_come: bool,
    /// Whether anything came since the timer was set.
    came: bool,
    times: u32,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Leave {
    pub(super) fn new(may_come: bool) -> Self {
        Self {
            may_come,
            came: false,
            times: 0,
            timer: None,
        }
    }

    /// For one silence at the most: of a client that is to be rid of.
    pub(super) fn briefly() -> Self {
        Self {
            times: LONGEST - 1,
            ..Self::new(true)
        }
    }

    /// Ready when the socket may be closed.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, stream: &mut TcpStream) -> Poll<()> {
        let mut space = [MaybeUninit::uninit(); 8192];
        loop {
            let mut buffer = ReadBuf::uninit(&mut space);
            match Pin::new(&mut *stream).poll_read(cx, &mut buffer) {
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {
                    self.came = true;
                    self.may_come = true;
                }
                // It has closed its side, too; or is gone.
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending if self.may_come => break,
                Poll::Pending => return Poll::Ready(()),
            }
        }
        loop {
            let timer = self.timer.get_or_insert_with(|| Box::pin(sleep(SILENCE)));
            ready!(timer.as_mut().poll(cx));
            self.times += 1;
            if self.times == LONGEST || !std::mem::take(&mut self.came) {
                return Poll::Ready(());
            }
            timer.as_mut().reset(Instant::now() + SILENCE);
        }
    }
}
