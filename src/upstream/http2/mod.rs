//! HTTP/2 towards an endpoint, by the `h2` crate: requests share a connection, each on a stream, and the
//! connection is driven by a task of its own. What crosses between the two is in that crate, behind a
//! lock that one worker takes.

mod answer;
mod establish;
mod exchange;
mod fault;
mod head;
mod link;
mod resets;
mod rest;
mod send;
mod silence;
mod watched;

pub(super) use answer::{Left, Reading};
pub(super) use establish::establish;
pub(super) use exchange::Exchange;
pub(super) use link::Lease;
pub(super) use link::{Keep, Links};
