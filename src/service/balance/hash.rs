//! The endpoint that a request's key leads to, by the snapshot's ring. With a bound (Mirrokni,
//! Thorup and Zadimoghaddam, "Consistent Hashing with Bounded Loads", 2016) none has more in flight
//! than so many times its share of all: what is beyond goes to the key's next choice. A request
//! without the key goes to anyone.

use super::{
    candidates::Candidates,
    digest::mix,
    key::{self, RequestInfo},
    random,
    stats::BalanceStats,
};
use crate::{
    config::{self, HashKey},
    service::Endpoint,
};

/// How many choices a key has. Each is any endpoint, by its weight; that so many in a row cannot be
/// picked says that next to none can.
const CHOICES: usize = 64;

/// What the key is, and the bound.
#[derive(Debug)]
pub struct Hash {
    by: HashKey,
    load: Option<f64>,
}

impl Hash {
    pub(super) fn new(settings: &config::Hash) -> Self {
        Self {
            by: settings.by.clone(),
            load: settings.load,
        }
    }

    pub(super) fn key(&self, asked: &dyn RequestInfo) -> Option<u64> {
        key::of(&self.by, asked)
    }

    pub(super) fn pick(
        &self,
        key: Option<u64>,
        among: &Candidates<'_, impl Fn(&Endpoint) -> bool>,
        tally: &BalanceStats,
    ) -> Option<usize> {
        let Some(mut choice) = key else {
            return random::pick(among);
        };
        for n in 0..CHOICES {
            let place = among.snapshot.tables.ring.at(choice);
            if !self.has_room(place, among) {
                if n == 0 {
                    tally.overflowed.add_one();
                }
            } else if among.takes_asked(place) {
                return Some(place);
            }
            choice = mix(choice);
        }
        None
    }

    fn has_room(&self, place: usize, among: &Candidates<'_, impl Fn(&Endpoint) -> bool>) -> bool {
        let Some(load) = self.load else { return true };
        let one = &among.loads()[place];
        let with_this = (one.load.of_all() + 1) as f64;
        // A whole number is below the share exactly where it is below the share rounded up.
        let weights = among.snapshot.tables.weights as f64;
        one.load.in_flight() as f64 * weights < load * with_this * f64::from(one.weight)
    }
}
