//! The command that is the provider: its process, the signals that are meant for it, and the exit
//! status that is ours then. Knows nothing of registries.

use std::{
    ffi::OsString,
    os::unix::process::ExitStatusExt,
    process::{ExitCode, ExitStatus},
};

use anyhow::Context;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::process::Child;

use crate::cli::signals::{ENDING, Signals};

/// A command that runs.
pub(super) struct Command {
    name: String,
    child: Child,
    signals: Signals,
}

/// What may happen to it.
pub(super) enum Event {
    /// It has ended.
    Ended(ExitStatus),
    /// It is to end: we were sent this signal, and it was not.
    Told(Signal),
}

impl Command {
    /// Starts it, with its port in the environment. It is in a process group of its own, so that
    /// Ctrl-C reaches us alone, and has our standard input and output.
    pub(super) fn start(words: &[OsString], port: u16) -> anyhow::Result<Self> {
        let signals = Signals::take()?;
        let (program, arguments) = words.split_first().expect("a command has a first word");
        let name = program.display().to_string();
        let text = port.to_string();
        let child = tokio::process::Command::new(program)
            .args(arguments)
            .envs([("PORT", &text), ("CALLBOARD_PORT", &text)])
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start `{name}`"))?;
        let pid = child.id().unwrap_or_default();
        tracing::info!(pid, port, "started `{name}`");
        Ok(Self {
            name,
            child,
            signals,
        })
    }

    /// Waits for what happens next. Signals that do not ask it to end are passed on meanwhile.
    /// Cancel-safe.
    pub(super) async fn next(&mut self) -> anyhow::Result<Event> {
        loop {
            let signal = tokio::select! {
                status = self.child.wait() => {
                    let status = status.with_context(|| format!("`{}` is lost", self.name))?;
                    tracing::info!("`{}` ended: {status}", self.name);
                    return Ok(Event::Ended(status));
                }
                signal = self.signals.next() => signal,
            };
            if ENDING.contains(&signal) {
                return Ok(Event::Told(signal));
            }
            self.send(signal);
        }
    }

    /// Waits for its end, with all signals passed on to it.
    pub(super) async fn end(&mut self) -> anyhow::Result<ExitStatus> {
        loop {
            match self.next().await? {
                Event::Ended(status) => return Ok(status),
                Event::Told(signal) => self.send(signal),
            }
        }
    }

    /// Sends it a signal; one that has ended gets none.
    pub(super) fn send(&self, signal: Signal) {
        let Some(pid) = self.child.id() else { return };
        match kill(Pid::from_raw(pid.cast_signed()), signal) {
            Ok(()) => tracing::info!("{signal} went to `{}`", self.name),
            Err(error) => tracing::warn!(%error, "{signal} did not reach `{}`", self.name),
        }
    }
}

/// The status with which we end where the command ended so: its own, and for one that was killed
/// what a shell makes of it.
pub(super) fn exit_code(status: ExitStatus) -> ExitCode {
    let killed = || 128 + status.signal().unwrap_or_default();
    let code = status.code().unwrap_or_else(killed);
    ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX))
}
