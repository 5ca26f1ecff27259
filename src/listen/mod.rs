//! The side that clients connect to: sockets, the accept loop, and each connection's time-outs.
//! Knows what a request is only as far as handing it to `proxy`.

mod accept;
mod addresses;
mod bind;
mod connection;
mod leave;
mod serve;
mod target;
mod wire;

pub use accept::{Arrival, Entrance, accept};
pub use addresses::Addresses;
pub use bind::{BindError, Bound, bind, bind_beside};
pub use connection::{Connection, Order};
pub use serve::serve;
