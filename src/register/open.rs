//! Which code signs in at which kind of registry.

use super::{Entry, Provider, consul, etcd, etcd2, eureka, zookeeper};
use crate::{
    config::RegistryKind,
    registry::{BuildError, consul::of_embedded},
};

/// The entry of a provider in the registry that `[registry.NAME]` describes. Connects to nothing
/// yet.
///
/// # Errors
/// Where the registry's settings cannot be used, or it has no such layout or check.
pub fn entry(
    name: &str,
    kind: &RegistryKind,
    provider: Provider,
) -> Result<Box<dyn Entry>, BuildError> {
    // In a path these are steps: the entry would stand elsewhere.
    if let Some(dots) = [&provider.service, &provider.id]
        .into_iter()
        .find(|text| is_dots(text))
    {
        return Err(BuildError::Unsuited {
            registry: name.to_owned(),
            reason: format!("`{dots}` is no name; give the service and its id others"),
        });
    }
    match kind {
        RegistryKind::Eureka(settings) => eureka::entry(name, settings, &provider),
        RegistryKind::Etcd(settings) => Ok(Box::new(etcd::Etcd::new(name, settings, &provider)?)),
        RegistryKind::Etcd2(settings) => {
            Ok(Box::new(etcd2::Etcd2::new(name, settings, &provider)?))
        }
        RegistryKind::ZooKeeper(settings) => Ok(Box::new(zookeeper::ZooKeeper::new(
            name, settings, provider,
        )?)),
        RegistryKind::Dns(_) => Err(BuildError::Unsuited {
            registry: name.to_owned(),
            reason: "nobody can sign in at the DNS; put the record into its zone, or sign in at \
                     another registry"
                .to_owned(),
        }),
        RegistryKind::File(file) => Err(BuildError::Unsuited {
            registry: name.to_owned(),
            reason: format!(
                "nobody can sign in at a file; write the endpoint into {}, or sign in at another \
                 registry",
                file.path.display()
            ),
        }),
        RegistryKind::Consul(settings) => {
            Ok(Box::new(consul::Entry::new(name, settings, provider)?))
        }
        RegistryKind::Embedded(settings) => {
            let settings = of_embedded(settings);
            Ok(Box::new(consul::Entry::new(name, &settings, provider)?))
        }
    }
}

fn is_dots(text: &str) -> bool {
    matches!(text, "." | "..")
}
