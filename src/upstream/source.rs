//! What an exchange asks of the body that it sends, and tells it.

use std::error::Error as StdError;

use bytes::Bytes;
use http_body::Body;

/// A request's body, told how far its exchange has come.
pub trait Source: Body<Data = Bytes, Error: Into<Box<dyn StdError + Send + Sync>>> + Unpin {
    /// A byte of the request was written: the endpoint may have begun with it.
    fn begun(&mut self);

    /// An answer is passed on: no other exchange sends this body.
    fn settled(&mut self);
}
