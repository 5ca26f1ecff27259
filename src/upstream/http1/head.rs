//! The head of an answer: parsed in place, and its framing decided. Whatever can be read in two
//! ways is refused, as http-rules has it: an answer that two parties frame differently is how
//! responses are smuggled.

use std::{cell::RefCell, mem::MaybeUninit, ops::Range, time::Duration};

use bytes::{Buf, Bytes, BytesMut};
use http::{
    HeaderMap, HeaderName, HeaderValue, StatusCode,
    header::{self, InvalidHeaderValue},
};
use hyper::ext::ReasonPhrase;

use crate::upstream::{
    FailureKind, Upgrade,
    answer_head::{AnswerHead, is_hop_by_hop},
    limits::{BYTES, FIELDS, HeadLimits},
};

/// So many fields are parsed on the stack, where room for each costs time; more cost an allocation.
const USUAL_FIELDS: usize = 32;
/// Any number of fewer decimal digits fits in 64 bits.
const MOST_DIGITS: usize = 20;
/// A chunked body without a byte.
const NO_CHUNK: &[u8] = b"0\r\n\r\n";

/// What the request was that is answered, as far as its answer is read by that.
#[derive(Clone, Debug, Default)]
pub(super) struct Asked {
    /// Its answer has no body.
    pub(super) is_head: bool,
    /// What it asks the connection to go over to.
    pub(super) upgrade: Option<Box<Upgrade>>,
}

/// How the answer's body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::upstream) enum BodyLength {
    Known(u64),
    Chunked,
    UntilClose,
    /// There is none: what follows is of another protocol.
    Switched,
}

/// What a head says of the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::upstream) struct Persistence {
    /// Whether the connection may be used again.
    pub(in crate::upstream) keep: bool,
    /// `Keep-Alive: timeout=…`
    pub(in crate::upstream) timeout: Option<Duration>,
}

pub(super) enum Parsed {
    /// More bytes are needed.
    Partial,
    /// A 1xx other than 101, taken off the buffer.
    Interim(StatusCode),
    Complete(BodyLength, Persistence),
}

/// Why a head is not passed on.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// It is not sound HTTP/1.1.
    Unsound(&'static str),
    /// It is larger than it may be.
    TooLarge(&'static str),
}

impl From<&'static str> for Refused {
    fn from(reason: &'static str) -> Self {
        Self::Unsound(reason)
    }
}

impl From<Refused> for FailureKind {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Unsound(reason) => Self::BadAnswer(reason),
            Refused::TooLarge(reason) => Self::TooLarge(reason),
        }
    }
}

/// Where a field stands in the head.
#[derive(Clone, Copy)]
struct Field {
    name: (u32, u32),
    value: (u32, u32),
}

impl Field {
    fn name(self) -> Range<usize> {
        range(self.name)
    }

    fn value(self) -> Range<usize> {
        range(self.value)
    }
}

fn range((start, length): (u32, u32)) -> Range<usize> {
    start as usize..start as usize + length as usize
}

/// What the fields of the connection say together.
#[derive(Default)]
struct Connection<'a> {
    transfer_encoding: Option<&'a [u8]>,
    length: Option<&'a [u8]>,
    close: bool,
    keep_alive: bool,
    upgrades: bool,
    upgrade: Option<&'a [u8]>,
    /// What was made of the key of WebSocket's handshake.
    accept: Option<&'a [u8]>,
    timeout: Option<Duration>,
    nominates: bool,
}

/// Whether the end of a head may have come since `buffer` was looked at, of which that many bytes
/// were there. A head that comes byte by byte is not parsed anew with each.
pub(super) fn may_have_ended(buffer: &[u8], looked_at: usize, limits: HeadLimits) -> bool {
    let came = &buffer[looked_at.saturating_sub(3).min(buffer.len())..];
    buffer.len() >= (2 * looked_at).min(limits.bytes)
        || memchr::memmem::find(came, b"\n\r\n").is_some()
        || memchr::memmem::find(came, b"\n\n").is_some()
}

