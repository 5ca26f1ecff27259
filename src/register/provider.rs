//! What a provider says of itself.

use std::{collections::BTreeMap, time::Duration};

use crate::instance::Address;

/// What a provider says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Provider {
    /// The service that it is an instance of.
    pub service: String,
    /// Its id, unique within the service.
    pub id: String,
    /// Where it is called.
    pub address: Address,
    /// Whether it speaks TLS there.
    pub tls: bool,
    /// Tags, where the registry and the layout have such.
    pub tags: Vec<String>,
    /// Metadata, where the registry and the layout have such.
    pub meta: BTreeMap<String, String>,
    /// Its share relative to the others, from 1.
    pub weight: u32,
    /// How the registry finds out that it is gone.
    pub check: Check,
    /// How the entry is written.
    pub layout: Layout,
}

impl Provider {
    /// An instance of `service` that is called at `address`, without TLS, tags or metadata; its id
    /// is made of the two. Ten seconds without a sign of life and it is taken to be gone.
    pub fn new(service: &str, address: Address) -> Self {
        Self {
            service: service.to_owned(),
            id: format!("{service}-{address}"),
            address,
            tls: false,
            tags: Vec::new(),
            meta: BTreeMap::new(),
            weight: 1,
            check: Check::Ttl(Duration::from_secs(10)),
            layout: Layout::default(),
        }
    }
}

/// How a registry finds out that a provider is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Check {
    /// The provider has given no sign of life for this long: a TTL, a lease, or a session's
    /// time-out. A third of it lies between two signs.
    Ttl(Duration),
    /// The registry asks this URL every so often (Consul only).
    Http {
        /// What is asked; a 2xx is good.
        url: String,
        /// How often.
        interval: Duration,
    },
    /// The registry connects to the provider's address every so often (Consul only).
    Tcp {
        /// How often.
        interval: Duration,
    },
}

/// How an entry is written, where a registry knows several ways.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Layout {
    /// As go-kit's registrar of that registry writes it.
    #[default]
    GoKit,
    /// etcd: the JSON of gRPC's naming, with metadata and weight.
    Grpc,
    /// ZooKeeper: the JSON of Curator's service discovery, as Spring Cloud reads it.
    Curator,
}

impl Layout {
    /// As the command line has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::GoKit => "go-kit",
            Self::Grpc => "grpc",
            Self::Curator => "curator",
        }
    }
}
