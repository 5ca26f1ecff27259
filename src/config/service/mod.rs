//! `[service.NAME]` and `[defaults]`: what becomes of a service's requests. Knows nothing of
//! routes or instances.

pub(super) mod balance;
pub(super) mod fallback;
pub(super) mod health;
pub(super) mod methods;
pub(super) mod no_effect;
pub(super) mod origin;
pub(super) mod statuses;
pub(super) mod upgrades;
pub(super) mod zone;

use std::{collections::BTreeMap, path::Path, sync::Arc, time::Duration};

use super::{
    AnswerLimits, Balance, Eject, EndpointTls, Guard, Health, HealthAsk, Limits, Methods, Pool,
    Protocol, ProxyVersion, Retry, Service, Timeouts, Upgrades,
    document::{report::Wrong, table::Table},
    load::strict::Placed,
    registry::Registries,
    tls,
};
use fallback::Fallbacks;
use no_effect::{Before, Follows};
use origin::Origin;
use statuses::Statuses;
use zone::OwnZone;

/// Reads `[defaults]`; and what is meant where no registry is named, if there can be no doubt.
pub(super) fn defaults(
    top: &mut Table<'_>,
    folder: &Path,
    zone: &OwnZone,
    registries: &Registries,
) -> (Service, Option<Origin>) {
    let before = Before::the_defaults(top);
    top.within("defaults", |table| {
        let origin =
            origin::registries(table, registries).or_else(|| registries.only().map(Origin::only));
        // Where none is meant every service names its own, and any is as good as another.
        let any = || Origin::only(registries.first());
        let built_in = built_in(origin.clone().unwrap_or_else(any));
        let policy = policy(table, folder, zone, &built_in, &before);
        (policy, origin)
    })
}

/// What holds where neither `[defaults]` nor the service's own table says otherwise.
fn built_in(origin: Origin) -> Service {
    Service {
        origin,
        name: None,
        tags: Vec::new(),
        meta: BTreeMap::new(),
        balance: Balance::RoundRobin,
        zone: None,
        retry: Retry {
            attempts: 3,
            budget_ratio: 0.2,
            budget_per_second: 10,
            on: Statuses::default(),
            try_timeout: None,
            methods: Methods::IDEMPOTENT,
        },
        timeout: Timeouts {
            connect: Duration::from_secs(1),
            response: Duration::from_secs(30),
            idle: Duration::from_secs(60),
            total: None,
            tunnel: Some(Duration::from_secs(3600)),
        },
        protocol: None,
        upgrades: Upgrades::by_default(),
        pool: Arc::new(Pool {
            idle: Duration::from_secs(4),
            connections: 256,
            streams: 100,
            ping: Some(Duration::from_secs(10)),
            max_age: Some(Duration::from_secs(15)),
            send_proxy: None,
        }),
        tls: EndpointTls::default(),
        limits: Limits {
            concurrent: None,
            per_endpoint: None,
            pending: 100,
            wait: Duration::from_secs(1),
        },
        answer_limits: AnswerLimits {
            headers: 1_000,
            header_bytes: 256 * 1024,
        },
        health: None,
        eject: Some(eject_by_default()),
        panic_percent: 50,
        slow_start: None,
        guard: Some(GUARD),
        drain: Duration::from_secs(30),
        discovery_timeout: Duration::from_secs(2),
        fallback: None,
    }
}

const GUARD: Guard = Guard {
    share: 0.5,
    hold: Duration::from_secs(60),
    settle: Duration::from_secs(5),
};

fn eject_by_default() -> Eject {
    Eject {
        failures: 5,
        time: Duration::from_secs(30),
        max_time: Duration::from_secs(300),
        max_percent: 50,
        statuses: Statuses::default(),
        answers: true,
        silence: true,
    }
}

