//! What balancers count, on one worker.

use crate::metrics::Counter;

/// What is unusual of the picks.
#[derive(Debug, Default)]
pub struct BalanceStats {
    /// Requests without the key that `hash` asks for.
    pub keyless: Counter,
    /// Picks whose key's endpoint had as much in flight as `load` allows: a request picks anew for
    /// each retry, and whenever it has waited for room.
    pub overflowed: Counter,
    /// Clients that were given another cookie than they had.
    pub moved: Counter,
    /// Answers by endpoints in the proxy's own zone, where that comes first.
    pub local: Counter,
    /// Answers by others then.
    pub other: Counter,
}
