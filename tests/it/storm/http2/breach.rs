//! What no library of HTTP/2 says: frames and heads that are against the rules (RFC 9113). Each ends its stream, or
//! its connection, and no endpoint sees any of it, nor what stands behind it.

use fastrand::Rng;
use futures_util::FutureExt as _;

use super::super::{client::Client, plan::Id};
use crate::support::frames::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, Frame, Frames, GOAWAY, HEADERS, PING, PREFACE,
    PROTOCOL_ERROR, RST_STREAM, SETTINGS, WINDOW_UPDATE, frame, get, head, request, settings,
};

/// A way to break the rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Breach {
    // Of one stream.
    ConnectionField,
    OtherCoding,
    OddTe,
    NoPath,
    NoMethod,
    TwoPaths,
    LatePseudo,
    LengthWithoutBody,
    OwnDependency,
    // Of the connection.
    UpperCase,
    UnknownPseudo,
    LineEnd,
    EvenStream,
    OldStream,
    DataOnIdle,
    ResetOfIdle,
    NoIncrement,
    WindowBeyond,
    LargeFrame,
    LoneContinuation,
    DataAmidHead,
    UnknownIndex,
    OddSettings,
    HugeWindow,
    ShortPing,
    Push,
    Padding,
    NoStream,
    Garbage,
}

const BREACHES: [Breach; 29] = [
    Breach::ConnectionField,
    Breach::OtherCoding,
    Breach::OddTe,
    Breach::NoPath,
    Breach::NoMethod,
    Breach::TwoPaths,
    Breach::LatePseudo,
    Breach::LengthWithoutBody,
    Breach::OwnDependency,
    Breach::UpperCase,
    Breach::UnknownPseudo,
    Breach::LineEnd,
    Breach::EvenStream,
    Breach::OldStream,
    Breach::DataOnIdle,
    Breach::ResetOfIdle,
    Breach::NoIncrement,
    Breach::WindowBeyond,
    Breach::LargeFrame,
    Breach::LoneContinuation,
    Breach::DataAmidHead,
    Breach::UnknownIndex,
    Breach::OddSettings,
    Breach::HugeWindow,
    Breach::ShortPing,
    Breach::Push,
    Breach::Padding,
    Breach::NoStream,
    Breach::Garbage,
];

impl Breach {
    pub(in super::super) fn draw(dice: &mut Rng) -> Self {
        BREACHES[dice.usize(..BREACHES.len())]
    }

    /// Whether it ends its stream alone.
    fn is_of_stream(self) -> bool {
        let place = BREACHES.iter().position(|breach| *breach == self);
        place
            < BREACHES
                .iter()
                .position(|breach| *breach == Self::UpperCase)
    }

