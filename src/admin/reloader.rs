//! What the admin server knows of reloads. Knows nothing of how one is done.

use std::time::{Duration, SystemTime};

use futures_util::future::BoxFuture;

use crate::config::{Changes, Report};

/// What reloads the proxy.
pub trait Reload: Send + Sync {
    /// Reads the file again, and has what it says take the place of what runs; or, for a dry run,
    /// only says what would change.
    fn reload(&self, dry_run: bool) -> BoxFuture<'static, Result<Changes, ReloadError>>;

    /// What came of reloads until now.
    fn status(&self) -> ReloadStatus;
}

/// Why nothing was reloaded. What ran before goes on.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// The file has errors.
    #[error("{0}")]
    File(Report),
    /// The proxy was started without a file.
    #[error("this proxy was started without a file")]
    NoFile,
    /// It is on its way out.
    #[error("this proxy is on its way out")]
    Draining,
    /// A new binary is about to take its place.
    #[error("a new binary is about to take this process's place: try again")]
    Upgrading,
    /// It changes what only a restart can change.
    #[error("{0}")]
    Refused(String),
    /// What the file names cannot be used, such as a TLS file.
    #[error("{0}")]
    Failed(String),
}

/// What came of reloads.
#[derive(Clone, Debug, Default)]
pub struct ReloadStatus {
    /// Reloads after which the file ran.
    pub applied: u64,
    /// Those that changed nothing, since the file had errors.
    pub failed: u64,
    /// The latest of them.
    pub last: Option<LastReload>,
}

/// A reload.
#[derive(Clone, Debug)]
pub struct LastReload {
    /// When it was over.
    pub at: SystemTime,
    /// How long it took.
    pub took: Duration,
    /// Why nothing was reloaded, if so.
    pub error: Option<String>,
    /// What it changed.
    pub changes: Option<Changes>,
}

impl ReloadError {
    /// On one line, with the file's places.
    pub fn in_a_line(&self) -> String {
        match self {
            Self::File(report) => report.in_a_line(),
            other => other.to_string(),
        }
    }
}

#[cfg(test)]
pub(super) mod testing {
    use super::*;

    /// Of a proxy without a file.
    pub(in crate::admin) struct Never;

    impl Reload for Never {
        fn reload(&self, _: bool) -> BoxFuture<'static, Result<Changes, ReloadError>> {
            Box::pin(async { Err(ReloadError::NoFile) })
        }

        fn status(&self) -> ReloadStatus {
            ReloadStatus::default()
        }
    }
}
