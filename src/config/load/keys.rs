//! Every key that is read stands in `proxy.toml` and in the page of keys, and no other does.

use std::collections::BTreeSet;

use crate::config::testing::{config, errors};

/// The file that comes with Callboard.
pub(super) const PROXY_TOML: &str = include_str!("../../../proxy.toml");

const PAGE: &str = include_str!("../../../docs/configuration.md");

/// The file with the keys that it shows as comments (`#key = …`) put in.
pub(super) fn with_all_keys() -> String {
    let key = |line: &'static str| match line.strip_prefix('#') {
        Some(key) if !key.starts_with(' ') => key,
        _ => line,
    };
    PROXY_TOML
        .lines()
        .flat_map(|line| [key(line), "\n"])
        .collect()
}

/// A table, by its path, and its keys, as the error of an unknown one lists them.
struct Keys {
    table: Vec<String>,
    keys: Vec<String>,
}

fn of_all_tables() -> Vec<Keys> {
    const UNKNOWN: &str = "zzzzzzzzzzzzzzzzzzzz";
    let tables =
        "?=1\nlog={?=1}\naccess_log={?=1,always={?=1}}\ndrain={?=1}\nadmin={?=1}\nsnapshot={?=1}\n\
        listen=[{address='127.0.0.1:1',?=1,timeout={?=1},limits={?=1},\
        tls={?=1,certificates=[{?=1}],acme={?=1},client={?=1},tickets={?=1},hsts={?=1}}}]\n\
        registry.consul={?=1,tls={?=1},token={?=1},expose={?=1},address='https://a'}\n\
        registry.embedded={?=1}\n\
        registry.zookeeper={?=1}\n\
        registry.etcd={?=1,tls={?=1},password={?=1},user='u',address='https://a'}\n\
        registry.dns={?=1,ttl={?=1}}\n\
        registry.file={?=1,path='a.toml'}\n\
        registry.eureka={?=1,tls={?=1},password={?=1},user='a',address='https://a'}\n\
        defaults={?=1,registry='consul',retry={?=1,budget={?=1}},timeout={?=1},pool={?=1},\
        tls={?=1},guard={?=1},eject={?=1},health={?=1,path='/'},limits={?=1}}\n\
        route=[{service='a',rate={requests=1,?=1,by={?=1}},header={a={prefix='a',?=1}},\
        retry={?=1},timeout={?=1},?=1},{path='/b',split=[{service='a',weight=1,?=1}]}]\n\
        service.a={?=1,balance={kind='hash',?=1,by={?=1}}}\n\
        service.b={registry='consul',balance={kind='sticky',?=1}}\n\
        service.c={registry='consul',balance={kind='peak_ewma',?=1}}\n\
        service.d={registry='consul',health={kind='grpc',?=1}}\n"
            .replace('?', UNKNOWN);
    let tables: Vec<_> = errors(&tables)
        .iter()
        .filter_map(|error| {
            let (place, keys) = error.split_once("; it may be ")?;
            let path = place.split_whitespace().nth(1)?.trim_end_matches(':');
            let mut table: Vec<_> = path.split('.').map(str::to_owned).collect();
            assert_eq!(table.pop().as_deref(), Some(UNKNOWN), "{error}");
            let keys = keys.split('`').skip(1).step_by(2).map(str::to_owned);
            Some(Keys {
                table,
                keys: keys.collect(),
            })
        })
        .collect();
    assert_eq!(tables.len(), 54);
    tables
}

#[test]
fn the_file_shows_every_key() {
    let text = with_all_keys();
    for Keys { table, keys } in of_all_tables() {
        for key in keys {
            let shown = text.lines().any(|line| {
                line.starts_with(&format!("{key} ="))
                    || line.contains(&format!("[{key}"))
                    || line.contains(&format!(" {key} = "))
            });
            assert!(shown, "{table:?}: {key}");
        }
    }
}

