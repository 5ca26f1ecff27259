//! A request's attempts: pick, connect, exchange, and again on another endpoint where that is
//! safe. What is safe: a request that was never handed to an endpoint (class A) may always go
//! elsewhere; one that may have been processed (class B) only if its method is idempotent.

use std::{borrow::Cow, sync::Arc, time::Duration};

use http::Method;
use tokio::time::Instant;

use super::{
    Client, RequestBody, Target,
    answer::Record,
    refusal::{Attempt, Refusal},
    request::{Admitted, Head, is_host},
    request_head,
};
use crate::{
    config::HostHeader,
    service::Service,
    upstream::{
        Connection, Failure, FailureKind, Pool, Processed, Reuse, connect,
        http1::{Answer, Exchange, Limits},
    },
};

/// Makes attempts until one brings an answer, or none may follow.
pub(super) async fn answer(
    client: &Client,
    record: &mut Record,
    request: Admitted,
    service: &Service,
    target: &Target,
    prefix_len: usize,
    began: Instant,
) -> Result<Answer<RequestBody>, Refusal> {
    let Admitted {
        mut head,
        mut body,
        idempotent,
    } = request;
    let worker = client.worker.index;
    let policy = service.policy();
    let lane = service.lane(worker);
    let is_head = head.parts.method == Method::HEAD;
    let framing = request_head::framing(&body);
    let strip = target.strip.bytes(prefix_len);
    let total = policy.timeout.total.map(|total| record.arrived + total);
    let limits = Limits {
        response: policy.timeout.response,
        idle: policy.timeout.idle,
        total,
    };
    let mut bytes = Exchange::<RequestBody>::head_buffer();
    let mut now = began;
    let mut past = Past::default();
    let mut reuse = Some(if idempotent { Reuse::Any } else { Reuse::Fresh });
    let turn = service.turn();
    let Some(mut pool) = service.pick(worker, turn, now) else {
        return Err(Refusal::NoEndpoints(Arc::clone(service.name())));
    };
    let out_of_budget = loop {
        let began = now;
        if past.failed.is_empty() || target.host_header == HostHeader::Endpoint {
            let host = host_for(target, service, &head, &pool);
            request_head::write(&mut bytes, client, &head, framing, &host, strip);
        }
        let in_flight = pool.enter();
        let kept = reuse.and_then(|reuse| pool.checkout(now, reuse));
        let was_kept = kept.is_some();
        let connection = match kept {
            Some(connection) => Ok(connection),
            None => {
                let limit = within(policy.timeout.connect, total, now);
                let opened = open(service, worker, &pool, limit, now).await;
                now = Instant::now();
                opened
            }
        };
        let failure;
        (failure, bytes, body) = match connection {
            Err(failure) => (failure, bytes, body),
            Ok(connection) => {
                let exchange =
                    Exchange::new(connection, in_flight, bytes, body, framing, limits, now);
                match exchange.answer(&mut head.parts.headers, is_head).await {
                    Ok(answer) => {
                        record.answered_by(pool.address(), past.failed.len() + 1);
                        return Ok(answer);
                    }
                    Err(unsent) => unsent,
                }
            }
        };
        let may_follow = may_be_repeated(&failure, idempotent);
        // A connection that died makes a new one of the next. One that was kept says only that it
        // was kept for too long, and nothing of how endpoints fare: it costs none of the budget.
        let died = matches!(failure.kind, FailureKind::Closed | FailureKind::Io(_));
        if died {
            reuse = None;
        }
        if let FailureKind::Client(error) = failure.kind {
            return Err(Refusal::BodyBroke(error));
        }
        if matches!(failure.kind, FailureKind::Handshake(_)) {
            // It may have come to nothing after our side of it was over.
            service.connected(worker, &pool, false, began);
        }
        past.note(pool, failure, began);
        now = Instant::now();
        // Where there is no other: it may have died of idleness, and a new connection to the same
        // endpoint may do.
        let again = past.last_unless_removed().filter(|_| died);
        let over = !may_follow
            || past.asked >= policy.retry.attempts
            || total.is_some_and(|total| now >= total)
            || !body.rewind()
            // Nothing is paid where nobody is left.
            || (again.is_none() && !service.has_other(worker, &past.tried));
        if over {
            break false;
        }
        let is_free = died && was_kept;
        if !is_free && !lane.budget.withdraw(lane.requests.value(), now) {
            lane.budget_refused.add_one();
            break true;
        }
        let next = service.pick_other(worker, turn, &past.tried, now).or(again);
        let Some(next) = next else { break false };
        lane.retries.add_one();
        pool = next;
    };
    Err(Refusal::Failed {
        service: Arc::clone(service.name()),
        attempts: past.failed,
        out_of_budget,
    })
}

/// A limit, but no more than what is left of the total.
fn within(limit: Duration, total: Option<Instant>, now: Instant) -> Duration {
    total.map_or(limit, |total| {
        limit.min(total.saturating_duration_since(now))
    })
}

/// The attempts that failed.
#[derive(Default)]
struct Past {
    tried: Vec<Arc<Pool>>,
    failed: Vec<Attempt>,
    /// How many endpoints were asked. Who takes no connection was asked nothing: where many leave
    /// at once, several in a row may be gone before the registry has said so. What bounds those
    /// is the budget, and that each is tried once.
    asked: u32,
}

impl Past {
    fn note(&mut self, pool: Arc<Pool>, failure: Failure, began: Instant) {
        pool.failures.add_one();
        let unasked = matches!(
            failure.kind,
            FailureKind::Connect(_) | FailureKind::Handshake(_) | FailureKind::Removed
        );
        if !unasked {
            self.asked += 1;
        }
        self.failed.push(Attempt {
            endpoint: pool.address().to_string(),
            failure,
            took: began.elapsed(),
        });
        self.tried.push(pool);
    }

    fn last_unless_removed(&self) -> Option<Arc<Pool>> {
        self.tried.last().filter(|pool| !pool.is_retired()).cloned()
    }
}

/// A new connection.
async fn open(
    service: &Service,
    worker: usize,
    pool: &Arc<Pool>,
    limit: Duration,
    began: Instant,
) -> Result<Connection, Failure> {
    let opened = connect(pool, limit).await;
    service.connected(worker, pool, opened.is_ok(), began);
    // While it connected the endpoint may have been removed, which is when endpoints close.
    if pool.is_retired() {
        return Err(Failure {
            kind: FailureKind::Removed,
            processed: Processed::Never,
        });
    }
    opened
}

fn may_be_repeated(failure: &Failure, idempotent: bool) -> bool {
    match (failure.processed, &failure.kind) {
        (Processed::Never, _) => true,
        (Processed::Perhaps, FailureKind::Closed | FailureKind::Io(_)) => idempotent,
        (Processed::Perhaps | Processed::Begun, _) => false,
    }
}

/// The `Host` that the endpoint sees: its address where a client of HTTP/1.0 sent none, or where
/// the service's name can be no host.
fn host_for<'a>(
    target: &Target,
    service: &'a Service,
    head: &'a Head,
    pool: &Pool,
) -> Cow<'a, str> {
    match (target.host_header, head.host()) {
        (HostHeader::Client, Some(host)) => host.into(),
        (HostHeader::Name, _) if is_host(service.name().as_bytes()) => (&**service.name()).into(),
        _ => pool.address().to_string().into(),
    }
}
