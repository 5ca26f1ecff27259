//! What a client may have done that costs the server more than the client: frames that ask for nothing, and
//! requests that are taken back. A client that is answered may do it as often as answers are long, since window
//! updates and pings come with what is read. A flood of them is none of that, and ends its connection.

/// What there is at the start, and at the most.
const MOST: u64 = 4000;
/// What comes back with each second.
const PER_SECOND: u64 = 200;
/// Bytes that the client has taken, for each of which one comes back.
const BYTES: u64 = 64;

/// What a frame costs that asks for nothing.
pub(super) const FRAME: u64 = 1;
/// What it costs to take a request back: the endpoint may have begun with it.
pub(super) const RESET: u64 = 10;

/// What is left of what a connection may spend.
#[derive(Debug)]
pub(super) struct Budget {
    left: u64,
    /// Milliseconds.
    now: u64,
    taken: u64,
}

/// There is nothing left.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("a flood of frames that ask for nothing, or of requests that are taken back")]
pub(super) struct Flood;

impl Budget {
    /// Of a connection that begins now, in milliseconds.
    pub(super) fn new(now: u64) -> Self {
        let (left, taken) = (MOST, 0);
        Self { left, now, taken }
    }

    /// Gives back what has come back by now, with so many bytes that the client has taken in all.
    pub(super) fn refill(&mut self, now: u64, taken: u64) {
        let passed = now.saturating_sub(self.now);
        let back = passed.saturating_mul(PER_SECOND) / 1000;
        if back > 0 {
            self.now = now;
        }
        let answered = taken.saturating_sub(self.taken) / BYTES;
        self.taken += answered * BYTES;
        self.left = MOST.min(self.left.saturating_add(back).saturating_add(answered));
    }

    /// Spends so much.
    pub(super) fn spend(&mut self, cost: u64) -> Result<(), Flood> {
        self.left = self.left.checked_sub(cost).ok_or(Flood)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_ends_at_once_and_what_answers_pay_for_goes_on() {
        let mut budget = Budget::new(0);
        let frames = (0..).take_while(|_| budget.spend(FRAME).is_ok()).count();
        assert_eq!(frames as u64, MOST);
        budget.refill(1000, 0);
        assert_eq!(budget.left, PER_SECOND);
        budget.refill(1001, BYTES - 1);
        assert_eq!(budget.left, PER_SECOND);
        budget.refill(1002, 2 * BYTES - 1);
        assert_eq!(budget.left, PER_SECOND + 1);
        budget.refill(u64::MAX, 0);
        assert_eq!(budget.left, MOST);
        // A request that is taken back, and ten frames more, for each short answer.
        let mut budget = Budget::new(0);
        for answers in 1..100_000 {
            assert_eq!(budget.spend(RESET + 10 * FRAME), Ok(()), "{answers}");
            budget.refill(0, answers * 20 * BYTES);
        }
    }

    #[test]
    fn a_fraction_of_a_second_is_not_lost() {
        let mut budget = Budget::new(0);
        assert_eq!(budget.spend(MOST), Ok(()));
        for now in 1..=1000 {
            budget.refill(now, 0);
        }
        assert!(budget.left > PER_SECOND / 2, "{budget:?}");
        assert_eq!(budget.spend(MOST), Err(Flood));
    }
}
