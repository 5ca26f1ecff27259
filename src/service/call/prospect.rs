//! What would become of a request that is not made: which endpoint would have it, and what would follow
//! each way in which an attempt may go. Asks what a call asks, and changes nothing. Knows nothing of how
//! it is shown.

use std::{collections::HashMap, io, sync::Arc};

use http::Method;
use tokio::time::Instant;

use super::{
    judge::{Facts, Next, Outcome, judge},
    queue::{LimitsStatus, Outlook, Room},
    rules::{self, Rules, is_short, was_asked},
};
use crate::{
    service::{
        CallPolicy, Endpoint, EndpointId, EndpointState, EndpointStatus, RequestInfo, Service,
        ServiceStatus, View,
    },
    upstream::{Failure, FailureKind, Found, Processed},
};

/// What would become of a request.
#[derive(Debug)]
pub struct Prospect {
    /// The service's endpoints, in the order of their chances.
    pub endpoints: Vec<EndpointProspect>,
    /// What would follow its first attempt, by how that may go; empty where there is no endpoint for one.
    pub follow_ups: Vec<FollowUp>,
    /// Retries that the budget would grant now.
    pub retries_left: u64,
    /// What the service's limits come to; `None` where there is none.
    pub limits: Option<LimitsProspect>,
    /// The set that the service is pinned to, whatever its registries say.
    pub pinned_to: Option<u64>,
}

/// What of a request decides over its attempts.
#[derive(Clone, Copy, Debug)]
pub struct RequestShape<'m> {
    /// Its method.
    pub method: &'m Method,
    /// So many bytes of body; `None` where that shows only at its end.
    pub length: Option<u64>,
    /// Its body stays with the client until an endpoint asks for it (`Expect: 100-continue`).
    pub is_body_withheld: bool,
}

/// What a service's limits come to.
#[derive(Clone, Copy, Debug)]
pub struct LimitsProspect {
    /// How much is used up.
    pub status: LimitsStatus,
    /// The most requests that may wait.
    pub pending: u32,
    /// What the request would meet.
    pub outlook: Outlook,
}

/// An endpoint that the request may go to, or may not.
#[derive(Debug)]
pub struct EndpointProspect {
    /// The registry's id for it.
    pub instance: Arc<str>,
    /// Where it is called.
    pub address: String,
    /// What becomes of it.
    pub state: EndpointState,
    /// How probably the request goes there first, 0 to 1.
    pub chance: f64,
    /// Why that is less than its share, in words, where something stands in the way.
    pub why: Option<String>,
}

/// What would follow an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FollowUp {
    /// How the attempt went.
    pub event: Event,
    /// What comes of it.
    pub then: Then,
}

/// How an attempt may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The endpoint takes no connection.
    NoConnection,
    /// There is no connection within `timeout.connect`.
    ConnectTimeout,
    /// The connection ends before the endpoint can have the request.
    DiedUnsent,
    /// The connection ends without a byte of an answer.
    DiedUnanswered,
    /// The answer's status stands in `retry.on`.
    Unwanted,
    /// The answer's status of gRPC does.
    UnwantedGrpc,
    /// No answer within `retry.try_timeout`.
    TryTimeout,
    /// No answer within `timeout.response`.
    Timeout,
    /// The answer breaks off.
    BrokeOff,
}

/// What comes of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// Another attempt, which the budget has to grant.
    Retry,
    /// The same, unless the body is too long to be kept, which shows only when it comes.
    RetryIfShort,
    /// The answer is passed on.
    PassOn,
    /// The request fails.
    Fail,
}

/// What would become of a request of this shape.
pub fn prospect(
    service: &Service,
    policy: &CallPolicy<'_>,
    asked: &dyn RequestInfo,
    shape: RequestShape<'_>,
    now: Instant,
) -> Prospect {
    let view = policy.view;
    let room = service.limits().map_or(Room::anywhere(), |it| it.room());
    let chances = view.chances(asked, room, now);
    let picked = chances.as_ref().map(|_| ()).map_err(|shed| *shed);
    let limits = service.limits().map(|limits| LimitsProspect {
        status: limits.status(),
        pending: limits.pending(),
        outlook: limits.outlook(view.number(), picked),
    });
    let pickables = pickables(view, room, |id| {
        let chances = chances.as_ref().ok()?;
        chances.get(id).copied()
    });
    let status = ServiceStatus::of(service);
    Prospect {
        pinned_to: status.pin.map(|pin| pin.set),
        endpoints: endpoints(status.endpoints, view, &pickables),
        follow_ups: follow_ups(service, policy, shape, now),
        retries_left: service.retries_left(now),
        limits,
    }
}

