//! Whether an endpoint answers far worse than its peers do: a sequential test of two proportions,
//! that of its answers which say that it is ill, and that of theirs over the same time. An attempt that
//! brings no answer counts as one that says so: a reset or a time-out between good answers is never one
//! of many in a row. Where all of
//! them fail alike, be it all at once, nothing is proved. Costs nothing but a load while no answer is
//! ill. Knows nothing of ejections.
//!
//! It is Wald's test with the peers' proportion for the one hypothesis, and half the way from there to
//! "all of them" for the other. (Envoy's outlier detection by success rate compares with the mean and
//! the deviation of many endpoints over ten seconds; with four of them there is no deviation to
//! speak of, and ten seconds are long.)

use std::{
    fmt,
    sync::{
        OnceLock,
        atomic::{
            AtomicBool, AtomicU64,
            Ordering::{Acquire, Relaxed, Release},
        },
    },
    time::Duration,
};

use http::StatusCode;
use parking_lot::{Mutex, MutexGuard};
use tokio::time::Instant;

use crate::metrics::Counter;

/// What one worker has heard of all endpoints of a view.
#[derive(Debug, Default)]
pub struct Heard {
    /// Heads of answers, and attempts that brought none.
    pub answers: Counter,
    /// Those which say that an endpoint is ill, and the attempts.
    pub ill: Counter,
}

/// Answers, and those of them which say that an endpoint is ill; an attempt without one counts so.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Count {
    pub(crate) answers: u64,
    pub(crate) ill: u64,
}

impl Count {
    pub(crate) fn of<'h>(heard: impl Iterator<Item = &'h Heard>) -> Self {
        heard.fold(Self::default(), |all, one| Self {
            answers: all.answers + one.answers.value(),
            ill: all.ill + one.ill.value(),
        })
    }

    /// Workers count apart: what is read of one may be ahead of another.
    fn less(self, other: Self) -> Self {
        let answers = self.answers.saturating_sub(other.answers);
        let ill = self.ill.saturating_sub(other.ill);
        Self {
            answers,
            ill: ill.min(answers),
        }
    }
}

/// How many were ill, in words.
impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}", self.ill, self.answers)
    }
}

/// Whether a status says that its endpoint is ill. That something is not implemented, or not in this
/// version, is a word on the request; and that a network wants a log-in, on the way there.
pub(crate) fn is_ill(status: StatusCode) -> bool {
    status.is_server_error() && !matches!(status.as_u16(), 501 | 505 | 506 | 510 | 511)
}

/// A proof that an endpoint answers far worse than its peers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Proof {
    pub(crate) own: Count,
    pub(crate) peers: Count,
}

/// What an endpoint's answers are held against.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peers {
    /// What all endpoints have answered until now, this one among them.
    pub(crate) all: Count,
    /// How many endpoints these are.
    pub(crate) endpoints: usize,
    /// Whether keys lead requests to them: what one client or one URL asks for may then be this
    /// one's alone.
    pub(crate) keyed: bool,
}

/// The cases against one endpoint, one for each view that it is called by, by the view's number. Made
/// when its first ill answer comes.
#[derive(Debug, Default)]
pub(crate) struct Suspicion(OnceLock<Box<Cases>>);

#[derive(Debug)]
struct Cases {
    /// Of the views that there were then.
    first: Box<[Case]>,
    /// Of those with higher numbers, which came later.
    more: Suspicion,
}

/// A test that is open from an ill answer to a proof, or until the endpoint turns out to be like its
/// peers.
#[derive(Debug, Default)]
struct Case {
    is_open: AtomicBool,
    /// Its answers since the case was opened, ill or not.
    answers: AtomicU64,
    file: Mutex<File>,
}

#[derive(Debug, Default)]
struct File {
    /// Its ill answers since the case was opened.
    ill: u64,
    /// What all had answered when it was opened.
    all: Count,
    /// What counts as proved from the beginning.
    head_start: f64,
    usual: Usual,
}

/// How sure a proof is, as a logarithm. That of four endpoints with equal luck one is found ill by
/// mistake happens at most once in a million answers where a tenth of all are ill, and hardly ever once
/// that is known to be usual; one that always fails takes ten answers to be found out.
const PROOF: f64 = 18.0;
/// What is left to prove against an endpoint that is just back: three ill answers.
const TO_PROVE_AGAIN: f64 = 2.0;
/// The least of its ill answers, and of its peers' answers, that prove anything.
const LEAST: u64 = 5;

