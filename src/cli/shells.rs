//! `callboard completions` and `callboard man`: what shells and `man` know of the command line.

use std::{
    io::{Write as _, stdout},
    process::ExitCode,
};

use anyhow::{Context, bail};
use clap::{Args, Command};
use clap_complete::Shell;

#[derive(Args)]
pub(super) struct Completions {
    /// The shell
    #[arg(value_name = "SHELL", value_enum)]
    shell: Shell,
}

#[derive(Args)]
pub(super) struct Man {
    /// The command whose page is printed [default: that of `callboard` itself]
    #[arg(value_name = "COMMAND")]
    command: Option<String>,
}

pub(super) fn completions(completions: &Completions, cli: Command) -> anyhow::Result<ExitCode> {
    let mut text = Vec::new();
    clap_complete::generate(completions.shell, &mut shown(cli), "callboard", &mut text);
    say(&text)
}

pub(super) fn man(man: &Man, cli: Command) -> anyhow::Result<ExitCode> {
    let mut cli = shown(cli);
    // Has each command know what it is called by.
    cli.build();
    let page = match &man.command {
        None => cli,
        Some(name) => match cli.find_subcommand(name) {
            Some(command) => command.clone(),
            None => bail!("there is no command `{name}`"),
        },
    };
    let mut text = Vec::new();
    clap_mangen::Man::new(page).render(&mut text)?;
    say(&text)
}

/// Without the commands that are hidden.
fn shown(cli: Command) -> Command {
    let hidden = cli.get_subcommands().filter(|one| one.is_hide_set());
    let hidden: Vec<_> = hidden.map(|one| one.get_name().to_owned()).collect();
    let shown = cli.get_subcommands().filter(|one| !one.is_hide_set());
    let shown: Vec<_> = shown.cloned().collect();
    if hidden.is_empty() {
        return cli;
    }
    let arguments: Vec<_> = cli.get_arguments().cloned().collect();
    let about = cli.get_about().cloned().unwrap_or_default();
    Command::new("callboard")
        .version(env!("CARGO_PKG_VERSION"))
        .about(about)
        .args(arguments)
        .subcommands(shown)
}

fn say(text: &[u8]) -> anyhow::Result<ExitCode> {
    stdout()
        .write_all(text)
        .context("cannot write the result")?;
    Ok(ExitCode::SUCCESS)
}
