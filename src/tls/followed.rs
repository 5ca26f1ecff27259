//! Files that are read again when they change. What stands in them is used if it can be; else what was
//! there before still is.

use std::{
    sync::{
        Arc,
        mpsc::{self, RecvTimeoutError},
    },
    thread,
    time::{Duration, SystemTime},
};

use super::pem::TlsError;

/// How often it is looked whether a file has changed.
const PACE: Duration = Duration::from_secs(1);

/// What is known of files that are read again when they change.
pub(super) struct Followed<S> {
    /// None where they could not be read, which is tried again.
    stamps: Option<S>,
    /// Why what stands in them is not used.
    error: Option<String>,
}

/// What came of a look at files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// Nothing that was not known.
    None,
    /// They cannot be used, for a reason that was not there before.
    Refused,
    /// What stands in them now is used from now on.
    Taken,
}

impl<S: PartialEq> Followed<S> {
    pub(super) fn new(stamps: S) -> Self {
        Self {
            stamps: Some(stamps),
            error: None,
        }
    }

    /// Whether the files are others now.
    pub(super) fn have_changed(&mut self, stamps: S) -> bool {
        let before = self.stamps.replace(stamps);
        before != self.stamps
    }

    /// What stands in them is used.
    pub(super) fn take(&mut self) -> Change {
        self.error = None;
        Change::Taken
    }

    /// Notes why they cannot be used.
    pub(super) fn refuse(&mut self, error: &TlsError) -> Change {
        if matches!(error, TlsError::Read { .. }) {
            self.stamps = None;
        }
        let why = Some(error.to_string());
        if self.error == why {
            return Change::None;
        }
        self.error = why;
        Change::Refused
    }

    /// Why they cannot be used.
    pub(super) fn error(&self) -> Option<&String> {
        self.error.as_ref()
    }
}

/// A thread that looks at files until this is dropped. It is none of a runtime's, since a runtime ends when
/// all of its threads do: a file system that does not answer holds this thread, and nothing else.
#[derive(Debug)]
pub(super) struct Follower {
    _alive: mpsc::Sender<()>,
}

impl Follower {
    /// Has `look` be called every second, for as long as the owner is there.
    ///
    /// # Errors
    /// Where the system gives no thread.
    pub(super) fn start<T: Send + Sync + 'static>(
        owner: &Arc<T>,
        look: fn(&T, SystemTime),
    ) -> Result<Self, TlsError> {
        let (alive, ended) = mpsc::channel();
        let owner = Arc::downgrade(owner);
        let looking = move || {
            while ended.recv_timeout(PACE) == Err(RecvTimeoutError::Timeout) {
                let Some(owner) = owner.upgrade() else { return };
                look(&owner, SystemTime::now());
            }
        };
        thread::Builder::new()
            .name("files".to_owned())
            .spawn(looking)
            .map_err(TlsError::Thread)?;
        Ok(Self { _alive: alive })
    }
}
