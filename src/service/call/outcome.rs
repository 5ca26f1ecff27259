//! What becomes of the endpoint of an attempt that failed: it is doubted where it takes no
//! connection, and ejected where too many attempts in a row have failed, if enough others are
//! left. (The rule is Envoy's outlier detection by consecutive failures.) So is one that fails, or
//! answers 5xx, far more often than its peers.

use std::{fmt, sync::Arc, time::Duration};

use http::header;
use tokio::time::Instant;

use super::queue::Seat;
use crate::{
    config::Statuses,
    grpc::Code,
    service::{
        Service, ServiceStats, View, WorkerEndpoint,
        endpoint::{
            health::Was,
            outlier::{Count, Peers, Proof, is_ill},
        },
        log_lines,
    },
    upstream::{
        AnswerBody, AnswerHead, Failure, FailureKind, Found, Witness, is_for_want_of_descriptors,
    },
};

/// Finds out the endpoints of a service that fail, for one worker's calls of one of its views.
#[derive(Clone, Copy, Debug)]
pub struct Detector<'s> {
    pub(super) service: &'s Service,
    pub(super) view: &'s View,
    pub(super) worker: usize,
    /// What the worker counts.
    pub(super) stats: &'s ServiceStats,
}

impl<'s> Detector<'s> {
    /// For a worker's calls of this view of a service.
    pub fn new(service: &'s Service, view: &'s View, worker: usize) -> Self {
        Self {
            service,
            view,
            worker,
            stats: service.stats(worker),
        }
    }

    /// Notes that an attempt failed that began then, over a connection that was come by so.
    #[cold]
    pub(crate) fn note_failure(
        &self,
        line: &Arc<WorkerEndpoint>,
        failure: &Failure,
        found: Found,
        began: Instant,
    ) {
        match &failure.kind {
            FailureKind::Connect(error) if is_for_want_of_descriptors(error) => {}
            FailureKind::Connect(_)
            | FailureKind::ConnectTimeout
            | FailureKind::Handshake(_)
            | FailureKind::NoHttp2(_) => {
                if self.has_refused(line, began) {
                    self.note_vain(line, began);
                }
            }
            // It was kept for too long, or is closed in good order, which says nothing of the endpoint.
            FailureKind::Closed | FailureKind::Io(_) if found == Found::Idle => {}
            FailureKind::GoAway if matches!(found, Found::Idle | Found::Shared) => {}
            // Its connection died with other requests, which is one thing that happened.
            FailureKind::Closed | FailureKind::Io(_) if found != Found::New => {
                if line.health().died_in_use(began, Instant::now()) {
                    self.note_vain(line, began);
                }
            }
            // One thing that the endpoint did, of however many requests it was the end.
            FailureKind::ProtocolError { is_first: false } => {}
            FailureKind::Closed
            | FailureKind::Io(_)
            | FailureKind::GoAway
            | FailureKind::Refused
            | FailureKind::Reset(_)
            | FailureKind::Timeout
            | FailureKind::TryTimeout
            | FailureKind::ProtocolError { is_first: true }
            | FailureKind::BadAnswer(_) => self.note_vain(line, began),
            // It answered, with what one of its pages may be.
            FailureKind::TooLarge(_) => {
                if let Some(was) = line.health().answered(began) {
                    self.note_back(line, was);
                }
            }
            // Our doing, the client's, or noted when the answer came.
            FailureKind::NoTurn
            | FailureKind::Removed
            | FailureKind::Drained
            | FailureKind::Client(_)
            | FailureKind::Unwanted(_)
            | FailureKind::UnwantedGrpc(_) => {}
        }
    }

