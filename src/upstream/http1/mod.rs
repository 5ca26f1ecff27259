//! HTTP/1.1 towards an endpoint, driven in the request's own future: no task, no channel, no
//! lock. The request's head goes out in one write with the start of its body; the answer is read
//! while the body is still being sent; the answer's body reads the socket when it is polled, and
//! gives the connection back at its end.

mod answer;
mod chunked;
mod exchange;
mod framing;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod head;
mod request_head;
mod send;
mod source;

pub(crate) use answer::{Answer, AnswerBody, Witness};
pub(crate) use exchange::{Exchange, Limits};
pub(super) use framing::{Framing, field, field_of};
pub(crate) use head::{AnswerHead, HeadLimits};
pub(super) use request_head::write_head;
pub(crate) use source::Source;
