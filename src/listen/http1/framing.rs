//! Where in the stream of a client's requests each byte stands: in a head, or in a body. How the body of
//! a request ends is said by the HTTP library alone, from its head; what stands here only keeps from it
//! what it may not have yet. A head behind which a chunked body may follow, or another head, is handed to
//! it alone. So each chunked body is followed from its first byte ([`Chunks`]), and what is behind a
//! request is known for the start of the next.

use super::chunks::Chunks;

/// How a request's body ends, as the HTTP library has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Body {
    Length(u64),
    Chunked,
}

/// That a client's bytes are not what the framing of its request wants.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the chunked coding of a request's body is not sound")]
pub(super) struct Unsound;

/// What was handed to the HTTP library, and where that leaves it.
#[derive(Default)]
pub(super) struct Framing {
    place: Expected,
    start: Start,
    /// The last four bytes of the head.
    tail: u32,
    /// Bytes that were handed over with the head, behind its end.
    beyond: u64,
    line: Line,
}

/// Where in the first line of a head the next byte stands.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Line {
    /// In the method, or in an empty line before it.
    #[default]
    Method,
    Target,
    /// Anywhere in it: its beginning came along with another request. A method with the sign of a fragment,
    /// which HTTP allows, is taken for a target then.
    Begun,
    /// Behind the target, or in a line that was looked at as a whole.
    Behind,
}

impl Line {
    /// Goes on over these bytes of a head. Where in them a fragment begins, which no target has.
    fn follow(&mut self, head: &[u8]) -> Option<usize> {
        for (at, byte) in head.iter().enumerate() {
            match (*self, byte) {
                (Self::Behind, _) => return None,
                (Self::Method, b' ') => *self = Self::Target,
                (Self::Target | Self::Begun, b'#') => return Some(at),
                (Self::Target, b' ' | b'\n') | (Self::Begun, b'\n') => *self = Self::Behind,
                (Self::Method | Self::Target | Self::Begun, _) => {}
            }
        }
        None
    }
}

/// What may be handed over of some bytes.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Passed {
    /// How many.
    pub(super) count: usize,
    /// Which of them begins a fragment in the target of a head. The library would drop it in silence.
    pub(super) fragment: Option<usize>,
}

#[derive(Default)]
enum Expected {
    #[default]
    Head,
    /// In a body with so many bytes to come.
    Data(u64),
    Chunked(Chunks),
    /// Nothing more is handed over.
    Lost,
}

impl Framing {
    /// Whether the next byte is the first of a head.
    pub(super) fn is_at_a_head(&self) -> bool {
        self.is_in_a_head() && self.start.length == 0
    }

    /// Whether the next byte belongs to a head, or ends one.
    pub(super) fn is_in_a_head(&self) -> bool {
        matches!(self.place, Expected::Head)
    }

    /// Whether the head that is being read begins so; of its first five bytes.
    pub(super) fn begins_with(&self, bytes: &[u8]) -> bool {
        self.start.bytes.starts_with(bytes)
    }

    /// Whether the head asks for the head of an answer alone.
    pub(super) fn is_of_head_method(&self) -> bool {
        self.start.bytes == *b"HEAD "
    }

    /// The first line of the head that begins here was looked at as a whole: it has no fragment.
    pub(super) fn note_line(&mut self) {
        self.line = Line::Behind;
    }

    /// Bytes that were handed over with a head, behind its end.
    pub(super) fn beyond(&self) -> u64 {
        self.beyond
    }

    /// The HTTP library has read the head that was handed over, and this is how its request ends.
    pub(super) fn begin_body(&mut self, body: Body) {
        let Self { beyond, tail, .. } = *self;
        *self = Self::default();
        self.place = match body {
            Body::Length(length) if length == beyond => Expected::Head,
            Body::Length(length) if length > beyond => Expected::Data(length - beyond),
            Body::Length(length) => {
                // The start of the next head came along.
                self.start = Start::behind(tail, beyond - length);
                self.tail = tail;
                if self.start.length > 0 {
                    self.line = Line::Begun;
                }
                Expected::Head
            }
            Body::Chunked if beyond == 0 => Expected::Chunked(Chunks::default()),
            Body::Chunked => Expected::Lost,
        };
    }

