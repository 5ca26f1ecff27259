//! What nodes hold → instances and names: go-kit's plain text, and the JSON of Curator's service
//! discovery with what Spring Cloud puts into it. Knows nothing of sessions and watches.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use super::folder::Data;
use crate::{
    instance::{Address, Instance, InstanceSet, Skipped},
    registry::{Catalog, text},
};

/// What a protected node's name begins with; a GUID and a dash follow.
pub(crate) const PROTECTED: &str = "_c_";

/// Digits that the server appends to the name of a sequential node.
const SEQUENCE: usize = 10;

/// Reads a service's nodes.
pub(super) fn instances<'a>(nodes: impl Iterator<Item = (&'a str, &'a Data)>) -> InstanceSet {
    InstanceSet::of(nodes.filter_map(|(name, data)| entry(name, data)))
}

/// Takes the names of the services' nodes. What is ZooKeeper's own is no service, nor is an
/// instance that stands beside its service's node.
pub(super) fn catalog<'a>(names: impl Iterator<Item = &'a str>, of_root: bool) -> Catalog {
    names
        .filter(|name| !name.starts_with(PROTECTED))
        .filter(|name| !of_root || *name != "zookeeper")
        .map(|name| (name.into(), Vec::new()))
        .collect()
}

/// Whether this is an instance of the service that stands beside its empty node, as older versions
/// of go-kit's registrar put it: `_c_<32 hex>-<service><10 digits>`.
pub(super) fn stands_beside(name: &str, service: &str) -> bool {
    let rest = name.strip_prefix(PROTECTED);
    let rest = rest.and_then(|rest| rest.split_once('-'));
    rest.is_some_and(|(guid, rest)| {
        let sequence = rest.strip_prefix(service);
        guid.len() == 32
            && guid.bytes().all(|byte| byte.is_ascii_hexdigit())
            && sequence.is_some_and(|digits| {
                digits.len() == SEQUENCE && digits.bytes().all(|byte| byte.is_ascii_digit())
            })
    })
}

/// `None` for a node without data, which is no entry: another program's folder.
fn entry(name: &str, data: &Data) -> Option<Result<Instance, Skipped>> {
    let skipped = |reason: String| Skipped {
        id: name.to_owned(),
        reason,
    };
    let bytes = match data {
        Data::Denied => return Some(Err(skipped("its access list hides it".to_owned()))),
        Data::Bytes(bytes) => bytes.trim_ascii(),
    };
    if bytes.is_empty() {
        return None;
    }
    if !bytes.starts_with(b"{") {
        return Some(plain(name, bytes));
    }
    Some(
        match serde_json::from_slice::<BTreeMap<String, Value>>(bytes) {
            Ok(fields) if CURATORS.iter().any(|key| fields.contains_key(*key)) => {
                curator(name, bytes).map_err(skipped)
            }
            Ok(_) => plain(name, bytes),
            Err(error) => Err(skipped(format!("it is not JSON: {error}"))),
        },
    )
}

/// A text is known by where it is called, as go-kit has it: the name of its node is another with
/// each session, and the provider the same.
fn plain(name: &str, bytes: &[u8]) -> Result<Instance, Skipped> {
    let instance = text::instance(name, bytes)?;
    Ok(Instance {
        id: instance.address.to_string().into(),
        ..instance
    })
}

/// Keys of which an instance of Curator's has one at least.
const CURATORS: [&str; 4] = ["address", "sslPort", "serviceType", "payload"];

/// An instance of Curator's service discovery (`ServiceInstance`).
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    id: Option<String>,
    address: Option<String>,
    port: Option<i64>,
    ssl_port: Option<i64>,
    enabled: Option<bool>,
    #[serde(default)]
    payload: Value,
}

/// What Spring Cloud writes into the metadata of an instance that is, or is not, to be called.
const STATUS: &str = "instance_status";

