//! What docs/production.md gives a supervisor fits the file that stands there, and the defaults.

use std::{path::Path, time::Duration};

use callboard::config::{self, Config, Listener};

const PAGE: &str = include_str!("../../docs/production.md");

/// The block of one language that has this in it.
fn block(language: &str, with: &str) -> &'static str {
    let blocks = PAGE.split("\n```").skip(1).step_by(2);
    let mut blocks = blocks.filter_map(|block| block.strip_prefix(language)?.strip_prefix('\n'));
    let found = blocks.find(|block| block.contains(with));
    found.unwrap_or_else(|| panic!("no {language} with {with:?}"))
}

/// The value of a key that stands there once, whether as `key=value` or as `key: value`.
fn value<'a>(block: &'a str, key: &str) -> &'a str {
    let mut values = block.lines().filter_map(|line| {
        let rest = line.trim_start_matches([' ', '-']).strip_prefix(key)?;
        Some(rest.strip_prefix(['=', ':'])?.trim())
    });
    let found = values
        .next()
        .unwrap_or_else(|| panic!("no {key}:\n{block}"));
    assert_eq!(values.next(), None, "{key} stands there twice");
    found
}

fn file() -> Config {
    let config = Config::parse(block("toml", "[[listen]]"), Path::new(""));
    config.unwrap_or_else(|report| panic!("{report}"))
}

fn unit() -> &'static str {
    block("ini", "[Service]")
}

fn compose() -> &'static str {
    block("yaml", "services:")
}

fn deployment() -> &'static str {
    block("yaml", "kind: Deployment")
}

#[test]
fn no_supervisor_kills_before_a_drain_is_over() {
    let drain = file().drain;
    let longest = drain.notice + drain.deadline;
    let in_seconds = value(deployment(), "terminationGracePeriodSeconds").to_owned() + "s";
    for time in [
        value(unit(), "TimeoutStopSec"),
        value(compose(), "stop_grace_period"),
        &in_seconds,
    ] {
        let time = config::duration(time).unwrap();
        assert!(time > longest, "{time:?} is no longer than {longest:?}");
        assert!(time <= longest + Duration::from_secs(10), "{time:?}");
    }
    let least = Config::parse("[[route]]\nservice = \"a\"", Path::new("")).unwrap();
    let default = least.drain.notice + least.drain.deadline;
    assert!(PAGE.contains(&format!("{} s with the\ndefaults", default.as_secs())));
}

#[test]
fn ports_paths_and_descriptors_are_those_of_the_file() {
    let file = file();
    let [listener] = &file.listeners[..] else {
        panic!("one listener: {:?}", file.listeners);
    };
    let port = listener.address.port().to_string();
    let manifest = deployment();
    assert_eq!(value(manifest, "containerPort"), port);
    assert_eq!(value(manifest, "targetPort"), port);
    let path = listener.health_path.as_deref().unwrap();
    let probe = format!("{{ path: {path}, port: {port} }}");
    assert_eq!(value(manifest, "httpGet"), probe);

    // A connection of each client and one to an endpoint, and what is kept for all else.
    let needed = 2 * Listener::default().limits.connections + 512;
    for given in [value(unit(), "LimitNOFILE"), value(compose(), "nofile")] {
        let given: usize = given.parse().unwrap();
        assert!(
            given >= needed,
            "{given} descriptors, and {needed} are needed"
        );
    }
}

#[test]
fn what_the_file_names_is_where_each_supervisor_puts_it() {
    let text = block("toml", "[[listen]]");
    let token = "/etc/callboard/consul-token";
    let state = "/var/lib/callboard/snapshot.json";
    assert!(text.contains(token) && text.contains(state));
    let dockerfile = include_str!("../../Dockerfile");
    let word = |name: &str| {
        let line = dockerfile.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap().trim()
    };
    for block in [compose(), deployment()] {
        assert!(block.contains(token), "{block}");
        assert!(block.contains(word("VOLUME ")), "{block}");
        assert!(block.contains("/etc/callboard/proxy.toml"), "{block}");
    }
    assert_eq!(value(unit(), "StateDirectory"), "callboard");
    let (user, _) = word("USER ").split_once(':').unwrap();
    assert!(deployment().contains(&format!("runAsUser: {user}")));
    assert!(PAGE.contains(&format!("User {user} must")));
}

#[test]
fn units_and_manifests_are_indented_as_their_formats_want_it() {
    for block in [compose(), deployment()] {
        for line in block.lines() {
            let indent = line.len() - line.trim_start_matches(' ').len();
            assert!(indent % 2 == 0 && !line.contains('\t'), "{line}");
        }
    }
    for line in unit().lines().skip(1).filter(|line| !line.is_empty()) {
        let is_section = line.starts_with('[') && line.ends_with(']');
        assert!(is_section || line.contains('='), "{line}");
    }
}
