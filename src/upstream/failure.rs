//! How an attempt fails, and what that says of the request: the ground that retries stand on.

use std::{error::Error as StdError, io};

use http::StatusCode;
use nix::errno::Errno;

use crate::grpc::Code;

/// An attempt that brought no answer, or not a whole one.
#[derive(Debug, thiserror::Error)]
#[error("{kind}")]
pub struct Failure {
    /// What happened.
    #[source]
    pub kind: FailureKind,
    /// What the endpoint may have done with the request.
    pub processed: Processed,
}

/// What the endpoint may have done with the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Processed {
    /// Nothing: no byte of the request was handed to the network.
    Never,
    /// Unknown: it was sent, at least in part, and no byte of an answer came.
    Perhaps,
    /// Something: an answer began.
    Begun,
}

/// What happened.
#[derive(Debug, thiserror::Error)]
pub enum FailureKind {
    /// No connection.
    #[error("connect: {0}")]
    Connect(io::Error),
    /// No connection in time.
    #[error("connect: timed out")]
    ConnectTimeout,
    /// Other requests opened connections that this one could have shared, one after the other, and its own
    /// turn did not come in time: which says nothing of the endpoint.
    #[error("connect: others were connecting for too long")]
    NoTurn,
    /// A connection, but no TLS over it: one side does not take the other for who it is, or they
    /// do not understand each other.
    #[error("tls: {0}")]
    Handshake(io::Error),
    /// A connection, but what came over it is not HTTP/2.
    #[error("no HTTP/2: {0}")]
    NoHttp2(io::Error),
    /// The endpoint was removed while a connection to it was being opened.
    #[error("removed from the registry")]
    Removed,
    /// The endpoint closed the connection where its answer, or more of it, was due.
    #[error("closed by the endpoint")]
    Closed,
    /// The endpoint ends the connection, and says that it has not begun with the request (GOAWAY).
    #[error("not begun by the endpoint, which closes the connection")]
    GoAway,
    /// The endpoint says that it has not begun with the request, and will not (REFUSED_STREAM).
    #[error("refused by the endpoint")]
    Refused,
    /// The endpoint broke the request's stream off, and nothing else (RST_STREAM).
    #[error("broken off by the endpoint: {0}")]
    Reset(h2::Reason),
    /// The endpoint broke the rules of HTTP/2, by its answer to this request or to another one on the same
    /// connection, which has ended for it (RFC 9113 5.4.1: an error of the connection). Nothing tells by whose.
    #[error(
        "the endpoint broke the rules of HTTP/2, which ended the connection with all its requests"
    )]
    ProtocolError {
        /// No other request has failed of this one error.
        is_first: bool,
    },
    /// Reading or writing failed.
    #[error("{0}")]
    Io(io::Error),
    /// No answer in time.
    #[error("timed out")]
    Timeout,
    /// No answer within the time that one attempt has.
    #[error("timed out, as this attempt only")]
    TryTimeout,
    /// An answer that is not passed on, since another attempt follows.
    #[error("answered {0}")]
    Unwanted(StatusCode),
    /// The same of an answer whose status is gRPC's.
    #[error("answered {0}")]
    UnwantedGrpc(Code),
    /// The endpoint was removed, and its drain deadline has passed.
    #[error("cut at the drain deadline")]
    Drained,
    /// The answer breaks the rules of HTTP, or can be read in two ways.
    #[error("bad answer: {0}")]
    BadAnswer(&'static str),
    /// The answer is larger than it may be: which is true of this one, and says nothing of the
    /// endpoint.
    #[error("answer too large: {0}")]
    TooLarge(&'static str),
    /// The client's side ended before the request was whole.
    #[error("the client's request broke off: {0}")]
    Client(Box<dyn StdError + Send + Sync>),
}

impl FailureKind {
    /// Whether the connection died, and not the request's stream alone.
    pub(crate) fn is_of_connection(&self) -> bool {
        matches!(
            self,
            Self::Closed | Self::Io(_) | Self::GoAway | Self::ProtocolError { .. }
        )
    }

    /// What an error of reading says.
    pub(super) fn of_read(error: io::Error) -> Self {
        match error.kind() {
            // Over TLS an endpoint announces the end of a connection, and here it did not. It may be
            // an end, or a cut.
            io::ErrorKind::UnexpectedEof => Self::Closed,
            _ => Self::Io(error),
        }
    }
}

/// Whether this process could open no socket, or had no port left for it, which says nothing of the
/// endpoint.
pub(crate) fn is_for_want_of_descriptors(error: &io::Error) -> bool {
    is_one_of(error, &WANTING) || is_one_of(error, &[Errno::EADDRNOTAVAIL])
}

const WANTING: [Errno; 4] = [Errno::EMFILE, Errno::ENFILE, Errno::ENOBUFS, Errno::ENOMEM];

fn is_one_of(error: &io::Error, which: &[Errno]) -> bool {
    let code = error.raw_os_error();
    code.is_some_and(|code| which.contains(&Errno::from_raw(code)))
}

/// The same of an error that has such a one among its causes. Not for want of a port: of an error of
/// another's it is not known whether a way to the address was missing.
pub(crate) fn is_caused_by_want_of_descriptors(error: &(dyn StdError + 'static)) -> bool {
    let is_it = |error: &io::Error| is_one_of(error, &WANTING);
    let is_it = error.downcast_ref().is_some_and(is_it);
    is_it || error.source().is_some_and(is_caused_by_want_of_descriptors)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_without_descriptors_blames_no_endpoint() {
        let of =
            |errno: Errno| is_for_want_of_descriptors(&io::Error::from_raw_os_error(errno as i32));
        assert!(of(Errno::EMFILE) && of(Errno::ENFILE) && of(Errno::EADDRNOTAVAIL));
        assert!(!of(Errno::ECONNREFUSED) && !of(Errno::EHOSTUNREACH));
        assert!(!is_for_want_of_descriptors(&io::ErrorKind::TimedOut.into()));
        #[derive(Debug, thiserror::Error)]
        #[error("cannot connect")]
        struct Outer(#[source] io::Error);
        let caused = |errno: Errno| {
            is_caused_by_want_of_descriptors(&Outer(io::Error::from_raw_os_error(errno as i32)))
        };
        assert!(caused(Errno::EMFILE) && !caused(Errno::ECONNREFUSED));
    }
}
