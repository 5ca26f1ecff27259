//! Who is next on the board. An algorithm has a file of its own, and what it looks up per snapshot is
//! built with the snapshot. Knows nothing of how endpoints fare, but for one question: whether to
//! pass one over.

mod balancer;
mod candidates;
mod digest;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod hash;
mod key;
mod least_request;
mod loaded;
mod order;
mod p2c;
mod peak_ewma;
mod random;
mod ring;
mod round_robin;
mod stats;
mod status;
mod sticky;
mod tables;
mod tokens;
mod zone;

pub use balancer::{Balancer, PickKey};
pub use key::{RequestInfo, client_digest, key_digest};
pub use stats::BalanceStats;
pub use status::BalanceStatus;
pub use zone::ZoneStatus;

pub(super) use loaded::Loads;
pub(super) use order::order;
pub(super) use sticky::Cookie;
pub(super) use tables::Tables;
pub(super) use zone::Zone;
