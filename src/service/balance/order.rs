//! In which order endpoints have their turns where some have more than others: each stands in a
//! round as often as its weight asks, as evenly spread as can be (the order in which the ends of
//! equal parts of the round fall due: earliest deadline first, as in Envoy's weighted round robin).
//! Knows nothing of who the endpoints are.

/// The longest round: with finer weights than it can show, the small ones are rounded up.
const LONGEST: u64 = 16_384;

/// The places of the endpoints, as often as each has a turn; empty where all have as many.
pub(in crate::service) fn order(weights: &[u32]) -> Box<[u32]> {
    let Some(first) = weights.first() else {
        return Box::default();
    };
    if weights.iter().all(|weight| weight == first) {
        return Box::default();
    }
    let turns = turns(weights);
    let mut due: Vec<(f64, u32)> = std::iter::zip(&turns, 0..)
        .flat_map(|(turns, place)| {
            let part = 1.0 / *turns as f64;
            (0..*turns).map(move |turn| ((turn as f64 + 0.5) * part, place))
        })
        .collect();
    due.sort_by(|(a, p), (b, q)| a.total_cmp(b).then(p.cmp(q)));
    due.into_iter().map(|(_, place)| place).collect()
}

/// The weights as turns of one round.
fn turns(weights: &[u32]) -> Vec<u64> {
    let weights = weights.iter().map(|weight| u64::from(*weight).max(1));
    let weights: Vec<_> = weights.collect();
    let divisor = weights.iter().copied().reduce(common_divisor).unwrap_or(1);
    let sum: u64 = weights.iter().map(|weight| weight / divisor).sum();
    let scaled = |weight: u64| {
        let turns = weight / divisor;
        if sum <= LONGEST {
            turns
        } else {
            (turns * LONGEST / sum).max(1)
        }
    };
    weights.into_iter().map(scaled).collect()
}

fn common_divisor(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { common_divisor(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(weights: &[u32]) -> Vec<usize> {
        let order = order(weights);
        (0..weights.len() as u32)
            .map(|place| order.iter().filter(|at| **at == place).count())
            .collect()
    }

    #[test]
    fn each_has_as_many_turns_as_its_weight_asks() {
        assert_eq!(counts(&[5, 1, 1]), [5, 1, 1]);
        assert_eq!(counts(&[9990, 10]), [999, 1]);
        assert_eq!(counts(&[2, 4, 6]), [1, 2, 3]);
    }

    #[test]
    fn equal_weights_need_no_order() {
        for weights in [&[][..], &[7], &[3, 3, 3]] {
            assert!(order(weights).is_empty());
        }
    }

    #[test]
    fn the_turns_of_one_are_spread_over_the_round() {
        assert_eq!(*order(&[5, 1, 1]), [0, 0, 0, 1, 2, 0, 0]);
        let mut random = fastrand::Rng::with_seed(3);
        for _ in 0..200 {
            let weights: Vec<_> = (0..random.usize(2..8)).map(|_| random.u32(1..50)).collect();
            let order = order(&weights);
            let turns = turns(&weights);
            for (place, turns) in std::iter::zip(0.., turns) {
                // In any part of the round it has its share, give or take one turn.
                for length in 1..order.len() {
                    let had = order[..length].iter().filter(|at| **at == place).count();
                    let due = turns as f64 * length as f64 / order.len() as f64;
                    assert!(
                        (had as f64 - due).abs() < weights.len() as f64,
                        "{weights:?}: {had} of {due} in {length}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_round_is_never_too_long_and_leaves_nobody_out() {
        let weights: Vec<u32> = (1..=1000).map(|n| n * 65).collect();
        let order = order(&weights);
        assert!(order.len() as u64 <= LONGEST + 1000, "{}", order.len());
        assert!(counts(&weights).iter().all(|turns| *turns >= 1));
    }
}
