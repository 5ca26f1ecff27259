//! What each registry does for a provider that signs in there. Knows nothing of any of them.

use futures_util::future::BoxFuture;

use crate::registry::RegistryError;

/// One provider's entry in one registry. It does one thing at a time; trying again, backing off
/// and the order of things are written once, in [`Registrar`](super::Registrar).
pub trait Entry: Send + 'static {
    /// Writes the entry. Done again after whatever went wrong, also where it may stand already.
    /// Has a deadline: it is not broken off, since it might take effect after the signing out.
    fn sign_in(&mut self) -> BoxFuture<'_, Result<(), RegistryError>>;

    /// Keeps a written entry (its lease, session, TTL or heartbeat) for as long as it stands, and
    /// returns why it no longer does, or why that cannot be found out. Must be cancel-safe.
    fn keep(&mut self) -> BoxFuture<'_, RegistryError>;

    /// Takes the entry away. One that is gone already is no error.
    fn sign_out(&mut self) -> BoxFuture<'_, Result<(), RegistryError>>;
}
