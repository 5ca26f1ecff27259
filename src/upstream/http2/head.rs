//! A request's head and an answer's as HTTP/2 has them. Oracle: RFC 9113 8.2 and 8.3: no field of a
//! connection, and what HTTP/1.1 says in its first line and in `Host` in fields of their own.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode, Uri, Version, header};

use crate::{
    grpc::Code,
    instance::Address,
    upstream::{
        FailureKind, Fields, Head,
        answer_head::{AnswerHead, is_hop_by_hop},
        http1::{BodyLength, Framing},
        limits::{BYTES, FIELDS, HeadLimits, TRAILERS, TRAILERS_TOO_LARGE},
    },
};

/// A head for this endpoint, of a request whose body is framed like this.
///
/// # Errors
/// Where it has a host or a target that HTTP/2 cannot say.
pub(super) fn request(
    head: &impl Head,
    framing: Framing,
    expects_continue: bool,
    endpoint: &Address,
    is_secured: bool,
) -> Result<Request<()>, http::Error> {
    let authority = match head.host() {
        Some(host) => Bytes::copy_from_slice(host),
        None => endpoint.authority().into_owned().into(),
    };
    let uri = Uri::builder()
        .scheme(if is_secured { "https" } else { "http" })
        .authority(&*authority)
        .path_and_query(head.target().concat())
        .build()?;
    let mut request = Request::builder()
        .method(head.method().clone())
        .uri(uri)
        .version(Version::HTTP_2)
        .body(())?;
    let headers = request.headers_mut();
    fields(head, headers)?;
    if let Some(length) = framing.length_to_say(head.method()) {
        headers.insert(header::CONTENT_LENGTH, length.into());
    }
    if expects_continue {
        headers.insert(header::EXPECT, HeaderValue::from_static("100-continue"));
    }
    Ok(request)
}

/// The fields are given as text: values share its memory.
fn fields(head: &impl Head, headers: &mut HeaderMap) -> Result<(), http::Error> {
    let mut text = Vec::new();
    head.fields(&mut Fields(&mut text));
    let text = Bytes::from(text);
    let mut at = 0;
    while let Some(end) = memchr::memchr(b'\r', &text[at..]) {
        let line = at..at + end;
        at = line.end + 2;
        let Some(colon) = memchr::memchr(b':', &text[line.clone()]) else {
            continue;
        };
        let name = HeaderName::from_bytes(&text[line.start..line.start + colon])?;
        let is_of_connection = is_hop_by_hop(&name) && name != header::TE;
        if !is_of_connection && name.as_str() != "http2-settings" {
            let value = text.slice(line.start + colon + 2..line.end);
            headers.append(name, HeaderValue::from_maybe_shared(value)?);
        }
    }
    Ok(())
}

/// What an answer's head says, whose stream may have ended with it.
pub(super) fn answer(
    status: StatusCode,
    mut headers: HeaderMap,
    to_head_request: bool,
    has_ended: bool,
    limits: HeadLimits,
) -> Result<(AnswerHead, BodyLength), FailureKind> {
    if headers.len() > limits.fields {
        return Err(FailureKind::TooLarge(FIELDS));
    }
    if bytes(&headers) > limits.bytes {
        return Err(FailureKind::TooLarge(BYTES));
    }
    if status == StatusCode::SWITCHING_PROTOCOLS {
        return Err(FailureKind::BadAnswer("101, which HTTP/2 does not have"));
    }
    headers.remove(header::TE);
    let is_bodyless =
        to_head_request || status == StatusCode::NO_CONTENT || status == StatusCode::NOT_MODIFIED;
    if status == StatusCode::NO_CONTENT {
        // RFC 9110 8.6: a 204 carries no length.
        headers.remove(header::CONTENT_LENGTH);
    }
    let length = headers.get(header::CONTENT_LENGTH);
    let length = length.and_then(|length| length.to_str().ok()?.parse().ok());
    let length = match length {
        _ if is_bodyless || has_ended => BodyLength::Known(0),
        Some(length) if length > 0 => BodyLength::Known(length),
        // Trailers may follow a body without a byte, too.
        Some(_) | None => BodyLength::UntilClose,
    };
    let head = AnswerHead {
        status,
        reason: None,
        grpc: has_ended.then(|| Code::of_head(&headers)).flatten(),
        headers,
        text: Bytes::new(),
    };
    Ok((head, length))
}

/// Whether trailers may be as large, of which there may be so many fields.
///
/// # Errors
/// Why not.
pub(super) fn check_trailers(fields: &HeaderMap, most: usize) -> Result<(), FailureKind> {
    if fields.len() > most {
        return Err(FailureKind::TooLarge(FIELDS));
    }
    if bytes(fields) > TRAILERS {
        return Err(FailureKind::TooLarge(TRAILERS_TOO_LARGE));
    }
    Ok(())
}

/// How many bytes fields have in HTTP/1.1.
fn bytes(fields: &HeaderMap) -> usize {
    let bytes = |(name, value): (&HeaderName, &HeaderValue)| name.as_str().len() + value.len() + 4;
    fields.iter().map(bytes).sum()
}