/// Reads every `[service.NAME]`.
pub(super) fn read(
    top: &mut Table<'_>,
    folder: &Path,
    zone: &OwnZone,
    defaults: &Service,
    default: Option<&Origin>,
    registries: &Registries,
    placed: &mut Vec<Placed>,
) -> BTreeMap<Arc<str>, Service> {
    let before = Before::services(top);
    let mut fallbacks = Fallbacks::default();
    let services = top.named("service", |name, table| {
        placed.push(Placed::of(name, table));
        let origin = origin::of_service(name, table, registries, default);
        let (tags, meta) = selection(table, &[&origin], registries);
        Service {
            name: table.text("name", "\"cart-v2\""),
            tags,
            meta,
            origin,
            fallback: fallbacks.read(name, table),
            ..policy(table, folder, zone, defaults, &before)
        }
    });
    fallbacks.check(&services, default.is_some());
    services
}

/// Reads the tags and the metadata that instances must have who are learnt at one of `origins`.
pub(super) fn selection(
    table: &mut Table<'_>,
    origins: &[&Origin],
    registries: &Registries,
) -> (Vec<String>, BTreeMap<String, String>) {
    let tags = tags(table, origins, registries);
    let meta = table.map("meta", "{ version = \"2\" }", |_, _| Ok(()));
    if origins.iter().any(|origin| origin.is_inline()) {
        for (key, is_wanted) in [("tags", !tags.is_empty()), ("meta", !meta.is_empty())] {
            if is_wanted && let Some(field) = table.take(key) {
                let wrong = Wrong::new(format!(
                    "endpoints that stand in this file have no `{key}`, so that nobody is found"
                ));
                field.wrong(wrong.suggest("leave it out, and list those that are wanted"));
            }
        }
    }
    (tags, meta)
}

/// Reads the tags alone.
fn tags(table: &mut Table<'_>, origins: &[&Origin], registries: &Registries) -> Vec<String> {
    let tags = table.texts("tags", "\"v2\"").unwrap_or_default();
    let mut kinds = origins.iter().flat_map(|origin| origin.registries());
    let without = kinds.find_map(|name| registries.kind(name).filter(|kind| !kind.has_tags()));
    if let (Some(field), Some(kind)) = (table.take("tags"), without)
        && !tags.is_empty()
    {
        let kind = kind.as_str();
        field.wrong(
            Wrong::new(format!("instances of the kind `{kind}` have no tags")).suggest(
                "leave `tags` out, and let the name that is asked for tell them apart: \
                 `name = \"…\"`",
            ),
        );
    }
    tags
}

/// What `[service.NAME]` and `[defaults]` have in common. Tables inside are taken over from
/// `base` key by key.
fn policy(
    table: &mut Table<'_>,
    folder: &Path,
    zone: &OwnZone,
    base: &Service,
    before: &Before,
) -> Service {
    let balance = balance::read(table, &base.balance);
    let zone = zone::prefer(table, zone, base.zone.as_ref());
    if zone.is_some() {
        balance::refuse_bound(table, &balance, "a zone's `hash`");
    }
    let (retry, follows) = table.within("retry", |table| retry(table, base.retry));
    let timeout = table.within("timeout", |table| timeouts(table, base.timeout));
    follows.check(&[(retry, timeout)], before);
    let (limits, answer_limits) = table.within("limits", |table| {
        let limits = limits(table, base.limits, before);
        (limits, answer_limits(table, base.answer_limits))
    });
    let protocol = protocol(table, base.protocol);
    let send_proxy = send_proxy(table, base.pool.send_proxy, protocol);
    let health = health::read(table, base.health.as_ref());
    if send_proxy.is_some() {
        refuse_grpc_checks(table, health.as_ref());
    }
    Service {
        balance,
        zone,
        retry,
        timeout,
        protocol,
        upgrades: upgrades::read(table).unwrap_or_else(|| base.upgrades.clone()),
        pool: Arc::new(Pool {
            send_proxy,
            ..table.within("pool", |table| Pool {
                idle: table.wait("idle", base.pool.idle),
                connections: table.size("connections", 0..=65_536, base.pool.connections),
                streams: table.size("streams", 1..=10_000, base.pool.streams),
                ping: table.optional("ping", base.pool.ping),
                max_age: table.optional("max_age", base.pool.max_age),
                send_proxy: None,
            })
        }),
        tls: table.within("tls", |table| tls::of_endpoints(table, folder, &base.tls)),
        limits,
        answer_limits,
        health,
        eject: eject(table, base.eject.as_ref(), before),
        panic_percent: table.count("panic_percent", 0..=100, base.panic_percent),
        slow_start: table.optional("slow_start", base.slow_start),
        guard: guard(table, base.guard),
        drain: table.wait("drain", base.drain),
        discovery_timeout: table.wait("discovery_timeout", base.discovery_timeout),
        ..base.clone()
    }
}

