//! A request's attempts: pick, connect, exchange, and again on another endpoint where that is
//! safe. What is safe: a request that was never handed to an endpoint (class A) may always go
//! elsewhere; one that may have been processed (class B) only if its method is idempotent, and so
//! one that was answered with a status that stands in `retry.on` (class C), or not within
//! `retry.try_timeout` (class D). Knows nothing of who asks, or of what a head says but its method.

pub(super) mod attempts;
pub(super) mod budget;
pub(super) mod choose;
pub(super) mod dispatch;
mod judge;
pub(super) mod outcome;
pub(super) mod prospect;
pub(super) mod queue;
pub(super) mod replay;
mod rules;
pub(super) mod tried;

use std::{error::Error as StdError, sync::Arc};

use http::{HeaderMap, header};
use tokio::time::Instant;

use super::{
    Attempts, CallPolicy, Keep, Replay, RequestInfo, ServiceStats, Shed, View, WorkerEndpoint,
};
use crate::{
    proxy_protocol::Opener,
    upstream::{
        AnswerBody, AnswerHead, Connected, Connection, Exchange, Failure, FailureKind, Found, Head,
        HeadLimits, InFlight, Limits, Processed, Request, Reuse, Wanted, connect,
    },
};
use attempts::AttemptLog;
use choose::Chooser;
use judge::{Facts, Next, Others, Outcome, judge};
use outcome::Detector;
use rules::Rules;

/// Where an endpoint's answer is put. Its head has its place there from the start: it is large, and each
/// function on the way would copy it.
#[derive(Debug)]
pub struct AnswerSlot<B> {
    /// The head that came last.
    pub head: AnswerHead,
    /// What it is the head of; `None` before an answer is taken.
    pub answer: Option<CallAnswer<B>>,
}

impl<B> Default for AnswerSlot<B> {
    fn default() -> Self {
        Self {
            head: AnswerHead::default(),
            answer: None,
        }
    }
}

/// An endpoint's answer, behind its head.
#[derive(Debug)]
pub struct CallAnswer<B> {
    /// When its head was there.
    pub at: Instant,
    /// Its body.
    pub body: AnswerBody<B>,
    /// Who gave it.
    pub by: Arc<WorkerEndpoint>,
    /// How many attempts it took.
    pub attempts: usize,
}

/// Why no attempt brought an answer.
#[derive(Debug)]
pub enum CallError {
    /// There is no endpoint to ask, or none is left: the request may be sent elsewhere.
    NoEndpoints,
    /// There is no room for it.
    Shed(Shed),
    /// Every attempt failed.
    Failed(Attempts),
    /// The request's own body broke off.
    BodyBroke(Box<dyn StdError + Send + Sync>),
}

/// Makes attempts until one brings an answer, or none may follow; it is put into `slot`. Counts in the
/// worker's counters of the service, which have the request already; all must be over at `total`.
///
/// # Errors
/// Why no endpoint has answered.
async fn call<B: Replay, H: Head + RequestInfo>(
    detector: Detector<'_>,
    head: &mut H,
    request: &mut Request<B>,
    policy: &CallPolicy<'_>,
    total: Option<Instant>,
    now: Instant,
    slot: &mut AnswerSlot<B>,
) -> Result<(), CallError> {
    request.forget_head();
    let key = policy.view.turn(Some(&*head), &detector.stats.tally, now);
    let mut chooser = Chooser::new(detector, key, total);
    let endpoint = match chooser.first(now).await {
        Ok(Some(endpoint)) => endpoint,
        Ok(None) => return Err(CallError::NoEndpoints),
        Err(shed) => return Err(CallError::Shed(shed)),
    };
    let mut call = Call::new(chooser, policy, head, request.length(), endpoint, now);
    loop {
        let (in_flight, kept) = call.begin();
        let connection = match kept {
            Some(connection) => Ok(connection),
            None => Box::pin(call.open()).await,
        };
        let failure = match connection {
            Err(failure) => {
                // The endpoint is not busy with a request that may wait for another one now.
                drop(in_flight);
                failure
            }
            Ok(connection) => {
                let mut exchange = call.exchange(connection, in_flight, request);
                let failure = match exchange.opening(&mut slot.head, call.spare_map()).await {
                    Ok(opening) if call.takes(&slot.head, exchange.body()) => {
                        let answer = slot.answer.insert(CallAnswer {
                            at: opening.at,
                            body: exchange.pass_on(opening),
                            by: call.endpoint,
                            attempts: call.past.failed.len() + 1,
                        });
                        let (chooser, head) = (&mut call.chooser, &mut slot.head);
                        note_answer(chooser, head, answer, call.is_fault, call.began);
                        return Ok(());
                    }
                    Ok(_) => Failure {
                        kind: unwanted(&slot.head),
                        processed: Processed::Begun,
                    },
                    Err(failure) => failure,
                };
                exchange.give_up(request);
                failure
            }
        };
        Box::pin(call.settle(failure, request)).await?;
    }
}

