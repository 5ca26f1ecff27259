//! A request's body on its way from the client: watched for a stall, and kept, up to a limit, so
//! that it can be sent again.

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
use crate::config::Underscores;

/// The most bytes that are kept.
const REPLAY_LIMIT: usize = 64 * 1024;

/// A client's body that can be sent more than once.
pub struct RequestBody {
    incoming: Incoming,
    client: Arc<Client>,
    /// What was read, for another attempt; `None` when it was too much.
    kept: Option<Vec<Bytes>>,
    kept_bytes: usize,
    /// Of `kept`, what this attempt has sent.
    replayed: usize,
    read: bool,
    /// Trailers came, which are not kept.
    had_trailers: bool,
}

impl RequestBody {
    pub(super) fn new(incoming: Incoming, client: Arc<Client>) -> Self {
        Self {
            incoming,
            client,
            kept: Some(Vec::new()),
            kept_bytes: 0,
            replayed: 0,
            read: false,
            had_trailers: false,
        }
    }

    /// Gets ready for another attempt; `false` where the body cannot be sent again.
    pub(super) fn rewind(&mut self) -> bool {
        self.replayed = 0;
        !self.read || (self.kept.is_some() && !self.had_trailers)
    }

    fn keep(&mut self, data: &Bytes) {
        let Some(kept) = &mut self.kept else { return };
        self.kept_bytes += data.len();
        if self.kept_bytes > REPLAY_LIMIT {
            self.kept = None;
        } else {
            kept.push(data.clone());
            self.replayed = kept.len();
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        if let Some(data) = self.kept.as_ref().and_then(|kept| kept.get(self.replayed)) {
            let frame = Frame::data(data.clone());
            self.replayed += 1;
            return Poll::Ready(Some(Ok(frame)));
        }
        self.read = true;
        let polled = Pin::new(&mut self.incoming).poll_frame(cx);
        let awaited = &self.client.activity.body_awaited;
        match &polled {
            Poll::Pending if awaited.load(Relaxed) == 0 => {
                awaited.store(self.client.now(), Relaxed)
            }
            Poll::Pending => {}
            Poll::Ready(_) => awaited.store(0, Relaxed),
        }
        if let Poll::Ready(Some(Ok(frame))) = &polled {
            match frame.data_ref() {
                Some(data) => {
                    let data = data.clone();
                    self.keep(&data);
                }
                None => self.had_trailers = true,
            }
        }
        // A trailer comes too late for its request to be rejected.
        let underscores = self.client.listener.underscores == Underscores::Allow;
        polled.map_ok(|frame| match frame.into_trailers() {
            Ok(trailers) => Frame::trailers(those_that_may_trail(trailers, underscores)),
            Err(frame) => frame,
        })
    }

    fn is_end_stream(&self) -> bool {
        self.kept
            .as_ref()
            .is_none_or(|kept| self.replayed == kept.len())
            && self.incoming.is_end_stream()
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

impl Drop for RequestBody {
    fn drop(&mut self) {
        self.client.activity.body_awaited.store(0, Relaxed);
    }
}
