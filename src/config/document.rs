//! A whole file: its text, its syntax, and the order in which its tables are read.

use std::{
    net::{Ipv4Addr, SocketAddr},
    num::NonZeroUsize,
    path::Path,
    thread::available_parallelism,
    time::Duration,
};

use toml::de::DeTable;

use super::{
    Admin, Config, Drain, Goal, Log, LogFormat, Report,
    claims::Claims,
    listen,
    reader::Table,
    registry,
    report::{Problems, Wrong},
    route, service, syntax, value,
};

impl Config {
    /// Reads a file. Relative paths in it are taken from its folder.
    ///
    /// # Errors
    /// All that is wrong with the file; or why it cannot be read.
    pub fn load(path: &Path) -> Result<Self, Report> {
        let file = path.display().to_string();
        let text = match std::fs::read(path) {
            Ok(bytes) => String::from_utf8(bytes).map_err(|error| {
                let valid = error.utf8_error().valid_up_to();
                let line = 1 + error.as_bytes()[..valid]
                    .iter()
                    .filter(|b| **b == b'\n')
                    .count();
                Wrong::new(format!("line {line} is not UTF-8"))
            }),
            Err(error) => Err(Wrong::new(format!("the file cannot be read: {error}"))
                .suggest("name the right one with `--config`")),
        }
        .map_err(|wrong| Report::of_file(file.clone(), wrong))?;
        let base = path.parent().unwrap_or(Path::new(""));
        read(&text, &file, base)
    }

    /// Reads a text. Relative paths in it are taken from `base`.
    ///
    /// # Errors
    /// All that is wrong with the text.
    pub fn parse(text: &str, base: &Path) -> Result<Self, Report> {
        read(text, "proxy.toml", base)
    }
}

fn read(text: &str, file: &str, base: &Path) -> Result<Config, Report> {
    // A byte order mark is no character of the first line.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if let Ok(table) = DeTable::parse(text) {
        let problems = Problems::new(text, false);
        let config = Table::root(table.get_ref(), &problems, |top| config(top, base));
        return problems.report(file).map_or(Ok(config), Err);
    }
    let problems = Problems::new(text, true);
    let rest = syntax::salvage(text, &problems);
    if let Ok(table) = DeTable::parse(&rest) {
        Table::root(table.get_ref(), &problems, |top| config(top, base));
    }
    Err(problems
        .report(file)
        .expect("a text that is not TOML has an error"))
}

fn config(top: &mut Table<'_>, base: &Path) -> Config {
    let mut claims = Claims::default();
    let listeners = listen::read(top, &mut claims);
    let admin = top.within("admin", |table| admin(table, base, &mut claims));
    let mut registries = registry::read(top, base, &mut claims);
    let defaults = service::defaults(top, &mut registries);
    let mut services = service::read(top, &defaults, &registries);
    let routes = route::read(top, &services, &registries);
    for route in &routes {
        if let Goal::Service(name) = &route.goal {
            services
                .entry(name.clone())
                .or_insert_with(|| defaults.clone());
        }
    }
    Config {
        workers: workers(top),
        log: top.within("log", log),
        drain: top.within("drain", |table| Drain {
            notice: table.wait("notice", Duration::from_secs(3)),
            deadline: table.wait("deadline", Duration::from_secs(30)),
        }),
        listeners,
        admin,
        registries: registries.into_map(),
        routes,
        defaults,
        services,
    }
}

fn workers(top: &mut Table<'_>) -> NonZeroUsize {
    let default = available_parallelism().unwrap_or(NonZeroUsize::MIN);
    NonZeroUsize::new(top.size("workers", 1..=1024, default.get())).unwrap_or(default)
}

fn log(table: &mut Table<'_>) -> Log {
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
        access: table.flag("access", false),
    }
}

fn admin<'a>(table: &mut Table<'a>, base: &Path, claims: &mut Claims<'a>) -> Admin {
    let default = SocketAddr::from((Ipv4Addr::LOCALHOST, 9900));
    Admin {
        address: claims.server(table, "the admin server", default),
        token: table.secret("token", base),
        ready_timeout: table.wait("ready_timeout", Duration::from_secs(30)),
    }
}
