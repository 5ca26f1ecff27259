//! `callboard config`: what a configuration may say, for people and for editors.

use std::process::ExitCode;

use clap::Args;

use super::output::say;

/// The file that comes with Callboard, which shows every key.
const DEFAULTS: &str = include_str!("../../proxy.toml");

/// Made of the page of keys, and compared with it by a test.
pub(super) const SCHEMA: &str = include_str!("proxy.schema.json");

#[derive(Args)]
pub(super) struct Config {
    #[command(flatten)]
    what: What,
}

#[derive(Args)]
#[group(required = true, multiple = false)]
struct What {
    /// Print a proxy.toml that shows every key, with its default or an example
    #[arg(long)]
    defaults: bool,
    /// Print the JSON schema of proxy.toml, which editors complete and check it by
    #[arg(long)]
    schema: bool,
}

pub(super) fn config(config: &Config) -> anyhow::Result<ExitCode> {
    say(match config.what.schema {
        true => SCHEMA,
        false => DEFAULTS,
    })
}
