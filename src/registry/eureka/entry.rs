//! One instance as Eureka has it → what it is to us, field by field, so that one malformed entry
//! costs itself and nothing else. Knows nothing of where the entry stood.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use serde_json::{Map, Value};

use crate::{
    config::{CalledAt, NamedBy},
    instance::{Address, Instance, Skipped, in_any_case},
};

/// Keys that an instance's metadata has besides its own, which stand before these.
const VIP: &str = "eureka-vip-address";
pub(super) const HOST_NAME: &str = "eureka-host-name";
const DATA_CENTER: &str = "eureka-data-center";

/// The metadata's key that holds an instance's tags, with commas between them. Eureka has none of
/// its own.
pub(crate) const TAGS: &str = "tags";

/// What is made of an entry.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reading {
    pub(super) by: NamedBy,
    pub(super) host: CalledAt,
}

/// An entry, whether it can be called or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// The application's name, in lower case.
    pub(super) app: Arc<str>,
    /// Unique within the application.
    pub(super) id: Arc<str>,
    /// As it stands there: the hash of a registry counts these.
    pub(super) status: String,
    /// The names by which services ask for it, in lower case.
    pub(super) names: Vec<Arc<str>>,
    pub(super) read: Result<Arc<Instance>, Skipped>,
}

impl Entry {
    /// Reads the instance that is the `position`th of its application.
    pub(super) fn read(app: &str, position: usize, value: &Value, reading: Reading) -> Self {
        let app: Arc<str> = in_any_case(app).into();
        let id = id(value).unwrap_or_else(|| format!("#{position}"));
        let vips = text(&value["vipAddress"]);
        let (names, shown) = match reading.by {
            NamedBy::Application => (vec![Arc::clone(&app)], id.clone()),
            // Ids are unique within an application, and a VIP address may belong to several.
            NamedBy::Vip => (words(&in_any_case(&vips)), format!("{app}/{id}")),
        };
        Self {
            status: text(&value["status"]),
            names,
            read: instance(&shown, value, reading.host)
                .map(Arc::new)
                .map_err(|reason| Skipped { id: shown, reason }),
            app,
            id: id.into(),
        }
    }
}

/// As Eureka's own clients find it: entries of older clients have no id of their own.
fn id(value: &Value) -> Option<String> {
    [
        &value["instanceId"],
        &value["dataCenterInfo"]["metadata"]["instance-id"],
        &value["hostName"],
    ]
    .into_iter()
    .map(text)
    .find(|id| !id.is_empty())
}

fn instance(id: &str, value: &Value, called_at: CalledAt) -> Result<Instance, String> {
    if !value.is_object() {
        return Err("not an instance of Eureka's".to_owned());
    }
    let (port, tls) = port(value)?;
    let address = Address::new(&host(value, called_at), port).map_err(|error| error.to_string())?;
    let meta = meta(value);
    Ok(Instance {
        id: id.into(),
        address,
        tls,
        healthy: is_up(value),
        weight: 1,
        tags: words(meta.get(TAGS).map_or("", String::as_str)),
        meta,
    }
    .heed_meta())
}

/// What is wanted of the address and the name, where there is that; the address only where it is
/// one.
fn host(value: &Value, called_at: CalledAt) -> String {
    let (address, name) = (text(&value["ipAddr"]), text(&value["hostName"]));
    let is_address = called_at == CalledAt::Address && address.parse::<IpAddr>().is_ok();
    if is_address || name.is_empty() {
        address
    } else {
        name
    }
}

/// A plain port is taken even where it is not enabled (go-kit's registrar never enables it), but
/// for one that speaks TLS and is.
fn port(value: &Value) -> Result<(i64, bool), String> {
    let (plain, secure) = (&value["port"], &value["securePort"]);
    let tls = enabled(secure).unwrap_or(false) && !enabled(plain).unwrap_or(true);
    let number = text(if tls { secure } else { plain });
    match number.as_str() {
        "" => Ok((0, tls)),
        number => match number.parse() {
            Ok(number) => Ok((number, tls)),
            Err(_) => Err(format!("`{number}` is no port")),
        },
    }
}

/// Whether a port says that it is enabled, if it says anything.
fn enabled(port: &Value) -> Option<bool> {
    if port.is_null() {
        return Some(false);
    }
    match text(&port["@enabled"]).as_str() {
        "" => None,
        says => Some(says.eq_ignore_ascii_case("true")),
    }
}

