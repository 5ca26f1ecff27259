//! Certificates that the proxy orders itself, by ACME (RFC 8555): one for each name, of an authority that asks
//! the proxy's listeners for a proof. All that outlives a moment is in a folder, which several proxies may
//! share, and of which listeners read the certificates as they read all others. Knows nothing of requests.

mod board;
mod challenges;
mod client;
mod failure;
mod keeper;
mod known;
mod order;
mod pauses;
mod schedule;
mod stage;
mod store;
mod ways;

pub(crate) use board::{Board, NameStatus};
pub(crate) use challenges::{ACME_TLS, Challenges};
pub(crate) use keeper::{Keeper, Wanted};
pub(crate) use store::certificate_file;
pub(crate) use ways::Ways;