    /// How many of these bytes, of which there is one at least, may be handed over at once. The others
    /// come again.
    pub(super) fn pass(&mut self, bytes: &[u8]) -> Result<Passed, Unsound> {
        let count = match &mut self.place {
            Expected::Head => return Ok(self.pass_of_a_head(bytes)),
            Expected::Data(left) => {
                let all = bytes.len();
                let passes = usize::try_from(*left).map_or(all, |left| left.min(all));
                *left -= passes as u64;
                if *left == 0 {
                    *self = Self::default();
                }
                passes
            }
            Expected::Chunked(chunks) => {
                let sound = chunks.follow(bytes);
                if chunks.is_done() {
                    *self = Self::default();
                }
                if sound == 0 {
                    return Err(Unsound);
                }
                sound
            }
            Expected::Lost => return Err(Unsound),
        };
        Ok(Passed {
            count,
            fragment: None,
        })
    }

    fn pass_of_a_head(&mut self, bytes: &[u8]) -> Passed {
        let is_begun = self.start.length > 0;
        let end = possible_end(self.tail, bytes).unwrap_or(bytes.len());
        let (head, behind) = bytes.split_at(end);
        // A body of a known length goes with its head: apart, it would cost the library a buffer. Where the
        // start of another head may have come with it, that is not known to be one before the library has read
        // this.
        let goes_along =
            behind.is_empty() || !is_begun && !mentions_chunked(head) && !may_have_a_head(behind);
        let passes = if goes_along { bytes.len() } else { end };
        self.beyond = (passes - end) as u64;
        self.start.take(head);
        self.tail = with(self.tail, &bytes[..passes]);
        Passed {
            count: passes,
            fragment: self.line.follow(head),
        }
    }
}

/// The first bytes of a head, behind the empty lines before it.
#[derive(Default)]
struct Start {
    bytes: [u8; 5],
    length: usize,
}

impl Start {
    fn take(&mut self, bytes: &[u8]) {
        if let (0, Some(first)) = (self.length, bytes.first_chunk())
            && !matches!(first[0], b'\r' | b'\n')
        {
            (self.bytes, self.length) = (*first, first.len());
            return;
        }
        let mut bytes = bytes;
        while self.length == 0
            && let [b'\r' | b'\n', rest @ ..] = bytes
        {
            bytes = rest;
        }
        let fits = bytes.len().min(self.bytes.len() - self.length);
        self.bytes[self.length..self.length + fits].copy_from_slice(&bytes[..fits]);
        self.length += fits;
    }

    /// The start of a head of which so many bytes came behind a body, and end with `tail`.
    fn behind(tail: u32, count: u64) -> Self {
        let tail = tail.to_be_bytes();
        let mut start = Self::default();
        match usize::try_from(count) {
            Ok(count @ ..=4) => start.take(&tail[4 - count..]),
            // Empty lines: no head has begun.
            _ if tail.iter().all(|byte| matches!(byte, b'\r' | b'\n')) => {}
            // With a method of this length it would not have gone along.
            _ => start.length = start.bytes.len(),
        }
        start
    }
}

/// How many bytes there are up to what may be the end of a head: an empty line, as the library takes it.
fn possible_end(tail: u32, bytes: &[u8]) -> Option<usize> {
    if is_one_head(bytes) {
        return Some(bytes.len());
    }
    let mut ends = memchr::memchr_iter(b'\n', bytes).map(|at| at + 1);
    ends.find(|end| match &bytes[..*end] {
        [.., second, _] if *second != b'\r' => *second == b'\n',
        [.., third, _, _] => *third == b'\n',
        few => is_an_empty_line(with(tail, few)),
    })
}

/// Whether a head ends with these bytes, and none before, whatever came in front of them. It costs less
/// to see this, which is nearly always so, than to look at each line.
fn is_one_head(bytes: &[u8]) -> bool {
    let [first, second, .., _] = bytes else {
        return false;
    };
    // What came in front may count for these two.
    *first != b'\n'
        && *second != b'\n'
        && bytes.ends_with(b"\r\n\r\n")
        && !may_have_an_empty_line(&bytes[..bytes.len() - 1])
}

