//! The checks that run, each of them once for all services that want it of the same endpoint; and
//! what its results come to. Ends with the last service that wants it.

use std::{
    collections::HashMap,
    panic::AssertUnwindSafe,
    sync::{Arc, LazyLock, Weak},
    time::Duration,
};

use futures_util::FutureExt as _;
use parking_lot::Mutex;
use serde::Serialize;
use tokio::{sync::watch, time::sleep};
use tokio_util::task::AbortOnDropHandle;

use crate::{
    backoff::Repeated,
    config::{EndpointTls, Health},
    upstream::{Checked, NotPassed, Protocol, SendProxy, probe},
};

/// A new endpoint's first check runs within this time, however long the interval.
const FIRST_WITHIN: Duration = Duration::from_millis(500);
/// By how much of itself an interval is longer or shorter.
const JITTER: f64 = 0.1;

/// Checks that could not be made, which is said of all of them at times.
static NOT_MADE: LazyLock<Repeated> = LazyLock::new(Repeated::default);

/// What the checks of an endpoint come to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Checkup {
    /// Whether enough of them passed.
    pub passing: bool,
    /// Why the last one failed, if it did.
    pub error: Option<Arc<str>>,
}

/// What is known of a check.
#[derive(Clone, Debug, Default)]
pub(crate) struct Findings {
    /// `None` before the first result.
    pub(crate) checkup: Option<Checkup>,
    pub(crate) passed: u64,
    pub(crate) failed: u64,
}

/// The checks that run.
#[derive(Debug, Default)]
pub(crate) struct Prober(Mutex<HashMap<Key, Weak<RunningCheck>>>);

/// Checks that are the same, and therefore made once.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Key {
    address: String,
    protocol: Protocol,
    send_proxy: SendProxy,
    tls: Option<EndpointTls>,
    health: Health,
}

/// A check that runs until the last clone of its `Arc` is dropped.
#[derive(Debug)]
pub(crate) struct RunningCheck {
    findings: watch::Sender<Findings>,
    _task: AbortOnDropHandle<()>,
}

impl RunningCheck {
    /// What is known, and whenever something is found.
    pub(crate) fn follow(&self) -> watch::Receiver<Findings> {
        let mut findings = self.findings.subscribe();
        findings.mark_changed();
        findings
    }
}

impl Prober {
    /// The check of this endpoint, with these settings. It begins where no other service has it
    /// already. `tls` has the settings for an endpoint that is asked over TLS.
    pub(crate) fn check(
        &self,
        whom: Checked,
        tls: Option<&EndpointTls>,
        health: &Health,
    ) -> Arc<RunningCheck> {
        let key = Key {
            address: whom.address.to_string(),
            protocol: whom.protocol,
            send_proxy: whom.send_proxy,
            tls: tls.cloned(),
            health: health.clone(),
        };
        let mut running = self.0.lock();
        if let Some(there) = running.get(&key).and_then(Weak::upgrade) {
            return there;
        }
        running.retain(|_, check| check.strong_count() > 0);
        let findings = watch::Sender::new(Findings::default());
        let task = tokio::spawn(run(whom, health.clone(), findings.clone()));
        let started = Arc::new(RunningCheck {
            findings,
            _task: AbortOnDropHandle::new(task),
        });
        running.insert(key, Arc::downgrade(&started));
        started
    }
}

async fn run(whom: Checked, health: Health, findings: watch::Sender<Findings>) {
    // Spread out, so that checks that were begun at once do not run at once.
    let first = health.interval.min(FIRST_WITHIN);
    sleep(first.mul_f64(fastrand::f64())).await;
    let mut row = Streak::default();
    loop {
        let checking = AssertUnwindSafe(probe(&whom, &health.ask, health.timeout)).catch_unwind();
        let result = checking
            .await
            .unwrap_or_else(|_| Err("the check panicked".to_owned().into()));
        row.take(result, &health, &findings);
        let jitter = 1.0 + JITTER * (2.0 * fastrand::f64() - 1.0);
        sleep(health.interval.mul_f64(jitter)).await;
    }
}

/// Results in a row.
#[derive(Debug, Default)]
struct Streak {
    passing: Option<bool>,
    /// Those that say otherwise.
    against: u32,
}

