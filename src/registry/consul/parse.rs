//! Consul's JSON → instances and names, entry by entry, so that one malformed entry costs itself
//! and nothing else. Knows nothing of HTTP.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::{
    config::Warnings,
    instance::{Address, Instance, InstanceSet, MAX_WEIGHT, Skipped, in_any_case},
    registry::{
        Catalog,
        bounded::{Fields, List},
    },
};

/// The key under which an instance's datacenter stands in its metadata, beside the `consul-…` keys
/// that Consul itself puts into a node's.
const DATACENTER: &str = "consul-datacenter";

/// Reads an answer of `/v1/health/service/:name`.
///
/// # Errors
/// Where the body is not a JSON array.
pub(super) fn instances(body: &[u8], warnings: Warnings) -> serde_json::Result<InstanceSet> {
    let List(entries) = serde_json::from_slice(body)?;
    Ok(InstanceSet::of(
        entries
            .into_iter()
            .map(|entry| instance(entry.get(), warnings)),
    ))
}

/// Reads an answer of `/v1/catalog/services`, without Consul itself and without the services that
/// no instance with all of `tags` can belong to. A service whose tags cannot be read has none.
/// Names are in small letters: Consul lists each spelling by itself, and answers a question for any
/// of them with the instances of all.
///
/// # Errors
/// Where the body is not a JSON object.
pub(super) fn catalog(body: &[u8], tags: &[String]) -> serde_json::Result<Catalog> {
    let Fields(services) = serde_json::from_slice(body)?;
    let mut catalog = in_one_spelling(services.iter().map(|(name, tags)| {
        let tags: Vec<String> = serde_json::from_str(tags.get()).unwrap_or_default();
        (name.as_str(), tags.into_iter())
    }));
    catalog.retain(|_, has| tags.iter().all(|tag| contains(has, tag)));
    Ok(catalog)
}

/// A catalog of what is listed under each spelling of a name, without Consul itself: all of them are
/// one service, and have one another's tags.
pub(crate) fn in_one_spelling<'a>(
    listed: impl Iterator<Item = (&'a str, impl Iterator<Item = String>)>,
) -> Catalog {
    let mut catalog = Catalog::new();
    for (name, tags) in listed {
        let all = catalog.entry(in_any_case(name).into()).or_default();
        if all.is_empty() {
            all.extend(tags);
        } else {
            let new: Vec<_> = tags.filter(|tag| !all.contains(tag)).collect();
            all.extend(new);
        }
    }
    catalog.remove("consul");
    catalog
}

