//! The side that clients connect to: sockets, the accept loop, and each connection's time-outs.
//! Knows what a request is only as far as handing it to `proxy`.
//!
//! An end loses no client that has come. A socket first takes no new handshakes, and closes when the
//! clients whose handshake has begun are accepted (`door`, `accept`). A connection looks into its
//! socket once more before it ends for want of a request, and a request that lies there, or has
//! begun, is answered (`http1`).

mod accept;
mod addresses;
mod bind;
mod connection;
mod drain;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod http1;
mod http2;
mod linger;
mod listening;
mod permits;
mod preface;
mod prelude;
mod proxied;
mod records;
mod room;
mod socket;
mod socket_file;
mod stall;
mod stop;
#[cfg(test)]
mod testing;
mod tls;
mod transport;

pub(crate) use accept::{Accepted, Entrance, accept};
pub(crate) use addresses::Addresses;
pub(crate) use bind::{
    BindError, Bound, Duplicate, Inherited, bind, bind_beside, inherit, try_to_bind,
    try_to_bind_beside,
};
pub(crate) use connection::Connection;
pub(crate) use drain::Drain;
pub(crate) use listening::{OpenSockets, Unwatched};
#[cfg(test)]
pub(crate) use permits::Permits;
pub(crate) use prelude::serve;
pub(crate) use room::Room;
pub(crate) use socket_file::{SocketFile, is_at, is_one_socket};
pub(crate) use stop::Stop;
pub(crate) use tls::Tls;
