//! What has all names of an account wait: a failure that the next name would meet as well, a folder that takes
//! nothing, or a lock that another process does not let go of. Knows nothing of orders.

use std::{path::Path, time::Duration};

use tokio::time::Instant;

use super::{
    schedule::{after_account_failure, believed},
    store::{LONGEST, Pause},
};

/// How long after a folder took nothing it is tried again. No authority is asked for that.
const FOLDER_AGAIN: Duration = Duration::from_secs(5);

/// How long another process may have the lock until that is said: one that orders lets go of it between
/// orders.
const LOCKED: Duration = Duration::from_secs(2 * LONGEST.as_secs());

/// See the module.
pub(super) struct Pauses {
    directory: String,
    /// That of the account, as the folder has it.
    account: Option<Pause>,
    /// Why the folder takes nothing, where it does not, and when it is tried again.
    obstacle: Option<(String, Instant)>,
    /// Since when another process has the lock, and something is due here.
    locked: Option<Instant>,
}

impl Pauses {
    /// Of an account at this directory.
    pub(super) fn new(directory: &str) -> Self {
        Self {
            directory: directory.to_owned(),
            account: None,
            obstacle: None,
            locked: None,
        }
    }

    /// Whether all names wait.
    pub(super) fn is_waiting(&self, now: i64) -> bool {
        let obstacle = self.obstacle.as_ref();
        self.until(now) > now || obstacle.is_some_and(|(_, until)| *until > Instant::now())
    }

    /// Until when the account is not used, in Unix time.
    pub(super) fn until(&self, now: i64) -> i64 {
        self.own()
            .map_or(0, |pause| believed(pause.not_before, now))
    }

    /// That of this account; the folder may have one of another.
    fn own(&self) -> Option<&Pause> {
        let pause = self.account.as_ref();
        pause.filter(|pause| pause.directory == self.directory)
    }

    /// Takes over what the folder has. Returns whether that is another than before.
    pub(super) fn follow(&mut self, pause: Option<Pause>) -> bool {
        let is_another = self.account != pause;
        self.account = pause;
        is_another
    }

    /// The pause after one more failure, of which the authority asked for a time.
    pub(super) fn longer(&self, now: i64, asked: Option<i64>) -> Pause {
        let failures = self.own().map_or(0, |before| before.failures);
        let failures = failures.saturating_add(1);
        Pause {
            directory: self.directory.clone(),
            failures,
            not_before: after_account_failure(now, failures, asked, fastrand::f64()),
        }
    }

    /// Waits for a folder that takes nothing. That is no failure of an order: no authority was asked.
    pub(super) fn obstructed(&mut self, words: String) {
        let before = self.obstacle.as_ref();
        if before.is_none_or(|(before, _)| *before != words) {
            tracing::warn!(error = words, "no certificate can be ordered");
        }
        self.obstacle = Some((words, Instant::now() + FOLDER_AGAIN));
    }

    /// The folder takes what is written.
    pub(super) fn unobstructed(&mut self) {
        self.obstacle = None;
    }

    /// What is in the way of names that are due.
    pub(super) fn obstacle(&self) -> Option<&str> {
        self.obstacle.as_ref().map(|(words, _)| &**words)
    }

    /// Another process has the folder's lock though something is due here. That is as it should be, unless it
    /// does not let go of it.
    pub(super) fn locked(&mut self, folder: &Path) {
        let since = *self.locked.get_or_insert_with(Instant::now);
        if since.elapsed() >= LOCKED {
            let minutes = LOCKED.as_secs() / 60;
            let file = folder.join("lock");
            self.obstructed(format!(
                "another process has {} locked for more than {minutes} minutes",
                file.display()
            ));
        }
    }

    /// Nothing is due, or this process has the lock.
    pub(super) fn unlocked(&mut self) {
        self.locked = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_lock_that_another_process_never_lets_go_of_is_said() {
        let mut pauses = Pauses::new("https://own/directory");
        let folder = Path::new("/own");
        pauses.locked(folder);
        tokio::time::advance(LOCKED / 2).await;
        pauses.locked(folder);
        assert_eq!(pauses.obstacle(), None);
        // It was free meanwhile.
        pauses.unlocked();
        pauses.locked(folder);
        tokio::time::advance(LOCKED / 2).await;
        pauses.locked(folder);
        assert_eq!(pauses.obstacle(), None);
        tokio::time::advance(LOCKED / 2).await;
        pauses.locked(folder);
        let words = "another process has /own/lock locked for more than 20 minutes";
        assert_eq!(pauses.obstacle(), Some(words));
        assert!(pauses.is_waiting(0));
        tokio::time::advance(FOLDER_AGAIN).await;
        assert!(!pauses.is_waiting(0), "it is tried again");
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_of_another_account_is_none() {
        let mut pauses = Pauses::new("https://own/directory");
        let own = pauses.longer(0, None);
        assert!(pauses.follow(Some(own.clone())));
        assert!(!pauses.follow(Some(own.clone())));
        assert!(pauses.is_waiting(0));
        assert_eq!(pauses.longer(0, None).failures, 2);
        let other = Pause {
            directory: "https://other/directory".to_owned(),
            ..own
        };
        pauses.follow(Some(other));
        assert!(!pauses.is_waiting(0));
        assert_eq!(pauses.longer(0, None).failures, 1);
    }
}
