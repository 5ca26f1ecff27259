//! What would become of a request that is not made: which endpoint would have it, and what would follow
//! each way in which an attempt may go. Asks what a call asks, and changes nothing. Knows nothing of how
//! it is shown.

use std::sync::Arc;

use http::Method;
use tokio::time::Instant;

use super::{
    judge::{Facts, Next, Others, Outcome, judge},
    queue::{LimitsStatus, Room},
    replay,
};
use crate::{
    service::{
        CallPolicy, EndpointState, EndpointStatus, RequestInfo, Service, ServiceStatus, View,
    },
    upstream::Processed,
};

/// What would become of a request.
#[derive(Debug)]
pub struct Prospect {
    /// The service's endpoints, in the order of their chances.
    pub endpoints: Vec<EndpointProspect>,
    /// What would follow its first attempt, by how that may go.
    pub follow_ups: Vec<FollowUp>,
    /// Retries that the budget would grant now.
    pub retries_left: u64,
    /// How many requests the service works on; `None` where there is no limit.
    pub limits: Option<LimitsStatus>,
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
    /// The connection ends before the endpoint can have the request.
    DiedUnsent,
    /// The connection ends without a byte of an answer.
    DiedUnanswered,
    /// The answer's status stands in `retry.on`.
    Unwanted,
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
    /// The answer is passed on.
    PassOn,
    /// The request fails.
    Fail,
    /// There is no endpoint: the service's fallback is called, if it has one.
    Fallback,
}

/// What would become of a request with this method, whose body has this many bytes; `None` where that
/// shows only at its end.
pub fn prospect(
    service: &Service,
    policy: &CallPolicy<'_>,
    asked: &dyn RequestInfo,
    method: &Method,
    length: Option<u64>,
    now: Instant,
) -> Prospect {
    Prospect {
        endpoints: endpoints(service, policy.view, asked, now),
        follow_ups: follow_ups(count_of(service, policy.view), policy, method, length),
        retries_left: service.retries_left(now),
        limits: service.limits().map(|limits| limits.status()),
    }
}

fn endpoints(
    service: &Service,
    view: &View,
    asked: &dyn RequestInfo,
    now: Instant,
) -> Vec<EndpointProspect> {
    let room = service.limits().map(|limits| limits.room());
    let chances = view.chances(asked, room.unwrap_or(Room::anywhere()), now);
    let chance_of = |one: &EndpointStatus| {
        let mut chances = chances.iter();
        let found = chances
            .find(|(id, _)| *id.instance == *one.instance && id.address.to_string() == one.address);
        found.map_or(0.0, |(_, chance)| *chance)
    };
    let listed = ServiceStatus::of(service).endpoints.into_iter();
    let mut endpoints: Vec<_> = listed
        .map(|one| EndpointProspect {
            chance: chance_of(&one),
            why: why_not(view, &one),
            instance: one.instance,
            address: one.address,
            state: one.state,
        })
        .collect();
    // Stable: those with the same chance stay in the order of their identities.
    endpoints.sort_by(|a, b| b.chance.total_cmp(&a.chance));
    endpoints
}

/// What stands in the way of an endpoint.
fn why_not(view: &View, one: &EndpointStatus) -> Option<String> {
    let until = |seconds: f64| match seconds {
        0.0 => "the next request tries it".to_owned(),
        seconds => format!("tried again in {seconds:.1} s"),
    };
    let why = match one.state {
        EndpointState::Draining => "it was removed".to_owned(),
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
            return not_wanted(view, one);
        }
    };
    Some(why)
}

/// What the route wants and an endpoint does not have.
fn not_wanted(view: &View, one: &EndpointStatus) -> Option<String> {
    let snapshot = view.snapshot();
    let mut wanted = snapshot.endpoints.iter();
    let is_wanted = wanted.any(|endpoint| {
        let id = endpoint.id();
        *id.instance == *one.instance && id.address.to_string() == one.address
    });
    let subset = view.subset().filter(|_| !is_wanted)?;
    Some(format!("the route wants {subset}"))
}

/// How many endpoints can be picked. Of a service that was not read there may be any number.
fn count_of(service: &Service, view: &View) -> usize {
    match service.is_read() {
        true => view.snapshot().endpoints.len(),
        false => usize::MAX,
    }
}

