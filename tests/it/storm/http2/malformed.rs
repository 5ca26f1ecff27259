//! Answers of HTTP/2 that are not sound (RFC 9113 8.1 and 8.3.2), written past the library.

use fastrand::Rng;

use super::super::plan::{Answer, Framing};
use crate::support::frames::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, RST_STREAM, SETTINGS, WINDOW_UPDATE,
    block, frame,
};

/// How an answer is not sound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Malformed {
    ConnectionField,
    UpperCase,
    NoStatus,
    TwoStatuses,
    Switching,
    DataBeforeHead,
    Longer,
    Shorter,
    HeadWithoutEnd,
    // Of the connection.
    UnknownIndex,
    LargeFrame,
    Push,
    LoneContinuation,
    NoIncrement,
    OddSettings,
    ResetOfIdle,
}

const ALL: [Malformed; 16] = [
    Malformed::ConnectionField,
    Malformed::UpperCase,
    Malformed::NoStatus,
    Malformed::TwoStatuses,
    Malformed::Switching,
    Malformed::DataBeforeHead,
    Malformed::Longer,
    Malformed::Shorter,
    Malformed::HeadWithoutEnd,
    Malformed::UnknownIndex,
    Malformed::LargeFrame,
    Malformed::Push,
    Malformed::LoneContinuation,
    Malformed::NoIncrement,
    Malformed::OddSettings,
    Malformed::ResetOfIdle,
];

impl Malformed {
    pub(in super::super) fn draw(dice: &mut Rng) -> Self {
        // Those that end a connection hurt others, and are fewer.
        let below = if dice.u8(..4) == 0 { ALL.len() } else { 8 };
        ALL[dice.usize(..below)]
    }

    /// Whether it may end its connection, with all that is on it.
    pub(in super::super) fn is_of_connection(self) -> bool {
        let first = ALL
            .iter()
            .position(|malformed| *malformed == Self::HeadWithoutEnd);
        let place = ALL.iter().position(|malformed| *malformed == self);
        place >= first || matches!(self, Self::DataBeforeHead | Self::UpperCase)
    }

    /// Whether its head tells, so that no client may see any of it.
    pub(in super::super) fn is_in_head(self) -> bool {
        !matches!(self, Self::Longer | Self::Shorter)
    }

    /// Whether the library of the other side takes it for an end, and so does not reset the stream. This side's would
    /// count the stream as open, and refuse others.
    pub(super) fn ends_its_stream(self) -> bool {
        self == Self::Switching
    }

    /// Makes an answer such that it can be spoilt so.
    pub(in super::super) fn prepare(self, answer: &mut Answer) {
        answer.closes = false;
        answer.status = 200;
        answer.interim = Vec::new();
        answer.framing = Framing::Length;
        answer.body = b"abc".to_vec();
    }
}

/// The bytes on this stream.
pub(super) fn wire(malformed: Malformed, plan: &Answer, stream: u32) -> Vec<u8> {
    let mine = format!("{}.{}", plan.id, plan.arrival);
    let head = |flags: u8, status: &[(&str, &str)], more: &[(&str, &str)]| {
        let all = [status, &[("x-storm-answer", &mine)], more].concat();
        frame(HEADERS, flags | END_HEADERS, stream, &block(&all))
    };
    let ok: &[(&str, &str)] = &[(":status", "200")];
    let whole = |more: &[(&str, &str)]| head(END_STREAM, ok, more);
    let data = frame(DATA, END_STREAM, stream, b"abc");
    match malformed {
        Malformed::ConnectionField => whole(&[("connection", "close")]),
        Malformed::UpperCase => whole(&[("X-Upper", "case")]),
        Malformed::NoStatus => head(END_STREAM, &[], &[]),
        Malformed::TwoStatuses => head(END_STREAM, &[ok, ok].concat(), &[]),
        Malformed::Switching => head(END_STREAM, &[(":status", "101")], &[]),
        Malformed::DataBeforeHead => data,
        Malformed::Longer => [head(0, ok, &[("content-length", "1")]), data].concat(),
        Malformed::Shorter => [head(0, ok, &[("content-length", "9")]), data].concat(),
        Malformed::HeadWithoutEnd => {
            let begun = frame(HEADERS, END_STREAM, stream, &block(ok));
            [begun, data].concat()
        }
        Malformed::UnknownIndex => frame(HEADERS, END_HEADERS | END_STREAM, stream, &[0xfe]),
        Malformed::LargeFrame => frame(DATA, 0, stream, &[0; 16_385]),
        Malformed::Push => {
            let promised = [&2_u32.to_be_bytes()[..], &block(ok)].concat();
            frame(5, END_HEADERS, stream, &promised)
        }
        Malformed::LoneContinuation => frame(CONTINUATION, END_HEADERS, stream, &block(ok)),
        Malformed::NoIncrement => frame(WINDOW_UPDATE, 0, 0, &[0; 4]),
        Malformed::OddSettings => frame(SETTINGS, 0, 0, &[0; 5]),
        Malformed::ResetOfIdle => frame(RST_STREAM, 0, stream + 20_000, &[0; 4]),
    }
}
