//! The registry as this process reads it: a [`Registry`] over the store itself, without a
//! connection, a query or JSON. What it says is what a Consul reader makes of the HTTP answers.

use std::sync::Arc;

use futures_util::future::BoxFuture;

use super::{
    model::{Check, Indexed, Status},
    render::Node,
    state::{Entry, State, Topic},
    store::Store,
    waiting::Watch,
};
use crate::{
    evidence::Mark,
    instance::{Address, Instance, InstanceSet, MAX_WEIGHT, Skipped},
    registry::{Catalog, Registry, RegistryError, ServiceQuery, Source, consul::in_one_spelling},
};

/// Reads the store of this process.
pub(super) struct Reader {
    store: Arc<Store>,
    node: Arc<Node>,
}

impl Reader {
    pub(super) fn new(store: Arc<Store>, node: Node) -> Self {
        Self {
            store,
            node: Arc::new(node),
        }
    }

    fn cursor<T: Send + 'static>(
        &self,
        topic: Topic,
        look: impl Fn(&State) -> T + Send + 'static,
    ) -> Box<dyn Source<T>> {
        Box::new(Cursor {
            store: Arc::clone(&self.store),
            topic,
            watch: None,
            look,
        })
    }
}

impl Registry for Reader {
    fn service(&self, query: ServiceQuery) -> Box<dyn Source<InstanceSet>> {
        let (node, topic) = (Arc::clone(&self.node), Topic::name(&query.name));
        let look = {
            let topic = topic.clone();
            move |state: &State| instances(state, &node, &topic, &query)
        };
        self.cursor(topic, look)
    }

    fn catalog(&self) -> Option<Box<dyn Source<Catalog>>> {
        Some(self.cursor(Topic::Catalog, catalog))
    }

    /// It loses nothing while this process runs, and with the process goes what was read of it: what
    /// it does not list any more was signed out.
    fn is_lost_when_empty(&self) -> bool {
        false
    }
}

/// What of the store is wanted, again whenever it has changed.
struct Cursor<L> {
    store: Arc<Store>,
    topic: Topic,
    /// `None` before the first look.
    watch: Option<Watch>,
    look: L,
}

impl<T: Send + 'static, L: Fn(&State) -> T + Send + 'static> Source<T> for Cursor<L> {
    fn next(&mut self) -> BoxFuture<'_, Result<T, RegistryError>> {
        Box::pin(async move {
            match &mut self.watch {
                Some(watch) => watch.changed().await,
                // Before the look: no change falls between the two.
                None => self.watch = Some(self.store.watch(&self.topic)),
            }
            let looked = self.store.try_read(&self.look);
            // What it said last goes on meanwhile, as with any registry that is away.
            looked.map_err(RegistryError::new)
        })
    }
}

fn instances(state: &State, node: &Node, topic: &Topic, query: &ServiceQuery) -> InstanceSet {
    let shared: Vec<_> = state.node_checks().values().collect();
    let entries = state.named(&query.name);
    let entries = entries.filter(|entry| query.tags.iter().all(|tag| entry.has_tag(tag)));
    InstanceSet::of(entries.map(|entry| instance(node, &shared, entry))).with(Mark {
        revision: Some(state.index_of(topic).max(1)),
        ..Mark::default()
    })
}

fn instance(
    node: &Node,
    shared: &[&Arc<Indexed<Check>>],
    entry: &Entry,
) -> Result<Instance, Skipped> {
    let service = entry.service.value();
    let id = format!("{}/{}", node.name(), service.id);
    let host = match service.address.as_str() {
        "" => node.address().to_string(),
        address => address.to_owned(),
    };
    let address = Address::new(&host, service.port).map_err(|error| Skipped {
        id: id.clone(),
        reason: match service.socket_path.as_str() {
            "" => error.to_string(),
            path => format!("it listens on the socket {path} only"),
        },
    })?;
    let mut checks = shared.iter().copied().chain(entry.checks.values());
    let mut meta = node.meta_of_instances();
    meta.extend(service.meta.clone().unwrap_or_default());
    Ok(Instance {
        id: id.into(),
        address,
        tls: false,
        healthy: checks.all(|check| check.status == Status::Passing),
        weight: u32::from(service.weights.passing).clamp(1, MAX_WEIGHT),
        tags: service.tags.clone(),
        meta,
    }
    .heed_meta())
}

