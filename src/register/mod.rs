//! Signing in: a provider's entry in a registry, kept for as long as the provider is there. What
//! is written is what go-kit's registrar of that registry writes, or another layout that is asked
//! for. Knows nothing of the proxy, or of who reads the entry.

mod consul;
mod entry;
mod etcd;
mod etcd2;
mod eureka;
mod local;
mod open;
mod provider;
mod registrar;
mod zookeeper;

pub use entry::Entry;
pub use local::local_ip;
pub use open::entry;
pub use provider::{Check, Layout, Provider};
pub use registrar::{Registrar, SignedIn};
