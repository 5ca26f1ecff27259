//! The admin server: is it alive, is it ready, what does it do, in numbers and in JSON.

use std::{io, net::SocketAddr, sync::Arc};

use tokio_util::sync::CancellationToken;

use crate::{
    config::{self, Config},
    proxy::{Shared, Worker},
};

/// What the admin server shows.
pub struct View {
    /// The configuration that runs.
    pub config: Arc<Config>,
    /// The generation, and whether the proxy is ready or draining.
    pub shared: Arc<Shared>,
    /// The workers' own counters.
    pub workers: Vec<Arc<Worker>>,
    /// Counts the open client connections.
    pub connections: Box<dyn Fn() -> usize + Send + Sync>,
    /// Where the proxy listens.
    pub listeners: Vec<SocketAddr>,
}

/// Why the admin server cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Its address cannot be had.
    #[error("the admin server cannot listen on {0}: {1}")]
    Bind(SocketAddr, io::Error),
}

/// The admin server, bound and not yet serving.
pub struct Server {
    listener: tokio::net::TcpListener,
}

impl Server {
    /// Binds the address; port 0 takes a free one.
    ///
    /// # Errors
    /// Where it cannot be had.
    pub async fn bind(config: &config::Admin) -> Result<Self, StartError> {
        let failed = |error| StartError::Bind(config.address, error);
        let listener = tokio::net::TcpListener::bind(config.address)
            .await
            .map_err(failed)?;
        Ok(Self { listener })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.listener
            .local_addr()
            .expect("a bound socket has an address")
    }

    /// Serves until `ending`.
    pub async fn run(self, _view: View, ending: CancellationToken) {
        ending.cancelled().await;
    }
}
