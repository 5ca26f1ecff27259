//! What the admin server knows of upgrades. Knows nothing of how one is done.

use std::{path::PathBuf, process::ExitStatus, time::Duration};

use futures_util::future::BoxFuture;

/// How long a new process may take to get ready where nothing is said of it.
pub const WITHIN: Duration = Duration::from_secs(30);

/// What has a new process take this one's place.
pub trait Upgrade: Send + Sync {
    /// Starts the binary that stands at this process's path, and drains when that one serves. It has so
    /// long to get ready, with a reload that has to be over before. Where pins, drains, weights or shares would
    /// end with this process, only if it is forced.
    fn upgrade(
        &self,
        within: Duration,
        is_forced: bool,
    ) -> BoxFuture<'static, Result<Upgraded, UpgradeError>>;

    /// How many have come to nothing.
    fn failed(&self) -> u64;
}

/// A process that has taken this one's place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upgraded {
    /// Its process id.
    pub pid: u32,
    /// How long it took until it served.
    pub took: Duration,
    /// Services that were pinned: pins end with this process.
    pub unpinned: Vec<String>,
    /// Endpoints that were drained, each behind its service: drains end with this process.
    pub undrained: Vec<String>,
    /// Endpoints that had another weight for a while, each behind its service: they have their own again.
    pub unweighed: Vec<String>,
    /// Routes whose shares were others than the file's: these hold again in the new one.
    pub shares_reset: Vec<String>,
}

/// Why this process goes on.
#[derive(Debug, thiserror::Error)]
pub enum UpgradeError {
    /// It is no process that can be started again.
    #[error("it was not started as a binary of its own: start another one")]
    NoProgram,
    /// Its end is the container's.
    #[error(
        "it is process 1, whose end is the end of its container: start a container with the new binary"
    )]
    First,
    /// A supervisor would take its end for the service's.
    #[error("{0} takes the end of this process for the end of the service: {1}")]
    Followed(String, &'static str),
    /// It is on its way out.
    #[error("this proxy is on its way out")]
    Draining,
    /// There is an upgrade already.
    #[error("an upgrade is under way already")]
    UnderWay,
    /// The system refuses it.
    #[error("cannot start {path}: {1}", path = .0.display())]
    Start(PathBuf, std::io::Error),
    /// The new process has ended.
    #[error("the new process has ended with {0} before it was ready")]
    Ended(ExitStatus),
    /// The new process has said why it cannot start.
    #[error("the new process cannot start: {0}")]
    Refused(String),
    /// The new process was not ready in time.
    #[error("the new process was not ready within {0:?}")]
    Late(Duration),
    /// The new process has not opened the embedded registry's state.
    #[error("the new process has not opened the embedded registry's file within {0:?}")]
    Unopened(Duration),
    /// A reload was not over in time.
    #[error("a reload was under way, which was not over within {0:?}")]
    Reloading(Duration),
    /// So many processes before this one have requests still.
    #[error("{0} processes before this one drain still: upgrade when one of them is gone")]
    Crowded(usize),
    /// What was changed for a while would end with this process.
    #[error("with this process would end: {}; end them first, or force it", some(.0))]
    Holds(Vec<String>),
    /// The new process lacks what this one does not lack.
    #[error("the new process could not read {}", some(.0))]
    Unread(Vec<String>),
    /// This process was told to end meanwhile.
    #[error("this proxy was told to end meanwhile")]
    GivenUp,
    /// The system has not passed on what the new process is to have.
    #[error("the new process cannot be told: {0}")]
    Untold(std::io::Error),
    /// The new process neither ends nor goes on.
    #[error("the new process has let go of this one, and does not end")]
    Left,
    /// What was to do it has failed.
    #[error("the upgrade broke off: {0}")]
    BrokenOff(String),
    /// The two do not understand each other.
    #[error("the new process does not go about it as this one does: {0}")]
    Misunderstood(String),
}

impl UpgradeError {
    /// Whether the new process is not at fault, nor this one: where none was begun, or it was given up for what
    /// was changed meanwhile.
    pub fn is_refusal(&self) -> bool {
        matches!(
            self,
            Self::NoProgram
                | Self::First
                | Self::Followed(..)
                | Self::Draining
                | Self::UnderWay
                | Self::Reloading(_)
                | Self::Crowded(_)
                | Self::Holds(_)
        )
    }
}

/// The first of many names, and how many more there are.
fn some(names: &[String]) -> String {
    const SHOWN: usize = 20;
    let shown = names[..names.len().min(SHOWN)].join(", ");
    match names.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_many_names_the_first_are_said_and_how_many_there_are_more() {
        let names: Vec<_> = (0..3_000).map(|n| format!("service s{n}")).collect();
        let said = UpgradeError::Unread(names).to_string();
        assert!(said.contains("service s19 and 2980 more"), "{said}");
        let said = UpgradeError::Unread(vec!["service a".into(), "service b".into()]).to_string();
        assert!(
            said.ends_with("could not read service a, service b"),
            "{said}"
        );
    }
}

#[cfg(test)]
pub(super) mod testing {
    use super::*;

    /// Of a proxy that has no binary of its own.
    pub(in crate::admin) struct Never;

    impl Upgrade for Never {
        fn upgrade(
            &self,
            _: Duration,
            _: bool,
        ) -> BoxFuture<'static, Result<Upgraded, UpgradeError>> {
            Box::pin(async { Err(UpgradeError::NoProgram) })
        }

        fn failed(&self) -> u64 {
            0
        }
    }
}
