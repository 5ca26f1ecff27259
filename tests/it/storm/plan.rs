//! What a client asks and an endpoint answers, and the bytes of both: each side knows the whole of a
//! request by its id, which travels along as `X-Storm`.

use std::fmt::{self, Write as _};

use super::spoil::{Garbled, Spoilt};

/// How many requests a client may send behind one that is not answered yet.
pub(super) const PIPELINED: u64 = 3;

/// A request: which client's, on which of its connections, and the how manieth there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Id(pub(super) u64);

impl Id {
    pub(super) fn new(client: u64, connection: u64, place: u64) -> Self {
        Self(client << 40 | connection << 8 | place)
    }

    /// As [`Display`](fmt::Display) writes it.
    pub(super) fn parse(text: &str) -> Option<Self> {
        u64::from_str_radix(text, 16).ok().map(Self)
    }

    /// The one so many places behind it on its connection.
    pub(super) fn behind(self, places: u64) -> Self {
        Self(self.0 + places)
    }

    /// An id that no client has: what bytes behind a spoilt request say.
    pub(super) fn of_nobody(self) -> Self {
        Self(self.0 | 1 << 63)
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// Where a request goes; the proxy's configuration has one route for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Route {
    Plain,
    /// Endpoints over TLS.
    Secure,
    /// `retry.on` and `retry.try_timeout`.
    Retried,
    /// Fewer seats than requests.
    Limited,
    /// Fewer requests a second than clients make.
    Rated,
    /// Endpoints that come and go.
    Crowd,
    /// One endpoint that leaves while it works, and a fallback.
    Solo,
    /// Shares of two services.
    Split,
    /// Endpoints that close kept connections unsaid, or say more than their answer.
    Edgy,
    /// A service that has no endpoint.
    Gone,
    /// No route at all.
    Nowhere,
}

impl Route {
    pub(super) fn path(self) -> &'static str {
        match self {
            Self::Plain => "/plain",
            Self::Secure => "/secure",
            Self::Retried => "/retried",
            Self::Limited => "/limited",
            Self::Rated => "/rated",
            Self::Crowd => "/crowd",
            Self::Solo => "/solo",
            Self::Split => "/split",
            Self::Edgy => "/edgy",
            Self::Gone => "/gone",
            Self::Nowhere => "/nowhere",
        }
    }

    /// The services whose endpoints may see its requests.
    pub(super) fn services(self) -> &'static [&'static str] {
        match self {
            Self::Plain | Self::Rated => &["plain"],
            Self::Secure => &["secure"],
            Self::Retried => &["retried"],
            Self::Limited => &["limited"],
            Self::Crowd => &["crowd"],
            Self::Solo => &["solo", "plain"],
            Self::Split => &["plain", "secure"],
            Self::Edgy => &["edgy"],
            Self::Gone | Self::Nowhere => &[],
        }
    }

    /// Whether the path's prefix is taken off.
    fn strips(self) -> bool {
        matches!(self, Self::Secure | Self::Crowd | Self::Solo)
    }
}

/// A part of a message that is written at once, and how long its writer waits then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    /// Where it ends.
    pub(super) end: usize,
    pub(super) pause_ms: u64,
}

/// How a side ends a connection that was not to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum How {
    Close,
    Reset,
    /// It closes its sending side only.
    Half,
}

/// Where a side stops, in bytes of its message, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Break {
    pub(super) at: usize,
    pub(super) how: How,
}

/// How a message's body ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    None,
    Length,
    Chunked {
        sizes: Vec<usize>,
        extensions: bool,
        trailers: Vec<(String, String)>,
    },
    /// Of answers only.
    UntilClose,
}

/// All that a client does to make one request.
#[derive(Clone)]
pub(super) struct Request {
    pub(super) id: Id,
    pub(super) route: Route,
    pub(super) method: &'static str,
    pub(super) http10: bool,
    pub(super) target: String,
    /// Those that pass as they came.
    pub(super) fields: Vec<(String, String)>,
    /// `Connection: keep-alive` or `close`, where it says anything.
    pub(super) connection: Option<&'static str>,
    /// A field that `Connection` names.
    pub(super) hop: bool,
    pub(super) takes_trailers: bool,
    pub(super) expects: bool,
    pub(super) framing: Framing,
    pub(super) body: Vec<u8>,
    pub(super) spoilt: Option<Spoilt>,
    pub(super) breaks: Option<Break>,
    /// It stops reading after so many bytes of the answer.
    pub(super) leaves: Option<Break>,
    /// It reads in sips.
    pub(super) sips: bool,
    /// It waits for the answer before before it asks.
    pub(super) waits: bool,
}