/// Notes the answer that is passed on, to an attempt that began then, and keeps the request's place until
/// that is over.
fn note_answer<B: Replay>(
    chooser: &mut Chooser<'_>,
    head: &mut AnswerHead,
    CallAnswer { body, by, .. }: &mut CallAnswer<B>,
    is_fault: bool,
    began: Instant,
) {
    let Chooser {
        detector,
        key,
        ref mut seat,
        ..
    } = *chooser;
    let tally = &detector.stats.tally;
    by.pool().took(began);
    detector.note_answer(by, body, is_fault, seat.take(), began);
    detector.view.note_zone(by, tally);
    let cookie = detector.view.cookie(detector.worker, key, by, tally);
    if let Some(cookie) = cookie {
        head.headers.append(header::SET_COOKIE, cookie);
    }
}

/// Why an answer is not passed on.
#[cold]
fn unwanted(head: &AnswerHead) -> FailureKind {
    match head.grpc {
        Some(code) => FailureKind::UnwantedGrpc(code),
        None => FailureKind::Unwanted(head.status),
    }
}

/// A request on its way to one endpoint after the other.
struct Call<'c, H> {
    chooser: Chooser<'c>,
    policy: &'c CallPolicy<'c>,
    head: &'c mut H,
    limits: Limits,
    rules: Rules<'c>,
    /// When a connection died last: it makes a new one of the next.
    died: Option<Instant>,
    past: AttemptLog,
    now: Instant,
    /// The endpoint of this attempt.
    endpoint: Arc<WorkerEndpoint>,
    /// When this attempt began.
    began: Instant,
    /// How this attempt's connection was come by.
    found: Found,
    /// Whether this attempt's answer says that it failed.
    is_fault: bool,
    /// The endpoint that is called next, where that is known before this attempt is over.
    next: Option<Arc<WorkerEndpoint>>,
}

impl<'c, H: Head + RequestInfo> Call<'c, H> {
    fn new(
        chooser: Chooser<'c>,
        policy: &'c CallPolicy<'c>,
        head: &'c mut H,
        length: Option<u64>,
        endpoint: Arc<WorkerEndpoint>,
        now: Instant,
    ) -> Self {
        let answer_limits = &chooser.detector.service.policy().answer_limits;
        Self {
            limits: Limits {
                response: policy.timeout.response,
                attempt: None,
                idle: policy.timeout.idle,
                tunnel: policy.timeout.tunnel,
                total: chooser.by,
                head: HeadLimits {
                    fields: answer_limits.headers,
                    bytes: answer_limits.header_bytes,
                },
            },
            rules: Rules::new(policy.retry, head.method(), length),
            died: None,
            past: AttemptLog::default(),
            now: chooser.now_after_a_wait(now),
            endpoint,
            began: now,
            found: Found::New,
            is_fault: false,
            next: None,
            chooser,
            policy,
            head,
        }
    }

