//! A request's attempts: pick, connect, exchange, and again on another endpoint where that is
//! safe. What is safe: a request that was never handed to an endpoint (class A) may always go
//! elsewhere; one that may have been processed (class B) only if its method is idempotent, and so
//! one that was answered with a status that stands in `retry.on` (class C), or not within
//! `retry.try_timeout` (class D). Knows nothing of who asks, or of what a head says but its method.

pub(super) mod attempts;
pub(super) mod budget;
pub(super) mod choose;
pub(super) mod outcome;
pub(super) mod queue;
pub(super) mod replay;
pub(super) mod tried;

use std::{error::Error as StdError, sync::Arc, time::Duration};

use http::{HeaderMap, header};
use tokio::time::Instant;

use super::{
    Attempts, CallPolicy, Keep, Replay, RequestInfo, Service, Shed, WorkerEndpoint, within,
};
use crate::upstream::{
    Answer, Connection, Exchange, Failure, FailureKind, Head, HeadLimits, Limits, Processed,
    Request, Reuse, connect,
};
use attempts::AttemptLog;
use choose::next;
use queue::Room;

/// An endpoint's answer.
#[derive(Debug)]
pub struct CallAnswer<B> {
    /// The answer.
    pub answer: Answer<B>,
    /// Who gave it.
    pub by: Arc<WorkerEndpoint>,
    /// How many attempts it took.
    pub attempts: usize,
}

/// Why no attempt brought an answer.
#[derive(Debug)]
pub enum CallError<B> {
    /// There is no endpoint to ask, or none is left: the body comes back, to be sent elsewhere.
    NoEndpoints(B),
    /// There is no room for it.
    Shed(Shed),
    /// Every attempt failed.
    Failed(Attempts),
    /// The request's own body broke off.
    BodyBroke(Box<dyn StdError + Send + Sync>),
}