/// An operator's word (`overriddenStatus`) never makes an instance better than it says it is.
fn is_up(value: &Value) -> bool {
    let overridden = ["overriddenStatus", "overriddenstatus"];
    text(&value["status"]) == "UP"
        && overridden
            .into_iter()
            .all(|key| matches!(text(&value[key]).as_str(), "" | "UP" | "UNKNOWN"))
}

fn meta(value: &Value) -> BTreeMap<String, String> {
    let center = &value["dataCenterInfo"];
    let of_eureka = [
        (VIP, &value["vipAddress"]),
        (HOST_NAME, &value["hostName"]),
        (DATA_CENTER, &center["name"]),
        ("zone", &center["metadata"]["availability-zone"]),
    ];
    let of_eureka = of_eureka.map(|(key, value)| (key.to_owned(), text(value)));
    let own = value["metadata"].as_object().into_iter().flat_map(own_meta);
    let mut meta: BTreeMap<_, _> = of_eureka
        .into_iter()
        .filter(|(_, value)| !value.is_empty())
        .collect();
    meta.extend(own);
    meta
}

/// Without what says how the server holds it.
fn own_meta(map: &Map<String, Value>) -> impl Iterator<Item = (String, String)> {
    map.iter()
        .filter(|(key, _)| key.as_str() != "@class")
        .map(|(key, value)| (key.clone(), text(value)))
}

/// A value as a text: numbers come in quotes or without, and whatever has attributes holds its
/// own text as `$`.
fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.trim().to_owned(),
        Value::Number(number) => number.to_string(),
        Value::Bool(flag) => flag.to_string(),
        Value::Object(fields) => fields.get("$").map(text).unwrap_or_default(),
        Value::Null | Value::Array(_) => String::new(),
    }
}

