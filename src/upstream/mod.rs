//! The side that calls endpoints: connections, their pools, and exchanges over them in the caller's own
//! future. What a caller names is of no wire format: the head of a request is given as parts and fields,
//! and `http1` and `http2` write and read the bytes. Knows nothing of services, routes, retries or the client's
//! side.

mod answer;
mod answer_head;
mod buffers;
mod connect;
mod dial;
mod exchange;
mod failure;
mod head;
mod http1;
mod http2;
mod idle_limits;
mod limits;
mod load;
mod names;
mod opening;
mod piece;
mod pool;
mod probe;
mod record;
mod request;
mod source;
mod stream;
mod switched;
mod timer;
mod tls;
mod transport;
mod upgrade;
mod witness;

pub(crate) use answer::AnswerBody;
pub(crate) use answer_head::AnswerHead;
pub(crate) use connect::{Connected, Wanted, connect};
pub(crate) use dial::{SendProxy, reach};
pub(crate) use exchange::Exchange;
pub(crate) use failure::{
    Failure, FailureKind, Processed, is_caused_by_want_of_descriptors, is_for_want_of_descriptors,
};
pub(crate) use head::{FieldBlock, Fields, Head};
#[cfg(any(test, fuzzing))]
pub(crate) use http1::fuzzing;
pub(crate) use idle_limits::IdleLimits;
pub(crate) use limits::{HeadLimits, Limits};
pub(crate) use load::{LatencyScale, Load};
pub(crate) use names::connect_to;
pub(crate) use pool::{Connection, Found, InFlight, Pool, Reuse, Target};
pub(crate) use probe::{Checked, NotPassed, probe};
#[cfg(test)]
pub(crate) use record::testing;
pub(crate) use record::{Cause, LatencySum, Quiet, Recorded};
pub(crate) use request::Request;
pub(crate) use source::Source;
pub(crate) use switched::Switched;
pub(crate) use tls::{Protocol, Tls};
pub(crate) use transport::Transport;
pub(crate) use upgrade::Upgrade;
pub(crate) use witness::Witness;
