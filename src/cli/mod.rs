//! The command line: what may be typed, and the exit status. Each command is a file of its own.

mod admin_server;
mod check;
mod config;
mod config_file;
mod demo;
mod descriptors;
mod drain;
mod duration;
mod explain;
mod health;
mod init;
mod live;
mod log_level;
mod logging;
mod output;
#[cfg(test)]
mod page;
mod plain;
mod register;
mod registry;
mod reload;
mod run;
#[cfg(test)]
mod schema;
mod services;
mod share;
mod shells;
mod signals;
mod status;
mod table;
mod upgrade;
mod weight;

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};

use config_file::{Run, Start};

/// A load-balancing reverse proxy that finds its backends in a registry
#[derive(Parser)]
#[command(version, args_conflicts_with_subcommands = true)]
struct Cli {
    /// What to do; `run` where nothing is said.
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    start: Start,
}

#[derive(Subcommand)]
enum Command {
    /// Serve until a signal comes (also what `callboard` alone does)
    Run(Run),
    /// Write a proxy.toml to begin with
    Init(init::Init),
    /// Say all that is wrong with a configuration file, and start nothing
    Check(check::Check),
    /// Print what a configuration may say: every key, or the schema that editors use
    Config(config::Config),
    /// Say what becomes of a request: its route, its endpoints and its retries
    Explain(explain::Explain),
    /// Ask whether a proxy on this machine is alive: the status says so
    Health(health::Health),
    /// Have a proxy on this machine read its configuration file again
    Reload(reload::Reload),
    /// Have the new binary take the place of a proxy that runs on this machine
    Upgrade(upgrade::Upgrade),
    /// Show how a running proxy stands, on one screen
    Status(status::Status),
    /// Show a running proxy's services, or the endpoints of one
    Services(services::Services),
    /// Show what has changed of a service's endpoints
    Journal(services::Journal),
    /// Hold a service to a set of endpoints, whatever its registries say
    Pin(services::Pin),
    /// Have a service that is pinned follow its registries again
    Unpin(services::Unpin),
    /// Keep requests from an endpoint while it is worked on
    Drain(drain::Drain),
    /// Have an endpoint that is drained get requests again
    Undrain(drain::Undrain),
    /// Have the shares of a route of a running proxy be others for a while
    Share(share::Share),
    /// Have an endpoint of a running proxy be picked by another weight for a while
    Weight(weight::Weight),
    /// Show the level of a running proxy's log, or have it be another one for a while
    LogLevel(log_level::LogLevel),
    /// Keep a provider registered, and run the command that is the provider
    Register(Box<register::Register>),
    /// Print what a shell completes commands by
    Completions(shells::Completions),
    /// Print a page of the manual
    Man(shells::Man),
    /// Show it all on this machine: the proxy, a registry, five providers and a steady load
    Demo(demo::Demo),
    /// One of the demo's providers
    #[command(hide = true)]
    Provider(demo::Provider),
    /// The demo's registry
    #[command(hide = true)]
    Registry(demo::Registry),
}

/// Does what the command line says. The status is 0 where all went well, 1 where it did not, and
/// 2 where the command line is wrong; that of a command which `register` ran is the command's own.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = match cli.command.unwrap_or(Command::Run(cli.start.into())) {
        Command::Run(run) => run::run(run),
        Command::Init(init) => init::init(&init),
        Command::Check(check) => check::check(&check),
        Command::Config(config) => config::config(&config),
        Command::Explain(explain) => explain::explain(&explain),
        Command::Health(health) => health::health(&health),
        Command::Reload(reload) => reload::reload(&reload),
        Command::Upgrade(upgrade) => upgrade::upgrade(&upgrade),
        Command::Status(status) => status::status(&status),
        Command::Services(services) => services::services(&services),
        Command::Journal(journal) => services::journal(&journal),
        Command::Pin(pin) => services::pin(&pin),
        Command::Unpin(unpin) => services::unpin(&unpin),
        Command::Drain(drain) => drain::drain(&drain),
        Command::Undrain(undrain) => drain::undrain(&undrain),
        Command::Share(share) => share::share(&share),
        Command::Weight(weight) => weight::weight(&weight),
        Command::LogLevel(log) => log_level::log_level(&log),
        Command::Register(register) => register::register(*register),
        Command::Completions(completions) => shells::completions(&completions, Cli::command()),
        Command::Man(man) => shells::man(&man, Cli::command()),
        Command::Demo(demo) => demo::demo(demo),
        Command::Provider(provider) => demo::provide(provider),
        Command::Registry(registry) => demo::keep_registry(registry),
    };
    done.unwrap_or_else(|error| {
        eprintln!("error: {}", plain::Plain(format!("{error:#}")));
        ExitCode::FAILURE
    })
}