    /// Notes the head of an answer to an attempt that began then, another of which may follow a
    /// status of `retry_on`. Returns whether its status is a failure.
    #[inline]
    pub(crate) fn note_head(
        &self,
        line: &Arc<WorkerEndpoint>,
        head: &AnswerHead,
        retry_on: &Statuses,
        began: Instant,
    ) -> bool {
        let rule = self.service.policy().eject.as_ref();
        let is_fault = rule.is_some_and(|rule| rule.statuses.holds(head.status, head.grpc));
        self.view.heard(self.worker).answers.add_one();
        let health = line.health();
        let is_ill = is_ill(head.status) || head.grpc.is_some_and(Code::is_ill);
        let is_ill = is_ill && rule.is_some_and(|rule| rule.answers);
        if is_ill {
            self.note_ill(line, began);
        } else if let Some(suspicion) = health.suspicion() {
            suspicion.note_well(self.view.number());
        }
        if is_fault {
            self.note_fault(line, began);
        } else if !(is_ill && health.is_ejected_for_answers())
            && let Some(was) = health.answered(began)
        {
            self.note_back(line, was);
        }
        if retry_on.contains(head.status) {
            self.heed_retry_after(line, head, began);
        }
        is_fault
    }

    /// Notes an answer that goes to the client, and keeps the seat until it is over. What is not
    /// whole may break off: that is a failure too, and the endpoint's next answer the occasion to
    /// eject it.
    #[inline]
    pub(crate) fn note_answer<B>(
        &self,
        line: &Arc<WorkerEndpoint>,
        answer: &mut AnswerBody<B>,
        is_fault: bool,
        seat: Option<Seat>,
        began: Instant,
    ) {
        let mut of = None;
        if let Some(rule) = self.service.policy().eject.as_ref().filter(|_| !is_fault) {
            if answer.is_whole() {
                line.health().ended();
            } else {
                if line.health().has_broken_off(rule.failures) {
                    self.eject(line, began, &Cause::BrokenOff);
                }
                of = Some(Arc::clone(line));
            }
        }
        if seat.is_some() || of.is_some() {
            answer.watch(Box::new(Outcome {
                of,
                began,
                _seat: seat,
            }));
        }
    }

    /// An endpoint that wants to be left alone for a while is.
    #[cold]
    fn heed_retry_after(&self, line: &Arc<WorkerEndpoint>, answer: &AnswerHead, began: Instant) {
        let pause = answer.headers.get(header::RETRY_AFTER);
        let pause = pause.and_then(|pause| pause.to_str().ok()?.trim().parse().ok());
        if let Some(pause) = pause.filter(|pause| *pause > 0) {
            let pause = Duration::from_secs(pause);
            self.eject(line, began, &Cause::RetryAfter(pause));
        }
    }

    /// Notes that an attempt failed that began then: one more in a row, and one more of the share that
    /// fails, though good answers come between.
    #[cold]
    fn note_vain(&self, line: &Arc<WorkerEndpoint>, began: Instant) {
        let health = line.health();
        if health.is_ejected_for_answers() {
            self.eject(line, began, &Cause::StillIll);
            return;
        }
        self.note_fault(line, began);
        if health.is_ejected() {
            // That is the end of it: once it is back it begins anew.
            if let Some(suspicion) = health.suspicion() {
                suspicion.forget();
            }
        } else if let Some(rule) = &self.service.policy().eject
            && rule.answers
        {
            self.view.heard(self.worker).answers.add_one();
            self.note_ill(line, began);
        }
    }

    /// Notes an answer, to an attempt that began then, which says that the endpoint is ill, or an
    /// attempt that brought none.
    #[cold]
    fn note_ill(&self, line: &Arc<WorkerEndpoint>, began: Instant) {
        self.view.heard(self.worker).ill.add_one();
        // Requests that come in the same order again and again may be in step with the endpoints.
        self.view.break_step();
        let health = line.health();
        if health.is_ejected_for_answers() {
            self.eject(line, began, &Cause::StillIll);
            return;
        }
        let endpoints = self.view.snapshot().endpoints.len();
        if endpoints < 2 {
            return;
        }
        let peers = Peers {
            all: self.view.answers(),
            endpoints,
            keyed: self.view.balance().is_keyed(),
        };
        let views = (self.view.number(), 1 + self.service.last_view());
        let proof = health.suspect().note_ill(views, &peers, Instant::now());
        if let Some(proof) = proof {
            self.eject(line, began, &Cause::Answers(proof));
        }
    }

