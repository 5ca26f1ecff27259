//! What the proxy must come through, counted: requests sent, requests failed, and how often each
//! POST was processed. *Failed* is whatever a client that repeats nothing sees as an error, a
//! reset, a time-out or a wrong answer.

mod clock;
mod connections;
mod dns;
mod drain;
mod ejection;
mod file;
mod flapping_registry;
mod illness;
mod instances;
mod mass_sign_out;
mod process;
mod registry;
mod slow_registry;
mod tls;
mod told;
mod wire;

use std::{net::SocketAddr, time::Duration};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{
    backend::Backend,
    consul::{Consul, merge},
    eventually,
    load::{Ledger, Load, Report},
    process::BackendProcess,
    proxy::{Proxy, instance, with_state},
    server::free_ports,
};

const ROUTE: &str = r#"
[[route]]
path = "/{service}"
service = "{service}"
strip_prefix = true
"#;

const SERVICE: &str = "cart";

/// The instances of a scenario that names no others.
const FOUR: [&str; 4] = ["a", "b", "c", "d"];

/// Requests a second.
const RATE: u32 = 400;

/// A proxy, the registry that it reads, and the backends' common ledger.
struct Stage {
    proxy: Proxy,
    registry: Registry,
    ledger: Ledger,
    /// Its backends speak HTTP/2 in the clear, as their metadata says.
    http2: bool,
}

/// Whom a stage's proxy reads.
enum Registry {
    /// The one that it brings.
    Own,
    Consul(Consul),
    /// The one that another Callboard brings, which can be killed without it.
    Others {
        port: u16,
        other: Option<Proxy>,
    },
}

impl Stage {
    /// With the registry that the proxy brings.
    async fn embedded() -> Self {
        Self::embedded_with("").await
    }

    /// The same, with these tables beside its route.
    async fn embedded_with(tables: &str) -> Self {
        Self::embedded_in(tempfile::tempdir().unwrap(), tables).await
    }

    /// The same, in a folder that holds files which they name.
    async fn embedded_in(folder: TempDir, tables: &str) -> Self {
        let config = format!("{ROUTE}\n{tables}\n");
        Self {
            proxy: Proxy::start_in(folder, &config).await,
            registry: Registry::Own,
            ledger: Ledger::default(),
            http2: false,
        }
    }

    /// With a real Consul, where there is one.
    async fn consul() -> Option<Self> {
        Self::consul_with("").await
    }

    /// The same, with these tables beside its route.
    async fn consul_with(tables: &str) -> Option<Self> {
        let consul = Consul::start().await?;
        let url = consul.url();
        Some(Self::reading(&url, tables, Registry::Consul(consul)).await)
    }

    /// With an embedded registry that is another proxy's.
    async fn others() -> Self {
        let [port] = free_ports();
        let other = Some(empty_registry(port).await);
        let url = format!("http://127.0.0.1:{port}");
        Self::reading(&url, "", Registry::Others { port, other }).await
    }

    /// The same, with backends that speak HTTP/2.
    fn in_http2(mut self) -> Self {
        self.http2 = true;
        self
    }

    async fn reading(url: &str, tables: &str, registry: Registry) -> Self {
        let config = format!("{ROUTE}\n[registry.consul]\naddress = \"{url}\"\n{tables}");
        Self {
            proxy: Proxy::start(&config).await,
            registry,
            ledger: Ledger::default(),
            http2: false,
        }
    }

    /// Starts a backend and signs it in.
    async fn open(&self, id: &str) -> Backend {
        let setup = self.ledger.backend(id);
        let (setup, more) = match self.http2 {
            true => (setup.http2(100), json!({"Meta": {"protocol": "h2c"}})),
            false => (setup, json!({})),
        };
        let backend = setup.start().await;
        self.sign_in_with(backend.address(), more).await;
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
        self.sign_in_with(address, json!({})).await;
    }

    /// The same, with more fields in Consul's spelling.
    async fn sign_in_with(&self, address: SocketAddr, more: Value) {
        let mut service = json!({
            "ID": instance(SERVICE, address),
            "Name": SERVICE,
            "Address": address.ip(),
            "Port": address.port(),
        });
        merge(&mut service, &more);
        self.tell("/v1/agent/service/register", service).await;
    }

    async fn sign_out(&self, address: SocketAddr) {
        let id = instance(SERVICE, address);
        let path = format!("/v1/agent/service/deregister/{id}");
        self.tell(&path, Value::Null).await;
    }

    /// Any change of the registry.
    async fn tell(&self, path: &str, body: Value) {
        match &self.registry {
            Registry::Own => self.proxy.tell(path, body).await,
            Registry::Consul(consul) => consul.put(path, body).await,
            Registry::Others { other, .. } => {
                let other = other.as_ref().expect("it runs");
                other.tell(path, body).await;
            }
        }
    }

    /// The registry ends, and is there again without its data.
    async fn restart_empty(&mut self) {
        match &mut self.registry {
            Registry::Own => unreachable!("it would end with the proxy"),
            Registry::Consul(consul) => consul.restart_empty().await,
            Registry::Others { port, other } => {
                if let Some(other) = other.take() {
                    other.drain().await;
                }
                *other = Some(empty_registry(*port).await);
            }
        }
    }

    /// Waits until this is the state of all of these, and of nobody else.
    async fn until_all(&self, backends: &[Backend], state: &str) {
        let states = with_state(backends, state);
        self.proxy.until_states(SERVICE, &states).await;
    }

    async fn load(&self) -> Load {
        Load::start(self.proxy.address(), "/cart", RATE).await
    }

    async fn ended(&self, load: Load) -> Report {
        load.stop(&self.ledger).await
    }

    /// The same, where these have processed POSTs: all that they did is noted once they are gone.
    async fn ended_with(&self, load: Load, processes: Vec<BackendProcess>) -> Report {
        let outcomes = load.end().await;
        drop(processes);
        Report::new(outcomes, &self.ledger).await
    }
}

async fn empty_registry(port: u16) -> Proxy {
    let registry = format!("[registry.embedded]\naddress = \"127.0.0.1:{port}\"\n");
    Proxy::start(&registry).await
}

/// Waits until somebody has sent it a request.
async fn until_asked(backend: &Backend) {
    let what = format!("{} is asked", backend.id());
    eventually(&what, async || backend.requests(), |n| *n > 0).await;
}

/// A stretch of the scenario itself, during which the load runs; nothing is waited for.
async fn let_pass(millis: u64) {
    tokio::time::sleep(Duration::from_millis(millis)).await;
}
