//! The ways in which a request or an answer is not sound HTTP, and what must come of each.

use fastrand::Rng;

use super::plan::{Answer, Framing, Request};

/// How a request is spoilt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Spoilt {
    TwoHosts,
    NoHost,
    TwoLengths,
    SignedLength,
    HugeLength,
    OtherCoding,
    Folded,
    SpaceBeforeColon,
    Nul,
    DotSegment,
    Connect,
    Trace,
    OddExpectation,
    LongTarget,
    ManyFields,
    BadChunkSize,
    NoEndOfChunk,
    NulInExtension,
    LfAfterSize,
    LfBeforeTrailers,
    LfLfAfterTrailers,
    SpaceInTrailer,
    TooShort,
    TooLong,
}

// Not among them: LF for CRLF in a head, which the HTTP library takes. What goes upstream is framed anew.
const SPOILT: [Spoilt; 22] = [
    Spoilt::TwoHosts,
    Spoilt::NoHost,
    Spoilt::TwoLengths,
    Spoilt::SignedLength,
    Spoilt::HugeLength,
    Spoilt::OtherCoding,
    Spoilt::Folded,
    Spoilt::SpaceBeforeColon,
    Spoilt::Nul,
    Spoilt::DotSegment,
    Spoilt::Connect,
    Spoilt::Trace,
    Spoilt::OddExpectation,
    Spoilt::LongTarget,
    Spoilt::ManyFields,
    Spoilt::BadChunkSize,
    Spoilt::NoEndOfChunk,
    Spoilt::NulInExtension,
    Spoilt::LfAfterSize,
    Spoilt::LfBeforeTrailers,
    Spoilt::LfLfAfterTrailers,
    Spoilt::SpaceInTrailer,
];

/// Those that a library of HTTP/2 can say. What it cannot is in `http2::breach`.
const OF_HTTP2: [Spoilt; 9] = [
    Spoilt::TwoHosts,
    Spoilt::DotSegment,
    Spoilt::Connect,
    Spoilt::Trace,
    Spoilt::OddExpectation,
    Spoilt::LongTarget,
    Spoilt::ManyFields,
    Spoilt::TooShort,
    Spoilt::TooLong,
];

impl Spoilt {
    pub(super) fn draw(dice: &mut Rng, http2: bool) -> Self {
        match http2 {
            true => OF_HTTP2[dice.usize(..OF_HTTP2.len())],
            false => SPOILT[dice.usize(..SPOILT.len())],
        }
    }

    /// What it is answered with.
    pub(super) fn statuses(self) -> &'static [u16] {
        match self {
            Self::OtherCoding => &[501, 400],
            Self::Connect | Self::Trace => &[405, 400],
            Self::OddExpectation => &[417],
            Self::LongTarget => &[414],
            Self::ManyFields => &[431],
            _ => &[400],
        }
    }

    /// Whether its head tells, so that no endpoint may see any of it.
    pub(super) fn is_in_head(self) -> bool {
        self.end_of_body().is_none() && !self.is_of_length()
    }

    /// Whether its body is not as long as its head says: HTTP/2 has its stream reset then.
    pub(super) fn is_of_length(self) -> bool {
        matches!(self, Self::TooShort | Self::TooLong)
    }

    /// What stands in the place of its last chunk.
    fn end_of_body(self) -> Option<&'static str> {
        Some(match self {
            Self::BadChunkSize => "0x1\r\na\r\n0\r\n\r\n",
            Self::NoEndOfChunk => "1\r\nab\r\n0\r\n\r\n",
            Self::NulInExtension => "1;a\0b\r\na\r\n0\r\n\r\n",
            Self::LfAfterSize => "1\na\r\n0\r\n\r\n",
            Self::LfBeforeTrailers => "0\r\n\n",
            Self::LfLfAfterTrailers => "0\r\nX-Tail: a\n\n",
            Self::SpaceInTrailer => "0\r\nX-Tail : a\r\n\r\n",
            _ => return None,
        })
    }

    /// Whether it never comes to its end, so that no endpoint may see it whole.
    pub(super) fn leaves_it_unfinished(self) -> bool {
        !self.is_in_head()
    }

    /// Whether what follows it may be taken for the next request.
    pub(super) fn ends_connection(self) -> bool {
        !matches!(
            self,
            Self::Trace | Self::OddExpectation | Self::LongTarget | Self::ManyFields
        )
    }

    /// Makes a request such that it can be spoilt so.
    pub(super) fn prepare(self, request: &mut Request) {
        request.http10 = false;
        request.expects = false;
        if self.is_in_head() {
            request.framing = Framing::None;
            request.body = Vec::new();
        } else {
            request.body = b"of a body that never ends".to_vec();
            request.framing = Framing::Chunked {
                sizes: vec![request.body.len()],
                extensions: false,
                trailers: Vec::new(),
            };
        }
        if self.is_of_length() {
            request.framing = Framing::Length;
        }
        match self {
            Self::Connect => request.method = "CONNECT",
            Self::Trace => request.method = "TRACE",
            _ => {}
        }
    }

    /// Spoils its bytes; behind them stands what must not be taken for a request.
    pub(super) fn apply(self, request: &Request, wire: Vec<u8>, head: usize) -> (Vec<u8>, usize) {
        let (text, body) = (String::from_utf8_lossy(&wire[..head]), &wire[head..]);
        let insert =
            |line: &str| text.replacen("\r\nX-Storm", &format!("\r\n{line}\r\nX-Storm"), 1);
        let many = "a: b\r\n".repeat(101);
        let long = "l".repeat(9_000);
        let path = request.route.path();
        let spoilt = match self {
            Self::TwoHosts => insert("Host: other.example"),
            Self::NoHost => text.replacen("Host:", "Hose:", 1),
            Self::TwoLengths => insert("Content-Length: 1\r\nContent-Length: 2"),
            Self::SignedLength => insert("Content-Length: +1"),
            Self::HugeLength => insert("Content-Length: 9223372036854775808"),
            Self::OtherCoding => insert("Transfer-Encoding: gzip, chunked"),
            Self::Folded => insert("X-Folded: a\r\n b"),
            Self::SpaceBeforeColon => insert("X-Space : a"),
            Self::Nul => insert("X-Nul: a\0b"),
            Self::DotSegment => text.replacen(path, &format!("{path}/../plain"), 1),
            Self::OddExpectation => insert("Expect: 200-ok"),
            Self::LongTarget => text.replacen(path, &format!("{path}/{long}"), 1),
            Self::ManyFields => insert(many.trim_end()),
            Self::Connect => text.replacen(path, "storm.example:80", 1),
            _ => text.into_owned(),
        };
        let mut spoilt = spoilt.into_bytes();
        let length = spoilt.len();
        let body = body.strip_suffix(b"0\r\n\r\n").unwrap_or(body);
        spoilt.extend_from_slice(body);
        spoilt.extend_from_slice(self.end_of_body().unwrap_or_default().as_bytes());
        if self.ends_connection() {
            let id = request.id.of_nobody();
            let behind = format!("GET /plain HTTP/1.1\r\nHost: smuggled\r\nX-Storm: {id}\r\n\r\n");
            spoilt.extend_from_slice(behind.as_bytes());
        }
        (spoilt, length)
    }
}

