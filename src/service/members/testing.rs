//! Services and instances for tests.

use std::{ops::Range, path::Path, sync::Arc};

use super::MemberEvent;
use crate::{
    config::Config,
    instance::{Address, Instance},
    service::{Service, WorkerEndpoint},
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
