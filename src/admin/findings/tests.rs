use std::{path::Path, time::Duration};

use super::*;
use crate::{
    acme::NameStatus,
    admin::{
        history::{Recent, RecentOfEndpoint},
        leaving::LeavingStatus,
        log_level::LogLevelStatus,
        ready::Readiness,
        reloader::{LastReload, ReloadStatus},
    },
    config::Config,
    discovery::{Directory, Quarantined},
    instance::Skipped,
    saved,
    service::{EndpointState, PinStatus, Remembered, ServiceStatus, TermStatus},
    tls::CertificateStatus,
};

const NOW: i64 = 1_800_000_000;

/// A service of so many endpoints of which nothing is unusual.
fn cart(endpoints: usize) -> ServiceStatus {
    let addresses: Vec<_> = (1..=endpoints)
        .map(|n| format!("\"10.0.0.{n}:80\""))
        .collect();
    let text = format!(
        "[[route]]\npath = \"/\"\nservice = \"cart\"\n\
         [service.cart]\nendpoints = [{}]\nlimits = {{ concurrent = 10 }}\n",
        addresses.join(", ")
    );
    let config = Config::parse(&text, Path::new(".")).unwrap();
    let directory =
        Directory::start(&config, BTreeMap::new(), &saved::Contents::default()).unwrap();
    ServiceStatus::of(directory.declared("cart").unwrap())
}

fn watch() -> WatchSnapshot {
    WatchSnapshot {
        registry: "main".into(),
        service: Some("cart".into()),
        read: true,
        healthy: true,
        age: Some(Duration::from_secs(1)),
        last_change: None,
        error: None,
        failures: 0,
        updates: 1,
        entries: 1,
        skipped: Vec::new(),
        given_up: false,
    }
}

fn away(read: bool) -> WatchSnapshot {
    WatchSnapshot {
        read,
        healthy: false,
        age: read.then(|| Duration::from_secs(200)),
        error: Some("connection refused".to_owned()),
        ..watch()
    }
}

fn ready() -> Readiness {
    Readiness {
        ready: true,
        draining: false,
        missing: Vec::new(),
        unregistered: Vec::new(),
    }
}

fn order(issued: bool) -> NameStatus {
    NameStatus {
        name: "shop.example.com".to_owned(),
        file: "/etc/acme/shop.example.com.pem".into(),
        issued,
        next: NOW + 120,
        failures: 1,
        error: Some("port 80 is closed".to_owned()),
    }
}

fn certificate(left: i64) -> CertificateStatus {
    CertificateStatus {
        file: "/etc/shop.pem".into(),
        hosts: vec!["shop.example.com".to_owned()],
        not_before: NOW - 1000,
        not_after: NOW + left,
        fingerprint: String::new(),
        error: None,
        is_ordered: false,
    }
}

/// What is said, with its level, of a proxy that is well but for these.
struct Case {
    readiness: Readiness,
    reload: ReloadStatus,
    log: LogLevelStatus,
    shares: Vec<ChangedShares>,
    leaving: Vec<LeavingStatus>,
    quarantined: Vec<Quarantined>,
    certificates: Vec<CertificateStatus>,
    orders: Vec<NameStatus>,
    catalogs: Vec<WatchSnapshot>,
    service: ServiceStatus,
    retries_left: u64,
    recent: Recent,
    endpoints: Vec<RecentOfEndpoint>,
}

impl Case {
    fn of(endpoints: usize) -> Self {
        Self {
            readiness: ready(),
            reload: ReloadStatus::default(),
            log: LogLevelStatus {
                level: "info".to_owned(),
                ends: None,
            },
            shares: Vec::new(),
            leaving: Vec::new(),
            quarantined: Vec::new(),
            certificates: Vec::new(),
            orders: Vec::new(),
            catalogs: Vec::new(),
            service: cart(endpoints),
            retries_left: 10,
            recent: Recent::default(),
            endpoints: vec![RecentOfEndpoint::default(); endpoints],
        }
    }

    /// What is said, each behind its level.
    fn found(self) -> Vec<String> {
        let process = ProcessFacts {
            readiness: &self.readiness,
            reload: &self.reload,
            log: &self.log,
            shares: &self.shares,
            leaving: &self.leaving,
            quarantined: &self.quarantined,
            certificates: &self.certificates,
            tls_errors: &[],
            orders: &self.orders,
            snapshot: None,
            catalogs: &self.catalogs,
            now: NOW,
        };
        let service = ServiceFacts {
            status: &self.service,
            retries_left: self.retries_left,
            recent: self.recent,
            endpoints: self.endpoints,
        };
        let found = findings(&process, std::iter::once(service)).into_iter();
        let said = found.map(|Finding { level, text, .. }| format!("{level:?}: {text}"));
        said.collect()
    }
}

fn assert_cases(cases: Vec<(Case, &str)>) {
    for (case, said) in cases {
        assert_eq!(case.found(), [said]);
    }
}

fn term(seconds_left: f64) -> TermStatus {
    TermStatus {
        since: 0.0,
        ends: 0.0,
        seconds_left,
    }
}

