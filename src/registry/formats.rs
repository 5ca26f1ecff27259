//! An instance as one JSON object, as registrars other than go-kit's write it into etcd and
//! ZooKeeper. Knows nothing of where the object stood.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::instance::Address;

/// What an object says.
#[derive(Debug, PartialEq)]
pub(super) struct Read {
    pub(super) address: Address,
    pub(super) tls: bool,
    pub(super) healthy: bool,
    /// `None` where it says nothing of it.
    pub(super) weight: Option<u64>,
    pub(super) meta: BTreeMap<String, String>,
}

/// A registrar's format: the key by which it is known, and how it is read.
type Format = (&'static str, fn(&Object) -> Result<Read, String>);

type Object = Map<String, Value>;

/// The first whose key an object has is its format: go-micro has `endpoints`, too, and they are
/// methods.
const FORMATS: [Format; 6] = [
    ("Addr", naming),
    ("addr", naming),
    ("nodes", go_micro),
    ("serviceEndpoint", server_set),
    ("host", host_and_port),
    ("endpoints", kratos),
];

/// Reads a text that begins with a brace.
///
/// # Errors
/// Why it cannot be called, as it stands in a sentence.
pub(super) fn read(text: &str) -> Result<Read, String> {
    let object: Object =
        serde_json::from_str(text).map_err(|error| format!("it is not JSON: {error}"))?;
    let known = FORMATS.iter().find(|(key, _)| object.contains_key(*key));
    let Some((_, format)) = known else {
        let keys = FORMATS.map(|(key, _)| format!("`{key}`")).join(", ");
        return Err(format!(
            "it is JSON of no kind that is known here: it has none of {keys}"
        ));
    };
    format(&object)
}

impl Read {
    fn at(address: Address, tls: bool, meta: &Value) -> Self {
        Self {
            address,
            tls,
            healthy: true,
            weight: None,
            meta: texts(meta),
        }
    }
}

/// gRPC's naming in etcd (`clientv3/naming`): `{"Op":0,"Addr":"1.2.3.4:80","Metadata":…}`.
fn naming(object: &Object) -> Result<Read, String> {
    let (address, tls) = Address::of_text(text(object, &["Addr", "addr"])?)?;
    Ok(Read::at(
        address,
        tls,
        field(object, &["Metadata", "metadata"]),
    ))
}

/// SkyDNS, SmartStack's nerve and APISIX: `{"host":"1.2.3.4","port":80,"weight":…}`. Nerve has
/// `labels`.
fn host_and_port(object: &Object) -> Result<Read, String> {
    let address = host_port(object)?;
    let meta = field(object, &["metadata", "labels"]);
    Ok(Read {
        weight: field(object, &["weight"]).as_u64(),
        ..Read::at(address, false, meta)
    })
}

/// A member of a server set, as Finagle's and Aurora's services write it:
/// `{"serviceEndpoint":{"host":…,"port":…},"additionalEndpoints":{…},"status":"ALIVE"}`.
fn server_set(object: &Object) -> Result<Read, String> {
    let endpoint = object["serviceEndpoint"].as_object();
    let address = host_port(endpoint.ok_or("its `serviceEndpoint` is no object")?)?;
    let status = field(object, &["status"]).as_str().unwrap_or("ALIVE");
    Ok(Read {
        healthy: status == "ALIVE",
        ..Read::at(address, false, field(object, &["metadata"]))
    })
}

/// Kratos: `{"id":…,"endpoints":["http://1.2.3.4:80?isSecure=false","grpc://…"],"metadata":…}`.
fn kratos(object: &Object) -> Result<Read, String> {
    let endpoints = object["endpoints"].as_array().into_iter().flatten();
    let mut http = endpoints
        .filter_map(Value::as_str)
        .filter(|endpoint| endpoint.starts_with("http"));
    let endpoint = http.next().ok_or("none of its `endpoints` is of http")?;
    let (url, query) = endpoint.split_once('?').unwrap_or((endpoint, ""));
    let (address, tls) = Address::of_text(url)?;
    let is_secure = query.split('&').any(|pair| pair == "isSecure=true");
    let meta = field(object, &["metadata"]);
    Ok(Read::at(address, tls || is_secure, meta))
}

/// go-micro: `{"name":…,"nodes":[{"id":…,"address":"1.2.3.4:80","metadata":…}],"endpoints":[…]}`,
/// of which each key holds one node; older ones have the port by itself.
fn go_micro(object: &Object) -> Result<Read, String> {
    let nodes: Vec<Object> = Vec::deserialize(&object["nodes"])
        .map_err(|error| format!("its `nodes` are not go-micro's: {error}"))?;
    let [node] = &nodes[..] else {
        return Err(format!("it has {} `nodes`, and not one", nodes.len()));
    };
    let address = text(node, &["address"])?;
    let (address, tls) = match node.get("port").and_then(Value::as_i64) {
        Some(port) => (called(address, port)?, false),
        None => Address::of_text(address)?,
    };
    Ok(Read::at(address, tls, field(node, &["metadata"])))
}

fn host_port(object: &Object) -> Result<Address, String> {
    let port = field(object, &["port"]);
    // nerve's older versions quote it.
    let port = port.as_i64().or_else(|| port.as_str()?.parse().ok());
    called(text(object, &["host"])?, port.ok_or("it has no port")?)
}

fn called(host: &str, port: i64) -> Result<Address, String> {
    Address::new(host, port).map_err(|error| error.to_string())
}

/// The first of these keys that is there; else null.
fn field<'o>(object: &'o Object, keys: &[&str]) -> &'o Value {
    let mut found = keys.iter().filter_map(|key| object.get(*key));
    found.next().unwrap_or(&Value::Null)
}

