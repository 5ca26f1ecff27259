//! Who is in a service's set: one decision for each instance that is known, made of all that have
//! a say in it. What an update says of each, what is made of those that it leaves out, and what
//! asking again shows: three functions of plain facts, without a clock, a lock or an endpoint.

use std::{fmt, time::Duration};

use tokio::time::Instant;

use crate::{
    config::Guard,
    evidence::{Loss, Order},
};

/// What the registries make of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Listed, and healthy.
    Passing,
    /// Listed; its checks do not pass.
    Critical,
    /// Its registry dropped it, and is doubted: picked until the guard lets go of it.
    Held(Held),
    /// Removed; what is in flight finishes.
    Removed,
}

/// An endpoint that the guard holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) reason: HoldReason,
    /// Until when at most.
    pub(crate) until: Instant,
    /// The registry that dropped it, by its place in the service's list.
    pub(crate) by: usize,
    /// It has signed in again, and its checks have not passed yet. A new check fails until it has
    /// run, which says nothing of the endpoint.
    pub(crate) listed: bool,
}

/// Why the guard does not believe a registry that dropped an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HoldReason {
    /// The registry has lost data.
    Loss(Loss),
    /// It took away many at once, and nothing shows whether it is right.
    Many,
    /// Nothing speaks against it: an answer that confirms it then, or later, is believed.
    Unconfirmed(Instant),
}

/// What an update says of an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Said {
    /// That it is healthy.
    Healthy,
    /// That it is ill; it is `doubted` where the word for that may be a new check's.
    Ill { doubted: bool },
    /// Nothing, and this is what is made of that.
    Nothing(Missing),
}

/// What is made of an instance that is not listed any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Missing {
    /// Its registry dropped it, and is believed.
    Believed,
    /// Its registry dropped it, and is doubted.
    Doubted(Held),
    /// No registry dropped it: another datacenter's, zone's or registry's set took the place of its
    /// own, what was said of it is given up or unselected, it is not in the set of a pin, or it
    /// serves under another id.
    Replaced,
}

/// An update, as the guard looks at it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shrink {
    /// How its registry's answer follows the one before.
    pub(crate) order: Order,
    /// How many served before it.
    pub(crate) served: usize,
    /// How many of them it does not list, whom nothing else accounts for.
    pub(crate) lost: usize,
    /// Whether it leaves anybody who serves.
    pub(crate) leaves_some: bool,
}

/// A registry that took away one instance is asked once more after so long.
const CONFIRM: Duration = Duration::from_secs(1);

impl Standing {
    pub(crate) fn is_pickable(self) -> bool {
        matches!(self, Self::Passing | Self::Held(_))
    }

    /// As the API has it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Passing => "passing",
            Self::Critical => "critical",
            Self::Held(_) => "dropped",
            Self::Removed => "removed",
        }
    }
}

impl Said {
    /// How an instance stands from now on that stood like this; `None` is one that is new.
    pub(crate) fn after(self, before: Option<Standing>) -> Standing {
        use Standing::{Critical, Held as IsHeld, Passing, Removed};
        match (before, self) {
            (_, Said::Healthy) => Passing,
            (Some(IsHeld(held)), Said::Ill { doubted: true }) => IsHeld(Held {
                listed: true,
                ..held
            }),
            (_, Said::Ill { .. }) => Critical,
            (_, Said::Nothing(Missing::Replaced)) => Removed,
            (Some(Passing), Said::Nothing(Missing::Doubted(held))) => IsHeld(held),
            (Some(IsHeld(before)), Said::Nothing(missing)) => IsHeld(before.still(missing)),
            // Whom its registry called ill, it may drop.
            (Some(Critical | Removed | Passing) | None, Said::Nothing(_)) => Removed,
        }
    }
}

impl fmt::Display for HoldReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Loss(loss) => write!(f, "{loss}"),
            Self::Many => f.write_str(
                "the registry took away many at once, and nothing shows whether it is right",
            ),
            Self::Unconfirmed(_) => {
                f.write_str("the registry took it away, which a second answer has to confirm")
            }
        }
    }
}

impl Held {
    /// The guard holds it no longer: what the registry says of it now is believed.
    pub(crate) fn let_go(self) -> Standing {
        match self.listed {
            true => Standing::Critical,
            false => Standing::Removed,
        }
    }

    /// One that is held already is held for as long as before; what shows a loss is not forgotten.
    fn still(self, missing: Missing) -> Self {
        let reason = match missing {
            Missing::Doubted(Self {
                reason: HoldReason::Loss(loss),
                ..
            }) if !matches!(self.reason, HoldReason::Loss(_)) => HoldReason::Loss(loss),
            _ => self.reason,
        };
        Self {
            reason,
            listed: false,
            ..self
        }
    }
}

