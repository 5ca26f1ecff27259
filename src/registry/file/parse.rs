//! The file's text → services and their endpoints, entry by entry, so that one malformed entry
//! costs itself and nothing else. Knows nothing of where the text stands.

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::Arc,
};

use serde::Deserialize;
use serde_json::Value;

use super::sections::sections;
use crate::{
    config::FileFormat,
    instance::{Instance, InstanceSet, MAX_WEIGHT, Skipped},
    registry::{Catalog, text},
};

/// What stands in the file, by service.
pub(super) type Services = BTreeMap<Arc<str>, Service>;

/// What stands in the file of one service. Two are equal where they mean the same.
#[derive(Clone, Debug)]
pub(super) struct Service {
    /// Its instances, or what is wrong with it.
    pub(super) set: Arc<Result<InstanceSet, String>>,
    /// Of its text; `None` where it was not read by itself.
    print: Option<Print>,
}

/// The length of a text and a hash of it, in the place of all texts of a large file.
type Print = (usize, u64);

impl PartialEq for Service {
    fn eq(&self, other: &Self) -> bool {
        self.set == other.set
    }
}

/// Reads a whole file; of it what is not as it was `before`.
///
/// # Errors
/// Where it is not what its ending says, with the place; and where it holds no service at all,
/// which is what an emptied file looks like before it is written.
pub(super) fn services(
    bytes: &[u8],
    format: FileFormat,
    before: Option<&Services>,
) -> Result<Services, String> {
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let (line, column) = place(&String::from_utf8_lossy(&bytes[..error.valid_up_to()]));
        format!("it is not UTF-8 at line {line} column {column}")
    })?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let tables: BTreeMap<Arc<str>, Value> = match format {
        FileFormat::Toml => {
            if let Some(services) = in_parts(text, before) {
                return Ok(services);
            }
            toml::from_str(text).map_err(|error| {
                let at = error.span().map_or(text.len(), |span| span.start);
                let (line, column) = place(text.get(..at).unwrap_or(text));
                format!("{} at line {line} column {column}", error.message())
            })?
        }
        FileFormat::Json => serde_json::from_str(text).map_err(|error| error.to_string())?,
    };
    if tables.is_empty() {
        return Err(
            "it holds no service; one that has no endpoints is `[NAME]` with `endpoints = []`"
                .to_owned(),
        );
    }
    Ok(tables
        .into_iter()
        .map(|(name, table)| (name, Service::of(table, None)))
        .collect())
}

/// Reads each service's part by itself, if it is not as it was; `None` where one cannot be: what is
/// wrong, and where, is said by who reads the whole.
fn in_parts(text: &str, before: Option<&Services>) -> Option<Services> {
    let parts = sections(text)?.into_iter();
    parts
        .map(|(name, text)| {
            let print = Some(print(&text));
            if let Some((name, service)) = before.and_then(|before| before.get_key_value(name))
                && service.print == print
            {
                return Some((Arc::clone(name), service.clone()));
            }
            let mut tables: BTreeMap<Arc<str>, Value> = toml::from_str(&text).ok()?;
            let (key, table) = tables.pop_first()?;
            (tables.is_empty() && *key == *name).then(|| (key, Service::of(table, print)))
        })
        .collect()
}

fn print(text: &str) -> Print {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    (text.len(), hasher.finish())
}

/// The line and column after a text.
fn place(before: &str) -> (usize, usize) {
    let line = before.rsplit('\n').next().unwrap_or_default();
    (1 + before.matches('\n').count(), 1 + line.chars().count())
}

/// One service's instances with all of `tags`; none where it is not in the file.
pub(super) fn set(services: &Services, name: &str, tags: &[String]) -> Result<InstanceSet, String> {
    let Some(service) = services.get(name) else {
        return Ok(InstanceSet::default());
    };
    let mut set = Result::clone(&service.set)?;
    set.instances
        .retain(|instance| instance.has(tags, &BTreeMap::new()));
    Ok(set)
}

