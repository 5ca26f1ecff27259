//! The frames that a client sends (RFC 9113 4.1), followed beside the HTTP library that reads them: of which
//! kind each is, and whether a head has begun that is not whole. The library says what is sound; what is
//! not, ends the connection there, whatever is made of it here. And the frames that the library writes, of
//! which those are counted that a client may answer with window updates and pings, and those that end an answer.

use super::super::preface;

/// Bytes of what stands before each frame's payload.
const HEADER: usize = 9;

/// A frame's kind, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Data,
    Headers,
    Reset {
        /// The stream began within the last second.
        is_young: bool,
    },
    /// Of `SETTINGS` or of a `PING`, which were ours.
    Acknowledgement,
    WindowUpdate,
    Ping,
    /// It costs the server something, and asks for nothing: `SETTINGS`, `PRIORITY`, `CONTINUATION`, and those
    /// that are not known.
    Other,
}

/// The numbers of kinds.
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RESET: u8 = 3;
const PING: u8 = 6;
const CONTINUATION: u8 = 9;

/// The code that a reset is given (`INTERNAL_ERROR`).
const CUT: [u8; 4] = [0, 0, 0, 2];

/// A flag of `SETTINGS` and `PING`: it answers one of ours.
const ACK: u8 = 1;

/// A flag of `DATA` and `HEADERS`: nothing follows on the stream.
const END_STREAM: u8 = 1;

/// A flag of `HEADERS` and `CONTINUATION`: the head is whole with this frame.
const END_HEADERS: u8 = 4;

/// Where in a client's frames the next byte stands.
pub(super) struct Frames {
    /// Bytes of the preface that are still to come.
    preface: usize,
    place: Place,
    block: Block,
    heads: u64,
    ages: Ages,
}

/// Where in the frames that are written the next byte stands.
#[derive(Default)]
pub(super) struct Written {
    place: Place,
    /// Frames of `DATA` that hold something.
    data: u64,
    /// Frames that end their streams.
    ends: u64,
    /// A frame of an answer has begun since the socket had taken all.
    has_news: bool,
}

/// Where in one direction's frames the next byte stands.
#[derive(Default)]
struct Place {
    /// What has come of a frame's header.
    header: [u8; HEADER],
    filled: usize,
    /// Bytes of the payload that are still to come.
    left: usize,
}

impl Place {
    /// Passes over bytes of a header. Returns it where it is whole with them.
    fn header(&mut self, bytes: &mut &[u8]) -> Option<[u8; HEADER]> {
        let count = bytes.len().min(HEADER - self.filled);
        let (header, rest) = bytes.split_at(count);
        self.header[self.filled..self.filled + count].copy_from_slice(header);
        self.filled += count;
        *bytes = rest;
        if self.filled < HEADER {
            return None;
        }
        let [high, middle, low, ..] = self.header;
        self.filled = 0;
        self.left = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
        Some(self.header)
    }

    /// Whether the payload that is being read is that of a reset.
    fn is_reset(&self) -> bool {
        let [_, _, _, kind, ..] = self.header;
        kind == RESET
    }
}

impl Written {
    /// Follows bytes that the socket has taken.
    pub(super) fn follow(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.place.left > 0 {
                pass(&mut self.place.left, &mut bytes);
            } else if let Some([_, _, _, kind, flags, ..]) = self.place.header(&mut bytes) {
                let is_of_an_answer = matches!(kind, DATA | HEADERS | CONTINUATION);
                self.has_news |= is_of_an_answer;
                self.data += u64::from(kind == DATA && self.place.left > 0);
                let ends = matches!(kind, DATA | HEADERS) && flags & END_STREAM != 0;
                self.ends += u64::from(ends);
            }
        }
    }

    /// How many frames of `DATA` there were that hold something.
    pub(super) fn data(&self) -> u64 {
        self.data
    }

    /// How many answers were written to their ends.
    pub(super) fn ends(&self) -> u64 {
        self.ends
    }

    /// Whether there is some of an answer in what the socket takes. All else asks whether the client is there, or
    /// answers what it sent.
    pub(super) fn has_news(&self) -> bool {
        self.has_news
    }

    /// The socket has taken all of it.
    pub(super) fn note_all_taken(&mut self) {
        self.has_news = false;
    }
}

