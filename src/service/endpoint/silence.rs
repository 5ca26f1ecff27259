//! An endpoint that has fallen silent: requests wait there for longer than its own latencies and its
//! peers' explain, while these answer. It is doubted at once, and gets one request now and then until
//! it answers. Looked at only when a request is about to be sent to it, and only where others have
//! waited there for a while: it costs nothing while all answer.
//!
//! How much a silence proves is how unlikely it is: for each request that waits, the part of the
//! latencies of late that are longer than half of its wait. An endpoint that is twice as slow as it
//! was does not fall silent, then, nor does one of whose requests many are long polls.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use crate::{
    service::{Service, View, WorkerEndpoint, log_lines},
    upstream::{LatencySum, Quiet},
};

/// No silence is shorter: a collector of garbage may take so long.
const LEAST: Duration = Duration::from_millis(50);
/// Nor is that of an endpoint of whose own latency next to nothing is known: it may be warming up.
const LEAST_UNKNOWN: Duration = Duration::from_millis(500);
/// So many answers say how long the next may take: of its own, and of its peers.
const KNOWN: u64 = 8;
const PEERS_KNOWN: u64 = 20;
/// However unlikely the wait of one request is, it counts for no more than this: requests that wait
/// together may do so for one reason.
const RAREST: f64 = 0.02;
/// How unlikely all waits together are, as a logarithm: three requests that wait for longer than any
/// before are enough.
const PROOF: f64 = 11.5;
/// How many peers are asked at most.
const PEERS: usize = 16;

/// Doubts the endpoint that a request was about to be sent to, if it has fallen silent. Returns whether
/// it has.
#[inline]
pub(crate) fn doubt_if_silent(
    service: &Service,
    worker: usize,
    view: &View,
    line: &Arc<WorkerEndpoint>,
    now: Instant,
) -> bool {
    line.pool().is_silence_due(now) && look(service, worker, view, line, now)
}

#[cold]
fn look(
    service: &Service,
    worker: usize,
    view: &View,
    line: &Arc<WorkerEndpoint>,
    now: Instant,
) -> bool {
    let own = line.pool().quiet(now);
    let rule = service.policy().eject.as_ref();
    let is_silent = rule.is_some_and(|rule| rule.silence)
        && own.for_at_least >= LEAST
        && !line.health().is_avoided_already()
        && Scene::of(view, line, now).is_some_and(|scene| scene.is_proof());
    line.pool().note_look(now);
    if is_silent && line.health().fall_silent(now) {
        service.stats(worker).silences.add_one();
        log_lines::silent(service.name(), line.pool().address());
    }
    is_silent
}

/// An endpoint's silence, and what it is held against.
#[derive(Debug, Default)]
struct Scene {
    /// What each worker knows of it.
    waits: Vec<Quiet>,
    own: LatencySum,
    peers: LatencySum,
    /// Peers that have something to do.
    peers_asked: usize,
    /// Those that have answered in the meantime.
    peers_answering: usize,
}

impl Scene {
    /// That of an endpoint among its peers in this view.
    fn of(view: &View, line: &WorkerEndpoint, now: Instant) -> Option<Self> {
        let snapshot = view.snapshot();
        let endpoints = &snapshot.endpoints;
        let place = endpoints.iter().position(|one| one.is_of(line))?;
        let mut scene = Self::default();
        for pool in endpoints[place].pools() {
            scene.waits.push(pool.quiet(now));
            pool.add_latencies(&mut scene.own);
        }
        let since = scene.since()?;
        let others = (endpoints.len() - 1).min(PEERS);
        let start = fastrand::usize(..endpoints.len());
        let round = (start..endpoints.len()).chain(0..start);
        for peer in round.filter(|other| *other != place).take(others) {
            let (mut answers, mut waits) = (false, false);
            for pool in endpoints[peer].pools() {
                let quiet = pool.quiet(now);
                answers |= quiet.heard.is_some_and(|ago| ago < since);
                waits |= quiet.waits.is_some();
                pool.add_latencies(&mut scene.peers);
            }
            scene.peers_asked += usize::from(answers || waits);
            scene.peers_answering += usize::from(answers);
        }
        Some(scene)
    }

    /// The waits of requests that no answer has overtaken, be it another worker's.
    fn unanswered(&self) -> impl Iterator<Item = &Quiet> {
        let heard = self.waits.iter().filter_map(|wait| wait.heard).min();
        let waits = self.waits.iter().filter(|wait| wait.waits.is_some());
        waits.filter(move |wait| heard.is_none_or(|heard| heard >= wait.for_at_least))
    }

