//! A whole file: its text, its syntax, and the order in which its tables are read.

mod include;
#[cfg(test)]
mod keys;
mod merged;
pub(super) mod strict;

use std::{
    collections::{BTreeMap, BTreeSet},
    iter::once,
    net::{Ipv4Addr, SocketAddr},
    num::NonZeroUsize,
    path::Path,
    sync::Arc,
    thread::available_parallelism,
    time::Duration,
};

use super::{
    Admin, Config, Drain, Goal, Log, LogFormat, Origin, Report, access_log,
    addresses::{Claims, hosts},
    document::{
        report::{Problems, Wrong},
        source::{self, Source},
        table::Table,
        value,
        variables::{Expansions, Lookup, environment},
    },
    listen, registry, route,
    service::{self, zone},
    snapshot,
};
use merged::Merged;

pub(crate) use include::Include;

impl Config {
    /// Reads a file, and those that it includes. Relative paths in all of them are taken from its folder.
    ///
    /// # Errors
    /// All that is wrong with the file; or why it cannot be read.
    pub fn load(path: &Path) -> Result<Self, Report> {
        Self::load_for(path, Reader::Proxy)
    }

    /// Reads a file, and those that it includes, more strictly: what is probably not meant is an error too, and so is a file or
    /// a variable that it names and this machine lacks.
    ///
    /// # Errors
    /// All that is wrong with the file, or seems to be; or why it cannot be read.
    pub fn check(path: &Path) -> Result<Self, Report> {
        Self::load_for(path, Reader::Check)
    }

    /// What a file, and those that it includes, say of the admin server; `None` where that is not known.
    /// What else is wrong with them is no matter.
    pub(crate) fn admin_of(path: &Path) -> Option<Admin> {
        let (config, report) = read_file(path, Reader::Client).ok()?;
        let errors = report.iter().flat_map(|report| report.diagnostics());
        // An error of syntax has no key, and may be anywhere.
        let mut keys = errors.map(|error| error.key.as_deref());
        let is_elsewhere =
            |key: &str| key != include::KEY && key != "admin" && !key.starts_with("admin.");
        let is_known = keys.all(|key| key.is_some_and(is_elsewhere));
        is_known.then_some(config.admin)
    }

    fn load_for(path: &Path, reader: Reader) -> Result<Self, Report> {
        let (config, report) = read_file(path, reader)?;
        report.map_or(Ok(config), Err)
    }

    /// Reads a text, and the files that it includes. Relative paths are taken from `base`, variables from
    /// the environment of the process.
    ///
    /// # Errors
    /// All that is wrong with the text.
    pub fn parse(text: &str, base: &Path) -> Result<Self, Report> {
        File::of_text(text, base, &environment).read(Reader::Proxy)
    }

    /// Reads a text with this environment.
    #[cfg(test)]
    pub(super) fn parse_with(text: &str, base: &Path, lookup: Lookup<'_>) -> Result<Self, Report> {
        File::of_text(text, base, lookup).read(Reader::Proxy)
    }

    /// Reads a text as strictly as [`check`](Self::check) reads a file.
    #[cfg(test)]
    pub(super) fn parse_strictly(text: &str, base: &Path) -> Result<Self, Report> {
        File::of_text(text, base, &environment).read(Reader::Check)
    }

    /// Reads a text, as [`parse`](Self::parse) does, for a program that calls services itself, as
    /// [`crate::client`] does: it needs no route.
    ///
    /// # Errors
    /// All that is wrong with the text.
    pub fn parse_for_client(text: &str, base: &Path) -> Result<Self, Report> {
        File::of_text(text, base, &environment).read(Reader::Client)
    }
}

