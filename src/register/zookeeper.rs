//! An entry in ZooKeeper: an ephemeral node, as go-kit's registrar writes it, or as Curator's
//! service discovery does. It lives as long as the session that it was made in.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::future::BoxFuture;
use serde_json::{Map, Value, json};
use zookeeper_client::{Acl, Acls, Client, CreateMode, Error, Permission};

use super::{Check, Entry, Layout, Provider};
use crate::{
    config,
    registry::{
        BuildError, RegistryError,
        zookeeper::{Ensemble, Fault, PROTECTED, Session, node_of},
    },
};

/// A connection that is back after so long has its session still, and the entry with it. A server
/// that has lost its data never takes the session back, so it is not waited for longer.
const RETURN: Duration = Duration::from_secs(2);

/// What a user that signs in leaves to others: to see it.
const OWN: [Acl; 2] = [
    Acl::new_const(Permission::ALL, "auth", ""),
    Acl::new_const(Permission::READ, "world", "anyone"),
];

/// One provider's node.
pub(super) struct ZooKeeper {
    ensemble: Ensemble,
    acls: Acls<'static>,
    /// The service's node, which stays.
    folder: String,
    name: Name,
    data: Vec<u8>,
    /// For errors.
    id: String,
    session: Option<Session>,
    /// The node as the server has named it.
    node: Option<String>,
}

/// What the node is called.
enum Name {
    /// This, and a number of the server's.
    Sequential(String),
    /// This.
    Plain(String),
}

impl ZooKeeper {
    pub(super) fn new(
        registry: &str,
        settings: &config::ZooKeeper,
        provider: Provider,
    ) -> Result<Self, BuildError> {
        let unsuited = |reason: &str| BuildError::unsuited(registry, reason);
        let timeout = match provider.check {
            Check::Ttl(timeout) => timeout,
            Check::Http { .. } => {
                return Err(unsuited(
                    "ZooKeeper runs no HTTP checks; take `ttl`, which is a session's time-out",
                ));
            }
            Check::Tcp { .. } => {
                return Err(unsuited(
                    "ZooKeeper runs no TCP checks; take `ttl`, which is a session's time-out",
                ));
            }
        };
        let (name, data) = match provider.layout {
            Layout::GoKit => (Name::Sequential(prefix(&provider)), plain(&provider)),
            Layout::Curator if provider.id.contains('/') => {
                return Err(unsuited(
                    "an id in Curator's layout is a node's name, which has no slash",
                ));
            }
            Layout::Curator => (Name::Plain(provider.id.clone()), curator(&provider)),
            Layout::Grpc => {
                return Err(unsuited(
                    "gRPC's naming is a layout of etcd; take `go-kit` or `curator`",
                ));
            }
        };
        Ok(Self {
            ensemble: Ensemble::new(registry, settings, timeout),
            acls: match settings.digest {
                Some(_) => Acls::new(const { &OWN }),
                None => Acls::anyone_all(),
            },
            folder: node_of(settings, &provider.service),
            name,
            data: data.into_bytes(),
            id: provider.id,
            session: None,
            node: None,
        })
    }

    /// Sees to a session whose connection stands. Hands over the one that it takes the place of:
    /// where that still can, it is closed when it goes, and its node goes with it.
    async fn connect(&mut self) -> Result<Option<Session>, Fault> {
        if self.session.as_ref().is_some_and(Session::stands) {
            return Ok(None);
        }
        // Where no server is to be had, the old one may come back yet.
        let new = self.ensemble.open().await?;
        self.node = None;
        Ok(self.session.replace(new))
    }

    async fn enter(&mut self) -> Result<(), Fault> {
        // Kept until the new node is there.
        let _former = self.connect().await?;
        let Self {
            ensemble,
            acls,
            folder,
            name,
            data,
            session,
            node,
            ..
        } = self;
        let session = session.as_mut().expect("it is connected");
        let client = session.client.clone();
        let entering = async {
            make(&client, folder, *acls).await?;
            match name {
                Name::Sequential(prefix) => {
                    enter_protected(&client, folder, prefix, data, *acls).await
                }
                Name::Plain(name) => enter_plain(&client, folder, name, data, *acls).await,
            }
        };
        let entered = session.during(entering).await?;
        *node = Some(entered.map_err(|error| ensemble.fault(folder, error))?);
        Ok(())
    }

