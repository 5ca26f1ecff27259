//! `[service.NAME]` and `[defaults]`: what becomes of a service's requests. Knows nothing of
//! routes or instances.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use super::{
    Balance, Guard, Pool, Retry, Service, Timeouts, reader::Table, registry::Registries,
    report::Wrong, value::Zero,
};

/// Reads `[defaults]`, which may name the registry that is meant where none is.
pub(super) fn defaults(top: &mut Table<'_>, registries: &mut Registries) -> Service {
    top.within("defaults", |table| {
        if let Some(name) = registry(table, registries) {
            registries.set_default(name);
        }
        let built_in = Service {
            // Where none is meant every service names its own, and the first is as good as any.
            registry: registries
                .default()
                .cloned()
                .unwrap_or_else(|| registries.first()),
            name: None,
            tags: Vec::new(),
            balance: Balance::RoundRobin,
            retry: Retry {
                attempts: 3,
                budget_ratio: 0.2,
                budget_per_second: 10,
            },
            timeout: Timeouts {
                connect: Duration::from_secs(1),
                response: Duration::from_secs(30),
                idle: Duration::from_secs(60),
                total: None,
            },
            pool: Pool {
                idle: Duration::from_secs(4),
                connections: 256,
            },
            guard: Some(GUARD),
            drain: Duration::from_secs(30),
            discovery_timeout: Duration::from_secs(2),
        };
        policy(table, &built_in)
    })
}

const GUARD: Guard = Guard {
    share: 0.5,
    hold: Duration::from_secs(60),
};

/// Reads every `[service.NAME]`.
pub(super) fn read(
    top: &mut Table<'_>,
    defaults: &Service,
    registries: &Registries,
) -> BTreeMap<Arc<str>, Service> {
    top.named("service", |name, table| {
        let registry = registry(table, registries)
            .or_else(|| registries.default().cloned())
            .unwrap_or_else(|| {
                let wrong = no_registry(name);
                table.absent("registry", wrong.suggest("write `registry = \"NAME\"`"));
                defaults.registry.clone()
            });
        Service {
            registry,
            name: table.text("name", "\"cart-v2\""),
            tags: table.texts("tags", "\"v2\"").unwrap_or_default(),
            ..policy(table, defaults)
        }
    })
}

fn registry(table: &mut Table<'_>, registries: &Registries) -> Option<Arc<str>> {
    registries.find(&table.take("registry")?)
}

/// Several registries, and nothing says which one a service is in.
pub(super) fn no_registry(service: &str) -> Wrong {
    Wrong::new(format!(
        "there are several registries, and `{service}` is in none of them"
    ))
}

/// What `[service.NAME]` and `[defaults]` have in common. Tables inside are taken over from
/// `base` key by key.
fn policy(table: &mut Table<'_>, base: &Service) -> Service {
    Service {
        balance: table.choice(
            "balance",
            &[("round_robin", Balance::RoundRobin)],
            base.balance,
        ),
        retry: table.within("retry", |table| retry(table, base.retry)),
        timeout: table.within("timeout", |table| timeouts(table, base.timeout)),
        pool: table.within("pool", |table| Pool {
            idle: table.wait("idle", base.pool.idle),
            connections: table.size("connections", 0..=65_536, base.pool.connections),
        }),
        guard: guard(table, base.guard),
        drain: table.wait("drain", base.drain),
        discovery_timeout: table.wait("discovery_timeout", base.discovery_timeout),
        ..base.clone()
    }
}

fn retry(table: &mut Table<'_>, base: Retry) -> Retry {
    let attempts = table.count("attempts", 1..=100, base.attempts);
    table.within("budget", |table| Retry {
        attempts,
        budget_ratio: table.fraction(
            "ratio",
            |ratio| (0.0..=10.0).contains(&ratio),
            "a number from 0 to 10",
            base.budget_ratio,
        ),
        budget_per_second: table.count("per_second", 0..=1_000_000, base.budget_per_second),
    })
}

fn timeouts(table: &mut Table<'_>, base: Timeouts) -> Timeouts {
    Timeouts {
        connect: table.duration("connect", base.connect),
        response: table.duration("response", base.response),
        idle: table.duration("idle", base.idle),
        total: match table.take("total") {
            None => base.total,
            Some(field) if field.as_flag() == Some(false) => None,
            Some(field) => field.duration(Zero::Refused),
        },
    }
}

fn guard(table: &mut Table<'_>, base: Option<Guard>) -> Option<Guard> {
    match table.take("guard") {
        None => base,
        Some(field) if field.as_flag() == Some(false) => None,
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
            }))
        }
    }
}