/// What a file and those that it includes say, and what is wrong with them.
///
/// # Errors
/// Why it cannot be read.
fn read_file(path: &Path, reader: Reader) -> Result<(Config, Option<Report>), Report> {
    let name = path.display().to_string();
    let text = match std::fs::read(path) {
        Ok(bytes) => {
            source::decode(bytes).map_err(|line| Wrong::new(format!("line {line} is not UTF-8")))
        }
        Err(error) => Err(Wrong::new(format!("the file cannot be read: {error}"))
            .suggest("name the right one with `--config`")),
    }
    .map_err(|wrong| Report::of_file(name.clone(), wrong))?;
    let file = File {
        text: &text,
        name: &name,
        path: Some(path),
        base: path.parent().unwrap_or(Path::new("")),
        lookup: &environment,
    };
    Ok(file.all(reader))
}

/// Who reads a file.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reader {
    /// Serves what the routes lead to, and nothing without one.
    Proxy,
    /// Would serve it, and wants to know what may be wrong.
    Check,
    /// Calls services by their names.
    Client,
}

/// A file that was read, and what else it is read by.
struct File<'f> {
    text: &'f str,
    /// As errors name it.
    name: &'f str,
    /// `None` for a text alone.
    path: Option<&'f Path>,
    /// What relative paths are taken from.
    base: &'f Path,
    lookup: Lookup<'f>,
}

impl<'f> File<'f> {
    fn of_text(text: &'f str, base: &'f Path, lookup: Lookup<'f>) -> Self {
        Self {
            text,
            name: "proxy.toml",
            path: None,
            base,
            lookup,
        }
    }

    /// What it and the files that it includes say.
    fn read(&self, reader: Reader) -> Result<Config, Report> {
        let (config, report) = self.all(reader);
        report.map_or(Ok(config), Err)
    }

    /// What it and the files that it includes say, with defaults in the place of what is wrong; and what that is.
    fn all(&self, reader: Reader) -> (Config, Option<Report>) {
        let own = Source::new(self.name, self.text, 0);
        let (mut expansions, mut flaws) = (Expansions::default(), Vec::new());
        let mut table = own.table();
        expansions.put_in(&mut table, self.lookup, &mut flaws);
        let (included, unread) =
            include::read(&table, &expansions, self.path, self.base, own.end());
        let sources: Vec<_> = once(&own).chain(&included).collect();
        let place = |byte| {
            let source = source::of_byte(&sources, byte);
            format!("{}:{}", source.name, source.line(byte))
        };
        let mut merged = Merged { table, flaws };
        for source in &included {
            let mut table = source.table();
            expansions.put_in(&mut table, self.lookup, &mut merged.flaws);
            merged.add(table, place);
        }
        let mut problems = Problems::new(sources, expansions, reader == Reader::Check);
        for (at, wrong) in unread {
            problems.lacks_texts();
            problems.add(at, Some(include::KEY), wrong);
        }
        for (key, (at, wrong)) in merged.flaws {
            problems.add(at, Some(&key), wrong);
        }
        let config = Table::root(&merged.table, &problems, |top| Config {
            included: included_by(top, &included),
            ..config(top, self.base, reader)
        });
        (config, problems.report())
    }
}

/// The names of the files that were included.
fn included_by(top: &mut Table<'_>, included: &[Source]) -> Vec<Arc<str>> {
    let example = "\"conf.d/*.toml\"";
    let fields = top.take(include::KEY).into_iter();
    for field in fields.flat_map(|field| field.one_or_more(example)) {
        field.parse("a text", example, value::filled);
    }
    let names = included.iter().map(|source| &source.name);
    names.cloned().collect()
}