/// Consul compares tags without regard to case.
fn contains(tags: &[String], wanted: &str) -> bool {
    let wanted = wanted.to_lowercase();
    tags.iter().any(|tag| tag.to_lowercase() == wanted)
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    node: Node,
    service: Service,
    checks: Option<Vec<Check>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Node {
    node: String,
    address: Option<String>,
    datacenter: Option<String>,
    meta: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Service {
    #[serde(rename = "ID")]
    id: String,
    /// Empty for what is called; else a part of Consul's own mesh.
    kind: Option<String>,
    address: Option<String>,
    port: Option<i64>,
    socket_path: Option<String>,
    tags: Option<Vec<String>>,
    meta: Option<BTreeMap<String, String>>,
    weights: Option<Weights>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Weights {
    passing: Option<i64>,
    warning: Option<i64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Check {
    status: String,
}

/// Kinds of a service that is called like any other.
const CALLED: [&str; 3] = ["", "typical", "connect-native"];

fn instance(entry: &str, warnings: Warnings) -> Result<Instance, Skipped> {
    let Entry {
        node,
        service,
        checks,
    } = serde_json::from_str(entry).map_err(|error| Skipped {
        id: id_of_malformed(entry),
        reason: format!("not an entry of Consul's: {error}"),
    })?;
    // Consul's service ids are unique on their node only.
    let id = format!("{}/{}", node.node, service.id);
    // Sidecars and gateways speak the mesh's TLS, and have their service's tags.
    let kind = service.kind.unwrap_or_default();
    if !CALLED.contains(&&*kind) {
        let reason = format!("it is a {kind} of Consul's mesh, and no instance");
        return Err(Skipped { id, reason });
    }
    let socket = service.socket_path.filter(|path| !path.is_empty());
    let host = service
        .address
        .filter(|address| !address.is_empty())
        .or(node.address)
        .unwrap_or_default();
    let address = match (Address::new(&host, service.port.unwrap_or(0)), socket) {
        (Ok(address), _) => address,
        (Err(_), Some(path)) => {
            let reason = format!("it listens on the socket {path} only");
            return Err(Skipped { id, reason });
        }
        (Err(error), None) => {
            let reason = error.to_string();
            return Err(Skipped { id, reason });
        }
    };
    // What a service says stands before what its node says.
    let mut meta = node.meta.unwrap_or_default();
    meta.extend(
        node.datacenter
            .map(|datacenter| (DATACENTER.to_owned(), datacenter)),
    );
    meta.extend(service.meta.unwrap_or_default());
    let health = Health::of(checks.as_deref().unwrap_or_default());
    Ok(Instance {
        id: id.into(),
        address,
        tls: false,
        healthy: health.is_healthy(warnings, service.weights.as_ref()),
        weight: weight(health, service.weights.as_ref()),
        tags: service.tags.unwrap_or_default(),
        meta,
    }
    .heed_meta())
}

/// What an instance's checks come to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Health {
    Passing,
    Warning,
    Critical,
}

impl Health {
    fn of(checks: &[Check]) -> Self {
        let all = |of: &[&str]| checks.iter().all(|check| of.contains(&&*check.status));
        if all(&["passing"]) {
            Self::Passing
        } else if all(&["passing", "warning"]) {
            Self::Warning
        } else {
            Self::Critical
        }
    }

    /// A `Weights.Warning` of 0 says that nothing is sent to it meanwhile.
    fn is_healthy(self, warnings: Warnings, weights: Option<&Weights>) -> bool {
        let sent = weights.and_then(|weights| weights.warning) != Some(0);
        self == Self::Passing || self == Self::Warning && warnings == Warnings::Passing && sent
    }
}

/// Consul refuses a passing weight of 0 where services register, so one that is read says nothing.
fn weight(health: Health, weights: Option<&Weights>) -> u32 {
    let weight = weights.and_then(|weights| match health {
        Health::Warning => weights.warning,
        Health::Passing | Health::Critical => weights.passing,
    });
    let weight = weight.unwrap_or(1);
    u32::try_from(weight)
        .unwrap_or(if weight < 0 { 1 } else { MAX_WEIGHT })
        .clamp(1, MAX_WEIGHT)
}

/// As much of `node/id` as a malformed entry still has.
fn id_of_malformed(entry: &str) -> String {
    let entry: serde_json::Value = serde_json::from_str(entry).unwrap_or_default();
    let text = |value: &serde_json::Value| value.as_str().unwrap_or("?").to_owned();
    format!(
        "{}/{}",
        text(&entry["Node"]["Node"]),
        text(&entry["Service"]["ID"])
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::sync::Arc;

    use serde_json::json;

    fn entry(service: serde_json::Value) -> serde_json::Value {
        json!({
            "Node": {"Node": "n1", "Address": "10.0.0.9", "Datacenter": "dc1", "Meta": {"zone": "a", "rack": "7"}},
            "Service": service,
            "Checks": [{"Status": "passing"}],
        })
    }

    fn read(entries: &[serde_json::Value]) -> InstanceSet {
        let body = json!(entries).to_string();
        instances(body.as_bytes(), Warnings::Critical).unwrap()
    }

    #[test]
    fn an_entry_is_read_in_full() {
        let set = read(&[entry(json!({
            "ID": "cart/1", "Address": "10.0.0.1", "Port": 80, "Tags": ["v2", "blue"],
            "Meta": {"zone": "b"}, "Weights": {"Passing": 7, "Warning": 0},
        }))]);
        let meta = [("consul-datacenter", "dc1"), ("rack", "7"), ("zone", "b")];
        assert_eq!(
            set.instances,
            [Arc::new(Instance {
                weight: 7,
                tags: vec!["v2".into(), "blue".into()],
                meta: meta.map(|(k, v)| (k.into(), v.into())).into(),
                ..Instance::new("n1/cart/1", Address::new("10.0.0.1", 80).unwrap())
            })]
        );
        assert_eq!(set.skipped, []);
    }

    #[test]
    fn what_is_left_out_has_its_default() {
        for service in [
            json!({"ID": "a", "Port": 80}),
            json!({"ID": "a", "Port": 80, "Address": "", "Tags": null, "Meta": null, "Weights": null}),
        ] {
            let set = read(&[entry(service)]);
            let instance = &set.instances[0];
            assert_eq!(
                instance.address.to_string(),
                "10.0.0.9:80",
                "the node's address"
            );
            assert_eq!((instance.weight, instance.tags.len()), (1, 0));
        }
        let mut bare = entry(json!({"ID": "a", "Port": 80}));
        bare["Checks"] = json!(null);
        assert!(read(&[bare]).instances[0].healthy, "no check fails");
    }

    #[test]
    fn an_instance_is_healthy_when_every_check_passes() {
        for (statuses, healthy) in [
            (vec![], true),
            (vec!["passing", "passing"], true),
            (vec!["passing", "warning"], false),
            (vec!["critical", "passing"], false),
            (vec!["something new"], false),
        ] {
            let mut entry = entry(json!({"ID": "a", "Port": 80}));
            entry["Checks"] = statuses.iter().map(|s| json!({"Status": s})).collect();
            assert_eq!(read(&[entry]).instances[0].healthy, healthy, "{statuses:?}");
        }
    }

    #[test]
    fn warnings_are_taken_in_where_that_is_wanted_with_the_weight_for_them() {
        for (statuses, weights, taken, weight) in [
            (
                ["passing", "warning"],
                json!({"Passing": 7, "Warning": 3}),
                true,
                3,
            ),
            (["passing", "warning"], json!({"Passing": 7}), true, 1),
            (
                ["passing", "warning"],
                json!({"Passing": 7, "Warning": 0}),
                false,
                1,
            ),
            (
                ["passing", "passing"],
                json!({"Passing": 7, "Warning": 0}),
                true,
                7,
            ),
            (
                ["warning", "critical"],
                json!({"Passing": 7, "Warning": 3}),
                false,
                7,
            ),
        ] {
            let mut entry = entry(json!({"ID": "a", "Port": 80, "Weights": weights}));
            entry["Checks"] = statuses.iter().map(|s| json!({"Status": s})).collect();
            let body = json!([entry]).to_string();
            let read = |warnings| {
                instances(body.as_bytes(), warnings)
                    .unwrap()
                    .instances
                    .remove(0)
            };
            let instance = read(Warnings::Passing);
            assert_eq!(
                (instance.healthy, instance.weight),
                (taken, weight),
                "{body}"
            );
            assert_eq!(read(Warnings::Critical).healthy, statuses == ["passing"; 2]);
        }
    }

    #[test]
    fn sidecars_and_gateways_are_no_instances() {
        let of = |kind: &str| entry(json!({"ID": kind, "Kind": kind, "Port": 80}));
        let set = read(
            &[
                "connect-proxy",
                "mesh-gateway",
                "ingress-gateway",
                "terminating-gateway",
                "api-gateway",
                "something-new",
                "",
                "typical",
                "connect-native",
            ]
            .map(of),
        );
        let ids: Vec<_> = set.instances.iter().map(|instance| &*instance.id).collect();
        assert_eq!(ids, ["n1/", "n1/connect-native", "n1/typical"]);
        assert_eq!(set.skipped.len(), 6);
        let reason = "it is a connect-proxy of Consul's mesh, and no instance";
        assert!(set.skipped.iter().any(|skipped| skipped.reason == reason));
    }

    #[test]
    fn what_cannot_be_called_is_skipped_and_named_and_the_rest_stays() {
        let mut nameless = entry(json!({"Port": 80}));
        nameless["Node"] = json!(17);
        let set = read(&[
            entry(json!({"ID": "good", "Port": 80})),
            entry(json!({"ID": "no-port"})),
            entry(json!({"ID": "negative", "Port": -1})),
            entry(json!({"ID": "too-large", "Port": 80810})),
            entry(json!({"ID": "url", "Port": 80, "Address": "http://127.0.0.1"})),
            entry(json!({"ID": "unix", "SocketPath": "/run/x.sock"})),
            entry(json!({"ID": "text-port", "Port": "80"})),
            entry(json!({"ID": "bare6", "Port": 80, "Address": "::1"})),
            entry(json!({"ID": "bracketed6", "Port": 80, "Address": "[::1]"})),
            nameless,
            json!(null),
            json!("x"),
        ]);
        let kept: Vec<_> = set
            .instances
            .iter()
            .map(|i| (&*i.id, i.address.to_string()))
            .collect();
        assert_eq!(
            kept,
            [
                ("n1/bare6", "[::1]:80".to_owned()),
                ("n1/bracketed6", "[::1]:80".to_owned()),
                ("n1/good", "10.0.0.9:80".to_owned()),
            ]
        );
        let reasons: Vec<_> = set
            .skipped
            .iter()
            .map(|s| (s.id.as_str(), s.reason.as_str()))
            .collect();
        let [
            nulled,
            text,
            nameless,
            negative,
            no_port,
            text_port,
            too_large,
            unix,
            url,
        ] = reasons[..]
        else {
            panic!("{reasons:?}");
        };
        assert_eq!((nulled.0, text.0, nameless.0), ("?/?", "?/?", "?/?"));
        assert_eq!(negative, ("n1/negative", "port -1 cannot be called"));
        assert_eq!(no_port, ("n1/no-port", "port 0 cannot be called"));
        assert_eq!(text_port.0, "n1/text-port");
        assert!(text_port.1.contains("expected i64"), "{text_port:?}");
        assert_eq!(too_large, ("n1/too-large", "port 80810 cannot be called"));
        assert_eq!(
            unix,
            ("n1/unix", "it listens on the socket /run/x.sock only")
        );
        assert_eq!(url.0, "n1/url");
    }

    #[test]
    fn order_and_repetition_do_not_matter() {
        let (a, b) = (
            entry(json!({"ID": "a", "Port": 80})),
            entry(json!({"ID": "b", "Port": 80})),
        );
        let bad = [entry(json!({"ID": "y"})), entry(json!({"ID": "x"}))];
        let once = read(&[a.clone(), b.clone(), bad[0].clone(), bad[1].clone()]);
        let again = read(&[bad[1].clone(), b.clone(), bad[0].clone(), a.clone(), b]);
        assert_eq!(once, again);
        let mut failing = a.clone();
        failing["Checks"] = json!([{"Status": "critical"}]);
        let set = read(&[a.clone(), failing, a]);
        assert_eq!(set.instances.len(), 1);
        assert!(
            !set.instances[0].healthy,
            "an entry that fails anywhere fails"
        );
    }

    #[test]
    fn weights_stay_within_consuls_limits() {
        for (written, read_as) in [(0, 1), (-3, 1), (9, 9), (1_i64 << 40, 65_535)] {
            let set = read(&[entry(
                json!({"ID": "a", "Port": 80, "Weights": {"Passing": written}}),
            )]);
            assert_eq!(set.instances[0].weight, read_as);
        }
    }

    #[test]
    fn what_is_not_a_list_is_an_error_and_never_empty() {
        for body in ["", "null", "{}", "<html>", "[{}", "\"\""] {
            assert!(
                instances(body.as_bytes(), Warnings::Critical).is_err(),
                "{body}"
            );
        }
        assert_eq!(
            instances(b"[]", Warnings::Critical).unwrap(),
            InstanceSet::default()
        );
        for body in ["", "null", "[]", "{\"a\":"] {
            assert!(catalog(body.as_bytes(), &[]).is_err(), "{body}");
        }
    }

    #[test]
    fn the_catalog_leaves_out_consul_and_what_the_tags_rule_out() {
        let body = br#"{"Consul":[],"cart":["V2","blue"],"shop":["v1"],"odd":7,"none":null}"#;
        let names = |tags: &[&str]| {
            let tags: Vec<_> = tags.iter().map(|tag| (*tag).to_owned()).collect();
            let catalog = catalog(body, &tags).unwrap();
            catalog.keys().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(names(&[]), ["cart", "none", "odd", "shop"]);
        assert_eq!(names(&["v2"]), ["cart"], "as Consul compares tags");
        assert_eq!(names(&["v2", "v1"]), [""; 0]);
    }

    #[test]
    fn all_spellings_of_a_name_are_one_service_with_the_tags_of_all() {
        let body = r#"{"Billing":["a","b"],"billing":["b","c"],"bİlling":[],"MyApp":[]}"#;
        let catalog = catalog(body.as_bytes(), &[]).unwrap();
        let names: Vec<_> = catalog.keys().map(|name| &**name).collect();
        assert_eq!(names, ["billing", "myapp"]);
        assert_eq!(catalog["billing"], ["a", "b", "c"]);
    }
}
