//! Whether endpoints that take no connection would take one at the other host that their registry
//! has for them (behind a NAT or a published port an address is of no use, and the name is). It is
//! said, and changes nothing: which of the two is meant only a person knows.

use std::{sync::Arc, time::Duration};

use tokio::time::timeout;

use crate::{
    registry::OtherHost,
    service::{Service, ServiceRef, members::standing::Standing},
    upstream::{connect_to, is_for_want_of_descriptors},
};

/// No more often than this, whatever is refused.
const PAUSE: Duration = Duration::from_secs(10);

/// Endpoints that are looked at in one go.
const AT_ONCE: usize = 3;

/// Looks each time that an endpoint of the service takes no connection, and again until what was
/// found then is over.
pub(crate) async fn watch(service: ServiceRef, registry: Arc<str>, other: OtherHost) {
    loop {
        let Some(refusals) = service.upgrade().map(|service| service.refusals()) else {
            return;
        };
        if refusals.hint().is_none() {
            refusals.next().await;
        }
        if let Some(service) = service.upgrade() {
            let hint = look(&service, &registry, other).await;
            let before = refusals.replace_hint(hint.clone());
            if let Some(hint) = hint.filter(|hint| Some(hint) != before.as_ref()) {
                tracing::warn!(service = %service.name(), "{hint}");
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// What a person could do now.
async fn look(service: &Service, registry: &str, other: OtherHost) -> Option<Arc<str>> {
    let limit = service.policy().timeout.connect;
    for (host, port, name) in refused(service, other) {
        let connect = async |host: &str| timeout(limit, connect_to(host, port)).await;
        let takes = matches!(connect(&name).await, Ok(Ok(_)));
        // What this process lacks is not the host's fault.
        let refuses = async |host: &str| match connect(host).await {
            Ok(connected) => connected.is_err_and(|error| !is_for_want_of_descriptors(&error)),
            Err(_) => true,
        };
        if takes && refuses(&host).await {
            let setting = other.setting;
            let hint = format!(
                "{host}:{port} takes no connection, and {name}:{port} does; if that is the same \
                 instance, write registry.{registry}: {setting}"
            );
            return Some(hint.into());
        }
    }
    None
}

/// Some listed endpoints that took no connection: host, port, and their other host.
fn refused(service: &Service, other: OtherHost) -> Vec<(String, u16, String)> {
    let members = service.members();
    let refused = members.endpoints().all().filter_map(|member| {
        if member.standing() == Standing::Removed {
            return None;
        }
        let address = &member.instance.address;
        let name = member.instance.meta.get(other.meta)?;
        // A unix socket is on no other host.
        let is_other = address.path().is_none() && !name.eq_ignore_ascii_case(&address.host());
        (is_other && member.endpoint.health().has_refused())
            .then(|| (address.host().into_owned(), address.port(), name.clone()))
    });
    refused.take(AT_ONCE).collect()
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;
    use crate::{
        instance::Instance,
        service::members::{
            MemberEvent,
            testing::{instance, line, service},
        },
    };

    #[tokio::test]
    async fn an_endpoint_that_is_gone_is_looked_at_no_more() {
        let service = service("", 0..0);
        let named = Instance {
            meta: [("host".into(), "other.example".into())].into(),
            ..instance(1, true)
        };
        service.apply(MemberEvent::Fixed(vec![Arc::new(named)]));
        let now = Instant::now();
        line(&service, 0).health().connect_failed(now, now);
        let other = OtherHost {
            meta: "host",
            setting: "host = \"name\"",
        };
        assert_eq!(refused(&service, other).len(), 1);
        service.apply(MemberEvent::Fixed(Vec::new()));
        assert_eq!(refused(&service, other), []);
    }
}
