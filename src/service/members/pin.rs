//! Pins a service to a set that it had, for as long as an incident is looked at. What its
//! registries say meanwhile is heard and noted, and followed when the pin is off. Who is in the
//! pinned set is doubted, retried and drained as ever.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::MutexGuard;
use serde::Serialize;

use super::{
    MemberEvent, Members,
    history::{Listed, Pin, Why},
    shrink_guard,
};
use crate::{
    service::{Service, ServiceRef},
    term::{Term, TermError, TermStatus},
};

/// A pin, as the admin API shows it.
#[derive(Clone, Debug, Serialize)]
pub struct PinStatus {
    /// The number of the journal's entry whose set it is.
    pub set: u64,
    /// For how long.
    #[serde(flatten)]
    pub term: TermStatus,
}

/// Why a service cannot be pinned.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum PinError {
    /// Its endpoints are always the same.
    #[error("its endpoints stand in proxy.toml, and change with that file only")]
    Fixed,
    /// Nothing was read yet.
    #[error("nothing is known of it yet; wait until its registry was read")]
    Unread,
    /// No entry of that number is in the journal.
    #[error("its journal has no set {0}; it has {1} to {2}")]
    NoSuchSet(u64, u64, u64),
    /// No endpoint of that set could be picked.
    #[error("nobody in the set {0} is healthy; choose one with somebody to route to")]
    Nobody(u64),
    /// It would last for nothing or for ever.
    #[error(transparent)]
    Time(#[from] TermError),
}

/// Pins a service to the set that an entry of its journal made; without a number, to the one that it
/// has. An earlier pin ends. Must be called on a runtime that goes on.
///
/// # Errors
/// Why not; then nothing has changed.
pub fn pin(
    service: &Arc<Service>,
    number: Option<u64>,
    time: Duration,
) -> Result<PinStatus, PinError> {
    if service.policy().origin.registries().is_empty() {
        return Err(PinError::Fixed);
    }
    let reference = service.reference();
    let term = Term::begin(time, move |began| expire(&reference, began))?;
    let members = service.members();
    let journal = members.journal();
    let (first, last) = journal.numbers().ok_or(PinError::Unread)?;
    let entry = journal.entry(number);
    let entry = entry.ok_or(PinError::NoSuchSet(number.unwrap_or(last), first, last))?;
    let (number, set) = (entry.number, Arc::clone(&entry.set));
    if set.iter().all(|one| one.standing == Listed::Unhealthy) {
        return Err(PinError::Nobody(number));
    }
    let pin = Box::new(Pin::new(number, term));
    let status = PinStatus::of(&pin);
    shrink_guard::apply_to(members, service, MemberEvent::Pinned(pin, set));
    tracing::warn!(
        service = %service.name(), set = number, seconds = time.as_secs(),
        "pinned: whatever its registries say, its set stays what it is"
    );
    Ok(status)
}

/// Takes the pin off, and follows the registries again. Returns whether there was one.
pub fn unpin(service: &Arc<Service>) -> bool {
    end(service, service.members(), Why::Unpinned)
}

/// The pin, while the service stays with a set.
pub fn pin_of(service: &Service) -> Option<PinStatus> {
    service
        .members()
        .journal()
        .pin
        .as_deref()
        .map(PinStatus::of)
}

fn end(service: &Arc<Service>, members: MutexGuard<'_, Members>, why: Why) -> bool {
    if !members.is_pinned() {
        return false;
    }
    let expired = why == Why::PinExpired;
    tracing::warn!(service = %service.name(), expired, "no longer pinned: its registries are followed again");
    shrink_guard::apply_to(members, service, MemberEvent::Unpinned(why));
    true
}

fn expire(service: &ServiceRef, began: Instant) {
    let Some(service) = service.upgrade() else {
        return;
    };
    let members = service.members();
    let pin = members.journal().pin.as_ref();
    // A later pin has an end of its own.
    if pin.is_some_and(|pin| pin.term.is(began)) {
        end(&service, members, Why::PinExpired);
    }
}

impl PinStatus {
    pub(crate) fn of(pin: &Pin) -> Self {
        Self {
            set: pin.of,
            term: pin.term.status(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        registry::watch::Event,
        service::testing::{following, instance, lists},
    };

    fn says(service: &Service, ports: &[u16]) {
        lists(service, ports.iter().map(|port| instance(*port, true)));
    }

    fn ports(service: &Service) -> Vec<u16> {
        let members = service.members();
        let set = members.endpoints().standings();
        set.map(|(one, _)| one.address.port()).collect()
    }

    const HOUR: Duration = Duration::from_secs(3600);

    #[tokio::test(start_paused = true)]
    async fn a_pin_ends_at_its_time_and_no_earlier_one_ends_a_later_one() {
        let service = following("");
        assert_eq!(pin(&service, None, HOUR).unwrap_err(), PinError::Unread);
        says(&service, &[1, 2]);
        says(&service, &[1, 2, 3]);
        pin(&service, Some(1), HOUR).unwrap();
        assert_eq!(ports(&service), [1, 2]);
        tokio::time::sleep(HOUR / 2).await;
        pin(&service, None, HOUR).unwrap();
        tokio::time::sleep(HOUR * 3 / 4).await;
        says(&service, &[2, 3, 4]);
        assert_eq!(ports(&service), [1, 2], "the second pin holds");
        tokio::time::sleep(HOUR / 2).await;
        assert_eq!(ports(&service), [2, 3, 4]);
        assert!(!unpin(&service));
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_given_up_meanwhile_leaves_nobody_when_the_pin_ends() {
        let service = following("");
        says(&service, &[1, 2]);
        pin(&service, None, HOUR).unwrap();
        for event in [Event::Failed, Event::Stale] {
            service.apply(MemberEvent::Registry(0, event));
        }
        assert_eq!(ports(&service), [1, 2]);
        assert!(unpin(&service));
        assert!(service.is_empty());
    }
}
