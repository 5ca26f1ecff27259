//! The `callboard` binary: parses the command line and hands over to `cli`.

use callboard::cli::Cli;
use clap::Parser;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    Cli::parse().run().await
}
