//! `callboard run`: the configuration, the log, and then the proxy until it ends.

use std::{io::stdout, path::Path, process::ExitCode};

use tokio::signal::unix::{SignalKind, signal};

use super::logging;
use crate::{app::App, config::Config};

pub(super) fn run(path: &Path) -> anyhow::Result<ExitCode> {
    let config = match Config::load(path) {
        Ok(config) => config,
        Err(report) => {
            eprintln!("{report}");
            return Ok(ExitCode::FAILURE);
        }
    };
    let _flushed_at_exit = logging::start(&config.log, stdout())?;
    serve(config)?;
    Ok(ExitCode::SUCCESS)
}

/// Serves until SIGTERM or SIGINT, then drains; a second signal ends it at once.
fn serve(config: Config) -> anyhow::Result<()> {
    let control = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("control")
        .enable_all()
        .build()?;
    let served = control.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut told_to_end = async || {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        let app = App::start(config).await?;
        for address in app.listeners() {
            tracing::info!("listening on {address}");
        }
        if let Some(address) = app.registry() {
            tracing::info!("the embedded registry is at http://{address}");
        }
        tracing::info!("the admin server is at http://{}", app.admin());
        told_to_end().await;
        tokio::select! {
            () = app.drain() => {}
            () = told_to_end() => anyhow::bail!("ended at once by a second signal"),
        }
        Ok(())
    });
    // After a second signal the drain's own thread may wait for requests still: nobody else does.
    control.shutdown_background();
    served
}
