//! Anyone: every endpoint with the same likelihood, whatever others do. Proxies that know nothing of
//! each other do not fall in step.

use super::candidates::Candidates;
use crate::service::Endpoint;

/// How often another is drawn where one is passed over, before all are looked at in a row: who
/// stands behind those would be drawn more often than others.
const DRAWS: usize = 4;

pub(super) fn pick(among: &Candidates<'_, impl Fn(&Endpoint) -> bool>) -> Option<usize> {
    let mut drawn = (0..DRAWS).map(|_| fastrand::usize(..among.count()));
    drawn.find(|place| among.takes(*place))
}
