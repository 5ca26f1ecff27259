//! What requests find out about an endpoint: that it takes no connection, answers nothing, or badly. Kept
//! in atomics, which a request that goes well only reads.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use parking_lot::{Mutex, MutexGuard};
use serde::Serialize;
use tokio::time::Instant;

use super::{common::Common, outlier::Suspicion};
use crate::config::Eject;

/// After a failed connect an endpoint is passed over for a second, and twice as long with each
/// failure, up to 30 s.
const DOUBT_FIRST: Duration = Duration::from_secs(1);
const DOUBT_LONGEST: Duration = Duration::from_secs(30);
/// An ejected endpoint whose time is over is tried by one request. Where that request comes to
/// nothing (its client may leave), another follows after so long.
const TRIAL: Duration = Duration::from_secs(5);
/// Answers that break off further apart than this are not in a row.
const CUT_IN_A_ROW: Duration = Duration::from_secs(60);
/// By so much of its length, at most, an ejection is longer than it need be: those that were
/// ejected together do not come back together.
const EJECTION_JITTER: f64 = 0.1;
/// The part of its share that an endpoint has at the beginning of `slow_start`.
const LEAST_WARMTH: f64 = 0.1;

/// What requests have found out about an endpoint. Moments are milliseconds after the
/// epoch of its service, and never 0, which says "not".
#[derive(Debug)]
pub(crate) struct EndpointHealth {
    common: Arc<Common>,
    /// Since when it is doubted for its silence, while it is.
    silent: AtomicU64,
    /// Until when it is passed over while there are others.
    passed_over: AtomicU64,
    /// When it was ejected, while it is.
    ejected: AtomicU64,
    /// Since when it warms up.
    warming: AtomicU64,
    /// Attempts in a row that failed.
    failures: AtomicU32,
    /// Answers in a row that broke off, those that broke off together counted once.
    cut: AtomicU32,
    /// Requests that it works on, where there is a limit to them. Here, since a pick that asks for
    /// room asks the rest as well.
    seats: AtomicU32,
    past: OnceLock<Box<AttemptLog>>,
}

/// What went wrong with an endpoint: most of a large registry have none of it.
#[derive(Debug, Default)]
struct AttemptLog {
    /// How often it was tried since it fell silent.
    tries: AtomicU32,
    /// Whether it was ejected for what it answers: a head is then no proof that it is well.
    for_answers: AtomicBool,
    /// Why it was ejected last, for people.
    why: Mutex<Box<str>>,
    suspicion: Suspicion,
    /// When its ejection is over, and it may be tried.
    trial: AtomicU64,
    cut_at: AtomicU64,
    /// Connects in a row that failed, those that failed together counted once.
    refused: AtomicU32,
    refused_at: AtomicU64,
    /// When a connection died last that several requests had.
    died_at: AtomicU64,
    /// Ejections in close succession.
    ejections: AtomicU32,
    /// When the last ejection ended.
    returned: AtomicU64,
}

/// An ejection, for people.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Ejection {
    /// What it is for.
    pub reason: Box<str>,
    /// How many there were in close succession, for failures.
    pub times: u32,
    /// Until a request tries the endpoint again; 0 where that time has come.
    pub seconds_left: f64,
}

/// What an endpoint was that is back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Was {
    /// Ejected for its answers.
    Ill,
    /// Ejected for anything else.
    Failing,
    /// Doubted for its silence.
    Silent,
}

impl Was {
    /// Why it is back, in words.
    pub(crate) fn reason(self) -> &'static str {
        match self {
            Self::Ill | Self::Failing => "its trial was answered",
            Self::Silent => "it answers again",
        }
    }
}

/// A doubt, for people.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Doubt {
    /// What it is for.
    pub reason: &'static str,
    /// Until a request tries the endpoint again; 0 where that time has come.
    pub seconds_left: f64,
}

impl EndpointHealth {
    pub(super) fn new(common: Arc<Common>) -> Self {
        Self {
            common,
            silent: AtomicU64::new(0),
            passed_over: AtomicU64::new(0),
            ejected: AtomicU64::new(0),
            warming: AtomicU64::new(0),
            failures: AtomicU32::new(0),
            cut: AtomicU32::new(0),
            seats: AtomicU32::new(0),
            past: OnceLock::new(),
        }
    }

