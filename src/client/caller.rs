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
    metrics::Padded,
    service::{CallAnswer, CallError, CallPolicy, ReplayBody, Service, ServiceStats, StatusClass},
    upstream::{Answer, AnswerBody},
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
        let mut outgoing = Outgoing::new(parts).map_err(|reason| Error::Malformed {
            service: Arc::clone(self.service().name()),
            reason,
        })?;
        let mut body = ReplayBody::new(body);
        let mut asked = arrived;
        let (mut held, mut fallback) = (&self.held, self.fallback.as_ref());
        loop {
            let service = &*held.service;
            let slot = held.slot();
            let count = Count::begin(service.lane(slot), arrived);
            let terms = CallPolicy::own(service);
            let total = terms.timeout.total.map(|total| arrived + total);
            let called = match held.wait_until_read(asked, total).await {
                Ok(began) => service
                    .call(slot, &mut outgoing, body, &terms, total, began)
                    .await
                    .map_err(|unanswered| in_words(service, unanswered)),
                Err(error) => Err((error, Some(body))),
            };
            let (error, unsent) = match called {
                Ok(answered) => return Ok(count.pass_on(answered)),
                Err(unanswered) => unanswered,
            };
            let (Some(unsent), Some(other)) = (unsent, fallback.take()) else {
                return Err(count.refuse(error));
            };
            count.hand_over();
            asked = Instant::now();
            (held, body) = (other, unsent);
        }
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

/// A request on its way. What became of it is counted; dropped before, it was abandoned.
struct Count {
    lane: Arc<Padded<ServiceStats>>,
    arrived: Instant,
    settled: bool,
}

impl Count {
    fn begin(lane: &Arc<Padded<ServiceStats>>, arrived: Instant) -> Self {
        lane.requests.add_one();
        Self {
            lane: Arc::clone(lane),
            arrived,
            settled: false,
        }
    }

    fn pass_on<B>(mut self, answered: CallAnswer<ReplayBody<B>>) -> Response<B> {
        self.settled = true;
        let Answer { head, at, body } = answered.answer;
        self.lane.answers[StatusClass::of(head.status).index()].add_one();
        let took = at.saturating_duration_since(self.arrived);
        self.lane.duration.observe(took);
        let mut response = Response::new(body);
        *response.status_mut() = head.status;
        *response.headers_mut() = head.headers;
        response.extensions_mut().insert(AnsweredBy {
            endpoint: answered.by.pool().address().clone(),
            attempts: answered.attempts,
        });
        response
    }

    fn hand_over(mut self) {
        self.settled = true;
        self.lane.fallbacks.add_one();
    }

    fn refuse(mut self, error: Error) -> Error {
        // The program's own doing is counted as abandoned.
        if !matches!(error, Error::Body { .. }) {
            self.settled = true;
            self.lane.failed.add_one();
        }
        error
    }
}

/// Why no endpoint has answered, and the request's body where none was asked.
fn in_words<B>(service: &Service, unanswered: CallError<B>) -> (Error, Option<B>) {
    let service = Arc::clone(service.name());
    match unanswered {
        CallError::NoEndpoints(body) => (Error::NoEndpoints { service }, Some(body)),
        CallError::Shed(_) => (Error::Shed { service }, None),
        CallError::BodyBroke(error) => (Error::Body { service, error }, None),
        CallError::Failed(attempts) => (Error::Failed { service, attempts }, None),
    }
}

impl Drop for Count {
    fn drop(&mut self) {
        if !self.settled {
            self.lane.abandoned.add_one();
        }
    }
}
