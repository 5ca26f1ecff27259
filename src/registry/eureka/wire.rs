//! A server's answer, in JSON or in XML → what it says of each entry. Knows nothing of HTTP, or of what an
//! entry means.

use roxmltree::{Document, Node, ParsingOptions};
use serde::Deserialize;
use serde_json::{Map, Value, value::RawValue};

use super::entry::{Entry, Reading};
use crate::registry::bounded::{List, MAX_ENTRIES};

/// How many elements and texts are read of an answer in XML: those of some 20,000 instances. Each costs
/// 80 bytes, and room for all is made at the start. (A registry of more instances writes JSON.)
const MAX_NODES: u32 = 2_000_000;

/// How deep elements may lie in an instance. Eureka's lie three deep; each level is one of our own
/// stack, and a stack that overflows ends the process.
const MAX_DEPTH: usize = 32;

/// How many attributes an element may have. Eureka's have one; the parser compares each with all
/// the others.
const MAX_ATTRIBUTES: usize = 100;

/// How many namespaces a whole answer may declare. Eureka's declare none; the parser copies those of an
/// element for each one inside that declares another, and compares each with all of them.
const MAX_NAMESPACES: usize = 16;

/// An answer of `/apps` or `/apps/delta`.
#[derive(Debug, PartialEq)]
pub(super) struct Answer {
    /// How many of the registry's instances have which status: `DOWN_1_UP_7_`.
    pub(super) hash: String,
    pub(super) changes: Vec<Change>,
}

/// An entry, and whether it is there or was taken away. An answer of `/apps` has none of the
/// latter.
#[derive(Debug, PartialEq)]
pub(super) struct Change {
    pub(super) entry: Entry,
    pub(super) deleted: bool,
}

/// Reads an answer in whichever of the two formats it is.
///
/// # Errors
/// Why it is neither.
pub(super) fn read(body: &[u8], reading: Reading) -> Result<Answer, String> {
    if body.trim_ascii_start().starts_with(b"<") {
        xml(body, reading)
    } else {
        json(body, reading).map_err(|error| error.to_string())
    }
}

/// The instances of one application.
fn changes(name: &str, instances: impl Iterator<Item = Value>, reading: Reading) -> Vec<Change> {
    let change = |(position, instance): (usize, Value)| {
        let own = instance["app"].as_str();
        let app = Some(name).filter(|name| !name.is_empty()).or(own)?;
        Some(Change {
            deleted: instance["actionType"] == "DELETED",
            entry: Entry::read(app, position, &instance, reading),
        })
    };
    // An instance without an application belongs to no service.
    instances.enumerate().filter_map(change).collect()
}

#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow)]
    applications: Applications<'a>,
}

#[derive(Deserialize)]
struct Applications<'a> {
    #[serde(rename = "apps__hashcode")]
    hash: Option<String>,
    #[serde(borrow)]
    application: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Application<'a> {
    #[serde(default)]
    name: Option<String>,
    #[serde(borrow)]
    instance: Option<&'a RawValue>,
}

fn json(body: &[u8], reading: Reading) -> serde_json::Result<Answer> {
    let Envelope { applications } = serde_json::from_slice(body)?;
    if applications.hash.is_none() && applications.application.is_none() {
        return Err(serde::de::Error::missing_field("application"));
    }
    let mut all = Vec::new();
    for application in one_or_more(applications.application)? {
        // An application that cannot be read has no name to be asked for by.
        let Ok(Application { name, instance }) = serde_json::from_str(application.get()) else {
            continue;
        };
        let instances = one_or_more(instance)?;
        check_number(all.len() + instances.len()).map_err(serde::de::Error::custom)?;
        let instances = instances
            .into_iter()
            .map(|instance| serde_json::from_str(instance.get()).unwrap_or_default());
        all.extend(changes(&name.unwrap_or_default(), instances, reading));
    }
    Ok(Answer {
        hash: applications.hash.unwrap_or_default(),
        changes: all,
    })
}

fn check_number(instances: usize) -> Result<(), String> {
    if instances > MAX_ENTRIES {
        return Err(format!("it lists more than {MAX_ENTRIES} instances"));
    }
    Ok(())
}

