//! A service: a name, a policy, and the endpoints that its registry says it has. Requests read
//! its snapshot without a lock; the registry's events replace the snapshot. Knows nothing of
//! clients or routes, or of what a head says.

mod attempts;
mod balance;
mod board;
mod budget;
mod call;
mod checks;
mod directory;
mod ejection;
mod elsewhere;
mod endpoint;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod guard;
mod inquiry;
mod journal;
mod keep;
mod lane;
mod life;
mod limits;
mod listing;
mod maker;
mod one;
mod outlier;
mod pin;
mod prober;
mod remember;
mod replay;
mod seating;
mod silence;
mod snapshot;
mod split;
mod standing;
mod status;
mod tagged;
mod terms;
mod told;
mod tried;
mod view;

pub use attempts::{Attempt, Attempts};
pub use balance::{
    Asked, BalanceStatus, Balancer, Tally, Turn, ZoneStatus, client_digest, key_digest,
};
pub use budget::Budget;
pub use call::{Answered, Head, Unanswered};
pub use directory::{Directory, Lookup};
pub use endpoint::{Endpoint, EndpointId, Line};
pub use journal::{Change, EntryStatus, Why};
pub use keep::keep;
pub use lane::{Lane, StatusClass};
pub use life::{Doubt, Ejection, EndpointState};
pub use limits::{LimitsStatus, Seat, Shed};
pub use listing::Difference;
pub use maker::StartError;
pub use one::Service;
pub use outlier::Heard;
pub use pin::{LONGEST_PIN, PinError, PinStatus};
pub use prober::Checkup;
pub use replay::{Keep, Kept, Replay};
pub use snapshot::Snapshot;
pub use split::{Share, Split};
pub use status::{EndpointStatus, HeldStatus, Latency, Remembered, ServiceStatus, ViewStatus};
pub use tagged::{Quarantined, Tagged, TaggedRoute};
pub use terms::{Terms, within};
pub use view::View;