/// What stands between commas.
fn words<T: for<'a> From<&'a str>>(text: &str) -> Vec<T> {
    text.split(',')
        .map(str::trim)
        .filter(|word| !word.is_empty())
        .map(T::from)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    use serde_json::json;

    fn reading(by: NamedBy) -> Reading {
        let host = CalledAt::Address;
        Reading { by, host }
    }

    fn read(value: Value) -> Entry {
        Entry::read("CART", 3, &value, reading(NamedBy::Application))
    }

    fn with(more: Value) -> Instance {
        let mut value = json!({
            "instanceId": "cart-1", "hostName": "h1.example", "ipAddr": "10.0.0.1",
            "status": "UP", "port": {"$": 8080, "@enabled": "true"},
        });
        for (key, more) in more.as_object().unwrap() {
            value[key] = more.clone();
        }
        Arc::unwrap_or_clone(read(value).read.unwrap())
    }

    #[test]
    fn an_entry_is_read_in_full() {
        let entry = read(json!({
            "instanceId": "cart-1", "hostName": "h1.example", "app": "CART", "ipAddr": "10.0.0.1",
            "status": "UP", "overriddenStatus": "UNKNOWN",
            "port": {"$": 8080, "@enabled": "true"}, "securePort": {"$": 7002, "@enabled": "false"},
            "dataCenterInfo": {"@class": "x", "name": "MyOwn"},
            "leaseInfo": {"durationInSecs": 90, "lastRenewalTimestamp": 1},
            "metadata": {"@class": "java.util.Map", "zone": "a", "weight": "7", "tags": "v2, blue"},
            "vipAddress": "cart-vip", "lastUpdatedTimestamp": "1795515199238",
        }));
        assert_eq!((&*entry.app, &*entry.id), ("cart", "cart-1"));
        assert_eq!(entry.names, ["cart".into()]);
        let meta = [
            ("eureka-data-center", "MyOwn"),
            ("eureka-host-name", "h1.example"),
            ("eureka-vip-address", "cart-vip"),
            ("tags", "v2, blue"),
            ("weight", "7"),
            ("zone", "a"),
        ];
        assert_eq!(
            *entry.read.unwrap(),
            Instance {
                weight: 7,
                tags: vec!["v2".into(), "blue".into()],
                meta: meta.map(|(k, v)| (k.into(), v.into())).into(),
                ..Instance::new("cart-1", Address::new("10.0.0.1", 8080).unwrap())
            }
        );
    }

    #[test]
    fn the_port_is_the_plain_one_unless_only_the_secure_one_is_enabled() {
        let port = |number: i64, enabled: &str| json!({"$": number, "@enabled": enabled});
        for (plain, secure, called, tls) in [
            (port(80, "true"), port(443, "false"), 80, false),
            (port(80, "true"), port(443, "true"), 80, false),
            (port(80, "false"), port(443, "true"), 443, true),
            (port(80, "false"), port(443, "false"), 80, false),
            (json!(null), port(443, "true"), 443, true),
            (
                json!({"$": "80", "@enabled": false}),
                json!(null),
                80,
                false,
            ),
            (json!("80"), json!("443"), 80, false),
            (json!(80), port(443, "true"), 80, false),
        ] {
            let instance = with(json!({"port": plain, "securePort": secure}));
            assert_eq!(
                (instance.address.port(), instance.tls),
                (called, tls),
                "{plain} {secure}"
            );
        }
    }

    #[test]
    fn only_up_is_healthy_and_an_operators_word_counts() {
        for (status, overridden, healthy) in [
            ("UP", "UNKNOWN", true),
            ("UP", "", true),
            ("UP", "UP", true),
            ("UP", "OUT_OF_SERVICE", false),
            ("DOWN", "UP", false),
            ("STARTING", "UNKNOWN", false),
            ("OUT_OF_SERVICE", "OUT_OF_SERVICE", false),
            ("", "UNKNOWN", false),
        ] {
            for key in ["overriddenStatus", "overriddenstatus"] {
                let instance = with(json!({"status": status, key: overridden}));
                assert_eq!(instance.healthy, healthy, "{status} {overridden}");
            }
        }
    }

    #[test]
    fn the_address_is_the_ip_address_where_it_is_one() {
        for (ip, name, address) in [
            ("10.0.0.1", "h.example", "10.0.0.1:8080"),
            ("::1", "h.example", "[::1]:8080"),
            ("h2.example", "h.example", "h.example:8080"),
            ("h2.example", "", "h2.example:8080"),
            ("", "h.example", "h.example:8080"),
        ] {
            let instance = with(json!({"ipAddr": ip, "hostName": name}));
            assert_eq!(instance.address.to_string(), address);
        }
    }

    #[test]
    fn what_has_no_id_has_that_of_its_machine() {
        let host = json!({"instanceId": "", "hostName": "h", "ipAddr": "10.0.0.1", "port": 80});
        assert_eq!(&*read(host.clone()).id, "h");
        let mut amazon = host;
        amazon["dataCenterInfo"] = json!({
            "name": "Amazon", "metadata": {"instance-id": "i-7", "availability-zone": "us-east-1c"},
        });
        let entry = read(amazon);
        assert_eq!(&*entry.id, "i-7");
        let meta = &entry.read.unwrap().meta;
        assert_eq!(meta["zone"], "us-east-1c");
        assert_eq!(meta["eureka-data-center"], "Amazon");
    }

    #[test]
    fn a_vip_address_is_a_list_of_names() {
        let value = json!({
            "instanceId": "1", "ipAddr": "10.0.0.1", "port": 80, "vipAddress": "Shop, cart-vip,",
        });
        let entry = Entry::read("CART", 0, &value, reading(NamedBy::Vip));
        assert_eq!(entry.names, ["shop".into(), "cart-vip".into()]);
        assert_eq!(&*entry.read.unwrap().id, "cart/1");
    }

    #[test]
    fn what_cannot_be_called_is_skipped_with_its_reason() {
        for (value, id, reason) in [
            (json!(7), "#3", "not an instance of Eureka's"),
            (json!({}), "#3", "port 0 cannot be called"),
            (
                json!({"instanceId": "a", "port": 80}),
                "a",
                "`` is neither an IP address nor a host name",
            ),
            (
                json!({"instanceId": "a", "ipAddr": "10.0.0.1", "port": {"$": 0}}),
                "a",
                "port 0 cannot be called",
            ),
            (
                json!({"instanceId": "a", "ipAddr": "10.0.0.1", "port": {"$": "web"}}),
                "a",
                "`web` is no port",
            ),
            (
                json!({"instanceId": "a", "ipAddr": "http://h", "port": [80]}),
                "a",
                "port 0 cannot be called",
            ),
            (
                json!({"instanceId": "a", "ipAddr": "http://h", "port": 80}),
                "a",
                "`http://h` is neither an IP address nor a host name",
            ),
        ] {
            let skipped = read(value).read.unwrap_err();
            assert_eq!((skipped.id.as_str(), skipped.reason.as_str()), (id, reason));
        }
    }
}
