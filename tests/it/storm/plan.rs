//! What a client asks and an endpoint answers, and the bytes of both: each side knows the whole of a
//! request by its id, which travels along as `X-Storm`.

use std::fmt::{self, Write as _};

use super::{
    http2::Malformed,
    spoil::{Garbled, Spoilt},
};

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

    /// Whether its client speaks HTTP/2: two of four do, one of them over TLS.
    pub(super) fn is_http2(self) -> bool {
        self.0 >> 41 & 1 == 1
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
    /// Endpoints of HTTP/2, in the clear and over TLS.
    Streams,
    Sealed,
    /// Connections that go over to another protocol.
    Tunnel,
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
            Self::Streams => "/streams",
            Self::Sealed => "/sealed",
            Self::Tunnel => "/tunnel",
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
            Self::Streams => &["streams"],
            Self::Sealed => &["sealed"],
            Self::Tunnel => &["tunnel"],
            Self::Gone | Self::Nowhere => &[],
        }
    }

    /// Whether the path's prefix is taken off.
    fn strips(self) -> bool {
        matches!(self, Self::Secure | Self::Sealed | Self::Crowd | Self::Solo)
    }
}

/// Whether a service's endpoints speak HTTP/2.
pub(super) fn is_http2(service: &str) -> bool {
    matches!(service, "streams" | "sealed")
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
    /// HTTP/2 has its stream reset with this code, and its connection go on.
    Stream(u32),
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
    pub(super) http2: bool,
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
    /// It asks for another protocol.
    pub(super) passage: Option<Passage>,
    pub(super) spoilt: Option<Spoilt>,
    pub(super) breaks: Option<Break>,
    /// It stops reading after so many bytes of the answer.
    pub(super) leaves: Option<Break>,
    /// It reads in sips.
    pub(super) sips: bool,
    /// It waits for the answer before before it asks.
    pub(super) waits: bool,
}

/// What a client does in a tunnel. It closes its sending side behind its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Passage {
    pub(super) bytes: Vec<u8>,
    /// It does not wait for the answer.
    pub(super) is_early: bool,
    /// It ends its connection when it has sent so many of them.
    pub(super) breaks: Option<Break>,
}

impl Passage {
    /// So many bytes are sent.
    pub(super) fn length(&self) -> usize {
        let length = self.bytes.len();
        self.breaks.map_or(length, |cut| cut.at.min(length))
    }
}

/// What an endpoint does in a tunnel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Tunnel {
    /// What it sends with its answer.
    pub(super) says: Vec<u8>,
    pub(super) behind: Behind,
}

/// What it does then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Behind {
    /// It says what it hears, up to the end.
    Echoes,
    /// It closes its sending side, and listens up to the end.
    Listens,
    /// It ends the connection when it has heard so many bytes.
    Breaks(Break),
}

impl Tunnel {
    /// What the client is to get at the most.
    pub(super) fn whole(&self, passage: &Passage) -> Vec<u8> {
        match self.behind {
            Behind::Listens => self.says.clone(),
            Behind::Echoes | Behind::Breaks(_) => {
                [&self.says[..], &passage.bytes[..passage.length()]].concat()
            }
        }
    }

    /// Whether both sides come to their ends, so that not a byte may be missing.
    pub(super) fn is_sound(&self, passage: &Passage) -> bool {
        !matches!(self.behind, Behind::Breaks(_)) && passage.breaks.is_none()
    }
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
    /// HTTP/2 has its stream refused,
    Refuses,
    /// or the connection ended but for the streams before.
    LeavesOut,
    Malformed(Malformed),
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
    /// It goes over to another protocol.
    pub(super) tunnel: Option<Tunnel>,
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
        if self.passage.is_some() {
            line("Connection", &"Upgrade");
            line("Upgrade", &"unknown, storm");
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
        let length = match (self.http2, &self.framing) {
            (true, Framing::Length) => self.body.len(),
            // There the end of a body is sent behind it.
            (true, _) => self.body.len() + 1,
            (false, _) => self.wire().0.len(),
        };
        let is_sent = |cut: Break| cut.at >= length;
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
        if self.tunnel.is_some() {
            head += "Connection: upgrade\r\nUpgrade: storm\r\n";
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
        if let Some(tunnel) = &self.tunnel {
            wire.extend_from_slice(&tunnel.says);
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
            (self.http2, " HTTP/2"),
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
        if let Some(Passage {
            bytes,
            is_early,
            breaks,
        }) = &self.passage
        {
            let length = bytes.len();
            write!(
                f,
                " tunnels {length} bytes, early {is_early}, breaks {breaks:?}"
            )?;
        }
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
        match &self.tunnel {
            None => Ok(()),
            Some(Tunnel { says, behind }) => {
                write!(f, " tunnels {} bytes, then {behind:?}", says.len())
            }
        }
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
