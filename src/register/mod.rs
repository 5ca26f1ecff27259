//! Signing in: a provider's entry in a registry, kept for as long as the provider is there. What
//! is written is what go-kit's registrar of that registry writes, or another layout that is asked
//! for. Knows nothing of the proxy, or of who reads the entry.

mod consul;
mod entry;
mod local;
mod provider;
mod registrar;

use crate::{
    config::RegistryKind,
    registry::{BuildError, consul::of_embedded},
};

pub use entry::Entry;
pub use local::local_ip;
pub use provider::{Check, Layout, Provider};
pub use registrar::{Registrar, Standing};

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
    Ok(match kind {
        RegistryKind::Consul(settings) => Box::new(consul::Entry::new(name, settings, provider)?),
        RegistryKind::Embedded(settings) => {
            let settings = of_embedded(settings);
            Box::new(consul::Entry::new(name, &settings, provider)?)
        }
    })
}
