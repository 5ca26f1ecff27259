//! A request's attempts: pick, connect, exchange, and again on another endpoint where that is
//! safe. What is safe: a request that was never handed to an endpoint (class A) may always go
//! elsewhere; one that may have been processed (class B) only if its method is idempotent. Knows
//! nothing of who asks, or of what a head says but its method.

use std::{error::Error as StdError, fmt, sync::Arc, time::Duration};

use http::{HeaderMap, Method, header};
use tokio::time::Instant;

use super::{Asked, Replay, Service};
use crate::{
    instance::Address,
    upstream::{
        Connection, Failure, FailureKind, Pool, Processed, Reuse, connect,
        http1::{self, Exchange, Framing, Limits},
    },
};

/// A request's head, as it is written for an endpoint.
pub trait Head: Asked {
    /// Its method.
    fn method(&self) -> &Method;

    /// Writes it for this endpoint, with its empty line and with the body framed like this.
    fn write(&self, out: &mut Vec<u8>, framing: Framing, endpoint: &Address);

    /// Whether it says who the endpoint is, and must be written anew for another.
    fn names_endpoint(&self) -> bool;

    /// Its fields: a map whose allocation those of the answer take over.
    fn fields(&mut self) -> &mut HeaderMap;
}

/// An endpoint's answer.
#[derive(Debug)]
pub struct Answered<B> {
    /// The answer.
    pub answer: http1::Answer<B>,
    /// Who gave it.
    pub by: Arc<Pool>,
    /// How many attempts it took.
    pub attempts: usize,
}

/// Why no attempt brought an answer.
#[derive(Debug)]
pub enum Unanswered {
    /// There is nobody to ask.
    NoEndpoints,
    /// Every attempt failed.
    Failed(Attempts),
    /// The request's own body broke off.
    BodyBroke(Box<dyn StdError + Send + Sync>),
}

/// Attempts that failed, and why there was no other.
#[derive(Debug)]
pub struct Attempts {
    /// In their order; at least one.
    pub failed: Vec<Attempt>,
    /// Whether another attempt was wanted, and the retry budget refused it.
    pub out_of_budget: bool,
}

/// An attempt that failed.
#[derive(Debug)]
pub struct Attempt {
    /// Who was called.
    pub endpoint: Address,
    /// How it failed.
    pub failure: Failure,
    /// For how long it was tried.
    pub took: Duration,
}