/// Takes one head off `buffer`, and puts it into `head`. `spare` is a map whose allocation is used again.
pub(super) fn parse(
    buffer: &mut BytesMut,
    asked: &Asked,
    limits: HeadLimits,
    head: &mut AnswerHead,
    spare: Option<&mut HeaderMap>,
) -> Result<Parsed, Refused> {
    thread_local! {
        /// Those of the head that is read: memory that is used again, and need not be cleared.
        static PLACES: RefCell<Vec<Field>> = const { RefCell::new(Vec::new()) };
    }
    PLACES.with_borrow_mut(|fields| {
        let usual = limits.fields.min(USUAL_FIELDS);
        let read = {
            let mut slots = [const { MaybeUninit::uninit() }; USUAL_FIELDS];
            read(buffer, &mut slots[..usual], fields, asked, limits)
        };
        let read = match read {
            Err(Refused::TooLarge(FIELDS)) if limits.fields > usual => {
                let mut slots = vec![MaybeUninit::uninit(); limits.fields];
                self::read(buffer, &mut slots, fields, asked, limits)
            }
            read => read,
        };
        match read? {
            Read::Partial => Ok(Parsed::Partial),
            Read::Interim(status, length) => {
                buffer.advance(length);
                Ok(Parsed::Interim(status))
            }
            Read::Complete(read) => {
                if let Some(spare) = spare {
                    std::mem::swap(&mut head.headers, spare);
                }
                take(buffer, read, fields, head)
            }
        }
    })
}

/// What stands in a buffer.
enum Read {
    Partial,
    Interim(StatusCode, usize),
    Complete(Complete),
}

/// A whole head that was understood.
struct Complete {
    length: usize,
    status: StatusCode,
    reason: Option<ReasonPhrase>,
    body: BodyLength,
    persistence: Persistence,
    nominates: bool,
    /// It says how its body is coded.
    is_coded: bool,
}

/// Reads a head, and notes where its fields stand.
fn read<'b>(
    buffer: &'b [u8],
    slots: &mut [MaybeUninit<httparse::Header<'b>>],
    fields: &mut Vec<Field>,
    asked: &Asked,
    limits: HeadLimits,
) -> Result<Read, Refused> {
    let mut response = httparse::Response::new(&mut []);
    let Some(length) = split(buffer, &mut response, slots, limits)? else {
        return Ok(Read::Partial);
    };
    let code = response.code.ok_or("no status")?;
    let status = StatusCode::from_u16(code).map_err(|_| "status out of range")?;
    if status.is_informational() && code != 101 {
        return Ok(Read::Interim(status, length));
    }
    let connection = locate(buffer, response.headers, fields)?;
    let http10 = response.version == Some(0);
    let body = if code == 101 {
        connection.switches(asked.upgrade.as_deref(), http10)?
    } else {
        let bodyless =
            asked.is_head || status == StatusCode::NO_CONTENT || status == StatusCode::NOT_MODIFIED;
        connection.body(status, http10, bodyless)?
    };
    Ok(Read::Complete(Complete {
        length,
        status,
        reason: reason(status, response.reason.unwrap_or_default()),
        body,
        persistence: Persistence {
            keep: !matches!(body, BodyLength::UntilClose | BodyLength::Switched)
                && !connection.close
                && (!http10 || connection.keep_alive),
            timeout: connection.timeout,
        },
        nominates: connection.nominates,
        is_coded: connection.transfer_encoding.is_some(),
    }))
}

/// Splits a head into its status line and its fields, and returns its length; `None` where more of it
/// is to come.
fn split<'h, 'b>(
    buffer: &'b [u8],
    response: &mut httparse::Response<'h, 'b>,
    slots: &'h mut [MaybeUninit<httparse::Header<'b>>],
    limits: HeadLimits,
) -> Result<Option<usize>, Refused> {
    // A blank line before the status line is what is left of another answer.
    if buffer.first().is_some_and(|first| *first != b'H') {
        return Err("no status line".into());
    }
    let parser = httparse::ParserConfig::default();
    let length = match parser.parse_response_with_uninit_headers(response, buffer, slots) {
        Ok(httparse::Status::Complete(length)) if length <= limits.bytes => length,
        Ok(httparse::Status::Partial) if buffer.len() < limits.bytes => return Ok(None),
        Ok(_) => return Err(Refused::TooLarge(BYTES)),
        Err(httparse::Error::TooManyHeaders) => return Err(Refused::TooLarge(FIELDS)),
        Err(httparse::Error::Version) => return Err("not HTTP/1".into()),
        Err(_) => return Err("malformed head".into()),
    };
    if !ends_lines_with_crlf(&buffer[..length], response.headers) {
        return Err("a bare LF in the head".into());
    }
    Ok(Some(length))
}

