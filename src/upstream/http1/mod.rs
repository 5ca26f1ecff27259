//! HTTP/1.1 towards an endpoint, driven in the request's own future: no task, no channel, no
//! lock. The request's head goes out in one write with the start of its body; the answer is read
//! while the body is still being sent; the answer's body reads the socket when it is polled, and
//! gives the connection back at its end.

mod answer;
mod chunked;
mod connection;
mod exchange;
mod framing;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod head;
#[cfg(test)]
mod properties;
mod request_head;
mod send;

pub(super) use answer::{Left, Reading};
pub(super) use connection::Connection;
pub(super) use exchange::Exchange;
pub(super) use framing::{Framing, field, field_of};
pub(super) use head::{BodyLength, Persistence};
pub(super) use request_head::write_head;