/// Places that are looked at together, for an empty line that begins there.
const PLACES: usize = 16;
/// Bytes that are looked at for that.
const WIDTH: usize = PLACES + 2;

/// Whether an empty line follows a line's end in this. What is short may have one.
fn may_have_an_empty_line(bytes: &[u8]) -> bool {
    let Some(last) = bytes.last_chunk::<WIDTH>() else {
        return true;
    };
    let mut found = has_an_empty_line(last);
    let mut rest = bytes;
    while let Some(piece) = rest.first_chunk::<WIDTH>() {
        found |= has_an_empty_line(piece);
        rest = &rest[PLACES..];
    }
    found
}

/// No place ends the loop, though the first could: so all of them are looked at at once.
fn has_an_empty_line(piece: &[u8; WIDTH]) -> bool {
    let begins = |at: usize| {
        let [first, second, third] = [piece[at], piece[at + 1], piece[at + 2]];
        (first == b'\n') & ((second == b'\n') | (second == b'\r') & (third == b'\n'))
    };
    (0..PLACES).fold(false, |found, at| found | begins(at))
}

/// Whether a body may be chunked whose head says this.
fn mentions_chunked(head: &[u8]) -> bool {
    // The rarest letter of it.
    memchr::memchr2_iter(b'k', b'K', head).any(|at| {
        let word = head.get(at.wrapping_sub(4)..at + 3);
        word.is_some_and(|word| word.eq_ignore_ascii_case(b"chunked"))
    })
}

/// Whether a request line stands in this, or a word or a sign of one for which it matters.
fn may_have_a_head(bytes: &[u8]) -> bool {
    let mut words = [&b"HTTP/1."[..], b"HEAD ", b"#"].into_iter();
    words.any(|word| memchr::memmem::find(bytes, word).is_some())
}

/// The last four bytes when these are read too.
fn with(tail: u32, read: &[u8]) -> u32 {
    if let Some(last) = read.last_chunk() {
        return u32::from_be_bytes(*last);
    }
    let few = read.iter();
    few.fold(tail, |tail, byte| tail << 8 | u32::from(*byte))
}

/// Whether the end of a line is followed by an empty one.
fn is_an_empty_line(tail: u32) -> bool {
    let [_, third, second, first] = tail.to_be_bytes();
    first == b'\n' && (second == b'\n' || [third, second] == *b"\n\r")
}

#[cfg(test)]
mod tests {
    use super::*;

    const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    const WITH_LF: &str = "GET / HTTP/1.1\nHost: a\n\n";
    const HEAD: &str = "HEAD / HTTP/1.1\r\nHost: a\r\n\r\n";
    const POST: &str = "POST / HTTP/1.1\r\nContent-Length: 7\r\n\r\n";
    const CHUNKED: &str = "POST / HTTP/1.1\r\nTransfer-Encoding: cHUNKeD\r\n\r\n";

    /// A request: its head, its body as it comes, and how that ends.
    type Request = (&'static str, &'static str, Body);

    const REQUESTS: [Request; 9] = [
        (GET, "", Body::Length(0)),
        (CHUNKED, "1\r\na\r\n0\r\n\r\n", Body::Chunked),
        (POST, "hello\r\n", Body::Length(7)),
        (CHUNKED, "0\r\nA: b\r\n\r\n", Body::Chunked),
        (HEAD, "", Body::Length(0)),
        (POST, "\r\n\r\nHEA", Body::Length(7)),
        (WITH_LF, "", Body::Length(0)),
        (POST, "HTTP/1.", Body::Length(7)),
        (GET, "", Body::Length(0)),
    ];

    fn pass(framing: &mut Framing, bytes: &[u8]) -> Result<usize, Unsound> {
        framing.pass(bytes).map(|passed| passed.count)
    }