/// An endpoint that may be picked, as the status names it: its id, and where it is called.
type Name = (Arc<str>, String);

/// How an endpoint that may be picked stands to a request.
struct Pickable {
    chance: f64,
    has_room: bool,
}

fn pickables(
    view: &View,
    room: Room<'_>,
    chance: impl Fn(&EndpointId) -> Option<f64>,
) -> HashMap<Name, Pickable> {
    let snapshot = view.snapshot();
    let endpoints = snapshot.endpoints.iter();
    let pickable = |endpoint: &Arc<Endpoint>| {
        let id = endpoint.id();
        let pickable = Pickable {
            chance: chance(id).unwrap_or(0.0),
            has_room: room.is_at(endpoint.health()),
        };
        ((Arc::clone(&id.instance), id.address.to_string()), pickable)
    };
    endpoints.map(pickable).collect()
}

fn endpoints(
    listed: Vec<EndpointStatus>,
    view: &View,
    pickables: &HashMap<Name, Pickable>,
) -> Vec<EndpointProspect> {
    let mut endpoints: Vec<_> = listed
        .into_iter()
        .map(|one| {
            let pickable = pickables.get(&(Arc::clone(&one.instance), one.address.clone()));
            EndpointProspect {
                chance: pickable.map_or(0.0, |pickable| pickable.chance),
                why: why_not(view, &one, pickable),
                instance: one.instance,
                address: one.address,
                state: one.state,
            }
        })
        .collect();
    // Stable: those with the same chance stay in the order of their identities.
    endpoints.sort_by(|a, b| b.chance.total_cmp(&a.chance));
    endpoints
}

/// What stands in the way of an endpoint.
fn why_not(view: &View, one: &EndpointStatus, pickable: Option<&Pickable>) -> Option<String> {
    let until = |seconds: f64| match seconds {
        0.0 => "the next request tries it".to_owned(),
        seconds => format!("tried again in {seconds:.1} s"),
    };
    let why = match one.state {
        EndpointState::Draining => "it was removed".to_owned(),
        EndpointState::Maintenance => "it is drained, by hand".to_owned(),
        EndpointState::Unhealthy => "its registry's checks of it do not pass".to_owned(),
        EndpointState::Failing => {
            let error = one.check.as_ref().and_then(|check| check.error.as_deref());
            error.map_or_else(
                || "our own checks of it do not pass".to_owned(),
                |error| format!("our own checks of it do not pass: {error}"),
            )
        }
        EndpointState::Ejected => {
            let ejection = one.ejection.as_ref()?;
            format!("{}; {}", ejection.reason, until(ejection.seconds_left))
        }
        EndpointState::Doubted => {
            let doubt = one.doubt.as_ref()?;
            format!("{}; {}", doubt.reason, until(doubt.seconds_left))
        }
        EndpointState::Serving | EndpointState::Warming | EndpointState::Held => {
            return match (pickable, view.subset()) {
                (None, Some(subset)) => Some(format!("the route wants {subset}")),
                (Some(Pickable { has_room, .. }), _) if !has_room => {
                    Some("it works on as many requests as it may".to_owned())
                }
                _ => None,
            };
        }
    };
    Some(why)
}

