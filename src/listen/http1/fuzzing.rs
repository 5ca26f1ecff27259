//! What must hold of the bytes of a request's first line and of its body, whatever they are.

use std::{
    convert::Infallible,
    pin::pin,
    task::{Context, Waker},
};

use http::Request;
use http_body_util::BodyExt as _;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;

use super::{
    chunks::Chunks,
    framing::Framing,
    target::{Looked, look},
};

const CHUNKED: &[u8] = b"POST /body HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
const NEXT: &[u8] = b"GET /next HTTP/1.1\r\nHost: a\r\n\r\n";

/// A fragment is seen at the same byte however the line comes. A line that was mended is fit, has none any
/// more, and nothing behind it was touched.
pub(crate) fn targets(bytes: &[u8]) {
    let whole = fragment(bytes, bytes.len().max(1));
    for step in [1, 3] {
        assert_eq!(whole, fragment(bytes, step), "in pieces of {step}");
    }
    let Looked::Mended(mended) = look(bytes) else {
        return;
    };
    assert_eq!(look(&mended), Looked::Fit);
    assert_eq!(fragment(&mended, mended.len()), None);
    let behind = |bytes: &[u8]| bytes.iter().position(|byte| *byte == b'\n');
    let (before, after) = (behind(bytes).unwrap_or(0), behind(&mended).unwrap_or(0));
    assert_eq!(bytes[before..], mended[after..]);
}

/// Where the first fragment begins in what is handed over as a head.
fn fragment(bytes: &[u8], step: usize) -> Option<usize> {
    let mut framing = Framing::default();
    let mut handed = 0;
    for piece in bytes.chunks(step) {
        let mut held = piece;
        while !held.is_empty() {
            let passed = framing.pass(held).expect("a head is followed to its end");
            if let Some(at) = passed.fragment {
                return Some(handed + at);
            }
            handed += passed.count;
            held = &held[passed.count..];
        }
    }
    None
}

/// A chunked body is followed the same however its bytes come. What is whole here ends at the same byte
/// for the HTTP library, should that take it; and what is not, is not whole there.
pub(crate) fn chunks(bytes: &[u8]) {
    let (sound, is_done) = follow(bytes, bytes.len().max(1));
    for step in [1, 3] {
        assert_eq!((sound, is_done), follow(bytes, step), "in pieces of {step}");
    }
    let body = &bytes[..sound];
    let requests = if is_done {
        requests(&[CHUNKED, body, NEXT].concat())
    } else {
        requests(&[CHUNKED, body].concat())
    };
    match &requests[..] {
        [Seen { is_whole, .. }] => assert!(!is_whole, "taken to end elsewhere, or nowhere"),
        [first, second] => {
            assert!(is_done && first.is_whole);
            assert_eq!(second.path, "/next");
        }
        _ => panic!("{requests:?}"),
    }
}

/// How many bytes are sound, and whether the body ends with them.
fn follow(bytes: &[u8], step: usize) -> (usize, bool) {
    let mut chunks = Chunks::default();
    let mut sound = 0;
    for piece in bytes.chunks(step) {
        let count = chunks.follow(piece);
        sound += count;
        if count < piece.len() {
            break;
        }
    }
    (sound, chunks.is_done())
}

/// A request as the HTTP library has it.
#[derive(Debug)]
struct Seen {
    path: String,
    /// Its body came to its end.
    is_whole: bool,
}

/// The requests that the HTTP library reads in this.
fn requests(wire: &[u8]) -> Vec<Seen> {
    let seen = Mutex::new(Vec::new());
    let service = service_fn(|request: Request<Incoming>| {
        let (path, seen) = (request.uri().path().to_owned(), &seen);
        async move {
            let is_whole = request.into_body().collect().await.is_ok();
            let mut seen = seen.lock();
            seen.push(Seen { path, is_whole });
            Ok::<_, Infallible>(http::Response::new(String::new()))
        }
    });
    let io = TokioIo::new(tokio::io::join(wire, tokio::io::sink()));
    {
        let serving = http1::Builder::new()
            .half_close(true)
            .serve_connection(io, service);
        let mut serving = pin!(serving);
        let mut cx = Context::from_waker(Waker::noop());
        // All is there: whenever it is not ready, it has only paused.
        let most = wire.len() + 100;
        let ended = (0..most).any(|_| serving.as_mut().poll(&mut cx).is_ready());
        assert!(ended, "the library goes on without bytes");
    }
    seen.into_inner()
}
