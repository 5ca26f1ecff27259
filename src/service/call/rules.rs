//! Which attempts a request may have, by its method, its body's length and the settings: what a call asks,
//! and what a prospect asks in its stead. Knows nothing of endpoints.

use std::time::Duration;

use http::Method;

use super::{judge::Others, replay};
use crate::{config::Retry, upstream::FailureKind};

/// What holds for all attempts of a request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules<'p> {
    retry: &'p Retry,
    /// It may be repeated though it was processed (`retry.methods`).
    pub(super) is_idempotent: bool,
    /// And so it may whatever has become of its body.
    may_be_second: bool,
}

impl<'p> Rules<'p> {
    /// Those of a request with this method, whose body has this many bytes; `None` where that shows only
    /// at its end.
    pub(super) fn new(retry: &'p Retry, method: &Method, length: Option<u64>) -> Self {
        let is_idempotent = retry.methods.contains(method);
        Self {
            retry,
            is_idempotent,
            may_be_second: is_idempotent && length.is_some_and(is_short),
        }
    }

    /// Whether none may follow, since this many endpoints were asked.
    pub(super) fn is_last(&self, asked: u32) -> bool {
        asked >= self.retry.attempts
    }

    /// Whether another may follow the attempt after so many, whatever becomes of that one.
    pub(super) fn may_follow(&self, asked: u32) -> bool {
        self.may_be_second && !self.is_last(asked + 1)
    }

    /// How long the attempt after so many may take by itself: no limit is set that leaves a request
    /// without an answer, where no other attempt could bring one.
    pub(super) fn try_timeout(
        &self,
        asked: u32,
        has_other: impl FnOnce() -> bool,
        retries_left: impl FnOnce() -> u64,
    ) -> Option<Duration> {
        let limit = self.retry.try_timeout?;
        (self.may_follow(asked) && has_other() && retries_left() > 0).then_some(limit)
    }

    /// Whether it may be repeated after an answer that stands in `retry.on`, be it there by its status of
    /// gRPC.
    pub(super) fn may_be_repeated(&self, is_by_grpc: bool) -> bool {
        // The file names a status of gRPC, all of whose calls are POSTs.
        self.is_idempotent || is_by_grpc
    }
}

/// Whether a body of so many bytes can be sent again though it was read.
pub(super) fn is_short(length: u64) -> bool {
    length <= replay::LIMIT as u64
}

/// Whether an endpoint that fails so was asked. One that takes no connection was asked nothing: where many
/// leave at once, several in a row may be gone before the registry has said so. What bounds those is the
/// budget, and that each is tried once.
pub(super) fn was_asked(kind: &FailureKind) -> bool {
    !matches!(
        kind,
        FailureKind::Connect(_)
            | FailureKind::Handshake(_)
            | FailureKind::NoHttp2(_)
            | FailureKind::Removed
    )
}

/// Where another attempt could be made.
pub(super) fn others(
    has_other: bool,
    may_be_last: bool,
    is_empty: impl FnOnce() -> bool,
) -> Others {
    if has_other {
        Others::Untried
    } else if may_be_last {
        Others::Last
    } else if is_empty() {
        Others::Gone
    } else {
        Others::None
    }
}
