//! What the head of an answer says of the rest.

use tokio::time::Instant;

use super::http1::{BodyLength, Persistence};

/// The opening of an answer, beside its head: that is large, and stays where it was put first.
#[derive(Debug)]
pub(crate) struct Opening {
    /// When that was there.
    pub at: Instant,
    pub(super) length: BodyLength,
    pub(super) persistence: Persistence,
}
