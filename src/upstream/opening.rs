//! The opening of an answer: its head, and what that says of the rest.

use tokio::time::Instant;

use super::{
    answer_head::AnswerHead,
    http1::{BodyLength, Persistence},
};

/// The opening of an answer.
#[derive(Debug)]
pub(crate) struct Opening {
    /// Its head.
    pub head: AnswerHead,
    pub(super) at: Instant,
    pub(super) length: BodyLength,
    pub(super) persistence: Persistence,
}