/// When an answer is begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Moment {
    /// Behind the whole request.
    AtEnd,
    /// Behind so many bytes of its body.
    Early(usize),
}

/// What goes wrong with an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// Its connection ends in the middle.
    Breaks(Break),
    Garbled(Garbled),
    /// It never comes.
    Silence,
    /// The endpoint signs out first, and closes the connection without an answer.
    Leaves,
}

/// All that an endpoint does with one request.
#[derive(Clone)]
pub(super) struct Answer {
    pub(super) id: Id,
    pub(super) arrival: usize,
    pub(super) interim: Vec<u16>,
    pub(super) moment: Moment,
    pub(super) delay_ms: u64,
    pub(super) status: u16,
    pub(super) http10: bool,
    pub(super) framing: Framing,
    pub(super) body: Vec<u8>,
    /// It closes the connection behind the answer, and says so.
    pub(super) closes: bool,
    /// It closes it unsaid, a moment later.
    pub(super) closes_unsaid: bool,
    /// It says more than its answer.
    pub(super) babbles: bool,
    pub(super) trouble: Option<Trouble>,
}

impl Request {
    /// Its bytes, and how many of them are the head's.
    pub(super) fn wire(&self) -> (Vec<u8>, usize) {
        let mut head = format!(
            "{} {} HTTP/1.{}\r\n",
            self.method,
            self.target,
            u8::from(!self.http10)
        );
        let mut line = |name: &str, value: &dyn fmt::Display| {
            let _ = write!(head, "{name}: {value}\r\n");
        };
        line("Host", &"storm.example:80");
        line("X-Storm", &self.id);
        for (name, value) in &self.fields {
            line(name, value);
        }
        if self.hop {
            line("Connection", &"X-Hop");
            line("X-Hop", &"mine");
        }
        if let Some(connection) = self.connection {
            line("Connection", &connection);
        }
        if self.takes_trailers {
            line("TE", &"trailers");
        }
        if self.expects {
            line("Expect", &"100-continue");
        }
        match self.framing {
            Framing::None | Framing::UntilClose => {}
            Framing::Length => line("Content-Length", &self.body.len()),
            Framing::Chunked { .. } => line("Transfer-Encoding", &"chunked"),
        }
        head += "\r\n";
        let mut wire = head.into_bytes();
        let length = wire.len();
        write_body(&mut wire, &self.framing, &self.body);
        match self.spoilt {
            Some(spoilt) => spoilt.apply(self, wire, length),
            None => (wire, length),
        }
    }

    /// The request line that its endpoint sees.
    pub(super) fn line_upstream(&self) -> String {
        let target = match self.target.strip_prefix(self.route.path()) {
            Some(rest) if self.route.strips() && rest.starts_with('/') => rest.to_owned(),
            Some(rest) if self.route.strips() => format!("/{rest}"),
            _ => self.target.clone(),
        };
        format!("{} {target} HTTP/1.1", self.method)
    }

    /// The trailers that pass.
    pub(super) fn trailers(&self) -> &[(String, String)] {
        match &self.framing {
            Framing::Chunked { trailers, .. } => trailers,
            _ => &[],
        }
    }

    /// Whether all of it is sent.
    pub(super) fn is_whole(&self) -> bool {
        let is_sent = |cut: Break| cut.at >= self.wire().0.len();
        self.breaks.is_none_or(is_sent) && !self.spoilt.is_some_and(Spoilt::leaves_it_unfinished)
    }

    /// Whether it may be made again though it may have been processed.
    pub(super) fn is_repeatable(&self) -> bool {
        matches!(self.method, "GET" | "HEAD" | "OPTIONS" | "PUT" | "DELETE")
    }
}

