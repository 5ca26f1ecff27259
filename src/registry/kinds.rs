//! Which code reads which kind of registry.

use std::sync::Arc;

use super::{BuildError, Registry, consul, dns, etcd, etcd2, eureka, file, zookeeper};
use crate::config::RegistryKind;

/// The registry that `[registry.NAME]` describes. Connects to nothing yet.
///
/// # Errors
/// Where its settings cannot be used, such as a TLS file that cannot be read.
pub fn open(name: &str, kind: &RegistryKind) -> Result<Arc<dyn Registry>, BuildError> {
    Ok(match kind {
        RegistryKind::Consul(settings) => Arc::new(consul::Consul::new(name, settings)?),
        RegistryKind::ZooKeeper(settings) => Arc::new(zookeeper::ZooKeeper::new(name, settings)),
        RegistryKind::Etcd(settings) => Arc::new(etcd::Etcd::new(name, settings)?),
        RegistryKind::Etcd2(settings) => Arc::new(etcd2::Etcd2::new(name, settings)?),
        RegistryKind::Dns(settings) => Arc::new(dns::Dns::new(name, settings)),
        RegistryKind::File(settings) => Arc::new(file::File::new(name, settings)),
        RegistryKind::Eureka(settings) => Arc::new(eureka::Eureka::new(name, settings)?),
        // Read as any other client reads it.
        RegistryKind::Embedded(settings) => {
            Arc::new(consul::Consul::new(name, &consul::of_embedded(settings))?)
        }
    })
}