/// How an answer is spoilt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Garbled {
    NoStatusLine,
    OtherVersion,
    TwoLengths,
    BothFramings,
    OtherCoding,
    BadLength,
    BareLf,
    Switching,
    BadChunkSize,
    FormFeedInSize,
    CrInSize,
    NoEndOfChunk,
    BareLfTrailers,
}

const GARBLED: [Garbled; 13] = [
    Garbled::NoStatusLine,
    Garbled::OtherVersion,
    Garbled::TwoLengths,
    Garbled::BothFramings,
    Garbled::OtherCoding,
    Garbled::BadLength,
    Garbled::BareLf,
    Garbled::Switching,
    Garbled::BadChunkSize,
    Garbled::FormFeedInSize,
    Garbled::CrInSize,
    Garbled::NoEndOfChunk,
    Garbled::BareLfTrailers,
];

impl Garbled {
    pub(super) fn draw(dice: &mut Rng) -> Self {
        GARBLED[dice.usize(..GARBLED.len())]
    }

    /// Whether its head tells, so that no client may see any of it.
    pub(super) fn is_in_head(self) -> bool {
        !matches!(
            self,
            Self::BadChunkSize
                | Self::FormFeedInSize
                | Self::CrInSize
                | Self::NoEndOfChunk
                | Self::BareLfTrailers
        )
    }

    /// Makes an answer such that it can be spoilt so.
    pub(super) fn prepare(self, answer: &mut Answer) {
        answer.http10 = false;
        answer.closes = true;
        answer.status = 200;
        answer.interim = Vec::new();
        if self.is_in_head() {
            answer.framing = Framing::Length;
            return;
        }
        answer.body.truncate(4_000);
        answer.body.push(b'.');
        answer.framing = Framing::Chunked {
            sizes: vec![answer.body.len()],
            extensions: false,
            trailers: Vec::new(),
        };
    }

    pub(super) fn apply(self, wire: Vec<u8>, head: usize) -> Vec<u8> {
        let (text, body) = (String::from_utf8_lossy(&wire[..head]), &wire[head..]);
        let insert =
            |line: &str| text.replacen("\r\nX-Storm", &format!("\r\n{line}\r\nX-Storm"), 1);
        let length = text.find("Content-Length").map_or("", |at| &text[at..]);
        let spoilt = match self {
            Self::NoStatusLine => text.replacen("HTTP/1.1 200", "Hullo", 1),
            Self::OtherVersion => text.replacen("HTTP/1.1", "HTTP/3.1", 1),
            Self::TwoLengths => insert("Content-Length: 0"),
            Self::BothFramings => insert("Transfer-Encoding: chunked"),
            Self::OtherCoding => {
                text.replacen(length, "Transfer-Encoding: gzip, chunked\r\n\r\n", 1)
            }
            Self::BadLength => text.replacen("Content-Length: ", "Content-Length: +", 1),
            Self::BareLf => text.replacen("\r\n", "\n", 1),
            Self::Switching => text.replacen("200", "101", 1),
            _ => text.into_owned(),
        };
        let mut spoilt = spoilt.into_bytes();
        if self.is_in_head() {
            spoilt.extend_from_slice(body);
            return spoilt;
        }
        let body = body.strip_suffix(b"0\r\n\r\n").unwrap_or(body);
        spoilt.extend_from_slice(body);
        spoilt.extend_from_slice(match self {
            Self::BadChunkSize => b"+1\r\na\r\n0\r\n\r\n".as_slice(),
            Self::FormFeedInSize => b"1\x0c\r\na\r\n0\r\n\r\n",
            Self::CrInSize => b"1\r\r\na\r\n0\r\n\r\n",
            Self::NoEndOfChunk => b"1\r\nab\r\n0\r\n\r\n",
            _ => b"0\r\nX-Tail: a\n\n",
        });
        spoilt
    }
}