/// An array, or the one value that older servers write in place of an array of one.
fn one_or_more(value: Option<&RawValue>) -> serde_json::Result<Vec<&RawValue>> {
    Ok(match value {
        None => Vec::new(),
        Some(value) if value.get() == "null" => Vec::new(),
        Some(value) if value.get().starts_with('[') => {
            let List(values) = serde_json::from_str(value.get())?;
            values
        }
        Some(value) => vec![value],
    })
}

fn xml(body: &[u8], reading: Reading) -> Result<Answer, String> {
    let text = std::str::from_utf8(body).map_err(|error| error.to_string())?;
    check_tags(text)?;
    let options = ParsingOptions {
        nodes_limit: MAX_NODES,
        ..ParsingOptions::default()
    };
    let document =
        Document::parse_with_options(text, options).map_err(|error| error.to_string())?;
    let root = document.root_element();
    if root.tag_name().name() != "applications" {
        return Err(format!("its root is <{}>", root.tag_name().name()));
    }
    let hash = child_text(root, "apps__hashcode");
    let mut all = Vec::new();
    for application in named(root, "application") {
        let name = child_text(application, "name");
        let instances = named(application, "instance").map(|instance| value(instance, MAX_DEPTH));
        let instances = instances.collect::<Result<Vec<_>, _>>()?;
        check_number(all.len() + instances.len())?;
        all.extend(changes(&name, instances.into_iter(), reading));
    }
    Ok(Answer { changes: all, hash })
}

/// Whether the parser's work, and what it holds, is bounded by the text's length.
fn check_tags(text: &str) -> Result<(), String> {
    let (mut elements, mut namespaces) = (0, 0);
    for tag in text.split('<') {
        let tag = attributes(tag);
        elements += 1;
        namespaces += tag.namespaces;
        if tag.all > MAX_ATTRIBUTES {
            return Err(format!(
                "an element has more than {MAX_ATTRIBUTES} attributes"
            ));
        }
    }
    if namespaces > MAX_NAMESPACES {
        return Err(format!("it declares more than {MAX_NAMESPACES} namespaces"));
    }
    if elements > MAX_NODES as usize {
        return Err(format!("it has more than {MAX_NODES} elements"));
    }
    Ok(())
}

/// How many attributes a tag has.
#[derive(Default)]
struct Attributes {
    all: usize,
    /// Those that declare a namespace.
    namespaces: usize,
}

/// The attributes of what stands after a `<`, which no attribute's value may hold.
fn attributes(text: &str) -> Attributes {
    let mut count = Attributes::default();
    let mut quote = None;
    let mut name = 0;
    for (at, byte) in text.bytes().enumerate() {
        match (quote, byte) {
            (None, b'>') => break,
            (None, b'"' | b'\'') => {
                quote = Some(byte);
                count.namespaces += usize::from(text[name..at].contains("xmlns"));
            }
            (Some(open), close) if open == close => {
                quote = None;
                name = at + 1;
                count.all += 1;
            }
            _ => {}
        }
    }
    count
}

fn named<'a>(node: Node<'a, 'a>, name: &str) -> impl Iterator<Item = Node<'a, 'a>> {
    node.children()
        .filter(move |child| child.has_tag_name(name))
}

fn child_text(node: Node<'_, '_>, name: &str) -> String {
    let child = node.children().find(|child| child.has_tag_name(name));
    let text = child.and_then(|child| child.text());
    text.unwrap_or_default().trim().to_owned()
}

/// An element as the JSON that the same server would write: attributes are keys with an `@`, and
/// the text beside attributes is the key `$`. `room` is how much deeper it may go.
fn value(node: Node<'_, '_>, room: usize) -> Result<Value, String> {
    let Some(room) = room.checked_sub(1) else {
        return Err(format!(
            "an instance has elements more than {MAX_DEPTH} deep"
        ));
    };
    let text = || node.text().unwrap_or_default().trim().to_owned();
    let mut fields = Map::new();
    for attribute in node.attributes() {
        fields.insert(format!("@{}", attribute.name()), attribute.value().into());
    }
    let attributes = fields.len();
    for child in node.children().filter(Node::is_element) {
        fields.insert(unescape(child.tag_name().name()), value(child, room)?);
    }
    if fields.is_empty() {
        return Ok(Value::String(text()));
    }
    if fields.len() == attributes && !text().is_empty() {
        fields.insert("$".to_owned(), text().into());
    }
    Ok(Value::Object(fields))
}