    /// Returns when the node is gone, or its session.
    async fn stand(&mut self) -> Fault {
        let (Some(session), Some(node)) = (&mut self.session, &self.node) else {
            return Fault::Lost;
        };
        let client = session.client.clone();
        loop {
            let watching = async {
                let (stat, watch) = client.check_and_watch_stat(node).await?;
                let own = stat.is_some_and(|stat| stat.ephemeral_owner == client.session_id().0);
                if own {
                    watch.changed().await;
                }
                Ok::<_, Error>(own)
            };
            match session.during(watching).await {
                Ok(Ok(true)) => {}
                Ok(Ok(false)) => return Fault::Gone { path: node.clone() },
                Ok(Err(error)) => return self.ensemble.fault(node, error),
                Err(lost) if session.returns(RETURN).await => drop(lost),
                Err(lost) => return lost,
            }
        }
    }

    async fn leave(&mut self) -> Result<(), Fault> {
        self.connect().await?;
        let Self {
            ensemble,
            folder,
            name,
            session,
            ..
        } = self;
        let session = session.as_mut().expect("it is connected");
        let client = session.client.clone();
        let leaving = async {
            let nodes = match name {
                Name::Sequential(prefix) => protected(&client, folder, prefix).await?,
                Name::Plain(name) => vec![format!("{folder}/{name}")],
            };
            for node in nodes {
                gone(client.delete(&node, None).await)?;
            }
            Ok(())
        };
        let left = session.during(leaving).await?;
        left.map_err(|error| ensemble.fault(folder, error))?;
        self.session = None;
        self.node = None;
        Ok(())
    }
}

impl Entry for ZooKeeper {
    fn sign_in(&mut self) -> BoxFuture<'_, Result<(), RegistryError>> {
        Box::pin(async {
            self.enter().await.map_err(|fault| {
                if fault.is_of_the_session() {
                    self.session = None;
                }
                let wanted = format!("does not take the entry `{}`", self.id);
                self.ensemble.explain(&wanted, &fault)
            })
        })
    }

    fn keep(&mut self) -> BoxFuture<'_, RegistryError> {
        Box::pin(async {
            let fault = self.stand().await;
            let wanted = format!("has lost the entry `{}`", self.id);
            self.ensemble.explain(&wanted, &fault)
        })
    }

    fn sign_out(&mut self) -> BoxFuture<'_, Result<(), RegistryError>> {
        Box::pin(async {
            self.leave().await.map_err(|fault| {
                let wanted = format!("does not give up the entry `{}`", self.id);
                self.ensemble.explain(&wanted, &fault)
            })
        })
    }
}

/// Makes a node and those above it, which stay. Nothing is written where it is there already, and
/// so no right to do that is needed.
async fn make(client: &Client, path: &str, acls: Acls<'_>) -> Result<(), Error> {
    if client.check_stat(path).await?.is_some() {
        return Ok(());
    }
    let options = CreateMode::Persistent.with_acls(acls);
    client.mkdir(path, &options).await
}

/// Makes the protected node of this prefix, unless this session has one. What an earlier session
/// has left goes after that, so that the provider is never missing.
async fn enter_protected(
    client: &Client,
    folder: &str,
    prefix: &str,
    data: &[u8],
    acls: Acls<'_>,
) -> Result<String, Error> {
    let mut own = None;
    let mut left = Vec::new();
    for node in protected(client, folder, prefix).await? {
        match client.check_stat(&node).await? {
            Some(stat) if stat.ephemeral_owner == client.session_id().0 => own = Some(node),
            Some(_) => left.push(node),
            None => {}
        }
    }
    let own = match own {
        Some(node) => node,
        None => {
            let path = format!("{folder}/{prefix}");
            let options = CreateMode::EphemeralSequential.with_acls(acls);
            let (_, number) = client.create(&path, data, &options).await?;
            format!("{path}{number}")
        }
    };
    for node in left {
        gone(client.delete(&node, None).await)?;
    }
    Ok(own)
}

