//! `callboard run`: the configuration, the log, and then the proxy until it ends.

use std::{
    io::{self, IsTerminal, stdin, stdout},
    net::SocketAddr,
    path::Path,
    process::ExitCode,
    time::Duration,
};

use nix::sys::signal::Signal;
use tokio::task::JoinSet;

use super::{
    config_file::{Chosen, Run},
    descriptors::{self, Fitting},
    logging::{self, Logging},
    signals::{self, OTHERS, Signals},
};
use crate::{
    admin::{LogLevel, WITHIN},
    app::{App, Origin, Source, StartError},
    config::Config,
    control::{http_client::client, server::reachable},
    embedded,
};

/// How long the process that has our address may take to say what it is.
const GLANCE: Duration = Duration::from_secs(1);

/// What a person who starts it in an empty folder may do next.
const NEXT: &str = "there is no proxy.toml here, so it serves what signs in at the registry that it \
    brings along, each service below /NAME: `callboard register NAME --port PORT` signs in what \
    listens there, and `callboard init` writes a proxy.toml to change";

pub(super) fn run(run: Run) -> anyhow::Result<ExitCode> {
    let origin = Origin::of_this_process();
    let complaint = origin.complaint();
    let done = start(run, origin);
    if let Err(error) = &done {
        complaint.say(&format!("{error:#}"));
    }
    done
}

fn start(run: Run, origin: Origin) -> anyhow::Result<ExitCode> {
    let Chosen {
        mut config,
        source,
        is_unsaid,
    } = match run.choose()? {
        Ok(chosen) => chosen,
        Err(report) => {
            origin.complaint().say(&report.to_string());
            eprintln!("{report}");
            return Ok(ExitCode::FAILURE);
        }
    };
    let Logging {
        flushed_at_exit: _flushed_at_exit,
        level,
    } = logging::start(&config.log, stdout())?;
    introduce(&config, source.as_ref().map(Source::path));
    let fitting = Fitting::default();
    let fit = move |config: &mut Config| fitting.fit(&mut config.listeners, descriptors::raise());
    fit(&mut config);
    let source = source.map(|source| source.then(fit));
    serve(config, source, (origin, level), is_unsaid)?;
    Ok(ExitCode::SUCCESS)
}

/// What is run, and of what: the first line of the log.
fn introduce(config: &Config, file: Option<&Path>) {
    let file = file.map(Path::display);
    let registries = config.registries.iter();
    let registries: Vec<_> = registries
        .map(|(name, registry)| match registry.kind.as_str() {
            kind if kind == &**name => kind.to_owned(),
            kind => format!("{name} ({kind})"),
        })
        .collect();
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        file = file.as_ref().map(tracing::field::display),
        registries = registries.join(", "),
        routes = config.routes.len(),
        services = config.services.len(),
        workers = config.workers.get(),
        "callboard starts"
    );
}

/// Where it listens.
fn announce(app: &App) {
    for address in app.listeners() {
        tracing::info!("listening on {address}");
    }
    if let Some(address) = app.registry() {
        tracing::info!("the embedded registry is at http://{address}");
    }
    tracing::info!("the admin server is at http://{}", app.admin());
}

