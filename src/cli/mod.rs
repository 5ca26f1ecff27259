//! What can be typed after `callboard`. Each command has its own module; this one only parses.

pub mod demo;

use clap::{Parser, Subcommand};

/// The command line.
#[derive(Debug, Parser)]
#[command(version, about)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show it all on this machine: proxy, registry, five providers and a steady load
    Demo(demo::Args),
    /// One of the demo's providers
    #[command(hide = true)]
    Provider(demo::provider::Args),
}

impl Cli {
    /// Does what was asked for.
    ///
    /// # Errors
    /// What a person should read before the process ends with status 1.
    pub async fn run(self) -> anyhow::Result<()> {
        match self.command {
            Command::Demo(args) => demo::run(args).await,
            Command::Provider(args) => demo::provider::run(args).await,
        }
    }
}
