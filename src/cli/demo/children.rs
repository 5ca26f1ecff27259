//! The demo's providers as child processes: started, drained (SIGTERM), killed (SIGKILL) and
//! looked after. None outlives its parent: each is killed when this is dropped, and ends by itself
//! when the pipe to its standard input closes, which a killed parent's does too.

use std::{collections::BTreeMap, net::SocketAddr, process::ExitStatus};

use anyhow::Context;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::{process::Child, time::Instant};

use super::{cast::CAST, process};

/// The providers, in the order in which they were started.
pub(super) struct Children {
    registry: SocketAddr,
    /// How many providers each service has ever had: ids are not used twice.
    numbers: BTreeMap<&'static str, usize>,
    running: Vec<Provider>,
    leaving: Vec<Leaving>,
}

/// A provider that is registered.
pub(super) struct Provider {
    pub(super) service: &'static str,
    pub(super) id: String,
    pub(super) address: SocketAddr,
    pub(super) pid: u32,
    process: Child,
}

struct Leaving {
    provider: Provider,
    since: Instant,
    /// What the provider is said to be when it has ended.
    word: &'static str,
}

impl Children {
    /// Providers of this same executable, which register at `registry`.
    pub(super) fn new(registry: SocketAddr) -> Self {
        Self {
            registry,
            numbers: BTreeMap::new(),
            running: Vec::new(),
            leaving: Vec::new(),
        }
    }

    pub(super) fn running(&self) -> &[Provider] {
        &self.running
    }

    /// Starts one more and waits until it has registered.
    pub(super) async fn add(&mut self, service: &'static str) -> anyhow::Result<&Provider> {
        let number = self.numbers.entry(service).or_default();
        *number += 1;
        let id = format!("{service}-{number}");
        let registry = format!("http://{}", self.registry);
        let arguments = ["provider", "--tied", "--name", service, "--id", &id];
        let arguments = arguments.into_iter().chain(["--registry", &registry]);
        let (process, address) = process::start(arguments)
            .await
            .with_context(|| format!("cannot start the provider {id}"))?;
        self.running.push(Provider {
            service,
            id,
            address,
            pid: process.id().context("it ended at once")?,
            process,
        });
        Ok(&self.running[self.running.len() - 1])
    }

    /// Adds one to the service that has the fewest, and says so.
    pub(super) async fn add_where_fewest(&mut self) -> anyhow::Result<String> {
        let fewest = CAST.iter().map(|(service, _)| *service);
        let service = fewest
            .min_by_key(|service| self.count(service))
            .expect("the cast is not empty");
        let added = self.add(service).await?;
        Ok(format!(
            "added {} at {}, pid {}: it signed in, and has its share from now on",
            added.id, added.address, added.pid
        ))
    }

    /// Asks one of the service that has the most to leave, and says so.
    pub(super) fn drain(&mut self) -> anyhow::Result<String> {
        let Some(provider) = self.take_where_most() else {
            return Ok("nobody is left to drain".into());
        };
        kill(Pid::from_raw(provider.pid.cast_signed()), Signal::SIGTERM)
            .with_context(|| format!("cannot signal {}", provider.id))?;
        let line = format!(
            "drain {}: it signs out, gets no new requests, ends what it has and closes",
            provider.id
        );
        self.leave(provider, "drained");
        Ok(line)
    }

    /// Kills one of the service that has the most, and says so.
    pub(super) fn kill(&mut self) -> anyhow::Result<String> {
        let Some(mut provider) = self.take_where_most() else {
            return Ok("nobody is left to kill".into());
        };
        provider
            .process
            .start_kill()
            .with_context(|| format!("cannot kill {}", provider.id))?;
        let line = format!(
            "kill -9 {}: the registry does not know yet; the proxy meets a closed port, and asks another",
            provider.id
        );
        self.leave(provider, "killed");
        Ok(line)
    }

    /// One line for each that has ended since this was last asked.
    pub(super) fn ended(&mut self) -> anyhow::Result<Vec<String>> {
        let mut lines = Vec::new();
        let mut still = Vec::new();
        for mut one in self.leaving.drain(..) {
            match one.provider.process.try_wait()? {
                Some(status) => lines.push(one.farewell(status)),
                None => still.push(one),
            }
        }
        self.leaving = still;
        let mut still = Vec::new();
        for mut provider in self.running.drain(..) {
            match provider.process.try_wait()? {
                Some(status) => lines.push(format!("{} ended by itself ({status})", provider.id)),
                None => still.push(provider),
            }
        }
        self.running = still;
        Ok(lines)
    }

    /// Kills all, and waits until they are gone.
    pub(super) async fn end(self) {
        let leaving = self.leaving.into_iter().map(|one| one.provider);
        for mut provider in self.running.into_iter().chain(leaving) {
            // An error means that it has ended already.
            let _ = provider.process.kill().await;
        }
    }

    fn count(&self, service: &str) -> usize {
        let of_it = |provider: &&Provider| provider.service == service;
        self.running.iter().filter(of_it).count()
    }

    /// The oldest of the service that has the most; the first service where they are equal.
    fn take_where_most(&mut self) -> Option<Provider> {
        let services = CAST.iter().rev().map(|(service, _)| *service);
        let most = services.max_by_key(|service| self.count(service))?;
        let oldest = self.running.iter().position(|one| one.service == most)?;
        Some(self.running.remove(oldest))
    }

    fn leave(&mut self, provider: Provider, word: &'static str) {
        self.leaving.push(Leaving {
            provider,
            since: Instant::now(),
            word,
        });
    }
}

impl Leaving {
    fn farewell(&self, status: ExitStatus) -> String {
        let Self { provider, word, .. } = self;
        let id = &provider.id;
        let seconds = self.since.elapsed().as_secs_f64();
        format!("{word} {id}: its process ended after {seconds:.1} s ({status})")
    }
}
