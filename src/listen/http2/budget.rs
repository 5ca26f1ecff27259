//! What a client may have done that costs the server more than the client: frames that ask for nothing, and
//! requests that are taken back. A client that is answered may do it as often. A flood of them is none of that, and
//! ends its connection. Requests that are taken back have an account of their own, which a long answer does not fill:
//! each may cost an endpoint its connection. So have window updates and pings: they come with what is read, in
//! however small pieces, and however much later.

use super::frames::Kind;

/// What there is at the start of each account, and at the most.
const MOST: u64 = 4000;
/// What comes back with each second.
const PER_SECOND: u64 = 200;
/// Bytes that the client has taken, for each of which one comes back.
const BYTES: u64 = 64;

/// Pieces of answers that the client has taken, for each of which so much comes back: with each message that
/// it reads a client of gRPC may send a ping and a window update or two.
const PIECE: u64 = 10;
/// Window updates that come with each frame of an answer: one for its stream, and one for its connection. (Envoy
/// has the same rule, and allows ten.)
const UPDATES: u64 = 2;
/// Pings that do: clients of gRPC measure by them how fast they are sent to.
const PINGS: u64 = 1;
/// What comes back with a request.
const REQUEST: u64 = 3;

/// What a frame costs that asks for nothing.
const FRAME: u64 = 1;
/// What it costs to take a request back at once: the endpoint may have begun with it. So much comes back with each
/// whole answer.
const RESET: u64 = 10;

/// What is left of what a connection may spend.
#[derive(Debug)]
pub(super) struct Budget {
    left: u64,
    /// For requests that are taken back at once.
    resets: u64,
    /// Milliseconds.
    now: u64,
    answered: Answered,
    /// Window updates that are paid for, and pings. They pay for nothing else: by a window of one byte an answer
    /// would buy a request that is taken back with each byte.
    updates: u64,
    pings: u64,
}

/// How much of its answers a client was sent in all.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Answered {
    /// Bytes, of whatever frames, that the kernel has taken.
    pub(super) bytes: u64,
    /// Pieces of answers that were taken.
    pub(super) pieces: u64,
    /// Frames that hold some of an answer.
    pub(super) frames: u64,
    /// Answers of which the kernel has taken all.
    pub(super) answers: u64,
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
            resets: MOST,
            now,
            answered: Answered::default(),
            updates: 0,
            pings: 0,
        }
    }

    /// Gives back what has come back by now, with so much that was answered in all.
    pub(super) fn refill(&mut self, now: u64, answered: Answered) {
        let passed = now.saturating_sub(self.now);
        let back = passed.saturating_mul(PER_SECOND) / 1000;
        if back > 0 {
            self.now = now;
        }
        let Answered {
            bytes,
            pieces,
            frames,
            answers,
        } = &mut self.answered;
        let taken = answered.bytes.saturating_sub(*bytes) / BYTES;
        *bytes += taken * BYTES;
        let read = answered.pieces.saturating_sub(*pieces);
        let sent = answered.frames.saturating_sub(*frames);
        let whole = answered.answers.saturating_sub(*answers);
        (*pieces, *frames) = (answered.pieces, answered.frames);
        *answers = answered.answers;
        self.updates = self.updates.saturating_add(sent.saturating_mul(UPDATES));
        self.pings = self.pings.saturating_add(sent.saturating_mul(PINGS));
        let read = read.saturating_mul(PIECE);
        add(
            &mut self.left,
            back.saturating_add(taken).saturating_add(read),
        );
        let whole = whole.saturating_mul(RESET);
        add(&mut self.resets, back.saturating_add(whole));
    }

    /// Spends what a frame costs.
    pub(super) fn frame(&mut self, kind: Kind) -> Result<(), Flood> {
        match kind {
            Kind::Headers => {
                add(&mut self.left, REQUEST);
                add(&mut self.resets, REQUEST);
            }
            Kind::Data => {}
            Kind::WindowUpdate if self.updates > 0 => self.updates -= 1,
            Kind::Ping if self.pings > 0 => self.pings -= 1,
            Kind::Reset { is_young: true } => spend(&mut self.resets, RESET)?,
            Kind::Reset { is_young: false }
            | Kind::WindowUpdate
            | Kind::Ping
            | Kind::Acknowledgement
            | Kind::Other => spend(&mut self.left, FRAME)?,
        }
        Ok(())
    }
}

