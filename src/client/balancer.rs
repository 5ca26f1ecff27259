//! Which of a service's endpoints is next, for programs that speak another protocol than HTTP.

use std::sync::Arc;

use tokio::time::Instant;

use super::{Error, held::HeldService};
use crate::{
    instance::Address,
    service::{Detector, WorkerEndpoint},
    upstream::InFlight,
};

/// go-kit's `Balancer`: picks endpoints as the service's `balance` says, in one order with the
/// requests that are sent to it. There is no request to have a key or a cookie: `hash` picks anyone,
/// and `sticky` whom its `fallback` says.
#[derive(Clone, Debug)]
pub struct Balancer(HeldService);

impl Balancer {
    pub(super) fn new(held: HeldService) -> Self {
        Self(held)
    }

    /// The endpoint whose turn it is. Waits for the first list, up to the service's
    /// `discovery_timeout`.
    ///
    /// # Errors
    /// Where the service has no endpoint that can be called, or no registry could be read yet.
    pub async fn endpoint(&self) -> Result<Picked, Error> {
        let now = self.0.until_read(Instant::now()).await?;
        let (service, slot) = (&self.0.service, self.0.slot());
        let (view, tally) = (service.main(), &service.stats(slot).tally);
        let picked = view.pick(slot, view.turn(None, tally, now), tally, now);
        let line = picked.ok_or_else(|| Error::NoEndpoints {
            service: Arc::clone(service.name()),
        })?;
        Ok(Picked {
            held: self.0.clone(),
            slot,
            began: now,
            in_flight: line.pool().enter(),
            line,
        })
    }
}

/// An endpoint that is called. It counts as in flight there until this is dropped.
#[derive(Debug)]
pub struct Picked {
    held: HeldService,
    slot: usize,
    began: Instant,
    line: Arc<WorkerEndpoint>,
    /// Counts until it is dropped.
    in_flight: InFlight,
}

impl Picked {
    /// Where it is called.
    pub fn address(&self) -> &Address {
        self.in_flight.pool().address()
    }

    /// Whether the registry has dropped it in the meantime: time to pick another.
    pub fn is_removed(&self) -> bool {
        self.in_flight.pool().is_retired()
    }

    /// Says that it has taken a connection: it is trusted again.
    pub fn connected(&self) {
        self.line.has_served(self.began);
    }

    /// Says that it has taken none: it is passed over for a while where there are others, and then
    /// tried again, by this and by all others who call the service.
    pub fn refused(&self) {
        self.in_flight.pool().failures.add_one();
        let service = &self.held.service;
        let detector = Detector::new(service, service.main(), self.slot);
        detector.note_refusal(&self.line, self.began);
    }
}
