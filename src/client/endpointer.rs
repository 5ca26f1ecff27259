//! What a service's endpoints are, with the state that each keeps for as long as it is listed.

use tokio::time::Instant;

use super::{Error, held::HeldService};
use crate::service::{EndpointState, EndpointStatus, ServiceStatus};

/// go-kit's `Endpointer`: whom a service's registries list, merged as its `combine` says. An
/// endpoint that stays in the list keeps its connections, its counters and its doubts, whatever
/// changes around it; where registries fail, the last list stays.
#[derive(Clone, Debug)]
pub struct Endpointer(HeldService);

impl Endpointer {
    pub(super) fn new(held: HeldService) -> Self {
        Self(held)
    }

    /// Those that may be called now, in the order of their identities. Waits for the first list, up
    /// to the service's `discovery_timeout`.
    ///
    /// # Errors
    /// Where no registry could be read yet: that is not an empty list.
    pub async fn endpoints(&self) -> Result<Vec<EndpointStatus>, Error> {
        self.0.until_read(Instant::now()).await?;
        let mut endpoints = self.status().endpoints;
        endpoints.retain(|endpoint| match endpoint.state {
            EndpointState::Serving
            | EndpointState::Warming
            | EndpointState::Doubted
            | EndpointState::Ejected
            | EndpointState::Held => true,
            EndpointState::Unhealthy
            | EndpointState::Failing
            | EndpointState::Maintenance
            | EndpointState::Draining => false,
        });
        Ok(endpoints)
    }

    /// All of them, and how the watchers stand.
    pub fn status(&self) -> ServiceStatus {
        ServiceStatus::of(&self.0.service)
    }
}
