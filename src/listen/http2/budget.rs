//! What a client may have done that costs the server more than the client: frames that ask for nothing, and
//! requests that are taken back. A client that is answered may do it as often as answers are long, since window
//! updates and pings come with what is read. A flood of them is none of that, and ends its connection.

use super::frames::Kind;

/// What there is at the start, and at the most.
const MOST: u64 = 4000;
/// What comes back with each second.
const PER_SECOND: u64 = 200;
/// Bytes that the client has taken, for each of which one comes back.
const BYTES: u64 = 64;

/// Pieces of answers that the client has taken, for each of which so much comes back: with each message that
/// it reads a client of gRPC may send a ping and a window update or two.
const PIECE: u64 = 10;
/// What comes back with a request.
const REQUEST: u64 = 3;

/// What a frame costs that asks for nothing.
const FRAME: u64 = 1;
/// What it costs to take a request back at once: the endpoint may have begun with it.
const RESET: u64 = 10;

/// What is left of what a connection may spend.
#[derive(Debug)]
pub(super) struct Budget {
    left: u64,
    /// Milliseconds.
    now: u64,
    taken: u64,
    pieces: u64,
}

/// There is nothing left.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("a flood of frames that ask for nothing, or of requests that are taken back")]
pub(super) struct Flood;

impl Budget {
    /// Of a connection that begins now, in milliseconds.
    pub(super) fn new(now: u64) -> Self {
        Self {
            left: MOST,
            now,
            taken: 0,
            pieces: 0,
        }
    }

    /// Gives back what has come back by now, with so many bytes and pieces of answers that the
    /// client has taken in all.
    pub(super) fn refill(&mut self, now: u64, taken: u64, pieces: u64) {
        let passed = now.saturating_sub(self.now);
        let back = passed.saturating_mul(PER_SECOND) / 1000;
        if back > 0 {
            self.now = now;
        }
        let answered = taken.saturating_sub(self.taken) / BYTES;
        self.taken += answered * BYTES;
        let read = pieces.saturating_sub(self.pieces).saturating_mul(PIECE);
        self.pieces = pieces;
        self.add(back.saturating_add(answered).saturating_add(read));
    }

    fn add(&mut self, back: u64) {
        self.left = MOST.min(self.left.saturating_add(back));
    }

    /// Spends what a frame costs.
    pub(super) fn frame(&mut self, kind: Kind) -> Result<(), Flood> {
        match kind {
            Kind::Headers => self.add(REQUEST),
            Kind::Data | Kind::Acknowledgement => {}
            Kind::Reset { is_young: true } => self.spend(RESET)?,
            Kind::Reset { is_young: false } | Kind::Other => self.spend(FRAME)?,
        }
        Ok(())
    }

    fn spend(&mut self, cost: u64) -> Result<(), Flood> {
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
        budget.refill(1000, 0, 0);
        assert_eq!(budget.left, PER_SECOND);
        budget.refill(1001, BYTES - 1, 0);
        assert_eq!(budget.left, PER_SECOND);
        budget.refill(1002, 2 * BYTES - 1, 0);
        assert_eq!(budget.left, PER_SECOND + 1);
        budget.refill(u64::MAX, 0, 0);
        assert_eq!(budget.left, MOST);
        // A request that is taken back, and ten frames more, for each short answer.
        let mut budget = Budget::new(0);
        for answers in 1..100_000 {
            assert_eq!(budget.spend(RESET + 10 * FRAME), Ok(()), "{answers}");
            budget.refill(0, answers * 20 * BYTES, 0);
        }
    }

    #[test]
    fn a_client_may_ping_for_each_message_that_it_reads_and_cancel_what_hangs() {
        let mut budget = Budget::new(0);
        for messages in 1..=20_000 {
            for _ in 0..3 {
                assert_eq!(budget.frame(Kind::Other), Ok(()), "{messages}");
            }
            budget.refill(0, 0, messages);
        }
        // Short answers, each of one piece that is read with the last frame of it.
        for request in 1..=20_000 {
            for kind in [
                Kind::Headers,
                Kind::Other,
                Kind::Other,
                Kind::Acknowledgement,
            ] {
                assert_eq!(budget.frame(kind), Ok(()), "{request}");
            }
        }
        let resets = |budget: &mut Budget, is_young| {
            let pair = [Kind::Headers, Kind::Reset { is_young }];
            (0..20_000).all(|_| pair.iter().all(|kind| budget.frame(*kind).is_ok()))
        };
        assert!(resets(&mut budget, false));
        assert!(!resets(&mut budget, true));
    }

    #[test]
    fn a_fraction_of_a_second_is_not_lost() {
        let mut budget = Budget::new(0);
        assert_eq!(budget.spend(MOST), Ok(()));
        for now in 1..=1000 {
            budget.refill(now, 0, 0);
        }
        assert!(budget.left > PER_SECOND / 2, "{budget:?}");
        assert_eq!(budget.spend(MOST), Err(Flood));
    }
}
