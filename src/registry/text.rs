//! An instance as one text, as go-kit's registrars of etcd and ZooKeeper write it: `host:port` or a
//! URL, or the JSON of gRPC's naming. Knows nothing of where the text stood.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use crate::instance::{Address, Instance, Skipped};

/// Reads the entry with this id.
pub(super) fn instance(id: &str, text: &[u8]) -> Result<Instance, Skipped> {
    read(text.trim_ascii())
        .map(|(address, tls, meta)| {
            Instance {
                id: id.into(),
                address,
                tls,
                healthy: true,
                weight: 1,
                tags: Vec::new(),
                meta,
            }
            .heed_meta()
        })
        .map_err(|reason| Skipped {
            id: id.to_owned(),
            reason,
        })
}

type Read = (Address, bool, BTreeMap<String, String>);

fn read(text: &[u8]) -> Result<Read, String> {
    let text = std::str::from_utf8(text).map_err(|_| "it is no text".to_owned())?;
    if text.starts_with('{') {
        return naming(text);
    }
    let (address, tls) = Address::of_text(text)?;
    Ok((address, tls, BTreeMap::new()))
}

/// gRPC's naming in etcd (`clientv3/naming`): what is called, and whatever its owner adds.
#[derive(Deserialize)]
struct Naming {
    #[serde(rename = "Addr", alias = "addr")]
    address: String,
    #[serde(rename = "Metadata", alias = "metadata", default)]
    metadata: Value,
}

fn naming(text: &str) -> Result<Read, String> {
    let naming: Naming = serde_json::from_str(text)
        .map_err(|error| format!("it is not the JSON of gRPC's naming: {error}"))?;
    let (address, tls) = Address::of_text(&naming.address)?;
    let meta = match naming.metadata {
        Value::Object(fields) => fields
            .into_iter()
            .map(|(key, value)| match value {
                Value::String(text) => (key, text),
                other => (key, other.to_string()),
            })
            .collect(),
        Value::Null => BTreeMap::new(),
        Value::String(text) => BTreeMap::from([("metadata".to_owned(), text)]),
        other => BTreeMap::from([("metadata".to_owned(), other.to_string())]),
    };
    Ok((address, tls, meta))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ok(text: &str) -> Instance {
        instance("k", text.as_bytes()).unwrap()
    }

    #[test]
    fn what_go_kits_registrars_write_is_understood() {
        for (text, address, tls) in [
            ("1.2.3.4:8080", "1.2.3.4:8080", false),
            ("http://1.2.3.4:8080", "1.2.3.4:8080", false),
            ("http://1.2.3.4:8080/", "1.2.3.4:8080", false),
            ("https://h.example:8443", "h.example:8443", true),
            ("HTTPS://h.example", "h.example:443", true),
            ("http://h.example", "h.example:80", false),
            ("[::1]:80", "[::1]:80", false),
            (" 10.0.2.10:80\n", "10.0.2.10:80", false),
        ] {
            let instance = ok(text);
            assert_eq!(instance.address.to_string(), address, "{text}");
            assert_eq!(instance.tls, tls, "{text}");
            assert!(instance.healthy && instance.weight == 1);
        }
    }

    #[test]
    fn grpcs_naming_brings_metadata_and_weight() {
        let text =
            r#"{"Op":0,"Addr":"1.2.3.4:80","Metadata":{"weight":7,"zone":"a","scheme":"https"}}"#;
        let instance = ok(text);
        assert_eq!(instance.address.to_string(), "1.2.3.4:80");
        assert_eq!((instance.weight, instance.tls), (7, true));
        assert_eq!(instance.meta["zone"], "a");
        assert_eq!(
            ok(r#"{"Op":0,"Addr":"1.2.3.4:80","Metadata":null}"#)
                .meta
                .len(),
            0
        );
        assert_eq!(
            ok(r#"{"Addr":"1.2.3.4:80","Metadata":"x"}"#).meta["metadata"],
            "x"
        );
    }

    #[test]
    fn what_cannot_be_called_is_skipped_with_its_reason() {
        for (text, reason) in [
            ("", "neither"),
            ("foo", "has no port"),
            ("::1", "neither"),
            ("1.2.3.4:0", "port 0"),
            ("1.2.3.4:80810", "port 80810"),
            ("1.2.3.4:x", "neither"),
            ("ftp://1.2.3.4:80", "cannot be called"),
            ("http://1.2.3.4:80/api", "more than a host"),
            ("http://u:p@h:1", "more than a host"),
            ("{\"Addr\":1}", "not the JSON"),
        ] {
            let skipped = instance("k", text.as_bytes()).unwrap_err();
            assert!(
                skipped.reason.contains(reason),
                "{text}: {}",
                skipped.reason
            );
        }
        assert!(instance("k", b"\xff\xfe").is_err());
    }
}