/// Which streams are old: their numbers rise (RFC 9113 5.1.1), so one number in a second is enough.
#[derive(Default)]
struct Ages {
    /// Streams up to this one have been there for a second or more.
    old: u32,
    /// The last one when that was looked at.
    next: u32,
    /// When that was, in milliseconds.
    at: u64,
    last: u32,
}

impl Ages {
    fn look(&mut self, now: u64) {
        if now.saturating_sub(self.at) >= 1000 {
            (self.old, self.next, self.at) = (self.next, self.last, now);
        }
    }
}

/// A head that comes in one frame or more.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Block {
    None,
    /// It ends with the frame that is being read.
    Ends,
    /// Another frame follows.
    GoesOn,
}

impl Frames {
    /// Of a connection of which nothing was read.
    pub(super) fn new() -> Self {
        Self {
            preface: preface::LENGTH,
            place: Place::default(),
            block: Block::None,
            heads: 0,
            ages: Ages::default(),
        }
    }

    /// Follows these bytes, which have come at this moment in milliseconds, and tells of each frame that begins
    /// in them. The code of a reset is made another, which the library takes for no end: for that it takes those
    /// of most clients (`NO_ERROR`, `CANCEL`), and so what is cut for whole.
    pub(super) fn follow(&mut self, bytes: &mut [u8], now: u64, mut begins: impl FnMut(Kind)) {
        self.ages.look(now);
        let mut at = bytes.len().min(self.preface);
        self.preface -= at;
        while at < bytes.len() {
            let mut rest = &bytes[at..];
            if self.place.left > 0 {
                let payload = self.place.left;
                pass(&mut self.place.left, &mut rest);
                let end = bytes.len() - rest.len();
                if self.place.is_reset() && payload <= CUT.len() {
                    let code = &CUT[CUT.len() - payload..][..end - at];
                    bytes[at..end].copy_from_slice(code);
                }
                at = end;
                self.end_payload();
            } else {
                let header = self.place.header(&mut rest);
                at = bytes.len() - rest.len();
                if let Some(header) = header {
                    begins(self.begin(header));
                    self.end_payload();
                }
            }
        }
    }

    /// Whether a head has begun, and is not whole.
    pub(super) fn is_amid_a_head(&self) -> bool {
        self.block != Block::None
    }

    /// How many heads were whole, of requests and of trailers.
    pub(super) fn heads(&self) -> u64 {
        self.heads
    }

    /// The last stream that the client has opened.
    pub(super) fn last_stream(&self) -> u32 {
        self.ages.last
    }

    /// Whether the preface has not come.
    pub(super) fn is_before_all(&self) -> bool {
        self.preface > 0
    }

    /// A frame's header is whole.
    fn begin(&mut self, header: [u8; HEADER]) -> Kind {
        let [_, _, _, kind, flags, stream @ ..] = header;
        let stream = u32::from_be_bytes(stream) & 0x7fff_ffff;
        let block = match flags & END_HEADERS {
            0 => Block::GoesOn,
            _ => Block::Ends,
        };
        match kind {
            DATA => Kind::Data,
            HEADERS => {
                self.block = block;
                self.ages.last = self.ages.last.max(stream);
                Kind::Headers
            }
            RESET => Kind::Reset {
                is_young: stream > self.ages.old,
            },
            4 | PING if flags & ACK != 0 => Kind::Acknowledgement,
            PING => Kind::Ping,
            8 => Kind::WindowUpdate,
            CONTINUATION if self.block != Block::None => {
                self.block = block;
                Kind::Other
            }
            _ => Kind::Other,
        }
    }

    fn end_payload(&mut self) {
        if self.place.left == 0 && self.block == Block::Ends {
            self.block = Block::None;
            self.heads += 1;
        }
    }
}

