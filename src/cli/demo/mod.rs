//! `callboard demo`: the whole of it on one machine. The proxy, the registry and the admin server
//! run in this process but for the registry, which like the providers is a process of its own, so that a
//! kill is a kill; a small
//! steady load counts what a client would see. Owns the course of the show; knows nothing of how
//! requests are proxied.

mod cast;
mod children;
mod director;
mod load;
mod process;
mod provider;
mod registry;
mod screen;
mod servers;

use std::{
    io::{IsTerminal, stdin, stdout},
    process::ExitCode,
    time::Duration,
};

use anyhow::bail;
use clap::{Args, value_parser};
use nix::sys::signal::Signal;
use tokio::{
    runtime::{Builder, Runtime},
    time::{MissedTickBehavior, interval, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    descriptors, duration,
    signals::{ENDING, Signals},
};

use cast::CAST;
use children::Children;
use director::{Director, Step};
use load::{Client, Load};
use registry::RegistryProcess;
use screen::Screen;
use servers::Servers;

/// How long the demo lasts where there is no terminal to press a key at, and no `--for`.
const UNATTENDED: Duration = Duration::from_secs(20);

/// How often keys are read, processes looked after and the totals drawn again.
const TICK: Duration = Duration::from_millis(100);

/// How long the first request of each service may take to get through.
const CURTAIN: Duration = Duration::from_secs(10);

pub(super) use {provider::Provider, registry::Registry};

/// `callboard demo`
#[derive(Args)]
pub(super) struct Demo {
    /// Go through add, drain, kill and a dead registry unattended in this time, as "20s"
    #[arg(long = "for", value_name = "TIME", value_parser = duration::wait)]
    lasting: Option<Duration>,

    /// Requests a second
    #[arg(long, value_name = "RATE", default_value_t = 50, value_parser = value_parser!(u32).range(1..=5000))]
    load: u32,

    /// The proxy's port, or a free one where it is taken; 0 takes free ones for all three servers
    #[arg(long, default_value_t = 8080)]
    port: u16,
}

/// Runs the demo until its time is up, `q` is pressed or a signal comes. A second signal ends it
/// without waiting for requests under way. No child process and no file outlives it.
///
/// # Errors
/// Where something cannot be started, and where a request failed.
pub(super) fn demo(demo: Demo) -> anyhow::Result<ExitCode> {
    descriptors::raise();
    let attended = demo.lasting.is_none() && stdin().is_terminal() && stdout().is_terminal();
    Runtime::new()?.block_on(async {
        let stop = CancellationToken::new();
        tokio::select! {
            outcome = show(demo, attended, &stop) => outcome?,
            outcome = signals(&stop, attended) => outcome?,
        }
        Ok(ExitCode::SUCCESS)
    })
}

/// Runs one provider until a signal comes.
///
/// # Errors
/// Where its port is taken or the registry does not take its registration.
pub(super) fn provide(provider: Provider) -> anyhow::Result<ExitCode> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(provider.run())?;
    Ok(ExitCode::SUCCESS)
}

/// Runs the registry until a signal asks to end.
///
/// # Errors
/// Where its port is taken or its folder cannot be used.
pub(super) fn keep_registry(registry: Registry) -> anyhow::Result<ExitCode> {
    Runtime::new()?.block_on(registry.run())?;
    Ok(ExitCode::SUCCESS)
}

async fn show(args: Demo, attended: bool, stop: &CancellationToken) -> anyhow::Result<()> {
    let mut servers = Servers::start(args.port).await?;
    let mut children = Children::new(servers.registry.address);
    for (service, count) in CAST {
        for _ in 0..count {
            children.add(service).await?;
        }
    }
    wait_for_the_proxy(&servers).await?;
    screen::intro(&servers, children.running())?;

    let mut director = if attended {
        screen::keys()?;
        Director::keys()?
    } else {
        Director::script(args.lasting.unwrap_or(UNATTENDED))
    };
    let mut screen = Screen::new();
    screen.say(&format!("load: {} requests a second", args.load))?;
    let load = Load::start(servers.proxy, args.load);
    let registry = &mut servers.registry;
    let played = play(
        &mut director,
        registry,
        &mut children,
        &load,
        &mut screen,
        stop,
    )
    .await;
    director.end();
    let totals = load.stop().await;
    played?;
    servers.stop().await;
    children.end().await;

    screen.summary(&totals)?;
    if totals.failed > 0 {
        bail!("{} of {} requests failed", totals.failed, totals.sent);
    }
    Ok(())
}

/// Does what the director says until the end.
async fn play(
    director: &mut Director,
    registry: &mut RegistryProcess,
    children: &mut Children,
    load: &Load,
    screen: &mut Screen,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    let mut tick = interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            _ = tick.tick() => {}
        }
        for line in children.ended()? {
            screen.say(&line)?;
        }
        match director.next(screen.elapsed())? {
            Some(Step::Add) if !registry.is_here() => {
                screen.say("nobody can sign in: the registry is away, and r starts it again")?;
            }
            Some(Step::Registry) => screen.say(&registry.toggle().await?)?,
            Some(Step::Add) => screen.say(&children.add_where_fewest().await?)?,
            Some(Step::Drain) => screen.say(&children.drain()?)?,
            Some(Step::Kill) => screen.say(&children.kill()?)?,
            Some(Step::Quit) => return Ok(()),
            None => {}
        }
        if director.attended() {
            load.look(|totals| screen.totals(totals, children.running()))?;
        }
    }
}

/// The load begins when each service has answered once: what is shown is the proxy at work, not
/// its first second.
async fn wait_for_the_proxy(servers: &Servers) -> anyhow::Result<()> {
    let client = Client::new(servers.proxy);
    for (service, _) in CAST {
        let mut last = String::from("it did not answer");
        let answered = async {
            let mut tick = interval(TICK);
            loop {
                tick.tick().await;
                match client.call(service).await {
                    Ok(_) => return,
                    Err(failure) => last = failure,
                }
            }
        };
        if timeout(CURTAIN, answered).await.is_err() {
            bail!("the proxy does not reach `{service}`: {last}");
        }
    }
    Ok(())
}

/// Passes the first signal that asks to end on, and returns at the second.
async fn signals(stop: &CancellationToken, attended: bool) -> anyhow::Result<()> {
    let mut signals = Signals::take()?;
    loop {
        match signals.next().await {
            // The terminal that shows it and has its keys is gone.
            Signal::SIGHUP if attended => break,
            signal if ENDING.contains(&signal) => break,
            _ => {}
        }
    }
    stop.cancel();
    signals.until_end().await;
    bail!("ended by a second signal")
}
