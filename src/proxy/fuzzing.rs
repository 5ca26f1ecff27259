//! What must hold of fields that say who asks and how long they wait, and of the bodies of gRPC-Web, whatever
//! stands there.

use http::{HeaderMap, HeaderValue, header};
use http_body::Frame;

pub(crate) use super::tunnel::fuzzing::frames;
use super::{
    client::hop_address,
    grpc_timeout,
    grpc_web::{Base64, Web},
};

/// A body in base64 is the same however its bytes come. Whatever the `Content-Type` of a call is, what is made of it
/// is gRPC's, and its answer's is gRPC-Web's again.
pub(crate) fn grpc_web(bytes: &[u8]) {
    let whole = decoded(bytes, bytes.len().max(1));
    for step in [1, 3, 4] {
        assert_eq!(whole, decoded(bytes, step), "in pieces of {step}");
    }
    let Ok(said) = HeaderValue::from_bytes(bytes) else {
        return;
    };
    let mut headers = HeaderMap::from_iter([(header::CONTENT_TYPE, said.clone())]);
    let Some(web) = Web::translate(&mut headers) else {
        assert_eq!(headers[header::CONTENT_TYPE], said);
        return;
    };
    assert!(web.translate_answer(&mut headers));
    let answer = headers[header::CONTENT_TYPE].as_bytes();
    assert!(answer.starts_with(b"application/grpc-web"));
    let trailers = HeaderMap::from_iter([(header::ETAG, said)]);
    let last = web.frame(Frame::trailers(trailers)).into_data();
    let last = last.expect("trailers are a message");
    let flag = last.first().copied();
    assert!(matches!(flag, Some(0x80 | b'g')), "{last:?}");
}

/// What is in it, and whether it is whole; `None` where it is no base64.
fn decoded(bytes: &[u8], step: usize) -> Option<(Vec<u8>, bool)> {
    let mut base64 = Base64::default();
    let mut all = Vec::new();
    for piece in bytes.chunks(step) {
        all.extend(base64.decode(piece).ok()?);
    }
    Some((all, base64.is_whole()))
}

/// `X-Forwarded-For`, and `grpc-timeout`. An address is the same however it is written.
pub(crate) fn forwarded(bytes: &[u8]) {
    grpc_timeout::of(bytes);
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    for hop in text.rsplit(',').map(str::trim) {
        let Some(ip) = hop_address(hop) else { continue };
        assert_eq!(hop_address(&ip.to_string()), Some(ip));
        let socket = std::net::SocketAddr::new(ip, 80);
        assert_eq!(hop_address(&socket.to_string()), Some(ip));
    }
}
