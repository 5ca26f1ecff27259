//! Has an endpoint be picked by another weight for a while than its registry, or the file, says: a machine that is
//! new, or that is suspected, gets less. It is known by its address, as one that is drained is.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::MutexGuard;

use super::{
    MemberEvent, Members,
    history::Why,
    other_weight::{OtherWeight, WeightStatus},
    shrink_guard,
};
use crate::{
    instance::{Address, MAX_WEIGHT},
    service::{Service, ServiceRef},
    term::{Term, TermError},
};

/// Why an endpoint's weight stays what it is.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum WeightError {
    /// The service has no such endpoint.
    #[error("it has no endpoint `{0}`")]
    Unknown(String),
    /// It would last for nothing or for ever.
    #[error(transparent)]
    Time(#[from] TermError),
    /// No request looks at weights.
    #[error("its balance `{0}` heeds no weights")]
    Ignored(&'static str),
    /// No request that looks at weights comes to it.
    #[error("no balance that heeds weights picks `{0}`: its tags and metadata are of other routes")]
    Elsewhere(String),
    /// It is none.
    #[error("a weight is 1 to {MAX_WEIGHT}; a drain keeps all requests away")]
    Weight,
}

/// Has an endpoint, which is named by its address or its id, be picked by another weight. An earlier one of it
/// ends. Must be called on a runtime that goes on.
///
/// # Errors
/// Why not; then nothing has changed.
pub fn reweigh(
    service: &Arc<Service>,
    endpoint: &str,
    weight: u32,
    time: Duration,
) -> Result<WeightStatus, WeightError> {
    if weight == 0 || weight > MAX_WEIGHT {
        return Err(WeightError::Weight);
    }
    if !service.heeds_weights_of(None) {
        return Err(WeightError::Ignored(service.policy().balance.as_str()));
    }
    let reference = service.reference();
    let members = service.members();
    let address = members.endpoints().address_of(endpoint);
    let address = address.ok_or_else(|| WeightError::Unknown(endpoint.to_owned()))?;
    let is_heeded = {
        let mut instances = members.endpoints().instances_at(&address);
        instances.any(|instance| service.heeds_weights_of(Some(instance)))
    };
    if !is_heeded {
        return Err(WeightError::Elsewhere(endpoint.to_owned()));
    }
    let of = address.clone();
    let term = Term::begin(time, move |began| expire(&reference, &of, began))?;
    let other = Box::new(OtherWeight { weight, term });
    let status = other.status(&address, true);
    let event = MemberEvent::Reweighed(address.clone(), other);
    shrink_guard::apply_to(members, service, event);
    tracing::warn!(
        service = %service.name(), endpoint = %address, weight, seconds = time.as_secs(),
        "an endpoint has another weight for a while"
    );
    Ok(status)
}

/// Has it be picked by its own weight again. Returns whether it had another.
pub fn unweigh(service: &Arc<Service>, endpoint: &str) -> bool {
    let members = service.members();
    let address = members.endpoints().reweighed(endpoint);
    match address {
        Some(address) => {
            end(service, members, address, false);
            true
        }
        None => false,
    }
}

fn end(service: &Arc<Service>, members: MutexGuard<'_, Members>, address: Address, expired: bool) {
    let why = Why::Unweighed {
        endpoint: address.clone(),
    };
    let endpoint = address.to_string();
    shrink_guard::apply_to(members, service, MemberEvent::Unweighed(address, why));
    tracing::warn!(
        service = %service.name(), endpoint, expired,
        "an endpoint has its own weight again"
    );
}

fn expire(service: &ServiceRef, address: &Address, began: Instant) {
    let Some(service) = service.upgrade() else {
        return;
    };
    let members = service.members();
    let now = members.endpoints().other_weights().get(address);
    // A later one has an end of its own.
    if now.is_some_and(|now| now.term.is(began)) {
        end(&service, members, address.clone(), true);
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::{Duration, MAX_WEIGHT, Service, TermError, WeightError, reweigh, unweigh};
    use crate::service::{
        BalanceStats, ServiceStatus,
        testing::{service, update},
    };

    const WEIGHTED: &str = "balance = \"weighted\"";
    const HOUR: Duration = Duration::from_secs(3600);

    /// The weights by which endpoints are picked, in their order.
    fn weights(service: &Service) -> Vec<u32> {
        let status = ServiceStatus::of(service).endpoints;
        status.iter().map(|one| one.weight).collect()
    }

    /// How often the endpoint of the first port is picked of ten times.
    fn of_ten(service: &Service) -> usize {
        let (view, tally) = (service.main(), BalanceStats::default());
        let is_first = |_: &usize| {
            let turn = view.turn(None, &tally, Instant::now());
            let picked = view.pick(0, turn, &tally, Instant::now());
            picked.is_some_and(|one| one.pool().address().port() == 1)
        };
        (0..10).filter(is_first).count()
    }

    #[tokio::test(start_paused = true)]
    async fn another_weight_holds_for_a_while_and_what_the_registry_says_is_followed_meanwhile() {
        let service = service(WEIGHTED, 1..3);
        assert_eq!(of_ten(&service), 5);
        let status = reweigh(&service, "10.0.0.1:1", 4, HOUR).unwrap();
        assert_eq!(status.endpoint.to_string(), "10.0.0.1:1");
        assert_eq!((weights(&service), of_ten(&service)), (vec![4, 1], 8));
        tokio::time::sleep(HOUR / 2).await;
        reweigh(&service, "i1", 9, HOUR).unwrap();
        assert_eq!(of_ten(&service), 9);
        // It signs out and in again.
        update(&service, 2..3);
        update(&service, 1..3);
        assert_eq!(weights(&service), [9, 1]);
        tokio::time::sleep(HOUR * 3 / 4).await;
        assert_eq!(weights(&service), [9, 1], "the second one holds");
        assert_eq!(ServiceStatus::of(&service).weights.len(), 1);
        tokio::time::sleep(HOUR / 2).await;
        assert_eq!((weights(&service), of_ten(&service)), (vec![1, 1], 5));
        assert!(!unweigh(&service, "10.0.0.1:1"));
        reweigh(&service, "10.0.0.1:1", 4, HOUR).unwrap();
        assert!(unweigh(&service, "10.0.0.1:1"));
        assert_eq!(weights(&service), [1, 1]);
    }

    #[tokio::test]
    async fn what_is_no_weight_is_refused_and_changes_nothing() {
        let ignoring = service("", 1..3);
        let refused = reweigh(&ignoring, "i1", 2, HOUR);
        assert_eq!(refused.unwrap_err(), WeightError::Ignored("round_robin"));
        let service = service(WEIGHTED, 1..3);
        for (endpoint, weight, time, error) in [
            ("none", 1, HOUR, WeightError::Unknown("none".to_owned())),
            ("i1", 0, HOUR, WeightError::Weight),
            ("i1", MAX_WEIGHT + 1, HOUR, WeightError::Weight),
            ("i1", 2, HOUR * 25, WeightError::Time(TermError)),
        ] {
            let refused = reweigh(&service, endpoint, weight, time);
            assert_eq!(refused.unwrap_err(), error);
        }
        assert_eq!(weights(&service), [1, 1]);
    }
}
