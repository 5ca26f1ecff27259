//! gRPC-Web (PROTOCOL-WEB of gRPC), by which browsers make calls: made gRPC as it comes, and made gRPC-Web again as
//! it goes. Its messages are gRPC's, in base64 where the client wants text; what gRPC says in trailers stands in a last
//! message. Knows nothing of who is called.

use base64::{DecodeError, Engine as _, engine::general_purpose::STANDARD};
use bytes::{BufMut as _, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, header};
use http_body::Frame;

/// Of a call's `Content-Type`, before what the messages are.
const GRPC: &str = "application/grpc";
const WEB: &str = "application/grpc-web";
const WEB_TEXT: &str = "application/grpc-web-text";

/// The flag of the message that is the trailers.
const TRAILERS: u8 = 0x80;

/// How messages are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Binary,
    /// In base64.
    Text,
}

/// A call of gRPC-Web.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Web {
    pub(super) request: Format,
    answer: Format,
}

impl Web {
    /// Makes a head of gRPC-Web one of gRPC, but for [`Self::ask_for_trailers`]; `None` where it is another.
    pub(super) fn translate(headers: &mut HeaderMap) -> Option<Self> {
        let said = headers.get(header::CONTENT_TYPE)?.as_bytes();
        let (request, messages) = format_of(said)?;
        let wanted = headers.get_all(header::ACCEPT).iter();
        let wanted = wanted.flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
        let mut wanted = wanted.filter_map(|value| format_of(value.trim_ascii()));
        let answer = wanted.next().map_or(request, |(format, _)| format);
        let content_type = HeaderValue::from_bytes(&[GRPC.as_bytes(), messages].concat()).ok()?;
        headers.insert(header::CONTENT_TYPE, content_type);
        Some(Self { request, answer })
    }

    /// Says what gRPC demands: a field more than the client has sent, where its fields are counted.
    pub(super) fn ask_for_trailers(headers: &mut HeaderMap) {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }

    /// Makes the head of gRPC's answer one of gRPC-Web; `false` where it is none of gRPC's, whose body stays as it is.
    pub(super) fn translate_answer(self, headers: &mut HeaderMap) -> bool {
        let said = headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
        let is_grpc = said.is_some_and(crate::grpc::is_content_type);
        if is_grpc {
            let messages = said
                .unwrap_or_default()
                .get(GRPC.len()..)
                .unwrap_or_default();
            let content_type = [self.content_type().as_bytes(), messages].concat();
            if let Ok(content_type) = HeaderValue::from_bytes(&content_type) {
                headers.insert(header::CONTENT_TYPE, content_type);
            }
            headers.remove(header::CONTENT_LENGTH);
            headers.remove(header::TRAILER);
        }
        is_grpc
    }

    /// That of an answer, as far as it says nothing of the messages.
    pub(super) fn content_type(self) -> &'static str {
        match self.answer {
            Format::Binary => WEB,
            Format::Text => WEB_TEXT,
        }
    }

    /// A piece of an answer, or its trailers, as gRPC-Web has them.
    pub(super) fn frame(self, frame: Frame<Bytes>) -> Frame<Bytes> {
        let bytes = match frame.into_data() {
            Ok(data) => data,
            Err(frame) => match frame.into_trailers() {
                Ok(trailers) => last_message(&trailers),
                Err(frame) => return frame,
            },
        };
        Frame::data(match self.answer {
            Format::Binary => bytes,
            // Clients read it in parts, each with its padding.
            Format::Text => STANDARD.encode(bytes).into(),
        })
    }
}

/// The format that a `Content-Type` of gRPC-Web says, and what it says of the messages.
fn format_of(value: &[u8]) -> Option<(Format, &[u8])> {
    for (name, format) in [(WEB_TEXT, Format::Text), (WEB, Format::Binary)] {
        if value.len() >= name.len() && value[..name.len()].eq_ignore_ascii_case(name.as_bytes()) {
            let messages = &value[name.len()..];
            return matches!(messages.first(), None | Some(b'+' | b';' | b' '))
                .then_some((format, messages));
        }
    }
    None
}

