//! When a certificate is ordered: decisions that change nothing. Times are Unix times in seconds.

/// The times at which a certificate begins and ends to hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Validity {
    pub(super) from: i64,
    pub(super) until: i64,
}

impl Validity {
    fn lifetime(self) -> i64 {
        self.until.saturating_sub(self.from).max(0)
    }
}

/// When the authority would have a certificate renewed (RFC 9773 4.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Window {
    pub(super) from: i64,
    pub(super) until: i64,
}

const MINUTE: i64 = 60;
const HOUR: i64 = 60 * MINUTE;

/// After the first failure. Doubled each time, there are five within an hour, which Let's Encrypt allows
/// for a name.
const FIRST: i64 = 2 * MINUTE;
/// At most.
const LONGEST: i64 = 12 * HOUR;
/// The longest that the authority's `Retry-After` is honoured: more would be a mistake of its.
const LONGEST_ASKED: i64 = 7 * 24 * HOUR;

/// When a certificate is renewed: at a moment of the window, else when two thirds of its lifetime are over,
/// and up to a thirtieth more. `luck`, between 0 and 1, has proxies and names not come all together.
pub(super) fn renewal(validity: Validity, window: Option<Window>, luck: f64) -> i64 {
    let part = |of: i64| (of.max(0) as f64 * luck) as i64;
    match window {
        // Not too late to try again, whatever the authority says.
        Some(window) => {
            let at = window.from + part(window.until.saturating_sub(window.from));
            at.min(validity.until - validity.lifetime() / 10)
        }
        None => {
            let lifetime = validity.lifetime();
            validity.from + lifetime / 3 * 2 + part(lifetime / 30)
        }
    }
}

/// When the next order is made at the earliest, however soon a certificate that was just issued is to be
/// renewed: a clock that goes wrong is no reason to order without end.
pub(super) fn after_success(now: i64, validity: Validity) -> i64 {
    now + (validity.lifetime() / 10).min(HOUR)
}

/// When the next order is made after so many failures in a row, of which the last asked for a time. `luck`
/// adds up to a tenth.
pub(super) fn after_failure(now: i64, failures: u32, asked: Option<i64>, luck: f64) -> i64 {
    let doubled = FIRST.saturating_mul(1 << failures.saturating_sub(1).min(16));
    let pause = doubled.min(LONGEST);
    let pause = pause + (pause as f64 / 10.0 * luck) as i64;
    now + pause.max(asked.unwrap_or(0).min(LONGEST_ASKED))
}

/// When the account is used again after so many failures in a row that concern it. A limit may be of one
/// name though the authority does not say so: the other names wait an hour at most, and the name itself as long
/// as it was asked to.
pub(super) fn after_account_failure(now: i64, failures: u32, asked: Option<i64>, luck: f64) -> i64 {
    let at = after_failure(now, failures, asked, luck);
    at.min(now + HOUR)
}

/// A time to wait for, unless it is further off than any pause: then it was written by a clock that was wrong.
pub(super) fn believed(at: i64, now: i64) -> i64 {
    let longest = LONGEST_ASKED + LONGEST_ASKED / 10;
    if at > now.saturating_add(longest) {
        0
    } else {
        at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: i64 = 24 * HOUR;

    #[test]
    fn a_certificate_is_renewed_when_the_authority_says_or_after_two_thirds_of_its_lifetime() {
        let of_90_days = Validity {
            from: 1000 * DAY,
            until: 1090 * DAY,
        };
        let window = Window {
            from: 1010 * DAY,
            until: 1014 * DAY,
        };
        let late = Window {
            from: 2000 * DAY,
            until: 2001 * DAY,
        };
        for (window, luck, day) in [
            (None, 0.0, 1060),
            (None, 1.0, 1063),
            (Some(window), 0.0, 1010),
            (Some(window), 0.5, 1012),
            (Some(late), 0.5, 1081),
        ] {
            let at = renewal(of_90_days, window, luck);
            assert_eq!(at, day * DAY, "{window:?} {luck}");
        }
        assert_eq!(after_success(7, of_90_days), 7 + HOUR);
        let short = Validity { from: 0, until: 60 };
        assert_eq!(
            (renewal(short, None, 0.0), after_success(7, short)),
            (40, 13)
        );
    }

    #[test]
    fn failures_stay_within_five_an_hour_and_come_seldom_at_last() {
        let (mut now, mut times) = (0, vec![0]);
        for failures in 1..30 {
            now = after_failure(now, failures, None, 0.0);
            times.push(now);
        }
        for (place, at) in times.iter().enumerate() {
            let within = times[place..].iter().filter(|other| **other < at + HOUR);
            assert!(within.count() <= 5, "{at}");
        }
        assert_eq!(times[29] - times[28], LONGEST);
        assert_eq!(after_failure(0, 1, None, 1.0), FIRST + FIRST / 10);
        assert_eq!(after_failure(0, 1, Some(DAY), 0.0), DAY);
        assert_eq!(after_failure(0, 1, Some(400 * DAY), 0.0), LONGEST_ASKED);
        assert_eq!(after_account_failure(0, 1, None, 0.0), FIRST);
        assert_eq!(after_account_failure(0, 1, Some(7 * DAY), 0.0), HOUR);
        assert_eq!(after_account_failure(0, 29, None, 1.0), HOUR);
    }

    #[test]
    fn a_pause_that_a_wrong_clock_has_written_is_over() {
        let year = 365 * DAY;
        for (at, found) in [
            (0, 0),
            (year + DAY, year + DAY),
            (year + LONGEST_ASKED, year + LONGEST_ASKED),
            (year + 8 * DAY, 0),
            (10 * year, 0),
            (i64::MAX, 0),
        ] {
            assert_eq!(believed(at, year), found, "{at}");
        }
    }
}
