//! What follows an attempt: a decision over facts, which changes nothing. Knows nothing of endpoints
//! and bodies.

use crate::upstream::{Failure, FailureKind, Found, Processed};

/// What is known when an attempt is over.
#[derive(Clone, Copy, Debug)]
pub(super) struct Facts {
    pub(super) outcome: Outcome,
    /// The request may be repeated though it was processed (`retry.methods`).
    pub(super) is_idempotent: bool,
    /// As many endpoints were asked as may be (`retry.attempts`).
    pub(super) is_last: bool,
    /// The request's own time is over (`timeout.total`).
    pub(super) is_over: bool,
    /// The body can be sent again.
    pub(super) is_replayable: bool,
    pub(super) others: Others,
}

/// How an attempt went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// There is an answer; its status may stand in `retry.on`.
    Answered { in_retry_on: bool },
    /// The connection died, which was a new one or was kept; or the request's stream did.
    Died {
        processed: Processed,
        was_kept: bool,
    },
    /// There was no answer within `retry.try_timeout`.
    Late,
    /// There was no answer for another reason.
    Failed { processed: Processed },
}

impl Outcome {
    pub(super) fn of(failure: &Failure, found: Found) -> Self {
        let processed = failure.processed;
        match failure.kind {
            // One that had other requests was in use, and not kept for too long.
            FailureKind::Closed | FailureKind::Io(_) => Self::Died {
                processed,
                was_kept: found == Found::Idle,
            },
            FailureKind::GoAway => Self::Died {
                processed,
                was_kept: matches!(found, Found::Idle | Found::Shared),
            },
            // Of one request, whose connection goes on; or of an endpoint that does wrong, and not of a
            // connection that was kept for too long.
            FailureKind::Refused | FailureKind::Reset(_) | FailureKind::ProtocolError { .. } => {
                Self::Died {
                    processed,
                    was_kept: false,
                }
            }
            FailureKind::TryTimeout => Self::Late,
            _ => Self::Failed { processed },
        }
    }
}

/// Where another attempt could be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Others {
    /// There is an endpoint that was not tried.
    Untried,
    /// Every endpoint was tried. A connection to the last one died, perhaps of idleness, and a new one
    /// may do.
    Last,
    /// Every endpoint was tried.
    None,
    /// The set has become empty.
    Gone,
}

/// What follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// The answer is passed on.
    Done,
    /// Another attempt. One that is free costs none of the budget.
    Retry { is_free: bool },
    /// No attempt may follow.
    GiveUp,
    /// Another attempt would do, and there is no endpoint: the request may go elsewhere.
    NoEndpoints,
}

