//! What a process knows of a name, and when its next certificate is ordered. Times are Unix times in seconds.

use super::{
    schedule::{Window, renewal},
    store::{Held, Stamps},
};

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
    pub(super) fn due_at(&self, directory: &str) -> i64 {
        let at = match &self.held.issued {
            Some(issued) if self.is_of(directory) => {
                renewal(issued.validity, self.window, self.luck)
            }
            _ => 0,
        };
        let last = self.held.last.as_ref();
        let last = last.filter(|last| last.directory == directory);
        at.max(last.map_or(0, |last| last.next))
    }

    /// Whether what there is, is of this directory, for all that is known.
    pub(super) fn is_of(&self, directory: &str) -> bool {
        let last = self.held.last.as_ref();
        let by = last.and_then(|last| last.issued_by.as_deref());
        by.is_none_or(|by| by == directory)
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            schedule::Validity,
            store::{Issued, LastOrder},
        },
        *,
    };

    const OWN: &str = "https://own/directory";

    fn known(issued_by: Option<&str>, failed_at: Option<&str>) -> Known {
        let validity = Validity { from: 0, until: 90 };
        Known {
            stamps: [None; 2],
            held: Held {
                issued: issued_by.map(|_| Issued {
                    validity,
                    der: Vec::new().into(),
                }),
                last: Some(LastOrder {
                    directory: failed_at.or(issued_by).unwrap_or_default().to_owned(),
                    issued_by: issued_by.map(str::to_owned),
                    failures: u32::from(failed_at.is_some()),
                    error: None,
                    next: 7,
                }),
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
            let due = known(issued_by, failed_at).due_at(OWN);
            assert_eq!(due, at, "{issued_by:?} {failed_at:?}");
        }
    }
}
