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

use super::{Error, held::Held, outgoing::Outgoing};
use crate::{
    instance::Address,
    metrics::Padded,
    service::{Answered, Kept, Lane, Service, StatusClass, Unanswered},
    upstream::http1,
};

/// Calls one service, whoever its endpoints are at the moment. Cheap to clone.
///
/// It is always ready: a request whose service was not read yet waits for it in its own future. A
/// future that is dropped ends its request.
///
/// Whether an endpoint is called over TLS is what the registry says of it, and not the request's
/// scheme. `Host` is the request's own, else its URI's, else the endpoint's address. Redirects and
/// cookies are the program's.
#[derive(Clone, Debug)]
pub struct Caller(Held);

/// An endpoint's answer, whatever its status.
pub type Response<B> = http::Response<ResponseBody<B>>;

/// An answer's body. The request counts as in flight until it is dropped or read to its end.
pub type ResponseBody<B> = http1::AnswerBody<Kept<B>>;

/// Who gave an answer: an extension of each [`Response`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AnsweredBy {
    /// Whose answer it is.
    pub endpoint: Address,
    /// How many attempts it took; 1 where the first brought it.
    pub attempts: usize,
}

impl Caller {
    pub(super) fn new(held: Held) -> Self {
        Self(held)
    }

    /// Sends a request, with attempts as the service's `retry` has them and within its `timeout`.
    ///
    /// # Errors
    /// Why there is no answer. One with an error's status is an answer.
    pub async fn send<B>(&self, request: Request<B>) -> Result<Response<B>, Error>
    where
        B: Body<Data = Bytes, Error: Into<Box<dyn StdError + Send + Sync>>> + Unpin,
    {
        let arrived = Instant::now();
        let service = &*self.0.service;
        let (parts, body) = request.into_parts();
        let mut outgoing = Outgoing::new(parts).map_err(|reason| Error::Malformed {
            service: Arc::clone(service.name()),
            reason,
        })?;
        let slot = self.0.slot();
        let count = Count::begin(service.lane(slot), arrived);
        let began = match self.0.wait_until_read(arrived).await {
            Ok(began) => began,
            Err(error) => {
                count.fail();
                return Err(error);
            }
        };
        let total = service.policy().timeout.total.map(|total| arrived + total);
        let called = service.call(slot, &mut outgoing, Kept::new(body), total, began);
        match called.await {
            Ok(answered) => Ok(count.pass_on(answered)),
            Err(unanswered) => Err(count.refuse(service, unanswered)),
        }
    }

    /// The service behind it: its policy, its counters and its endpoints.
    pub fn service(&self) -> &Service {
        &self.0.service
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
    lane: Arc<Padded<Lane>>,
    arrived: Instant,
    settled: bool,
}

impl Count {
    fn begin(lane: &Arc<Padded<Lane>>, arrived: Instant) -> Self {
        lane.requests.add_one();
        Self {
            lane: Arc::clone(lane),
            arrived,
            settled: false,
        }
    }

    fn pass_on<B>(mut self, answered: Answered<Kept<B>>) -> Response<B> {
        self.settled = true;
        let head = answered.answer.head;
        self.lane.answers[StatusClass::of(head.status).index()].add_one();
        self.lane.duration.observe(self.arrived.elapsed());
        let mut response = Response::new(answered.answer.body);
        *response.status_mut() = head.status;
        *response.headers_mut() = head.headers;
        response.extensions_mut().insert(AnsweredBy {
            endpoint: answered.by.pool().address().clone(),
            attempts: answered.attempts,
        });
        response
    }

    fn fail(mut self) {
        self.settled = true;
        self.lane.failed.add_one();
    }

    fn refuse(self, service: &Service, unanswered: Unanswered) -> Error {
        let service = Arc::clone(service.name());
        match unanswered {
            // The program's own doing: it is counted as abandoned.
            Unanswered::BodyBroke(error) => Error::Body { service, error },
            Unanswered::NoEndpoints => {
                self.fail();
                Error::NoEndpoints { service }
            }
            Unanswered::Shed(_) => {
                self.fail();
                Error::Shed { service }
            }
            Unanswered::Failed(attempts) => {
                self.fail();
                Error::Failed { service, attempts }
            }
        }
    }
}

impl Drop for Count {
    fn drop(&mut self) {
        if !self.settled {
            self.lane.abandoned.add_one();
        }
    }
}