/// Tables that have a section of the page.
const SECTIONS: [&str; 10] = [
    "listen",
    "admin",
    "snapshot",
    "registry",
    "defaults",
    "service",
    "route",
    "log",
    "access_log",
    "drain",
];

/// Keys of every registry, which the page has once.
const OF_EVERY_REGISTRY: [&str; 3] = ["kind", "max_staleness", "expose"];

/// What the heading of the section begins with in which the page has a table, and the table's path
/// from there.
fn section<'a>(table: &'a [&str], key: &str) -> (String, &'a [&'a str]) {
    match table {
        [] => ("Top level".to_owned(), &[]),
        ["listen", rest @ ..] => ("[[listen]]".to_owned(), rest),
        ["route", rest @ ..] => ("[[route]]".to_owned(), rest),
        ["registry", _, "tls"] => ("TLS to a registry".to_owned(), &table[2..]),
        ["registry", _, "expose"] => ("[registry.NAME]".to_owned(), &table[2..]),
        ["registry", _] if OF_EVERY_REGISTRY.contains(&key) => ("[registry.NAME]".to_owned(), &[]),
        ["registry", kind, rest @ ..] => (format!("kind = \"{kind}\""), rest),
        ["defaults", rest @ ..] | ["service", _, rest @ ..] => ("[defaults]".to_owned(), rest),
        [one, rest @ ..] => (format!("[{one}]"), rest),
    }
}

/// The keys of the code, by the section in which the page has them. A value that is written as a
/// table, such as a secret, is no table of keys.
fn of_the_code() -> BTreeSet<(String, String)> {
    let mut found = BTreeSet::new();
    for Keys { table, keys } in of_all_tables() {
        let table: Vec<_> = table.iter().map(String::as_str).collect();
        let is_value = matches!(
            table[..],
            [.., "token" | "password" | "by" | "split"] | ["route", "header", ..]
        );
        for key in keys {
            let is_section = table.is_empty() && SECTIONS.contains(&key.as_str());
            let is_elsewhere = table.first() == Some(&"registry") && key == "tls";
            if !is_value && !is_section && !is_elsewhere {
                let (section, path) = section(&table, &key);
                let path: Vec<_> = path.iter().copied().chain([key.as_str()]).collect();
                found.insert((section, path.join(".")));
            }
        }
    }
    found
}

/// The first cells of the page's rows, by section.
fn of_the_page() -> Vec<(String, String)> {
    let mut section = String::new();
    let mut found = Vec::new();
    for line in PAGE.lines() {
        if line.starts_with('#') {
            section = line.trim_start_matches('#').trim().replace('`', "");
        } else if let Some(rest) = line.strip_prefix("| `") {
            let (key, _) = rest.split_once('`').expect("a key ends");
            found.push((section.clone(), key.to_owned()));
        }
    }
    found
}

#[test]
fn the_page_has_every_key_once_and_no_other() {
    let code = of_the_code();
    let is_table = |(section, key): &(String, String)| {
        let within = format!("{key}.");
        let mut all = code.iter();
        all.any(|(of, one)| of == section && one.starts_with(&within))
    };
    let mut shown = BTreeSet::new();
    for (heading, key) in of_the_page() {
        let mut sections = code.iter().map(|(section, _)| section);
        let section = sections.find(|section| heading.contains(section.as_str()));
        let section = section.unwrap_or_else(|| panic!("{heading} is no section: `{key}`"));
        let place = (section.clone(), key);
        assert!(
            code.contains(&place),
            "no such key in {heading}: `{}`",
            place.1
        );
        assert!(
            shown.insert(place.clone()),
            "{heading} has `{}` twice",
            place.1
        );
    }
    let missing: Vec<_> = code
        .iter()
        .filter(|place| !is_table(place) && !shown.contains(*place))
        .collect();
    assert!(missing.is_empty(), "the page lacks {missing:#?}");
}

