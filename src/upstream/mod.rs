//! The side that calls endpoints: connections, their pools, and HTTP/1.1 spoken over them in the
//! caller's own future. Knows nothing of services, routes, retries or the client's side.

mod buffers;
mod connect;
mod failure;
pub mod http1;
mod load;
mod names;
mod pool;
mod probe;
mod record;
mod stream;
mod timer;
mod tls;

pub use connect::connect;
pub use failure::{
    Failure, FailureKind, Processed, is_caused_by_want_of_descriptors, is_for_want_of_descriptors,
};
pub use load::{LatencyScale, Load, Noted};
pub use names::connect_to;
pub use pool::{Connection, InFlight, Pool, Reuse, Target};
pub use probe::{Checked, NotPassed, probe};
#[cfg(test)]
pub use record::testing;
pub use record::{Cause, LatencySum, Quiet, Recorded};
pub use tls::{Handshake, Protocol, Tls};
