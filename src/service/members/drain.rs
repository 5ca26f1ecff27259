//! Drains an endpoint for a while, as long as a person works on it: it gets no new requests, and those
//! that it has end. It is known by its address, so that it stays drained if it signs out and in again.
//! What its registries say of it is followed as ever.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::MutexGuard;

use super::{
    MemberEvent, Members,
    history::Why,
    maintenance::{DrainStatus, Maintenance},
    shrink_guard,
};
use crate::{
    instance::Address,
    service::{Service, ServiceRef},
    term::{Term, TermError},
};

/// Why an endpoint cannot be drained.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum DrainError {
    /// The service has no such endpoint.
    #[error("it has no endpoint `{0}`")]
    Unknown(String),
    /// It would last for nothing or for ever.
    #[error(transparent)]
    Time(#[from] TermError),
    /// No other endpoint could be picked.
    #[error("`{0}` is the last endpoint that can be picked{1}; `force` drains it all the same")]
    Last(Address, String),
}

/// Drains an endpoint, which is named by its address or its id. An earlier drain of it ends. Must be
/// called on a runtime that goes on.
///
/// # Errors
/// Why not; then nothing has changed.
pub fn drain(
    service: &Arc<Service>,
    endpoint: &str,
    time: Duration,
    forced: bool,
) -> Result<DrainStatus, DrainError> {
    let reference = service.reference();
    let members = service.members();
    let address = members.endpoints().address_of(endpoint);
    let address = address.ok_or_else(|| DrainError::Unknown(endpoint.to_owned()))?;
    let of = address.clone();
    let term = Term::begin(time, move |began| expire(&reference, of, began))?;
    if let Some(of) = leaves_none(service, &members, &address).filter(|_| !forced) {
        return Err(DrainError::Last(address, of));
    }
    let maintenance = Box::new(Maintenance { term, forced });
    let event = MemberEvent::Drained(address.clone(), maintenance);
    shrink_guard::apply_to(members, service, event);
    tracing::warn!(
        service = %service.name(), endpoint = %address, seconds = time.as_secs(), forced,
        "an endpoint is drained: it gets no new requests"
    );
    let drains = service.drains();
    let drained = drains.into_iter().find(|one| one.endpoint == address);
    // One that ended meanwhile.
    drained.ok_or_else(|| DrainError::Unknown(endpoint.to_owned()))
}

/// Ends a drain. Returns whether there was one.
pub fn undrain(service: &Arc<Service>, endpoint: &str) -> bool {
    let members = service.members();
    let address = members.endpoints().drained(endpoint);
    match address {
        Some(address) => {
            end(service, members, address, false);
            true
        }
        None => false,
    }
}

/// Of which subset, in words, an endpoint is the last that can be picked; an empty text is of all.
fn leaves_none(service: &Service, members: &Members, address: &Address) -> Option<String> {
    // Requests still go by views of policies of the past, which no route wants any more.
    let mut views = service.all_views();
    let last = views.find(|view| {
        let wants = |instance: &_| view.wants(instance);
        members.endpoints().is_last(address, wants)
    })?;
    let subset = last
        .subset()
        .map(|subset| format!(" of those with {subset}"));
    Some(subset.unwrap_or_default())
}

fn end(service: &Arc<Service>, members: MutexGuard<'_, Members>, address: Address, expired: bool) {
    tracing::warn!(
        service = %service.name(), endpoint = %address, expired,
        "an endpoint is no longer drained"
    );
    let endpoint = address.clone();
    let why = match expired {
        true => Why::DrainExpired { endpoint },
        false => Why::Undrained { endpoint },
    };
    shrink_guard::apply_to(members, service, MemberEvent::Undrained(address, why));
}