/// Notes where the fields stand in the buffer, and reads those that say how the connection goes on.
fn locate<'b>(
    buffer: &[u8],
    headers: &[httparse::Header<'b>],
    fields: &mut Vec<Field>,
) -> Result<Connection<'b>, Refused> {
    let base = buffer.as_ptr() as usize;
    let mut connection = Connection::default();
    fields.clear();
    fields.reserve(headers.len());
    for header in headers {
        // What fits is far more than a head may have.
        let at = |bytes: &[u8]| ((bytes.as_ptr() as usize - base) as u32, bytes.len() as u32);
        fields.push(Field {
            name: at(header.name.as_bytes()),
            value: at(header.value),
        });
        connection.read(header.name, header.value)?;
    }
    Ok(connection)
}

/// Takes a head off the buffer that was read in it.
fn take(
    buffer: &mut BytesMut,
    read: Complete,
    fields: &[Field],
    head: &mut AnswerHead,
) -> Result<Parsed, Refused> {
    let (status, mut persistence) = (read.status, read.persistence);
    head.status = status;
    head.reason = read.reason;
    head.grpc = None;
    head.text = buffer.split_to(read.length).freeze();
    let (text, headers) = (&head.text, &mut head.headers);
    collect(text, fields, read.nominates, headers)?;
    match read.body {
        BodyLength::Switched => {
            // RFC 9110 8.6: a 1xx carries no length.
            headers.remove(header::CONTENT_LENGTH);
            keep_upgrade(text, fields, headers)?;
        }
        _ if status == StatusCode::NO_CONTENT => {
            // Nor does a 204.
            headers.remove(header::CONTENT_LENGTH);
            if read.is_coded {
                persistence.keep &= takes_no_chunk(buffer)?;
            }
        }
        _ => {}
    }
    Ok(Parsed::Complete(read.body, persistence))
}

/// Puts what the connection goes over to back among the fields.
#[cold]
fn keep_upgrade(
    head: &Bytes,
    fields: &[Field],
    headers: &mut HeaderMap,
) -> Result<(), &'static str> {
    let is_upgrade = |field: &&Field| head[field.name()].eq_ignore_ascii_case(b"upgrade");
    if let Some(field) = fields.iter().find(is_upgrade) {
        let protocol = HeaderValue::from_bytes(&head[field.value()]);
        headers.insert(
            header::UPGRADE,
            protocol.map_err(|_| "malformed header value")?,
        );
    }
    Ok(())
}

/// A phrase that is passed on: the usual is known already, and stands in for none.
fn reason(status: StatusCode, phrase: &str) -> Option<ReasonPhrase> {
    match status.canonical_reason() {
        Some(usual) if phrase.is_empty() || phrase == usual => None,
        _ => ReasonPhrase::try_from(phrase.as_bytes()).ok(),
    }
}

/// A 204 ends with its head, whatever that says (RFC 9112 6.3). Servers that say `chunked` all the
/// same send a body without a byte, which is taken off where it came along. Returns whether it was:
/// it may come still.
fn takes_no_chunk(buffer: &mut BytesMut) -> Result<bool, &'static str> {
    if buffer.starts_with(NO_CHUNK) {
        buffer.advance(NO_CHUNK.len());
        return Ok(true);
    }
    if NO_CHUNK.starts_with(buffer) {
        return Ok(false);
    }
    Err("204 with a body")
}