fn catalog(state: &State) -> Catalog {
    let names = state.catalog().into_iter();
    let listed = names.map(|(name, tags)| (name, tags.into_iter().map(str::to_owned)));
    in_one_spelling(listed)
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use tokio_util::sync::CancellationToken;

    use super::super::{Server, decode};
    use super::*;
    use crate::{
        config::{Embedded, RegistryKind},
        registry,
    };

    const REGISTRATIONS: [&str; 9] = [
        r#"{"Name": "web", "ID": "w1", "Port": 80, "Tags": ["v1", "Blue"], "Meta": {"a": "b"}}"#,
        r#"{"Name": "web", "ID": "w2", "Address": "10.0.0.2", "Port": 81, "Tags": ["v2"],
            "Weights": {"Passing": 7, "Warning": 1}, "Check": {"TTL": "10s"}}"#,
        r#"{"Name": "web", "ID": "w3", "Address": "::1", "Port": 82,
            "Check": {"TTL": "10s", "Status": "passing"}, "Meta": {"scheme": "https"}}"#,
        r#"{"Name": "web", "ID": "none"}"#,
        r#"{"Name": "web", "ID": "socket", "SocketPath": "/run/web"}"#,
        r#"{"Name": "web", "ID": "odd", "Address": "not a host", "Port": 80}"#,
        r#"{"Name": "api", "ID": "a1", "Port": 90, "Tags": ["v1"]}"#,
        r#"{"Name": "Consul", "ID": "c1", "Port": 90}"#,
        r#"{"Name": "WEB", "ID": "w4", "Port": 91, "Tags": ["v3", "v1"], "Meta": {"secure": "true"}}"#,
    ];

    async fn bind(folder: &std::path::Path) -> (Server, Embedded) {
        let mut settings = Embedded {
            address: "127.0.0.1:0".parse().unwrap(),
            data: folder.to_owned(),
            token: None,
            hosts: Vec::new(),
        };
        let server = Server::bind(&settings).await.unwrap();
        settings.address = server.address();
        (server, settings)
    }

    fn register(server: &Server, body: &str) {
        let (service, checks) = decode::registration(body.as_bytes()).unwrap();
        server
            .context
            .store
            .register(service, checks, false)
            .unwrap();
    }

    fn query(name: &str, tags: &[&str]) -> ServiceQuery {
        ServiceQuery {
            name: name.to_owned(),
            tags: tags.iter().map(|tag| (*tag).to_owned()).collect(),
            ..ServiceQuery::default()
        }
    }

    #[tokio::test]
    async fn it_says_what_a_reader_makes_of_the_answers_over_http() {
        let folder = tempfile::tempdir().unwrap();
        let (server, settings) = bind(folder.path()).await;
        REGISTRATIONS
            .iter()
            .for_each(|body| register(&server, body));
        let here = server.reader();
        let there = registry::open("embedded", &RegistryKind::Embedded(settings)).unwrap();
        let ending = CancellationToken::new();
        let running = tokio::spawn(server.run(ending.clone()));
        for (name, tags) in [
            ("web", &[][..]),
            ("Web", &["V1"]),
            ("web", &["v1", "blue"]),
            ("api", &[]),
            ("none", &[]),
        ] {
            let read = async |from: &Arc<dyn Registry>| {
                from.service(query(name, tags)).next().await.unwrap()
            };
            let (own, others) = (read(&here).await, read(&there).await);
            assert_eq!(own, others, "{name} {tags:?}");
            assert_eq!(own.evidence.revision(), others.evidence.revision());
        }
        let catalog =
            async |from: &Arc<dyn Registry>| from.catalog().unwrap().next().await.unwrap();
        assert_eq!(catalog(&here).await, catalog(&there).await);
        assert!(!here.is_lost_when_empty() && there.is_lost_when_empty());
        ending.cancel();
        running.await.unwrap();
    }

    #[tokio::test]
    async fn it_needs_no_connection_and_is_woken_by_its_own_changes_only() {
        let folder = tempfile::tempdir().unwrap();
        let (server, _) = bind(folder.path()).await;
        register(&server, REGISTRATIONS[0]);
        let reader = server.reader();
        let mut web = reader.service(query("web", &[]));
        let mut catalog = reader.catalog().unwrap();
        assert_eq!(web.next().await.unwrap().instances.len(), 1);
        assert_eq!(catalog.next().await.unwrap().len(), 1);
        register(&server, REGISTRATIONS[6]);
        assert!(web.next().now_or_never().is_none());
        assert_eq!(catalog.next().await.unwrap().len(), 2);
        // A change while it is not asked is not lost.
        register(&server, REGISTRATIONS[1]);
        assert_eq!(web.next().await.unwrap().instances.len(), 2);
        assert_eq!(catalog.next().await.unwrap()["web"].len(), 3);
        // What the others of a name say as well is no news to the catalog.
        register(
            &server,
            r#"{"Name": "web", "ID": "w9", "Port": 80, "Tags": ["v2"]}"#,
        );
        assert!(catalog.next().now_or_never().is_none());
        assert_eq!(web.next().await.unwrap().instances.len(), 3);
    }
}
