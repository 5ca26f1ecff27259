//! Signing in: a provider's entry in a registry, kept for as long as the provider is there. What
//! is written is what go-kit's registrar of that registry writes, or another layout that is asked
//! for. Knows nothing of the proxy, or of who reads the entry.

mod eureka;
mod provider;
mod registrar;

use futures_util::future::BoxFuture;

use crate::{
    config::RegistryKind,
    registry::{BuildError, RegistryError},
};

pub use provider::{Check, Layout, Provider};
pub use registrar::{Registrar, Standing};

/// One provider's entry in one registry. It does one thing at a time; trying again, backing off
/// and the order of things are written once, in [`Registrar`].
pub trait Entry: Send + 'static {
    /// Writes the entry. Done again after whatever went wrong, also where it may stand already.
    fn sign_in(&mut self) -> BoxFuture<'_, Result<(), RegistryError>>;

    /// Keeps a written entry (its lease, session, TTL or heartbeat) for as long as it stands, and
    /// returns why it no longer does, or why nobody can tell. Must be cancel-safe.
    fn keep(&mut self) -> BoxFuture<'_, RegistryError>;

    /// Takes the entry away. One that is gone already is no error.
    fn sign_out(&mut self) -> BoxFuture<'_, Result<(), RegistryError>>;
}

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
    match kind {
        RegistryKind::Eureka(settings) => eureka::entry(name, settings, &provider),
        RegistryKind::Consul(_) | RegistryKind::Embedded(_) => Err(BuildError::Unsuited {
            registry: name.to_owned(),
            reason: "nobody can sign in there yet".to_owned(),
        }),
    }
}
