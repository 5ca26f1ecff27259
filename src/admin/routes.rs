//! The routes, as the status shows them.

use std::{collections::BTreeMap, iter::zip, sync::Arc, time::Duration};

use serde::Serialize;
use serde_json::{Value, json};

use crate::{
    config::{self, Conditions, Expected, Goal, HostPattern},
    discovery::TaggedRoute,
    proxy::Rate,
    service::{Share, Split, TermStatus},
};

/// A route, as the file or a tag has it.
#[derive(Serialize)]
pub(super) struct RouteStatus {
    /// `None` for any.
    host: Option<String>,
    path: String,
    /// What else it asks of a request.
    #[serde(flatten)]
    conditions: ConditionsStatus,
    /// A service's name, or `{service}` where the request names it; none where it is split.
    service: Option<Arc<str>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    split: Vec<ShareStatus>,
    /// For how long other weights hold than the file's.
    #[serde(skip_serializing_if = "Option::is_none")]
    split_changed: Option<TermStatus>,
    /// None where its endpoints stand in the file.
    registries: Vec<Arc<str>>,
    /// What it says of its service's endpoints and policy.
    #[serde(flatten)]
    own: OwnStatus,
    /// How many requests a client may make; left out where any number.
    #[serde(skip_serializing_if = "Option::is_none")]
    rate: Option<RateStatus>,
    strip_prefix: bool,
    /// Its line in the file; none of a route that tags have made.
    line: Option<usize>,
    /// The file in which that is, where it is one that is included.
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<Arc<str>>,
    /// The services whose tags have made it.
    tagged_by: Vec<Arc<str>>,
}

#[derive(Serialize)]
struct RateStatus {
    requests: u32,
    per_seconds: f64,
    burst: u32,
    /// Where the key stands; none where all are counted together.
    by: Option<String>,
    /// Requests that there was nothing left for.
    limited: u64,
}

#[derive(Serialize)]
struct ShareStatus {
    service: Arc<str>,
    weight: u32,
    /// What it was sent.
    requests: u64,
    /// Where the file has another.
    #[serde(skip_serializing_if = "Option::is_none")]
    weight_of_file: Option<u32>,
}

/// What a route says that its service may say too; what it does not say is left out.
#[derive(Default, Serialize)]
struct OwnStatus {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tags: Vec<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    meta: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    balance: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    attempts: Option<u32>,
    /// In seconds; null for none.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    timeout: BTreeMap<&'static str, Option<f64>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fallback: Option<Arc<str>>,
}

/// A route's conditions, as the file has them; those that it has not are left out.
#[derive(Default, Serialize)]
struct ConditionsStatus {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    method: Vec<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    header: BTreeMap<String, Value>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    query: BTreeMap<String, Value>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    cookie: BTreeMap<String, Value>,
}

impl RouteStatus {
    /// `split` is how its requests are parted, if they are, and `rate` its limit, if it has one.
    pub(super) fn of(
        route: &config::Route,
        split: Option<&Split>,
        rate: Option<&Rate>,
        config: &config::Config,
    ) -> Self {
        let service = match &route.goal {
            Goal::Service(name) => Some(Arc::clone(name)),
            Goal::Template => Some("{service}".into()),
            Goal::Split(_) => None,
        };
        let policy = |name| {
            config
                .services
                .get(name)
                .map_or(&config.defaults, AsRef::as_ref)
        };
        let mut registries = Vec::new();
        let mut policies: Vec<_> = route.goal.services().map(policy).collect();
        if policies.is_empty() {
            policies.push(&config.defaults);
        }
        for name in policies
            .iter()
            .flat_map(|policy| policy.origin.registries())
        {
            if !registries.contains(name) {
                registries.push(Arc::clone(name));
            }
        }
        Self {
            host: host(&route.host),
            path: route.path.to_string(),
            conditions: ConditionsStatus::of(route.conditions()),
            service,
            split: split.map(ShareStatus::all).unwrap_or_default(),
            split_changed: split.and_then(Split::changed),
            registries,
            own: OwnStatus::of(route),
            rate: rate.map(RateStatus::of),
            strip_prefix: route.strip_prefix,
            line: Some(route.line),
            file: route.file.clone(),
            tagged_by: Vec::new(),
        }
    }

    pub(super) fn of_tags(route: &TaggedRoute) -> Self {
        let policy = route.service.policy();
        Self {
            host: host(&route.host),
            path: route.path.to_string(),
            conditions: ConditionsStatus::default(),
            service: Some(Arc::clone(route.service.name())),
            split: Vec::new(),
            split_changed: None,
            registries: policy.origin.registries().to_vec(),
            own: OwnStatus::default(),
            rate: None,
            strip_prefix: route.strip > 0,
            line: None,
            file: None,
            tagged_by: route.tagged_by.clone(),
        }
    }
}

