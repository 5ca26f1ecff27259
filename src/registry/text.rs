//! An instance as one text, as go-kit's registrars of etcd and ZooKeeper write it: `host:port` or a
//! URL, or the JSON of others ([`formats`]). Knows nothing of where the text stood.

use std::collections::BTreeMap;

use super::formats::{self, Read};
use crate::instance::{Address, Instance, MAX_WEIGHT, Skipped};

/// Reads the entry with this id of a registry that others write to.
pub(super) fn instance(id: &str, text: &[u8]) -> Result<Instance, Skipped> {
    read_by(id, text, Address::of_text)
}

/// The same of a file of this machine, which may name unix sockets.
pub(super) fn local_instance(id: &str, text: &[u8]) -> Result<Instance, Skipped> {
    read_by(id, text, Address::of_local_text)
}

/// Reads what is an address: whether it says https, or why it is none.
type ReadAddress = fn(&str) -> Result<(Address, bool), String>;

fn read_by(id: &str, text: &[u8], address: ReadAddress) -> Result<Instance, Skipped> {
    let read = read(text.trim_ascii(), address).map_err(|reason| Skipped {
        id: id.to_owned(),
        reason,
    })?;
    let weight = u32::try_from(read.weight.unwrap_or(1)).unwrap_or(MAX_WEIGHT);
    Ok(Instance {
        id: id.into(),
        address: read.address,
        tls: read.tls,
        healthy: read.healthy,
        weight: weight.clamp(1, MAX_WEIGHT),
        tags: Vec::new(),
        meta: read.meta,
    }
    .heed_meta())
}

fn read(text: &[u8], address: ReadAddress) -> Result<Read, String> {
    let text = std::str::from_utf8(text).map_err(|_| "it is no text".to_owned())?;
    if text.starts_with('{') {
        return formats::read(text);
    }
    let (address, tls) = address(text)?;
    Ok(Read {
        address,
        tls,
        healthy: true,
        weight: None,
        meta: BTreeMap::new(),
    })
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
            ("{\"Addr\":1}", "is no text"),
            ("unix:/run/docker.sock", "more than a host"),
            (r#"{"Addr":"unix:/run/docker.sock"}"#, "more than a host"),
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