impl Suspicion {
    /// Notes an answer to a request of this view that does not say that the endpoint is ill.
    #[inline]
    pub(crate) fn note_well(&self, view: usize) {
        if let Some(case) = self.case(view)
            && case.is_open.load(Acquire)
        {
            case.answers.fetch_add(1, Relaxed);
        }
    }

    /// Notes an answer to a request of this view, of which there are so many, that says that the
    /// endpoint is ill. Returns the proof that it is, once there is one.
    #[cold]
    pub(crate) fn note_ill(
        &self,
        (view, views): (usize, usize),
        peers: &Peers,
        now: Instant,
    ) -> Option<Proof> {
        let case = self.case_or_new(view, views);
        let mut file = case.file();
        let usual = file.usual.share(peers, now);
        let before = peers.all.less(Count { answers: 1, ill: 1 });
        if !case.is_open.load(Acquire) {
            case.open(&mut file, before, 0.0);
        }
        file.ill += 1;
        let own = Count {
            answers: 1 + case.answers.fetch_add(1, Relaxed),
            ill: file.ill,
        };
        let others = peers.all.less(file.all).less(own);
        let score = file.head_start + score(own, others, usual, peers.keyed);
        if score <= 0.0 {
            // So far it is like its peers.
            case.open(&mut file, before, 0.0);
            case.answers.store(1, Relaxed);
            file.ill = 1;
            return None;
        }
        let is_enough = file.head_start > 0.0 || (own.ill >= LEAST && others.answers >= LEAST);
        if score < PROOF || !is_enough {
            return None;
        }
        case.is_open.store(false, Release);
        Some(Proof { own, peers: others })
    }

    /// The endpoint is back after it was ejected for its answers: little has to be proved against it
    /// until it has shown that it is well. `all` is what all have answered, by view.
    pub(crate) fn expect_relapse(&self, all: impl Fn(usize) -> Count) {
        for (view, case) in self.all().enumerate() {
            case.open(&mut case.file(), all(view), PROOF - TO_PROVE_AGAIN);
        }
    }

    /// What was noted until now proves nothing any more.
    pub(crate) fn forget(&self) {
        self.all()
            .for_each(|case| case.is_open.store(false, Release));
    }

    /// The views are others from now on, though they may have the numbers of those before.
    pub(crate) fn begin_anew(&self) {
        for case in self.all() {
            let mut file = case.file();
            case.is_open.store(false, Release);
            *file = File::default();
        }
    }

    fn case(&self, view: usize) -> Option<&Case> {
        let cases = self.0.get()?;
        let before = cases.first.len();
        match cases.first.get(view) {
            None => cases.more.case(view - before),
            known => known,
        }
    }

    /// The case of a view, of which there are so many now.
    fn case_or_new(&self, view: usize, views: usize) -> &Case {
        let cases = self.0.get_or_init(|| {
            let first = (0..views.max(view + 1)).map(|_| Case::default());
            Box::new(Cases {
                first: first.collect(),
                more: Self::default(),
            })
        });
        let before = cases.first.len();
        match cases.first.get(view) {
            None => cases
                .more
                .case_or_new(view - before, views.saturating_sub(before)),
            Some(known) => known,
        }
    }

    /// All cases, in the order of the views' numbers.
    fn all(&self) -> impl Iterator<Item = &Case> {
        let parts = std::iter::successors(self.0.get(), |cases| cases.more.0.get());
        parts.flat_map(|cases| &cases.first)
    }
}

impl Case {
    fn file(&self) -> MutexGuard<'_, File> {
        self.file.lock()
    }

    fn open(&self, file: &mut File, all: Count, head_start: f64) {
        file.ill = 0;
        file.all = all;
        file.head_start = head_start;
        self.answers.store(0, Relaxed);
        self.is_open.store(true, Release);
    }
}

/// How much likelier its answers are if it is ill than if it is like its peers, as a logarithm. The
/// peers' share is that of the same time, with two ill answers more than there were, since few answers
/// say little; or what was usual before. Where keys lead requests to endpoints, a URL or a client that
/// always fails may be one endpoint's alone, and a third of its answers.
fn score(own: Count, peers: Count, usual: f64, keyed: bool) -> f64 {
    let (least, part) = if keyed {
        (0.3, 0.9)
    } else {
        (LEAST_SHARE, 0.5)
    };
    let theirs = (peers.ill + 2) as f64 / (peers.answers + 1) as f64;
    let theirs = theirs.max(usual).clamp(least, MOST_SHARE);
    let its = theirs + (1.0 - theirs) * part;
    let well = own.answers - own.ill;
    own.ill as f64 * (its / theirs).ln() + well as f64 * ((1.0 - its) / (1.0 - theirs)).ln()
}

