//! How long an exchange may take, and how large an answer's head may be.

use std::time::Duration;

use tokio::time::Instant;

use super::FailureKind;

/// How long an exchange may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// From the last byte of the request that the endpoint took to the head of its answer. Does
    /// not run while the client's own bytes are waited for.
    pub response: Duration,
    /// The same where another attempt may follow.
    pub attempt: Option<Duration>,
    /// Between two pieces of the answer's body.
    pub idle: Duration,
    /// While nothing moves once the connection has gone over to another protocol.
    pub tunnel: Option<Duration>,
    /// When all of it must be over.
    pub total: Option<Instant>,
    /// How large the answer's head may be.
    pub head: HeadLimits,
}

impl Limits {
    /// When the head of the answer is due of an endpoint that took the last of the request then.
    pub(super) fn due(&self, taken: Instant) -> Instant {
        let attempt = self.attempt.unwrap_or(Duration::MAX);
        taken + self.response.min(attempt)
    }

    /// The deadline, or the end of the exchange's total time before it.
    pub(super) fn earliest(&self, deadline: Instant) -> Instant {
        self.total.map_or(deadline, |total| deadline.min(total))
    }

    /// What it means that the head was not there in time: the end of this attempt, or of all.
    pub(super) fn lateness(&self) -> FailureKind {
        let is_over = self.total.is_some_and(|total| Instant::now() >= total);
        match self.attempt {
            Some(limit) if !is_over && limit < self.response => FailureKind::TryTimeout,
            _ => FailureKind::Timeout,
        }
    }
}

/// How large the head of an answer may be. Of trailers there may be as many fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HeadLimits {
    /// The most fields.
    pub fields: usize,
    /// The most bytes.
    pub bytes: usize,
}

pub(super) const FIELDS: &str = "more header fields than `limits.answer_headers`";
pub(super) const BYTES: &str = "a head of more bytes than `limits.answer_header_bytes`";

/// The most bytes of an answer's trailers.
pub(super) const TRAILERS: usize = 16 * 1024;
pub(super) const TRAILERS_TOO_LARGE: &str = "trailers of more than 16 KiB";

/// How long an endpoint that was told to `Expect: 100-continue` may be silent before the body is
/// sent all the same: not every server answers it (RFC 9110 10.1.1).
pub(super) const SILENCE: Duration = Duration::from_secs(1);