    #[cold]
    fn note_back(&self, line: &WorkerEndpoint, was: Was) {
        if was == Was::Ill {
            let suspicion = line.health().suspect();
            suspicion.expect_relapse(|number| {
                let view = self.service.view(number);
                view.map_or_else(Count::default, View::answers)
            });
        }
        log_lines::back(self.service.name(), line.pool().address(), was.reason());
    }

    /// Notes that an endpoint took no connection.
    #[cold]
    pub fn note_refusal(&self, line: &Arc<WorkerEndpoint>, began: Instant) {
        if self.has_refused(line, began) {
            self.note_fault(line, began);
        }
    }

    /// Whether that is news: many connects may be under way when an endpoint goes, and are one thing
    /// that happened.
    fn has_refused(&self, line: &WorkerEndpoint, began: Instant) -> bool {
        let is_news = line.health().connect_failed(began, Instant::now());
        if is_news {
            self.service.tell_of_refusal();
        }
        is_news
    }

    /// Notes that an attempt at an endpoint was in vain.
    #[cold]
    fn note_fault(&self, line: &Arc<WorkerEndpoint>, began: Instant) {
        let rule = self.service.policy().eject.as_ref();
        if rule.is_some_and(|rule| line.health().failed(began, rule.failures)) {
            self.eject(line, began, &Cause::Failures);
        }
    }

    /// Ejects an endpoint whose attempt began then, if enough others are left.
    fn eject(&self, line: &Arc<WorkerEndpoint>, began: Instant, cause: &Cause) {
        let Some(rule) = &self.service.policy().eject else {
            return;
        };
        let (all, pause) = (self.service.main(), cause.pause());
        let ejections = self.service.ejections();
        if let Some(time) = ejections.eject(all, line, rule, began, pause) {
            let why = cause.to_string();
            line.health().note_why(&*why, cause.is_answers());
            self.stats.ejections.add_one();
            log_lines::ejected(self.service.name(), line.pool().address(), time, why);
        }
    }
}

/// Why an endpoint is ejected.
enum Cause {
    /// Attempts in a row failed.
    Failures,
    /// Answers in a row broke off.
    BrokenOff,
    /// It fails, or answers 5xx, far more often than its peers.
    Answers(Proof),
    /// It did, and its trial was answered so, too.
    StillIll,
    /// It asked for it, for so long.
    RetryAfter(Duration),
}

impl Cause {
    /// For how long, where the rule does not say so.
    fn pause(&self) -> Option<Duration> {
        match self {
            Self::RetryAfter(pause) => Some(*pause),
            _ => None,
        }
    }

    fn is_answers(&self) -> bool {
        matches!(&self, Self::Answers(_) | Self::StillIll)
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failures => f.write_str("attempts in a row have failed"),
            Self::BrokenOff => f.write_str("answers in a row have broken off"),
            Self::Answers(Proof { own, peers }) => {
                write!(
                    f,
                    "it failed or answered 5xx {own} times, and its peers {peers}"
                )
            }
            Self::StillIll => f.write_str("it still fails or answers 5xx"),
            Self::RetryAfter(_) => f.write_str("it said Retry-After"),
        }
    }
}

/// Kept by an answer until its end: the seat that it has, and whose life it tells of.
struct Outcome {
    /// `None` where that is told already, or the service ejects no endpoints.
    of: Option<Arc<WorkerEndpoint>>,
    began: Instant,
    _seat: Option<Seat>,
}