/// Trailers as fields of HTTP/1.1 in a message.
fn last_message(trailers: &HeaderMap) -> Bytes {
    let lines = trailers.iter().flat_map(|(name, value)| {
        let pieces: [&[u8]; 4] = [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"];
        pieces
    });
    let lines = lines.collect::<Vec<_>>().concat();
    let mut message = BytesMut::with_capacity(5 + lines.len());
    message.put_u8(TRAILERS);
    // Trailers are bounded where they are read.
    message.put_u32(u32::try_from(lines.len()).unwrap_or(u32::MAX));
    message.put_slice(&lines);
    message.freeze()
}

/// Base64 that comes in pieces, of which each may have padding in it: it is written in parts.
#[derive(Debug, Default)]
pub(super) struct Base64 {
    /// Of four letters those that have come.
    begun: [u8; 3],
    count: u8,
}

impl Base64 {
    /// What is whole with this piece.
    pub(super) fn decode(&mut self, piece: &[u8]) -> Result<Bytes, DecodeError> {
        let text = [&self.begun[..usize::from(self.count)], piece].concat();
        let (mut whole, rest) = text.split_at(text.len() - text.len() % 4);
        let mut decoded = Vec::with_capacity(whole.len() / 4 * 3);
        while !whole.is_empty() {
            let padded = memchr::memchr(b'=', whole).map(|at| at - at % 4 + 4);
            let (part, more) = whole.split_at(padded.unwrap_or(whole.len()));
            STANDARD.decode_vec(part, &mut decoded)?;
            whole = more;
        }
        self.begun[..rest.len()].copy_from_slice(rest);
        self.count = rest.len() as u8;
        Ok(decoded.into())
    }

    /// Whether all that has come is whole.
    pub(super) fn is_whole(&self) -> bool {
        self.count == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let fields = fields.iter().map(|(name, value)| {
            let name = http::HeaderName::from_static(name);
            (name, HeaderValue::from_static(value))
        });
        fields.collect()
    }

    #[test]
    fn a_head_is_made_one_of_grpc_and_its_answers_one_of_what_was_wanted() {
        for (said, accept, made, answer) in [
            (
                "application/grpc-web",
                None,
                "application/grpc",
                "application/grpc-web+proto",
            ),
            (
                "application/grpc-web+json",
                Some("*/*"),
                "application/grpc+json",
                "application/grpc-web+proto",
            ),
            (
                "Application/gRPC-Web-Text",
                None,
                "application/grpc",
                "application/grpc-web-text+proto",
            ),
            (
                "application/grpc-web+proto",
                Some("text/html, application/grpc-web-text;q=1, */*"),
                "application/grpc+proto",
                "application/grpc-web-text+proto",
            ),
            (
                "application/grpc-web-text+proto",
                Some("application/grpc-web+proto"),
                "application/grpc+proto",
                "application/grpc-web+proto",
            ),
        ] {
            let mut headers = head(&[("content-type", said), ("content-length", "3")]);
            if let Some(accept) = accept {
                headers.insert("accept", HeaderValue::from_static(accept));
            }
            let web = Web::translate(&mut headers).unwrap();
            assert_eq!(headers["content-type"], made, "{said}");
            assert!(!headers.contains_key("te"));
            Web::ask_for_trailers(&mut headers);
            assert_eq!(headers["te"], "trailers");
            let mut headers = head(&[
                ("content-type", "application/grpc+proto"),
                ("content-length", "3"),
                ("trailer", "grpc-status"),
            ]);
            assert!(web.translate_answer(&mut headers), "{said}");
            assert_eq!(headers, head(&[("content-type", answer)]), "{said}");
        }
    }

    #[test]
    fn what_is_none_of_grpc_web_is_let_alone() {
        for said in [
            "application/grpc",
            "application/grpc-webs",
            "application/grpc-web-texts",
            "application/json",
        ] {
            let mut headers = head(&[("content-type", said)]);
            assert_eq!(Web::translate(&mut headers), None, "{said}");
            assert_eq!(headers, head(&[("content-type", said)]));
        }
        let web = Web::translate(&mut head(&[("content-type", WEB)])).unwrap();
        let mut page = head(&[("content-type", "text/html"), ("content-length", "3")]);
        assert!(!web.translate_answer(&mut page) && page.len() == 2);
    }

    #[test]
    fn trailers_are_the_last_message() {
        let trailers = head(&[("grpc-status", "0"), ("x", "y")]);
        let lines = b"grpc-status: 0\r\nx: y\r\n";
        let message = [&[0x80, 0, 0, 0, lines.len() as u8][..], lines].concat();
        for (said, expected) in [
            (WEB, message.clone()),
            (WEB_TEXT, STANDARD.encode(&message).into_bytes()),
        ] {
            let web = Web::translate(&mut head(&[("content-type", said)])).unwrap();
            let frame = web.frame(Frame::trailers(trailers.clone()));
            assert_eq!(frame.into_data().unwrap(), expected);
        }
    }

    #[test]
    fn base64_is_read_in_parts_with_their_padding_however_its_bytes_come() {
        let parts = [&b"a"[..], b"bc", b"def", b"", b"ghij"];
        let text: String = parts.iter().map(|part| STANDARD.encode(part)).collect();
        for step in 1..=text.len() {
            let (mut base64, mut decoded) = (Base64::default(), Vec::new());
            for piece in text.as_bytes().chunks(step) {
                decoded.extend(base64.decode(piece).unwrap());
            }
            assert!(base64.is_whole());
            assert_eq!(decoded, parts.concat(), "in pieces of {step}");
        }
        for wrong in ["a===", "YQ=a", "YW!j", "=aaa"] {
            assert!(
                Base64::default().decode(wrong.as_bytes()).is_err(),
                "{wrong}"
            );
        }
        let mut half = Base64::default();
        assert!(half.decode(b"YWJjYQ").unwrap() == "abc" && !half.is_whole());
    }
}
