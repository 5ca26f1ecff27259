//! What comes next of an answer's body.

use bytes::Bytes;
use http::HeaderMap;

/// The next piece of an answer's body.
#[derive(Debug, PartialEq)]
pub(super) enum Piece {
    /// More bytes are needed.
    Partial,
    Data(Bytes),
    /// The body is over.
    End(Option<HeaderMap>),
}
