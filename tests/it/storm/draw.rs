//! Draws from the seed what each side does. Equal labels draw equal numbers, whatever was drawn
//! before, so that a request is the same in every run of its seed.

use std::fmt::Write as _;

use fastrand::Rng;

use super::{
    http2::{Breach, Conversation, Cut, Hosting, Malformed, Manners},
    plan::{
        Answer, Behind, Break, Framing, How, Id, Moment, Passage, Piece, Request, Route, Trouble,
        Tunnel, is_http2,
    },
    spoil::{Garbled, Spoilt},
};
use crate::support::frames::{CANCEL, INTERNAL_ERROR, NO_ERROR, REFUSED_STREAM};

/// Draws everything from one seed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Planner {
    pub(super) seed: u64,
}

const NAMES: [&str; 6] = [
    "accept",
    "x-one",
    "user-agent",
    "x-Two",
    "if-none-match",
    "x-real-ip",
];
const METHODS: [&str; 12] = [
    "GET", "GET", "GET", "HEAD", "OPTIONS", "PUT", "PUT", "DELETE", "POST", "POST", "PATCH",
    "REPORT",
];
const ROUTES: [Route; 28] = [
    Route::Plain,
    Route::Plain,
    Route::Plain,
    Route::Plain,
    Route::Secure,
    Route::Secure,
    Route::Secure,
    Route::Retried,
    Route::Retried,
    Route::Limited,
    Route::Limited,
    Route::Rated,
    Route::Crowd,
    Route::Crowd,
    Route::Solo,
    Route::Solo,
    Route::Solo,
    Route::Split,
    Route::Split,
    Route::Edgy,
    Route::Streams,
    Route::Streams,
    Route::Streams,
    Route::Sealed,
    Route::Tunnel,
    Route::Tunnel,
    Route::Gone,
    Route::Nowhere,
];
const STATUSES: [u16; 12] = [200, 200, 200, 200, 201, 204, 206, 302, 304, 404, 500, 503];

impl Planner {
    fn dice(self, labels: &[u64]) -> Rng {
        // FNV-1a over the labels: equal labels draw equal numbers, whatever was drawn before.
        let mut hash = self.seed ^ 0xcbf2_9ce4_8422_2325;
        for byte in labels.iter().flat_map(|label| label.to_le_bytes()) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        Rng::with_seed(hash)
    }

    /// How many requests a client makes on one connection.
    pub(super) fn requests(self, client: u64, connection: u64) -> u64 {
        self.dice(&[1, client, connection]).u64(1..=6)
    }

    /// How long a client rests before its next connection.
    pub(super) fn rest_ms(self, client: u64, connection: u64) -> u64 {
        self.dice(&[2, client, connection]).u64(0..60)
    }

    pub(super) fn request(self, id: Id) -> Request {
        let mut dice = self.dice(&[3, id.0]);
        let dice = &mut dice;
        let route = ROUTES[dice.usize(..ROUTES.len())];
        let method = METHODS[dice.usize(..METHODS.len())];
        let http2 = id.is_http2();
        let http10 = !http2 && one_in(dice, 12);
        let has_body = match method {
            "POST" | "PUT" | "PATCH" | "REPORT" => !one_in(dice, 8),
            _ => one_in(dice, 12),
        };
        let (framing, body) = match has_body {
            false => (Framing::None, Vec::new()),
            true => body(dice, http10, false),
        };
        let mut request = Request {
            id,
            route,
            method,
            http10,
            http2,
            target: target(dice, route),
            fields: fields(dice, "X-Ask"),
            connection: match dice.u8(..20) {
                _ if http2 => None,
                0 => Some("close"),
                1 => Some("keep-alive"),
                _ if http10 && dice.bool() => Some("keep-alive"),
                _ => None,
            },
            hop: !http2 && one_in(dice, 12),
            takes_trailers: one_in(dice, 3),
            expects: has_body && !http10 && one_in(dice, 8),
            framing,
            body,
            passage: None,
            spoilt: one_in(dice, 20).then(|| Spoilt::draw(dice, http2)),
            breaks: None,
            leaves: None,
            sips: one_in(dice, 15),
            waits: !one_in(dice, 4),
        };
        if let Some(spoilt) = request.spoilt {
            spoilt.prepare(&mut request);
        } else if http2 && one_in(dice, 15) {
            // The end of a request without a body is that of its head.
            let least = if has_body { 0 } else { 1 };
            let at = dice.usize(least..request.body.len() + 2);
            let how = a_reset(dice);
            request.breaks = Some(Break { at, how });
        } else if !http2 && one_in(dice, 25) {
            let length = request.wire().0.len();
            request.breaks = Some(a_break(dice, length + 1, true));
        } else if one_in(dice, 25) {
            request.leaves = Some(a_break(dice, 3_000, false));
        } else if route == Route::Tunnel && !has_body && !http10 && !http2 {
            request.connection = None;
            request.passage = Some(passage(dice));
        }
        request
    }

