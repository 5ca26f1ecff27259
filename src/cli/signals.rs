//! Signals: which ask a process to end, and which never do.

use std::{future::poll_fn, io, task::Poll};

use anyhow::Context;
use nix::sys::signal::Signal;
use tokio::signal::unix::{self, SignalKind};

/// Those that ask a process to end.
pub(super) const ENDING: [Signal; 3] = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGQUIT];

/// Those that ask for something else. By default they end a process: a terminal that is closed
/// sends the first, and tools that rotate logs or ask for a reload send any of them.
pub(super) const OTHERS: [Signal; 3] = [Signal::SIGHUP, Signal::SIGUSR1, Signal::SIGUSR2];

/// Signals that no longer do what they do by default.
pub(super) struct Signals(Vec<(Signal, unix::Signal)>);

impl Signals {
    /// Takes all of them from now on; needs a runtime.
    pub(super) fn take() -> anyhow::Result<Self> {
        let take = |signal| {
            let taken = unix::signal(SignalKind::from_raw(signal as i32))?;
            Ok((signal, taken))
        };
        let taken: io::Result<_> = ENDING.into_iter().chain(OTHERS).map(take).collect();
        taken.map(Self).context("cannot listen for signals")
    }

    /// Waits for any of them. Cancel-safe.
    pub(super) async fn next(&mut self) -> Signal {
        poll_fn(|context| {
            let came = |(signal, taken): &mut (Signal, unix::Signal)| {
                taken.poll_recv(context).is_ready().then_some(*signal)
            };
            self.0
                .iter_mut()
                .find_map(came)
                .map_or(Poll::Pending, Poll::Ready)
        })
        .await
    }

    /// Waits for one that asks to end; the others do nothing. Cancel-safe.
    pub(super) async fn until_end(&mut self) -> Signal {
        loop {
            let signal = self.until_end_or(&[]).await;
            if ENDING.contains(&signal) {
                return signal;
            }
        }
    }

    /// The same, or for one of these. Cancel-safe.
    pub(super) async fn until_end_or(&mut self, others: &[Signal]) -> Signal {
        loop {
            let signal = self.next().await;
            if ENDING.contains(&signal) || others.contains(&signal) {
                return signal;
            }
            ignore(signal);
        }
    }
}

/// Says that a signal was seen, and that is all.
pub(super) fn ignore(signal: Signal) {
    tracing::info!("{signal} came, which does nothing here");
}
