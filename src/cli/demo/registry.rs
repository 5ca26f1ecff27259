//! The demo's registry, in a process of its own, so that a kill is a kill: it can be killed and
//! started again, and has what it had on disk.

use std::{
    ffi::OsStr,
    io::{self, Write},
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
};

use anyhow::Context;
use tokio::process::Child;
use tokio_util::sync::CancellationToken;

use super::process;
use crate::{cli::signals::Signals, config::Embedded, embedded::Server};

/// The hidden command `callboard registry`
#[derive(clap::Args)]
pub(in crate::cli) struct Registry {
    /// Where it listens on 127.0.0.1; 0 takes a free port
    #[arg(long)]
    port: u16,

    /// The folder that keeps its state
    #[arg(long)]
    data: PathBuf,
}

impl Registry {
    /// Serves until a signal asks to end, or standard input closes, as it does when the parent
    /// process dies. Prints one line when it listens.
    pub(super) async fn run(self) -> anyhow::Result<()> {
        process::tie_to_parent();
        let mut signals = Signals::take()?;
        let settings = Embedded {
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, self.port)),
            data: self.data,
            token: None,
            hosts: Vec::new(),
        };
        let server = Server::bind(&settings).await?;
        writeln!(io::stdout(), "the registry listens at {}", server.address())?;
        let ending = CancellationToken::new();
        let serving = tokio::spawn(server.run(ending.clone()));
        signals.until_end().await;
        ending.cancel();
        serving.await.context("the registry ended badly")
    }
}

/// That process, as the demo sees it.
pub(super) struct RegistryProcess {
    pub(super) address: SocketAddr,
    data: PathBuf,
    process: Option<Child>,
}

impl RegistryProcess {
    /// Starts it on this port.
    pub(super) async fn start(port: u16, data: &Path) -> anyhow::Result<Self> {
        let (process, address) = spawn(port, data).await?;
        Ok(Self {
            address,
            data: data.to_owned(),
            process: Some(process),
        })
    }

    pub(super) fn is_here(&self) -> bool {
        self.process.is_some()
    }

    /// Kills it where it runs, starts it again where it does not, and says so.
    pub(super) async fn toggle(&mut self) -> anyhow::Result<String> {
        if let Some(mut process) = self.process.take() {
            process.kill().await.context("cannot kill the registry")?;
            return Ok(
                "kill -9 the registry: nobody signs in or out now, and the proxy goes on with the \
                 providers that it knows"
                    .into(),
            );
        }
        let (process, _) = spawn(self.address.port(), &self.data).await?;
        self.process = Some(process);
        Ok("the registry is back, with what it had on disk: nobody signs in again".into())
    }

    /// Kills it, and waits until it is gone.
    pub(super) async fn end(self) {
        if let Some(mut process) = self.process {
            // An error means that it has ended already.
            let _ = process.kill().await;
        }
    }
}

async fn spawn(port: u16, data: &Path) -> anyhow::Result<(Child, SocketAddr)> {
    let port = port.to_string();
    let arguments = ["registry", "--port", &port, "--data"].map(OsStr::new);
    let arguments = arguments.into_iter().chain([data.as_os_str()]);
    let started = process::start(arguments).await;
    started.context("cannot start the registry")
}