    /// What an endpoint of HTTP/2 does with the how manieth of all connections.
    pub(super) fn hosting(self, service: &str, connection: u64) -> Hosting {
        let mut dice = self.dice(&[7, service.len() as u64, connection]);
        let dice = &mut dice;
        let (window, opens_after_ms) = window(dice);
        Hosting {
            streams: [1, 2, 10, 100, 100][dice.usize(..5)],
            window,
            opens_after_ms,
            has_table: dice.bool(),
            manners: Manners {
                cut: None,
                goes_away: false,
                ..manners(dice)
            },
        }
    }

    /// What a client of HTTP/2 does with a connection beside its requests.
    pub(super) fn conversation(self, client: u64, connection: u64) -> Conversation {
        let mut dice = self.dice(&[6, client, connection]);
        let dice = &mut dice;
        let (window, opens_after_ms) = window(dice);
        Conversation {
            at_once: dice.usize(1..=6),
            window,
            opens_after_ms,
            has_table: dice.bool(),
            breach: one_in(dice, 15).then(|| Breach::draw(dice)),
            manners: manners(dice),
        }
    }

    /// How many bytes go out at once, and what is waited between.
    pub(super) fn pieces(self, id: Id, side: u64, length: usize, head: usize) -> Vec<Piece> {
        let mut dice = self.dice(&[4, id.0, side]);
        let dice = &mut dice;
        let mut ends = match dice.u8(..10) {
            0..=3 => Vec::new(),
            // How many libraries write.
            4..=5 => vec![head],
            6 if length <= 600 => (1..length).collect(),
            _ => (0..dice.usize(1..8))
                .map(|_| dice.usize(..=length))
                .collect(),
        };
        ends.push(length);
        ends.sort_unstable();
        ends.dedup();
        let pauses = dice.u8(..4);
        let mut pause = || match pauses {
            0 if length <= 600 => 0,
            1 => dice.u64(0..3),
            2 => u64::from(one_in(dice, 3)),
            _ => 0,
        };
        let piece = |end| Piece {
            end,
            pause_ms: pause(),
        };
        ends.into_iter().filter(|end| *end > 0).map(piece).collect()
    }