    /// What it has in common with the other endpoints of its service.
    pub(super) fn common(&self) -> &Common {
        &self.common
    }

    /// What went wrong with it, to be added to.
    #[cold]
    fn past(&self) -> &AttemptLog {
        self.past.get_or_init(Box::default)
    }

    /// Of what went wrong with it, this; 0 where nothing did.
    fn noted<N: Default>(&self, what: impl Fn(&AttemptLog) -> N) -> N {
        self.past.get().map_or(N::default(), |past| what(past))
    }

    pub(crate) fn seats(&self) -> &AtomicU32 {
        &self.seats
    }

    /// Whether a pick should pass it over while there are others. Of all who ask when an ejection's
    /// or a doubt's time is over, one is told no, and so tries it.
    #[inline]
    pub(crate) fn is_passed_over(&self, now: Instant) -> bool {
        let until = self.passed_over.load(Relaxed);
        let warming = self.warming.load(Relaxed);
        (until | warming) != 0 && (self.sits_out(until, now) || self.is_too_cold(now))
    }

    /// The same, however new it is: for a request that asks for this one.
    #[inline]
    pub(crate) fn is_avoided(&self, now: Instant) -> bool {
        let until = self.passed_over.load(Relaxed);
        until != 0 && self.sits_out(until, now)
    }

    /// Whether it is doubted or ejected, and not to be tried yet; asking changes nothing.
    pub(crate) fn is_out(&self, now: Instant) -> bool {
        self.millis(now) < self.passed_over.load(Relaxed)
    }

    #[cold]
    fn sits_out(&self, until: u64, now: Instant) -> bool {
        if until == 0 {
            return false;
        }
        let at = self.millis(now);
        if at < until {
            return true;
        }
        let next = if self.is_ejected() {
            TRIAL
        } else {
            self.doubt()
        };
        let after = self.millis(now + next);
        let passed_over = &self.passed_over;
        let is_tried = passed_over.compare_exchange(until, after, Relaxed, Relaxed);
        if is_tried.is_ok() && self.is_silent() {
            self.past().tries.fetch_add(1, Relaxed);
        }
        is_tried.is_err()
    }

    /// Whether a request should leave it to others for its being new.
    #[cold]
    fn is_too_cold(&self, now: Instant) -> bool {
        match self.warmth(now) {
            Some(warmth) => fastrand::f64() >= warmth,
            None => {
                self.warming.store(0, Relaxed);
                false
            }
        }
    }

    /// The part of its share that it has while it warms up.
    pub(crate) fn warmth(&self, now: Instant) -> Option<f64> {
        let since = self.warming.load(Relaxed);
        if since == 0 {
            return None;
        }
        let slow_start = self.common.policy().slow_start?;
        let passed = self.millis(now).saturating_sub(since) as f64;
        let warmth = passed / slow_start.as_millis().max(1) as f64;
        (warmth < 1.0).then(|| warmth.max(LEAST_WARMTH))
    }

    /// A connection stands: it is not doubted any more. (Where it is silent that says nothing: the
    /// system takes connections for it.)
    #[inline]
    pub(crate) fn connected(&self) {
        if self.is_doubted() && !self.is_silent() {
            self.trust();
        }
    }

    /// It has fallen silent: it is doubted until it answers. Returns whether that is news.
    #[cold]
    pub(crate) fn fall_silent(&self, now: Instant) -> bool {
        let at = self.millis(now);
        let is_news = self.silent.compare_exchange(0, at, Relaxed, Relaxed);
        if is_news.is_ok() {
            self.past().tries.store(1, Relaxed);
            let until = self.millis(now + DOUBT_FIRST);
            self.passed_over.store(until, Relaxed);
        }
        is_news.is_ok()
    }

    fn is_silent(&self) -> bool {
        self.silent.load(Relaxed) != 0
    }

    /// Whether it is doubted or ejected, be it tried at this moment.
    pub(crate) fn is_avoided_already(&self) -> bool {
        self.passed_over.load(Relaxed) != 0
    }

    #[cold]
    fn trust(&self) {
        self.forget_refusals();
        self.silent.store(0, Relaxed);
        self.passed_over.store(0, Relaxed);
    }