    /// The bytes, which begin with the first stream where they have one. `id` is what endpoints would know a
    /// request by.
    fn wire(self, id: &str) -> Vec<u8> {
        let mine = ("x-storm", id);
        let of = |more: &[(&str, &str)]| {
            let more = [&[mine], more].concat();
            head(1, END_STREAM, &request("GET", "/plain", &more))
        };
        let whole = of(&[]);
        let update = |stream, more: u32| frame(WINDOW_UPDATE, 0, stream, &more.to_be_bytes());
        let without = |name: &str| {
            let all = request("GET", "/plain", &[]);
            let mut fields: Vec<_> = all.into_iter().filter(|field| field.0 != name).collect();
            fields.push(mine);
            head(1, END_STREAM, &fields)
        };
        match self {
            Self::ConnectionField => of(&[("connection", "keep-alive")]),
            Self::OtherCoding => of(&[("transfer-encoding", "chunked")]),
            Self::OddTe => of(&[("te", "gzip")]),
            Self::NoPath => without(":path"),
            Self::NoMethod => without(":method"),
            Self::TwoPaths => {
                let fields = request("GET", "/plain", &[(":path", "/edgy"), mine]);
                head(1, END_STREAM, &fields)
            }
            Self::LatePseudo => of(&[(":path", "/edgy")]),
            Self::LengthWithoutBody => of(&[("content-length", "5")]),
            Self::OwnDependency => frame(2, 0, 1, &[0, 0, 0, 1, 0]),
            Self::UpperCase => of(&[("X-Upper", "case")]),
            Self::UnknownPseudo => of(&[(":late", "a")]),
            Self::LineEnd => of(&[("x", "a\r\nb: c")]),
            Self::EvenStream => frame(HEADERS, END_HEADERS | END_STREAM, 2, &whole[9..]),
            Self::OldStream => [get(5, "/nowhere"), whole].concat(),
            Self::DataOnIdle => frame(DATA, 0, 1, b"a"),
            Self::ResetOfIdle => frame(RST_STREAM, 0, 1, &[0; 4]),
            Self::NoIncrement => update(0, 0),
            Self::WindowBeyond => update(0, 0x7fff_ffff),
            Self::LargeFrame => frame(DATA, 0, 1, &[0; 16_385]),
            Self::LoneContinuation => frame(CONTINUATION, END_HEADERS, 1, &whole[9..]),
            Self::DataAmidHead => {
                let begun = frame(HEADERS, END_STREAM, 1, &whole[9..]);
                [begun, frame(DATA, 0, 1, b"a")].concat()
            }
            Self::UnknownIndex => frame(HEADERS, END_HEADERS | END_STREAM, 1, &[0xfe]),
            Self::OddSettings => frame(SETTINGS, 0, 0, &[0; 5]),
            Self::HugeWindow => settings(&[(4, 0x8000_0000)]),
            Self::ShortPing => frame(PING, 0, 0, &[0; 7]),
            Self::Push => frame(5, END_HEADERS, 1, &whole[9..]),
            Self::Padding => frame(HEADERS, END_HEADERS | END_STREAM | 8, 1, &[200, 0x82]),
            Self::NoStream => frame(HEADERS, END_HEADERS | END_STREAM, 0, &whole[9..]),
            Self::Garbage => vec![0x5a; 400],
        }
    }
}

/// Has a client do so on a connection of its own.
pub(super) async fn commit(client: &Client, breach: Breach, id: Id) {
    // What does not come within the patience of the frames' reader is a panic.
    let committing = std::panic::AssertUnwindSafe(tried(client, breach, id));
    let found = committing.catch_unwind().await;
    let why = match found {
        Ok(Ok(())) => return,
        Ok(Err(why)) => why,
        Err(_) => "a connection goes on".to_owned(),
    };
    client.oracle.fault(None, &format!("{why} ({breach:?})"));
}

async fn tried(client: &Client, breach: Breach, id: Id) -> Result<(), String> {
    let nobody = id.of_nobody().to_string();
    let mut wire = PREFACE.to_vec();
    wire.extend(settings(&[(1, 0)]));
    wire.extend(breach.wire(&nobody));
    let behind = match breach.is_of_stream() {
        true => get(7, "/nowhere"),
        false => head(
            7,
            END_STREAM,
            &request("GET", "/plain", &[("x-storm", &nobody)]),
        ),
    };
    wire.extend(behind);
    let mut frames = Frames::silent(client.proxy).await;
    let mut start = 0;
    for piece in client.planner.pieces(id, 0, wire.len(), PREFACE.len()) {
        if !frames.try_send(&wire[start..piece.end]).await {
            break;
        }
        start = piece.end;
        tokio::time::sleep(std::time::Duration::from_millis(piece.pause_ms)).await;
    }
    let mut seen = Vec::new();
    while let Some(frame) = frames.next().await {
        if frame.stream == 7 && frame.kind == HEADERS {
            return judged(breach, &seen, true);
        }
        seen.push(frame);
    }
    judged(breach, &seen, false)
}

/// What must have come before the answer to the last request, or the end.
fn judged(breach: Breach, seen: &[Frame], goes_on: bool) -> Result<(), String> {
    let is_reset = |frame: &Frame| frame.kind == RST_STREAM && frame.code() == PROTOCOL_ERROR;
    let is_answered = seen
        .iter()
        .any(|frame| frame.kind == HEADERS && frame.stream == 1);
    let why = match breach.is_of_stream() {
        _ if is_answered => "what breaks the rules is answered",
        true if !goes_on => "a stream's error ends its connection",
        true if breach != Breach::OwnDependency && !seen.iter().any(is_reset) => "no reset",
        false if goes_on => "an error of the connection does not end it",
        false
            if seen
                .iter()
                .any(|frame| frame.kind == GOAWAY && frame.code() == 0) =>
        {
            "an error is taken for a leave"
        }
        _ => return Ok(()),
    };
    Err(format!("{why}: {seen:?}"))
}