fn add(account: &mut u64, back: u64) {
    *account = MOST.min(account.saturating_add(back));
}

fn spend(account: &mut u64, cost: u64) -> Result<(), Flood> {
    *account = account.checked_sub(cost).ok_or(Flood)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(bytes: u64) -> Answered {
        Answered {
            bytes,
            ..Answered::default()
        }
    }

    #[test]
    fn a_flood_ends_at_once_and_what_answers_pay_for_goes_on() {
        let mut budget = Budget::new(0);
        let frames = (0..)
            .take_while(|_| spend(&mut budget.left, FRAME).is_ok())
            .count();
        assert_eq!(frames as u64, MOST);
        budget.refill(1000, bytes(0));
        assert_eq!(budget.left, PER_SECOND);
        budget.refill(1001, bytes(BYTES - 1));
        assert_eq!(budget.left, PER_SECOND);
        budget.refill(1002, bytes(2 * BYTES - 1));
        assert_eq!(budget.left, PER_SECOND + 1);
        budget.refill(u64::MAX, bytes(0));
        assert_eq!(budget.left, MOST);
        // A request that is taken back, and ten frames more, for each short answer.
        let mut budget = Budget::new(0);
        for answers in 1..100_000 {
            let reset = Kind::Reset { is_young: true };
            assert_eq!(budget.frame(reset), Ok(()), "{answers}");
            assert_eq!(spend(&mut budget.left, 10 * FRAME), Ok(()), "{answers}");
            let answered = Answered {
                answers,
                ..bytes(answers * 10 * BYTES)
            };
            budget.refill(0, answered);
        }
    }

    #[test]
    fn a_long_answer_pays_for_no_request_that_is_taken_back() {
        let mut budget = Budget::new(0);
        let pair = [Kind::Headers, Kind::Reset { is_young: true }];
        let mut resets = 0;
        while pair.iter().all(|kind| budget.frame(*kind).is_ok()) {
            resets += 1;
            let download = Answered {
                pieces: resets * 1000,
                frames: resets * 1000,
                ..bytes(resets * 16_000_000)
            };
            budget.refill(0, download);
        }
        assert_eq!(resets, MOST / (RESET - REQUEST));
    }

    #[test]
    fn a_client_may_ping_for_each_message_that_it_reads_and_cancel_what_hangs() {
        let mut budget = Budget::new(0);
        for messages in 1..=20_000 {
            for _ in 0..3 {
                assert_eq!(budget.frame(Kind::Other), Ok(()), "{messages}");
            }
            let read = Answered {
                pieces: messages,
                ..Answered::default()
            };
            budget.refill(0, read);
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
    fn each_frame_of_an_answer_pays_for_two_window_updates_and_a_ping_and_for_nothing_else() {
        let frames = |frames| Answered {
            frames,
            ..Answered::default()
        };
        let mut budget = Budget::new(0);
        for sent in 1..=20_000 {
            budget.refill(0, frames(sent));
            for kind in [Kind::WindowUpdate, Kind::WindowUpdate, Kind::Ping] {
                assert_eq!(budget.frame(kind), Ok(()), "{sent}");
            }
        }
        assert_eq!(budget.left, MOST);
        // What was sent before pays for those that come later.
        budget.refill(0, frames(30_000));
        let is_paid = |budget: &mut Budget, kind| budget.frame(kind).is_ok();
        let updates = (0..).take_while(|_| is_paid(&mut budget, Kind::WindowUpdate));
        assert_eq!(updates.count() as u64, 10_000 * UPDATES + MOST);
        let pings = (0..).take_while(|_| is_paid(&mut budget, Kind::Ping));
        assert_eq!(pings.count() as u64, 10_000 * PINGS);
        budget.refill(0, frames(40_000));
        assert!(is_paid(&mut budget, Kind::WindowUpdate) && is_paid(&mut budget, Kind::Ping));
        let reset = Kind::Reset { is_young: false };
        assert!(!is_paid(&mut budget, Kind::Other) && !is_paid(&mut budget, reset));
    }

    #[test]
    fn a_fraction_of_a_second_is_not_lost() {
        let mut budget = Budget::new(0);
        assert_eq!(spend(&mut budget.left, MOST), Ok(()));
        for now in 1..=1000 {
            budget.refill(now, bytes(0));
        }
        assert!(budget.left > PER_SECOND / 2, "{budget:?}");
        assert_eq!(spend(&mut budget.left, MOST), Err(Flood));
    }
}