fn protocol(table: &mut Table<'_>, base: Option<Protocol>) -> Option<Protocol> {
    let words = [
        ("auto", Protocol::Auto),
        ("http1", Protocol::Http1),
        ("h2", Protocol::Http2),
        ("h2c", Protocol::Http2),
    ];
    match table.take("protocol") {
        None => base,
        Some(field) if field.is_false() => None,
        Some(field) => field.choice(&words),
    }
}

/// `false` takes back what stands before. A connection that is one client's is none of HTTP/2.
fn send_proxy(
    table: &mut Table<'_>,
    base: Option<ProxyVersion>,
    protocol: Option<Protocol>,
) -> Option<ProxyVersion> {
    let field = table.take("send_proxy");
    let version = match &field {
        None => base,
        Some(field) if field.is_false() => None,
        Some(field) => field.choice(&[("v1", ProxyVersion::V1), ("v2", ProxyVersion::V2)]),
    };
    if version.is_some() && protocol == Some(Protocol::Http2) {
        let wrong = Wrong::new("clients share the connections of HTTP/2, and a header names one");
        let wrong = wrong.suggest("write `protocol = \"http1\"`, or `send_proxy = false`");
        match field {
            Some(field) => field.wrong(wrong),
            None => table.absent("send_proxy", wrong),
        }
    }
    version
}

/// A check by gRPC passes by HTTP/2 at a port where requests are to go by HTTP/1.1.
fn refuse_grpc_checks(table: &mut Table<'_>, health: Option<&Health>) {
    let is_grpc = |health: &Health| matches!(health.ask, HealthAsk::Grpc { .. });
    if !health.is_some_and(|health| is_grpc(health) && health.port.is_none()) {
        return;
    }
    let wrong = Wrong::new(
        "a check by gRPC is of HTTP/2, and with `send_proxy` endpoints are called by HTTP/1.1",
    );
    let wrong = wrong.suggest(
        "write another `health.kind`, `health.port` where gRPC has a port of its own, or \
         `send_proxy = false`",
    );
    match table.take("health").or_else(|| table.take("send_proxy")) {
        Some(field) => field.wrong(wrong),
        None => table.absent("health", wrong),
    }
}

fn limits(table: &mut Table<'_>, base: Limits, before: &Before) -> Limits {
    let limits = Limits {
        concurrent: most(table, "concurrent", base.concurrent),
        per_endpoint: most(table, "per_endpoint", base.per_endpoint),
        pending: table.count("pending", 0..=1_000_000, base.pending),
        wait: table.duration("wait", base.wait),
    };
    no_effect::check_limits(table, &limits, before);
    limits
}

fn answer_limits(table: &mut Table<'_>, base: AnswerLimits) -> AnswerLimits {
    AnswerLimits {
        headers: table.size("answer_headers", 1..=10_000, base.headers),
        header_bytes: table.size("answer_header_bytes", 1_024..=1_048_576, base.header_bytes),
    }
}