/// Where peers never fail an endpoint that does now and then would be infinitely worse.
const LEAST_SHARE: f64 = 0.01;
const MOST_SHARE: f64 = 0.999;

/// What share of its peers' answers was ill before a case was opened: since a moment that is so long
/// ago at least, and the next such moment.
#[derive(Debug, Default)]
struct Usual {
    marks: [Option<Mark>; 2],
    /// The endpoint's own ill answers, ever.
    own: u64,
}

#[derive(Clone, Copy, Debug)]
struct Mark {
    at: Instant,
    all: Count,
    own: u64,
}

const USUAL: Duration = Duration::from_secs(30);

impl Usual {
    /// With one more of the endpoint's own.
    fn share(&mut self, peers: &Peers, now: Instant) -> f64 {
        self.own += 1;
        if self.marks[1].is_none_or(|mark| now.saturating_duration_since(mark.at) >= USUAL) {
            let (all, own) = (peers.all, self.own);
            self.marks = [self.marks[1], Some(Mark { at: now, all, own })];
        }
        let [Some(mark), _] = self.marks else {
            return 0.0;
        };
        let since = peers.all.less(mark.all);
        let ill = since.ill.saturating_sub(self.own - mark.own);
        // Its own answers are not counted apart: by far the most have their even share.
        let others = (peers.endpoints.max(2) - 1) as f64 / peers.endpoints.max(2) as f64;
        (ill as f64 / (since.answers.max(1) as f64 * others)).min(1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Endpoints that are called in turn, for one view.
    struct Stage {
        suspicions: Vec<Suspicion>,
        all: Count,
        keyed: bool,
        proved: Vec<(usize, Proof)>,
    }

    impl Stage {
        fn new(endpoints: usize) -> Self {
            Self {
                suspicions: (0..endpoints).map(|_| Suspicion::default()).collect(),
                all: Count::default(),
                keyed: false,
                proved: Vec::new(),
            }
        }

        fn answer(&mut self, n: usize, ill: bool) {
            self.all.answers += 1;
            self.all.ill += u64::from(ill);
            if !ill {
                return self.suspicions[n].note_well(0);
            }
            let peers = Peers {
                all: self.all,
                endpoints: self.suspicions.len(),
                keyed: self.keyed,
            };
            let proof = self.suspicions[n].note_ill((0, 1), &peers, Instant::now());
            self.proved.extend(proof.map(|proof| (n, proof)));
        }

        /// So many answers of each in turn, which are ill where this says so.
        fn rounds(&mut self, rounds: usize, mut ill: impl FnMut(usize) -> bool) {
            for _ in 0..rounds {
                for n in 0..self.suspicions.len() {
                    let ill = ill(n);
                    self.answer(n, ill);
                }
            }
        }

        /// How many rounds it takes until something is proved, or all of them.
        fn until_proved(&mut self, most: usize, mut ill: impl FnMut(usize) -> bool) -> usize {
            let rounds = (0..most).take_while(|_| {
                self.rounds(1, &mut ill);
                self.proved.is_empty()
            });
            rounds.count()
        }
    }

    /// Whether it happens, so many times of a hundred.
    fn now_and_then(random: &mut fastrand::Rng, percent: u32) -> bool {
        random.u32(..100) < percent
    }

    #[test]
    fn of_four_one_that_only_fails_is_found_out_after_ten_answers_whatever_was_before() {
        for before in [10, 100_000] {
            let mut stage = Stage::new(4);
            stage.rounds(before, |_| false);
            let rounds = stage.until_proved(100, |n| n == 2);
            assert!(rounds <= 10, "{rounds}");
            let [(2, proof)] = stage.proved[..] else {
                panic!("{:?}", stage.proved)
            };
            assert_eq!(proof.own.ill, proof.own.answers);
            assert_eq!(proof.peers.ill, 0);
        }
        let mut two = Stage::new(2);
        two.rounds(10, |_| false);
        let rounds = two.until_proved(100, |n| n == 0);
        assert!(rounds <= 14, "{rounds}");
    }

    #[test]
    fn one_that_fails_a_third_is_found_out_and_so_is_one_that_always_fails_among_some_that_do() {
        for (its, theirs, most) in [(33, 0, 60), (33, 1, 100), (100, 10, 25), (100, 30, 60)] {
            let mut random = fastrand::Rng::with_seed(7);
            let mut stage = Stage::new(4);
            let mut ill = |n| now_and_then(&mut random, if n == 0 { its } else { theirs });
            let rounds = stage.until_proved(1_000, &mut ill);
            assert!(rounds < most, "{its} beside {theirs}: {rounds}");
            assert_eq!(stage.proved[0].0, 0);
        }
    }

    #[test]
    fn nothing_is_proved_where_all_fail_alike_now_and_then_mostly_or_all_at_once() {
        for percent in [1, 5, 10, 30, 50, 90] {
            let mut random = fastrand::Rng::with_seed(percent.into());
            let mut stage = Stage::new(4);
            stage.rounds(20_000, |_| now_and_then(&mut random, percent));
            assert_eq!(stage.proved, [], "{percent} %");
        }
        let mut random = fastrand::Rng::with_seed(1);
        for _ in 0..200 {
            let mut stage = Stage::new(4);
            stage.rounds(1_000, |_| false);
            // Some of them notice first.
            for _ in 0..40 {
                let n = random.usize(..4);
                stage.answer(n, true);
            }
            stage.rounds(100, |_| true);
            stage.rounds(100, |_| false);
            assert_eq!(stage.proved, []);
        }
    }

    #[test]
    fn what_begins_to_fail_everywhere_now_and_then_proves_nothing_against_one() {
        let mut proved = 0;
        for seed in 0..100 {
            let mut random = fastrand::Rng::with_seed(seed);
            let mut stage = Stage::new(4);
            stage.rounds(10_000, |_| false);
            stage.rounds(1_000, |_| now_and_then(&mut random, 10));
            proved += stage.proved.len();
        }
        assert_eq!(proved, 0);
    }

    #[test]
    fn where_keys_lead_to_one_endpoint_alone_it_must_fail_two_thirds_of_them() {
        let mut random = fastrand::Rng::with_seed(3);
        let mut stage = Stage::new(4);
        stage.keyed = true;
        stage.rounds(5_000, |n| n == 0 && now_and_then(&mut random, 30));
        assert_eq!(stage.proved, []);
        let rounds = stage.until_proved(1_000, |n| n == 0 && now_and_then(&mut random, 90));
        assert!(rounds < 1_000);
    }

    #[test]
    fn one_that_is_back_is_found_out_after_three_until_it_has_shown_that_it_is_well() {
        let mut stage = Stage::new(4);
        stage.rounds(100, |_| false);
        stage.until_proved(100, |n| n == 1);
        stage.proved.clear();
        let all = stage.all;
        stage.suspicions[1].expect_relapse(|_| all);
        stage.answer(1, false);
        let rounds = stage.until_proved(100, |n| n == 1);
        assert!(rounds < 3, "{rounds}");

        stage.proved.clear();
        let all = stage.all;
        stage.suspicions[1].expect_relapse(|_| all);
        stage.rounds(60, |_| false);
        stage.rounds(4, |n| n == 1);
        assert_eq!(stage.proved, [], "it was well for long enough");
    }

    #[test]
    fn what_is_no_fault_of_an_endpoints_health_is_told_apart() {
        let ill = |code| is_ill(StatusCode::from_u16(code).unwrap());
        assert!([500, 502, 503, 504, 507, 599].into_iter().all(ill));
        assert!(![200, 404, 429, 501, 505, 511].into_iter().any(ill));
    }

    #[test]
    fn views_that_come_later_have_cases_of_their_own_and_numbers_may_be_used_again() {
        let suspicion = Suspicion::default();
        let peers = |answers, ill| Peers {
            all: Count { answers, ill },
            endpoints: 4,
            keyed: false,
        };
        let now = Instant::now();
        let proved = |view: usize, views: usize| {
            let ill = |n| suspicion.note_ill((view, views), &peers(40 + 4 * n, n), now);
            (1..30).find(|n| ill(*n).is_some())
        };
        let first = proved(0, 1);
        assert!(first.is_some());
        assert_eq!((proved(3, 4), proved(1, 4)), (first, first));
        assert_eq!(suspicion.all().count(), 4);
        // Half of a case is forgotten.
        for n in 1..4 {
            assert_eq!(suspicion.note_ill((2, 4), &peers(40 + 4 * n, n), now), None);
        }
        suspicion.begin_anew();
        assert_eq!(proved(2, 4), first);
        suspicion.note_well(7);
    }
}
