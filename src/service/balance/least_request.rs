//! Of all endpoints the one with the fewest requests in flight, by its weight. It looks at each, so
//! that it costs more the more there are; where that counts, `p2c` comes close for much less. Where
//! several are equal, any of them: all proxies, and all workers, would send to the same one.

use super::candidates::Candidates;
use crate::service::Endpoint;

pub(super) fn pick(among: &Candidates<'_, impl Fn(&Endpoint) -> bool>) -> Option<usize> {
    let least = least(among, |place| among.wants(place))?;
    if among.takes(least) {
        return Some(least);
    }
    // It is passed over. Others may be too, and are so found.
    self::least(among, |place| among.takes(place))
}

fn least(
    among: &Candidates<'_, impl Fn(&Endpoint) -> bool>,
    takes: impl Fn(usize) -> bool,
) -> Option<usize> {
    let (loads, start) = (among.loads(), fastrand::usize(..among.count()));
    let mut least: Option<usize> = None;
    for place in (start..among.count()).chain(0..start) {
        let is_less = least.is_none_or(|least| loads[least].is_busier_than(&loads[place]));
        // Asked of those only that would be the least so far.
        if is_less && takes(place) {
            least = Some(place);
        }
    }
    least
}
