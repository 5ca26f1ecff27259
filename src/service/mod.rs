//! A service: a name, a policy, and the endpoints that its registry says it has. Requests read
//! its snapshot without a lock; the registry's events replace the snapshot. Knows nothing of
//! clients or routes, or of what a head says.

mod balance;
mod board;
mod budget;
mod call;
mod directory;
mod endpoint;
mod guard;
mod lane;
mod listing;
mod maker;
mod one;
mod replay;
mod snapshot;
mod status;
mod tagged;

pub use balance::{Asked, BalanceStatus, Balancer, Tally, Turn};
pub use budget::Budget;
pub use call::{Answered, Attempt, Attempts, Head, Unanswered};
pub use directory::{Directory, Lookup};
pub use endpoint::{Endpoint, EndpointId, EndpointState};
pub use lane::{Lane, StatusClass};
pub use listing::Difference;
pub use maker::StartError;
pub use one::Service;
pub use replay::{Kept, Replay};
pub use snapshot::Snapshot;
pub use status::{EndpointStatus, ServiceStatus};
pub use tagged::{Quarantined, Tagged, TaggedRoute};

use std::time::Duration;

/// A service that nobody lists any more, and that has no endpoint, is still known (503, not 404)
/// for this long: a deploy may leave a moment without any.
const LINGER: Duration = Duration::from_secs(60);