    /// Hands over what comes in `pieces`; the library reads all that it has before it asks for more.
    fn hand_over(requests: &[Request], pieces: &[&[u8]]) {
        let mut framing = Framing::default();
        let (mut handed, mut begins) = (0, 0);
        let mut requests = requests.iter();
        let mut next = requests.next();
        for piece in pieces {
            let mut held = *piece;
            while !held.is_empty() {
                let passes = framing.pass(held).unwrap().count;
                assert!(passes > 0);
                handed += passes;
                held = &held[passes..];
                let Some((head, body, ends)) = next else {
                    continue;
                };
                let end = begins + head.len();
                if handed < end {
                    continue;
                }
                assert_eq!(framing.is_of_head_method(), *head == HEAD);
                assert_eq!(framing.beyond(), (handed - end) as u64);
                framing.begin_body(*ends);
                begins = end + body.len();
                assert_eq!(framing.is_in_a_head(), handed >= begins);
                assert_eq!(framing.is_at_a_head(), handed == begins);
                next = requests.next();
                // One head at a time.
                assert!(next.is_none_or(|(head, ..)| handed < begins + head.len()));
            }
        }
        assert!(next.is_none(), "{next:?}");
    }

    #[test]
    fn each_head_comes_alone_where_it_must_and_each_body_ends_where_it_ends() {
        let whole: String = REQUESTS
            .iter()
            .flat_map(|(head, body, _)| [*head, *body])
            .collect();
        let whole = whole.as_bytes();
        for step in 1..=whole.len() {
            let pieces: Vec<_> = whole.chunks(step).collect();
            hand_over(&REQUESTS, &pieces);
            let (before, after) = whole.split_at(step);
            hand_over(&REQUESTS, &[before, after]);
        }
    }

    #[test]
    fn a_body_of_known_length_goes_along_with_its_head_and_a_chunked_one_does_not() {
        for (request, along) in [
            ([POST, "hello!!", ""], 7),
            ([POST, "hello!!", "\r\n"], 9),
            ([POST, "hello!!", "GET / HT"], 15),
            ([POST, "hello!!", GET], 0),
            ([POST, "hello!!", "HEAD /"], 0),
            ([POST, "hello!!", "GET /#b"], 0),
            ([POST, "colour#", ""], 0),
            ([CHUNKED, "1\r\na\r\n", ""], 0),
        ] {
            let passed = pass(&mut Framing::default(), request.concat().as_bytes());
            assert_eq!(passed, Ok(request[0].len() + along), "{request:?}");
        }
        // A word that came in two pieces is none that could be looked for.
        let mut framing = Framing::default();
        assert_eq!(pass(&mut framing, &CHUNKED.as_bytes()[..40]), Ok(40));
        let rest = [&CHUNKED[40..], "1\r\na\r\n"].concat();
        assert_eq!(pass(&mut framing, rest.as_bytes()), Ok(CHUNKED.len() - 40));
    }

    #[test]
    fn the_start_of_a_head_behind_a_body_is_known() {
        for (behind, is_at_a_head, is_head) in [
            ("", true, false),
            ("G", false, false),
            ("HEAD", false, true),
        ] {
            let mut framing = Framing::default();
            let sent = [POST, "hello!!", behind].concat();
            assert_eq!(pass(&mut framing, sent.as_bytes()), Ok(sent.len()));
            framing.begin_body(Body::Length(7));
            assert_eq!(framing.is_at_a_head(), is_at_a_head);
            let rest = &HEAD[behind.len()..];
            assert_eq!(pass(&mut framing, rest.as_bytes()), Ok(rest.len()));
            assert_eq!(framing.is_of_head_method(), is_head || behind.is_empty());
        }
    }