/// A case of four endpoints, changed.
fn with(change: impl FnOnce(&mut Case)) -> Case {
    let mut case = Case::of(4);
    change(&mut case);
    case
}

fn recent(attempts: u64, errors: f32, failures: u64) -> RecentOfEndpoint {
    RecentOfEndpoint {
        requests_per_second: 1.0,
        errors: Some(errors),
        attempts,
        failures,
    }
}

#[tokio::test]
async fn of_a_proxy_that_is_well_nothing_is_said() {
    assert_eq!(Case::of(4).found(), [""; 0]);
    let busy = with(|case| {
        case.endpoints = vec![recent(1000, 0.04, 0); 4];
        case.recent.requests = 1000;
        case.recent.errors = Some(0.04);
        case.service.limits.as_mut().unwrap().in_use = 9;
        case.certificates = vec![certificate(15 * 24 * 3600)];
        case.service.watches = vec![watch()];
    });
    assert_eq!(busy.found(), [""; 0]);
    // Of few requests no share is said.
    let quiet = with(|case| case.endpoints[0] = recent(3, 1.0, 3));
    assert_eq!(quiet.found(), [""; 0]);
}

#[tokio::test]
async fn what_was_changed_for_a_while_is_said_with_its_time() {
    assert_cases(vec![
        (
            with(|case| {
                case.log = LogLevelStatus {
                    level: "debug".to_owned(),
                    ends: Some(NOW as f64 + 600.0),
                };
            }),
            "Note: the log's level is debug for another 10 min",
        ),
        (
            with(|case| {
                case.shares = vec![ChangedShares {
                    of: "/cart".to_owned(),
                    now: "cart=95, cart-v2=5".to_owned(),
                    term: term(600.0),
                }];
            }),
            "Note: route /cart: the shares are cart=95, cart-v2=5 for another 10 min",
        ),
    ]);
}

#[tokio::test]
async fn what_is_unusual_of_endpoints_is_said_in_plain_words() {
    use EndpointState::{Doubted, Draining, Ejected, Failing, Unhealthy};
    let states = |states: &[EndpointState]| {
        with(|case| {
            for (endpoint, state) in case.service.endpoints.iter_mut().zip(states) {
                endpoint.state = *state;
            }
        })
    };
    assert_eq!(states(&[Draining]).found(), [""; 0]);
    assert_cases(vec![
        (
            with(|case| case.endpoints[1] = recent(100, 0.31, 0)),
            "Bad: cart: 1 of 4 endpoints answers 5xx to 31 % of its requests (10.0.0.2:80)",
        ),
        (
            with(|case| case.endpoints[1] = recent(100, 1.0, 90)),
            "Bad: cart: 1 of 4 endpoints fails 100 % of its requests (10.0.0.2:80)",
        ),
        (
            with(|case| case.endpoints = vec![recent(100, 0.5, 0); 4]),
            "Bad: cart: 4 of 4 endpoints answer 5xx to up to 50 % of their requests",
        ),
        (
            with(|case| {
                case.recent.requests = 100;
                case.recent.errors = Some(0.2);
            }),
            "Bad: cart: 20 % of its requests of the last minute ended in a 5xx",
        ),
        (
            states(&[Ejected]),
            "Warning: cart: 1 of 4 endpoints is ejected (10.0.0.1:80)",
        ),
        (
            states(&[Doubted, Doubted]),
            "Warning: cart: 2 of 4 endpoints are doubted",
        ),
        (
            states(&[Unhealthy; 4]),
            "Bad: cart: none of its 4 endpoints can be picked: 4 unhealthy",
        ),
        (
            states(&[Failing, Failing, Unhealthy, Unhealthy]),
            "Bad: cart: none of its 4 endpoints can be picked: 2 failing, 2 unhealthy",
        ),
        (Case::of(0), "Bad: cart: it has no endpoint"),
    ]);
    let panic = with(|case| {
        case.service.panic = true;
        case.service.endpoints[0].state = Failing;
    });
    assert_eq!(
        panic.found(),
        [
            "Bad: cart: so few endpoints pass the proxy's checks that the checks are not believed",
            "Warning: cart: 1 of 4 endpoints is failing (10.0.0.1:80)"
        ]
    );
}

