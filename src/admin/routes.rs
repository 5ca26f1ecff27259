//! The routes, as the status shows them.

use std::{collections::BTreeMap, sync::Arc};

use serde::Serialize;
use serde_json::{Value, json};

use crate::{
    config::{self, Conditions, Expected, Goal, HostPattern, PathPattern, Segment},
    service::TaggedRoute,
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
    /// A service's name, or `{service}` where the request names it.
    service: Arc<str>,
    /// None where its endpoints stand in the file.
    registries: Vec<Arc<str>>,
    strip_prefix: bool,
    /// Its line in the file; none of a route that tags have made.
    line: Option<usize>,
    /// The services whose tags have made it.
    tagged_by: Vec<Arc<str>>,
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
    pub(super) fn of(route: &config::Route, config: &config::Config) -> Self {
        let (service, policy) = match &route.goal {
            Goal::Service(name) => {
                let service = config.services.get(name).unwrap_or(&config.defaults);
                (Arc::clone(name), service)
            }
            Goal::Template => ("{service}".into(), &config.defaults),
        };
        Self {
            host: host(&route.host),
            path: path(&route.path),
            conditions: ConditionsStatus::of(&route.conditions),
            service,
            registries: policy.origin.registries().to_vec(),
            strip_prefix: route.strip_prefix,
            line: Some(route.line),
            tagged_by: Vec::new(),
        }
    }

    pub(super) fn of_tags(route: &TaggedRoute) -> Self {
        let policy = route.service.policy();
        Self {
            host: host(&route.host),
            path: path(&route.path),
            conditions: ConditionsStatus::default(),
            service: Arc::clone(route.service.name()),
            registries: policy.origin.registries().to_vec(),
            strip_prefix: route.strip > 0,
            line: None,
            tagged_by: route.tagged_by.clone(),
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

/// As the file has it.
fn host(pattern: &HostPattern) -> Option<String> {
    match pattern {
        HostPattern::Any => None,
        HostPattern::Exact(host) => Some(host.clone()),
        HostPattern::Wildcard(parent) => Some(format!("*.{parent}")),
        HostPattern::Template(parent) => Some(format!("{{service}}.{parent}")),
    }
}

fn path(pattern: &PathPattern) -> String {
    let segments: Vec<_> = pattern
        .segments
        .iter()
        .map(|segment| match segment {
            Segment::Literal(literal) => literal,
            Segment::Service => "{service}",
        })
        .collect();
    format!("/{}", segments.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_shown_as_they_were_written() {
        let parsed = |text: &str| {
            let text = format!("[[route]]\n{text}\nservice = \"{{service}}\"\n");
            let config = config::Config::parse(&text, std::path::Path::new(".")).unwrap();
            RouteStatus::of(&config.routes[0], &config)
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
        let shown = RouteStatus::of(&config.routes[0], &config);
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
