//! A request's body on its way from the client: watched for a stall, and its trailers looked at.

use std::{
    pin::Pin,
    sync::{Arc, atomic::Ordering::Relaxed},
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, Version};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::RequestStream;
use crate::{config::Underscores, service::ReplayBody};

/// A client's body that can be sent more than once.
pub(crate) type RequestBody = ReplayBody<ClientBody>;

/// A client's body, as it comes.
pub(crate) struct ClientBody {
    /// With the request that it is of; `None` where there is none.
    coming: Option<(Incoming, Arc<RequestStream>)>,
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
}

/// The body of a client's request.
pub(super) fn of_client(incoming: Incoming, stream: &Arc<RequestStream>) -> RequestBody {
    stream.rest.begin(&incoming);
    let coming = (!incoming.is_end_stream()).then(|| (incoming, Arc::clone(stream)));
    ReplayBody::new(ClientBody { coming })
}

impl Body for ClientBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
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

    fn is_end_stream(&self) -> bool {
        let coming = self.coming.as_ref();
        coming.is_none_or(|(incoming, _)| incoming.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        match &self.coming {
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
