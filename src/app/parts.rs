//! What runs beside the generation, and goes over to another file with it: the access log, what the
//! log of the process goes by, and who the admin server lets in. What can fail comes before anything changes.

use std::{io, sync::Arc};

use crate::{
    access_log::{AccessLog, AccessLogs},
    admin::{self, LogLevel, ReloadError},
    config::{Config, Log},
    control::access::Access,
    proxy::Worker,
    worker::Workers,
};

/// See the module.
pub(super) struct Parts {
    workers: Vec<Arc<Worker>>,
    access_logs: Arc<AccessLogs>,
    admin: admin::Control,
    pub(super) log: LogLevel,
}

/// What takes its place.
pub(super) struct OpenedParts {
    access_log: Option<Arc<AccessLog>>,
    admin: Access,
    log: Log,
}

impl Parts {
    /// Of a proxy that begins to serve.
    pub(super) fn of(
        workers: &Workers,
        access_logs: &Arc<AccessLogs>,
        admin: &admin::Server,
        log: &LogLevel,
    ) -> Self {
        Self {
            workers: workers.all().to_vec(),
            access_logs: Arc::clone(access_logs),
            admin: admin.control(),
            log: log.clone(),
        }
    }

    /// Whether it could go over to another file.
    ///
    /// # Errors
    /// Why not.
    pub(super) fn try_next(&self, next: &Config) -> Result<(), ReloadError> {
        let tried = self.access_logs.try_to_begin(next.access_log.as_ref());
        tried.map_err(|error| no_access_log(next, &error))?;
        self.gate(next).map(drop)
    }

    /// Opens what another file needs.
    ///
    /// # Errors
    /// Where something cannot be had.
    pub(super) fn open(&self, next: &Config) -> Result<OpenedParts, ReloadError> {
        let admin = self.gate(next)?;
        let access_log = self.access_logs.prepare(next.access_log.as_ref());
        let access_log = access_log.map_err(|error| no_access_log(next, &error))?;
        Ok(OpenedParts {
            access_log,
            admin,
            log: next.log.clone(),
        })
    }

    /// Goes over to what was opened.
    pub(super) fn change(&self, opened: OpenedParts) {
        if self.access_logs.change(opened.access_log) {
            for worker in &self.workers {
                worker.follow_access_log();
            }
        }
        self.admin.change(opened.admin);
        self.log.follow(&opened.log);
    }

    fn gate(&self, next: &Config) -> Result<Access, ReloadError> {
        let gate = self.admin.prepare(&next.admin);
        gate.map_err(|error| ReloadError::Failed(error.to_string()))
    }
}

fn no_access_log(next: &Config, error: &io::Error) -> ReloadError {
    let to = next.access_log.as_ref().map(|log| log.to.to_string());
    let to = to.unwrap_or_default();
    ReloadError::Failed(format!(
        "access_log.to: nothing can be written to {to}: {error}"
    ))
}