    /// For how long the longest of them has lasted.
    fn since(&self) -> Option<Duration> {
        self.unanswered().map(|wait| wait.for_at_least).max()
    }

    fn is_proof(&self) -> bool {
        let is_known = self.own.count() >= KNOWN;
        let least = if is_known { LEAST } else { LEAST_UNKNOWN };
        let waits = self.unanswered().filter(|wait| wait.for_at_least >= least);
        let evidence =
            |wait: &Quiet| f64::from(wait.waiting) * self.surprise(wait.for_at_least / 2);
        self.peers_answering > 0
            && self.peers_answering * 2 >= self.peers_asked
            && self.peers.count() >= PEERS_KNOWN
            && waits.map(evidence).sum::<f64>() >= PROOF
    }

    /// How unlikely it is that an answer takes so long, as a logarithm.
    fn surprise(&self, time: Duration) -> f64 {
        let longer = |sum: &LatencySum| (sum.at_least(time) + 1) as f64 / (sum.count() + 1) as f64;
        let peers = longer(&self.peers);
        let own = (self.own.count() >= KNOWN).then(|| longer(&self.own));
        -own.map_or(peers, |own| own.max(peers)).max(RAREST).ln()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::testing::latencies;

    const MILLI: Duration = Duration::from_millis(1);

    /// Of four endpoints that take 10 ms, one that a worker has sent so many requests, which wait.
    fn scene(waiting: u32, millis: u32) -> Scene {
        let quiet = Quiet {
            heard: Some(MILLI * (millis + 20)),
            waits: Some(MILLI * (millis + 10)),
            waiting,
            for_at_least: MILLI * millis,
        };
        Scene {
            waits: vec![quiet],
            own: latencies(&[(MILLI * 10, 100)]),
            peers: latencies(&[(MILLI * 10, 300)]),
            peers_asked: 3,
            peers_answering: 3,
        }
    }

    #[test]
    fn three_requests_that_wait_for_longer_than_any_before_are_a_proof() {
        assert!(scene(3, 60).is_proof());
        assert!(!scene(2, 10_000).is_proof(), "two may have one reason");
        assert!(!scene(50, 40).is_proof(), "a short pause is none");
        // Twice as long as usual is not too long.
        let mut slow = scene(5, 60);
        slow.own = latencies(&[(MILLI * 40, 100)]);
        assert!(!slow.is_proof());
        // Nor is what takes the peers as long.
        slow = scene(5, 60);
        slow.peers = latencies(&[(MILLI * 40, 100)]);
        assert!(!slow.is_proof());
    }

    #[test]
    fn where_some_requests_are_slow_by_design_more_of_them_must_wait() {
        let some = latencies(&[(MILLI * 10, 90), (MILLI * 30_000, 10)]);
        let mut scene = scene(4, 1_000);
        (scene.own, scene.peers) = (some.clone(), some);
        assert!(!scene.is_proof());
        scene.waits[0].waiting = 6;
        assert!(scene.is_proof());
        // Where all are long polls nothing is too long that is no longer than those.
        let all = latencies(&[(MILLI * 30_000, 100)]);
        (scene.own, scene.peers) = (all.clone(), all);
        scene.waits[0].waiting = 1_000;
        scene.waits[0].for_at_least = MILLI * 29_000;
        assert!(!scene.is_proof());
    }

    #[test]
    fn who_has_answered_another_worker_in_the_meantime_is_not_silent() {
        let mut scene = scene(10, 200);
        assert!(scene.is_proof());
        scene.waits.push(Quiet {
            heard: Some(MILLI * 199),
            ..Quiet::default()
        });
        assert!(!scene.is_proof());
    }

    #[test]
    fn workers_add_up() {
        let mut scene = scene(2, 60);
        scene.waits.push(scene.waits[0]);
        assert!(scene.is_proof());
    }

    #[test]
    fn where_half_of_the_peers_are_silent_too_nothing_is_proved() {
        for (asked, answering, proved) in [(3, 2, true), (4, 2, true), (3, 1, false), (0, 0, false)]
        {
            let mut scene = scene(10, 200);
            (scene.peers_asked, scene.peers_answering) = (asked, answering);
            assert_eq!(scene.is_proof(), proved, "{answering} of {asked}");
        }
    }

    #[test]
    fn one_of_which_nothing_is_known_yet_has_more_time() {
        let mut scene = scene(5, 400);
        scene.own = LatencySum::default();
        assert!(!scene.is_proof());
        scene.waits[0].for_at_least = MILLI * 500;
        scene.waits[0].heard = None;
        assert!(scene.is_proof());
        scene.peers = latencies(&[(MILLI * 10, 10)]);
        assert!(!scene.is_proof(), "nor is anything known of its peers");
    }
}