    /// A connect failed that began then: it is doubted. Returns whether that is news: those that
    /// were under way when one failed say nothing new, however many they are.
    #[cold]
    pub(crate) fn connect_failed(&self, began: Instant, now: Instant) -> bool {
        let is_news = self.is_first(&self.past().refused_at, began, now);
        if is_news {
            self.past().refused.fetch_add(1, Relaxed);
        }
        if !self.is_ejected() {
            let until = self.millis(now + self.doubt());
            self.passed_over.store(until, Relaxed);
        }
        is_news
    }

    /// A connection died that several requests had, one of which began then. Returns whether that is news.
    #[cold]
    pub(crate) fn died_in_use(&self, began: Instant, now: Instant) -> bool {
        self.is_first(&self.past().died_at, began, now)
    }

    /// Whether what began then, and failed now, is the first of those that failed together, of which
    /// the last was noted at `last`.
    fn is_first(&self, last: &AtomicU64, began: Instant, now: Instant) -> bool {
        let before = last.load(Relaxed);
        let note = || last.compare_exchange(before, self.millis(now), Relaxed, Relaxed);
        self.millis(began) > before && note().is_ok()
    }

    /// An attempt that began then has the head of an answer as it should be: an endpoint that is on
    /// trial is back, over whatever connection. Returns what it was, where that is news.
    #[inline]
    pub(crate) fn answered(&self, began: Instant) -> Option<Was> {
        if self.failures.load(Relaxed) != 0 {
            self.failures.store(0, Relaxed);
        }
        if self.is_ejected() {
            if !self.was_ejected_after(began) {
                self.come_back();
                return Some(match self.past().for_answers.swap(false, Relaxed) {
                    true => Was::Ill,
                    false => Was::Failing,
                });
            }
        } else if self.is_doubted()
            && (self.is_silent()
                || self.millis(began) > self.noted(|past| past.refused_at.load(Relaxed)))
        {
            let was_silent = self.is_silent();
            self.trust();
            return was_silent.then_some(Was::Silent);
        }
        None
    }

    /// An answer came to its end.
    #[inline]
    pub(crate) fn ended(&self) {
        if self.cut.load(Relaxed) != 0 {
            self.cut.store(0, Relaxed);
        }
    }

    /// An answer broke off whose attempt began then. Streams that are open at the same time end
    /// together, and after a while it is another story.
    #[cold]
    pub(crate) fn broke_off(&self, began: Instant, now: Instant) {
        let cut_at = &self.past().cut_at;
        let before = cut_at.load(Relaxed);
        if self.is_ejected() || !self.is_first(cut_at, began, now) {
            return;
        }
        if self.millis(now).saturating_sub(before) > CUT_IN_A_ROW.as_millis() as u64 {
            self.cut.store(1, Relaxed);
        } else {
            self.cut.fetch_add(1, Relaxed);
        }
    }

    /// Whether so many answers in a row broke off. When an answer breaks off, its request has left the
    /// service, and cannot eject the endpoint: the request with the next answer's head does.
    #[inline]
    pub(crate) fn has_broken_off(&self, times: u32) -> bool {
        self.cut.load(Relaxed) >= times
    }

    /// An attempt that began then failed. Returns whether it is to be ejected: after so many in a
    /// row, or because it was ejected and had its trial.
    #[cold]
    pub(crate) fn failed(&self, began: Instant, limit: u32) -> bool {
        if self.is_ejected() {
            // An attempt from before the trial, made for want of another endpoint, says nothing new.
            !self.is_out_since(began)
        } else {
            self.failures.fetch_add(1, Relaxed) + 1 >= limit
        }
    }

    /// It may not be ejected, or not for longer, since too many are: it has to fail as often again.
    pub(crate) fn spare(&self) {
        self.forget_failures();
        if self.is_ejected() {
            self.come_back();
        }
    }

    fn forget_failures(&self) {
        self.failures.store(0, Relaxed);
        self.cut.store(0, Relaxed);
    }

    fn forget_refusals(&self) {
        if let Some(past) = self.past.get() {
            past.refused.store(0, Relaxed);
        }
    }

    /// What is held against its answers, where anything ever was.
    #[inline]
    pub(crate) fn suspicion(&self) -> Option<&Suspicion> {
        self.past.get().map(|past| &past.suspicion)
    }

    /// The same, to be added to.
    pub(crate) fn suspect(&self) -> &Suspicion {
        &self.past().suspicion
    }

    /// Notes for what it was just ejected, and whether that was its answers.
    pub(crate) fn note_why(&self, why: impl Into<Box<str>>, for_answers: bool) {
        let past = self.past();
        past.for_answers.store(for_answers, Relaxed);
        *past.why() = why.into();
    }