/// httparse takes a bare LF for a line's end. The lines end before the names, and at the end.
fn ends_lines_with_crlf(head: &[u8], fields: &[httparse::Header<'_>]) -> bool {
    let start = head.as_ptr() as usize;
    head.ends_with(b"\r\n\r\n")
        && fields
            .iter()
            .all(|field| head[..field.name.as_ptr() as usize - start].ends_with(b"\r\n"))
}

impl<'a> Connection<'a> {
    fn read(&mut self, name: &str, value: &'a [u8]) -> Result<(), &'static str> {
        // By length first: most names are none of these.
        match name.len() {
            14 if is_length(name) => {
                only_one(&mut self.length, value, "more than one Content-Length")?;
            }
            17 if name.eq_ignore_ascii_case("transfer-encoding") => {
                let repeated = "more than one Transfer-Encoding";
                only_one(&mut self.transfer_encoding, value, repeated)?;
            }
            10 if name.eq_ignore_ascii_case("connection") => {
                for token in tokens(value) {
                    if token.eq_ignore_ascii_case(b"close") {
                        self.close = true;
                    } else if token.eq_ignore_ascii_case(b"keep-alive") {
                        self.keep_alive = true;
                    } else if token.eq_ignore_ascii_case(b"upgrade") {
                        self.upgrades = true;
                    } else {
                        self.nominates = true;
                    }
                }
            }
            // What an ordinary answer says of it counts for nothing.
            7 if name.eq_ignore_ascii_case("upgrade") => {
                let several = self.upgrade.is_some();
                self.upgrade = Some(if several { b"" } else { value });
            }
            20 if name.eq_ignore_ascii_case("sec-websocket-accept") => {
                self.accept = Some(value);
            }
            10 if name.eq_ignore_ascii_case("keep-alive") => {
                self.timeout = tokens(value)
                    .filter_map(|token| std::str::from_utf8(token).ok())
                    .filter_map(|token| token.strip_prefix("timeout="))
                    .find_map(|seconds| seconds.trim().parse().ok())
                    .map(Duration::from_secs);
            }
            _ => {}
        }
        Ok(())
    }

    /// Whether a 101 is what was asked for: a connection that goes over to another protocol unasked
    /// would leave the two sides to read its bytes differently.
    fn switches(&self, asked: Option<&Upgrade>, http10: bool) -> Result<BodyLength, &'static str> {
        let asked = asked.ok_or("101 to a request that asked for no upgrade")?;
        let named = self.upgrade.filter(|_| self.upgrades && !http10);
        let named = named.ok_or("101 that does not say what the connection goes over to")?;
        if !asked.names(named) {
            return Err("101 to another protocol than was asked for");
        }
        if !asked.accepts(self.accept) {
            return Err("101 whose `Sec-WebSocket-Accept` does not follow from the key");
        }
        if self.transfer_encoding.is_some() || self.length.is_some_and(|length| length != b"0") {
            return Err("101 with a body");
        }
        Ok(BodyLength::Switched)
    }

    fn body(
        &self,
        status: StatusCode,
        http10: bool,
        bodyless: bool,
    ) -> Result<BodyLength, &'static str> {
        let length = self.length.map(parse_length).transpose()?;
        if let Some(coding) = self.transfer_encoding {
            if length.is_some() {
                return Err("both Transfer-Encoding and Content-Length");
            }
            if http10 {
                return Err("Transfer-Encoding in an HTTP/1.0 answer");
            }
            if !coding.eq_ignore_ascii_case(b"chunked") {
                return Err("a Transfer-Encoding other than chunked");
            }
        }
        if status == StatusCode::NO_CONTENT && length.is_some_and(|length| length > 0) {
            return Err("204 with a body");
        }
        Ok(if bodyless {
            BodyLength::Known(0)
        } else if self.transfer_encoding.is_some() {
            BodyLength::Chunked
        } else {
            length.map_or(BodyLength::UntilClose, BodyLength::Known)
        })
    }
}

fn only_one<'a>(
    slot: &mut Option<&'a [u8]>,
    value: &'a [u8],
    repeated: &'static str,
) -> Result<(), &'static str> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(repeated),
    }
}

/// Digits alone: no sign, no list, no white space within.
fn parse_length(value: &[u8]) -> Result<u64, &'static str> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return Err("malformed Content-Length");
    }
    if value.len() < MOST_DIGITS {
        let digits = value.iter().map(|byte| u64::from(byte - b'0'));
        return Ok(digits.fold(0, |length, digit| length * 10 + digit));
    }
    std::str::from_utf8(value)
        .ok()
        .and_then(|digits| digits.parse().ok())
        .ok_or("Content-Length too large")
}

fn tokens(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value
        .split(|byte| *byte == b',')
        .map(<[u8]>::trim_ascii)
        .filter(|token| !token.is_empty())
}

