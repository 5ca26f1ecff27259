//! A service's own checks of its endpoints: each is checked for as long as the registry lists it,
//! and what the checks come to is taken over. Knows nothing of what a check does.

use std::{collections::HashMap, sync::Arc};

use tokio::sync::{mpsc, watch};
use tokio_util::task::AbortOnDropHandle;

use super::prober::{Findings, Prober, RunningCheck};
use crate::{
    config::{Health, HealthAsk},
    instance::Address,
    service::{Endpoint, EndpointId, Service, ServiceRef, members::MemberEvent},
    upstream::{Checked, Protocol, Transport},
};

/// An endpoint whose check is followed.
struct Followed {
    endpoint: Arc<Endpoint>,
    _check: Arc<RunningCheck>,
    _following: AbortOnDropHandle<()>,
}

/// What was found of an endpoint.
type Told = (Arc<Endpoint>, Findings);

/// Has a service's endpoints checked until it is gone.
pub(crate) async fn run(service: ServiceRef, health: Health, prober: Arc<Prober>) {
    let Some(mut published) = service.upgrade().map(|service| service.published()) else {
        return;
    };
    let (tell, mut told) = mpsc::unbounded_channel();
    let mut followed = HashMap::new();
    published.mark_changed();
    loop {
        tokio::select! {
            changed = published.changed() => {
                let Some(service) = service.upgrade().filter(|_| changed.is_ok()) else {
                    return;
                };
                follow(&service, &health, &prober, &mut followed, &tell);
            }
            // It never ends: one end of it is here.
            Some((endpoint, findings)) = told.recv() => {
                if let Some(service) = service.upgrade() {
                    service.apply(MemberEvent::Checked(endpoint, findings));
                }
            }
        }
    }
}

/// Begins and ends checks, so that they are those of the endpoints that are listed.
fn follow(
    service: &Service,
    health: &Health,
    prober: &Prober,
    followed: &mut HashMap<EndpointId, Followed>,
    tell: &mpsc::UnboundedSender<Told>,
) {
    let listed = service.members().endpoints().listed();
    followed.retain(|id, check| {
        let same = |endpoint: &Arc<Endpoint>| Arc::ptr_eq(endpoint, &check.endpoint);
        listed.get(id).is_some_and(same)
    });
    for (id, endpoint) in listed {
        if followed.contains_key(&id) {
            continue;
        }
        let port = health.port.map(i64::from);
        let at = |port| Address::new(&id.address.host(), port).ok();
        let address = port.and_then(at).unwrap_or_else(|| id.address.clone());
        let Transport { tls, protocol } = endpoint.transport();
        let protocol = match health.ask {
            HealthAsk::Grpc { .. } => Protocol::Http2,
            HealthAsk::Http(_) | HealthAsk::Tcp => protocol,
        };
        let handshake = tls.then(|| service.tls().handshake(&id.address, protocol));
        let whom = Checked {
            address,
            handshake: handshake.map(Arc::new),
            protocol,
            // At another port another server answers, which expects no header.
            send_proxy: match health.port {
                None => service.policy().pool.send_proxy,
                Some(_) => None,
            },
        };
        let settings = tls.then_some(&service.policy().tls);
        let check = prober.check(whom, settings, health);
        let findings = check.follow();
        // What was found before was another service's.
        let before = findings.borrow().clone();
        let following = forward(Arc::clone(&endpoint), findings, before, tell.clone());
        let check = Followed {
            endpoint,
            _check: check,
            _following: AbortOnDropHandle::new(tokio::spawn(following)),
        };
        followed.insert(id, check);
    }
}

/// Tells what is found of an endpoint, from what was known `before` on.
async fn forward(
    endpoint: Arc<Endpoint>,
    mut findings: watch::Receiver<Findings>,
    mut before: Findings,
    tell: mpsc::UnboundedSender<Told>,
) {
    while findings.changed().await.is_ok() {
        let now = findings.borrow_and_update().clone();
        let news = Findings {
            passed: now.passed - before.passed,
            failed: now.failed - before.failed,
            checkup: now.checkup.clone(),
        };
        before = now;
        if tell.send((Arc::clone(&endpoint), news)).is_err() {
            return;
        }
    }
}