fn follow_ups(
    count: usize,
    policy: &CallPolicy<'_>,
    method: &Method,
    length: Option<u64>,
) -> Vec<FollowUp> {
    let retry = &policy.retry;
    let died = |processed| Outcome::Died {
        processed,
        was_kept: false,
    };
    let failed = |processed| Outcome::Failed { processed };
    let outcomes = [
        (Event::NoConnection, Some(failed(Processed::Never))),
        (Event::DiedUnsent, Some(died(Processed::Never))),
        (Event::DiedUnanswered, Some(died(Processed::Perhaps))),
        (
            Event::Unwanted,
            (!retry.on.is_empty()).then_some(Outcome::Answered { in_retry_on: true }),
        ),
        (Event::TryTimeout, retry.try_timeout.map(|_| Outcome::Late)),
        (Event::Timeout, Some(failed(Processed::Perhaps))),
        (Event::BrokeOff, Some(died(Processed::Begun))),
    ];
    let follow_up = |(event, outcome): (Event, Option<Outcome>)| {
        let outcome = outcome?;
        let next = judge(&Facts {
            outcome,
            is_idempotent: retry.methods.contains(method),
            is_last: retry.attempts <= 1,
            is_over: false,
            // One whose length is not known is kept as far as it comes.
            is_replayable: length.is_none_or(|length| length <= replay::LIMIT as u64),
            others: match (count, outcome) {
                (0, _) => Others::Gone,
                (1, Outcome::Died { .. }) => Others::Last,
                (1, _) => Others::None,
                _ => Others::Untried,
            },
        });
        let then = match next {
            Next::Retry { .. } => Then::Retry,
            Next::Done => Then::PassOn,
            Next::GiveUp => Then::Fail,
            Next::NoEndpoints => Then::Fallback,
        };
        Some(FollowUp { event, then })
    };
    outcomes.into_iter().filter_map(follow_up).collect()
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use http::{HeaderMap, Uri};

    use super::*;
    use crate::{
        config::Overrides,
        service::testing::{self, line},
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
        let asked = Asked(HeaderMap::new(), Uri::from_static("/"));
        let policy = CallPolicy::of(service, None, Overrides::NONE).unwrap();
        prospect(
            service,
            &policy,
            &asked,
            method,
            Some(length),
            Instant::now(),
        )
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
        let service = testing::service("", 1..5);
        assert_eq!(chances(&service), [25, 25, 25, 25]);
        let turn = || {
            let tally = Default::default();
            let key = service.main().turn(None, &tally, Instant::now());
            let picked = service.main().pick(0, key, &tally, Instant::now());
            picked.unwrap().pool().address().clone()
        };
        let mut walked = vec![turn()];
        for _ in 0..3 {
            chances(&service);
            walked.push(turn());
        }
        walked.sort_by_key(ToString::to_string);
        walked.dedup();
        assert_eq!(walked.len(), 4);
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

    #[test]
    fn a_full_endpoint_has_no_chance() {
        let service = testing::service("limits = { per_endpoint = 1 }", 1..3);
        let seats = line(&service, 0);
        let seats = seats.health().seats();
        seats.store(1, std::sync::atomic::Ordering::SeqCst);
        assert_eq!(chances(&service), [0, 100]);
    }

    #[test]
    fn what_may_be_repeated_follows_the_method_the_body_and_the_number_of_endpoints() {
        let (retry, pass, fail) = (Then::Retry, Then::PassOn, Then::Fail);
        let lines = "retry = { attempts = 3, on = [503], try_timeout = \"1s\" }";
        let whole = [retry, retry, retry, retry, retry, fail, fail];
        for (lines, ports, method, length, expected) in [
            (lines, 1..3, Method::GET, 0, whole),
            (lines, 1..3, Method::PUT, 1_000, whole),
            (
                lines,
                1..3,
                Method::POST,
                0,
                [retry, retry, fail, pass, fail, fail, fail],
            ),
            (
                lines,
                1..3,
                Method::PUT,
                1 << 20,
                [fail, fail, fail, pass, fail, fail, fail],
            ),
            (
                lines,
                1..2,
                Method::GET,
                0,
                [fail, retry, retry, pass, fail, fail, fail],
            ),
        ] {
            let service = testing::service(lines, ports);
            let found = of(&service, &method, length).follow_ups;
            let then: Vec<_> = found.iter().map(|one| one.then).collect();
            assert_eq!(then, expected, "{lines} {method} {length}");
        }
        let service = testing::service("", 1..3);
        let found = of(&service, &Method::GET, 0).follow_ups;
        let named = |event| found.iter().any(|one| one.event == event);
        assert!(!named(Event::Unwanted) && !named(Event::TryTimeout));
        let service = testing::service("retry = { attempts = 1 }", 1..3);
        let found = of(&service, &Method::GET, 0).follow_ups;
        assert!(found.iter().all(|one| one.then == fail));
    }
}