impl Shrink {
    /// What is made of those that are lost: why and for how long they are held, if they are.
    pub(crate) fn judge(self, guard: Option<Guard>, by: usize, now: Instant) -> Missing {
        if self.order == Order::Replaced {
            return Missing::Replaced;
        }
        let Some(guard) = guard.filter(|_| self.lost > 0) else {
            return Missing::Believed;
        };
        let settles = |after: Duration| HoldReason::Unconfirmed(now + after.min(guard.hold));
        let is_much = !self.leaves_some || self.lost as f64 > guard.share * self.served as f64;
        let reason = match (self.order, self.lost) {
            (Order::Lost(loss), _) => HoldReason::Loss(loss),
            _ if !is_much => return Missing::Believed,
            (Order::Forward, 1) => settles(CONFIRM.min(guard.settle)),
            (Order::Forward, _) | (_, 1) => settles(guard.settle),
            _ => HoldReason::Many,
        };
        Missing::Doubted(Held {
            reason,
            until: now + guard.hold,
            by,
            listed: false,
        })
    }
}

/// What asking a registry again shows of an endpoint that it dropped.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Again {
    /// How the second answer follows the first.
    pub(crate) order: Order,
    /// Whether it lists the endpoint.
    pub(crate) lists_it: bool,
    /// Whether it is known to list no service at all.
    pub(crate) is_empty: bool,
}