fn follow_ups(
    service: &Service,
    policy: &CallPolicy<'_>,
    shape: RequestShape<'_>,
    now: Instant,
) -> Vec<FollowUp> {
    let count = policy.view.snapshot().endpoints.len();
    if count == 0 && service.is_read() {
        return Vec::new();
    }
    // Of a service that was not read there may be any number.
    let has_other = count != 1;
    let rules = Rules::new(policy.retry, shape.method, shape.length);
    let try_timeout = rules.try_timeout(0, || has_other, || service.retries_left(now));
    let (has_http, has_grpc) = (policy.retry.on.has_http(), policy.retry.on.has_grpc());
    let may_be = |event| match event {
        Event::TryTimeout => try_timeout.is_some(),
        Event::Unwanted => has_http,
        Event::UnwantedGrpc => has_grpc,
        _ => true,
    };
    let events = EVENTS.into_iter().filter(|event| may_be(*event));
    events
        .map(|event| FollowUp {
            event,
            then: then(event, &rules, shape, has_other),
        })
        .collect()
}

/// In the order of a request's way.
const EVENTS: [Event; 9] = [
    Event::NoConnection,
    Event::ConnectTimeout,
    Event::DiedUnsent,
    Event::DiedUnanswered,
    Event::Unwanted,
    Event::UnwantedGrpc,
    Event::TryTimeout,
    Event::Timeout,
    Event::BrokeOff,
];

/// What comes of a first attempt that goes like this.
fn then(event: Event, rules: &Rules<'_>, shape: RequestShape<'_>, has_other: bool) -> Then {
    let (outcome, asked) = match failure(event) {
        Some(failure) => (Outcome::of(&failure, Found::New), was_asked(&failure.kind)),
        None => (Outcome::Answered { in_retry_on: true }, true),
    };
    let is_idempotent = match event {
        Event::Unwanted | Event::UnwantedGrpc => {
            rules.may_be_repeated(event == Event::UnwantedGrpc)
        }
        _ => rules.is_idempotent,
    };
    let is_unread = is_unread(event, shape);
    let may_be_last = matches!(outcome, Outcome::Died { .. });
    let next = judge(&Facts {
        outcome,
        is_idempotent,
        is_last: rules.is_last(asked.into()),
        is_over: false,
        is_replayable: is_unread || shape.length.is_none_or(is_short),
        others: rules::others(has_other, may_be_last, || false),
    });
    match next {
        Next::Retry { .. } if is_unread || shape.length.is_some() => Then::Retry,
        Next::Retry { .. } => Then::RetryIfShort,
        Next::Done => Then::PassOn,
        Next::GiveUp | Next::NoEndpoints => Then::Fail,
    }
}

/// How an attempt fails, as it does itself; `None` where it is answered.
fn failure(event: Event) -> Option<Failure> {
    let refused = io::ErrorKind::ConnectionRefused;
    let (kind, processed) = match event {
        Event::NoConnection => (FailureKind::Connect(refused.into()), Processed::Never),
        Event::ConnectTimeout => (FailureKind::ConnectTimeout, Processed::Never),
        Event::DiedUnsent => (FailureKind::Closed, Processed::Never),
        Event::DiedUnanswered => (FailureKind::Closed, Processed::Perhaps),
        Event::TryTimeout => (FailureKind::TryTimeout, Processed::Perhaps),
        Event::Timeout => (FailureKind::Timeout, Processed::Perhaps),
        Event::BrokeOff => (FailureKind::Closed, Processed::Begun),
        Event::Unwanted | Event::UnwantedGrpc => return None,
    };
    Some(Failure { kind, processed })
}

