//! What must hold of the bytes of an answer, whatever they are.

use bytes::BytesMut;
use http::{HeaderMap, StatusCode};

use super::{
    chunked::Decoder,
    head::{self, Asked, BodyLength, Parsed, Persistence},
};
use crate::upstream::{AnswerHead, Upgrade, limits::HeadLimits, piece::Piece};

/// Small, so that inputs reach them.
const LIMITS: HeadLimits = HeadLimits {
    fields: 40,
    bytes: 4096,
};

/// What came of a head.
#[derive(Debug, PartialEq)]
enum Read {
    Refused,
    Unfinished,
    Complete {
        interim: usize,
        status: StatusCode,
        headers: HeaderMap,
        length: BodyLength,
        persistence: Persistence,
        behind: Vec<u8>,
    },
}

/// A head is read the same however its bytes come, and as soon as it is there. The first byte says
/// to which request it is the answer, whether that has asked for another protocol, and in which pieces the
/// answer comes.
pub(crate) fn heads(bytes: &[u8]) {
    let Some((first, bytes)) = bytes.split_first() else {
        return;
    };
    let to_head_request = first & 1 == 1;
    let asks_for_another = first & 2 == 2;
    let step = usize::from(first >> 2).max(1);
    let protocols = asks_for_another.then_some(&b"websocket, tcp"[..]);
    let asked = Asked {
        is_head: to_head_request,
        upgrade: Upgrade::of(protocols.into_iter(), |_| true),
    };
    let whole = read_heads(bytes, bytes.len().max(1), &asked);
    let pieces = read_heads(bytes, step, &asked);
    // What is refused need not be looked at before its end.
    if (&whole, &pieces) != (&Read::Refused, &Read::Unfinished) {
        assert_eq!(whole, pieces);
    }
}

fn read_heads(bytes: &[u8], step: usize, asked: &Asked) -> Read {
    let mut buffer = BytesMut::new();
    let mut pieces = bytes.chunks(step);
    let (mut interim, mut looked_at) = (0, 0);
    loop {
        while !buffer.is_empty() && head::may_have_ended(&buffer, looked_at, LIMITS) {
            let mut head = AnswerHead::default();
            match head::parse(&mut buffer, asked, LIMITS, &mut head, None) {
                Ok(Parsed::Interim(_)) => (interim, looked_at) = (interim + 1, 0),
                Ok(Parsed::Partial) => {
                    looked_at = buffer.len();
                    break;
                }
                Ok(Parsed::Complete(length, persistence)) => {
                    let rest = pieces.flatten().copied();
                    return Read::Complete {
                        interim,
                        status: head.status,
                        headers: head.headers,
                        length,
                        persistence,
                        behind: buffer.into_iter().chain(rest).collect(),
                    };
                }
                Err(_) => return Read::Refused,
            }
        }
        match pieces.next() {
            Some(piece) => buffer.extend_from_slice(piece),
            None => return Read::Unfinished,
        }
    }
}

/// A chunked body is read the same however its bytes come.
pub(crate) fn chunks(bytes: &[u8]) {
    let whole = read_chunks(bytes, bytes.len().max(1));
    for step in [1, 3] {
        assert_eq!(whole, read_chunks(bytes, step), "in pieces of {step}");
    }
}

/// The body, its end with its trailers if that came, and what stands behind; `None` where it is
/// refused.
type Chunks = (Vec<u8>, Option<Option<HeaderMap>>, Vec<u8>);

fn read_chunks(bytes: &[u8], step: usize) -> Option<Chunks> {
    let mut decoder = Decoder::Size;
    let mut buffer = BytesMut::new();
    let mut pieces = bytes.chunks(step);
    let mut body = Vec::new();
    loop {
        match decoder.decode(&mut buffer, LIMITS.fields).ok()? {
            Piece::Data(data) => body.extend_from_slice(&data),
            Piece::End(trailers) => {
                let behind = buffer.into_iter().chain(pieces.flatten().copied());
                return Some((body, Some(trailers), behind.collect()));
            }
            Piece::Partial => match pieces.next() {
                Some(piece) => buffer.extend_from_slice(piece),
                None => return Some((body, None, Vec::new())),
            },
        }
    }
}
