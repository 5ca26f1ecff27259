//! A request's body on its way from the client: watched for a stall, and its trailers looked at.

use std::{
    pin::Pin,
    sync::{Arc, atomic::Ordering::Relaxed},
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, Version};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::{RequestStream, grpc_web::Base64};
use crate::{config::Underscores, service::ReplayBody};

/// A client's body that can be sent more than once.
pub(crate) type RequestBody = ReplayBody<ClientBody>;

/// A client's body, as it comes.
pub(crate) struct ClientBody {
    /// With the request that it is of; `None` where there is none.
    coming: Option<(Incoming, Arc<RequestStream>)>,
    /// Where it is text, which endpoints have the bytes of.
    base64: Option<Base64>,
}

/// A request's body that does not come to its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyError {
    /// The HTTP library says why.
    #[error(transparent)]
    Http(#[from] hyper::Error),
    /// The stream ended, and the request had not: it was reset with `NO_ERROR`, by the client or with its
    /// connection. To the library that is an end like any other.
    #[error("the stream was reset before the request's end")]
    Reset,
    /// A call of gRPC-Web that is text is none.
    #[error("the body is not sound base64")]
    Base64,
}

/// The body of a client's request; in base64, where it is text.
pub(super) fn of_client(
    incoming: Incoming,
    stream: &Arc<RequestStream>,
    is_text: bool,
) -> RequestBody {
    stream.rest.begin(&incoming);
    let coming = (!incoming.is_end_stream()).then(|| (incoming, Arc::clone(stream)));
    let base64 = is_text.then(Base64::default);
    ReplayBody::new(ClientBody { coming, base64 })
}

/// A piece of a body, or its trailers; `None` at its end.
type Piece = Option<Result<Frame<Bytes>, BodyError>>;

impl ClientBody {
    /// What comes next, as the client has written it.
    fn poll_written(&mut self, cx: &mut Context<'_>) -> Poll<Piece> {
        let Some((incoming, stream)) = &mut self.coming else {
            return Poll::Ready(None);
        };
        let RequestStream {
            client,
            rest,
            body_awaited,
            is_answered,
            ..
        } = &**stream;
        rest.ask();
        let polled = Pin::new(&mut *incoming).poll_frame(cx);
        let polled = polled.map_err(BodyError::from);
        match &polled {
            Poll::Ready(None) if client.version == Version::HTTP_2 && !incoming.is_end_stream() => {
                body_awaited.store(0, Relaxed);
                return Poll::Ready(Some(Err(BodyError::Reset)));
            }
            Poll::Pending if is_answered.load(Relaxed) => {}
            Poll::Pending if body_awaited.load(Relaxed) == 0 => {
                body_awaited.store(client.now(), Relaxed)
            }
            Poll::Pending => {}
            Poll::Ready(more) => {
                body_awaited.store(0, Relaxed);
                match more {
                    Some(Ok(frame)) if frame.is_data() => rest.note(incoming),
                    Some(Ok(_)) | None => rest.end(),
                    Some(Err(_)) => {}
                }
            }
        }
        // A trailer comes too late for its request to be rejected.
        let underscores = client.listener.underscores == Underscores::Allow;
        polled.map_ok(|frame| match frame.into_trailers() {
            Ok(trailers) => Frame::trailers(those_that_may_trail(trailers, underscores)),
            Err(frame) => frame,
        })
    }
}

/// The same of a text as its bytes; `None` where that is none yet.
#[cold]
fn decoded(base64: &mut Base64, piece: Piece) -> Option<Piece> {
    let piece = match piece {
        Some(Ok(frame)) => frame.into_data(),
        // It ends amid four letters.
        None if !base64.is_whole() => return Some(Some(Err(BodyError::Base64))),
        end => return Some(end),
    };
    match piece.map(|data| base64.decode(&data)) {
        Ok(Ok(bytes)) if bytes.is_empty() => None,
        Ok(Ok(bytes)) => Some(Some(Ok(Frame::data(bytes)))),
        Ok(Err(_)) => Some(Some(Err(BodyError::Base64))),
        Err(_) if !base64.is_whole() => Some(Some(Err(BodyError::Base64))),
        Err(trailers) => Some(Some(Ok(trailers))),
    }
}

impl Body for ClientBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Piece> {
        loop {
            let piece = ready!(self.poll_written(cx));
            let Some(base64) = &mut self.base64 else {
                return Poll::Ready(piece);
            };
            if let Some(piece) = decoded(base64, piece) {
                return Poll::Ready(piece);
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        let is_whole = self.base64.as_ref().is_none_or(Base64::is_whole);
        let coming = self.coming.as_ref();
        is_whole && coming.is_none_or(|(incoming, _)| incoming.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        match &self.coming {
            Some(_) if self.base64.is_some() => SizeHint::default(),
            Some((incoming, _)) => incoming.size_hint(),
            None => SizeHint::with_exact(0),
        }
    }
}

/// Some servers take trailers for fields of the head, where these would frame the request, route
/// it or say who sent it (RFC 9110 6.5.1). What is written there is the proxy's to say.
fn those_that_may_trail(trailers: HeaderMap, underscores: bool) -> HeaderMap {
    let passes = |name: &HeaderName| match name.as_str() {
        // To many programs it is the name with hyphens.
        name if name.contains('_') => underscores && may_trail(&name.replace('_', "-")),
        name => may_trail(name),
    };
    // A name is given once for all its values.
    let mut last = None;
    trailers
        .into_iter()
        .filter_map(|(name, value)| {
            last = name.or(last.take());
            let name = last.clone().filter(passes)?;
            Some((name, value))
        })
        .collect()
}

fn may_trail(name: &str) -> bool {
    !matches!(
        name,
        "host"
            | "content-length"
            | "transfer-encoding"
            | "trailer"
            | "te"
            | "connection"
            | "keep-alive"
            | "proxy-connection"
            | "upgrade"
            | "expect"
            | "authorization"
            | "proxy-authorization"
            | "cookie"
            | "forwarded"
            | "via"
    ) && !name.starts_with("x-forwarded-")
}

impl Drop for ClientBody {
    fn drop(&mut self) {
        let Some((incoming, stream)) = self.coming.take() else {
            return;
        };
        stream.body_awaited.store(0, Relaxed);
        // The client may be sending it still, and does not know that it is not read. In HTTP/2 it is told, and
        // what it has sent must not fill the window of others.
        if stream.rest.may_come() && stream.client.version != Version::HTTP_2 {
            stream.rest.abandon(incoming);
        }
    }
}