    pub(super) fn answer(self, request: &Request, arrival: usize, service: &str) -> Answer {
        let mut dice = self.dice(&[5, request.id.0, arrival as u64]);
        let dice = &mut dice;
        let status = STATUSES[dice.usize(..STATUSES.len())];
        let http10 = one_in(dice, 15);
        let is_bodyless = matches!(status, 204 | 304);
        let (framing, body) = match is_bodyless {
            true => (Framing::None, Vec::new()),
            false => body(dice, http10, true),
        };
        let is_edgy = service == "edgy";
        let mut answer = Answer {
            id: request.id,
            arrival,
            interim: match dice.u8(..10) {
                0 => vec![103],
                1 => vec![100, 102, 103],
                _ => Vec::new(),
            },
            moment: match request.body.len() {
                length if request.framing == Framing::Length && length > 0 && one_in(dice, 8) => {
                    Moment::Early(dice.usize(..length))
                }
                _ => Moment::AtEnd,
            },
            delay_ms: if one_in(dice, 5) { dice.u64(1..25) } else { 0 },
            status,
            http10,
            closes: framing == Framing::UntilClose || one_in(dice, 12),
            closes_unsaid: is_edgy && one_in(dice, 3),
            babbles: is_edgy && one_in(dice, 6),
            framing,
            body,
            tunnel: None,
            trouble: None,
        };
        answer.trouble = match dice.u16(..200) {
            0..8 => {
                let length = answer.wire(request).0.len();
                Some(Trouble::Breaks(a_break(dice, length, false)))
            }
            8..14 => Some(Trouble::Breaks(Break {
                at: 0,
                how: close_or_reset(dice),
            })),
            14..24 => Some(Trouble::Garbled(Garbled::draw(dice))),
            24 => Some(Trouble::Silence),
            25..125 if service == "solo" && arrival == 0 => Some(Trouble::Leaves),
            _ => None,
        };
        if let Some(Trouble::Garbled(garbled)) = answer.trouble {
            garbled.prepare(&mut answer);
        }
        if is_http2(service) {
            speak_http2(dice, &mut answer);
        }
        if request.passage.is_some() && answer.trouble.is_none() && !one_in(dice, 4) {
            answer.tunnel = Some(tunnel(dice));
            answer.status = 101;
            answer.http10 = false;
            answer.closes = false;
            answer.framing = Framing::None;
            answer.body = Vec::new();
        }
        // Behind an answer that ends with its connection there is no more to say.
        answer.babbles &= answer.trouble.is_none() && answer.framing != Framing::UntilClose;
        answer
    }
}

/// How much one side takes at first, and when it takes as much as usual.
fn window(dice: &mut Rng) -> (u32, Option<u64>) {
    match dice.u8(..10) {
        0 => (0, Some(dice.u64(..500))),
        1 => (1, Some(dice.u64(..500))),
        2 => (1_000, None),
        3 => (16_384, None),
        4 => (1 << 20, None),
        _ => (65_535, None),
    }
}

fn manners(dice: &mut Rng) -> Manners {
    Manners {
        cut: one_in(dice, 12).then(|| Cut::draw(dice)),
        most: match dice.u8(..6) {
            0 => dice.usize(1..30),
            1 => dice.usize(30..3_000),
            _ => usize::MAX,
        },
        rests: one_in(dice, 6),
        sips: one_in(dice, 12),
        chats: one_in(dice, 4),
        goes_away: one_in(dice, 8),
        seed: dice.u64(..),
    }
}

/// Makes an answer one of HTTP/2, with what goes wrong there.
fn speak_http2(dice: &mut Rng, answer: &mut Answer) {
    answer.http10 = false;
    answer.closes = one_in(dice, 30);
    if answer.framing == Framing::UntilClose {
        answer.framing = Framing::Chunked {
            sizes: vec![answer.body.len()],
            extensions: false,
            trailers: Vec::new(),
        };
    }
    let a_break = |dice: &mut Rng, how| {
        let at = dice.usize(..=answer.body.len());
        Some(Trouble::Breaks(Break { at, how }))
    };
    answer.trouble = match dice.u16(..200) {
        // What was refused may come again, and so is a trouble of its own.
        number @ 0..9 => match a_reset(dice) {
            How::Stream(REFUSED_STREAM) => Some(Trouble::Refuses),
            how if number < 6 => a_break(dice, how),
            how => Some(Trouble::Breaks(Break { at: 0, how })),
        },
        9..11 => {
            let how = close_or_reset(dice);
            a_break(dice, how)
        }
        11..16 => Some(Trouble::Refuses),
        16..24 => Some(Trouble::LeavesOut),
        24..32 => Some(Trouble::Malformed(Malformed::draw(dice))),
        32 => Some(Trouble::Silence),
        _ => None,
    };
    if let Some(Trouble::Malformed(malformed)) = answer.trouble {
        malformed.prepare(answer);
    }
}

fn one_in(dice: &mut Rng, many: u32) -> bool {
    dice.u32(..many) == 0
}

fn close_or_reset(dice: &mut Rng) -> How {
    if dice.bool() { How::Close } else { How::Reset }
}

/// The end of a stream of HTTP/2.
fn a_reset(dice: &mut Rng) -> How {
    let codes = [NO_ERROR, INTERNAL_ERROR, REFUSED_STREAM, CANCEL, CANCEL];
    How::Stream(codes[dice.usize(..codes.len())])
}