#[tokio::test]
async fn what_is_unusual_of_a_service_is_said_in_plain_words() {
    let empty = |change: &dyn Fn(&mut Case)| {
        let mut case = Case::of(0);
        change(&mut case);
        case
    };
    let limits = |in_use, waiting| {
        with(|case| {
            let limits = case.service.limits.as_mut().unwrap();
            (limits.in_use, limits.waiting) = (in_use, waiting);
        })
    };
    assert_cases(vec![
        (
            empty(&|case| case.service.fallback = Some("other".into())),
            "Warning: cart: it has no endpoint; requests go to other",
        ),
        (
            empty(&|case| case.readiness.unregistered = vec!["cart".to_owned()]),
            "Bad: cart: no registry knows a service of this name",
        ),
        (
            limits(10, 0),
            "Warning: cart: its limit is full: 10 of 10 requests",
        ),
        (
            limits(10, 3),
            "Bad: cart: its limit is full: 10 of 10 requests, and 3 requests wait",
        ),
        (
            limits(5, 1),
            "Warning: cart: 1 request waits for room at an endpoint",
        ),
        (
            with(|case| {
                case.retries_left = 0;
                case.recent.retries_per_second = 3.0;
            }),
            "Warning: cart: its retry budget is spent: what fails is not tried again",
        ),
        (
            with(|case| {
                case.service.pin = Some(PinStatus {
                    set: 17,
                    term: term(720.0),
                })
            }),
            "Note: cart: pinned to set 17 for another 12 min",
        ),
        (
            with(|case| {
                case.service.from_snapshot = vec![Remembered {
                    registry: "main".into(),
                    age_seconds: 7200.0,
                }];
            }),
            "Warning: cart: it goes by the snapshot of what main said 2 h ago",
        ),
        (
            with(|case| {
                let skipped = Skipped {
                    id: "cart-7".to_owned(),
                    reason: "port 0".to_owned(),
                };
                case.service.watches = vec![WatchSnapshot {
                    skipped: vec![skipped],
                    ..watch()
                }];
            }),
            "Warning: cart: main lists an entry that cannot be called: cart-7: port 0",
        ),
        (
            with(|case| {
                case.service.watches = vec![watch()];
                case.service.chosen = Some("other".into());
            }),
            "Warning: cart: other serves, since main cannot",
        ),
    ]);
}

#[tokio::test]
async fn what_is_unusual_of_the_proxy_is_said_in_plain_words() {
    let failed = LastReload {
        at: std::time::SystemTime::UNIX_EPOCH,
        took: Duration::ZERO,
        error: Some("line 3: no such key".to_owned()),
        changes: None,
    };
    let certificates =
        |certificate: CertificateStatus| with(|case| case.certificates = vec![certificate]);
    assert_cases(vec![
        (
            with(|case| case.readiness.draining = true),
            "Warning: the proxy drains: it takes no more traffic than it must, and then ends",
        ),
        (
            with(|case| {
                case.readiness.ready = false;
                case.readiness.missing = vec!["service cart".to_owned()];
            }),
            "Bad: the proxy is not ready: not read yet: service cart",
        ),
        (
            with(|case| case.reload.last = Some(failed)),
            "Bad: the last reload failed, and what ran before goes on: line 3: no such key",
        ),
        (
            certificates(certificate(2 * 24 * 3600)),
            "Bad: the certificate for shop.example.com expires in 2 days",
        ),
        (
            certificates(certificate(-3600)),
            "Bad: the certificate for shop.example.com expired 60 min ago",
        ),
        (
            certificates(certificate(10 * 24 * 3600)),
            "Warning: the certificate for shop.example.com expires in 10 days",
        ),
        (
            certificates(CertificateStatus {
                error: Some("not a certificate".to_owned()),
                ..certificate(100 * 24 * 3600)
            }),
            "Bad: the certificate for shop.example.com: what its file has now is not used: \
             not a certificate",
        ),
        (
            certificates(CertificateStatus {
                is_ordered: true,
                not_before: NOW - 3 * 24 * 3600,
                ..certificate(24 * 3600 / 2)
            }),
            "Warning: the certificate for shop.example.com expires in 12 h",
        ),
        (
            with(|case| case.orders = vec![order(false)]),
            "Bad: a certificate for shop.example.com was not issued: port 80 is closed; ordered again \
             in 2 min",
        ),
        (
            with(|case| case.orders = vec![order(true)]),
            "Warning: another certificate for shop.example.com was not issued: port 80 is closed; ordered \
             again in 2 min",
        ),
        (
            with(|case| {
                case.quarantined = vec![Quarantined {
                    registry: "main".into(),
                    service: "cart".into(),
                    tag: "urlprefix-/".to_owned(),
                    reason: "another has it".to_owned(),
                }];
            }),
            "Warning: a tag makes no route: `urlprefix-/` of cart: another has it",
        ),
        (
            with(|case| {
                case.catalogs = vec![away(true)];
                case.service.watches = vec![away(true)];
            }),
            "Warning: registry main has not answered for 3 min (2 watchers): connection refused; what it \
             said last stays",
        ),
        (
            with(|case| case.service.watches = vec![away(false)]),
            "Bad: registry main has never answered (1 watcher): connection refused; nothing of it is \
             known",
        ),
    ]);
}

#[tokio::test]
async fn what_matters_most_comes_first() {
    let case = with(|case| {
        case.readiness.draining = true;
        case.endpoints[1] = recent(100, 0.31, 0);
        case.service.pin = Some(PinStatus {
            set: 1,
            term: term(5.0),
        });
    });
    let found = case.found();
    let levels = found.iter().map(|said| said.split(':').next().unwrap());
    assert_eq!(levels.collect::<Vec<_>>(), ["Bad", "Warning", "Note"]);
}

#[test]
fn times_are_said_in_their_largest_unit() {
    for (seconds, said) in [
        (0.0, "0 s"),
        (89.0, "89 s"),
        (120.0, "2 min"),
        (7200.0, "2 h"),
        (200_000.0, "2 days"),
    ] {
        assert_eq!(time(seconds), said);
    }
}
