//! The JSON schema of proxy.toml is what the page of keys says, which is what the reader knows
//! (`config/load/keys.rs`).

use std::{fs, path::Path};

use serde_json::{Map, Value, json};

use super::config::SCHEMA;

const PAGE: &str = include_str!("../../docs/configuration.md");
const PROXY_TOML: &str = include_str!("../../proxy.toml");

/// What may stand for a number or a boolean: it begins the pattern of such a text.
const VARIABLE: &str = "^\\$\\{";

/// The same, or a variable that stands for it. The bounds of numbers hold for numbers alone.
fn or_variable(mut schema: Value) -> Value {
    let mut kinds = match schema["type"].take() {
        Value::Array(kinds) => kinds,
        kind => vec![kind],
    };
    kinds.push("string".into());
    schema["type"] = kinds.into();
    schema["pattern"] = format!("{VARIABLE}[^}}]*\\}}$").into();
    schema
}

/// A text that is no word of those that may stand there, but a variable that stands for one.
fn variable() -> Value {
    json!({ "type": "string", "pattern": VARIABLE })
}

/// What a key is, by the page's words for it.
fn of_words(words: &str) -> Option<Value> {
    let text = || json!({ "type": "string" });
    let several = |one: Value| json!({ "anyOf": [one, { "type": "array", "items": one }] });
    let duration = || json!({ "type": "string", "pattern": "^([0-9]+(ms|s|m|h))+$|\\$\\{" });
    let secret = |of: &[&str]| {
        let properties: Map<_, _> = of.iter().map(|key| ((*key).into(), text())).collect();
        json!({ "type": "object", "properties": properties, "minProperties": 1,
                "maxProperties": 1, "additionalProperties": false })
    };
    let words = words.trim();
    for end in [", or `false`", " or `false`"] {
        if let Some(rest) = words.strip_suffix(end) {
            let rest = of_words(rest)?;
            return Some(json!({ "anyOf": [rest, { "const": false }] }));
        }
    }
    Some(match words {
        "boolean" => or_variable(json!({ "type": "boolean" })),
        "boolean, or the port to go to" => or_variable(json!({ "type": ["boolean", "integer"] })),
        "number" => or_variable(json!({ "type": "number" })),
        "number between 0 and 1" => {
            or_variable(json!({ "type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1 }))
        }
        "statuses" => several(json!({ "type": ["integer", "string"] })),
        "secret" => secret(&["file", "env"]),
        "text, or `{ env = \"…\" }`" => json!({ "anyOf": [text(), secret(&["env"])] }),
        "table" => json!({ "type": "object" }),
        "table of texts" => json!({ "type": "object", "additionalProperties": text() }),
        "array of tables" => json!({ "type": "array", "items": { "type": "object" } }),
        "array of texts" | "array of networks" => json!({ "type": "array", "items": text() }),
        _ if words.starts_with("`{ header = \"…\" }`") => {
            json!({ "anyOf": [secret(&["header", "cookie", "query"]), { "enum": ["client", "path"] }] })
        }
        "as `balance.by`, or `\"route\"`" => {
            json!({ "anyOf": [secret(&["header", "cookie", "query"]),
                              { "enum": ["client", "path", "route"] }] })
        }
        "any of these, or `\"hash\"`" | "any kind but `hash` and `sticky`" => text(),
        _ if words.starts_with("as for [`[admin]`]") => several(text()),
        _ if words.starts_with("number ") => {
            let (least, most) = words["number ".len()..].split_once('–')?;
            let number = |text: &str| text.replace(',', "").parse::<u64>().ok();
            let (least, most) = (number(least)?, number(most)?);
            or_variable(json!({ "type": "number", "minimum": least, "maximum": most }))
        }
        _ if words.starts_with("duration") => duration(),
        _ if words.contains("array of ") || words == "text or array of at least one" => {
            several(text())
        }
        _ if words.starts_with('`') => of_alternatives(words)?,
        _ => {
            let kinds = ["text", "path", "URL", "host", "name", "a "];
            kinds
                .iter()
                .any(|kind| words.starts_with(kind))
                .then(text)?
        }
    })
}

/// `"a"`, `"b"` or `"c"`, perhaps with a table.
fn of_alternatives(words: &str) -> Option<Value> {
    let (words, has_table) = match words.strip_suffix(", or a table") {
        Some(words) => (words, true),
        None => (words, false),
    };
    let names = words.replace(" or ", ", ");
    let names = names.split(", ").map(|name| {
        let name = name.strip_prefix("`\"")?.strip_suffix("\"`")?;
        Some(name.to_owned())
    });
    let names = json!({ "enum": names.collect::<Option<Vec<_>>>()? });
    let mut kinds = vec![names, variable()];
    if has_table {
        kinds.push(json!({ "type": "object" }));
    }
    Some(json!({ "anyOf": kinds }))
}

/// A key of the page.
struct Row {
    section: String,
    key: String,
    schema: Value,
    /// Whether its table is one of several, in an array.
    is_of_elements: bool,
    is_of_services_only: bool,
}

fn rows() -> Vec<Row> {
    let (mut section, mut rows) = (String::new(), Vec::<Row>::new());
    for line in PAGE.lines() {
        if line.starts_with('#') {
            section = line.trim_start_matches('#').trim().replace('`', "");
        }
        let Some((key, rest)) = line
            .strip_prefix("| `")
            .and_then(|row| row.split_once("` | "))
        else {
            continue;
        };
        let (kind, meaning) = rest
            .trim_end_matches(" |")
            .split_once(" | ")
            .unwrap_or((rest, ""));
        let (words, default) = kind.split_once("; ").unwrap_or((kind, ""));
        let mut schema = match words {
            "as for a service" => {
                let mut all = rows.iter();
                let same = all.find(|row| row.section.starts_with("[defaults]") && row.key == key);
                let mut schema = same.expect("a key of a service").schema.clone();
                schema.as_object_mut().unwrap().remove("default");
                schema
            }
            words => of_words(words).unwrap_or_else(|| panic!("{key}: what is {words}?")),
        };
        let about = schema.as_object_mut().unwrap();
        if !meaning.trim().is_empty() {
            about.insert("description".into(), plain(meaning).into());
        }
        if let Some(default) = value(default) {
            about.insert("default".into(), default);
        }
        rows.push(Row {
            section: section.clone(),
            key: key.to_owned(),
            schema,
            is_of_elements: meaning.starts_with("of each element"),
            is_of_services_only: meaning.contains("`[service.NAME]` only"),
        });
    }
    rows
}

/// A default of the page, where it is a value.
fn value(default: &str) -> Option<Value> {
    let text = default.strip_prefix('`')?.strip_suffix('`')?;
    let read = format!("a = {text}").parse::<toml::Table>().ok();
    Some(match read.map(|mut read| read.remove("a")) {
        Some(Some(value)) => serde_json::to_value(value).unwrap(),
        _ => text.into(),
    })
}

/// Without links and marks.
fn plain(text: &str) -> String {
    let (mut out, mut rest) = (String::new(), text);
    while let Some((before, link)) = rest.split_once('[') {
        out += before;
        match link.split_once("](") {
            Some((words, after)) if !words.contains('[') => {
                out += words;
                rest = after.split_once(')').map_or("", |(_, rest)| rest);
            }
            _ => {
                out += "[";
                rest = link;
            }
        }
    }
    (out + rest).replace(['`', '*'], "").trim().to_owned()
}

/// A table of keys, as it grows.
fn table() -> Value {
    json!({ "type": "object", "properties": {}, "additionalProperties": false })
}

/// Puts a key below a table; a key that is there may be either.
fn put(table: &mut Value, key: &str, schema: &Value, is_of_elements: bool) {
    let (first, rest) = match key.split_once('.') {
        Some((first, rest)) => (first, Some(rest)),
        None => (key, None),
    };
    let properties = table["properties"].as_object_mut().unwrap();
    let Some(rest) = rest else {
        match properties.get_mut(first) {
            None => drop(properties.insert(first.to_owned(), schema.clone())),
            Some(before) if same(before, schema) => {}
            Some(before) => {
                // What is said of each stays with it.
                let mut of = before["anyOf"].as_array().cloned().unwrap_or_default();
                if before.get("x").is_none() {
                    of = vec![before.take()];
                }
                of.push(schema.clone());
                *before = json!({ "anyOf": of, "x": true });
            }
        }
        return;
    };
    let is_array = is_of_elements && !rest.contains('.');
    let inner = properties.entry(first).or_insert_with(|| match is_array {
        true => json!({ "type": "array", "items": self::table() }),
        false => self::table(),
    });
    put(open(inner), rest, schema, is_of_elements);
}

fn same(a: &Value, b: &Value) -> bool {
    let bare = |value: &Value| {
        let mut value = value.clone();
        for note in ["description", "default"] {
            value.as_object_mut().unwrap().remove(note);
        }
        value
    };
    bare(a) == bare(b)
}

/// The table that a value may be, with its keys.
fn open(value: &mut Value) -> &mut Value {
    if value["type"] == "array" {
        return &mut value["items"];
    }
    if value.get("anyOf").is_some() {
        let any = value["anyOf"].as_array_mut().unwrap();
        let found = any.iter_mut().find(|one| one["type"] == "object");
        let found = found.expect("one of them is a table");
        return open(found);
    }
    if value.get("properties").is_none() {
        value["properties"] = json!({});
        value["additionalProperties"] = json!(false);
    }
    value
}

fn schema() -> Value {
    let mut root = table();
    let (mut listen, mut registry, mut route) = (table(), table(), table());
    let (mut defaults, mut service) = (table(), table());
    let mut named: Map<String, Value> = Map::new();
    for row in rows() {
        let Row {
            section,
            key,
            schema,
            is_of_elements,
            is_of_services_only,
        } = &row;
        let into = |table: &mut Value| put(table, key, schema, *is_of_elements);
        match section.as_str() {
            "Values" => {}
            "Top level" => into(&mut root),
            "[[listen]]" => into(&mut listen),
            "[[route]]" => into(&mut route),
            "[registry.NAME]" | "TLS to a registry" => into(&mut registry),
            section if section.starts_with("kind") => into(&mut registry),
            section if section.starts_with("[defaults]") => {
                into(&mut service);
                if !is_of_services_only {
                    into(&mut defaults);
                }
            }
            section => {
                let name = section.trim_matches(['[', ']']).to_owned();
                into(named.entry(name).or_insert_with(table));
            }
        }
    }
    named["snapshot"] = json!({ "anyOf": [named["snapshot"], { "const": false }] });
    named.insert("listen".into(), json!({ "type": "array", "items": listen }));
    named.insert("route".into(), json!({ "type": "array", "items": route }));
    named.insert("defaults".into(), defaults);
    for (name, of) in [("registry", registry), ("service", service)] {
        let tables = json!({ "type": "object", "additionalProperties": of });
        named.insert(name.into(), tables);
    }
    root["properties"].as_object_mut().unwrap().extend(named);
    root["$schema"] = "http://json-schema.org/draft-07/schema#".into();
    root["title"] = "Callboard's proxy.toml".into();
    without_marks(root)
}

fn without_marks(value: Value) -> Value {
    match value {
        Value::Object(members) => {
            let members = members.into_iter().filter(|(key, _)| key != "x");
            members
                .map(|(key, value)| (key, without_marks(value)))
                .collect()
        }
        Value::Array(all) => all.into_iter().map(without_marks).collect(),
        other => other,
    }
}

/// Whether a text stands where none may but a variable.
fn is_no_variable(schema: &Value, value: &Value) -> bool {
    let pattern = schema["pattern"].as_str();
    let is_wanted = pattern.is_some_and(|pattern| pattern.starts_with(VARIABLE));
    is_wanted && value.as_str().is_some_and(|text| !text.starts_with("${"))
}

/// What of a value breaks a schema, as far as this one's words go.
fn faults(schema: &Value, value: &Value, at: &str) -> Vec<String> {
    let fault = |what: &str| vec![format!("{at}: {value} {what}")];
    if let Some(any) = schema["anyOf"].as_array() {
        let all: Vec<_> = any.iter().map(|one| faults(one, value, at)).collect();
        return match all.iter().any(Vec::is_empty) {
            true => Vec::new(),
            false => all.concat(),
        };
    }
    let is = |kind: &str| match kind {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_u64(),
        "number" => value.is_number(),
        other => panic!("{other}"),
    };
    let fits = match &schema["type"] {
        Value::Array(kinds) => kinds.iter().any(|kind| is(kind.as_str().unwrap())),
        Value::String(kind) => is(kind),
        _ => true,
    };
    if !fits || is_no_variable(schema, value) {
        return fault(&format!("is no {}", schema["type"]));
    }
    if schema["enum"]
        .as_array()
        .is_some_and(|all| !all.contains(value))
        || schema.get("const").is_some_and(|only| only != value)
    {
        return fault("is none of these");
    }
    if let (Some(number), Some(least)) = (value.as_f64(), schema["minimum"].as_f64())
        && number < least
    {
        return fault("is too small");
    }
    let mut found = Vec::new();
    for (name, member) in value.as_object().into_iter().flatten() {
        let at = format!("{at}.{name}");
        match (
            schema["properties"].get(name),
            &schema["additionalProperties"],
        ) {
            (Some(schema), _) => found.extend(faults(schema, member, &at)),
            (None, Value::Bool(false)) => found.push(format!("{at}: there is no such key")),
            (None, Value::Null) => {}
            (None, schema) => found.extend(faults(schema, member, &at)),
        }
    }
    for element in value.as_array().into_iter().flatten() {
        if let Some(schema) = schema.get("items") {
            found.extend(faults(schema, element, at));
        }
    }
    found
}

fn faults_of(text: &str) -> Vec<String> {
    let value = serde_json::to_value(text.parse::<toml::Table>().unwrap()).unwrap();
    faults(&serde_json::from_str(SCHEMA).unwrap(), &value, "")
}

#[test]
fn the_schema_is_that_of_the_page_of_keys() {
    let made = serde_json::to_string_pretty(&schema()).unwrap() + "\n";
    if std::env::var_os("CALLBOARD_WRITE_SCHEMA").is_some() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/cli/proxy.schema.json");
        fs::write(path, made).unwrap();
        return;
    }
    assert!(
        made == SCHEMA,
        "src/cli/proxy.schema.json is not what the page says: write it with CALLBOARD_WRITE_SCHEMA=1"
    );
}

#[test]
fn what_the_reader_takes_the_schema_takes_too() {
    let with_all_keys: String = PROXY_TOML
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(key) if !key.starts_with(' ') => format!("{key}\n"),
            _ => format!("{line}\n"),
        })
        .collect();
    for text in [PROXY_TOML, &with_all_keys] {
        assert_eq!(faults_of(text), [""; 0]);
    }
    let mut count = 0;
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
    let pages = fs::read_dir(root).unwrap().map(|page| page.unwrap().path());
    for page in pages.filter(|page| page.extension().is_some_and(|extension| extension == "md")) {
        let text = fs::read_to_string(page).unwrap();
        let blocks = text.split("\n```toml\n").skip(1);
        for block in blocks.filter_map(|rest| rest.split("```").next()) {
            count += 1;
            assert_eq!(faults_of(block), [""; 0], "{block}");
        }
    }
    assert!(count > 10, "{count} examples were found");
}

#[test]
fn what_the_reader_refuses_as_unknown_or_of_a_wrong_type_the_schema_refuses_too() {
    for text in [
        "wrokers = 4\n",
        "workers = \"4\"\n",
        "[[listen]]\ntimeout.haeder = \"1s\"\n",
        "[listen]\naddress = \"a\"\n",
        "[defaults]\nname = \"cart\"\n",
        "[service.cart]\nretry = { attempts = 0 }\n",
        "[service.cart]\nbalance = \"best\"\n",
        "[registry.main]\nkind = \"zeroconf\"\n",
        "[[route]]\nrate = { requests = 5, by = \"me\" }\n",
        "[snapshot]\nfile = true\n",
    ] {
        assert!(!faults_of(text).is_empty(), "{text}");
    }
}