impl Streak {
    /// Takes a result over, and tells what all of them come to. A check that could not be made is
    /// none: what was found before stands.
    fn take(
        &mut self,
        result: Result<(), NotPassed>,
        health: &Health,
        findings: &watch::Sender<Findings>,
    ) {
        let error = match result {
            Ok(()) => None,
            Err(NotPassed::Failed(found)) => Some(found.into()),
            Err(error @ NotPassed::NotMade(_)) => {
                if let Some(times) = NOT_MADE.note() {
                    tracing::warn!(%error, times, "an endpoint cannot be checked");
                }
                return;
            }
        };
        findings.send_modify(|findings| {
            let passed = error.is_none();
            if passed {
                findings.passed += 1;
            } else {
                findings.failed += 1;
            }
            let passing = self.comes_to(passed, health);
            findings.checkup = Some(Checkup { passing, error });
        });
    }

    /// Whether it passes, with this result: the first decides at once, and later ones where there
    /// are enough of them.
    fn comes_to(&mut self, passed: bool, health: &Health) -> bool {
        let passing = *self.passing.get_or_insert(passed);
        if passed == passing {
            self.against = 0;
            return passing;
        }
        self.against += 1;
        if self.against >= if passed { health.rise } else { health.fall } {
            self.against = 0;
            self.passing = Some(passed);
        }
        self.passing == Some(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config::HealthAsk, instance::Address};

    fn health() -> Health {
        Health {
            ask: HealthAsk::Tcp,
            port: None,
            interval: Duration::from_secs(5),
            timeout: Duration::from_secs(1),
            rise: 2,
            fall: 3,
        }
    }

    #[test]
    fn the_first_result_decides_and_then_it_takes_some_in_a_row() {
        let comes_to = |results: &str| {
            let mut row = Streak::default();
            let passing = |result| row.comes_to(result == '+', &health());
            let shown = |passing| if passing { '+' } else { '-' };
            results.chars().map(passing).map(shown).collect::<String>()
        };
        assert_eq!(comes_to("+--+---+-++"), "++++++----+");
        assert_eq!(comes_to("-+-++--+---"), "----++++++-");
    }

    #[test]
    fn a_check_that_could_not_be_made_leaves_what_was_found() {
        let health = health();
        let findings = watch::Sender::new(Findings::default());
        let mut row = Streak::default();
        let mut passing = |result: Result<(), NotPassed>| {
            row.take(result, &health, &findings);
            let found = findings.borrow();
            (
                found.checkup.as_ref().map(|one| one.passing),
                found.passed + found.failed,
            )
        };
        let unmade = || {
            let error = nix::errno::Errno::EMFILE as i32;
            Err(NotPassed::NotMade(std::io::Error::from_raw_os_error(error)))
        };
        let failed = || Err("no answer".to_owned().into());
        assert_eq!(passing(unmade()), (None, 0), "nothing is known yet");
        assert_eq!(passing(Ok(())), (Some(true), 1));
        for _ in 0..5 {
            assert_eq!(passing(unmade()), (Some(true), 1));
        }
        for (made, expected) in [(2, true), (3, true), (4, false)] {
            assert_eq!(passing(failed()), (Some(expected), made));
            assert_eq!(passing(unmade()), (Some(expected), made));
        }
    }

    #[tokio::test]
    async fn one_check_runs_for_all_who_want_it_and_ends_with_the_last() {
        let prober = Prober::default();
        let check = |port, tls: Option<&EndpointTls>| {
            let whom = Checked {
                address: Address::new("127.0.0.1", port).unwrap(),
                handshake: None,
                protocol: Protocol::Http1,
                send_proxy: None,
            };
            prober.check(whom, tls, &health())
        };
        let one = check(1, None);
        let same = check(1, None);
        assert!(Arc::ptr_eq(&one, &same));
        let others = [check(2, None), check(1, Some(&EndpointTls::default()))];
        assert!(others.iter().all(|other| !Arc::ptr_eq(&one, other)));
        let weak = Arc::downgrade(&one);
        drop(one);
        assert!(weak.upgrade().is_some());
        drop(same);
        assert!(weak.upgrade().is_none());
        drop(check(3, None));
        let _other = check(4, None);
        assert_eq!(prober.0.lock().len(), 3, "the dead are forgotten");
    }
}