fn expire(service: &ServiceRef, address: Address, began: Instant) {
    let Some(service) = service.upgrade() else {
        return;
    };
    let members = service.members();
    let now = members.endpoints().drains().get(&address);
    // A later one has an end of its own.
    if now.is_some_and(|now| now.term.is(began)) {
        end(&service, members, address, true);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        instance::Instance,
        service::{
            EndpointState, ServiceStatus,
            testing::{following, instance, lists, ports, said},
        },
    };

    fn service() -> Arc<Service> {
        service_of("", [1, 2].map(|port| instance(port, true)))
    }

    fn service_of(lines: &str, instances: impl IntoIterator<Item = Instance>) -> Arc<Service> {
        let service = following(lines);
        lists(&service, instances);
        service
    }

    fn tagged(port: u16, tag: &str) -> Instance {
        Instance {
            tags: vec![tag.to_owned()],
            ..instance(port, true)
        }
    }

    const SUBSET: &str = "[service.cart]\nguard = false\n\
        [[route]]\npath = \"/v2\"\ntags = [\"v2\"]\nservice = \"cart\"\n";

    fn picked(service: &Service) -> Vec<u16> {
        ports(service.main())
    }

    const HOUR: Duration = Duration::from_secs(3600);

    #[tokio::test(start_paused = true)]
    async fn a_drain_ends_at_its_time_and_no_earlier_one_ends_a_later_one() {
        let service = service();
        let address = instance(1, true).address.to_string();
        drain(&service, &address, HOUR, false).unwrap();
        assert_eq!(picked(&service), [2]);
        tokio::time::sleep(HOUR / 2).await;
        let again = drain(&service, &address, HOUR, false).unwrap();
        assert_eq!(again.endpoint.to_string(), address);
        tokio::time::sleep(HOUR * 3 / 4).await;
        assert_eq!(picked(&service), [2], "the second one holds");
        tokio::time::sleep(HOUR / 2).await;
        assert_eq!(picked(&service), [1, 2]);
        assert!(!undrain(&service, &address));
        let why: Vec<_> = service
            .changes()
            .into_iter()
            .map(|entry| entry.why)
            .collect();
        assert!(matches!(
            why[..],
            [
                Why::DrainExpired { .. },
                Why::Drained { .. },
                Why::Drained { .. },
                Why::Registry { .. }
            ]
        ));
    }

    #[tokio::test(start_paused = true)]
    async fn what_cannot_be_drained_is_refused_and_changes_nothing() {
        let service = service();
        let (first, last) = (instance(1, true), instance(2, true));
        for (name, time, error) in [
            ("none", HOUR, DrainError::Unknown("none".to_owned())),
            (&*first.id, Duration::ZERO, DrainError::Time(TermError)),
            (&*first.id, HOUR * 25, DrainError::Time(TermError)),
        ] {
            assert_eq!(drain(&service, name, time, true).unwrap_err(), error);
        }
        drain(&service, &first.id, HOUR, false).unwrap();
        let error = drain(&service, &last.id, HOUR, false).unwrap_err();
        assert_eq!(error, DrainError::Last(last.address, String::new()));
        assert_eq!(picked(&service), [2]);
        drain(&service, &last.id, HOUR, true).unwrap();
        // The one that is not forced yields.
        assert_eq!(picked(&service), [1]);
        assert!(undrain(&service, &last.id));
        assert_eq!(picked(&service), [2]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_drain_that_yields_for_a_subset_says_so_and_the_endpoint_is_shown_as_what_it_is() {
        let service = service_of(SUBSET, [tagged(1, "v1"), tagged(2, "v2"), tagged(3, "v2")]);
        let shown = || {
            let status = ServiceStatus::of(&service);
            let drain = status.drains[0].clone();
            (drain.holds, drain.yields_for, status.endpoints[1].state)
        };
        let id = instance(2, true).id;
        drain(&service, &id, HOUR, false).unwrap();
        assert_eq!(shown(), (true, vec![], EndpointState::Maintenance));
        lists(&service, [tagged(1, "v1"), tagged(2, "v2")]);
        let of_v2 = service.views()[0].snapshot();
        assert_eq!(of_v2.endpoints.len(), 1, "there is no other");
        assert_eq!(picked(&service), [1]);
        let subset = vec!["tag `v2`".to_owned()];
        assert_eq!(shown(), (false, subset, EndpointState::Serving));
    }

    #[tokio::test(start_paused = true)]
    async fn a_subset_that_no_file_has_any_more_keeps_no_endpoint_from_a_drain() {
        let before = service_of(SUBSET, [tagged(1, "v1"), tagged(2, "v2")]);
        let id = instance(2, true).id;
        let error = drain(&before, &id, HOUR, false).unwrap_err();
        assert!(
            error.to_string().contains("of those with tag `v2`"),
            "{error}"
        );
        let (policy, tls, subsets) = said("[service.cart]\nguard = false\n");
        let after = before.renewed(policy, tls, subsets, false);
        // Requests go by the views of before still.
        assert_eq!(before.views().len(), 1);
        drain(&after, &id, HOUR, false).unwrap();
        assert_eq!(picked(&after), [1]);
    }
}