fn text<'o>(object: &'o Object, keys: &[&str]) -> Result<&'o str, String> {
    let text = field(object, keys).as_str();
    text.ok_or_else(|| format!("its `{}` is no text", keys[0]))
}

/// Whatever a provider adds, as texts.
fn texts(meta: &Value) -> BTreeMap<String, String> {
    let text = |value: &Value| match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    match meta {
        Value::Null => BTreeMap::new(),
        Value::Object(fields) => fields
            .iter()
            .map(|(key, value)| (key.clone(), text(value)))
            .collect(),
        other => BTreeMap::from([("metadata".to_owned(), text(other))]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_other_registrars_write_is_understood() {
        for (text, address, tls, weight, meta) in [
            // SkyDNS, nerve and APISIX
            (
                r#"{"host":"10.1.1.1","port":8080,"priority":10,"weight":20,"ttl":60}"#,
                "10.1.1.1:8080",
                false,
                Some(20),
                "",
            ),
            (
                r#"{"host":"10.1.1.1","port":"8080","name":"i-1","labels":{"zone":"a"}}"#,
                "10.1.1.1:8080",
                false,
                None,
                "zone=a",
            ),
            (
                r#"{"host":"::1","port":9080,"weight":100,"metadata":{"n":7}}"#,
                "[::1]:9080",
                false,
                Some(100),
                "n=7",
            ),
            // Finagle and Aurora
            (
                r#"{"serviceEndpoint":{"host":"h1.example","port":31333},"additionalEndpoints":{"aurora":{"host":"h1.example","port":1}},"status":"ALIVE","shard":0}"#,
                "h1.example:31333",
                false,
                None,
                "",
            ),
            // Kratos
            (
                r#"{"id":"1","name":"hello","version":"","metadata":{"v":"1"},"endpoints":["grpc://10.0.0.1:9000?isSecure=false","http://10.0.0.1:8000?isSecure=false"]}"#,
                "10.0.0.1:8000",
                false,
                None,
                "v=1",
            ),
            (
                r#"{"id":"1","endpoints":["http://10.0.0.1:8000?isSecure=true"]}"#,
                "10.0.0.1:8000",
                true,
                None,
                "",
            ),
            (
                r#"{"id":"1","metadata":null,"endpoints":["https://10.0.0.1:8000"]}"#,
                "10.0.0.1:8000",
                true,
                None,
                "",
            ),
            // go-micro
            (
                r#"{"name":"greeter","version":"latest","metadata":null,"endpoints":[{"name":"Say.Hello","request":null}],"nodes":[{"id":"greeter-1","address":"10.0.0.1:41363","metadata":{"protocol":"http"}}]}"#,
                "10.0.0.1:41363",
                false,
                None,
                "protocol=http",
            ),
            (
                r#"{"nodes":[{"id":"1","address":"10.0.0.1","port":80}]}"#,
                "10.0.0.1:80",
                false,
                None,
                "",
            ),
        ] {
            let read = read(text).unwrap_or_else(|error| panic!("{text}: {error}"));
            let pairs = read
                .meta
                .iter()
                .map(|(key, value)| format!("{key}={value}"));
            let pairs: Vec<_> = pairs.collect();
            assert_eq!(read.address.to_string(), address, "{text}");
            assert_eq!((read.tls, read.weight), (tls, weight), "{text}");
            assert_eq!(pairs.join(","), meta, "{text}");
            assert!(read.healthy, "{text}");
        }
    }

    #[test]
    fn a_member_that_is_not_alive_is_not_called() {
        for status in ["DEAD", "STARTING", "STOPPING", "STOPPED", "WARNING"] {
            let text =
                format!(r#"{{"serviceEndpoint":{{"host":"h","port":1}},"status":"{status}"}}"#);
            assert!(!read(&text).unwrap().healthy);
        }
    }

    #[test]
    fn what_cannot_be_called_says_why() {
        for (text, reason) in [
            ("{", "it is not JSON"),
            ("{}", "it is JSON of no kind that is known here"),
            (
                r#"{"vector":[1]}"#,
                "it has none of `Addr`, `addr`, `nodes`",
            ),
            (r#"{"Addr":1}"#, "its `Addr` is no text"),
            (r#"{"host":"h"}"#, "it has no port"),
            (r#"{"host":7,"port":7}"#, "its `host` is no text"),
            (r#"{"host":"h","port":0}"#, "port 0 cannot be called"),
            (r#"{"serviceEndpoint":7}"#, "is no object"),
            (r#"{"endpoints":["grpc://h:1"]}"#, "none of its `endpoints`"),
            (r#"{"nodes":[]}"#, "it has 0 `nodes`"),
            (r#"{"nodes":[{},{}]}"#, "it has 2 `nodes`"),
            (r#"{"nodes":7}"#, "its `nodes` are not go-micro's"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }
}