fn a_break(dice: &mut Rng, below: usize, half: bool) -> Break {
    let how = match dice.u8(..5) {
        0 if half => How::Half,
        _ => close_or_reset(dice),
    };
    // Most messages are small, and so what matters in large ones is near the start as well.
    let below = if dice.bool() { below } else { below.min(400) };
    Break {
        at: dice.usize(..below),
        how,
    }
}

fn passage(dice: &mut Rng) -> Passage {
    let bytes = noise(dice);
    let breaks = one_in(dice, 4).then(|| a_break(dice, bytes.len() + 1, false));
    Passage {
        bytes,
        is_early: one_in(dice, 4),
        breaks,
    }
}

fn tunnel(dice: &mut Rng) -> Tunnel {
    let says = if dice.bool() { Vec::new() } else { noise(dice) };
    let behind = match dice.u8(..8) {
        0 => Behind::Listens,
        1 => Behind::Breaks(a_break(dice, 2_000, false)),
        _ => Behind::Echoes,
    };
    Tunnel { says, behind }
}

/// Bytes of a length that most often is small.
fn noise(dice: &mut Rng) -> Vec<u8> {
    let length = match dice.u8(..20) {
        0 => 0,
        1 => dice.usize(100_000..600_000),
        2..=4 => dice.usize(10_000..40_000),
        _ => dice.usize(1..1_000),
    };
    let mut bytes = vec![0; length];
    dice.fill(&mut bytes);
    bytes
}

/// A body and its framing.
fn body(dice: &mut Rng, http10: bool, of_answer: bool) -> (Framing, Vec<u8>) {
    let length = match dice.u8(..40) {
        0..=2 => 0,
        3..=5 => 1,
        6..=7 => dice.usize(60_000..70_000),
        8 => dice.usize(100_000..300_000),
        9..=14 => dice.usize(1_000..20_000),
        _ => dice.usize(2..500),
    };
    let mut body = vec![0; length];
    dice.fill(&mut body);
    let framing = match dice.u8(..10) {
        0..=4 => Framing::Length,
        5 | 6 if of_answer => Framing::UntilClose,
        _ if http10 => Framing::Length,
        _ => {
            let mut sizes = Vec::new();
            let mut left = length;
            while left > 0 {
                let most = if sizes.len() < 20 {
                    left.min(dice.usize(1..5_000))
                } else {
                    left
                };
                let size = dice.usize(1..=most);
                sizes.push(size);
                left -= size;
            }
            Framing::Chunked {
                sizes,
                extensions: one_in(dice, 3),
                trailers: if one_in(dice, 3) {
                    fields(dice, "X-Tail")
                } else {
                    Vec::new()
                },
            }
        }
    };
    (framing, body)
}

fn text(dice: &mut Rng, allowed: &[u8], length: usize) -> String {
    (0..length)
        .map(|_| char::from(allowed[dice.usize(..allowed.len())]))
        .collect()
}

fn fields(dice: &mut Rng, prefix: &str) -> Vec<(String, String)> {
    let count = if one_in(dice, 15) {
        40
    } else {
        dice.usize(..5)
    };
    let values = b"abcXYZ019 ,;:=\"()<>@{}?!~%&";
    let mut field = |place: usize| {
        let name = match NAMES.get(place) {
            Some(known) if prefix == "X-Ask" => String::from(*known),
            _ => format!("{prefix}-{place}"),
        };
        let length = dice.usize(..60);
        (name, text(dice, values, length).trim().to_owned())
    };
    (0..count).map(&mut field).collect()
}

/// A path below the route's, which no rule refuses, and perhaps a query.
fn target(dice: &mut Rng, route: Route) -> String {
    let mut target = route.path().to_owned();
    let segment = b"abcXYZ019-_~!$&'()*+,=:@";
    for _ in 0..dice.usize(..4) {
        let length = dice.usize(1..9);
        let _ = write!(target, "/{}", text(dice, segment, length));
    }
    if one_in(dice, 3) {
        let length = dice.usize(..40);
        let _ = write!(
            target,
            "?{}",
            text(dice, b"abc019-_~!$&'()*+,=:@/?%", length)
        );
    }
    target
}