fn config(top: &mut Table<'_>, base: &Path, reader: Reader) -> Config {
    let mut claims = Claims::default();
    let listeners = listen::read(top, base, &mut claims);
    let admin = top.within("admin", |table| admin(table, base, &mut claims));
    let registries = registry::read(top, base, &mut claims);
    let zone = zone::own(top);
    let (defaults, default) = service::defaults(top, base, &zone, &registries);
    let default = default.as_ref();
    let mut placed = Vec::new();
    let services = service::read(
        top,
        base,
        &zone,
        &defaults,
        default,
        &registries,
        &mut placed,
    );
    let needed = reader != Reader::Client && !registries.make_routes();
    let known = route::Known {
        services: &services,
        defaults: &defaults,
        default,
        registries: &registries,
    };
    let routes = route::read(top, &known, needed);
    let mut config = Config {
        included: Vec::new(),
        workers: workers(top),
        watch_config: top.flag("watch_config", false),
        log: top.within("log", log),
        access_log: access_log::read(top, base),
        drain: top.within("drain", drain),
        listeners,
        admin,
        snapshot: snapshot::read(top, base),
        default_registry: None,
        registries: BTreeMap::new(),
        routes,
        defaults,
        services: services
            .into_iter()
            .map(|(name, one)| (name, Arc::new(one)))
            .collect(),
    };
    add_declared(&mut config);
    let mut routes = config.routes.iter();
    let any_template = routes.any(|route| route.goal == Goal::Template);
    if reader != Reader::Client && !any_template && !registries.make_routes() {
        let declared: BTreeSet<_> = config.declared().collect();
        strict::check_use(top, &placed, |name| declared.contains(&Arc::from(name)));
    }
    let is_used = reader == Reader::Client || any_template;
    use_registries(&mut config, registries, is_used, default, &mut claims);
    config
}

/// Gives each service that is called, and has no table of its own, what all have.
fn add_declared(config: &mut Config) {
    let plain = Arc::new(config.defaults.clone());
    let declared: Vec<_> = config.declared().cloned().collect();
    for name in declared {
        let service = config.services.entry(name);
        service.or_insert_with(|| Arc::clone(&plain));
    }
}

/// Keeps the registries that the file has, or the one that is meant without any where a service is
/// learnt from it; and which of them is the default.
fn use_registries(
    config: &mut Config,
    registries: registry::Registries,
    is_used: bool,
    default: Option<&Origin>,
    claims: &mut Claims,
) {
    let mut services = config.services.values();
    let is_used = is_used || services.any(|service| !service.origin.is_inline());
    config.registries = registries.into_map(is_used, claims);
    let default = default.into_iter().flat_map(|origin| origin.registries());
    let mut default = default.filter(|name| config.registries.contains_key(*name));
    config.default_registry = default.next().cloned();
}

fn workers(top: &mut Table<'_>) -> NonZeroUsize {
    let default = available_parallelism().unwrap_or(NonZeroUsize::MIN);
    NonZeroUsize::new(top.size("workers", 1..=1024, default.get())).unwrap_or(default)
}

fn drain(table: &mut Table<'_>) -> Drain {
    Drain {
        notice: table.wait("notice", Duration::from_secs(3)),
        deadline: table.wait("deadline", Duration::from_secs(30)),
    }
}

fn log(table: &mut Table<'_>) -> Log {
    for key in ["access", "access_query"] {
        let wrong = Wrong::new("the access log has a table of its own");
        table.refuse(key, wrong.suggest("write `[access_log]`"));
    }
    Log {
        format: table.choice(
            "format",
            &[
                ("auto", LogFormat::Auto),
                ("text", LogFormat::Text),
                ("json", LogFormat::Json),
            ],
            LogFormat::Auto,
        ),
        level: table
            .take("level")
            .and_then(|field| field.parse("a log level", "\"info\"", value::log_level))
            .unwrap_or_else(|| "info".to_owned()),
    }
}

