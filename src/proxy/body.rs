//! A request's body on its way from the client: watched for a stall, and its trailers looked at.

use std::{
    pin::Pin,
    sync::{Arc, atomic::Ordering::Relaxed},
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::Client;
use crate::{config::Underscores, service::Kept};

/// A client's body that can be sent more than once.
pub type RequestBody = Kept<ClientBody>;

/// A client's body, as it comes.
pub struct ClientBody {
    incoming: Incoming,
    client: Arc<Client>,
}

/// The body of a client's request.
pub(super) fn of_client(incoming: Incoming, client: Arc<Client>) -> RequestBody {
    Kept::new(ClientBody { incoming, client })
}

impl Body for ClientBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let polled = Pin::new(&mut self.incoming).poll_frame(cx);
        let awaited = &self.client.activity.body_awaited;
        match &polled {
            Poll::Pending if awaited.load(Relaxed) == 0 => {
                awaited.store(self.client.now(), Relaxed)
            }
            Poll::Pending => {}
            Poll::Ready(_) => awaited.store(0, Relaxed),
        }
        // A trailer comes too late for its request to be rejected.
        let underscores = self.client.listener.underscores == Underscores::Allow;
        polled.map_ok(|frame| match frame.into_trailers() {
            Ok(trailers) => Frame::trailers(those_that_may_trail(trailers, underscores)),
            Err(frame) => frame,
        })
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

/// Some servers take trailers for fields of the head, where these would frame the request, route
/// it or say who sent it (RFC 9110 6.5.1). What is written there is the proxy's to say.
fn those_that_may_trail(trailers: HeaderMap, underscores: bool) -> HeaderMap {
    let may_trail = |name: &HeaderName| {
        !matches!(
            name.as_str(),
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
        ) && !name.as_str().starts_with("x-forwarded-")
            && (underscores || !name.as_str().contains('_'))
    };
    // A name is given once for all its values.
    let mut last = None;
    trailers
        .into_iter()
        .filter_map(|(name, value)| {
            last = name.or(last.take());
            let name = last.clone().filter(may_trail)?;
            Some((name, value))
        })
        .collect()
}

impl Drop for ClientBody {
    fn drop(&mut self) {
        self.client.activity.body_awaited.store(0, Relaxed);
    }
}
