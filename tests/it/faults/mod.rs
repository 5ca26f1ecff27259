//! What the proxy must come through, counted: requests sent, requests failed, and how often each
//! POST was processed. *Failed* is whatever a client that repeats nothing sees as an error, a
//! reset, a time-out or a wrong answer.

mod connections;
mod dns;
mod drain;
mod file;
mod instances;
mod registry;

use std::{net::SocketAddr, time::Duration};

use serde_json::json;

use crate::support::{
    backend::Backend,
    consul::Consul,
    load::{Ledger, Load, Report},
    process::BackendProcess,
    proxy::{Proxy, instance},
};

const ROUTE: &str = r#"
[[route]]
path = "/{service}"
service = "{service}"
strip_prefix = true
"#;

const SERVICE: &str = "cart";

/// Requests a second.
const RATE: u32 = 400;

/// A proxy, the registry that it reads, and the backends' common ledger.
struct Stage {
    proxy: Proxy,
    consul: Option<Consul>,
    ledger: Ledger,
}

impl Stage {
    /// With the registry that the proxy brings.
    async fn embedded() -> Self {
        Self {
            proxy: Proxy::start(ROUTE).await,
            consul: None,
            ledger: Ledger::default(),
        }
    }

    /// With a real Consul, where there is one.
    async fn consul() -> Option<Self> {
        let consul = Consul::start().await?;
        let config = format!(
            "{ROUTE}\n[registry.consul]\naddress = \"{}\"\n",
            consul.url()
        );
        Some(Self {
            proxy: Proxy::start(&config).await,
            consul: Some(consul),
            ledger: Ledger::default(),
        })
    }

    /// Starts a backend and signs it in.
    async fn open(&self, id: &str) -> Backend {
        let backend = self.ledger.backend(id).start().await;
        self.sign_in(backend.address()).await;
        backend
    }

    /// Starts several, and waits until the proxy serves.
    async fn open_some(&self, ids: &[&str]) -> Vec<Backend> {
        let mut backends = Vec::new();
        for id in ids {
            backends.push(self.open(id).await);
        }
        self.proxy.until_served("/cart/x").await;
        backends
    }

    /// Starts a backend in a process of its own and signs it in.
    async fn open_process(&self) -> BackendProcess {
        let ledger = self.ledger.clone();
        let start = move || BackendProcess::start(&ledger);
        let process = tokio::task::spawn_blocking(start).await.unwrap();
        self.sign_in(process.address()).await;
        process
    }

    async fn sign_in(&self, address: SocketAddr) {
        match &self.consul {
            None => self.proxy.register(SERVICE, address).await,
            Some(consul) => {
                let service = json!({
                    "ID": instance(SERVICE, address),
                    "Name": SERVICE,
                    "Address": address.ip(),
                    "Port": address.port(),
                });
                consul.register(service).await;
            }
        }
    }

    async fn sign_out(&self, address: SocketAddr) {
        match &self.consul {
            None => self.proxy.deregister(SERVICE, address).await,
            Some(consul) => consul.deregister(&instance(SERVICE, address)).await,
        }
    }

    async fn load(&self) -> Load {
        Load::start(self.proxy.address(), "/cart", RATE).await
    }

    async fn ended(&self, load: Load) -> Report {
        load.stop(&self.ledger).await
    }
}

/// A stretch of the scenario itself, during which the load runs; nothing is waited for.
async fn let_pass(millis: u64) {
    tokio::time::sleep(Duration::from_millis(millis)).await;
}
