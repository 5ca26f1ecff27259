//! What a command writes to stdout, and as what. Knows nothing of what it says.

use std::{
    io::{Write as _, stdout},
    process::ExitCode,
};

use anyhow::Context as _;
use clap::ValueEnum;

/// For people, or for programs.
#[derive(Clone, Copy, ValueEnum)]
pub(super) enum Format {
    Text,
    Json,
}

/// Writes to stdout. Unlike `print!`, a reader that went away is an error, no panic.
pub(super) fn say(text: &str) -> anyhow::Result<ExitCode> {
    write!(stdout(), "{text}").context("cannot write the result")?;
    Ok(ExitCode::SUCCESS)
}