/// The keys of the page whose default is a value, with that as TOML has it, by the section's heading.
fn defaults_of_the_page() -> Vec<(String, String, String)> {
    let mut section = String::new();
    let mut found = Vec::new();
    for line in PAGE.lines() {
        if line.starts_with('#') {
            section = line.trim_start_matches('#').trim().replace('`', "");
        }
        let cells: Vec<_> = line.split(" | ").collect();
        let default = cells
            .get(1)
            .and_then(|cell| cell.rsplit_once("; `")?.1.strip_suffix('`'));
        if let Some(default) = default {
            let key = cells[0].trim_matches(['|', ' ', '`']);
            let is_toml = default == "{}"
                || default.starts_with(['"', '['])
                || ["true", "false"].contains(&default)
                || default.parse::<f64>().is_ok();
            let value = match is_toml {
                true => default.to_owned(),
                false => format!("\"{default}\""),
            };
            found.push((section.clone(), key.to_owned(), value));
        }
    }
    found
}

/// The table in which a key stands, with what else it needs there.
fn table_of(section: &str, key: &str) -> String {
    let (table, rest) = key.split_once('.').unwrap_or((key, ""));
    match section {
        "Top level" => String::new(),
        "[[listen]]" if table == "tls" => {
            let needed = match rest.split_once('.') {
                Some(("client", _)) => "tls.client.ca = \"ca.pem\"",
                Some(("acme", _)) => "tls.acme.domains = [\"a.example.com\"]",
                Some(("hsts", _)) => "tls.hsts.max_age = \"1h\"",
                _ => "",
            };
            format!(
                "[[listen]]\naddress = \"127.0.0.1:1\"\n\
                 tls.certificates = [{{ cert = \"a.pem\", key = \"b.pem\" }}]\n{needed}"
            )
        }
        "[[listen]]" => "[[listen]]\naddress = \"127.0.0.1:1\"".to_owned(),
        "[[route]]" if table == "rate" => {
            "[[route]]\nservice = \"a\"\nrate.requests = 5".to_owned()
        }
        "[[route]]" => "[[route]]\nservice = \"a\"".to_owned(),
        "[registry.NAME]" => "[registry.consul]".to_owned(),
        _ if section.starts_with("kind") => {
            let kind = section.split('"').nth(1).expect("a kind");
            format!("[registry.{kind}]")
        }
        _ if key == "combine" => "[registry.consul]\n[registry.etcd]\n[service.b]\n\
             registry = [\"consul\", \"etcd\"]"
            .to_owned(),
        _ if section.starts_with("[defaults]") => {
            let needed = match (table, rest) {
                ("balance", "decay") => "balance.kind = \"peak_ewma\"",
                ("balance", "load") => "balance.kind = \"hash\"\nbalance.by = \"path\"",
                ("balance", "") => "",
                ("balance", _) => "balance.kind = \"sticky\"",
                ("health", "") => "",
                ("health", _) => "health.path = \"/\"",
                ("limits", "pending" | "wait") => "limits.concurrent = 5",
                _ => "",
            };
            format!("[service.b]\n{needed}")
        }
        _ => section.to_owned(),
    }
}

#[test]
fn the_page_has_the_default_of_every_key_that_has_one() {
    const ROUTE: &str = "[[route]]\npath = \"/b\"\nservice = \"b\"\n";
    let defaults = defaults_of_the_page();
    assert!(
        defaults.len() > 100,
        "{} defaults were found",
        defaults.len()
    );
    for (section, key, value) in defaults {
        let table = table_of(&section, &key);
        let written = format!("{key} = {value}");
        // A line in its place, so that a route has the same one.
        let [with, without] = [written.as_str(), ""].map(|line| match table.as_str() {
            "" => format!("{line}\n{ROUTE}"),
            table => format!("{ROUTE}{table}\n{line}\n"),
        });
        let [with, without] = [config(&with), config(&without)];
        assert_eq!(
            format!("{with:?}"),
            format!("{without:?}"),
            "{section}: {written}"
        );
    }
}