/// Makes the node of this name. One that an earlier session has left is replaced at one moment.
async fn enter_plain(
    client: &Client,
    folder: &str,
    name: &str,
    data: &[u8],
    acls: Acls<'_>,
) -> Result<String, Error> {
    let node = format!("{folder}/{name}");
    let options = CreateMode::Ephemeral.with_acls(acls);
    match client.check_stat(&node).await? {
        Some(stat) if stat.ephemeral_owner == client.session_id().0 => {}
        Some(stat) => {
            let mut both = client.new_multi_writer();
            both.add_delete(&node, Some(stat.version))?;
            both.add_create(&node, data, &options)?;
            both.commit().await?;
        }
        None => {
            client.create(&node, data, &options).await?;
        }
    }
    Ok(node)
}

/// All nodes of this prefix.
async fn protected(client: &Client, folder: &str, prefix: &str) -> Result<Vec<String>, Error> {
    let names = match client.list_children(folder).await {
        Err(Error::NoNode) => Vec::new(),
        names => names?,
    };
    let names = names.into_iter().filter(|name| name.starts_with(prefix));
    Ok(names.map(|name| format!("{folder}/{name}")).collect())
}

fn gone(deleted: Result<(), Error>) -> Result<(), Error> {
    match deleted {
        Err(Error::NoNode) => Ok(()),
        deleted => deleted,
    }
}

/// What go-kit's registrar begins a node's name with: `_c_<GUID>-`. Its GUID is random; ours comes
/// of the provider's name and id, so that a provider that was killed and started again finds, and
/// takes away, what its last life has left.
fn prefix(provider: &Provider) -> String {
    // FNV-1a, 128 bits (draft-eastlake-fnv): the same today and tomorrow, on every machine.
    let bytes = provider
        .service
        .bytes()
        .chain([0])
        .chain(provider.id.bytes());
    let guid = bytes.fold(
        0x6c62_272e_07bb_0142_62b8_2175_6295_c58d_u128,
        |hash, byte| (hash ^ u128::from(byte)).wrapping_mul(0x0100_0000_0000_0000_0000_013b),
    );
    format!("{PROTECTED}{guid:032x}-")
}

fn plain(provider: &Provider) -> String {
    let scheme = if provider.tls { "https://" } else { "" };
    format!("{scheme}{}", provider.address)
}

/// Curator's `ServiceInstance`, with the payload of Spring Cloud's.
fn curator(provider: &Provider) -> String {
    let port = json!(provider.address.port());
    let (port, ssl_port) = match provider.tls {
        false => (port, Value::Null),
        true => (Value::Null, port),
    };
    let mut metadata: Map<String, Value> = provider
        .meta
        .iter()
        .map(|(key, value)| (key.clone(), json!(value)))
        .collect();
    if provider.weight != 1 {
        let weight = json!(provider.weight.to_string());
        metadata.entry("weight").or_insert(weight);
    }
    let part = |value: &str, variable: bool| json!({"value": value, "variable": variable});
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.map_or(0, |now| now.as_millis() as u64);
    json!({
        "name": provider.service,
        "id": provider.id,
        "address": provider.address.host(),
        "port": port,
        "sslPort": ssl_port,
        "payload": {
            "@class": "org.springframework.cloud.zookeeper.discovery.ZookeeperInstance",
            "id": provider.id,
            "name": provider.service,
            "metadata": metadata,
        },
        "registrationTimeUTC": now,
        "serviceType": "DYNAMIC",
        "uriSpec": {"parts": [
            part("scheme", true),
            part("://", false),
            part("address", true),
            part(":", false),
            part("port", true),
        ]},
        "enabled": true,
    })
    .to_string()
}
