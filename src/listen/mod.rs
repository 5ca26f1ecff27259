//! The side that clients connect to: sockets, the accept loop, and each connection's time-outs.
//! Knows what a request is only as far as handing it to `proxy`.
//!
//! What ends here ends over nobody who has come. A socket closes its door first, and itself when those
//! on the threshold are in (`door`, `accept`). A connection looks into its socket once more before it
//! ends for want of a request, and a request that lies there, or has begun, is answered (`serve`).

mod accept;
mod addresses;
mod bind;
mod chunks;
mod connection;
mod framing;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod http1;
mod linger;
mod stream;
mod target;
#[cfg(test)]
mod testing;

pub use accept::{Accepted, Entrance, accept};
pub use addresses::Addresses;
pub use bind::{BindError, Bound, bind, bind_beside};
pub use connection::{Connection, Stop};
pub use http1::serve;
