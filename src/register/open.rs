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
        return Err(BuildError::unsuited(
            name,
            format!("`{dots}` is no name; give the service and its id others"),
        ));
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
        RegistryKind::Dns(_) => Err(BuildError::unsuited(
            name,
            "nobody can sign in at the DNS; put the record into its zone, or sign in at \
                     another registry",
        )),
        RegistryKind::File(file) => Err(BuildError::unsuited(
            name,
            format!(
                "nobody can sign in at a file; write the endpoint into {}, or sign in at another \
                 registry",
                file.path.display()
            ),
        )),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config::Config, instance::Address};

    #[test]
    fn a_name_that_is_a_step_in_a_path_is_refused_everywhere() {
        let kinds = ["consul", "embedded", "etcd", "etcd2", "eureka", "zookeeper"];
        for kind in kinds {
            let text = format!("[registry.{kind}]\n[[route]]\nservice = \"a\"");
            let config = Config::parse(&text, "".as_ref()).unwrap();
            let entry = |service: &str, id: &str| {
                let address = Address::new("10.0.0.1", 80).unwrap();
                let provider = Provider {
                    id: id.to_owned(),
                    ..Provider::new(service, address)
                };
                let entry = entry(kind, &config.registries[kind].kind, provider);
                entry.map(drop).map_err(|error| error.to_string())
            };
            for (service, id) in [("..", "a"), (".", "a"), ("a", "..")] {
                let error = entry(service, id).unwrap_err();
                assert!(error.contains("` is no name"), "{kind}: {error}");
            }
            assert_eq!(entry("a.b", "..."), Ok(()), "{kind}");
        }
    }
}