    pub(crate) fn is_ejected_for_answers(&self) -> bool {
        self.is_ejected() && self.noted(|past| past.for_answers.load(Relaxed))
    }

    /// Ejects it, for this long or for as long as the rule has it, and returns for how long. The
    /// caller sees to it that no other thread ejects it at the same time.
    pub(crate) fn eject(&self, rule: &Eject, pause: Option<Duration>, now: Instant) -> Duration {
        let length = match pause {
            Some(pause) => pause.min(rule.max_time),
            None => {
                let most = rule.max_time.as_millis() / rule.time.as_millis().max(1) + 1;
                let most = u32::try_from(most).unwrap_or(u32::MAX);
                let times = (1 + self.recent_ejections(rule, now)).min(most);
                self.past().ejections.store(times, Relaxed);
                rule.time.saturating_mul(times).min(rule.max_time)
            }
        };
        let length = length.mul_f64(1.0 + EJECTION_JITTER * fastrand::f64());
        self.forget_failures();
        self.warming.store(0, Relaxed);
        let trial = self.millis(now + length);
        self.past().trial.store(trial, Relaxed);
        self.ejected.store(self.millis(now), Relaxed);
        self.passed_over.store(trial, Relaxed);
        length
    }

    /// The ejections that count towards the next: one is forgotten for each `time` in service.
    fn recent_ejections(&self, rule: &Eject, now: Instant) -> u32 {
        let all = self.noted(|past| past.ejections.load(Relaxed));
        if self.is_ejected() {
            return all;
        }
        let returned = self.noted(|past| past.returned.load(Relaxed));
        let served = self.millis(now).saturating_sub(returned);
        let forgotten = served / (rule.time.as_millis() as u64).max(1);
        all.saturating_sub(forgotten.try_into().unwrap_or(u32::MAX))
    }

    /// Whether it is ejected, and an attempt that began then is not its trial.
    pub(crate) fn is_out_since(&self, began: Instant) -> bool {
        self.is_ejected() && self.millis(began) < self.noted(|past| past.trial.load(Relaxed))
    }

    fn was_ejected_after(&self, began: Instant) -> bool {
        self.millis(began) <= self.ejected.load(Relaxed)
    }

    fn come_back(&self) {
        let now = Instant::now();
        if let Some(past) = self.past.get() {
            past.returned.store(self.millis(now), Relaxed);
        }
        self.ejected.store(0, Relaxed);
        self.forget_refusals();
        self.silent.store(0, Relaxed);
        self.passed_over.store(0, Relaxed);
        self.warm_up(now);
    }

    /// Checks of it pass that did not: what requests have found out is of the past.
    pub(crate) fn recovered(&self) {
        self.forget_failures();
        if let Some(past) = self.past.get() {
            past.ejections.store(0, Relaxed);
            past.suspicion.forget();
        }
        self.come_back();
    }

    /// It is new, or back: where the service has a slow start it begins.
    pub(crate) fn warm_up(&self, now: Instant) {
        if self.common.policy().slow_start.is_some() {
            self.warming.store(self.millis(now), Relaxed);
        }
    }

    pub(crate) fn is_ejected(&self) -> bool {
        self.ejected.load(Relaxed) != 0
    }

    /// Whether it is ejected, and either its time is not over or it is being tried.
    pub(crate) fn is_kept_out(&self, now: Instant) -> bool {
        self.is_ejected() && self.is_out(now)
    }

    /// Whether it took no connection when that was tried last.
    pub(crate) fn has_refused(&self) -> bool {
        self.noted(|past| past.refused.load(Relaxed)) > 0
    }

    pub(super) fn is_doubted(&self) -> bool {
        self.passed_over.load(Relaxed) != 0 && !self.is_ejected()
    }

    pub(super) fn is_warming(&self, now: Instant) -> bool {
        self.warmth(now).is_some()
    }

    /// The ejection that it is in.
    pub(crate) fn ejection(&self, now: Instant) -> Option<Ejection> {
        self.is_ejected().then(|| {
            let left = self.passed_over.load(Relaxed);
            Ejection {
                reason: self.noted(|past| past.why().clone()),
                times: self.noted(|past| past.ejections.load(Relaxed)),
                seconds_left: left.saturating_sub(self.millis(now)) as f64 / 1e3,
            }
        })
    }