/// All services, each with the tags of its instances.
pub(super) fn catalog(services: &Services) -> Catalog {
    let tags = |service: &Service| {
        let instances = service.set.iter().flat_map(|set| &set.instances);
        let tags: BTreeSet<_> = instances.flat_map(|instance| &instance.tags).collect();
        tags.into_iter().cloned().collect()
    };
    services
        .iter()
        .map(|(name, service)| (Arc::clone(name), tags(service)))
        .collect()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    endpoints: Vec<Value>,
}

/// An endpoint that says more than its address.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Endpoint {
    address: String,
    id: Option<String>,
    weight: Option<u32>,
    #[serde(default)]
    tags: Vec<String>,
    #[serde(default)]
    meta: BTreeMap<String, String>,
    #[serde(default)]
    tls: bool,
}

impl Service {
    fn of(table: Value, print: Option<Print>) -> Self {
        let table = serde_json::from_value::<Table>(table);
        let set = table.map_err(|error| error.to_string()).map(|table| {
            let entries = table.endpoints.into_iter().enumerate();
            InstanceSet::of(entries.map(|(index, entry)| instance(index, entry)))
        });
        Self {
            set: Arc::new(set),
            print,
        }
    }
}

fn instance(index: usize, entry: Value) -> Result<Instance, Skipped> {
    let endpoint = match entry {
        Value::String(address) => Endpoint {
            address,
            id: None,
            weight: None,
            tags: Vec::new(),
            meta: BTreeMap::new(),
            tls: false,
        },
        table => {
            let id = ["id", "address"].iter().find_map(|key| table[key].as_str());
            let id = id.map_or_else(|| format!("endpoints[{index}]"), str::to_owned);
            serde_json::from_value(table).map_err(|error| Skipped {
                id,
                reason: error.to_string(),
            })?
        }
    };
    let Endpoint {
        address,
        id,
        weight,
        tags,
        meta,
        tls,
    } = endpoint;
    let shown = id.as_ref().unwrap_or(&address);
    let mut instance = text::local_instance(shown, address.as_bytes())?;
    if let Some(weight) = weight.filter(|weight| !(1..=MAX_WEIGHT).contains(weight)) {
        let reason = format!("its weight {weight} is not from 1 to {MAX_WEIGHT}");
        return Err(Skipped {
            id: shown.clone(),
            reason,
        });
    }
    instance.id = match id {
        Some(id) => id.into(),
        None => instance.address.to_string().into(),
    };
    instance.tags = tags;
    instance.meta.extend(meta);
    let mut instance = instance.heed_meta();
    instance.tls |= tls;
    instance.weight = weight.unwrap_or(instance.weight);
    Ok(instance)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn toml(text: &str) -> Result<Services, String> {
        services(text.as_bytes(), FileFormat::Toml, None)
    }

    fn all(services: &Services, name: &str) -> InstanceSet {
        set(services, name, &[]).unwrap()
    }

    const TOML: &str = r#"
        [cart]
        endpoints = [
          "10.0.0.7:8080",
          "https://h:8443",
          { address = "10.0.0.8:8080", id = "cart-8", weight = 3, tags = ["v2"], meta = { zone = "a", weight = "9" }, tls = true },
          { address = "[::1]:80", meta = { weight = "9", scheme = "https" } },
        ]
        [shop]
        endpoints = []
    "#;

    const JSON: &str = r#"{
        "cart": {"endpoints": [
          {"address": "[::1]:80", "meta": {"weight": "9", "scheme": "https"}},
          "https://h:8443",
          "10.0.0.7:8080",
          {"address": "10.0.0.8:8080", "id": "cart-8", "weight": 3, "tags": ["v2"],
           "meta": {"zone": "a", "weight": "9"}, "tls": true}
        ]},
        "shop": {"endpoints": []}
    }"#;

    #[test]
    fn a_file_may_name_unix_sockets() {
        let text = "[cart]\nendpoints = [\"unix:/run/a.sock\",\n\
            { address = \"unix:/run/b.sock\", weight = 2 }, \"unix:b.sock\"]\n";
        let set = all(&toml(text).unwrap(), "cart");
        let named = set.instances.iter().map(|one| (&*one.id, one.weight));
        let expected = [("unix:/run/a.sock", 1), ("unix:/run/b.sock", 2)];
        assert_eq!(named.collect::<Vec<_>>(), expected);
        assert!(set.skipped[0].reason.contains("is not the whole path"));
    }

    #[test]
    fn a_file_of_any_depth_is_an_error_and_ends_nothing() {
        let deep = |open: &str, close: &str| open.repeat(100_000) + &close.repeat(100_000);
        for (text, format) in [
            (deep("[", "]"), FileFormat::Json),
            (format!("a = {}", deep("[", "]")), FileFormat::Toml),
            (format!("a = {}", deep("{a=", "}")), FileFormat::Toml),
            (
                format!("{} = 1", vec!["a"; 100_000].join(".")),
                FileFormat::Toml,
            ),
            (
                format!("[{}]", vec!["a"; 100_000].join(".")),
                FileFormat::Toml,
            ),
        ] {
            assert!(
                services(text.as_bytes(), format, None).is_err(),
                "{}",
                &text[..9]
            );
        }
    }

    #[test]
    fn both_formats_say_the_same_in_any_order() {
        let read = toml(TOML).unwrap();
        assert_eq!(
            services(JSON.as_bytes(), FileFormat::Json, None).unwrap(),
            read
        );
        let cart = all(&read, "cart");
        let shown = cart.instances.iter().map(|one| {
            let address = one.address.to_string();
            (one.id.to_string(), address, one.tls, one.weight)
        });
        let own =
            |address: &str, tls, weight| (address.to_owned(), address.to_owned(), tls, weight);
        assert_eq!(
            shown.collect::<Vec<_>>(),
            [
                own("10.0.0.7:8080", false, 1),
                own("[::1]:80", true, 9),
                ("cart-8".to_owned(), "10.0.0.8:8080".to_owned(), true, 3),
                own("h:8443", true, 1),
            ]
        );
        assert_eq!(cart.instances[2].meta["zone"], "a");
        assert_eq!(cart.skipped, []);
        assert_eq!(all(&read, "shop"), InstanceSet::default());
        assert_eq!(all(&read, "elsewhere"), InstanceSet::default());
    }

    #[test]
    fn tags_select_and_the_catalog_has_them() {
        let read = toml(TOML).unwrap();
        let v2 = set(&read, "cart", &["V2".to_owned()]).unwrap();
        assert_eq!(v2.instances.len(), 1);
        let v3 = set(&read, "cart", &["v2".to_owned(), "v3".to_owned()]).unwrap();
        assert_eq!(v3.instances, []);
        let catalog = catalog(&read);
        assert_eq!(catalog["cart"], ["v2"]);
        assert_eq!(catalog["shop"], [""; 0]);
    }

    #[test]
    fn a_malformed_entry_is_skipped_and_named() {
        let read = toml(
            r#"cart.endpoints = ["good:1", "bad", 7, { id = "x" }, { address = "a:1", wieght = 2 },
            { address = "b:1", weight = 0 }, { address = "c:1", weight = -1 }, { address = "d:0" }]"#,
        );
        let cart = all(&read.unwrap(), "cart");
        assert_eq!(cart.instances.len(), 1);
        let skipped: Vec<_> = cart
            .skipped
            .iter()
            .map(|skipped| (&*skipped.id, &*skipped.reason))
            .collect();
        let expected = [
            ("a:1", "unknown field `wieght`"),
            ("b:1", "its weight 0 is not from 1 to 65535"),
            ("bad", "`bad` has no port"),
            ("c:1", "invalid value: integer `-1`"),
            ("d:0", "port 0 cannot be called"),
            ("endpoints[2]", "invalid type: integer `7`"),
            ("x", "missing field `address`"),
        ];
        assert_eq!(skipped.len(), expected.len(), "{skipped:#?}");
        for ((id, reason), (expected_id, says)) in skipped.iter().zip(expected) {
            assert_eq!(*id, expected_id);
            assert!(reason.contains(says), "{id}: {reason}");
        }
    }

    #[test]
    fn a_malformed_service_is_an_error_of_its_own() {
        let read =
            toml("hat = 1\n[cart]\nendpoints = [\"a:1\"]\n[shop]\nendpionts = []\n").unwrap();
        assert_eq!(all(&read, "cart").instances.len(), 1);
        let says = |name| set(&read, name, &[]).unwrap_err();
        assert!(
            says("shop").contains("unknown field `endpionts`"),
            "{}",
            says("shop")
        );
        assert!(
            says("hat").contains("invalid type: integer `1`"),
            "{}",
            says("hat")
        );
        assert_eq!(catalog(&read).len(), 3, "known, if in trouble");
    }

    #[test]
    fn a_file_that_cannot_be_read_names_the_place_and_is_never_empty() {
        for (text, says) in [
            ("", "it holds no service"),
            ("\n# nobody yet\n", "it holds no service"),
            ("[cart]\nendpoints = [\"a:1\",\n", "at line 2 column 20"),
            ("[cart]\nendpoints = [é\"]\n", "at line 2 column 14"),
            ("[cart]\n[cart]\n", "duplicate key at line 2 column 2"),
        ] {
            let error = toml(text).unwrap_err();
            assert!(error.contains(says), "{text:?}: {error}");
        }
        for (text, says) in [
            ("", "EOF while parsing a value at line 1 column 0"),
            ("{}", "it holds no service"),
            (
                "{\"cart\": {\"endpoints\": [\n\"a:1\"",
                "EOF while parsing a list at line 2 column 5",
            ),
            ("[]", "invalid type"),
        ] {
            let error = services(text.as_bytes(), FileFormat::Json, None).unwrap_err();
            assert!(error.contains(says), "{text:?}: {error}");
        }
        let error = services(b"[cart]\n# \xff\n", FileFormat::Toml, None).unwrap_err();
        assert_eq!(error, "it is not UTF-8 at line 2 column 3");
    }

    #[test]
    fn no_part_of_a_file_of_one_service_is_taken_for_less() {
        let whole = JSON.replace(",\n        \"shop\": {\"endpoints\": []}", "");
        let read = services(whole.as_bytes(), FileFormat::Json, None).unwrap();
        assert_eq!(all(&read, "cart").instances.len(), 4);
        let end = whole.trim_end().len();
        for cut in 0..end {
            assert!(
                services(&whole.as_bytes()[..cut], FileFormat::Json, None).is_err(),
                "{cut}"
            );
        }
    }

    #[test]
    fn only_what_did_change_is_read_again() {
        let text = |weight: u32| {
            let entry = |n: usize| {
                let weight = if n == 7 { weight } else { 1 };
                format!(
                    "[s{n}]\nendpoints = [{{ address = \"10.0.0.1:{}\", weight = {weight} }}]\n",
                    n + 1
                )
            };
            (0..50).map(entry).collect::<String>()
        };
        let before = toml(&text(1)).unwrap();
        let after = services(text(2).as_bytes(), FileFormat::Toml, Some(&before)).unwrap();
        let is_kept = |name: &Arc<str>| Arc::ptr_eq(&before[name].set, &after[name].set);
        let read = after.keys().filter(|name| !is_kept(name));
        assert_eq!(read.map(|name| &**name).collect::<Vec<_>>(), ["s7"]);
        assert_eq!(all(&after, "s7").instances[0].weight, 2);
        // And what is wrong anywhere is said with its place in the whole.
        let wrong = text(2) + "[s9]\nendpoints = []\n";
        let error = services(wrong.as_bytes(), FileFormat::Toml, Some(&before)).unwrap_err();
        assert!(error.contains("line 101"), "{error}");
    }
}
