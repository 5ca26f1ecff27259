//! Of two endpoints, drawn at random, the one with fewer requests in flight, by its weight. Nearly
//! as even as looking at all of them, at a cost that does not grow with their number, and without
//! all who pick at the same moment picking the same one (Mitzenmacher, "The Power of Two Choices in
//! Randomized Load Balancing", 2001).

use super::candidates::Candidates;
use crate::service::Endpoint;

/// How often two are drawn where both are passed over.
const DRAWS: usize = 4;

pub(super) fn pick(among: &Candidates<'_, impl Fn(&Endpoint) -> bool>) -> Option<usize> {
    let loads = among.loads();
    of_two(among, |a, b| loads[a].is_busier_than(&loads[b]))
}

/// Draws two, and picks the second where the first is worse.
pub(super) fn of_two(
    among: &Candidates<'_, impl Fn(&Endpoint) -> bool>,
    is_worse: impl Fn(usize, usize) -> bool,
) -> Option<usize> {
    if among.count() == 1 {
        return among.takes(0).then_some(0);
    }
    let order = &among.snapshot.tables.order;
    (0..DRAWS).find_map(|_| {
        let (a, b) = match order.is_empty() {
            true => two_of(among.count()),
            false => two_by_weight(order, among.count()),
        };
        let (better, other) = if is_worse(a, b) { (b, a) } else { (a, b) };
        [better, other]
            .into_iter()
            .find(|place| among.takes(*place))
    })
}

/// Two different places, each pair with the same likelihood, of one random number.
fn two_of(count: usize) -> (usize, usize) {
    let random = fastrand::u64(..);
    let first = below(random as u32, count);
    let second = below((random >> 32) as u32, count - 1);
    (first, second + usize::from(second >= first))
}

/// The same where each place stands in an order as often as its weight asks: drawn like any other, a
/// heavy one would never get more than its part of the pairs.
fn two_by_weight(order: &[u32], count: usize) -> (usize, usize) {
    let random = fastrand::u64(..);
    let [first, second] = [random as u32, (random >> 32) as u32]
        .map(|random| order[below(random, order.len())] as usize);
    if first == second {
        let other = fastrand::usize(..count - 1);
        return (first, other + usize::from(other >= first));
    }
    (first, second)
}

fn below(random: u32, count: usize) -> usize {
    ((u64::from(random) * count as u64) >> 32) as usize
}
