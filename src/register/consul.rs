//! An entry in Consul, or in the embedded registry, which speaks its API: the registration that
//! go-kit's registrar sends, and its TTL. Owns what is sent and when an entry counts as lost;
//! knows nothing of HTTP or of trying again.

use std::{net::IpAddr, time::Duration};

use futures_util::future::BoxFuture;
use serde_json::{Value, json};

use super::{Check, Layout, Provider};
use crate::{
    config,
    registry::{
        BuildError, RegistryError,
        consul::{Agent, Registered},
    },
};

/// Between two looks at the entry, at most. An agent that lost it is told again within 5 s: this,
/// and the longest that a registrar backs off.
const LOOK: Duration = Duration::from_secs(2);

/// The longest that an agent's probe waits.
const MAX_PROBE: Duration = Duration::from_secs(10);

/// A provider that has been critical for so long is forgotten: the least that Consul allows.
const FORGET_AFTER: &str = "1m";

/// One provider's entry at one agent.
#[derive(Debug)]
pub(super) struct Entry {
    agent: Agent,
    provider: Provider,
    trouble: Option<Trouble>,
}

/// What the last look at the entry found.
#[derive(Debug)]
enum Trouble {
    /// The agent is there, and does not have it.
    Forgotten,
    /// Another provider has signed in under its id since.
    Taken,
}

impl Entry {
    /// Connects to nothing yet.
    ///
    /// # Errors
    /// Where the settings cannot be used, or the layout is another registry's.
    pub(super) fn new(
        registry: &str,
        settings: &config::Consul,
        provider: Provider,
    ) -> Result<Self, BuildError> {
        if provider.layout != Layout::GoKit {
            return Err(BuildError::unsuited(
                registry,
                format!(
                    "Consul has one layout, `{}`; there is no `{}` there",
                    Layout::GoKit.as_str(),
                    provider.layout.as_str()
                ),
            ));
        }
        Ok(Self {
            agent: Agent::new(registry, settings)?,
            provider,
            trouble: None,
        })
    }

    /// Finds that the entry stands, and renews it.
    async fn look(&mut self) -> Result<(), RegistryError> {
        let id = &self.provider.id;
        match self.agent.service(id).await? {
            None => {
                self.trouble = Some(Trouble::Forgotten);
                Err(self.agent.error(&format!("no longer knows `{id}`")))
            }
            Some(other) if !self.is_ours(&other) => {
                self.trouble = Some(Trouble::Taken);
                Err(self.taken(&other))
            }
            // Another's check is not kept alive: only what was found to be ours is renewed.
            Some(_) if matches!(self.provider.check, Check::Ttl(_)) => self.agent.pass(id).await,
            Some(_) => Ok(()),
        }
    }

    fn is_ours(&self, registered: &Registered) -> bool {
        let address = &self.provider.address;
        registered.service == self.provider.service
            && registered.address == address.host()
            && registered.port == i64::from(address.port())
    }

    fn taken(&self, other: &Registered) -> RegistryError {
        let Registered {
            service,
            address,
            port,
        } = other;
        let address = match address.parse() {
            Ok(IpAddr::V6(ip)) => format!("[{ip}]"),
            _ => address.clone(),
        };
        let id = &self.provider.id;
        self.agent.error(&format!(
            "has `{id}` as `{service}` at {address}:{port} now: somebody else signed in with that id; give each its own"
        ))
    }

    /// What is sent: go-kit's registrar passes on a registration of Consul's own client.
    fn registration(&self) -> Value {
        let Provider {
            service,
            id,
            address,
            tls,
            tags,
            weight,
            ..
        } = &self.provider;
        let mut meta = self.provider.meta.clone();
        if *tls {
            meta.insert("scheme".to_owned(), "https".to_owned());
        }
        json!({
            "ID": id,
            "Name": service,
            "Address": address.host(),
            "Port": address.port(),
            "Tags": tags,
            "Meta": meta,
            "Weights": { "Passing": weight, "Warning": 1 },
            "Check": self.check(),
        })
    }

    fn check(&self) -> Value {
        let mut check = match &self.provider.check {
            Check::Ttl(ttl) => json!({ "TTL": written(*ttl) }),
            Check::Http { url, interval } => json!({ "HTTP": url, "Interval": written(*interval) }),
            Check::Tcp { interval } => {
                let address = self.provider.address.to_string();
                json!({ "TCP": address, "Interval": written(*interval) })
            }
        };
        if let Check::Http { interval, .. } | Check::Tcp { interval } = self.provider.check {
            check["Timeout"] = written(interval.min(MAX_PROBE)).into();
        }
        // Who signs in says that it is there. But one that an agent forgot may be one that failed
        // its probes for too long: then the next probe decides.
        let probed = !matches!(self.provider.check, Check::Ttl(_));
        if !(probed && matches!(self.trouble, Some(Trouble::Forgotten))) {
            check["Status"] = "passing".into();
        }
        check["DeregisterCriticalServiceAfter"] = FORGET_AFTER.into();
        check
    }

