//! Services and instances for tests.

use std::{ops::Range, path::Path, sync::Arc};

use super::MemberEvent;
use crate::{
    config::{self, Config},
    instance::{Address, Instance, InstanceSet},
    registry::watch::Event,
    service::{Service, View, WorkerEndpoint},
    upstream::Tls,
};

/// One of a worker's, with these lines of configuration, whose endpoints have these ports.
pub(in crate::service) fn service(lines: &str, ports: Range<u16>) -> Arc<Service> {
    let text = format!("[service.cart]\nguard = false\n{lines}\n[[route]]\nservice = \"cart\"\n");
    let config = Config::parse(&text, Path::new(".")).unwrap();
    let policy = config.services["cart"].clone();
    let tls = Arc::new(Tls::open(&policy.tls).unwrap());
    let service = Service::new("cart".into(), policy, tls, 1, [], Arc::default());
    update(&service, ports);
    Arc::new(service)
}

/// They have these now.
pub(in crate::service) fn update(service: &Service, ports: Range<u16>) {
    let instances = ports.map(|port| Arc::new(instance(port, true)));
    service.apply(MemberEvent::Fixed(instances.collect()));
}

/// What a file with these lines says of the service `cart`, which follows the registry `a`: its policy, and the
/// subsets of its routes.
pub(in crate::service) fn said(
    lines: &str,
) -> (Arc<config::Service>, Arc<Tls>, Vec<Arc<config::Subset>>) {
    let text = format!(
        "[registry.a]\nkind = \"consul\"\n[registry.b]\nkind = \"consul\"\n\
         [defaults]\nregistry = \"a\"\n{lines}\n[[route]]\nservice = \"cart\"\n"
    );
    let config = Config::parse(&text, Path::new(".")).unwrap();
    let policy = Arc::clone(&config.services["cart"]);
    let tls = Arc::new(Tls::open(&policy.tls).unwrap());
    let routes = config.routes.iter();
    let subsets = routes.filter_map(|route| route.subset.clone());
    (policy, tls, subsets.collect())
}

/// One that was never read.
pub(in crate::service) fn following(lines: &str) -> Arc<Service> {
    let (policy, tls, subsets) = said(lines);
    let changes = Arc::default();
    Arc::new(Service::new(
        "cart".into(),
        policy,
        tls,
        1,
        subsets,
        changes,
    ))
}

/// Its registry lists these.
pub(in crate::service) fn lists(service: &Service, instances: impl IntoIterator<Item = Instance>) {
    let set = InstanceSet::of(instances.into_iter().map(Ok));
    service.apply(MemberEvent::Registry(0, Event::State(set.into())));
}

/// The ports of the endpoints that a view picks from.
pub(in crate::service) fn ports(view: &View) -> Vec<u16> {
    let snapshot = view.snapshot();
    let endpoints = snapshot.endpoints.iter();
    endpoints.map(|one| one.id().address.port()).collect()
}

/// One of a service, by its port.
pub(in crate::service) fn instance(port: u16, healthy: bool) -> Instance {
    Instance {
        healthy,
        ..Instance::new(
            format!("i{port}"),
            Address::new("10.0.0.1", port.into()).unwrap(),
        )
    }
}

/// The way to one of those that may be picked.
pub(in crate::service) fn line(service: &Service, n: usize) -> Arc<WorkerEndpoint> {
    Arc::clone(service.main().snapshot().endpoints[n].of_worker(0))
}