fn curator(name: &str, bytes: &[u8]) -> Result<Instance, String> {
    let entry: Entry = serde_json::from_slice(bytes)
        .map_err(|error| format!("it is not the JSON of Curator's service discovery: {error}"))?;
    let host = entry.address.unwrap_or_default();
    let (port, tls) = match (entry.port, entry.ssl_port) {
        (Some(port), _) => (port, false),
        (None, Some(port)) => (port, true),
        (None, None) => return Err("it has no port".to_owned()),
    };
    let address = Address::new(&host, port).map_err(|error| error.to_string())?;
    let meta = metadata(&entry.payload);
    let status = meta.get(STATUS).map_or("", |status| status.trim());
    // A sequential node's name changes with each registration; the id in it does not.
    let id = entry.id.filter(|id| !id.is_empty());
    Ok(Instance {
        tls,
        healthy: entry.enabled != Some(false)
            && (status.is_empty() || status.eq_ignore_ascii_case("UP")),
        meta,
        ..Instance::new(id.as_deref().unwrap_or(name), address)
    }
    .heed_meta())
}

/// Curator leaves the payload to its user; Spring Cloud has `metadata` in it.
fn metadata(payload: &Value) -> BTreeMap<String, String> {
    let fields = payload.get("metadata").and_then(Value::as_object);
    let texts = fields.into_iter().flatten().filter_map(|(key, value)| {
        let text = match value {
            Value::String(text) => text.clone(),
            Value::Null => return None,
            other => other.to_string(),
        };
        Some((key.clone(), text))
    });
    texts.collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;

    fn read(nodes: &[(&str, &[u8])]) -> InstanceSet {
        let nodes: Vec<_> = nodes
            .iter()
            .map(|(name, bytes)| (*name, Data::Bytes(bytes.to_vec())))
            .collect();
        instances(nodes.iter().map(|(name, data)| (*name, data)))
    }

    fn one(entry: &Value) -> Arc<Instance> {
        let mut set = read(&[("node", entry.to_string().as_bytes())]);
        assert!(set.skipped.is_empty(), "{:?}", set.skipped);
        set.instances.remove(0)
    }

    #[test]
    fn go_kits_nodes_hold_their_address_and_empty_ones_are_none() {
        let set = read(&[
            (
                "_c_0123456789abcdef0123456789abcdef-0000000003",
                b"10.0.2.10:80",
            ),
            // Left by its last session, and gone with it.
            (
                "_c_fedcba9876543210fedcba9876543210-0000000002",
                b"10.0.2.10:80",
            ),
            ("folder", b""),
            ("blank", b" \n"),
            ("url", b"https://[::1]:8443"),
            (
                "naming",
                br#"{"Op":0,"Addr":"1.2.3.4:80","Metadata":{"weight":7}}"#,
            ),
        ]);
        assert!(set.skipped.is_empty(), "{:?}", set.skipped);
        let read: Vec<_> = set
            .instances
            .iter()
            .map(|instance| (&*instance.id, instance.address.to_string(), instance.tls))
            .collect();
        assert_eq!(
            read,
            [
                ("1.2.3.4:80", "1.2.3.4:80".to_owned(), false),
                ("10.0.2.10:80", "10.0.2.10:80".to_owned(), false),
                ("[::1]:8443", "[::1]:8443".to_owned(), true),
            ]
        );
        assert_eq!(set.instances[0].weight, 7);
    }

    #[test]
    fn curators_json_brings_ports_metadata_and_a_verdict() {
        let spring = json!({
            "name": "cart", "id": "cart-1", "address": "10.0.0.7", "port": 8080, "sslPort": null,
            "payload": {
                "@class": "org.springframework.cloud.zookeeper.discovery.ZookeeperInstance",
                "id": "application-1", "name": "cart",
                "metadata": {"instance_status": "UP", "weight": "3", "zone": "a", "n": 5, "x": null},
            },
            "registrationTimeUTC": 1_484_000_000_000_u64, "serviceType": "DYNAMIC",
            "uriSpec": {"parts": [{"value": "scheme", "variable": true}]},
        });
        let instance = one(&spring);
        assert_eq!(&*instance.id, "cart-1");
        assert_eq!(instance.address.to_string(), "10.0.0.7:8080");
        assert!(instance.healthy && !instance.tls);
        assert_eq!(instance.weight, 3);
        assert_eq!((&*instance.meta["zone"], &*instance.meta["n"]), ("a", "5"));
        assert!(!instance.meta.contains_key("x"));

        for (change, healthy, tls, port) in [
            (json!({"enabled": true}), true, false, 8080),
            (json!({"enabled": false}), false, false, 8080),
            (json!({"enabled": null}), true, false, 8080),
            (json!({"port": null, "sslPort": 8443}), true, true, 8443),
            (json!({"sslPort": 8443}), true, false, 8080),
            (json!({"payload": null}), true, false, 8080),
            (json!({"payload": "text"}), true, false, 8080),
            (json!({"serviceType": "STATIC"}), true, false, 8080),
            (
                json!({"payload": {"metadata": {"instance_status": "OUT_OF_SERVICE"}}}),
                false,
                false,
                8080,
            ),
            (
                json!({"payload": {"metadata": {"scheme": "https"}}}),
                true,
                true,
                8080,
            ),
        ] {
            let mut entry = spring.clone();
            for (key, value) in change.as_object().unwrap() {
                entry[key] = value.clone();
            }
            let instance = one(&entry);
            let read = (instance.healthy, instance.tls, instance.address.port());
            assert_eq!(read, (healthy, tls, port), "{change}");
        }
        assert_eq!(&*one(&json!({"address": "h", "port": 1})).id, "node");
    }

    #[test]
    fn smart_stacks_finagles_and_auroras_members_are_understood() {
        let set = read(&[
            ("i-1_1.2.3.4_80", br#"{"host":"1.2.3.4","port":80,"name":"i-1"}"#),
            (
                "member_0000000001",
                br#"{"serviceEndpoint":{"host":"1.2.3.5","port":80},"additionalEndpoints":{},"status":"ALIVE","shard":0}"#,
            ),
        ]);
        assert_eq!(set.skipped, []);
        let ids: Vec<_> = set.instances.iter().map(|instance| &*instance.id).collect();
        assert_eq!(ids, ["1.2.3.4:80", "1.2.3.5:80"]);
    }

    #[test]
    fn what_cannot_be_called_is_skipped_with_its_reason() {
        for (bytes, reason) in [
            (&b"garbage"[..], "has no port"),
            (b"\xff\xfe", "no text"),
            (b"{", "it is not JSON: EOF"),
            (b"{\"address\":7}", "not the JSON of Curator's"),
            (b"{}", "it is JSON of no kind that is known here"),
            (b"{\"port\":80}", "it has none of `Addr`"),
            (b"{\"sslPort\":80}", "`` is neither"),
            (b"{\"address\":\"a\"}", "it has no port"),
            (b"{\"address\":\"a\",\"port\":0}", "port 0"),
            (b"{\"address\":\"a\",\"port\":80810}", "port 80810"),
            (b"{\"address\":\"http://a\",\"port\":80}", "neither"),
            (b"{\"Addr\":\"a\"}", "has no port"),
        ] {
            let set = read(&[("bad", bytes), ("good", b"1.2.3.4:80")]);
            assert_eq!(set.instances.len(), 1);
            let [skipped] = &set.skipped[..] else {
                panic!("{set:?}");
            };
            assert_eq!(skipped.id, "bad");
            assert!(skipped.reason.contains(reason), "{}", skipped.reason);
        }
        let set = instances([("hidden", &Data::Denied)].into_iter());
        assert_eq!(set.skipped[0].reason, "its access list hides it");
    }

    #[test]
    fn the_catalog_has_no_instances_and_nothing_of_zookeepers_own() {
        let beside = "_c_0123456789abcdef0123456789abcdef-cart0000000003";
        let names = ["cart", beside, "zookeeper"];
        let read = |of_root| {
            let catalog = catalog(names.into_iter(), of_root);
            catalog
                .into_keys()
                .map(|name| name.to_string())
                .collect::<Vec<_>>()
        };
        assert_eq!(read(false), ["cart", "zookeeper"]);
        assert_eq!(read(true), ["cart"]);
    }

    #[test]
    fn an_instance_beside_its_service_is_told_from_those_of_others() {
        let guid = "_c_0123456789abcdef0123456789abcdef-";
        for (name, beside) in [
            (format!("{guid}cart0000000003"), true),
            (format!("{guid}cart-20000000003"), false),
            (format!("{guid}carts0000000003"), false),
            (format!("{guid}cart000000003"), false),
            (format!("{guid}0000000003"), false),
            ("_c_0123-cart0000000003".to_owned(), false),
            ("cart".to_owned(), false),
        ] {
            assert_eq!(stands_beside(&name, "cart"), beside, "{name}");
        }
    }
}
