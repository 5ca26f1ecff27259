//! Signing in: a provider's entry in a registry, kept for as long as the provider is there. What
//! is written is what go-kit's registrar of that registry writes, or another layout that is asked
//! for. Knows nothing of the proxy, or of who reads the entry.

mod etcd;
mod etcd2;
mod eureka;
mod open;
mod provider;
mod registrar;
mod zookeeper;

use futures_util::future::BoxFuture;

use crate::registry::RegistryError;

pub use open::entry;
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