    #[test]
    fn a_fragment_is_seen_wherever_its_line_comes_and_only_in_a_target() {
        let sees = |pieces: &[&str], body: u64| {
            let mut framing = Framing::default();
            let mut seen = String::new();
            for (nth, piece) in pieces.iter().enumerate() {
                let mut held = piece.as_bytes();
                while !held.is_empty() {
                    let passed = framing.pass(held).unwrap();
                    if let Some(at) = passed.fragment {
                        assert!(at < passed.count);
                        seen.push(char::from(held[at]));
                    }
                    held = &held[passed.count..];
                }
                if nth == 0 && body > 0 {
                    framing.begin_body(Body::Length(body));
                }
            }
            seen
        };
        for pieces in [
            &["GET /a#b HTTP/1.1\r\n"][..],
            &["GET /a", "#b HTTP/1.1\r\n"],
            &["GET", " ", "#"],
            &["\r\n\nGET /a#b HT"],
            &["\r\n", "GET /a#b HTTP/1.1\r\n"],
        ] {
            assert_eq!(sees(pieces, 0), "#", "{pieces:?}");
        }
        for pieces in [
            &["GET /a HTTP/1.1\r\n#"][..],
            &["GET /a HTTP/1.1\r\n", "A: #\r\n"],
            &["G#T", " /a HTTP/1.1\r\n"],
        ] {
            assert_eq!(sees(pieces, 0), "", "{pieces:?}");
        }
        for (begun, rest) in [("GET /b", "#c HTTP/1.1\r\n"), ("G", "ET /b#c HTTP/1.1\r\n")] {
            let along = [POST, "hello!!", begun].concat();
            assert_eq!(sees(&[&along, rest], 7), "#");
            let rest = rest.replace('#', "/") + "A: #\r\n";
            assert_eq!(sees(&[&along, &rest], 7), "");
        }
        let along = [POST, "hello!!", "\r\n\r\n\r\n"].concat();
        assert_eq!(sees(&[&along, "\r\nGET /b#c HTTP/1.1\r\n"], 7), "#");
        let along = [POST, "hello!!", "\r\n"].concat();
        assert_eq!(sees(&[&along, "GET /b HTTP/1.1\r\nA: #\r\n"], 7), "");
        let mut framing = Framing::default();
        framing.note_line();
        assert_eq!(framing.pass(b"GET /a#b").unwrap().fragment, None);
        framing.begin_body(Body::Length(0));
        assert_eq!(framing.pass(b"GET /a#b").unwrap().fragment, Some(6));
    }

    #[test]
    fn what_is_not_sound_is_handed_over_up_to_there() {
        let mut framing = Framing::default();
        assert_eq!(pass(&mut framing, CHUNKED.as_bytes()), Ok(CHUNKED.len()));
        framing.begin_body(Body::Chunked);
        assert_eq!(pass(&mut framing, b"1;a\0\r\na\r\n"), Ok(3));
        assert_eq!(pass(&mut framing, b"\0\r\na\r\n"), Err(Unsound));
        assert_eq!(pass(&mut framing, b"\0\r\na\r\n"), Err(Unsound));
    }

    #[test]
    fn the_end_of_a_head_is_the_first_empty_line_wherever_it_stands() {
        // As it is defined, byte by byte.
        let first_end = |tail: u32, bytes: &[u8]| {
            let is_end = |end: &usize| is_an_empty_line(with(tail, &bytes[..*end]));
            (1..=bytes.len()).find(is_end)
        };
        let mut random = fastrand::Rng::with_seed(7);
        for _ in 0..20_000 {
            let length = random.usize(1..80);
            let mut bytes: Vec<u8> = (0..length).map(|_| b'a').collect();
            for _ in 0..random.usize(..6) {
                let at = random.usize(..length);
                let piece = *random
                    .choice([&b"\n"[..], b"\r", b"\r\n", b"\n\n", b"\n\r\n"].iter())
                    .unwrap();
                let piece = &piece[..piece.len().min(length - at)];
                bytes[at..at + piece.len()].copy_from_slice(piece);
            }
            if random.bool() {
                bytes.extend_from_slice(b"\r\n\r\n");
            }
            for tail in [&b""[..], b"a\r\n", b"\n", b"a\r\n\r", b"abcd"] {
                let tail = with(0, tail);
                let shown = String::from_utf8_lossy(&bytes);
                assert_eq!(
                    possible_end(tail, &bytes),
                    first_end(tail, &bytes),
                    "{shown:?}"
                );
            }
        }
    }

    #[test]
    fn an_empty_line_is_seen_however_it_comes() {
        for (pieces, is_end) in [
            (&["a\r\n\r\n"][..], true),
            (&["a\n\n"], true),
            (&["a\r\n", "\r\n"], true),
            (&["a\r\n\r", "\n"], true),
            (&["a", "\n", "\n"], true),
            (&["a\r\n"], false),
            (&["\r\n"], false),
            (&["a\r\n\r\n", "a"], false),
            (&["abcdefg"], false),
        ] {
            let read = |tail, piece: &&str| with(tail, piece.as_bytes());
            let tail = pieces.iter().fold(0, read);
            assert_eq!(is_an_empty_line(tail), is_end, "{pieces:?}");
        }
    }
}
