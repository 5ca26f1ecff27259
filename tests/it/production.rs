//! What docs/production.md gives a supervisor fits the file that stands there, and the defaults; its
//! commands and policies are enough. What `contrib/` gives the others fits the file that each brings.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use callboard::{
    config::{self, Config, Listener, RegistryKind, Secret},
    instance::Address,
    register::{self, Provider, Registrar},
};
use tokio::process::Command;

use crate::support::{
    backend::Backend, callboard::Callboard, consul::Consul, proxy::Proxy, server::free_ports,
    watched::settings,
};

const PAGE: &str = include_str!("../../docs/production.md");
const DOCKERFILE: &str = include_str!("../../Dockerfile");

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

const COMPOSE: &str = include_str!("../../contrib/compose.yaml");
const KUBERNETES: &str = include_str!("../../contrib/kubernetes/callboard.yaml");
const NOMAD: &str = include_str!("../../contrib/nomad/callboard.nomad.hcl");

const UNIT: &str = include_str!("../../contrib/systemd/callboard.service");
const PACKAGED: &str = include_str!("../../dist/proxy.toml");

/// The proxy.toml that a file of `contrib/` brings: what is indented further than the line that announces it.
fn brought(file: &str, announced: &str) -> Config {
    let indent = |line: &str| line.len() - line.trim_start().len();
    let mut lines = file.lines().skip_while(|line| line.trim() != announced);
    let outer = indent(lines.next().expect(announced));
    let inner = lines.take_while(|line| line.is_empty() || indent(line) > outer);
    let text: String = inner.map(|line| line.trim().to_owned() + "\n").collect();
    let config = Config::parse(&text, Path::new("/etc/callboard"));
    config.unwrap_or_else(|report| panic!("{announced}: {report}"))
}

#[test]
fn no_supervisor_kills_before_a_drain_is_over() {
    let grace = value(KUBERNETES, "terminationGracePeriodSeconds").to_owned() + "s";
    let nomads = value(NOMAD, "kill_timeout ").trim_matches('"');
    let compose_file = COMPOSE.split("\n  consul:\n").next().unwrap();
    let composes = compose_file.split("\n  callboard:\n").nth(1).unwrap();
    for (time, config) in [
        (value(unit(), "TimeoutStopSec"), file()),
        (value(compose(), "stop_grace_period"), file()),
        (
            value(composes, "stop_grace_period"),
            brought(COMPOSE, "content: |"),
        ),
        (&grace, brought(KUBERNETES, "proxy.toml: |")),
        (nomads, brought(NOMAD, "data = <<-EOF")),
    ] {
        let longest = config.drain.notice + config.drain.deadline;
        let time = config::duration(time).unwrap();
        assert!(time > longest, "{time:?} is no longer than {longest:?}");
        assert!(time <= longest + Duration::from_secs(15), "{time:?}");
    }
    let least = Config::parse("[[route]]\nservice = \"a\"", Path::new("")).unwrap();
    let default = least.drain.notice + least.drain.deadline;
    assert!(PAGE.contains(&format!("{} s with the\ndefaults", default.as_secs())));
    assert!(DOCKERFILE.contains(&format!(" {} s by default", default.as_secs())));
}

#[test]
fn the_file_of_the_packages_fits_their_unit() {
    let config = Config::parse(PACKAGED, Path::new("/etc/callboard"));
    let config = config.unwrap_or_else(|report| panic!("{report}"));
    // All else is read-only there.
    let state = Path::new("/var/lib").join(value(UNIT, "StateDirectory"));
    let RegistryKind::Embedded(embedded) = &config.registries["embedded"].kind else {
        panic!("no embedded registry");
    };
    for path in [&config.snapshot.as_ref().unwrap().file, &embedded.data] {
        assert!(path.starts_with(&state), "{}", path.display());
    }
    let acme = include_str!("../../docs/acme.md");
    assert!(acme.contains(&format!("folder = \"{}/", state.display())));
    let longest = config.drain.notice + config.drain.deadline;
    let time = config::duration(value(UNIT, "TimeoutStopSec")).unwrap();
    assert!(time > longest, "{time:?} is no longer than {longest:?}");
}