/// A number that may be `false`, for no limit.
fn most(table: &mut Table<'_>, key: &'static str, base: Option<u32>) -> Option<u32> {
    match table.take(key) {
        None => base,
        Some(field) if field.is_false() => None,
        Some(field) => field.count(1..=1_000_000, 100),
    }
}

fn retry<'a>(table: &mut Table<'a>, base: Retry) -> (Retry, Follows<'a>) {
    let attempts = table.count("attempts", 1..=100, base.attempts);
    let on = statuses::read(table, "on").unwrap_or(base.on);
    let try_timeout = table.optional("try_timeout", base.try_timeout);
    let methods = methods::read(table).unwrap_or(base.methods);
    let follows = Follows::of(table);
    let retry = table.within("budget", |table| Retry {
        attempts,
        budget_ratio: table.fraction(
            "ratio",
            |ratio| (0.0..=10.0).contains(&ratio),
            "a number from 0 to 10",
            base.budget_ratio,
        ),
        budget_per_second: table.count("per_second", 0..=1_000_000, base.budget_per_second),
        on,
        try_timeout,
        methods,
    });
    (retry, follows)
}

fn eject(table: &mut Table<'_>, base: Option<&Eject>, before: &Before) -> Option<Eject> {
    match table.take("eject") {
        None => base.cloned(),
        Some(field) if field.is_false() => None,
        Some(_) => {
            let base = base.cloned().unwrap_or_else(eject_by_default);
            Some(table.within("eject", |table| {
                let eject = Eject {
                    failures: table.count("failures", 1..=1_000, base.failures),
                    time: table.duration("time", base.time),
                    max_time: table.duration("max_time", base.max_time),
                    max_percent: table.count("max_percent", 0..=100, base.max_percent),
                    statuses: statuses::read(table, "statuses").unwrap_or(base.statuses),
                    answers: table.flag("answers", base.answers),
                    silence: table.flag("silence", base.silence),
                };
                no_effect::check_ejection(table, &eject, before);
                eject
            }))
        }
    }
}

fn timeouts(table: &mut Table<'_>, base: Timeouts) -> Timeouts {
    Timeouts {
        connect: table.duration("connect", base.connect),
        response: table.duration("response", base.response),
        idle: table.duration("idle", base.idle),
        total: table.optional("total", base.total),
        tunnel: table.optional("tunnel", base.tunnel),
    }
}

fn guard(table: &mut Table<'_>, base: Option<Guard>) -> Option<Guard> {
    match table.take("guard") {
        None => base,
        Some(field) if field.is_false() => None,
        Some(_) => {
            let base = base.unwrap_or(GUARD);
            Some(table.within("guard", |table| Guard {
                share: table.fraction(
                    "share",
                    |share| share > 0.0 && share < 1.0,
                    "a number above 0 and below 1",
                    base.share,
                ),
                hold: table.duration("hold", base.hold),
                settle: table.duration("settle", base.settle),
            }))
        }
    }
}

#[cfg(test)]
mod tests {
    use rustls::pki_types::ServerName;

    use super::super::testing::{ROUTE, config, error, errors};
    use super::*;

    const TWO: &str = "[registry.a]\nkind = \"consul\"\n[registry.b]\nkind = \"consul\"\n";
    const CART: &str = "[[route]]\nservice = \"cart\"\n";

