//! The head of an answer, without what belongs to the connection that brought it. Knows nothing of how
//! it was written.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, StatusCode};
use hyper::ext::ReasonPhrase;

use crate::grpc::Code;

/// The head of an answer, without what belongs to the connection.
#[derive(Debug, Default)]
pub struct AnswerHead {
    /// Its status; of 1xx only 101.
    pub status: StatusCode,
    /// What its status line says of the status, where that is not the usual.
    pub reason: Option<ReasonPhrase>,
    /// Its end-to-end fields; and of a 101 what the connection goes over to.
    pub headers: HeaderMap,
    /// The status of gRPC, where the head is all of the answer (over HTTP/2), as of a call that
    /// has failed.
    pub grpc: Option<Code>,
    /// All of it as it came in HTTP/1.1: names have one spelling in `headers`.
    pub text: Bytes,
}

/// RFC 9110 7.6.1, and the older names for the same.
pub(super) fn is_hop_by_hop(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "connection" | "keep-alive" | "proxy-connection" | "te" | "transfer-encoding" | "upgrade"
    )
}