    /// The doubt that it is in.
    pub(crate) fn doubted(&self, now: Instant) -> Option<Doubt> {
        let (until, at) = (self.passed_over.load(Relaxed), self.millis(now));
        let silent = self.silent.load(Relaxed);
        self.is_doubted().then(|| Doubt {
            reason: match silent {
                0 => "it takes no connection",
                _ => "it answers nothing, and its peers do",
            },
            seconds_left: until.saturating_sub(at) as f64 / 1e3,
        })
    }

    fn millis(&self, at: Instant) -> u64 {
        1 + at.saturating_duration_since(self.common.epoch).as_millis() as u64
    }

    fn doubt(&self) -> Duration {
        let times = match self.is_silent() {
            true => 1 + self.noted(|past| past.tries.load(Relaxed)),
            false => self.noted(|past| past.refused.load(Relaxed)),
        };
        (DOUBT_FIRST * 2u32.pow(times.clamp(1, 16) - 1)).min(DOUBT_LONGEST)
    }
}

impl AttemptLog {
    fn why(&self) -> MutexGuard<'_, Box<str>> {
        self.why.lock()
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::{super::common::testing::common, *};

    const SECOND: Duration = Duration::from_secs(1);
    /// Longer than any jitter makes of it.
    const THIRTY: Duration = Duration::from_millis(33_001);

    fn rule() -> Eject {
        Eject {
            failures: 5,
            time: Duration::from_secs(30),
            max_time: Duration::from_secs(100),
            max_percent: 50,
            statuses: crate::config::Statuses::default(),
            answers: true,
            silence: true,
        }
    }

    fn health() -> EndpointHealth {
        EndpointHealth::new(common(None))
    }

    /// How many of twenty who ask now try it.
    fn tries(health: &EndpointHealth) -> usize {
        let ask = |_: &i32| !health.is_passed_over(Instant::now());
        (0..20).filter(ask).count()
    }

    #[tokio::test(start_paused = true)]
    async fn a_doubted_endpoint_waits_and_is_then_tried_by_one() {
        let health = health();
        health.connect_failed(Instant::now(), Instant::now());
        assert_eq!(tries(&health), 0);
        advance(SECOND).await;
        assert_eq!(tries(&health), 1);
        health.connected();
        assert_eq!(tries(&health), 20);
    }

    #[tokio::test(start_paused = true)]
    async fn who_answers_over_a_kept_connection_is_doubted_no_more() {
        let health = health();
        let early = Instant::now();
        advance(SECOND).await;
        health.connect_failed(Instant::now(), Instant::now());
        health.answered(early);
        assert_eq!(tries(&health), 0, "what was under way says nothing");
        advance(SECOND).await;
        assert_eq!(tries(&health), 1);
        health.answered(Instant::now());
        assert_eq!(tries(&health), 20);
    }

    #[tokio::test(start_paused = true)]
    async fn connects_that_fail_together_count_once() {
        let health = health();
        let began = Instant::now();
        advance(SECOND / 2).await;
        let news = (0..20).filter(|_| health.connect_failed(began, Instant::now()));
        assert_eq!(news.count(), 1);
        advance(SECOND + Duration::from_millis(1)).await;
        assert_eq!(tries(&health), 1, "tried after a second");
        assert!(health.connect_failed(Instant::now(), Instant::now()));
        advance(SECOND).await;
        assert_eq!(tries(&health), 0, "and then after two");
    }

    #[tokio::test(start_paused = true)]
    async fn only_failures_in_a_row_eject() {
        let health = health();
        let now = Instant::now;
        for _ in 0..3 {
            assert!((0..4).all(|_| !health.failed(now(), 5)));
            health.answered(now());
        }
        assert!((0..4).all(|_| !health.failed(now(), 5)));
        assert!(health.failed(now(), 5));
        health.spare();
        assert!((0..4).all(|_| !health.failed(now(), 5)));
        assert!(health.failed(now(), 5));
    }