    fn view(&self) -> &'c View {
        self.policy.view
    }

    fn stats(&self) -> &'c ServiceStats {
        self.chooser.detector.stats
    }

    fn is_last(&self) -> bool {
        self.rules.is_last(self.past.asked + 1)
    }

    fn is_over(&self, now: Instant) -> bool {
        self.limits.total.is_some_and(|total| now >= total)
    }

    /// Begins an attempt, over a connection that was kept where one will do.
    fn begin(&mut self) -> (InFlight, Option<Connection>) {
        self.began = self.now;
        self.head.attempt_begins(self.now);
        self.limits.attempt = self.rules.try_timeout(
            self.past.asked,
            || {
                let (tried, this) = (&self.past.tried, Some(&self.endpoint));
                self.view().has_other(tried, this)
            },
            || self.stats().retries_left(self.now),
        );
        let pool = self.endpoint.pool();
        let in_flight = pool.enter();
        let reuse = match self.rules.may_follow(self.past.asked) {
            true => Reuse::Any,
            false => Reuse::Fresh,
        };
        let kept = match self.died {
            None => pool.checkout(self.now, reuse, self.opener()),
            Some(_) => None,
        };
        self.found = kept.as_ref().map_or(Found::New, Connection::found);
        (in_flight, kept)
    }

    /// Whose connection it must be, where the endpoint is told that.
    fn opener(&self) -> Option<Opener> {
        self.endpoint.pool().send_proxy()?;
        Some(self.head.opener())
    }

    /// A new connection, or one that another request has opened meanwhile.
    async fn open(&mut self) -> Result<Connection, Failure> {
        let wanted = Wanted {
            limit: self.policy.timeout.connect,
            total: self.limits.total,
            opener: self.opener(),
            died: self.died,
        };
        let pool = self.endpoint.pool();
        let connected = connect(pool, &wanted).await;
        self.now = Instant::now();
        self.head.has_dialled(self.now);
        if let Ok(Connected { is_new, connection }) = &connected {
            self.found = match is_new {
                true => connection.opened(),
                false => Found::Shared,
            };
            if *is_new {
                self.endpoint.connected();
            }
        }
        // While it connected the endpoint may have been removed, which is when endpoints close.
        if pool.is_retired() {
            return Err(Failure {
                kind: FailureKind::Removed,
                processed: Processed::Never,
            });
        }
        connected.map(|connected| connected.connection)
    }

    fn exchange<B: Replay>(
        &mut self,
        connection: Connection,
        in_flight: InFlight,
        request: &mut Request<B>,
    ) -> Exchange<B> {
        let keep = match self.rules.is_idempotent && !self.is_last() {
            true => Keep::UntilAnswered,
            false => Keep::UntilBegun,
        };
        if let Some(body) = request.body() {
            body.keep(keep);
        }
        Exchange::new(
            connection,
            in_flight,
            request,
            &*self.head,
            self.limits,
            self.now,
        )
    }

    /// The map of the request's fields, which a request that may follow an answer needs itself.
    fn spare_map(&mut self) -> Option<&mut HeaderMap> {
        let is_needed = !self.policy.retry.on.is_empty();
        (!is_needed).then(|| self.head.spare_map())
    }

    /// Notes what the head of an answer says of the endpoint. Returns whether the answer is taken, or
    /// has named the endpoint that is called in its stead.
    fn takes(&mut self, head: &AnswerHead, body: &impl Replay) -> bool {
        let detector = self.chooser.detector;
        let retry_on = &self.policy.retry.on;
        self.is_fault = detector.note_head(&self.endpoint, head, retry_on, self.began);
        if retry_on.holds(head.status, head.grpc) {
            let is_by_grpc = retry_on.holds_grpc(head.grpc);
            self.next = self.instead(body.is_replayable(), is_by_grpc);
        }
        self.next.is_none()
    }

    /// The endpoint that is called in the stead of the one whose answer stands in `retry.on`.
    #[cold]
    fn instead(&mut self, is_replayable: bool, is_by_grpc: bool) -> Option<Arc<WorkerEndpoint>> {
        let now = Instant::now();
        let tried = self.past.tried.with(&self.endpoint);
        let outcome = Outcome::Answered { in_retry_on: true };
        let next = judge(&Facts {
            outcome,
            is_idempotent: self.rules.may_be_repeated(is_by_grpc),
            is_last: self.is_last(),
            is_over: self.is_over(now),
            is_replayable,
            others: match self.view().has_other(&tried, None) {
                true => Others::Untried,
                false => Others::None,
            },
        });
        if !matches!(next, Next::Retry { .. }) || !self.stats().withdraw(now) {
            return None;
        }
        // Where all others are full this answer is as good as any.
        let other = self.chooser.other_at_once(&tried, now);
        if other.is_none() {
            self.stats().budget.put_back();
        }
        other
    }

    /// Notes an attempt that failed, and gets ready for the next one.
    ///
    /// # Errors
    /// Where none follows.
    async fn settle<B: Replay>(
        &mut self,
        failure: Failure,
        request: &mut Request<B>,
    ) -> Result<(), CallError> {
        let outcome = Outcome::of(&failure, self.found);
        self.now = Instant::now();
        if failure.kind.is_of_connection() {
            self.died = Some(self.now);
        }
        if let FailureKind::Client(error) = failure.kind {
            return Err(CallError::BodyBroke(error));
        }
        let is_over = self.is_over(self.now);
        self.note(failure, is_over);
        let is_replayable = request.body().is_some_and(Replay::rewind);
        if let Some(next) = self.next.take().filter(|_| is_replayable) {
            self.retry(next);
            return Ok(());
        }
        let again = self.past.last_unless_removed();
        let again = again.filter(|_| matches!(outcome, Outcome::Died { .. }));
        // One that is drained gets no new requests, and so none for the second time.
        let again = again.filter(|last| self.view().has(last));
        let next = judge(&Facts {
            outcome,
            is_idempotent: self.rules.is_idempotent,
            is_last: self.rules.is_last(self.past.asked),
            is_over,
            is_replayable,
            others: self.others(again.is_some()),
        });
        let is_free = match next {
            Next::Retry { is_free } => is_free,
            Next::NoEndpoints => return Err(CallError::NoEndpoints),
            Next::Done | Next::GiveUp => return Err(self.give_up(false)),
        };
        if !is_free && !self.stats().withdraw(self.now) {
            return Err(self.give_up(true));
        }
        let (tried, again) = (&self.past.tried, again.as_ref());
        if let Some(next) = self.chooser.next(tried, again, self.now).await {
            self.now = self.chooser.now_after_a_wait(self.now);
            self.retry(next);
            return Ok(());
        }
        if !is_free {
            self.stats().budget.put_back();
        }
        match self.view().is_empty() {
            true => Err(CallError::NoEndpoints),
            false => Err(self.give_up(false)),
        }
    }

    /// Notes what an attempt that failed says of its endpoint.
    fn note(&mut self, failure: Failure, is_over: bool) {
        let endpoint = &self.endpoint;
        let is_late = matches!(
            failure.kind,
            FailureKind::Timeout | FailureKind::TryTimeout | FailureKind::ConnectTimeout
        );
        if is_late
            || matches!(
                failure.kind,
                FailureKind::Unwanted(_) | FailureKind::UnwantedGrpc(_)
            )
        {
            endpoint.pool().took(self.began);
        }
        // The request's own time was at its end, which says nothing of the endpoint.
        if !(is_over && is_late) {
            let detector = self.chooser.detector;
            detector.note_failure(endpoint, &failure, self.found, self.began);
        }
        self.past.note(Arc::clone(endpoint), failure, self.began);
    }

    fn others(&self, may_be_last: bool) -> Others {
        let has_other = self.view().has_other(&self.past.tried, None);
        rules::others(has_other, may_be_last, || self.view().is_empty())
    }

    fn retry(&mut self, next: Arc<WorkerEndpoint>) {
        self.stats().retries.add_one();
        self.endpoint = next;
    }

    fn give_up(&mut self, out_of_budget: bool) -> CallError {
        CallError::Failed(Attempts {
            failed: std::mem::take(&mut self.past.failed),
            out_of_budget,
        })
    }
}