/// The end-to-end fields; values share the head's memory.
fn collect(
    head: &Bytes,
    fields: &[Field],
    nominates: bool,
    headers: &mut HeaderMap,
) -> Result<(), &'static str> {
    headers.clear();
    headers.reserve(fields.len());
    for field in fields {
        let name = &head[field.name()];
        let name = match usual(name) {
            Some(name) => name,
            None => {
                let name = HeaderName::from_bytes(name).map_err(|_| "malformed header name")?;
                if is_hop_by_hop(&name) {
                    continue;
                }
                name
            }
        };
        let value = match head[field.value()].try_into() {
            Ok(value) if name == header::DATE => date(value),
            _ => HeaderValue::from_maybe_shared(head.slice(field.value())),
        };
        headers.append(name, value.map_err(|_| "malformed header value")?);
    }
    if nominates {
        remove_nominated(head, fields, headers);
    }
    Ok(())
}

/// The name of an end-to-end field that most answers have, in a spelling that most servers use. Where
/// it is none of them nothing is said. These few comparisons cost a fifth of what it costs to read a
/// name letter by letter.
#[inline]
fn usual(name: &[u8]) -> Option<HeaderName> {
    Some(match name.len() {
        4 if is(name, b"Date", b"date") => header::DATE,
        4 if is(name, b"Vary", b"vary") => header::VARY,
        4 if is(name, b"ETag", b"etag") => header::ETAG,
        6 if is(name, b"Server", b"server") => header::SERVER,
        7 if is(name, b"Expires", b"expires") => header::EXPIRES,
        10 if is(name, b"Set-Cookie", b"set-cookie") => header::SET_COOKIE,
        12 if is(name, b"Content-Type", b"content-type") => header::CONTENT_TYPE,
        13 if is(name, b"Cache-Control", b"cache-control") => header::CACHE_CONTROL,
        13 if is(name, b"Last-Modified", b"last-modified") => header::LAST_MODIFIED,
        14 if is(name, b"Content-Length", b"content-length") => header::CONTENT_LENGTH,
        16 if is(name, b"Content-Encoding", b"content-encoding") => header::CONTENT_ENCODING,
        _ => return None,
    })
}

/// Whether a name is one of two spellings. Their length is known, so that no loop goes over them.
fn is<const N: usize>(name: &[u8], title: &[u8; N], lower: &[u8; N]) -> bool {
    name == title || name == lower
}

fn is_length(name: &str) -> bool {
    is(name.as_bytes(), b"Content-Length", b"content-length")
        || name.eq_ignore_ascii_case("content-length")
}

/// The value of a `Date` of the usual length: that of the last answer on this thread where it is the
/// same, as it mostly is for all answers of one second. One that is new is looked at byte by byte.
fn date(value: &[u8; 29]) -> Result<HeaderValue, InvalidHeaderValue> {
    thread_local! {
        static LAST: RefCell<Option<HeaderValue>> = const { RefCell::new(None) };
    }
    LAST.with_borrow_mut(|last| match last {
        Some(last) if last.as_bytes() == value => Ok(last.clone()),
        _ => {
            let new = HeaderValue::from_bytes(value)?;
            *last = Some(new.clone());
            Ok(new)
        }
    })
}