/// Serves until a signal asks to end, or a new process has taken this one's place; then drains. A second
/// signal ends it at once.
fn serve(
    config: Config,
    source: Option<Source>,
    (origin, log): (Origin, LogLevel),
    is_unsaid: bool,
) -> anyhow::Result<()> {
    let control = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("control")
        .enable_all()
        .build()?;
    let served = control.block_on(async {
        let mut signals = Signals::take()?;
        let app = match App::start_as(config, source, origin, log).await {
            Ok(app) => app,
            Err(error) => return Err(with_hint(error).await),
        };
        announce(&app);
        if is_unsaid {
            tracing::info!("{NEXT}");
        }
        let reopen = app.reopens_access_log();
        let signal = until_end(&mut signals, &app, &reopen).await;
        if let Some(signal) = signal {
            tracing::info!("{signal} came: it ends what it has; a second signal ends it at once");
        }
        // A person who presses Ctrl-C has no balancer in front that needs the time.
        let drained = async {
            if signal == Some(Signal::SIGINT) && stdin().is_terminal() {
                app.drain_after(Duration::ZERO).await;
            } else {
                app.drain().await;
            }
        };
        let ended = async {
            if signal.is_none() {
                // A supervisor that ends all processes does not know that this one is on its way out.
                let first = until_second(&mut signals, &reopen).await;
                tracing::info!("{first} came to a process that is on its way out; a second signal ends it at once");
            }
            until_second(&mut signals, &reopen).await
        };
        tokio::select! {
            () = drained => {}
            _ = ended => {
                anyhow::bail!("ended at once by a second signal")
            }
        }
        Ok(())
    });
    // After a second signal the drain's own thread may still wait for requests. The process does
    // not wait for that thread.
    control.shutdown_background();
    served
}

/// Waits for a signal that asks to end, which is returned, or until a new process has taken this one's place.
/// Reloads and upgrades for each signal that asks for that, and opens the access log anew for tools that have
/// moved its file. A reload that waits for a disk holds no signal up; those that
/// ask for one meanwhile have it done once more.
async fn until_end(signals: &mut Signals, app: &App, reopen: &impl Fn() -> bool) -> Option<Signal> {
    let (mut reloading, mut is_due) = (JoinSet::new(), false);
    let mut upgrading = JoinSet::new();
    loop {
        if is_due && reloading.is_empty() {
            is_due = false;
            reloading.spawn(app.reload());
        }
        tokio::select! {
            signal = signals.until_end_or(&OTHERS) => match signal {
                Signal::SIGHUP => is_due = true,
                Signal::SIGUSR1 if reopen() => {}
                Signal::SIGUSR1 => signals::ignore(signal),
                Signal::SIGUSR2 => drop(upgrading.spawn(app.upgrade(WITHIN))),
                signal => return Some(signal),
            },
            () = app.until_upgraded() => return None,
            // What came of it is in the log.
            Some(_) = reloading.join_next() => {}
            Some(_) = upgrading.join_next() => {}
        }
    }
}

/// Waits for another signal that asks to end; a file that is moved meanwhile is opened anew.
async fn until_second(signals: &mut Signals, reopen: &impl Fn() -> bool) -> Signal {
    loop {
        match signals.until_end_or(&[Signal::SIGUSR1]).await {
            Signal::SIGUSR1 if reopen() => {}
            signal @ Signal::SIGUSR1 => signals::ignore(signal),
            signal => return signal,
        }
    }
}

/// The same error, and what to do where a Consul has the embedded registry's address.
async fn with_hint(error: StartError) -> anyhow::Error {
    let taken = match &error {
        StartError::Embedded(embedded::StartError::Listen { address, source })
            if source.kind() == io::ErrorKind::AddrInUse =>
        {
            reachable(*address)
        }
        _ => return error.into(),
    };
    let error = anyhow::Error::from(error);
    if !speaks_consul(taken).await {
        return error;
    }
    anyhow::anyhow!(
        "{error:#}; whoever is there speaks Consul's API: to learn services from it write \
         `[registry.consul]` with `address = \"http://{taken}\"`, or start \
         `callboard run --registry consul://{taken}`"
    )
}

async fn speaks_consul(address: SocketAddr) -> bool {
    let answer = async {
        let client = client(|| reqwest::Client::builder().no_proxy().timeout(GLANCE))?;
        let url = format!("http://{address}/v1/status/leader");
        client.get(url).send().await?.text().await
    };
    let answer: reqwest::Result<String> = answer.await;
    // A leader's address, as JSON.
    answer.is_ok_and(|text| text.starts_with('"') && text.trim_end().ends_with('"'))
}