    #[test]
    fn a_services_tables_stand_before_the_defaults_key_by_key() {
        let config = config(&format!(
            r#"
            [defaults]
            timeout = {{ connect = "2s", total = "9s" }}
            retry = {{ attempts = 5, budget = {{ ratio = 0.5 }} }}
            pool = {{ idle = "1s" }}
            guard = {{ share = 0.25 }}
            drain = "7s"
            [service.cart]
            timeout = {{ response = "3s", total = false }}
            retry.budget.per_second = 1
            pool = {{ connections = 0, max_age = "1m" }}
            guard = {{ hold = "5s", settle = "3s" }}
            [service.bare]
            guard = false
            discovery_timeout = "0s"
            {CART}"#
        ));
        let cart = &config.services["cart"];
        let seconds = Duration::from_secs;
        assert_eq!(
            cart.timeout,
            Timeouts {
                connect: seconds(2),
                response: seconds(3),
                idle: seconds(60),
                total: None,
                tunnel: Some(seconds(3600)),
            }
        );
        assert_eq!(
            cart.retry,
            Retry {
                attempts: 5,
                budget_ratio: 0.5,
                budget_per_second: 1,
                on: Statuses::default(),
                try_timeout: None,
                methods: Methods::IDEMPOTENT,
            }
        );
        assert_eq!((cart.pool.idle, cart.pool.connections), (seconds(1), 0));
        assert_eq!(cart.pool.max_age, Some(seconds(60)));
        let guard = Guard {
            share: 0.25,
            hold: seconds(5),
            settle: seconds(3),
        };
        assert_eq!(cart.guard, Some(guard));
        assert_eq!(cart.drain, seconds(7));
        assert_eq!(config.defaults.timeout.total, Some(seconds(9)));

        let bare = &config.services["bare"];
        assert_eq!(bare.guard, None);
        assert_eq!(bare.discovery_timeout, Duration::ZERO);
    }

    #[test]
    fn the_version_of_http_is_each_endpoints_own_or_the_services() {
        let config = config(&format!(
            "[defaults]\nprotocol = \"auto\"\npool = {{ ping = false }}\n\
             [service.cart]\nprotocol = \"h2c\"\npool = {{ streams = 7 }}\n\
             [service.own]\nprotocol = false\n{CART}"
        ));
        let cart = &config.services["cart"];
        assert_eq!(cart.protocol, Some(Protocol::Http2));
        assert_eq!((cart.pool.streams, cart.pool.ping), (7, None));
        assert_eq!(config.defaults.protocol, Some(Protocol::Auto));
        assert_eq!(config.services["own"].protocol, None);
        let found = errors(&format!("[service.cart]\nprotocol = \"http3\"\n{CART}"));
        assert!(found[0].ends_with("did you mean \"http1\"?"), "{found:?}");
    }

    #[test]
    fn endpoints_may_be_told_whose_connection_they_have() {
        let config = config(&format!(
            "[defaults]\nsend_proxy = \"v2\"\n[service.cart]\npool = {{ connections = 7 }}\n\
             [service.old]\nsend_proxy = \"v1\"\n[service.plain]\nsend_proxy = false\n{CART}"
        ));
        let of = |name: &str| config.services[name].pool.send_proxy;
        assert_eq!(of("cart"), Some(ProxyVersion::V2));
        assert_eq!(config.services["cart"].pool.connections, 7);
        assert_eq!((of("old"), of("plain")), (Some(ProxyVersion::V1), None));
        let found = errors(&format!("[service.cart]\nsend_proxy = true\n{CART}"));
        assert!(
            found[0].starts_with("2:1 service.cart.send_proxy: "),
            "{found:?}"
        );
        for text in [
            "send_proxy = \"v2\"\nprotocol = \"h2\"",
            "protocol = \"h2c\"",
        ] {
            let before = "[defaults]\nsend_proxy = \"v1\"\n";
            let found = errors(&format!("{before}[service.cart]\n{text}\n{CART}"));
            assert!(
                found[0].contains("share the connections of HTTP/2"),
                "{found:?}"
            );
        }
        let checked = |health: &str| {
            format!("[service.cart]\nsend_proxy = \"v1\"\nhealth = {health}\n{CART}")
        };
        let found = errors(&checked("{ kind = \"grpc\" }"));
        assert!(
            found[0].starts_with("3:1 service.cart.health: "),
            "{found:?}"
        );
        let before = "[defaults]\nhealth = { kind = \"grpc\" }\n";
        let text = format!("{before}[service.cart]\nsend_proxy = \"v2\"\n{CART}");
        assert!(errors(&text)[0].contains("by gRPC"));
        // Another server answers there.
        super::super::testing::config(&checked("{ kind = \"grpc\", port = 8081 }"));
    }

