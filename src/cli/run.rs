//! `callboard run`: the configuration, the log, and then the proxy until it ends.

use std::{
    io::{IsTerminal, stdin, stdout},
    path::Path,
    process::ExitCode,
    time::Duration,
};

use nix::sys::signal::Signal;

use super::{descriptors, logging, signals::Signals};
use crate::{app::App, config::Config};

pub(super) fn run(path: &Path) -> anyhow::Result<ExitCode> {
    let mut config = match Config::load(path) {
        Ok(config) => config,
        Err(report) => {
            eprintln!("{report}");
            return Ok(ExitCode::FAILURE);
        }
    };
    let _flushed_at_exit = logging::start(&config.log, stdout())?;
    introduce(&config, path);
    descriptors::fit(&mut config.listeners, descriptors::raise());
    serve(config)?;
    Ok(ExitCode::SUCCESS)
}

/// What is run, and of what: the first line of the log.
fn introduce(config: &Config, path: &Path) {
    let registries = config.registries.iter();
    let registries: Vec<_> = registries
        .map(|(name, registry)| match registry.kind.as_str() {
            kind if kind == &**name => kind.to_owned(),
            kind => format!("{name} ({kind})"),
        })
        .collect();
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        file = %path.display(),
        registries = registries.join(", "),
        routes = config.routes.len(),
        services = config.services.len(),
        workers = config.workers.get(),
        "callboard starts"
    );
}

/// Serves until a signal asks to end, then drains; a second one ends it at once.
fn serve(config: Config) -> anyhow::Result<()> {
    let control = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("control")
        .enable_all()
        .build()?;
    let served = control.block_on(async {
        let mut signals = Signals::take()?;
        let app = App::start(config).await?;
        for address in app.listeners() {
            tracing::info!("listening on {address}");
        }
        if let Some(address) = app.registry() {
            tracing::info!("the embedded registry is at http://{address}");
        }
        tracing::info!("the admin server is at http://{}", app.admin());
        let signal = signals.until_end().await;
        tracing::info!("{signal} came: it ends what it has; a second signal ends it at once");
        // A person who presses Ctrl-C has no balancer in front that needs the time.
        let drained = async {
            if signal == Signal::SIGINT && stdin().is_terminal() {
                app.drain_after(Duration::ZERO).await;
            } else {
                app.drain().await;
            }
        };
        tokio::select! {
            () = drained => {}
            _ = signals.until_end() => anyhow::bail!("ended at once by a second signal"),
        }
        Ok(())
    });
    // After a second signal the drain's own thread may wait for requests still: nobody else does.
    control.shutdown_background();
    served
}
