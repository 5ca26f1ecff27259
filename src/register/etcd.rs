//! A provider's entry in etcd by its API v3: a key with a lease, which is kept alive. As go-kit's
//! registrar writes it, or as gRPC's naming does.

use std::time::Duration;

use futures_util::future::BoxFuture;
use serde::Serialize;
use serde_json::{Map, Value};
use tokio::time::{sleep, timeout};

use super::{Check, Entry, Layout, Provider};
use crate::{
    config,
    registry::{
        BuildError, RegistryError,
        etcd::{
            Client, Connection, Fault,
            keys::{self, Keys},
            message::{
                Done, LeaseGrantRequest, LeaseGrantResponse, LeaseKeepAliveResponse, LeaseRequest,
                PutRequest,
            },
        },
    },
};

const PUT: &str = "/etcdserverpb.KV/Put";
const GRANT: &str = "/etcdserverpb.Lease/LeaseGrant";
const KEEP_ALIVE: &str = "/etcdserverpb.Lease/LeaseKeepAlive";
const REVOKE: &str = "/etcdserverpb.Lease/LeaseRevoke";

/// An entry of etcd's.
pub(super) struct Etcd {
    client: Client,
    /// For errors: "signing in as `/services/cart/10.0.0.7:80`".
    subject: String,
    text: Text,
    /// The one that the entry was last written with. It may have run out.
    lease: Option<i64>,
}

impl Etcd {
    pub(super) fn new(
        registry: &str,
        settings: &config::Etcd,
        provider: &Provider,
    ) -> Result<Self, BuildError> {
        let text = Text::of(registry, settings, provider)?;
        Ok(Self {
            client: Client::new(registry, settings)?,
            subject: text.subject(),
            text,
            lease: None,
        })
    }

    /// Whether the lease was still there, and lives on.
    async fn keep_alive(connection: &Connection, id: i64) -> Result<bool, Fault> {
        let LeaseKeepAliveResponse { ttl } =
            connection.call(KEEP_ALIVE, LeaseRequest { id }).await?;
        Ok(ttl > 0)
    }

    /// One sign of life, and a look whether the key is still there.
    async fn beat(&self, connection: &Connection, lease: i64) -> Result<Kept, Fault> {
        if !Self::keep_alive(connection, lease).await? {
            return Ok(Kept::LeaseGone);
        }
        let read = connection.range(&Keys::one(&self.text.key), true).await;
        // Who may write a key may not always read it.
        let gone = read.is_ok_and(|read| read.entries.is_empty());
        Ok(if gone { Kept::KeyGone } else { Kept::Both })
    }

    async fn write(&mut self, connection: &Connection) -> Result<(), Fault> {
        let lease = match self.lease {
            // Where the old one lives, the entry is never without one, and none is left behind.
            Some(id) if Self::keep_alive(connection, id).await? => id,
            _ => {
                let ttl = i64::try_from(self.text.ttl_seconds()).unwrap_or(i64::MAX);
                let request = LeaseGrantRequest { ttl };
                let LeaseGrantResponse { id } = connection.call(GRANT, request).await?;
                id
            }
        };
        self.lease = Some(lease);
        let put = PutRequest {
            key: self.text.key.clone().into_bytes(),
            value: self.text.value.clone().into_bytes(),
            lease,
        };
        connection.call(PUT, put).await.map(|Done {}| ())
    }
}

impl Entry for Etcd {
    fn sign_in(&mut self) -> BoxFuture<'_, Result<(), RegistryError>> {
        Box::pin(async move {
            let link = self.client.link(&self.subject).await?;
            let written = self.write(&link.connection).await;
            written.map_err(|fault| link.connection.explain(fault, &self.subject))
        })
    }

    fn keep(&mut self) -> BoxFuture<'_, RegistryError> {
        Box::pin(async move {
            let beat = self.text.ttl / 3;
            let lost = |what: &str| RegistryError::new(format!("{what}, for {}", self.subject));
            let Some(lease) = self.lease else {
                return lost("there is no lease");
            };
            loop {
                sleep(beat).await;
                let link = match self.client.link(&self.subject).await {
                    Ok(link) => link,
                    Err(error) => return error,
                };
                // No longer than there is time for another try.
                let kept = timeout(beat, self.beat(&link.connection, lease)).await;
                let kept = kept.unwrap_or_else(|_| Err(link.connection.note(Fault::Silent(beat))));
                match kept {
                    Ok(Kept::Both) => {}
                    Ok(Kept::LeaseGone) => return lost("the lease has run out"),
                    Ok(Kept::KeyGone) => return lost("somebody has taken the key away"),
                    Err(fault) => return link.connection.explain(fault, &self.subject),
                }
            }
        })
    }

    fn sign_out(&mut self) -> BoxFuture<'_, Result<(), RegistryError>> {
        Box::pin(async move {
            // Where it was never written there is nothing to take away.
            let Some(id) = self.lease.take() else {
                return Ok(());
            };
            let link = self.client.link(&self.subject).await?;
            // With its lease goes the key, unless another client has written it since.
            let revoked = link.connection.call(REVOKE, LeaseRequest { id }).await;
            match revoked {
                Err(fault) if fault.is_not_found() => Ok(()),
                revoked => revoked
                    .map(|Done {}| ())
                    .map_err(|fault| link.connection.explain(fault, &self.subject)),
            }
        })
    }
}

/// What is left of an entry.
enum Kept {
    Both,
    LeaseGone,
    KeyGone,
}