    #[test]
    fn how_large_an_answers_head_may_be_stands_beside_who_waits() {
        let config = config(&format!(
            "[defaults]\nlimits = {{ answer_headers = 7 }}\n\
             [service.cart]\nlimits = {{ answer_header_bytes = 2048 }}\n{CART}"
        ));
        let limits = config.services["cart"].answer_limits;
        assert_eq!((limits.headers, limits.header_bytes), (7, 2_048));
        assert_eq!(config.defaults.answer_limits.header_bytes, 256 * 1_024);
        let text =
            "[service.cart]\nlimits = { answer_headers = 10001, answer_header_bytes = 100 }\n";
        assert_eq!(
            errors(&format!("{text}{CART}")),
            [
                "2:12 service.cart.limits.answer_headers: 10001 is out of range; write a number from 1 to 10000",
                "2:36 service.cart.limits.answer_header_bytes: 100 is out of range; write a number from 1024 to 1048576",
            ]
        );
    }

    #[test]
    fn a_service_that_only_a_route_names_has_the_defaults() {
        let config = config(&format!("[defaults]\ndrain = \"7s\"\n{CART}"));
        assert_eq!(*config.services["cart"], config.defaults);
        assert_eq!(config.defaults.drain, Duration::from_secs(7));
    }

    #[test]
    fn a_guard_that_the_defaults_turn_off_is_turned_on_by_its_keys() {
        let config = config(&format!(
            "[defaults]\nguard = false\n[service.cart]\nguard = {{ share = 0.1 }}\n{CART}"
        ));
        assert_eq!(config.defaults.guard, None);
        assert_eq!(
            config.services["cart"].guard,
            Some(Guard {
                share: 0.1,
                ..GUARD
            })
        );
    }

    #[test]
    fn with_several_registries_each_service_says_which() {
        let own = config(&format!("{TWO}[service.cart]\nregistry = \"b\"\n{CART}"));
        assert_eq!(own.services["cart"].origin.registries(), ["b".into()]);
        let all = config(&format!("{TWO}[defaults]\nregistry = \"b\"\n{CART}{ROUTE}"));
        assert_eq!(all.services["cart"].origin.registries(), ["b".into()]);

        assert_eq!(
            errors(&format!(
                "{TWO}{CART}{ROUTE}[service.hat]\ntags = [\"v2\"]\n"
            )),
            [
                "6:1 route.service: there are several registries, and `cart` is in none of them; write `registry = \"NAME\"` in `[defaults]`, or in a table `[service.NAME]` of its own",
                "9:1 route.service: there are several registries, and a template's services are in none of them; write `registry = \"NAME\"` in `[defaults]`",
                "10:1 service.hat.registry: there are several registries, and `hat` is in none of them; write `registry = \"NAME\"`",
            ]
        );
    }

    #[test]
    fn tags_need_a_registry_that_has_them() {
        let text =
            "[service.cart]\ntags = [\"v2\"]\n[registry.dns]\n[[route]]\nservice = \"cart\"\n";
        assert_eq!(
            error(text),
            "2:1 service.cart.tags: instances of the kind `dns` have no tags; leave `tags` out, and let the name that is asked for tell them apart: `name = \"…\"`"
        );
        config(&text.replace("\"v2\"", ""));
        config(&text.replace("registry.dns]", "registry.file]\npath = \"a.toml\""));
    }

