//! Of two endpoints, drawn at random, the one whose next answer is expected sooner: by its latency,
//! which is that of its slow answers rather than its mean, times the requests in flight there, and
//! by its weight. As in Finagle's and Linkerd's `PeakEwma`; the latency is kept in
//! `upstream/load.rs`.

use super::{candidates::Candidates, p2c};
use crate::service::Endpoint;

pub(super) fn pick(among: &Candidates<'_, impl Fn(&Endpoint) -> bool>) -> Option<usize> {
    let loads = among.loads();
    p2c::of_two(among, |a, b| loads[a].is_slower_than(&loads[b]))
}