    #[tokio::test(start_paused = true)]
    async fn answers_that_break_off_one_after_another_count_and_a_head_does_not_excuse_them() {
        let health = health();
        let cut = async |apart: Duration| {
            advance(apart).await;
            let began = Instant::now();
            health.answered(began);
            advance(Duration::from_millis(5)).await;
            health.broke_off(began, Instant::now());
        };
        for _ in 0..4 {
            cut(SECOND).await;
        }
        assert!(!health.has_broken_off(5));
        cut(SECOND).await;
        assert!(health.has_broken_off(5));
        health.ended();
        assert!(!health.has_broken_off(1));
        // Those that end together are one, and those that end now and then are never more.
        let began = Instant::now();
        advance(SECOND).await;
        (0..20).for_each(|_| health.broke_off(began, Instant::now()));
        assert!(!health.has_broken_off(2));
        for _ in 0..9 {
            cut(CUT_IN_A_ROW * 2).await;
        }
        assert!(!health.has_broken_off(2));
        // And who refuses a connection then is not ejected for them.
        assert!(!health.failed(Instant::now(), 2));
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_ejected_is_tried_by_one_and_comes_back_or_goes_for_longer() {
        let health = health();
        let early = Instant::now();
        advance(SECOND).await;
        let length = health.eject(&rule(), None, Instant::now());
        assert!((30.0..33.0).contains(&length.as_secs_f64()), "{length:?}");
        assert_eq!(tries(&health), 0);
        // What was under way says nothing of it now.
        health.answered(early);
        assert!(!health.failed(early, 5));
        assert!(health.is_ejected());
        advance(THIRTY).await;
        assert_eq!(tries(&health), 1);
        assert!(health.failed(Instant::now(), 5), "one failure is enough");
        let length = health.eject(&rule(), None, Instant::now());
        assert!((60.0..66.0).contains(&length.as_secs_f64()), "{length:?}");
        assert_eq!(health.ejection(Instant::now()).unwrap().times, 2);
        advance(THIRTY * 2).await;
        assert_eq!(tries(&health), 1);
        // The trial came to nothing.
        advance(TRIAL).await;
        assert_eq!(tries(&health), 1);
        health.answered(Instant::now());
        assert_eq!(tries(&health), 20);
        assert_eq!(health.ejection(Instant::now()), None);
    }

    #[tokio::test(start_paused = true)]
    async fn ejections_grow_up_to_a_limit_and_are_forgotten_in_service() {
        let health = health();
        advance(SECOND).await;
        for _ in 0..9 {
            health.eject(&rule(), None, Instant::now());
        }
        let length = health.eject(&rule(), None, Instant::now());
        assert!((100.0..110.0).contains(&length.as_secs_f64()), "{length:?}");
        advance(SECOND).await;
        health.answered(Instant::now());
        // No more of them count than make up the longest.
        advance(rule().time * 3).await;
        health.eject(&rule(), None, Instant::now());
        assert_eq!(health.ejection(Instant::now()).unwrap().times, 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_connect_that_fails_does_not_shorten_an_ejection_nor_does_one_that_works() {
        let health = health();
        advance(SECOND).await;
        health.eject(&rule(), None, Instant::now());
        health.connect_failed(Instant::now(), Instant::now());
        health.connected();
        advance(SECOND * 20).await;
        assert_eq!(tries(&health), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn who_warms_up_has_a_growing_part_and_then_all() {
        let health = EndpointHealth::new(common(Some(SECOND * 10)));
        let part = || {
            let ask = |_: &i32| !health.is_passed_over(Instant::now());
            (0..10_000).filter(ask).count() as f64 / 1e4
        };
        assert_eq!(part(), 1.0, "nobody warms up by himself");
        health.warm_up(Instant::now());
        assert!(health.is_warming(Instant::now()));
        for (after, expected) in [(0, 0.1), (2, 0.2), (3, 0.5), (4, 0.9)] {
            advance(SECOND * after).await;
            let part = part();
            assert!((part - expected).abs() < 0.03, "{part} and not {expected}");
        }
        advance(SECOND).await;
        assert_eq!(part(), 1.0);
        assert!(!health.is_warming(Instant::now()));
    }

    #[tokio::test(start_paused = true)]
    async fn checks_that_pass_again_end_an_ejection() {
        let health = EndpointHealth::new(common(Some(SECOND * 10)));
        advance(SECOND).await;
        health.eject(&rule(), None, Instant::now());
        health.recovered();
        assert!(!health.is_ejected() && health.is_warming(Instant::now()));
        health.eject(&rule(), None, Instant::now());
        assert_eq!(health.ejection(Instant::now()).unwrap().times, 1);
    }
}