    #[test]
    fn a_name_and_tags_are_a_services_own() {
        let config = config(&format!(
            "[service.cart]\nname = \"cart-v2\"\ntags = [\"v2\"]\n{CART}"
        ));
        assert_eq!(config.services["cart"].name.as_deref(), Some("cart-v2"));
        assert_eq!(config.services["cart"].tags, ["v2"]);
        let error = error(&format!("[defaults]\ntags = [\"v2\"]\n{CART}"));
        assert!(
            error.starts_with("2:1 defaults.tags: unknown key `tags`"),
            "{error}"
        );
    }

    #[test]
    fn tls_is_taken_over_from_the_defaults_key_by_key() {
        let config = config(&format!(
            r#"
            [defaults]
            tls = {{ ca = "ca.pem", certificate = "/own.pem", key = "key.pem" }}
            [service.cart]
            tls = {{ ca = "other.pem", server_name = "cart.internal" }}
            [service.hat]
            tls = {{ certificate = "hat.pem", key = "hat-key.pem" }}
            {CART}"#
        ));
        let folder = Path::new("/etc/callboard");
        let own = ("/own.pem".into(), folder.join("key.pem"));
        let cart = &config.services["cart"].tls;
        assert_eq!(cart.client.ca, Some(folder.join("other.pem")));
        assert_eq!(cart.client.identity, Some(own));
        let name = ServerName::try_from("cart.internal").unwrap();
        assert_eq!(cart.server_name, Some(name));
        let hat = &config.services["hat"].tls;
        assert_eq!(hat.client.ca, Some(folder.join("ca.pem")));
        let identity = (folder.join("hat.pem"), folder.join("hat-key.pem"));
        assert_eq!(hat.client.identity, Some(identity));
        assert_eq!(hat.server_name, None);
    }

    #[test]
    fn tls_that_cannot_be_is_named() {
        let text = "[service.cart]\n\
            tls = { server_name = \"https://cart:443\", certificate = \"cart.pem\", verify = false }\n";
        assert_eq!(
            errors(&format!("{text}{CART}")),
            [
                "2:1 service.cart.tls.key: `certificate` is of no use without `key`; add `key = \"….pem\"`",
                "2:9 service.cart.tls.server_name: `https://cart:443` is neither a host name nor an IP address; write it without a scheme and a port",
                "2:69 service.cart.tls.verify: unknown key `verify`; it may be `ca`, `certificate`, `key`, `pin` or `server_name`",
            ]
        );
    }

    #[test]
    fn every_wrong_value_is_named() {
        let text = "[service.cart]\n\
            registry = 7\n\
            balance = \"least_connections\"\n\
            retry = { attempts = 0, budget = { ratio = -1, per_second = 1.5 } }\n\
            timeout = { connect = 5, total = true }\n\
            guard = { share = 1.0 }\n\
            pool = 4\n\
            drain = \"1.5s\"\n";
        assert_eq!(
            errors(&format!("{text}{CART}")),
            [
                "2:1 service.cart.registry: expected a registry's name, found the number 7; write `registry = \"consul\"`",
                "3:1 service.cart.balance: `least_connections` is not known here; did you mean \"least_request\"?",
                "4:11 service.cart.retry.attempts: 0 is out of range; write a number from 1 to 100",
                "4:36 service.cart.retry.budget.ratio: expected a number from 0 to 10, found the number -1; write `ratio = 0.2`",
                "4:48 service.cart.retry.budget.per_second: expected a whole number, found the number 1.5; write `per_second = 10`",
                "5:13 service.cart.timeout.connect: expected a duration with its unit, found the number 5; write `connect = \"5s\"`",
                "5:26 service.cart.timeout.total: expected a duration with its unit, found true; write `total = \"30s\"`",
                "6:11 service.cart.guard.share: expected a number above 0 and below 1, found the number 1.0; write `share = 0.5`",
                "7:1 service.cart.pool: expected a table, found the number 4; write `pool = { idle = \"4s\" }`",
                "8:1 service.cart.drain: `1.5s` is not a duration; did you mean \"1500ms\"?",
            ]
        );
    }
}