    /// How long the entry is left alone.
    fn pause(&self) -> Duration {
        match self.provider.check {
            Check::Ttl(ttl) => LOOK.min(ttl / 3),
            Check::Http { .. } | Check::Tcp { .. } => LOOK,
        }
    }
}

impl super::Entry for Entry {
    fn sign_in(&mut self) -> BoxFuture<'_, Result<(), RegistryError>> {
        Box::pin(async move {
            let id = &self.provider.id;
            // Two that took the id from each other in turn would both be half there.
            if matches!(self.trouble, Some(Trouble::Taken))
                && let Some(other) = self.agent.service(id).await?
                && !self.is_ours(&other)
            {
                return Err(self.taken(&other));
            }
            self.agent.register(id, &self.registration()).await?;
            self.trouble = None;
            Ok(())
        })
    }

    fn keep(&mut self) -> BoxFuture<'_, RegistryError> {
        Box::pin(async move {
            loop {
                // At once after signing in: Consul keeps the status that a check had before.
                if let Err(error) = self.look().await {
                    return error;
                }
                tokio::time::sleep(self.pause()).await;
            }
        })
    }

    fn sign_out(&mut self) -> BoxFuture<'_, Result<(), RegistryError>> {
        Box::pin(async move {
            let id = &self.provider.id;
            match self.agent.service(id).await? {
                Some(registered) if self.is_ours(&registered) => self.agent.deregister(id).await,
                // A successor may have signed in already: its entry stays.
                _ => Ok(()),
            }
        })
    }
}

/// A duration as Go writes it.
fn written(duration: Duration) -> String {
    match duration.subsec_nanos() {
        0 => format!("{}s", duration.as_secs()),
        _ => format!("{}ms", duration.as_millis()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::{Config, RegistryKind},
        instance::Address,
    };

    fn settings() -> config::Consul {
        let text = "[registry.consul]\n[[route]]\nservice = \"a\"";
        let config = Config::parse(text, "".as_ref()).unwrap();
        match &config.registries["consul"].kind {
            RegistryKind::Consul(settings) => settings.clone(),
            other => panic!("{other:?}"),
        }
    }

    fn provider() -> Provider {
        Provider::new("cart", Address::new("::1", 8080).unwrap())
    }

    fn entry(provider: Provider) -> Entry {
        Entry::new("consul", &settings(), provider).unwrap()
    }

    #[test]
    fn a_registration_is_what_go_kits_registrar_sends() {
        let all = Provider {
            id: "cart-1".to_owned(),
            tls: true,
            tags: vec!["v2".to_owned()],
            meta: [("zone".to_owned(), "a".to_owned())].into(),
            weight: 7,
            ..provider()
        };
        assert_eq!(
            entry(all).registration(),
            json!({
                "ID": "cart-1",
                "Name": "cart",
                "Address": "::1",
                "Port": 8080,
                "Tags": ["v2"],
                "Meta": { "zone": "a", "scheme": "https" },
                "Weights": { "Passing": 7, "Warning": 1 },
                "Check": {
                    "TTL": "10s",
                    "Status": "passing",
                    "DeregisterCriticalServiceAfter": "1m",
                },
            })
        );
    }

    #[test]
    fn a_probe_waits_no_longer_than_its_interval() {
        let check = |check| {
            entry(Provider {
                check,
                ..provider()
            })
            .check()
        };
        let seconds = Duration::from_secs;
        let http = check(Check::Http {
            url: "http://[::1]:8080/health".to_owned(),
            interval: Duration::from_millis(1500),
        });
        assert_eq!(http["HTTP"], "http://[::1]:8080/health");
        assert_eq!(
            (&http["Interval"], &http["Timeout"]),
            (&json!("1500ms"), &json!("1500ms"))
        );
        let tcp = check(Check::Tcp {
            interval: seconds(60),
        });
        assert_eq!(tcp["TCP"], "[::1]:8080");
        assert_eq!(
            (&tcp["Interval"], &tcp["Timeout"]),
            (&json!("60s"), &json!("10s"))
        );
    }

    #[test]
    fn one_that_is_probed_and_was_forgotten_does_not_say_that_it_passes() {
        for (check, says) in [
            (Check::Ttl(LOOK), Some("passing")),
            (Check::Tcp { interval: LOOK }, None),
        ] {
            let mut entry = entry(Provider {
                check,
                ..provider()
            });
            assert_eq!(entry.check()["Status"], "passing");
            entry.trouble = Some(Trouble::Forgotten);
            assert_eq!(entry.check()["Status"].as_str(), says);
        }
    }

    #[test]
    fn another_registrys_layout_is_refused_by_name() {
        let curator = Provider {
            layout: Layout::Curator,
            ..provider()
        };
        let refused = Entry::new("main", &settings(), curator).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "registry.main: Consul has one layout, `go-kit`; there is no `curator` there"
        );
    }
}
