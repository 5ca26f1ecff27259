//! Requests for one service: a `tower::Service`.

use std::{
    error::Error as StdError,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::Request;
use http_body::Body;
use tokio::time::Instant;

use super::{Error, held::HeldService, outgoing::Outgoing};
use crate::{
    instance::Address,
    service::{
        ANSWERED, AnswerSlot, CallAnswer, Destination, ReplayBody, RequestCount, Service, dispatch,
    },
    upstream::{self, AnswerBody, AnswerHead},
};

/// Calls one service, by the endpoints that it has at the moment. Cheap to clone.
///
/// It is always ready: a request whose service was not read yet waits for it in its own future. A
/// future that is dropped ends its request.
///
/// Whether an endpoint is called over TLS is what the registry says of it, and not the request's
/// scheme. `Host` is the request's own, else its URI's, else the endpoint's address. Redirects and
/// cookies are the program's.
#[derive(Clone, Debug)]
pub struct Caller {
    held: HeldService,
    /// The service that is called where this one has no endpoint.
    fallback: Option<HeldService>,
}

/// An endpoint's answer, whatever its status.
pub type Response<B> = http::Response<ResponseBody<B>>;

/// An answer's body. The request counts as in flight until it is dropped or read to its end.
pub type ResponseBody<B> = AnswerBody<ReplayBody<B>>;

/// Who gave an answer: an extension of each [`Response`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AnsweredBy {
    /// Whose answer it is.
    pub endpoint: Address,
    /// How many attempts it took; 1 where the first brought it.
    pub attempts: usize,
}

impl Caller {
    pub(super) fn new(held: HeldService, fallback: Option<HeldService>) -> Self {
        Self { held, fallback }
    }

    /// Sends a request, with attempts as the service's `retry` has them and within its `timeout`.
    /// Where the service has no endpoint, the request goes to its `fallback`.
    ///
    /// # Errors
    /// Why there is no answer. One with an error's status is an answer.
    pub async fn send<B>(&self, request: Request<B>) -> Result<Response<B>, Error>
    where
        B: Body<Data = Bytes, Error: Into<Box<dyn StdError + Send + Sync>>> + Unpin,
    {
        let arrived = Instant::now();
        let (parts, body) = request.into_parts();
        let mut request = upstream::Request::new(&parts.method, ReplayBody::new(body), false);
        let mut outgoing = Outgoing::new(parts).map_err(|reason| Error::Malformed {
            service: Arc::clone(self.service().name()),
            reason,
        })?;
        let to = Destination {
            service: &self.held.service,
            subset: None,
            overrides: None,
            deadline: None,
            fallback: || Some(&self.fallback.as_ref()?.service),
        };
        let (mut count, slot) = (RequestCount::new(arrived), self.held.slot());
        let mut answered = AnswerSlot::default();
        dispatch(
            to,
            &mut outgoing,
            &mut request,
            &mut count,
            slot,
            arrived,
            &mut answered,
        )
        .await
        .map_err(|undelivered| Error::of(undelivered.service, undelivered.error))?;
        let answer = answered.answer.expect(ANSWERED);
        Ok(pass_on(answered.head, answer, count))
    }

    /// The service behind it: its policy, its counters and its endpoints.
    pub fn service(&self) -> &Service {
        &self.held.service
    }
}

impl<B> tower::Service<Request<B>> for Caller
where
    B: Body<Data = Bytes, Error: Into<Box<dyn StdError + Send + Sync>>> + Send + Unpin + 'static,
{
    type Response = Response<B>;
    type Error = Error;
    type Future = BoxFuture<'static, Result<Response<B>, Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let caller = self.clone();
        Box::pin(async move { caller.send(request).await })
    }
}

fn pass_on<B>(
    head: AnswerHead,
    answer: CallAnswer<ReplayBody<B>>,
    mut count: RequestCount,
) -> Response<B> {
    count.answered(head.status, answer.at);
    let mut response = Response::new(answer.body);
    *response.status_mut() = head.status;
    *response.headers_mut() = head.headers;
    response.extensions_mut().insert(AnsweredBy {
        endpoint: answer.by.pool().address().clone(),
        attempts: answer.attempts,
    });
    response
}