/// What is written, in both versions of the API.
#[derive(Debug)]
pub(super) struct Text {
    pub(super) key: String,
    pub(super) value: String,
    pub(super) ttl: Duration,
}

impl Text {
    pub(super) fn of(
        registry: &str,
        settings: &config::Etcd,
        provider: &Provider,
    ) -> Result<Self, BuildError> {
        let unsuited = |reason: &str| BuildError::unsuited(registry, reason);
        let ttl = match &provider.check {
            Check::Ttl(ttl) => *ttl,
            Check::Http { .. } | Check::Tcp { .. } => {
                return Err(unsuited(
                    "etcd asks nobody how they are; take a check by TTL, which is kept by heartbeats",
                ));
            }
        };
        let value = match provider.layout {
            Layout::GoKit if provider.tls => format!("https://{}", provider.address),
            Layout::GoKit => provider.address.to_string(),
            Layout::Grpc => naming(provider),
            Layout::Curator => {
                return Err(unsuited(
                    "etcd has no layout `curator`; take `go-kit` or `grpc`",
                ));
            }
        };
        let below = keys::of_service(&settings.prefix, &provider.service);
        Ok(Self {
            key: format!("{below}{}", provider.address),
            value,
            ttl,
        })
    }

    /// In whole seconds, as etcd counts; at least one.
    pub(super) fn ttl_seconds(&self) -> u64 {
        (self.ttl.as_millis().div_ceil(1000) as u64).max(1)
    }

    pub(super) fn subject(&self) -> String {
        format!("signing in as `{}`", self.key)
    }
}

/// As Go's `clientv3/naming` writes it.
#[derive(Serialize)]
struct Naming {
    #[serde(rename = "Op")]
    operation: u8,
    #[serde(rename = "Addr")]
    address: String,
    #[serde(rename = "Metadata")]
    metadata: Value,
}

fn naming(provider: &Provider) -> String {
    let meta = provider.meta.iter();
    let mut metadata: Map<_, _> = meta
        .map(|(key, value)| (key.clone(), Value::from(value.as_str())))
        .collect();
    if provider.weight != 1 {
        metadata.insert("weight".to_owned(), provider.weight.into());
    }
    if provider.tls {
        metadata.insert("scheme".to_owned(), "https".into());
    }
    let naming = Naming {
        operation: 0,
        address: provider.address.to_string(),
        metadata: match metadata.is_empty() {
            true => Value::Null,
            false => Value::Object(metadata),
        },
    };
    serde_json::to_string(&naming).expect("texts and numbers make JSON")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::instance::Address;

    fn settings() -> config::Etcd {
        config::Etcd {
            addresses: vec!["http://127.0.0.1:2379".to_owned()],
            credentials: None,
            prefix: "/services/".to_owned(),
            tls: config::ClientTls::default(),
        }
    }

    fn provider() -> Provider {
        Provider {
            service: "cart".to_owned(),
            id: "cart-1".to_owned(),
            address: Address::new("10.0.0.7", 80).unwrap(),
            tls: false,
            tags: Vec::new(),
            meta: BTreeMap::new(),
            weight: 1,
            check: Check::Ttl(Duration::from_millis(9_500)),
            layout: Layout::GoKit,
        }
    }

    fn written(provider: &Provider) -> (String, String) {
        let text = Text::of("main", &settings(), provider).unwrap();
        (text.key, text.value)
    }

    #[test]
    fn the_entry_is_that_of_go_kits_registrar() {
        let mut provider = provider();
        let key = "/services/cart/10.0.0.7:80".to_owned();
        assert_eq!(written(&provider), (key, "10.0.0.7:80".to_owned()));
        provider.tls = true;
        assert_eq!(written(&provider).1, "https://10.0.0.7:80");
        provider.service = "/discovery/cart".to_owned();
        provider.address = Address::new("::1", 80).unwrap();
        assert_eq!(written(&provider).0, "/discovery/cart/[::1]:80");
        let text = Text::of("main", &settings(), &provider).unwrap();
        assert_eq!(text.ttl_seconds(), 10, "never shorter than it was asked");
    }

    #[test]
    fn the_layout_of_grpc_has_metadata_and_weight() {
        let mut provider = provider();
        provider.layout = Layout::Grpc;
        assert_eq!(
            written(&provider).1,
            r#"{"Op":0,"Addr":"10.0.0.7:80","Metadata":null}"#
        );
        provider.meta.insert("zone".to_owned(), "a".to_owned());
        (provider.weight, provider.tls) = (7, true);
        assert_eq!(
            written(&provider).1,
            r#"{"Op":0,"Addr":"10.0.0.7:80","Metadata":{"scheme":"https","weight":7,"zone":"a"}}"#
        );
    }

    #[test]
    fn what_etcd_cannot_do_is_refused_by_name() {
        let interval = Duration::from_secs(1);
        let url = "http://10.0.0.7/health".to_owned();
        let http = Check::Http { url, interval };
        for check in [http, Check::Tcp { interval }] {
            let asked = Provider {
                check,
                ..provider()
            };
            let error = Text::of("main", &settings(), &asked).unwrap_err();
            assert!(
                error
                    .to_string()
                    .starts_with("registry.main: etcd asks nobody")
            );
        }
        let layout = Layout::Curator;
        let asked = Provider {
            layout,
            ..provider()
        };
        let error = Text::of("main", &settings(), &asked).unwrap_err();
        assert!(error.to_string().contains("no layout `curator`"), "{error}");
    }
}