/// Whether the request's body was not read yet, so that it can be sent again at any length.
fn is_unread(event: Event, shape: RequestShape<'_>) -> bool {
    shape.is_body_withheld || matches!(event, Event::NoConnection | Event::ConnectTimeout)
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use http::{HeaderMap, Uri};

    use super::*;
    use crate::service::{
        Shed,
        testing::{self, line},
    };

    struct Asked(HeaderMap, Uri);

    impl RequestInfo for Asked {
        fn headers(&self) -> &HeaderMap {
            &self.0
        }

        fn uri(&self) -> &Uri {
            &self.1
        }

        fn client(&self) -> Option<IpAddr> {
            None
        }
    }

    fn of(service: &Service, method: &Method, length: u64) -> Prospect {
        of_shape(
            service,
            RequestShape {
                method,
                length: Some(length),
                is_body_withheld: false,
            },
        )
    }

    fn of_shape(service: &Service, shape: RequestShape<'_>) -> Prospect {
        let asked = Asked(HeaderMap::new(), Uri::from_static("/"));
        let policy = CallPolicy::of(service, None, None).unwrap();
        prospect(service, &policy, &asked, shape, Instant::now())
    }

    /// In hundredths, by the port's order.
    fn chances(service: &Service) -> Vec<i64> {
        let mut endpoints = of(service, &Method::GET, 0).endpoints;
        endpoints.sort_by(|a, b| a.address.cmp(&b.address));
        let percent = |one: &EndpointProspect| (one.chance * 100.0).round() as i64;
        endpoints.iter().map(percent).collect()
    }

    #[test]
    fn of_equal_endpoints_each_has_its_share_and_nothing_is_taken_of_their_turns() {
        // With 7 a turn that is taken shows: so many picks are no multiple of a round.
        let service = testing::service("", 1..8);
        assert_eq!(chances(&service), [14; 7]);
        let turn = || {
            let tally = Default::default();
            let key = service.main().turn(None, &tally, Instant::now());
            let picked = service.main().pick(0, key, &tally, Instant::now());
            picked.unwrap().pool().address().clone()
        };
        let mut walked = vec![turn()];
        for _ in 0..6 {
            chances(&service);
            walked.push(turn());
        }
        walked.sort_by_key(ToString::to_string);
        walked.dedup();
        assert_eq!(walked.len(), 7);
    }

    #[test]
    fn an_endpoint_in_doubt_has_no_chance_and_the_reason_and_no_trial_is_claimed() {
        let service = testing::service("", 1..4);
        let now = Instant::now();
        let doubted = line(&service, 1);
        doubted.health().connect_failed(now, now);
        assert_eq!(chances(&service), [50, 0, 50]);
        let found = of(&service, &Method::GET, 0).endpoints;
        let why = found.last().unwrap().why.clone().unwrap();
        assert!(why.starts_with("it takes no connection; tried again in"));
        for other in [0, 2] {
            let other = line(&service, other);
            other.health().connect_failed(now, now);
        }
        // Where all are, requests go there all the same.
        assert_eq!(chances(&service).iter().sum::<i64>(), 99);
    }

    #[tokio::test(start_paused = true)]
    async fn a_trial_that_is_due_is_left_to_a_request() {
        let service = testing::service("", 1..3);
        let now = Instant::now();
        line(&service, 0).health().connect_failed(now, now);
        tokio::time::advance(std::time::Duration::from_secs(2)).await;
        for _ in 0..3 {
            assert_eq!(chances(&service), [0, 100]);
        }
        let now = Instant::now();
        assert!(!line(&service, 0).health().is_passed_over(now));
    }

    #[tokio::test(start_paused = true)]
    async fn a_trial_that_is_due_has_the_request_where_there_is_no_other_endpoint() {
        let service = testing::service("", 1..3);
        let now = Instant::now();
        for n in 0..2 {
            line(&service, n).health().connect_failed(now, now);
        }
        tokio::time::advance(std::time::Duration::from_secs(2)).await;
        assert_eq!(chances(&service), [50, 50]);
        let now = Instant::now();
        for n in 0..2 {
            assert!(!line(&service, n).health().is_passed_over(now));
        }
    }

    #[test]
    fn each_of_more_endpoints_than_picks_has_its_chance() {
        let service = testing::service("", 1..2_001);
        let found = of(&service, &Method::GET, 0).endpoints;
        assert!(found.iter().all(|one| (one.chance - 5e-4).abs() < 1e-9));
    }

    fn fill(service: &Service, n: usize) {
        let full = line(service, n);
        let seats = full.health().seats();
        seats.store(1, std::sync::atomic::Ordering::SeqCst);
    }

    #[test]
    fn a_full_endpoint_has_no_chance_and_the_reason() {
        let service = testing::service("limits = { per_endpoint = 1 }", 1..3);
        fill(&service, 0);
        assert_eq!(chances(&service), [0, 100]);
        let found = of(&service, &Method::GET, 0);
        let why = found.endpoints[1].why.as_deref();
        assert_eq!(why, Some("it works on as many requests as it may"));
        assert_eq!(found.limits.unwrap().outlook, Outlook::Room);
    }

    #[test]
    fn where_the_trusted_endpoint_is_full_a_doubted_one_has_no_chance_either() {
        let (limits, now) = ("limits = { per_endpoint = 1, pending = 0 }", Instant::now());
        let service = testing::service(limits, 1..3);
        fill(&service, 0);
        line(&service, 1).health().connect_failed(now, now);
        assert_eq!(chances(&service), [0, 0]);
        let outlook = of(&service, &Method::GET, 0).limits.unwrap().outlook;
        assert_eq!(outlook, Outlook::Shed(Shed::PerEndpoint));
        let service = testing::service("limits = { per_endpoint = 1, pending = 1 }", 1..2);
        fill(&service, 0);
        let outlook = of(&service, &Method::GET, 0).limits.unwrap().outlook;
        assert!(matches!(outlook, Outlook::Waits(_)));
    }

    const RETRY: Then = Then::Retry;
    const PASS: Then = Then::PassOn;
    const FAIL: Then = Then::Fail;

    /// What follows each event, in their order; those that are left out are `None`.
    fn thens(service: &Service, shape: RequestShape<'_>) -> [Option<Then>; 9] {
        let found = of_shape(service, shape).follow_ups;
        EVENTS.map(|event| {
            let mut found = found.iter();
            found.find(|one| one.event == event).map(|one| one.then)
        })
    }

    #[test]
    fn what_may_be_repeated_follows_the_method_the_body_and_the_number_of_endpoints() {
        let all = "retry = { attempts = 3, on = [503], try_timeout = \"1s\" }";
        let one_attempt = "retry = { attempts = 1 }";
        let (retry, pass, fail) = (Some(RETRY), Some(PASS), Some(FAIL));
        let whole = [retry, retry, retry, retry, retry, None, retry, fail, fail];
        let once = [retry, retry, retry, fail, pass, None, None, fail, fail];
        // No byte of a body was read where there is no connection.
        let long = [retry, retry, fail, fail, pass, None, None, fail, fail];
        let alone = [fail, fail, retry, retry, pass, None, None, fail, fail];
        // An endpoint that takes no connection was not asked.
        let last = [retry, fail, fail, fail, None, None, None, fail, fail];
        for (lines, ports, method, length, expected) in [
            (all, 1..3, Method::GET, 0, whole),
            (all, 1..3, Method::PUT, 1_000, whole),
            (all, 1..3, Method::POST, 0, once),
            (all, 1..3, Method::PUT, 1 << 20, long),
            (all, 1..2, Method::GET, 0, alone),
            (one_attempt, 1..3, Method::GET, 0, last),
        ] {
            let service = testing::service(lines, ports);
            let shape = RequestShape {
                method: &method,
                length: Some(length),
                is_body_withheld: false,
            };
            let found = thens(&service, shape);
            assert_eq!(found, expected, "{lines} {method} {length}");
        }
    }

    #[test]
    fn a_body_of_unknown_length_is_sent_again_if_it_is_short_and_one_that_is_withheld_always() {
        let service = testing::service("", 1..3);
        let shape = RequestShape {
            method: &Method::PUT,
            length: None,
            is_body_withheld: false,
        };
        let (retry, if_short, fail) = (Some(RETRY), Some(Then::RetryIfShort), Some(FAIL));
        let expected = [
            retry, retry, if_short, if_short, None, None, None, fail, fail,
        ];
        assert_eq!(thens(&service, shape), expected);
        let withheld = RequestShape {
            length: Some(1 << 20),
            is_body_withheld: true,
            ..shape
        };
        let expected = [retry, retry, retry, retry, None, None, None, fail, fail];
        assert_eq!(thens(&service, withheld), expected);
    }

    #[test]
    fn a_status_of_grpc_lets_any_method_be_repeated_and_one_of_http_does_not() {
        let on = "retry = { on = [503, \"grpc-unavailable\"] }";
        let service = testing::service(on, 1..3);
        let found = of(&service, &Method::POST, 0).follow_ups;
        let then = |event| found.iter().find(|one| one.event == event).unwrap().then;
        assert_eq!(then(Event::Unwanted), PASS);
        assert_eq!(then(Event::UnwantedGrpc), RETRY);
    }
}