/// The only listener's port.
fn port(config: &Config) -> u16 {
    let [listener] = &config.listeners[..] else {
        panic!("one listener: {:?}", config.listeners);
    };
    listener.address.tcp().unwrap().port()
}

#[test]
fn ports_and_probes_are_those_of_the_file() {
    let config = brought(KUBERNETES, "proxy.toml: |");
    let admin = config.admin.address.port();
    let path = config.listeners[0].health_path.as_deref().unwrap();
    for part in [
        format!("- {{ name: http, containerPort: {} }}", port(&config)),
        format!("- {{ name: admin, containerPort: {admin} }}"),
        format!("httpGet: {{ path: {path}, port: http }}"),
        "httpGet: { path: /live, port: admin }".to_owned(),
        "targetPort: http }".to_owned(),
    ] {
        assert!(KUBERNETES.contains(&part), "{part}");
    }
    let config = brought(NOMAD, "data = <<-EOF");
    let path = config.listeners[0].health_path.as_deref().unwrap();
    for part in [
        format!("static = {}", port(&config)),
        format!("static = {}", config.admin.address.port()),
        format!("path     = \"{path}\""),
    ] {
        assert!(NOMAD.contains(&part), "{part}");
    }
    let published = format!("- \"8080:{}\"", port(&brought(COMPOSE, "content: |")));
    assert!(COMPOSE.contains(&published));
}

