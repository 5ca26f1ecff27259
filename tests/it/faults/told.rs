//! A service whose Consul says of it what the test tells it to.

use serde_json::Value;

use super::FOUR;
use crate::support::{
    backend::Backend,
    fake_consul::{FakeConsul, entry},
    load::Ledger,
};

pub(super) struct Told {
    pub(super) name: &'static str,
    pub(super) consul: FakeConsul,
    index: u64,
    ledger: Ledger,
    /// Those that run.
    pub(super) backends: Vec<Backend>,
}

impl Told {
    /// Four run, and are listed.
    pub(super) async fn start(name: &'static str, ledger: &Ledger) -> Self {
        let mut backends = Vec::new();
        for id in FOUR {
            backends.push(ledger.backend(id).start().await);
        }
        let mut told = Self {
            name,
            consul: FakeConsul::start([]).await,
            index: 100,
            ledger: ledger.clone(),
            backends,
        };
        told.lists_those_that_run();
        told
    }

    /// The registry of this name in proxy.toml.
    pub(super) fn table(&self) -> String {
        let (name, url) = (self.name, self.consul.url());
        format!("[registry.{name}]\nkind = \"consul\"\naddress = \"{url}\"\n")
    }

    /// Consul's list of those that run.
    pub(super) fn set(&self) -> Value {
        let addresses = self.backends.iter().map(Backend::address);
        addresses.map(|address| entry(self.name, address)).collect()
    }

    /// Consul is well.
    pub(super) fn lists_those_that_run(&mut self) {
        self.lists(self.set());
    }

    pub(super) fn lists(&mut self, set: Value) {
        self.index += 10;
        self.consul.holds(self.index, set);
    }

    /// Another one takes the place of the first, which is returned, and still runs.
    pub(super) async fn replace_one(&mut self) -> Backend {
        let old = self.backends.remove(0);
        self.backends.push(self.ledger.backend("new").start().await);
        self.lists_those_that_run();
        old
    }

    /// The one that took another's place last.
    pub(super) fn newest(&self) -> &Backend {
        self.backends.last().expect("there is somebody")
    }
}