/// The fields that `Connection` names belong to the connection, except the length, which never does.
fn remove_nominated(head: &Bytes, fields: &[Field], headers: &mut HeaderMap) {
    for field in fields {
        if !head[field.name()].eq_ignore_ascii_case(b"connection") {
            continue;
        }
        for token in tokens(&head[field.value()]) {
            if !token.eq_ignore_ascii_case(b"content-length")
                && let Ok(name) = HeaderName::from_bytes(token)
            {
                headers.remove(name);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: HeadLimits = HeadLimits {
        fields: 1_000,
        bytes: 256 * 1024,
    };

    fn complete(text: &str) -> Result<(AnswerHead, BodyLength, Persistence), Refused> {
        within(text, LIMITS)
    }

    fn within(
        text: &str,
        limits: HeadLimits,
    ) -> Result<(AnswerHead, BodyLength, Persistence), Refused> {
        let (mut buffer, mut head) = (BytesMut::from(text), AnswerHead::default());
        match parse(&mut buffer, &Asked::default(), limits, &mut head, None)? {
            Parsed::Complete(body, persistence) => Ok((head, body, persistence)),
            Parsed::Partial => Err("partial".into()),
            Parsed::Interim(_) => Err("interim".into()),
        }
    }

    #[test]
    fn every_ambiguous_framing_is_refused() {
        for fields in [
            "Content-Length: 5\r\nContent-Length: 5\r\n",
            "Content-Length: 5, 5\r\n",
            "Content-Length: +5\r\n",
            "Content-Length: \r\n",
            "Content-Length: 99999999999999999999\r\n",
            "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
            "Transfer-Encoding: gzip, chunked\r\n",
            "Transfer-Encoding: chunked, chunked\r\n",
            "Transfer-Encoding: ,chunked\r\n",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
            "Transfer-Encoding: identity\r\n",
            "Content-Length : 5\r\n",
            "A: b\r\n c\r\nContent-Length: 5\r\n",
            "A: b\nContent-Length: 5\r\n",
            "A: b\r\nContent-Length: 5\n",
            ": x\r\n",
        ] {
            let text = format!("HTTP/1.1 200 OK\r\n{fields}\r\n");
            assert!(complete(&text).is_err(), "{fields:?}");
        }
        assert!(complete("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").is_err());
        assert!(complete("HTTP/1.1 200 OK\nContent-Length: 5\r\n\r\n").is_err());
        assert!(complete("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\n").is_err());
        assert!(complete("HTTP/1.1 200 OK\n\r\n").is_err());
        assert!(complete("HTTP/1.1 200 OK\r\n\n").is_err());
        assert!(complete("\r\nHTTP/1.1 200 OK\r\n\r\n").is_err());
        assert!(complete("HTTP/2.0 200 OK\r\n\r\n").is_err());
        assert!(complete("HTTP/1.1 099 OK\r\n\r\n").is_err());
        assert!(complete("HTTP/1.1 204 No\r\nContent-Length: 2\r\n\r\n").is_err());
        let chunked = "HTTP/1.1 204 No\r\nTransfer-Encoding: chunked\r\n\r\n";
        assert!(complete(&format!("{chunked}1\r\na\r\n0\r\n\r\n")).is_err());
        assert!(complete("HTTP/1.1 101 Switching\r\n\r\n").is_err());
    }

    #[test]
    fn a_name_is_the_same_in_whatever_letters_it_is_written() {
        let names = [
            "Date",
            "Vary",
            "ETag",
            "Server",
            "Expires",
            "Set-Cookie",
            "Content-Type",
            "Cache-Control",
            "Last-Modified",
            "Content-Length",
            "Content-Encoding",
            "Age",
            "Accept-Ranges",
            "X-Request-Id",
        ];
        let recognised = names.iter().filter(|name| usual(name.as_bytes()).is_some());
        assert_eq!(
            recognised.count(),
            11,
            "the others are read letter by letter"
        );
        for name in names {
            for spelled in [name, &name.to_ascii_lowercase(), &name.to_ascii_uppercase()] {
                let read = HeaderName::from_bytes(spelled.as_bytes()).unwrap();
                let usual = usual(spelled.as_bytes());
                assert!(usual.is_none_or(|usual| usual == read), "{spelled}");
                let fields = format!("{spelled}: 0\r\nContent-Range: a\r\n");
                let head = complete(&format!("HTTP/1.1 200 OK\r\n{fields}\r\n"))
                    .unwrap()
                    .0;
                assert_eq!(head.headers.len(), 2, "{spelled}");
                assert_eq!(head.headers[&read], "0", "{spelled}");
            }
            // What only looks like it is another name.
            for at in 0..name.len() {
                let mut other = name.as_bytes().to_vec();
                other[at] = b'!';
                assert_eq!(usual(&other), None);
                assert_eq!(usual(&name.as_bytes()[at + 1..]), None);
            }
        }
    }

    #[test]
    fn each_answer_has_its_own_date_however_the_one_before_it_was_dated() {
        let date = |second| format!("Thu, 01 Jan 2026 00:00:{second} GMT");
        let dates = [
            date("00"),
            date("00"),
            date("01"),
            "now".into(),
            date("\u{e9}"),
        ];
        for date in dates.iter().chain(&dates) {
            let text = format!(
                "HTTP/1.1 200 OK\r\nDate: {date}\r\nDate: {}\r\n\r\n",
                dates[2]
            );
            let head = complete(&text).unwrap().0;
            let found: Vec<_> = head.headers.get_all("date").iter().collect();
            assert_eq!(found, [date.as_bytes(), dates[2].as_bytes()], "{date}");
        }
        let mut odd = *b"Thu, 01 Jan 2026 00:00:00 GMT";
        odd[28] = 0;
        assert!(super::date(&odd).is_err());
        odd[28] = b'T';
        assert!(super::date(&odd).is_ok_and(|date| date == odd[..]));
    }

    #[test]
    fn a_length_is_digits_alone_and_read_to_the_last_that_fits() {
        for digits in 1..=20 {
            for digit in ["1", "9", "0"] {
                let text = digit.repeat(digits);
                let expected = text.parse().map_err(|_| "Content-Length too large");
                assert_eq!(parse_length(text.as_bytes()), expected, "{text}");
            }
        }
        assert_eq!(parse_length(u64::MAX.to_string().as_bytes()), Ok(u64::MAX));
        assert!(parse_length(b"18446744073709551616").is_err());
        for odd in [
            "", "+1", "-1", "1 ", "1_0", "0x1", "1,1", "1/", "1:", "\u{0661}",
        ] {
            assert!(parse_length(odd.as_bytes()).is_err(), "{odd:?}");
        }
    }

    #[test]
    fn the_three_framings_and_what_they_say_of_the_connection() {
        let keep = |keep| Persistence {
            keep,
            timeout: None,
        };
        let (_, body, persistence) =
            complete("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n").unwrap();
        assert_eq!((body, persistence), (BodyLength::Known(5), keep(true)));
        let (head, body, persistence) =
            complete("HTTP/1.1 200 OK\r\ntransfer-encoding: Chunked\r\nConnection: close\r\n\r\n")
                .unwrap();
        assert_eq!((body, persistence), (BodyLength::Chunked, keep(false)));
        assert!(head.headers.is_empty());
        let (_, body, persistence) = complete("HTTP/1.1 200 OK\r\n\r\n").unwrap();
        assert_eq!((body, persistence), (BodyLength::UntilClose, keep(false)));
        let (_, _, persistence) = complete("HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\n").unwrap();
        assert_eq!(persistence, keep(false));
        let (_, _, persistence) = complete(
            "HTTP/1.0 200 OK\r\nContent-Length: 5\r\nConnection: keep-alive\r\nKeep-Alive: timeout=5, max=9\r\n\r\n",
        )
        .unwrap();
        assert_eq!(persistence.timeout, Some(Duration::from_secs(5)));
        assert!(persistence.keep);
    }

    #[test]
    fn what_connection_names_goes_and_the_length_stays() {
        let (head, body, _) = complete(
            "HTTP/1.1 200 OK\r\nConnection: X-Hop, content-length\r\nX-Hop: 1\r\nX-End: 2\r\nContent-Length: 3\r\nUpgrade: h2c\r\n\r\n",
        )
        .unwrap();
        assert_eq!(body, BodyLength::Known(3));
        assert_eq!(head.headers.len(), 2);
        assert_eq!(head.headers["x-end"], "2");
    }

    #[test]
    fn an_interim_answer_is_taken_off_and_the_final_one_follows() {
        let mut buffer =
            BytesMut::from("HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\nHTTP/1.1 204 No\r\n\r\n");
        let mut head = AnswerHead::default();
        let mut next = || parse(&mut buffer, &Asked::default(), LIMITS, &mut head, None);
        assert!(matches!(
            next(),
            Ok(Parsed::Interim(StatusCode::EARLY_HINTS))
        ));
        assert!(matches!(
            next(),
            Ok(Parsed::Complete(BodyLength::Known(0), _))
        ));
        assert!(buffer.is_empty());
    }

    #[test]
    fn a_101_is_an_answer_only_where_it_goes_over_to_what_was_asked_for() {
        let parsed = |asked: Option<&str>, fields: &str| {
            let start = "HTTP/1.1 101 Switching Protocols\r\n";
            let start = if fields.starts_with("HTTP/") {
                ""
            } else {
                start
            };
            let mut buffer = BytesMut::from(&*format!("{start}{fields}\r\n\x01\x00"));
            let lines = asked.into_iter().map(str::as_bytes);
            let asked = Asked {
                is_head: false,
                upgrade: Upgrade::of(lines, |_| true),
            };
            let mut head = AnswerHead::default();
            match parse(&mut buffer, &asked, LIMITS, &mut head, None)? {
                Parsed::Complete(body, persistence) => {
                    assert_eq!(body, BodyLength::Switched);
                    assert!(!persistence.keep && buffer == [1, 0][..], "{buffer:?}");
                    Ok(head.headers)
                }
                _ => panic!("{fields:?}"),
            }
        };
        let switches = "Connection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\n";
        for fields in [
            format!("{switches}Sec-WebSocket-Accept: a\r\nContent-Length: 0\r\n"),
            format!("Connection: x-hop\r\nX-Hop: a\r\nSec-WebSocket-Accept: a\r\n{switches}"),
        ] {
            let headers = parsed(Some("tcp, websocket"), &fields).unwrap();
            assert_eq!(headers.len(), 2, "{headers:?}");
            assert_eq!(headers["upgrade"], "WebSocket");
            assert_eq!(headers["sec-websocket-accept"], "a");
        }
        let refused =
            |asked, fields: &str| matches!(parsed(asked, fields), Err(Refused::Unsound(_)));
        assert!(refused(None, switches));
        for (asked, fields) in [
            ("tcp", switches.to_owned()),
            ("websocket", String::new()),
            ("websocket", "Upgrade: websocket\r\n".to_owned()),
            ("websocket", "Connection: upgrade\r\n".to_owned()),
            (
                "websocket",
                "Connection: upgrade\r\nUpgrade: \r\n".to_owned(),
            ),
            ("websocket", format!("{switches}Upgrade: websocket\r\n")),
            (
                "websocket, tcp",
                "Connection: upgrade\r\nUpgrade: websocket, tcp\r\n".to_owned(),
            ),
            ("websocket", format!("{switches}Content-Length: 2\r\n")),
            (
                "websocket",
                format!("{switches}Transfer-Encoding: chunked\r\n"),
            ),
            ("websocket", format!("HTTP/1.0 101 Switching\r\n{switches}")),
        ] {
            assert!(refused(Some(asked), &fields), "{asked}: {fields:?}");
        }
    }

    #[test]
    fn a_head_may_be_as_large_as_its_limits_and_no_larger() {
        let too_large = |reason| Some(Refused::TooLarge(reason));
        for (fields, bytes) in [(1, 1_024), (USUAL_FIELDS, 65_536), (1_000, 262_144)] {
            let limits = HeadLimits { fields, bytes };
            let of = |count: usize| format!("HTTP/1.1 200 OK\r\n{}\r\n", "A: b\r\n".repeat(count));
            let (head, ..) = within(&of(fields), limits).unwrap();
            assert_eq!(head.headers.len(), fields);
            assert_eq!(within(&of(fields + 1), limits).err(), too_large(FIELDS));

            let of =
                |length: usize| format!("HTTP/1.1 200 OK\r\nA: {}\r\n\r\n", "b".repeat(length));
            let most = bytes - of(0).len();
            let (head, ..) = within(&of(most), limits).unwrap();
            assert_eq!(head.headers["a"].len(), most);
            assert_eq!(within(&of(most + 1), limits).err(), too_large(BYTES));
            // The same where its end has not come.
            let endless = &of(most + 10)[..bytes];
            assert_eq!(within(endless, limits).err(), too_large(BYTES));
        }
    }

    #[test]
    fn a_204_that_says_chunked_ends_with_its_head() {
        for (after, keep, left) in [
            ("0\r\n\r\n", true, ""),
            ("", false, ""),
            ("0\r", false, "0\r"),
        ] {
            let text = format!("HTTP/1.1 204 No\r\nTransfer-Encoding: chunked\r\n\r\n{after}");
            let (mut buffer, mut head) = (BytesMut::from(&*text), AnswerHead::default());
            let parsed = parse(&mut buffer, &Asked::default(), LIMITS, &mut head, None);
            let Ok(Parsed::Complete(body, persistence)) = parsed else {
                panic!("{after:?}");
            };
            assert_eq!((body, persistence.keep), (BodyLength::Known(0), keep));
            assert!(head.headers.is_empty());
            assert_eq!(buffer, left);
        }
    }

    #[test]
    fn a_head_that_comes_byte_by_byte_is_parsed_a_few_times_only() {
        let text = format!("HTTP/1.1 200 OK\r\nA: {}\r\n\r\n", "a".repeat(100_000));
        let (mut looked_at, mut parsed) = (0, 0);
        for end in 1..=text.len() {
            if may_have_ended(&text.as_bytes()[..end], looked_at, LIMITS) {
                (looked_at, parsed) = (end, parsed + 1);
            }
        }
        assert_eq!(looked_at, text.len(), "its end is seen");
        assert!(parsed < 20, "{parsed}");
    }
}
