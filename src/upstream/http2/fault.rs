//! What an error of a connection or a stream says of the request. Oracle: RFC 9113 8.7: what a GOAWAY
//! leaves out, and what was refused, was not processed. And 5.4: what is wrong with one stream ends that one,
//! and what is wrong with the connection, all of them.

use std::io;

use h2::Reason;

use super::link::Link;
use crate::upstream::{Failure, FailureKind, Processed};

/// What is said of an answer that is against the rules.
const RULES: &str = "it breaks the rules of HTTP/2";

/// The failure of a request to which no answer came, and with which the endpoint has done so much as far
/// as the connection knows. The error may know better.
pub(super) fn failure(error: h2::Error, link: &Link, processed: Processed) -> Failure {
    if error.is_remote() && error.is_go_away() {
        // A stream hears of it only where it is none of those that the endpoint goes on with.
        return Failure {
            kind: FailureKind::GoAway,
            processed: Processed::Never,
        };
    }
    if error.is_remote() && error.reason() == Some(Reason::REFUSED_STREAM) {
        link.note_refused();
        return Failure {
            kind: FailureKind::Refused,
            processed: Processed::Never,
        };
    }
    if is_of_connection(&error) {
        return of_connection(link, processed);
    }
    let is_answer = error.is_library();
    Failure {
        kind: kind(error, link),
        processed: if is_answer {
            Processed::Begun
        } else {
            processed
        },
    }
}

/// Whether the endpoint did what ends a connection.
fn is_of_connection(error: &h2::Error) -> bool {
    error.is_library() && error.is_go_away()
}

/// An answer has ended the connection: to a request that was alone there, its own. Of several nothing tells
/// whose it was, and all of them are as those of a connection that died.
fn of_connection(link: &Link, processed: Processed) -> Failure {
    let is_first = link.note_failed();
    if is_first && link.streams() == 1 && processed != Processed::Never {
        return Failure {
            kind: FailureKind::BadAnswer(RULES),
            processed: Processed::Begun,
        };
    }
    Failure {
        kind: FailureKind::ProtocolError { is_first },
        processed,
    }
}

/// What has happened to a stream.
pub(super) fn kind(error: h2::Error, link: &Link) -> FailureKind {
    match error.reason() {
        Some(reason) if error.is_remote() => FailureKind::Reset(reason),
        // An answer that breaks off is counted by itself.
        Some(_) if is_of_connection(&error) => FailureKind::ProtocolError { is_first: false },
        Some(_) if error.is_library() => FailureKind::BadAnswer(RULES),
        _ if link.was_silent() => FailureKind::Io(io::Error::new(
            io::ErrorKind::TimedOut,
            "nothing comes any more, not even an answer to a PING",
        )),
        _ => match error.into_io() {
            // So the crate says that the connection is over.
            Some(error) if error.kind() == io::ErrorKind::BrokenPipe => FailureKind::Closed,
            Some(error) => FailureKind::of_read(error),
            None => FailureKind::Closed,
        },
    }
}