impl Service {
    /// Makes attempts until one brings an answer, or none may follow. Counts on this worker's
    /// lane, which has the request counted already; all must be over at `total`. The terms are
    /// this service's.
    ///
    /// # Errors
    /// Why no endpoint has answered.
    pub async fn call<B: Replay>(
        &self,
        worker: usize,
        head: &mut (impl Head + RequestInfo),
        body: B,
        terms: &CallPolicy<'_>,
        total: Option<Instant>,
        mut now: Instant,
    ) -> Result<CallAnswer<B>, CallError<B>> {
        let CallPolicy {
            view,
            retry,
            timeout,
        } = terms;
        let lane = self.lane(worker);
        let idempotent = retry.methods.contains(head.method());
        let mut request = Request::new(head, body);
        let may_be_replayed = |length| length <= replay::LIMIT as u64;
        let may_be_second = idempotent && request.length().is_some_and(may_be_replayed);
        let try_timeout = retry.try_timeout.filter(|_| may_be_second);
        let mut limits = Limits {
            response: timeout.response,
            attempt: None,
            idle: timeout.idle,
            total,
            head: HeadLimits {
                fields: self.policy().answer_limits.headers,
                bytes: self.policy().answer_limits.header_bytes,
            },
        };
        let mut past = AttemptLog::default();
        let mut may_reuse = true;
        let turn = view.turn(Some(&*head), &lane.tally, now);
        let (mut seat, mut line) = match self.seat(worker, view, turn, total, now).await {
            Ok(Some(seated)) => seated,
            Ok(None) => return Err(CallError::NoEndpoints(request.into_body())),
            Err(shed) => return Err(CallError::Shed(shed)),
        };
        if seat.is_some() {
            // It may have waited.
            now = Instant::now();
        }
        let out_of_budget = loop {
            let began = now;
            let is_last = past.asked + 1 >= retry.attempts;
            limits.attempt = try_timeout.filter(|_| {
                !is_last && view.has_other(&past.tried, Some(&line)) && lane.retries_left(now) > 0
            });
            let pool = line.pool();
            let in_flight = pool.enter();
            let reuse = if may_be_second && !is_last {
                Reuse::Any
            } else {
                Reuse::Fresh
            };
            let kept = if may_reuse {
                pool.checkout(now, reuse)
            } else {
                None
            };
            let was_kept = kept.is_some();
            let connection = match kept {
                Some(connection) => Ok(connection),
                None => {
                    let limit = within(timeout.connect, total, now);
                    let opened = Box::pin(open(&line, limit)).await;
                    now = Instant::now();
                    opened
                }
            };
            // Who is asked next, where that was decided before this answer was given up.
            let mut follows = None;
            let failure = match connection {
                Err(failure) => {
                    // It is not busy with a request that may wait for another now.
                    drop(in_flight);
                    failure
                }
                Ok(connection) => {
                    request.body().keep(if idempotent && !is_last {
                        Keep::UntilAnswered
                    } else {
                        Keep::UntilBegun
                    });
                    let mut exchange =
                        Exchange::new(connection, in_flight, request, head, limits, now);
                    // A request that may follow an answer needs its own fields then.
                    let mut fresh = HeaderMap::new();
                    let recycled = if retry.on.is_empty() {
                        head.spare_map()
                    } else {
                        &mut fresh
                    };
                    let failure = match exchange.opening(recycled).await {
                        Ok(opening) => {
                            let head = &opening.head;
                            let is_fault =
                                self.note_head(worker, view, &line, head, retry.on, began);
                            let may_follow = idempotent
                                && retry.on.contains(head.status)
                                && !is_last
                                && exchange.body().is_replayable()
                                && total.is_none_or(|total| Instant::now() < total)
                                && view.has_other(&past.tried, Some(&line))
                                && lane.withdraw(Instant::now());
                            if may_follow {
                                let tried = past.tried.with(&line);
                                let tally = &lane.tally;
                                let other = |room: Room<'_>, now| {
                                    view.pick_with_room(worker, turn, &tried, room, tally, now)
                                };
                                // Where all others are full this answer is as good as any.
                                let other = match &mut seat {
                                    None => other(Room::anywhere(), Instant::now()),
                                    Some(seat) => seat.sit(other),
                                };
                                follows = other.unwrap_or_default();
                                if follows.is_none() {
                                    lane.budget.put_back();
                                }
                            }
                            if follows.is_none() {
                                let mut answer = exchange.pass_on(opening);
                                line.pool().took(began);
                                let body = &mut answer.body;
                                self.note_answer(worker, &line, body, is_fault, seat, began);
                                view.note_zone(&line, &lane.tally);
                                let cookie = view.cookie(worker, turn, &line, &lane.tally);
                                if let Some(cookie) = cookie {
                                    answer.head.headers.append(header::SET_COOKIE, cookie);
                                }
                                return Ok(CallAnswer {
                                    answer,
                                    by: line,
                                    attempts: past.failed.len() + 1,
                                });
                            }
                            Failure {
                                kind: FailureKind::Unwanted(head.status),
                                processed: Processed::Begun,
                            }
                        }
                        Err(failure) => failure,
                    };
                    request = exchange.give_up();
                    failure
                }
            };
            let may_follow = may_be_repeated(&failure, idempotent);
            // A connection that died makes a new one of the next. One that was kept says only that
            // it was kept for too long, and nothing of how endpoints fare: it costs none of the
            // budget.
            let died = matches!(failure.kind, FailureKind::Closed | FailureKind::Io(_));
            if died {
                may_reuse = false;
            }
            if let FailureKind::Client(error) = failure.kind {
                return Err(CallError::BodyBroke(error));
            }
            now = Instant::now();
            let is_over = total.is_some_and(|total| now >= total);
            if is_late(&failure.kind) || matches!(failure.kind, FailureKind::Unwanted(_)) {
                line.pool().took(began);
            }
            // The request's own time was at its end, which says nothing of the endpoint.
            if !(is_over && is_late(&failure.kind)) {
                self.note_failure(worker, view, &line, &failure, was_kept, began);
            }
            past.note(line, failure, began);
            if let Some(next) = follows {
                if !request.body().rewind() {
                    break false;
                }
                lane.retries.add_one();
                line = next;
                continue;
            }
            // Where there is no other: it may have died of idleness, and a new connection to the
            // same endpoint may do.
            let again = past.last_unless_removed().filter(|_| died);
            let over =
                !may_follow || past.asked >= retry.attempts || is_over || !request.body().rewind();
            if over {
                break false;
            }
            if again.is_none() && !view.has_other(&past.tried, None) {
                if view.is_empty() {
                    // The endpoint that was asked has left, and was the last.
                    return Err(CallError::NoEndpoints(request.into_body()));
                }
                // Nothing is paid where no endpoint is left.
                break false;
            }
            let is_free = died && was_kept;
            if !is_free && !lane.withdraw(now) {
                break true;
            }
            let other = |room: Room<'_>, now| {
                let other = view.pick_with_room(worker, turn, &past.tried, room, &lane.tally, now);
                or_again(other, again.as_ref(), room)
            };
            let next = Box::pin(next(&mut seat, view, other, total, now)).await;
            let Some(next) = next else {
                if !is_free {
                    lane.budget.put_back();
                }
                if view.is_empty() {
                    return Err(CallError::NoEndpoints(request.into_body()));
                }
                break false;
            };
            if seat.is_some() {
                now = Instant::now();
            }
            lane.retries.add_one();
            line = next;
        };
        Err(CallError::Failed(Attempts {
            failed: past.failed,
            out_of_budget,
        }))
    }
}

/// Another endpoint, else the last again where it may be, if that one has room.
fn or_again(
    other: Result<Option<Arc<WorkerEndpoint>>, Shed>,
    again: Option<&Arc<WorkerEndpoint>>,
    room: Room<'_>,
) -> Result<Option<Arc<WorkerEndpoint>>, Shed> {
    match (other, again) {
        (Ok(Some(other)), _) => Ok(Some(other)),
        (_, Some(again)) if room.is_at(again.life()) => Ok(Some(Arc::clone(again))),
        (_, Some(_)) => Err(Shed::PerEndpoint),
        (other, None) => other,
    }
}

/// A new connection.
async fn open(line: &WorkerEndpoint, limit: Duration) -> Result<Connection, Failure> {
    let opened = connect(line.pool(), limit).await;
    if opened.is_ok() {
        line.connected();
    }
    // While it connected the endpoint may have been removed, which is when endpoints close.
    if line.pool().is_retired() {
        return Err(Failure {
            kind: FailureKind::Removed,
            processed: Processed::Never,
        });
    }
    opened
}

/// Whether the endpoint is slower than the time that this took.
fn is_late(kind: &FailureKind) -> bool {
    matches!(
        kind,
        FailureKind::Timeout | FailureKind::TryTimeout | FailureKind::ConnectTimeout
    )
}

fn may_be_repeated(failure: &Failure, idempotent: bool) -> bool {
    match (failure.processed, &failure.kind) {
        (Processed::Never, _) => true,
        (Processed::Perhaps, FailureKind::Closed | FailureKind::Io(_)) => idempotent,
        (_, FailureKind::TryTimeout) => idempotent,
        (Processed::Perhaps | Processed::Begun, _) => false,
    }
}
