//! What a process knows of a name, and when its next certificate is ordered. Times are Unix times in seconds.

use super::{
    schedule::{Window, after_failure, believed, renewal},
    store::{Held, LastOrder, Stamps},
};

const DAY: i64 = 24 * 3600;

/// What is known of a name.
pub(super) struct Known {
    pub(super) stamps: Stamps,
    pub(super) held: Held,
    pub(super) window: Option<Window>,
    /// When the authority is asked for the window again.
    pub(super) ask_at: i64,
    /// Between 0 and 1, so that not all come together.
    pub(super) luck: f64,
}

impl Known {
    /// When the next certificate is ordered, of this directory.
    pub(super) fn due_at(&self, directory: &str, now: i64) -> i64 {
        let at = match &self.held.issued {
            Some(issued) if self.is_of(directory) => {
                renewal(issued.validity, self.window, self.luck)
            }
            _ => 0,
        };
        let last = self.held.last.as_ref();
        let last = last.filter(|last| last.directory == directory);
        at.max(last.map_or(0, |last| believed(last.next, now)))
    }

    /// What is ordered first of what is due: what has not failed before, so that a name whose proof hangs comes
    /// last; and of that what ends first. A name without a certificate comes after what ends within a day.
    pub(super) fn urgency(&self, directory: &str, now: i64) -> (u32, i64) {
        let issued = self.held.issued.as_ref();
        let issued = issued.filter(|_| self.is_of(directory));
        let ends = issued.map_or(now.saturating_add(DAY), |it| it.validity.until);
        (self.failures(directory), ends)
    }

    /// Orders in a row that have failed.
    fn failures(&self, directory: &str) -> u32 {
        let last = self.held.last.as_ref();
        let last = last.filter(|last| last.directory == directory);
        last.map_or(0, |last| last.failures)
    }

    /// Whether what there is, is of this directory. What was put there by hand is taken for it.
    pub(super) fn is_of(&self, directory: &str) -> bool {
        let issued = self.held.issued.as_ref();
        let by = issued.and_then(|issued| issued.by.as_deref());
        by.is_none_or(|by| by == directory)
    }

    /// An order that fails, or that is broken off: it is noted before it begins, so that a process that is
    /// ended again and again does not order each time.
    pub(super) fn failing(&self, directory: &str, at: Attempt) -> LastOrder {
        let failures = self.failures(directory).saturating_add(1);
        LastOrder {
            directory: directory.to_owned(),
            failures,
            error: at.error,
            next: after_failure(at.now, failures, at.asked, at.luck),
        }
    }
}

/// How an order went.
pub(super) struct Attempt {
    pub(super) now: i64,
    /// Seconds for which the authority would have the client stay away.
    pub(super) asked: Option<i64>,
    pub(super) luck: f64,
    /// `None` while it is under way.
    pub(super) error: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::{
        super::{schedule::Validity, store::Issued},
        *,
    };

    const OWN: &str = "https://own/directory";

    fn known(issued_by: Option<&str>, failed_at: Option<&str>) -> Known {
        let validity = Validity { from: 0, until: 90 };
        Known {
            stamps: [None; 2],
            held: Held {
                issued: issued_by.map(|by| Issued {
                    validity,
                    der: Vec::new().into(),
                    by: Some(by.to_owned()),
                }),
                last: Some(LastOrder {
                    directory: failed_at.or(issued_by).unwrap_or_default().to_owned(),
                    failures: u32::from(failed_at.is_some()),
                    error: None,
                    next: 7,
                }),
                unreadable: None,
            },
            window: None,
            ask_at: 0,
            luck: 0.0,
        }
    }

    #[test]
    fn what_another_authority_has_issued_is_ordered_anew_and_its_pauses_do_not_count() {
        for (issued_by, failed_at, at) in [
            (None, None, 0),
            (None, Some(OWN), 7),
            (None, Some("other"), 0),
            (Some(OWN), None, 60),
            (Some("other"), None, 0),
            (Some("other"), Some(OWN), 7),
        ] {
            let due = known(issued_by, failed_at).due_at(OWN, 0);
            assert_eq!(due, at, "{issued_by:?} {failed_at:?}");
        }
    }

    #[test]
    fn what_ends_first_is_ordered_first_and_what_fails_last() {
        // The certificate of each ends at 90.
        let mut all = [
            ("failing", known(None, Some(OWN)), 0),
            ("new", known(None, None), 0),
            ("staging's", known(Some("other"), None), 0),
            ("ending", known(Some(OWN), None), 0),
            ("long before its end", known(Some(OWN), None), -DAY),
        ];
        all.sort_by_key(|(_, known, now)| {
            let (failures, ends) = known.urgency(OWN, *now);
            (failures, ends - now)
        });
        assert_eq!(
            all.map(|(name, ..)| name),
            [
                "ending",
                "new",
                "staging's",
                "long before its end",
                "failing"
            ]
        );
    }

    #[test]
    fn another_authoritys_certificate_is_told_without_the_last_order() {
        let mut known = known(Some("other"), None);
        known.held.last = None;
        assert_eq!(known.due_at(OWN, 0), 0);
        assert!(!known.is_of(OWN));
        known.held.issued.as_mut().unwrap().by = None;
        assert_eq!(known.due_at(OWN, 0), 60, "it was put there by hand");
    }

    #[test]
    fn an_order_counts_from_its_beginning_and_another_authoritys_do_not_count() {
        let at = |error: Option<&str>| Attempt {
            now: 100,
            asked: None,
            luck: 0.0,
            error: error.map(str::to_owned),
        };
        let mut known = known(None, Some(OWN));
        let begun = known.failing(OWN, at(None));
        assert_eq!((begun.failures, begun.next), (2, 100 + 240));
        let failed = known.failing(OWN, at(Some("no")));
        assert_eq!((failed.failures, failed.next), (2, 100 + 240));
        known.held.last = Some(begun);
        assert_eq!(known.due_at(OWN, 100), 340, "it was broken off");
        assert_eq!(known.failing("other", at(None)).failures, 1);
    }
}