impl Service {
    /// Makes attempts until one brings an answer, or none may follow. Counts on this worker's
    /// lane, which has the request counted already; all must be over at `total`.
    ///
    /// # Errors
    /// Why nobody has answered.
    pub async fn call<B: Replay>(
        &self,
        worker: usize,
        head: &mut impl Head,
        mut body: B,
        total: Option<Instant>,
        mut now: Instant,
    ) -> Result<Answered<B>, Unanswered> {
        let policy = self.policy();
        let lane = self.lane(worker);
        let idempotent = is_idempotent(head.method());
        let to_head_request = *head.method() == Method::HEAD;
        let framing = Framing::of(&body);
        let limits = Limits {
            response: policy.timeout.response,
            idle: policy.timeout.idle,
            total,
        };
        let mut bytes = Exchange::<B>::head_buffer();
        let mut past = Past::default();
        let mut reuse = Some(if idempotent { Reuse::Any } else { Reuse::Fresh });
        let turn = self.turn(worker, Some(&*head));
        let Some(mut pool) = self.pick(worker, turn, now) else {
            return Err(Unanswered::NoEndpoints);
        };
        let out_of_budget = loop {
            let began = now;
            if past.failed.is_empty() || head.names_endpoint() {
                bytes.clear();
                head.write(&mut bytes, framing, pool.address());
            }
            let in_flight = pool.enter();
            let kept = reuse.and_then(|reuse| pool.checkout(now, reuse));
            let was_kept = kept.is_some();
            let connection = match kept {
                Some(connection) => Ok(connection),
                None => {
                    let limit = within(policy.timeout.connect, total, now);
                    let opened = self.open(worker, &pool, limit, now).await;
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
                    match exchange.answer(head.fields(), to_head_request).await {
                        Ok(mut answer) => {
                            pool.took(began);
                            if let Some(cookie) = self.cookie(worker, turn, &pool) {
                                answer.head.headers.append(header::SET_COOKIE, cookie);
                            }
                            return Ok(Answered {
                                answer,
                                by: pool,
                                attempts: past.failed.len() + 1,
                            });
                        }
                        Err(unsent) => unsent,
                    }
                }
            };
            let may_follow = may_be_repeated(&failure, idempotent);
            // A connection that died makes a new one of the next. One that was kept says only that
            // it was kept for too long, and nothing of how endpoints fare: it costs none of the
            // budget.
            let died = matches!(failure.kind, FailureKind::Closed | FailureKind::Io(_));
            if died {
                reuse = None;
            }
            if let FailureKind::Client(error) = failure.kind {
                return Err(Unanswered::BodyBroke(error));
            }
            if matches!(failure.kind, FailureKind::Handshake(_)) {
                // It may have come to nothing after our side of it was over.
                self.connected(worker, &pool, false, began);
            }
            if matches!(
                failure.kind,
                FailureKind::Timeout | FailureKind::ConnectTimeout
            ) {
                pool.took(began);
            }
            past.note(pool, failure, began);
            now = Instant::now();
            // Where there is no other: it may have died of idleness, and a new connection to the
            // same endpoint may do.
            let again = past.last_unless_removed().filter(|_| died);
            let over = !may_follow
                || past.asked >= policy.retry.attempts
                || total.is_some_and(|total| now >= total)
                || !body.rewind()
                // Nothing is paid where nobody is left.
                || (again.is_none() && !self.has_other(worker, &past.tried));
            if over {
                break false;
            }
            let is_free = died && was_kept;
            if !is_free && !lane.budget.withdraw(lane.requests.value(), now) {
                lane.budget_refused.add_one();
                break true;
            }
            let next = self.pick_other(worker, turn, &past.tried, now).or(again);
            let Some(next) = next else { break false };
            lane.retries.add_one();
            pool = next;
        };
        Err(Unanswered::Failed(Attempts {
            failed: past.failed,
            out_of_budget,
        }))
    }

    /// A new connection.
    async fn open(
        &self,
        worker: usize,
        pool: &Arc<Pool>,
        limit: Duration,
        began: Instant,
    ) -> Result<Connection, Failure> {
        let opened = connect(pool, limit).await;
        self.connected(worker, pool, opened.is_ok(), began);
        // While it connected the endpoint may have been removed, which is when endpoints close.
        if pool.is_retired() {
            return Err(Failure {
                kind: FailureKind::Removed,
                processed: Processed::Never,
            });
        }
        opened
    }
}

/// Whether it may be sent again though it may have been processed (RFC 9110 9.2.2).
fn is_idempotent(method: &Method) -> bool {
    matches!(
        *method,
        Method::GET | Method::HEAD | Method::OPTIONS | Method::PUT | Method::DELETE
    )
}

/// A limit, but no more than what is left of the total.
fn within(limit: Duration, total: Option<Instant>, now: Instant) -> Duration {
    total.map_or(limit, |total| {
        limit.min(total.saturating_duration_since(now))
    })
}

fn may_be_repeated(failure: &Failure, idempotent: bool) -> bool {
    match (failure.processed, &failure.kind) {
        (Processed::Never, _) => true,
        (Processed::Perhaps, FailureKind::Closed | FailureKind::Io(_)) => idempotent,
        (Processed::Perhaps | Processed::Begun, _) => false,
    }
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
            endpoint: pool.address().clone(),
            failure,
            took: began.elapsed(),
        });
        self.tried.push(pool);
    }

    fn last_unless_removed(&self) -> Option<Arc<Pool>> {
        self.tried.last().filter(|pool| !pool.is_retired()).cloned()
    }
}

impl fmt::Display for Attempts {
    /// Each with who was called, in a line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, attempt) in self.failed.iter().enumerate() {
            let Attempt {
                endpoint,
                failure,
                took,
            } = attempt;
            write!(
                f,
                "{}{endpoint}: {failure}, processed: {:?}, after {:.1} ms",
                if n == 0 { "" } else { "; " },
                failure.processed,
                took.as_secs_f64() * 1e3
            )?;
        }
        Ok(())
    }
}