fn admin<'a>(table: &mut Table<'a>, base: &Path, claims: &mut Claims<'a>) -> Admin {
    let default = SocketAddr::from((Ipv4Addr::LOCALHOST, 9900));
    Admin {
        address: claims.server(table, "the admin server", default),
        token: table.secret("token", base),
        hosts: hosts(table),
        ready_timeout: table.wait("ready_timeout", Duration::from_secs(30)),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{
        Secret, Service,
        testing::{ROUTE, config, error, errors},
    };
    use super::*;

    #[test]
    fn the_file_that_comes_with_callboard_is_right_as_it_stands() {
        let config = config(keys::PROXY_TOML);
        assert_eq!(config.listeners[0].address.to_string(), "0.0.0.0:8080");
        assert_eq!(config.admin.address.to_string(), "127.0.0.1:9900");
        assert_eq!(config.routes.len(), 1);
        assert!(config.routes[0].strip_prefix);
        assert_eq!(
            config
                .registries
                .keys()
                .map(AsRef::as_ref)
                .collect::<Vec<&str>>(),
            ["embedded"]
        );
    }

    #[test]
    fn what_it_shows_in_comments_is_right_too_and_the_defaults_are() {
        let shown = config(&keys::with_all_keys());
        let plain = config(keys::PROXY_TOML);
        assert_eq!(shown.registries.len(), 9);
        assert_eq!(shown.routes.len(), 8);
        let defaults = Service {
            origin: plain.defaults.origin.clone(),
            ..shown.defaults
        };
        assert_eq!(defaults, plain.defaults);
        assert_eq!(format!("{:?}", shown.log), format!("{:?}", plain.log));
        assert_eq!(format!("{:?}", shown.drain), format!("{:?}", plain.drain));
        assert_eq!(shown.snapshot, plain.snapshot);
        let [shown, plain] = [&shown.listeners[0], &plain.listeners[0]];
        assert_eq!(
            format!("{:?}", shown.timeout),
            format!("{:?}", plain.timeout)
        );
        assert_eq!(format!("{:?}", shown.limits), format!("{:?}", plain.limits));
        assert_eq!(shown.underscores, plain.underscores);
    }

    #[test]
    fn the_small_tables_are_read() {
        let config = config(&format!(
            r#"
            workers = 3
            log = {{ format = "json", level = "warn,callboard=debug" }}
            drain = {{ notice = "0s", deadline = "5s" }}
            admin = {{ address = "0.0.0.0:0", token = {{ env = "T" }}, ready_timeout = "1m" }}
            {ROUTE}"#
        ));
        assert_eq!(config.workers.get(), 3);
        assert_eq!(config.log.format, LogFormat::Json);
        assert_eq!(config.log.level, "warn,callboard=debug");
        assert_eq!(config.drain.notice, Duration::ZERO);
        assert_eq!(config.drain.deadline, Duration::from_secs(5));
        assert_eq!(config.admin.token, Some(Secret::Env("T".into())));
        assert_eq!(config.admin.ready_timeout, Duration::from_secs(60));
    }

    #[test]
    fn two_servers_cannot_have_one_address() {
        let text = format!(
            "listen = [{{ address = [\"0.0.0.0:8500\", \"127.0.0.1:9900\", \"127.0.0.1:9900\"] }}]\n\
             admin.address = \"127.0.0.1:8500\"\n{ROUTE}"
        );
        let advice = "give one of them another port";
        assert_eq!(
            errors(&text),
            [
                format!(
                    "1:24 listen.address: the embedded registry on 127.0.0.1:8500 collides with a listener on 0.0.0.0:8500; {advice}"
                ),
                format!(
                    "1:58 listen.address: a listener on 127.0.0.1:9900 collides with a listener on 127.0.0.1:9900; {advice}"
                ),
                format!(
                    "2:7 admin.address: the admin server on 127.0.0.1:8500 collides with a listener on 0.0.0.0:8500; {advice}"
                ),
            ]
        );
    }

    #[test]
    fn an_admin_server_beyond_loopback_needs_a_token() {
        let error = error(&format!("[admin]\naddress = \"0.0.0.0:9900\"\n{ROUTE}"));
        assert!(
            error.starts_with("2:1 admin.address: the admin server on 0.0.0.0:9900 is open"),
            "{error}"
        );
    }

    #[test]
    fn without_a_registry_of_the_file_there_is_the_embedded_one_if_a_service_is_learnt_there() {
        let inline = "[service.cart]\nendpoints = [\"10.0.0.1:80\"]\n";
        let cart = "[[route]]\npath = \"/a\"\nservice = \"cart\"\n";
        let fallback = "[service.cart]\nendpoints = []\nfallback = \"hat\"\n";
        for (text, count) in [
            (format!("{inline}{cart}"), 0),
            // Its port is free then, and no more than its port.
            (
                format!("listen = [{{ address = \"127.0.0.1:8500\" }}]\n{inline}{cart}"),
                0,
            ),
            (format!("{inline}{cart}{ROUTE}"), 1),
            (format!("{fallback}{cart}"), 1),
            (cart.to_owned(), 1),
            (format!("[registry.embedded]\n{inline}{cart}"), 1),
        ] {
            let config = config(&text);
            assert_eq!(config.registries.len(), count, "{text}");
            assert_eq!(config.default_registry.is_some(), count == 1, "{text}");
        }
        let client = Config::parse_for_client(inline, Path::new("")).unwrap();
        assert_eq!(client.registries.len(), 1);
    }

    #[test]
    fn errors_of_syntax_hide_no_others_and_make_up_none() {
        let text = "workers = \n\
            [[listen]\n\
            address = \"127.0.0.1:1\"\n\
            timeout = { idle = 30s, body = 5m }\n\
            [registry.consul\n\
            address = \"http://127.0.0.1:8500\"\n\
            [defaults]\n\
            registry = \"consul\"\n\
            balance = \"roundrobin\"\n\
            [[route]]\n\
            path = \"cart\"\n\
            service = \"cart\n";
        assert_eq!(
            errors(text),
            [
                "1:11 syntax: the value is missing",
                "2:10 syntax: unclosed array table, expected `]`",
                "4:20 syntax: this is not a value; a text stands in quotes, such as \"30s\"",
                "4:32 syntax: this is not a value; a text stands in quotes, such as \"30s\"",
                "5:17 syntax: unclosed table, expected `]`",
                "9:1 defaults.balance: `roundrobin` is not known here; did you mean \"round_robin\"?",
                "11:1 route.path: the path `cart` does not begin with a slash; did you mean \"/cart\"?",
                "12:16 syntax: invalid basic string, expected `\"`",
            ]
        );
    }

    #[test]
    fn a_bracket_that_nobody_closed_is_one_error() {
        let text =
            format!("{ROUTE}[service.cart]\ntags = [\"a\",\n  \"b\"\n[service.hat]\nfoo = 1\n");
        let errors = errors(&text);
        assert_eq!(errors.len(), 2, "{errors:#?}");
        assert!(
            errors[0].starts_with("6:6 syntax: unclosed array"),
            "{errors:#?}"
        );
        assert!(
            errors[1].starts_with("8:1 service.hat.foo: unknown key"),
            "{errors:#?}"
        );
    }

    #[test]
    fn two_keys_or_tables_of_one_name_are_an_error() {
        let text = format!("workers = 1\nworkers = 2\n[drain]\n[drain]\nfoo = 1\n{ROUTE}");
        assert_eq!(
            errors(&text),
            [
                "2:1 syntax: the key `workers` is here twice",
                "4:2 syntax: the key `drain` is here twice",
            ]
        );
    }

    #[test]
    fn a_byte_order_mark_and_other_line_ends_do_no_harm() {
        let text = format!("\u{feff}workers = 2\r\nfoo = 1\r\n{ROUTE}");
        assert!(error(&text).starts_with("2:1 foo: unknown key"));
        assert_eq!(config(&text.replace("foo = 1", "")).workers.get(), 2);
    }

    #[test]
    fn any_text_whatever_gives_a_config_or_a_report() {
        let mut random = fastrand::Rng::with_seed(7);
        let letters: Vec<_> = "[]{}\"'=,.#\n\r\té0a".chars().collect();
        let all = keys::with_all_keys();
        for _ in 0..300 {
            let mut text: Vec<char> = all.chars().collect();
            for _ in 0..random.usize(1..4) {
                let at = random.usize(..text.len());
                match random.u8(..3) {
                    0 => drop(text.remove(at)),
                    1 => text.insert(at, *random.choice(&letters).unwrap()),
                    _ => text.truncate(at.max(1)),
                }
            }
            let text: String = text.into_iter().collect();
            if let Err(report) = Config::parse(&text, Path::new("")) {
                assert!(!report.diagnostics().is_empty());
                assert!(report.to_string().contains("error: "), "{text}");
            }
        }
    }
}
