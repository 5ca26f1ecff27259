//! A request on its way: to a service, once that has been read, and to its fallback where it has no
//! endpoint. Counts what becomes of it. Knows nothing of routes, or of who asks.

use std::{sync::Arc, time::Duration};

use http::StatusCode;
use tokio::time::Instant;

use super::{AnswerSlot, CallError, call, outcome::Detector};
use crate::{
    config::{Overrides, Subset},
    metrics::Padded,
    service::{
        CallPolicy, Overridden, Replay, RequestInfo, Service, ServiceStats, StatusClass, over_at,
        within,
    },
    upstream::{Head, Request},
};

/// A request for a service.
pub trait Dispatched<'d>: Head + RequestInfo {
    /// Hears which service is called from now on.
    fn goes_to(&mut self, service: &'d Service);
}

/// Where a request goes.
pub struct Destination<'d, F> {
    /// To this service.
    pub service: &'d Arc<Service>,
    /// To these of its endpoints; `None` is all.
    pub subset: Option<&'d Arc<Subset>>,
    /// With these retries and time-outs, which stand before those of the services, if there are any.
    pub overrides: Option<&'d Overrides>,
    /// Within this time after its arrival, however long a service would take.
    pub deadline: Option<Duration>,
    /// Finds the service that is called where the first one has no endpoint.
    pub fallback: F,
}

/// What holds where [`dispatch`] has returned no error.
pub const ANSWERED: &str = "a request that was delivered has an answer";

/// A request that no endpoint has answered.
#[derive(Debug)]
pub struct Undelivered<'d> {
    /// The service that was called last.
    pub service: &'d Arc<Service>,
    /// The service in whose place that was called, as its fallback.
    pub instead_of: Option<&'d Arc<Service>>,
    /// Why it has not answered.
    pub error: CallError,
}

/// Has a request answered, by a worker whose counters have it from now on; it is `now`. The answer is put
/// into `slot`, and not returned: it is large, and each future on the way would copy it.
///
/// # Errors
/// Why no endpoint has answered.
pub async fn dispatch<'d, B: Replay, F: FnOnce() -> Option<&'d Arc<Service>>>(
    to: Destination<'d, F>,
    head: &mut impl Dispatched<'d>,
    request: &mut Request<B>,
    count: &mut RequestCount,
    worker: usize,
    mut now: Instant,
    slot: &mut AnswerSlot<B>,
) -> Result<(), Undelivered<'d>> {
    let (mut service, mut subset) = (to.service, to.subset);
    let mut fallback = Some(to.fallback);
    let mut instead_of = None;
    loop {
        count.begin(service.stats(worker));
        head.goes_to(service);
        service.usage().note(now);
        let overridden = to.overrides.map(|own| Overridden::of(service, own));
        let error = match CallPolicy::of(service, subset, overridden.as_ref()) {
            None => CallError::NoEndpoints,
            Some(policy) => {
                let total = over_at(count.arrived, policy.timeout, to.deadline);
                if !service.is_read() {
                    now = Box::pin(until_read(service, now, total)).await;
                }
                let detector = Detector::new(service, policy.view, worker);
                match call(detector, head, request, &policy, total, now, slot).await {
                    Ok(()) => return Ok(()),
                    Err(error) => error,
                }
            }
        };
        let is_unsent = matches!(error, CallError::NoEndpoints);
        let other = fallback.take().filter(|_| is_unsent);
        match other.and_then(|find| find()) {
            Some(other) => {
                count.fell_back();
                now = Instant::now();
                instead_of = Some(service);
                (service, subset) = (other, None);
            }
            None => {
                count.failed(&error);
                return Err(Undelivered {
                    service,
                    instead_of,
                    error,
                });
            }
        }
    }
}

/// Waits for a service's first set, but not for longer than its `discovery_timeout`, and not beyond
/// `total`. Returns the moment at which it was there.
pub(crate) async fn until_read(service: &Service, now: Instant, total: Option<Instant>) -> Instant {
    let limit = within(service.policy().discovery_timeout, total, now);
    service.wait_until_read(limit).await;
    Instant::now()
}

/// Counts what becomes of a request. A request that is dropped before was abandoned.
#[derive(Debug)]
pub struct RequestCount {
    arrived: Instant,
    /// Of the service that it goes to.
    stats: Option<Arc<Padded<ServiceStats>>>,
    is_settled: bool,
}

impl RequestCount {
    /// Of a request that arrived then, and goes nowhere yet.
    pub fn new(arrived: Instant) -> Self {
        Self {
            arrived,
            stats: None,
            is_settled: false,
        }
    }

    /// When it arrived.
    pub fn arrived(&self) -> Instant {
        self.arrived
    }

    /// The counters of the service that it went to last.
    pub fn stats(&self) -> Option<&Arc<Padded<ServiceStats>>> {
        self.stats.as_ref()
    }

    fn begin(&mut self, stats: &Arc<Padded<ServiceStats>>) {
        stats.requests.add_one();
        self.stats = Some(Arc::clone(stats));
    }

    #[cold]
    fn fell_back(&mut self) {
        if let Some(stats) = &self.stats {
            stats.fallbacks.add_one();
        }
    }

    #[cold]
    fn failed(&mut self, error: &CallError) {
        self.is_settled = true;
        if let Some(stats) = &self.stats {
            match error {
                // Its client broke it off.
                CallError::BodyBroke(_) => stats.abandoned.add_one(),
                _ => stats.failed.add_one(),
            }
        }
    }

    /// Its answer goes out with this status, whose head was there then.
    pub fn answered(&mut self, status: StatusCode, at: Instant) {
        self.is_settled = true;
        if let Some(stats) = &self.stats {
            stats.answers[StatusClass::of(status).index()].add_one();
            let took = at.saturating_duration_since(self.arrived);
            stats.duration.observe(took);
        }
    }
}

impl Drop for RequestCount {
    fn drop(&mut self) {
        if !self.is_settled
            && let Some(stats) = &self.stats
        {
            stats.abandoned.add_one();
        }
    }
}