impl RateStatus {
    fn of(rate: &Rate) -> Self {
        let rule = rate.rule();
        Self {
            requests: rule.requests,
            per_seconds: rule.per.as_secs_f64(),
            burst: rule.burst,
            by: rule.by.as_ref().map(ToString::to_string),
            limited: rate.limited(),
        }
    }
}

impl ShareStatus {
    fn all(split: &Split) -> Vec<Self> {
        let weights = zip(split.weights(), split.weights_of_file());
        let shares = zip(split.shares(), weights);
        let status = |(share, (weight, of_file)): (&Share, (u32, &u32))| Self {
            service: Arc::clone(share.service.name()),
            weight,
            requests: share.requests(),
            weight_of_file: Some(*of_file).filter(|of_file| *of_file != weight),
        };
        shares.map(status).collect()
    }
}

impl OwnStatus {
    fn of(route: &config::Route) -> Self {
        let subset = route.subset.as_deref();
        let overrides = route.overrides();
        let seconds = |value: Option<Duration>| value.map(|value| value.as_secs_f64());
        let timeouts = [
            ("connect", overrides.connect.map(Some)),
            ("response", overrides.response.map(Some)),
            ("idle", overrides.idle.map(Some)),
            ("total", overrides.total),
            ("tunnel", overrides.tunnel),
        ];
        let timeouts = timeouts.into_iter();
        Self {
            tags: subset.map_or(Vec::new(), |subset| subset.tags.clone()),
            meta: subset.map_or(BTreeMap::new(), |subset| subset.meta.clone()),
            balance: subset.and_then(|subset| Some(subset.balance.as_ref()?.as_str())),
            attempts: overrides.attempts,
            timeout: timeouts
                .filter_map(|(key, value)| Some((key, seconds(value?))))
                .collect(),
            fallback: route.fallback.clone(),
        }
    }
}

impl ConditionsStatus {
    fn of(conditions: &Conditions) -> Self {
        let methods = conditions.methods.iter();
        Self {
            method: methods.map(ToString::to_string).collect(),
            header: expected(&conditions.headers),
            query: expected(&conditions.queries),
            cookie: expected(&conditions.cookies),
        }
    }
}

fn expected<N: ToString>(conditions: &[(N, Expected)]) -> BTreeMap<String, Value> {
    let shown = |expected: &Expected| match expected {
        Expected::Present => json!(true),
        Expected::Absent => json!(false),
        Expected::Exactly(text) => json!(text),
        Expected::Prefix(text) => json!({ "prefix": text }),
    };
    let conditions = conditions.iter();
    conditions
        .map(|(name, expected)| (name.to_string(), shown(expected)))
        .collect()
}

fn host(pattern: &HostPattern) -> Option<String> {
    (*pattern != HostPattern::Any).then(|| pattern.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_shown_as_they_were_written() {
        let parsed = |text: &str| {
            let text = format!("[[route]]\n{text}\nservice = \"{{service}}\"\n");
            let config = config::Config::parse(&text, std::path::Path::new(".")).unwrap();
            RouteStatus::of(&config.routes[0], None, None, &config)
        };
        let shown = parsed("path = \"/v1/{service}\"");
        assert_eq!((shown.host, &*shown.path), (None, "/v1/{service}"));
        let shown = parsed("host = \"{service}.internal\"");
        assert_eq!(shown.host.as_deref(), Some("{service}.internal"));
        assert_eq!(shown.path, "/");
        let shown = parsed("host = \"*.example.com\"\npath = \"/{service}\"");
        assert_eq!(shown.host.as_deref(), Some("*.example.com"));
    }

    #[test]
    fn conditions_are_shown_as_they_were_written() {
        let text = "[[route]]\nmethod = \"GET\"\nheader = { a = true, b = { prefix = \"1\" } }\n\
            cookie = { c = \"2\" }\nservice = \"cart\"\n";
        let config = config::Config::parse(text, std::path::Path::new(".")).unwrap();
        let shown = RouteStatus::of(&config.routes[0], None, None, &config);
        let shown = serde_json::to_value(&shown).unwrap();
        assert_eq!(shown["method"], json!(["GET"]));
        assert_eq!(
            shown["header"],
            json!({ "a": true, "b": { "prefix": "1" } })
        );
        assert_eq!(shown["cookie"], json!({ "c": "2" }));
        assert_eq!(shown.get("query"), None);
    }
}
