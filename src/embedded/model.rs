//! What the registry holds: services and their checks, as the journal keeps them. A value here
//! has been validated. Knows nothing of HTTP, of Consul's field names or of who is waiting.

use std::{collections::BTreeMap, ops::Deref, time::Duration};

use serde::{Deserialize, Serialize};

/// One registered instance of a service.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Service {
    /// Unique on this node.
    pub(super) id: String,
    pub(super) name: String,
    pub(super) tags: Vec<String>,
    /// Empty where the instance is at the node's address.
    pub(super) address: String,
    /// As it was registered: 0 where there was none, and possibly no port at all.
    pub(super) port: i64,
    pub(super) socket_path: String,
    pub(super) tagged_addresses: BTreeMap<String, TaggedAddress>,
    /// `None` where the registration had none, which the answers tell apart from an empty one.
    pub(super) meta: Option<BTreeMap<String, String>>,
    pub(super) weights: Weights,
    pub(super) enable_tag_override: bool,
}

/// One of a service's further addresses.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct TaggedAddress {
    #[serde(rename = "Address")]
    pub(super) address: String,
    #[serde(rename = "Port")]
    pub(super) port: i64,
}

/// A service's shares while its checks pass and while they warn.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Weights {
    #[serde(rename = "Passing")]
    pub(super) passing: u16,
    #[serde(rename = "Warning")]
    pub(super) warning: u16,
}

impl Default for Weights {
    fn default() -> Self {
        Self {
            passing: 1,
            warning: 1,
        }
    }
}

/// A check and its present status.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Check {
    /// Unique on this node.
    pub(super) id: String,
    pub(super) name: String,
    pub(super) notes: String,
    /// The service's id; `None` for a check of the node, which every instance shares.
    pub(super) service: Option<String>,
    pub(super) kind: Kind,
    /// How long it may be critical before its service is deregistered; at least a minute.
    pub(super) deregister_after: Option<Duration>,
    pub(super) status: Status,
    /// What the last run said. Changes of it alone are not kept on disk.
    pub(super) output: String,
}

/// Who decides a check's status, and how.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) enum Kind {
    /// The provider, at least once in this time.
    Ttl(Duration),
    /// This registry, by calling.
    Probe(Probe),
    /// The operator who turned on maintenance; the check is critical until it is turned off.
    Maintenance,
}

/// A check that this registry runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Probe {
    pub(super) target: Target,
    /// From one run's end to the next's start; at least a second.
    pub(super) interval: Duration,
    /// As it was registered; `None` means [`DEFAULT_TIMEOUT`].
    pub(super) timeout: Option<Duration>,
    pub(super) thresholds: Thresholds,
    /// Bytes of an answer that are kept.
    pub(super) output_max: usize,
}

/// How long a probe may take where its registration does not say.
pub(super) const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);

/// What a probe calls.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) enum Target {
    /// A request; 2xx passes, 429 warns, all else is critical.
    Http(HttpTarget),
    /// A connection to `host:port`.
    Tcp(String),
}

/// The request of an HTTP probe.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct HttpTarget {
    pub(super) url: String,
    pub(super) method: String,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: String,
    pub(super) skip_verify: bool,
    pub(super) follow_redirects: bool,
}

/// How many results in a row change a probe's status; 0 is as 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Thresholds {
    pub(super) passing: u32,
    pub(super) warning: u32,
    pub(super) critical: u32,
}

/// A check's status, from best to worst.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Status {
    Passing,
    Warning,
    Critical,
}

impl Status {
    /// The status of this name.
    pub(super) fn named(name: &str) -> Option<Self> {
        match name {
            "passing" => Some(Self::Passing),
            "warning" => Some(Self::Warning),
            "critical" => Some(Self::Critical),
            _ => None,
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Passing => "passing",
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }
}

/// Something that the registry holds, and when it came and last changed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Indexed<T> {
    pub(super) created: u64,
    pub(super) modified: u64,
    value: T,
}

impl<T> Indexed<T> {
    /// `value` as it stands since `index`, in the place of `before`.
    pub(super) fn replacing(before: Option<&Self>, value: T, index: u64) -> Self {
        Self {
            created: before.map_or(index, |before| before.created),
            modified: index,
            value,
        }
    }

    pub(super) fn value(&self) -> &T {
        &self.value
    }
}

impl<T> Deref for Indexed<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}