impl Witness for Outcome {
    fn ended(&self, whole: bool) {
        match &self.of {
            Some(line) if whole => line.health().ended(),
            Some(line) => line.health().broke_off(self.began, Instant::now()),
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, StatusCode};

    use super::*;
    use crate::{
        service::testing::{line, service},
        upstream::Processed,
    };

    /// Attempts at each of four in turn, one every millisecond, which fail where this says so. Returns
    /// after how many rounds one was ejected, which, and why.
    async fn until_ejected(
        lines: &str,
        rounds: usize,
        failure: impl Fn() -> FailureKind,
        mut fails: impl FnMut(usize, usize) -> bool,
    ) -> Option<(usize, usize, String)> {
        let service = service(lines, 1..5);
        let detector = Detector::new(&service, service.main(), 0);
        let all: Vec<_> = (0..4).map(|n| line(&service, n)).collect();
        let head = AnswerHead {
            status: StatusCode::OK,
            reason: None,
            headers: HeaderMap::new(),
            grpc: None,
            text: bytes::Bytes::new(),
        };
        for round in 0..rounds {
            for (n, line) in all.iter().enumerate() {
                tokio::time::advance(Duration::from_millis(1)).await;
                let began = Instant::now();
                if fails(n, round) {
                    let (kind, processed) = (failure(), Processed::Perhaps);
                    let failure = Failure { kind, processed };
                    detector.note_failure(line, &failure, Found::New, began);
                } else {
                    detector.note_head(line, &head, &Statuses::default(), began);
                    line.health().ended();
                }
                if let Some(ejection) = line.health().ejection(Instant::now()) {
                    return Some((round, n, ejection.reason.into()));
                }
            }
        }
        None
    }

    fn reset() -> FailureKind {
        FailureKind::Closed
    }

    /// Three of ten, and no two in a row.
    fn a_third(round: usize) -> bool {
        matches!(round % 10, 2 | 5 | 8)
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_fails_a_third_and_never_five_in_a_row_is_found_out() {
        for (failure, name) in [
            (reset as fn() -> FailureKind, "reset"),
            (|| FailureKind::Timeout, "time-out"),
            (|| FailureKind::ConnectTimeout, "no connection"),
        ] {
            let found = until_ejected("", 1_000, failure, |n, round| n == 2 && a_third(round));
            let (rounds, n, why) = found.await.expect(name);
            assert!(n == 2 && rounds < 60, "{name}: {n} after {rounds}");
            assert!(why.starts_with("it failed or answered 5xx"), "{why}");
        }
        let off = "eject = { answers = false }";
        let found = until_ejected(off, 1_000, reset, |n, round| n == 2 && a_third(round));
        assert_eq!(found.await, None, "it is not asked for");
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_is_found_out_where_all_fail_alike_or_failures_are_not_theirs() {
        for (percent, seed) in [(10, 1), (30, 2), (50, 3)] {
            let mut random = fastrand::Rng::with_seed(seed);
            // Never so many in a row that that alone were a reason.
            let mut row = [0; 4];
            let found = until_ejected("", 5_000, reset, |n, _| {
                let fails = row[n] < 3 && random.u32(..100) < percent;
                row[n] = if fails { row[n] + 1 } else { 0 };
                fails
            });
            assert_eq!(found.await, None, "{percent} %");
        }
        for kind in [
            || FailureKind::Removed,
            || {
                FailureKind::Connect(std::io::Error::from_raw_os_error(
                    nix::errno::Errno::EMFILE as i32,
                ))
            },
        ] {
            let found = until_ejected("", 500, kind, |n, round| n == 2 && a_third(round));
            assert_eq!(found.await, None);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn whose_time_is_over_is_not_among_those_who_are_too_many() {
        let service = service("", 1..5);
        let detector = Detector::new(&service, service.main(), 0);
        let fails = |n: usize| {
            let line = line(&service, n);
            (0..5).for_each(|_| detector.note_fault(&line, Instant::now()));
            line.health().is_ejected()
        };
        assert!(fails(2) && fails(3));
        assert!(!fails(0), "half of them are");
        // No request has tried them since.
        tokio::time::advance(Duration::from_secs(3600)).await;
        assert!(fails(0) && fails(1));
        assert!(!fails(2), "it had its trial, and half of them are again");
    }
}