/// Passes over bytes of which so many are still to come.
fn pass(left: &mut usize, bytes: &mut &[u8]) {
    let passed = bytes.len().min(*left);
    *left -= passed;
    *bytes = &bytes[passed..];
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let [_, length @ ..] = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[..], &[kind, flags, 0, 0, 0, 1], payload].concat()
    }

    #[test]
    fn frames_are_told_once_each_however_their_bytes_come() {
        let wire = [
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
            frame(4, 0, b""),
            frame(1, 0, b"abc"),
            frame(9, 0, b""),
            frame(9, END_HEADERS, b"def"),
            frame(0, 1, &[0; 300]),
            frame(6, 0, &[0; 8]),
            frame(6, ACK, &[0; 8]),
            frame(4, ACK, b""),
            frame(3, 0, &[0; 4]),
            frame(8, 0, &[0; 4]),
            frame(77, 0, b"x"),
        ]
        .concat();
        let expected = [
            Kind::Other,
            Kind::Headers,
            Kind::Other,
            Kind::Other,
            Kind::Data,
            Kind::Ping,
            Kind::Acknowledgement,
            Kind::Acknowledgement,
            Kind::Reset { is_young: true },
            Kind::WindowUpdate,
            Kind::Other,
        ];
        for step in 1..wire.len() {
            let (mut frames, mut told) = (Frames::new(), Vec::new());
            assert!(frames.is_before_all());
            for piece in wire.chunks(step) {
                frames.follow(&mut piece.to_vec(), 0, |kind| told.push(kind));
            }
            assert_eq!(told, expected, "in pieces of {step}");
            assert!(!frames.is_amid_a_head() && !frames.is_before_all());
            assert_eq!(frames.heads(), 1);
        }
    }

    #[test]
    fn frames_of_data_are_counted_that_hold_something_however_they_are_written() {
        let wire = [
            frame(4, 0, &[0; 12]),
            frame(1, END_HEADERS, b"\0\0\0"),
            frame(DATA, 0, b"a"),
            frame(DATA, 0, &[0; 300]),
            frame(DATA, 1, b""),
        ]
        .concat();
        for step in 1..wire.len() {
            let mut written = Written::default();
            wire.chunks(step).for_each(|piece| written.follow(piece));
            assert_eq!(
                (written.data(), written.ends()),
                (2, 1),
                "in pieces of {step}"
            );
        }
    }

    #[test]
    fn a_reset_is_one_that_the_library_takes_for_no_end_and_all_else_stays() {
        let wire = |code: [u8; 4]| {
            [
                vec![b' '; preface::LENGTH],
                frame(DATA, 0, &[0, 0, 0, 8]),
                frame(RESET, 0, &code),
                frame(8, 0, &[0, 0, 0, 8]),
                frame(PING, 0, &[8; 8]),
            ]
            .concat()
        };
        for code in [0_u32, 8, 11, 0x0808_0808] {
            let mut sent = wire(code.to_be_bytes());
            for step in 1..sent.len() {
                let mut frames = Frames::new();
                let pieces = sent.chunks_mut(step);
                pieces.for_each(|piece| frames.follow(piece, 0, |_| {}));
                assert_eq!(sent, wire(CUT), "{code} in pieces of {step}");
                sent = wire(code.to_be_bytes());
            }
        }
    }

    #[test]
    fn a_stream_is_old_a_second_after_it_began() {
        let mut frames = Frames::new();
        frames.follow(&mut [b' '; preface::LENGTH], 0, |_| {});
        frames.follow(&mut frame(1, END_HEADERS, b""), 10, |_| {});
        // Between one look and the next it may be taken for young for a second longer.
        for (now, is_young) in [(900, true), (1010, true), (2009, true), (2010, false)] {
            let expected = Kind::Reset { is_young };
            let told = |kind| assert_eq!(kind, expected, "{now}");
            frames.follow(&mut frame(3, 0, &[0; 4]), now, told);
        }
    }

    #[test]
    fn a_head_is_whole_with_the_last_byte_of_its_last_frame() {
        let mut frames = Frames::new();
        frames.follow(&mut [b' '; preface::LENGTH], 0, |_| {});
        for (mut bytes, is_amid) in [
            (frame(1, END_HEADERS, b"abc"), false),
            (frame(1, END_HEADERS, b"abc")[..11].to_vec(), true),
            (b"c".to_vec(), false),
            (frame(1, 0, b"abc"), true),
            (frame(9, 0, b""), true),
            (frame(9, END_HEADERS, b""), false),
            (frame(9, 0, b""), false),
            (frame(1, END_HEADERS, b""), false),
        ] {
            frames.follow(&mut bytes, 0, |_| {});
            assert_eq!(frames.is_amid_a_head(), is_amid, "{bytes:?}");
        }
    }
}