/// A name as it was before XStream, which writes Eureka's XML, made an element's name of it: `__`
/// stands for `_`, `_-` for `$`, and `_.0020` for the character of that code.
fn unescape(name: &str) -> String {
    let mut plain = String::with_capacity(name.len());
    let mut rest = name;
    while let Some((before, after)) = rest.split_once('_') {
        plain.push_str(before);
        let code = |after: &str| {
            let digits = after.strip_prefix('.')?.get(..4)?;
            char::from_u32(u32::from_str_radix(digits, 16).ok()?)
        };
        let (letter, length) = match after.as_bytes().first() {
            Some(b'_') => ('_', 1),
            Some(b'-') => ('$', 1),
            _ => code(after).map_or(('_', 0), |letter| (letter, 5)),
        };
        plain.push(letter);
        rest = &after[length..];
    }
    plain + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    use serde_json::json;

    use crate::config::{CalledAt, NamedBy};

    const BY_APPLICATION: Reading = Reading {
        by: NamedBy::Application,
        host: CalledAt::Address,
    };

    /// One registry in both formats, as one server writes them.
    const JSON: &str = r#"{"applications":{"versions__delta":"1","apps__hashcode":"DOWN_1_UP_1_","application":[{"name":"CART","instance":[{"instanceId":"a:1","hostName":"h1.example","app":"CART","ipAddr":"10.0.0.1","status":"UP","overriddenStatus":"UNKNOWN","port":{"$":8080,"@enabled":"false"},"securePort":{"$":7002,"@enabled":"false"},"countryId":1,"dataCenterInfo":{"@class":"com.netflix.appinfo.InstanceInfo$DefaultDataCenterInfo","name":"MyOwn"},"leaseInfo":{"renewalIntervalInSecs":1,"durationInSecs":300},"metadata":{"zone":"a","my_key":"v","my key":"w"},"vipAddress":"cart-vip","actionType":"ADDED"},{"instanceId":"","hostName":"10.0.0.2","app":"CART","ipAddr":"10.0.0.2","status":"DOWN","overriddenStatus":"UNKNOWN","port":{"$":8081,"@enabled":"false"},"securePort":{"$":0,"@enabled":"false"},"countryId":0,"dataCenterInfo":{"@class":"com.netflix.appinfo.InstanceInfo$DefaultDataCenterInfo","name":"MyOwn"},"metadata":{"@class":"java.util.Collections$EmptyMap"},"homePageUrl":"","vipAddress":"cart","actionType":"DELETED"}]}]}}"#;
    const XML: &str = r#"<applications>
  <versions__delta>1</versions__delta>
  <apps__hashcode>DOWN_1_UP_1_</apps__hashcode>
  <application>
    <name>CART</name>
    <instance>
      <instanceId>a:1</instanceId>
      <hostName>h1.example</hostName>
      <app>CART</app>
      <ipAddr>10.0.0.1</ipAddr>
      <status>UP</status>
      <overriddenstatus>UNKNOWN</overriddenstatus>
      <port enabled="false">8080</port>
      <securePort enabled="false">7002</securePort>
      <countryId>1</countryId>
      <dataCenterInfo class="com.netflix.appinfo.InstanceInfo$DefaultDataCenterInfo">
        <name>MyOwn</name>
      </dataCenterInfo>
      <leaseInfo>
        <renewalIntervalInSecs>1</renewalIntervalInSecs>
      </leaseInfo>
      <metadata>
        <zone>a</zone>
        <my__key>v</my__key>
        <my_.0020key>w</my_.0020key>
      </metadata>
      <vipAddress>cart-vip</vipAddress>
      <actionType>ADDED</actionType>
    </instance>
    <instance>
      <instanceId></instanceId>
      <hostName>10.0.0.2</hostName>
      <app>CART</app>
      <ipAddr>10.0.0.2</ipAddr>
      <status>DOWN</status>
      <overriddenstatus>UNKNOWN</overriddenstatus>
      <port enabled="false">8081</port>
      <securePort enabled="false">0</securePort>
      <dataCenterInfo class="com.netflix.appinfo.InstanceInfo$DefaultDataCenterInfo">
        <name>MyOwn</name>
      </dataCenterInfo>
      <metadata class="java.util.Collections$EmptyMap"/>
      <vipAddress>cart</vipAddress>
      <actionType>DELETED</actionType>
    </instance>
  </application>
</applications>"#;

    fn answer(text: &str) -> Answer {
        read(text.as_bytes(), BY_APPLICATION).unwrap()
    }

    fn ids(answer: &Answer) -> Vec<String> {
        let id = |change: &Change| format!("{}/{}", change.entry.app, change.entry.id);
        answer.changes.iter().map(id).collect()
    }

    #[test]
    fn both_formats_say_the_same() {
        let json = answer(JSON);
        assert_eq!(json, answer(XML));
        assert_eq!(json.hash, "DOWN_1_UP_1_");
        assert_eq!(ids(&json), ["cart/a:1", "cart/10.0.0.2"]);
        let deleted: Vec<_> = json.changes.iter().map(|change| change.deleted).collect();
        assert_eq!(deleted, [false, true]);
        let meta = &json.changes[0].entry.read.as_ref().unwrap().meta;
        assert_eq!(
            (meta["my_key"].as_str(), meta["my key"].as_str()),
            ("v", "w")
        );
    }

    #[test]
    fn an_empty_registry_is_no_error() {
        for text in [
            r#"{"applications":{"versions__delta":"1","apps__hashcode":"","application":[]}}"#,
            r#"{"applications":{"apps__hashcode":"","application":null}}"#,
            r#" {"applications":{"application":[]}} "#,
            "<applications><versions__delta>1</versions__delta><apps__hashcode></apps__hashcode></applications>",
            "<?xml version=\"1.0\"?>\n<applications/>",
        ] {
            assert_eq!(answer(text).changes, [], "{text}");
        }
    }

    #[test]
    fn one_in_place_of_a_list_is_a_list_of_one() {
        let instance = json!({"instanceId": "a", "ipAddr": "10.0.0.1", "port": 80});
        let text = json!({"applications": {"application": {"name": "CART", "instance": instance}}});
        assert_eq!(ids(&answer(&text.to_string())), ["cart/a"]);
    }

    #[test]
    fn what_is_malformed_costs_itself_only() {
        let good = json!({"instanceId": "a", "app": "CART", "ipAddr": "10.0.0.1", "port": 80});
        let text = json!({"applications": {"apps__hashcode": "UP_1_", "application": [
            7,
            {"name": 7, "instance": [good]},
            {"instance": [good]},
            {"name": "CART", "instance": [null, good, "x"]},
            {"name": "HAT", "instance": 7},
            {"name": "EMPTY"},
        ]}});
        let answer = answer(&text.to_string());
        assert_eq!(
            ids(&answer),
            ["cart/a", "cart/#0", "cart/a", "cart/#2", "hat/#0"]
        );
        let skipped = answer.changes.iter().filter(|e| e.entry.read.is_err());
        assert_eq!(skipped.count(), 3);
    }

    #[test]
    fn what_is_neither_format_is_an_error_and_never_empty() {
        for (text, says) in [
            ("", "EOF"),
            ("null", "invalid type: null"),
            ("[]", "invalid length"),
            ("{}", "missing field `applications`"),
            (r#"{"applications":{}}"#, "missing field `application`"),
            (r#"{"applications":{"application":[{]}}"#, "key must be"),
            (r#"{"application":{"name":"CART"}}"#, "missing field"),
            ("<html><body/></html>", "its root is <html>"),
            ("<!DOCTYPE html><html></html>", "DTD"),
            ("<applications><application>", "root node"),
        ] {
            let error = read(text.as_bytes(), BY_APPLICATION).unwrap_err();
            assert!(error.contains(says), "{text}: {error}");
        }
        assert!(read(b"<applications>\xff</applications>", BY_APPLICATION).is_err());
    }

    #[test]
    fn xml_of_any_depth_and_breadth_is_an_error_and_ends_nothing() {
        let of = |instance: &str| {
            let head = "<applications><application><name>CART</name><instance>";
            let text = format!("{head}{instance}</instance></application></applications>");
            read(text.as_bytes(), BY_APPLICATION)
        };
        let nested = |depth| "<a>".repeat(depth) + &"</a>".repeat(depth);
        assert!(of(&nested(MAX_DEPTH - 1)).is_ok());
        for depth in [MAX_DEPTH, 10_000, 900_000] {
            let error = of(&nested(depth)).unwrap_err();
            assert!(error.contains("more than 32 deep"), "{error}");
        }
        // What lies outside of an instance is passed over.
        let beside = format!("<applications>{}</applications>", nested(900_000));
        assert!(read(beside.as_bytes(), BY_APPLICATION).is_ok());

        let tag = |attributes: usize| {
            let attributes: Vec<_> = (0..attributes).map(|n| format!("a{n}='>\"'")).collect();
            format!("<b {}/>", attributes.join(" "))
        };
        assert!(of(&tag(MAX_ATTRIBUTES)).is_ok());
        // At some nanoseconds for each pair of attributes this would take an hour.
        let error = of(&tag(2_000_000)).unwrap_err();
        assert!(error.contains("more than 100 attributes"), "{error}");

        let declared = |count: usize, what: &str| {
            let names: Vec<_> = (0..count)
                .map(|n| format!("xmlns:a{n} = '{what}'"))
                .collect();
            format!("<b {}><a xmlns:q=\"u\"/></b>", names.join(" "))
        };
        assert!(of(&declared(MAX_NAMESPACES - 1, "u")).is_ok());
        // What a value says is no declaration.
        let said = "<b c='xmlns:a=' d=\"xmlns\">xmlns:a='u'</b>".repeat(MAX_NAMESPACES + 1);
        assert!(of(&said).is_ok());
        // Each of these would be compared with all of the element's around it: for an hour.
        let nested = |element: usize| {
            let names: Vec<_> = (0..100)
                .map(|n| format!("xmlns:a{element}-{n}='u'"))
                .collect();
            format!("<b {}>", names.join(" "))
        };
        let nested: String = (0..600).map(nested).collect();
        for many in [
            nested,
            declared(99, "u") + &"<a xmlns:q='u'/>".repeat(1_900_000),
        ] {
            let error = of(&many).unwrap_err();
            assert!(error.contains("more than 16 namespaces"), "{error}");
        }
    }

    #[test]
    fn an_answer_of_more_entries_than_any_registry_has_is_an_error() {
        let many = vec!["1"; MAX_ENTRIES + 1].join(",");
        let text =
            format!(r#"{{"applications":{{"application":[{{"name":"A","instance":[{many}]}}]}}}}"#);
        let of_many_applications = r#"{"name":"A","instance":["#.to_owned()
            + &vec!["1"; MAX_ENTRIES / 2].join(",")
            + "]},";
        let of_many_applications = format!(
            r#"{{"applications":{{"application":[{}{{}}]}}}}"#,
            of_many_applications.repeat(3)
        );
        for text in [text, of_many_applications] {
            let error = read(text.as_bytes(), BY_APPLICATION).unwrap_err();
            assert!(error.contains("it lists more than 200000"), "{error}");
        }
        let nodes = format!("<applications>{}", "<a/>".repeat(MAX_NODES as usize));
        let error = read(nodes.as_bytes(), BY_APPLICATION).unwrap_err();
        assert!(error.contains("more than 2000000 elements"), "{error}");
    }

    #[test]
    fn json_of_any_depth_costs_its_own_entry_only() {
        let deep = "[".repeat(100_000) + &"]".repeat(100_000);
        let text = format!(
            r#"{{"applications":{{"application":[{{"name":"CART","instance":[{deep},{{"instanceId":"a"}}]}}]}}}}"#
        );
        assert_eq!(ids(&answer(&text)), ["cart/#0", "cart/a"]);
    }

    #[test]
    fn names_are_as_they_were_before_xml() {
        for (written, plain) in [
            ("my__key", "my_key"),
            ("um____x", "um__x"),
            ("my_-k", "my$k"),
            ("_.0040odd", "@odd"),
            ("a_b", "a_b"),
            ("a_", "a_"),
            ("a_.00zz", "a_.00zz"),
            ("a_.é", "a_.é"),
            ("management.port", "management.port"),
        ] {
            assert_eq!(unescape(written), plain);
        }
    }
}