/// Decides what follows an attempt.
pub(super) fn judge(facts: &Facts) -> Next {
    let (is_safe, is_free, without_others) = match facts.outcome {
        Outcome::Answered { in_retry_on } => {
            (in_retry_on && facts.is_idempotent, false, Next::Done)
        }
        Outcome::Died {
            processed,
            was_kept,
        } => {
            let is_safe = match processed {
                Processed::Never => true,
                Processed::Perhaps => facts.is_idempotent,
                Processed::Begun => false,
            };
            // A connection that was kept for too long says nothing of how endpoints fare.
            (is_safe, was_kept, Next::GiveUp)
        }
        Outcome::Late => (facts.is_idempotent, false, Next::GiveUp),
        Outcome::Failed { processed } => (processed == Processed::Never, false, Next::GiveUp),
    };
    if !is_safe || facts.is_last || facts.is_over || !facts.is_replayable {
        return without_others;
    }
    match facts.others {
        Others::Untried | Others::Last => Next::Retry { is_free },
        Others::Gone if without_others == Next::GiveUp => Next::NoEndpoints,
        Others::None | Others::Gone => without_others,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAILED: Outcome = Outcome::Failed {
        processed: Processed::Never,
    };

    /// A request that may be repeated in every respect.
    fn facts(outcome: Outcome) -> Facts {
        Facts {
            outcome,
            is_idempotent: true,
            is_last: false,
            is_over: false,
            is_replayable: true,
            others: Others::Untried,
        }
    }

    fn died(processed: Processed, was_kept: bool) -> Outcome {
        Outcome::Died {
            processed,
            was_kept,
        }
    }

    #[test]
    fn another_attempt_follows_where_that_is_safe() {
        let retry = Next::Retry { is_free: false };
        let free = Next::Retry { is_free: true };
        let (no, yes) = (false, true);
        for (outcome, of_any, of_idempotent) in [
            (
                Outcome::Answered { in_retry_on: no },
                Next::Done,
                Next::Done,
            ),
            (Outcome::Answered { in_retry_on: yes }, Next::Done, retry),
            (died(Processed::Never, no), retry, retry),
            (died(Processed::Never, yes), free, free),
            (died(Processed::Perhaps, no), Next::GiveUp, retry),
            (died(Processed::Perhaps, yes), Next::GiveUp, free),
            (died(Processed::Begun, no), Next::GiveUp, Next::GiveUp),
            (died(Processed::Begun, yes), Next::GiveUp, Next::GiveUp),
            (Outcome::Late, Next::GiveUp, retry),
            (FAILED, retry, retry),
            (
                Outcome::Failed {
                    processed: Processed::Perhaps,
                },
                Next::GiveUp,
                Next::GiveUp,
            ),
            (
                Outcome::Failed {
                    processed: Processed::Begun,
                },
                Next::GiveUp,
                Next::GiveUp,
            ),
        ] {
            for (is_idempotent, expected) in [(false, of_any), (true, of_idempotent)] {
                let facts = Facts {
                    is_idempotent,
                    ..facts(outcome)
                };
                assert_eq!(judge(&facts), expected, "{facts:?}");
            }
        }
    }

    #[test]
    fn none_follows_where_attempts_or_time_are_used_up_or_the_body_is_gone() {
        let unwanted = Outcome::Answered { in_retry_on: true };
        for (outcome, end) in [(unwanted, Next::Done), (FAILED, Next::GiveUp)] {
            let facts = facts(outcome);
            assert!(matches!(judge(&facts), Next::Retry { .. }), "{facts:?}");
            for facts in [
                Facts {
                    is_last: true,
                    ..facts
                },
                Facts {
                    is_over: true,
                    ..facts
                },
                Facts {
                    is_replayable: false,
                    ..facts
                },
            ] {
                assert_eq!(judge(&facts), end, "{facts:?}");
                let facts = Facts {
                    others: Others::Gone,
                    ..facts
                };
                assert_eq!(judge(&facts), end, "{facts:?}");
            }
        }
    }

    #[test]
    fn none_follows_without_an_endpoint_but_a_request_that_was_not_answered_may_go_elsewhere() {
        let unwanted = Outcome::Answered { in_retry_on: true };
        for (outcome, none, gone) in [
            (unwanted, Next::Done, Next::Done),
            (Outcome::Late, Next::GiveUp, Next::NoEndpoints),
            (FAILED, Next::GiveUp, Next::NoEndpoints),
            (
                died(Processed::Perhaps, true),
                Next::GiveUp,
                Next::NoEndpoints,
            ),
            (died(Processed::Begun, true), Next::GiveUp, Next::GiveUp),
        ] {
            for (others, expected) in [(Others::None, none), (Others::Gone, gone)] {
                let facts = Facts {
                    others,
                    ..facts(outcome)
                };
                assert_eq!(judge(&facts), expected, "{facts:?}");
            }
        }
    }

    #[test]
    fn a_new_connection_to_the_last_endpoint_is_tried_where_the_old_one_died() {
        for was_kept in [false, true] {
            let facts = Facts {
                others: Others::Last,
                ..facts(died(Processed::Perhaps, was_kept))
            };
            assert_eq!(judge(&facts), Next::Retry { is_free: was_kept });
        }
    }
}
