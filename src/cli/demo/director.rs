//! What happens next: a person's keys, or a script. Owns the terminal's raw mode.

use std::{io, panic, time::Duration};

use anyhow::Context;
use crossterm::{
    event::{self, Event, KeyCode, KeyEventKind, KeyModifiers},
    terminal::{disable_raw_mode, enable_raw_mode},
};

/// Something to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Add,
    Drain,
    Kill,
    /// Kills the registry, or starts it again.
    Registry,
    Quit,
}

/// Who says what happens.
pub(super) enum Director {
    Keys(RawMode),
    Script(Script),
}

impl Director {
    /// A person at the terminal, which is in raw mode from now on.
    pub(super) fn keys() -> anyhow::Result<Self> {
        Ok(Self::Keys(RawMode::enter()?))
    }

    /// Each step, spread over the time.
    pub(super) fn script(lasting: Duration) -> Self {
        Self::Script(Script::new(lasting))
    }

    /// Whether a person watches.
    pub(super) fn attended(&self) -> bool {
        matches!(self, Self::Keys(_))
    }

    /// What is due now, if anything. Does not wait.
    pub(super) fn next(&mut self, elapsed: Duration) -> io::Result<Option<Step>> {
        match self {
            Self::Keys(_) => pressed(),
            Self::Script(script) => Ok(script.next(elapsed)),
        }
    }

    /// Gives the terminal back.
    pub(super) fn end(self) {}
}

fn pressed() -> io::Result<Option<Step>> {
    while event::poll(Duration::ZERO)? {
        let Event::Key(key) = event::read()? else {
            continue;
        };
        if key.kind != KeyEventKind::Press {
            continue;
        }
        let control = key.modifiers.contains(KeyModifiers::CONTROL);
        let step = match key.code {
            KeyCode::Char('c' | 'd') if control => Step::Quit,
            KeyCode::Char('a') => Step::Add,
            KeyCode::Char('d') => Step::Drain,
            KeyCode::Char('k') => Step::Kill,
            KeyCode::Char('r') => Step::Registry,
            KeyCode::Char('q') => Step::Quit,
            _ => continue,
        };
        return Ok(Some(step));
    }
    Ok(None)
}

/// Steps, each with its time, the last one first.
pub(super) struct Script(Vec<(Duration, Step)>);

impl Script {
    fn new(lasting: Duration) -> Self {
        let part = lasting / 6;
        let steps = [
            Step::Quit,
            Step::Kill,
            Step::Drain,
            Step::Registry,
            Step::Registry,
            Step::Add,
        ];
        Self((1..=6).rev().map(|n| part * n).zip(steps).collect())
    }

    fn next(&mut self, elapsed: Duration) -> Option<Step> {
        self.0
            .pop_if(|(due, _)| *due <= elapsed)
            .map(|(_, step)| step)
    }
}

/// Keys come as they are pressed and are not echoed, until this is dropped or something panics.
pub(super) struct RawMode(());

impl RawMode {
    fn enter() -> anyhow::Result<Self> {
        // The hook runs before anything is dropped: without it the message would be a staircase.
        let told = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            let _ = disable_raw_mode();
            told(info);
        }));
        enable_raw_mode().context("cannot read single keys from the terminal")?;
        Ok(Self(()))
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        // The demo is over: an error has no reader left.
        let _ = disable_raw_mode();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_script_takes_each_step_when_it_is_due() {
        let mut script = Script::new(Duration::from_secs(12));
        let mut at = |second| script.next(Duration::from_secs(second));
        assert_eq!(at(1), None);
        assert_eq!(at(2), Some(Step::Add));
        assert_eq!(at(2), None);
        assert_eq!(at(5), Some(Step::Registry));
        assert_eq!(at(6), Some(Step::Registry));
        assert_eq!(at(9), Some(Step::Drain));
        assert_eq!(at(13), Some(Step::Kill));
        assert_eq!(at(13), Some(Step::Quit));
        assert_eq!(at(99), None);
    }
}
