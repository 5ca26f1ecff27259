//! Checks that the proxy makes of endpoints itself, and what they find.

pub(crate) mod elsewhere;
pub(crate) mod follow;
pub(crate) mod prober;
pub(super) mod refusals;