impl Answer {
    /// Its bytes, the interim answers first, and how many are before the end of its head.
    pub(super) fn wire(&self, request: &Request) -> (Vec<u8>, usize) {
        let mut head = String::new();
        for status in &self.interim {
            let _ = write!(head, "HTTP/1.1 {status} Interim\r\nX-Interim: 1\r\n\r\n");
        }
        let version = u8::from(!self.http10);
        let _ = write!(head, "HTTP/1.{version} {} Storm\r\n", self.status);
        let _ = write!(head, "X-Storm-Answer: {}.{}\r\n", self.id, self.arrival);
        if self.closes {
            head += "Connection: close, X-Hop\r\nX-Hop: theirs\r\n";
        } else if self.http10 {
            head += "Connection: keep-alive\r\n";
        }
        match self.framing {
            Framing::None | Framing::UntilClose => {}
            Framing::Length => {
                let _ = write!(head, "Content-Length: {}\r\n", self.body.len());
            }
            Framing::Chunked { .. } => head += "Transfer-Encoding: chunked\r\n",
        }
        head += "\r\n";
        let mut wire = head.into_bytes();
        let length = wire.len();
        if self.has_body(request) {
            write_body(&mut wire, &self.framing, &self.body);
        }
        match self.trouble {
            Some(Trouble::Garbled(garbled)) if garbled.is_in_head() || self.has_body(request) => {
                (garbled.apply(wire, length), length)
            }
            _ => (wire, length),
        }
    }

    /// Whether its body is sent.
    pub(super) fn has_body(&self, request: &Request) -> bool {
        request.method != "HEAD" && self.framing != Framing::None
    }

    /// Whether an end that is no reset is one that TLS is told of.
    pub(super) fn takes_leave(&self) -> bool {
        self.id.0 & 1 == 0
    }
}

fn write_body(wire: &mut Vec<u8>, framing: &Framing, body: &[u8]) {
    let Framing::Chunked {
        sizes,
        extensions,
        trailers,
    } = framing
    else {
        return wire.extend_from_slice(body);
    };
    let mut rest = body;
    for (place, size) in sizes.iter().enumerate() {
        let (chunk, after) = rest.split_at(*size);
        let extension = match (extensions, place % 3) {
            (true, 0) => ";name=value",
            (true, 1) => ";alone",
            (true, _) => ";quoted=\"a b\"",
            _ => "",
        };
        wire.extend_from_slice(format!("{size:x}{extension}\r\n").as_bytes());
        wire.extend_from_slice(chunk);
        wire.extend_from_slice(b"\r\n");
        rest = after;
    }
    wire.extend_from_slice(b"0\r\n");
    for (name, value) in trailers {
        wire.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
    }
    wire.extend_from_slice(b"\r\n");
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let framing = short(&self.framing);
        write!(
            f,
            "{} {} of {} bytes {framing}",
            self.method,
            self.target,
            self.body.len()
        )?;
        for (has, what) in [
            (self.http10, " HTTP/1.0"),
            (self.expects, " expects"),
            (self.waits, " waits"),
            (self.sips, " sips"),
            (self.takes_trailers, " TE"),
        ] {
            f.write_str(if has { what } else { "" })?;
        }
        let Self {
            connection,
            spoilt,
            breaks,
            leaves,
            ..
        } = self;
        write!(
            f,
            " {connection:?} spoilt {spoilt:?} breaks {breaks:?} leaves {leaves:?}"
        )
    }
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let framing = short(&self.framing);
        let Self {
            status,
            interim,
            moment,
            delay_ms,
            closes,
            trouble,
            ..
        } = self;
        write!(
            f,
            "{status} of {} bytes {framing} {moment:?}",
            self.body.len()
        )?;
        write!(
            f,
            " after {interim:?} and {delay_ms} ms, closes {closes}, trouble {trouble:?}"
        )?;
        for (has, what) in [
            (self.http10, " HTTP/1.0"),
            (self.closes_unsaid, " closes unsaid"),
            (self.babbles, " babbles"),
        ] {
            f.write_str(if has { what } else { "" })?;
        }
        Ok(())
    }
}

fn short(framing: &Framing) -> String {
    match framing {
        Framing::Chunked {
            sizes, trailers, ..
        } => {
            format!("in {} chunks with {} trailers", sizes.len(), trailers.len())
        }
        framing => format!("{framing:?}"),
    }
}
