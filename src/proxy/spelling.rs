//! The names of header fields as they came, for a listener with `header_case = "preserve"`. Beyond here a
//! name has one spelling; what is sent on gets the other back from the text of the head that it came in.
//! Trailers, and what the proxy adds, are written in small letters.

use std::{
    future::ready,
    io,
    pin::pin,
    task::{Context, Waker},
};

use bytes::Bytes;
use http::{Extensions, Request};
use hyper::{body::Incoming, server::conn::http1 as server, service::service_fn};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;

/// The text of a head, as it came.
#[derive(Clone, Debug)]
pub(crate) struct HeadText(Bytes);

impl HeadText {
    /// The text of a head that was understood.
    pub(crate) fn new(text: impl Into<Bytes>) -> Self {
        Self(text.into())
    }

    /// The names of its fields, in their order.
    fn names(&self) -> impl Iterator<Item = &[u8]> {
        let lines = self.0.trim_ascii_start().split(|byte| *byte == b'\n');
        lines.skip(1).filter_map(name)
    }

    /// Spells the names in `head` so, a name that comes several times in its order.
    pub(super) fn spell(&self, head: &mut [u8]) {
        let mut names: Vec<_> = self.names().collect();
        for line in head.split_mut(|byte| *byte == b'\n').skip(1) {
            let length = name(line).map_or(0, <[u8]>::len);
            let written = &mut line[..length];
            let spelled = names
                .iter()
                .position(|name| name.eq_ignore_ascii_case(written));
            if let Some(at) = spelled {
                written.copy_from_slice(names.remove(at));
            }
        }
    }

    /// Has hyper spell the names in an answer so. It keeps the spelling of a request that it reads in a
    /// private extension, and heeds one in an answer; there is no other way to make it than to let it
    /// read these names.
    pub(super) fn for_answer(&self) -> Extensions {
        let mut head = b"GET / HTTP/1.1\r\n".to_vec();
        // What would frame the request is none of an answer's fields here.
        let is_plain = |name: &&[u8]| !name.eq_ignore_ascii_case(b"transfer-encoding");
        let mut count = 0;
        for name in self.names().filter(is_plain) {
            head.extend_from_slice(name);
            head.extend_from_slice(b": 0\r\n");
            count += 1;
        }
        head.extend_from_slice(b"\r\n");
        let found = Mutex::new(Extensions::new());
        let service = service_fn(|mut request: Request<Incoming>| {
            let extensions = std::mem::take(request.extensions_mut());
            *found.lock() = extensions;
            let unanswered = io::Error::from(io::ErrorKind::Other);
            ready(Err::<http::Response<String>, _>(unanswered))
        });
        let io = TokioIo::new(tokio::io::join(&head[..], tokio::io::sink()));
        let reading = server::Builder::new()
            .preserve_header_case(true)
            .max_headers(count)
            .serve_connection(io, service);
        // All of it is there: it has read the head, and ended, when it comes back.
        let _ = pin!(reading).poll(&mut Context::from_waker(Waker::noop()));
        found.into_inner()
    }
}

/// What stands before a line's colon.
fn name(line: &[u8]) -> Option<&[u8]> {
    let end = memchr::memchr(b':', line)?;
    Some(&line[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_spelled_as_in_the_text_each_in_its_turn() {
        let text =
            "\r\nGET /:a HTTP/1.1\r\nHOST: a\r\nX-One: 1\r\nx-ONE: X-One: 2\r\nGone: 3\r\n\r\n";
        let mut head = b"GET /:a HTTP/1.1\r\nhost: a\r\nvia: host: b\r\nx-one: 1\r\nx-one: 2\r\n\
                         x-one: 3\r\ngo: ne\r\n\r\n"
            .to_vec();
        HeadText::new(text).spell(&mut head);
        let expected = "GET /:a HTTP/1.1\r\nHOST: a\r\nvia: host: b\r\nX-One: 1\r\nx-ONE: 2\r\n\
                        x-one: 3\r\ngo: ne\r\n\r\n";
        assert_eq!(String::from_utf8_lossy(&head), expected);
    }

    #[test]
    fn hyper_takes_any_names_of_an_answer() {
        let fields: String = (0..300).map(|n| format!("X-Field-{n}: a\r\n")).collect();
        for fields in [
            "",
            "Transfer-ENCODING: chunked\r\n",
            "Content-Length: 5\r\nContent-LENGTH: 5\r\nDATE: x\r\n",
            "Connection: close\r\nUpgrade: a\r\nExpect: b\r\nHost: c\r\nTE: d\r\n",
            &fields,
        ] {
            let text = HeadText::new(format!("HTTP/1.1 200 OK\r\n{fields}\r\n"));
            assert!(!text.for_answer().is_empty(), "{fields}");
        }
    }
}