impl Held {
    /// What becomes of it once its registry was asked again: held on, or `None` for let go.
    pub(crate) fn confirmed(self, again: Again, now: Instant) -> Option<Self> {
        let HoldReason::Unconfirmed(settled) = self.reason else {
            return Some(self);
        };
        let loss = match again.order {
            Order::Lost(loss) => Some(loss),
            _ if again.is_empty => Some(Loss::Empty),
            _ if again.lists_it && !self.listed => Some(Loss::Contradicted),
            _ => None,
        };
        match loss {
            Some(loss) => Some(Self {
                reason: HoldReason::Loss(loss),
                ..self
            }),
            None if now >= settled => None,
            None => Some(self),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{HoldReason::*, Missing::*, Said::*, Standing::*, *};

    const LOST: crate::evidence::Loss = crate::evidence::Loss::WentBack { from: 9, to: 2 };

    fn at(seconds: u64) -> Instant {
        // One beginning for all, so that moments compare.
        static BEGAN: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
        *BEGAN.get_or_init(Instant::now) + Duration::from_secs(seconds)
    }

    fn held(reason: HoldReason, until: u64) -> super::Held {
        super::Held {
            reason,
            until: at(until),
            by: 0,
            listed: false,
        }
    }

    fn listed(held: super::Held) -> super::Held {
        super::Held {
            listed: true,
            ..held
        }
    }

    /// Everything that may be known of an instance, against everything that an update may say of it.
    #[test]
    fn how_an_instance_stands_follows_from_how_it_stood_and_what_is_said_of_it() {
        let (many, loss) = (held(Many, 60), held(Loss(LOST), 90));
        let waits = held(Unconfirmed(at(5)), 60);
        let turned_out = held(Loss(LOST), 60);
        let befores = [None, Some(Passing), Some(Critical), Some(Removed)];
        let holds = [Some(Held(many)), Some(Held(waits)), Some(Held(loss))];
        let [new, passing, critical, removed] = befores;
        let [is_many, waiting, is_lost] = holds;
        for before in befores.into_iter().chain(holds) {
            assert_eq!(Healthy.after(before), Passing);
            assert_eq!(Ill { doubted: false }.after(before), Critical);
            assert_eq!(Nothing(Replaced).after(before), Removed);
        }
        let ill = Ill { doubted: true };
        for (before, said, standing) in [
            // A new check's word is not taken against one that is held; else ill is ill.
            (new, ill, Critical),
            (passing, ill, Critical),
            (critical, ill, Critical),
            (removed, ill, Critical),
            (is_many, ill, Held(listed(many))),
            (waiting, ill, Held(listed(waits))),
            (is_lost, ill, Held(listed(loss))),
            // Who is believed takes away whom it wants, but those that are held already.
            (passing, Nothing(Believed), Removed),
            (critical, Nothing(Believed), Removed),
            (removed, Nothing(Believed), Removed),
            (is_many, Nothing(Believed), Held(many)),
            (waiting, Nothing(Believed), Held(waits)),
            (is_lost, Nothing(Believed), Held(loss)),
            // Only one that served is held; the ill may go, and who was removed stays so.
            (passing, Nothing(Doubted(many)), Held(many)),
            (passing, Nothing(Doubted(loss)), Held(loss)),
            (critical, Nothing(Doubted(loss)), Removed),
            (removed, Nothing(Doubted(loss)), Removed),
            // One that is held is held no longer than before; a loss that shows now counts.
            (is_many, Nothing(Doubted(loss)), Held(turned_out)),
            (waiting, Nothing(Doubted(loss)), Held(turned_out)),
            (waiting, Nothing(Doubted(many)), Held(waits)),
            (is_lost, Nothing(Doubted(waits)), Held(loss)),
        ] {
            assert_eq!(said.after(before), standing, "{before:?}, {said:?}");
        }
        let signed_in = Some(Held(listed(many)));
        assert_eq!(Nothing(Believed).after(signed_in), Held(many), "and out");
    }

    fn guard() -> Option<Guard> {
        Some(Guard {
            share: 0.5,
            hold: Duration::from_secs(60),
            settle: Duration::from_secs(5),
        })
    }

    /// Each order of a registry's answers, against each kind of loss.
    #[test]
    fn what_is_made_of_those_that_are_missing_follows_from_the_registrys_history() {
        use Order::{Forward, Lost, Unknown};
        let (confirm, settle) = (Unconfirmed(at(1)), Unconfirmed(at(5)));
        for (served, lost, order, expected) in [
            // A few of many: believed, but by who has lost data.
            (4, 1, Forward, None),
            (4, 2, Forward, None),
            (4, 1, Unknown, None),
            (4, 1, Lost(LOST), Some(Loss(LOST))),
            (4, 2, Lost(LOST), Some(Loss(LOST))),
            // Many at once.
            (4, 3, Forward, Some(settle)),
            (4, 3, Unknown, Some(Many)),
            (4, 3, Lost(LOST), Some(Loss(LOST))),
            // All.
            (4, 4, Forward, Some(settle)),
            (4, 4, Unknown, Some(Many)),
            // The last.
            (1, 1, Forward, Some(confirm)),
            (1, 1, Unknown, Some(settle)),
            (1, 1, Lost(LOST), Some(Loss(LOST))),
        ] {
            let shrink = Shrink {
                order,
                served,
                lost,
                leaves_some: lost < served,
            };
            let expected = expected.map_or(Believed, |reason| Doubted(held(reason, 60)));
            let judged = shrink.judge(guard(), 0, at(0));
            assert_eq!(judged, expected, "{shrink:?}");
            assert_eq!(shrink.judge(None, 0, at(0)), Believed);
            let replaced = Shrink {
                order: Order::Replaced,
                ..shrink
            };
            for guard in [guard(), None] {
                assert_eq!(replaced.judge(guard, 0, at(0)), Replaced);
            }
        }
        let none = Shrink {
            order: Lost(LOST),
            served: 4,
            lost: 0,
            leaves_some: true,
        };
        assert_eq!(none.judge(guard(), 0, at(0)), Believed);
        // Of those that serve all are new: the old ones are as lost as ever.
        let all_new = Shrink {
            order: Unknown,
            served: 4,
            lost: 4,
            leaves_some: true,
        };
        assert_eq!(all_new.judge(guard(), 0, at(0)), Doubted(held(Many, 60)));
        let brief = guard().map(|guard| Guard {
            hold: Duration::from_secs(2),
            ..guard
        });
        let all = Shrink {
            order: Forward,
            ..all_new
        };
        assert_eq!(
            all.judge(brief, 0, at(0)),
            Doubted(held(Unconfirmed(at(2)), 2))
        );
    }

    #[test]
    fn a_second_answer_lets_go_in_good_order_alone() {
        let waits = held(Unconfirmed(at(5)), 60);
        let agrees = Again {
            order: Order::Forward,
            lists_it: false,
            is_empty: false,
        };
        let lost = Again {
            order: Order::Lost(LOST),
            ..agrees
        };
        let empty = Again {
            is_empty: true,
            ..agrees
        };
        let lists_it = Again {
            lists_it: true,
            ..agrees
        };
        let unknown = Again {
            order: Order::Unknown,
            ..agrees
        };
        let is_lost = |loss| Some(held(Loss(loss), 60));
        for (again, seconds, expected) in [
            (agrees, 4, Some(waits)),
            (agrees, 5, None),
            (unknown, 4, Some(waits)),
            (unknown, 6, None),
            (lost, 0, is_lost(LOST)),
            (lost, 6, is_lost(LOST)),
            (empty, 0, is_lost(crate::evidence::Loss::Empty)),
            (empty, 6, is_lost(crate::evidence::Loss::Empty)),
            (lists_it, 0, is_lost(crate::evidence::Loss::Contradicted)),
            (lists_it, 6, is_lost(crate::evidence::Loss::Contradicted)),
        ] {
            assert_eq!(waits.confirmed(again, at(seconds)), expected, "{again:?}");
            for other in [held(Many, 60), held(Loss(LOST), 60)] {
                assert_eq!(other.confirmed(again, at(seconds)), Some(other));
            }
        }
        // One that has signed in again is let go as ill.
        let back = listed(waits);
        assert_eq!(back.confirmed(lists_it, at(5)), None);
        assert_eq!((back.let_go(), waits.let_go()), (Critical, Removed));
    }
}
