//! A request's attempts: pick, connect, exchange, and again on another endpoint where that is
//! safe. What is safe: a request that was never handed to an endpoint (class A) may always go
//! elsewhere; one that may have been processed (class B) only if its method is idempotent.

use std::{borrow::Cow, sync::Arc};

use http::Method;
use tokio::time::Instant;

use super::{
    Client, RequestBody, Target,
    answer::Record,
    refusal::{Attempt, Refusal},
    request::{Admitted, Head},
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
    let strip = if target.strip_prefix { prefix_len } else { 0 };
    let total = policy.timeout.total.map(|total| record.arrived + total);
    let limits = Limits {
        response: policy.timeout.response,
        idle: policy.timeout.idle,
        total,
    };
    let mut bytes = Exchange::<RequestBody>::head_buffer();
    let mut now = record.arrived;
    let mut tried: Vec<Arc<Pool>> = Vec::new();
    let mut failed: Vec<Attempt> = Vec::new();
    let mut made = 0;
    let mut reuse = Some(if idempotent { Reuse::Any } else { Reuse::Fresh });
    let out_of_budget = loop {
        let Some(pool) = next(service, worker, &tried, &failed, now) else {
            break false;
        };
        if failed.is_empty() || target.host_header == HostHeader::Endpoint {
            let host = host_for(target, service, &head, &pool);
            request_head::write(&mut bytes, client, &head, framing, &host, strip);
        }
        let in_flight = pool.enter();
        let kept = reuse.and_then(|reuse| pool.checkout(now, reuse));
        let was_kept = kept.is_some();
        let opened = match kept {
            Some(connection) => Ok(connection),
            None => open(service, worker, &pool).await,
        };
        let (failure, unsent) = match opened {
            Err(failure) => (failure, (bytes, body)),
            Ok(connection) => {
                let exchange =
                    Exchange::new(connection, in_flight, bytes, body, framing, limits, now);
                match exchange.answer(&mut head.parts.headers, is_head).await {
                    Ok(answer) => {
                        record.answered_by(pool.address(), failed.len() + 1);
                        return Ok(answer);
                    }
                    Err((failure, bytes, body)) => (failure, (bytes, body)),
                }
            }
        };
        (bytes, body) = unsent;
        let may_follow = may_be_repeated(&failure, idempotent);
        // A connection that died makes a new one of the next. One that was kept says only that it
        // was kept for too long, and nothing of how endpoints fare: it costs none of the budget.
        let died = failure.processed == Processed::Perhaps;
        let was_stale = died && was_kept;
        if died {
            reuse = None;
        }
        if !matches!(failure.kind, FailureKind::Client(_)) {
            pool.failures.add_one();
        }
        // Who takes no connection was asked nothing. Where many leave at once, several in a row
        // may be gone before the registry has said so; what bounds these is the budget.
        if !matches!(failure.kind, FailureKind::Connect(_) | FailureKind::Removed) {
            made += 1;
        }
        failed.push(Attempt {
            endpoint: pool.address().to_string(),
            failure,
            took: now.elapsed(),
        });
        now = Instant::now();
        tried.push(pool);
        if !may_follow
            || made >= policy.retry.attempts
            || total.is_some_and(|total| now >= total)
            || !body.rewind()
        {
            break false;
        }
        if !was_stale && !lane.budget.withdraw(lane.requests.value(), now) {
            lane.budget_refused.add_one();
            break true;
        }
        lane.retries.add_one();
    };
    let service = Arc::clone(service.name());
    Err(if failed.is_empty() {
        Refusal::NoEndpoints(service)
    } else {
        Refusal::Failed {
            service,
            attempts: failed,
            out_of_budget,
        }
    })
}

/// Whom to try next.
fn next(
    service: &Service,
    worker: usize,
    tried: &[Arc<Pool>],
    failed: &[Attempt],
    now: Instant,
) -> Option<Arc<Pool>> {
    if let Some(pool) = service.pick(worker, tried, now) {
        return Some(pool);
    }
    // There is no other. A connection that died may have died of idleness: a new one to the same
    // endpoint may do; one that could not be opened will not.
    let last = failed.last()?;
    let pool = tried.last()?;
    (last.failure.processed == Processed::Perhaps && !pool.is_retired()).then(|| Arc::clone(pool))
}

/// A new connection.
async fn open(service: &Service, worker: usize, pool: &Arc<Pool>) -> Result<Connection, Failure> {
    let opened = connect(pool, service.policy().timeout.connect).await;
    service.connected(worker, pool, opened.is_ok(), Instant::now());
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
        (_, FailureKind::Client(_)) => false,
        (Processed::Never, _) => true,
        (Processed::Perhaps, FailureKind::Closed | FailureKind::Io(_)) => idempotent,
        (Processed::Perhaps | Processed::Begun, _) => false,
    }
}

/// The `Host` that the endpoint sees. A client of HTTP/1.0 may have sent none.
fn host_for<'a>(
    target: &Target,
    service: &'a Service,
    head: &'a Head,
    pool: &Pool,
) -> Cow<'a, str> {
    match (target.host_header, head.host()) {
        (HostHeader::Client, Some(host)) => host.into(),
        (HostHeader::Name, _) => (&**service.name()).into(),
        (HostHeader::Client | HostHeader::Endpoint, _) => pool.address().to_string().into(),
    }
}
