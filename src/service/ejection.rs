//! What becomes of the endpoint of an attempt that failed: it is doubted where it takes no
//! connection, and ejected where too many attempts in a row have failed, if enough others are
//! left. (The rule is Envoy's outlier detection by consecutive failures.)

use std::{sync::Arc, time::Duration};

use http::header;
use tokio::time::Instant;

use super::{Endpoint, Line, Service, limits::Seat};
use crate::{
    config::{Eject, Statuses},
    upstream::{
        Failure, FailureKind,
        http1::{AnswerBody, AnswerHead, Witness},
    },
};

impl Service {
    /// Notes that an attempt failed that began then, over a connection that `was_kept`.
    #[cold]
    pub(super) fn note_failure(
        &self,
        worker: usize,
        line: &Arc<Line>,
        failure: &Failure,
        was_kept: bool,
        began: Instant,
    ) {
        match failure.kind {
            FailureKind::Connect(_) | FailureKind::ConnectTimeout | FailureKind::Handshake(_) => {
                self.note_refusal(worker, line, began);
            }
            // It was kept for too long, which says nothing of the endpoint.
            FailureKind::Closed | FailureKind::Io(_) if was_kept => {}
            FailureKind::Closed
            | FailureKind::Io(_)
            | FailureKind::Timeout
            | FailureKind::TryTimeout
            | FailureKind::BadAnswer(_) => self.note_fault(worker, line, began),
            // Our doing, the client's, or noted when the answer came.
            FailureKind::Removed
            | FailureKind::Drained
            | FailureKind::Client(_)
            | FailureKind::Unwanted(_) => {}
        }
    }

    /// Notes the head of an answer to an attempt that began then, another of which may follow a
    /// status of `retry_on`. Returns whether its status is a failure.
    #[inline]
    pub(super) fn note_head(
        &self,
        worker: usize,
        line: &Arc<Line>,
        head: &AnswerHead,
        retry_on: Statuses,
        began: Instant,
    ) -> bool {
        let is_fault = |rule: &Eject| rule.statuses.contains(head.status);
        let is_fault = self.policy().eject.as_ref().is_some_and(is_fault);
        if is_fault {
            self.note_fault(worker, line, began);
        } else {
            line.life().answered(began);
        }
        if retry_on.contains(head.status) {
            self.heed_retry_after(worker, line, head, began);
        }
        is_fault
    }

    /// Notes an answer that goes to the client, and keeps the seat until it is over. What is not
    /// whole may break off: that is a failure too, and the endpoint's next answer the occasion to
    /// eject it.
    #[inline]
    pub(super) fn note_answer<B>(
        &self,
        worker: usize,
        line: &Arc<Line>,
        answer: &mut AnswerBody<B>,
        is_fault: bool,
        seat: Option<Seat>,
        began: Instant,
    ) {
        let mut of = None;
        if let Some(rule) = self.policy().eject.as_ref().filter(|_| !is_fault) {
            if answer.is_whole() {
                line.life().ended();
            } else {
                if line.life().has_broken_off(rule.failures) {
                    self.eject(worker, line, began, None);
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
    fn heed_retry_after(
        &self,
        worker: usize,
        line: &Arc<Line>,
        answer: &AnswerHead,
        began: Instant,
    ) {
        let pause = answer.headers.get(header::RETRY_AFTER);
        let pause = pause.and_then(|pause| pause.to_str().ok()?.trim().parse().ok());
        if let Some(pause) = pause.filter(|pause| *pause > 0) {
            self.eject(worker, line, began, Some(Duration::from_secs(pause)));
        }
    }

    /// Notes that an endpoint took no connection.
    #[cold]
    pub fn note_refusal(&self, worker: usize, line: &Arc<Line>, began: Instant) {
        // Many connects may be under way when an endpoint goes, and are one thing that happened.
        if line.life().connect_failed(began, Instant::now()) {
            self.note_fault(worker, line, began);
        }
    }

    /// Notes that an attempt at an endpoint was in vain.
    #[cold]
    fn note_fault(&self, worker: usize, line: &Arc<Line>, began: Instant) {
        let rule = self.policy().eject.as_ref();
        if rule.is_some_and(|rule| line.life().failed(began, rule.failures)) {
            self.eject(worker, line, began, None);
        }
    }

    /// Ejects an endpoint whose attempt began then, if enough others are left: for as long as it
    /// asked for, or as the rule says.
    fn eject(&self, worker: usize, line: &Arc<Line>, began: Instant, pause: Option<Duration>) {
        let Some(rule) = &self.policy().eject else {
            return;
        };
        if line.life().is_out_since(began) {
            return;
        }
        // One at a time, so that no two of them are the last that may be ejected.
        let turn = self.ejecting();
        let snapshot = self.main().snapshot();
        let endpoints = &snapshot.endpoints;
        let of_line = |one: &&Arc<Endpoint>| Arc::ptr_eq(one.line(worker), line);
        let Some(endpoint) = endpoints.iter().find(of_line) else {
            return;
        };
        let life = endpoint.life();
        if life.is_out_since(began) {
            return;
        }
        let now = Instant::now();
        // Whose time is over waits for a request only, of which there may be none.
        let ejected = endpoints.iter().filter(|one| one.life().is_kept_out(now));
        let others = ejected.filter(|one| !Arc::ptr_eq(one, endpoint));
        let (with_it, all) = (others.count() + 1, endpoints.len());
        if with_it == all || with_it * 100 > all * rule.max_percent as usize {
            if pause.is_none() {
                life.spare();
            }
            return;
        }
        let length = life.eject(rule, pause, now);
        drop(turn);
        self.lane(worker).ejections.add_one();
        tracing::warn!(
            service = %self.name(),
            endpoint = %endpoint.id().address,
            seconds = length.as_secs(),
            reason = pause.map_or("attempts in a row have failed", |_| "it said Retry-After"),
            "an endpoint is ejected"
        );
    }
}

/// Kept by an answer until its end: the seat that it has, and whose life it tells of.
struct Outcome {
    /// `None` where that is told already, or nobody is ejected.
    of: Option<Arc<Line>>,
    began: Instant,
    _seat: Option<Seat>,
}

impl Witness for Outcome {
    fn ended(&self, whole: bool) {
        match &self.of {
            Some(line) if whole => line.life().ended(),
            Some(line) => line.life().broke_off(self.began, Instant::now()),
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::one::testing::{line, service};

    #[tokio::test(start_paused = true)]
    async fn whose_time_is_over_is_not_among_those_who_are_too_many() {
        let service = service("", 1..5);
        let fails = |n: usize| {
            let line = line(&service, n);
            (0..5).for_each(|_| service.note_fault(0, &line, Instant::now()));
            line.life().is_ejected()
        };
        assert!(fails(2) && fails(3));
        assert!(!fails(0), "half of them are");
        // Nobody has tried them since.
        tokio::time::advance(Duration::from_secs(3600)).await;
        assert!(fails(0) && fails(1));
        assert!(!fails(2), "it had its trial, and half of them are again");
    }
}