#[test]
fn the_descriptors_are_enough_for_the_default_of_clients() {
    // A connection of each client and one to an endpoint, and what is kept for all else.
    let needed = 2 * Listener::default().limits.connections + 512;
    for given in [
        value(unit(), "LimitNOFILE"),
        value(UNIT, "LimitNOFILE"),
        value(compose(), "nofile"),
        value(COMPOSE, "nofile"),
    ] {
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
    let word = |name: &str| {
        let line = DOCKERFILE.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap().trim()
    };
    assert!(compose().contains(token));
    for block in [compose(), COMPOSE] {
        assert!(block.contains(word("VOLUME ")), "{block}");
        assert!(block.contains("/etc/callboard/proxy.toml"), "{block}");
    }
    assert_eq!(value(unit(), "StateDirectory"), "callboard");
    assert_eq!(value(UNIT, "StateDirectory"), "callboard");
    let (user, _) = word("USER ").split_once(':').unwrap();
    assert_eq!(value(KUBERNETES, "runAsUser"), user);
    assert!(PAGE.contains(&format!("User {user} must")));

    let config = brought(KUBERNETES, "proxy.toml: |");
    let is_mounted = |path: &Path| {
        let folder = path.parent().unwrap().display();
        KUBERNETES.contains(&format!("mountPath: {folder} }}"))
            || KUBERNETES.contains(&format!("mountPath: {folder}, readOnly: true }}"))
    };
    let Some(Secret::File(token)) = &config.admin.token else {
        panic!("{:?}", config.admin);
    };
    let RegistryKind::Consul(consul) = &config.registries["consul"].kind else {
        panic!("no Consul");
    };
    let Some(Secret::File(consul)) = &consul.token else {
        panic!("no token");
    };
    let snapshot = config.snapshot.as_ref().unwrap();
    for path in [token, consul, &snapshot.file] {
        assert!(is_mounted(path), "{}", path.display());
    }
    let file = "/etc/callboard-config/proxy.toml";
    assert!(KUBERNETES.contains(&format!("\"--config\", \"{file}\"")));
    assert!(is_mounted(Path::new(file)));
    // A volume of the image needs a folder, which cannot be made in one that is mounted read-only.
    let volume = Path::new(word("VOLUME "));
    let mut mounts = KUBERNETES.split("mountPath: ").skip(1);
    let mounted = |rest: &str| rest.split([',', ' ']).next().unwrap().to_owned();
    assert!(mounts.all(|rest| !volume.starts_with(mounted(rest))));
}

#[test]
fn units_and_manifests_are_indented_as_their_formats_want_it() {
    for block in [compose(), COMPOSE, KUBERNETES, NOMAD] {
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

/// The commands stand on the page with a path and an admin server of their reader's.
#[tokio::test]
async fn the_commands_of_an_upgrade_hand_the_addresses_over() {
    let [listener, admin, registry] = free_ports();
    let text = format!(
        "[log]\nformat = \"text\"\n[drain]\nnotice = \"1h\"\ndeadline = \"1h\"\n\
         [[listen]]\naddress = \"127.0.0.1:{listener}\"\n[admin]\naddress = \"127.0.0.1:{admin}\"\n\
         [registry.embedded]\naddress = \"127.0.0.1:{registry}\"\n[[route]]\nservice = \"a\"\n"
    );
    let folder = tempfile::tempdir().unwrap();
    let mut old = Callboard::run(folder.path(), &text);
    old.until_logged("the admin server is at").await;

    let script = block("sh", "kill -TERM")
        .replace("127.0.0.1:9900", &format!("127.0.0.1:{admin}"))
        // The shell becomes the new process, which is then gone with it.
        .replace("\ncallboard run", "\nexec callboard run");
    let binary = PathBuf::from(env!("CARGO_BIN_EXE_callboard"));
    let path = std::env::var("PATH").unwrap();
    let path = format!("{}:{path}", binary.parent().unwrap().display());
    let mut shell = Command::new("sh");
    shell
        .args(["-ec", &script])
        .env("PATH", path)
        .env("OLD", old.pid().to_string())
        .current_dir(folder.path());
    let mut new = Callboard::start(shell);
    new.until_logged("hands its addresses over").await;
    old.until_logged("a successor has the addresses now").await;
    assert_eq!(old.ended().await.0, Some(0));
    new.until_logged("ready").await;
}

/// The code of a registry's row of the table of rights, cell by cell.
fn rights(registry: &str) -> Vec<String> {
    let start = format!("| {registry} | ");
    let row = PAGE.lines().find_map(|line| line.strip_prefix(&start));
    let cells = row.unwrap().split(" | ");
    let codes = cells.map(|cell| cell.split('`').skip(1).step_by(2).collect::<Vec<_>>());
    codes.map(|codes| codes.join("\n")).collect()
}

#[tokio::test]
async fn consuls_policies_are_enough_to_sign_in_and_to_route() {
    let Some(consul) = Consul::start_guarded("dc1", &[]).await else {
        return;
    };
    let [reads, writes] = &rights("Consul")[..] else {
        panic!("two policies");
    };
    let folder = tempfile::tempdir().unwrap();
    let writer = folder.path().join("writer");
    let token = consul
        .token("writes", &writes.replace("NAME", "cart"))
        .await;
    std::fs::write(&writer, token).unwrap();
    let reader = consul.token("reads", reads).await;
    std::fs::write(folder.path().join("reader"), reader).unwrap();

    let backend = Backend::start("cart").await;
    let address = backend.address();
    let own = Address::new(&address.ip().to_string(), address.port().into()).unwrap();
    let settings = config::Consul {
        token: Some(Secret::File(writer)),
        ..settings(&consul.url())
    };
    let kind = RegistryKind::Consul(settings);
    let entry = register::entry("main", &kind, Provider::new("cart", own));
    let registrar = Registrar::start(entry.unwrap());
    registrar.registered().await;

    let proxy = Proxy::start_in(
        folder,
        &format!(
            "[registry.consul]\naddress = \"{}\"\ntoken = {{ file = \"reader\" }}\n\
             [[route]]\npath = \"/{{service}}\"\nservice = \"{{service}}\"\n",
            consul.url()
        ),
    )
    .await;
    assert_eq!(proxy.until_served("/cart").await, "cart");
    registrar.deregister().await.unwrap();
}
