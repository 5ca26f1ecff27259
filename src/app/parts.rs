//! What runs beside the generation, and goes over to another file with it: listeners, the access log, what the
//! log of the process goes by, and who the admin server lets in. What can fail comes before anything changes.

use std::{error::Error, io, sync::Arc};

use super::listeners::{Listeners, Prepared};
use crate::{
    access_log::{AccessLogs, PreparedLog},
    admin::{self, LogLevel, ReloadError},
    config::{Config, Log},
    control::access::Access,
    proxy::Worker,
    tls::TlsError,
    worker::Workers,
};

/// See the module.
pub(super) struct Parts {
    pub(super) listeners: Arc<Listeners>,
    workers: Vec<Arc<Worker>>,
    access_logs: Arc<AccessLogs>,
    admin: admin::Control,
    pub(super) log: LogLevel,
}

/// What takes its place.
pub(super) struct OpenedParts {
    listeners: Prepared,
    access_log: PreparedLog,
    admin: Access,
    log: Log,
}

impl Parts {
    /// Of a proxy that begins to serve.
    pub(super) fn of(
        listeners: &Arc<Listeners>,
        workers: &Workers,
        access_logs: &Arc<AccessLogs>,
        admin: &admin::Server,
        log: &LogLevel,
    ) -> Self {
        Self {
            listeners: Arc::clone(listeners),
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
        let listeners = self.prepare_listeners(next)?;
        self.listeners.try_to_bind(&listeners).map_err(failed)?;
        let access_log = next.access_log.as_ref();
        let tried = self.access_logs.try_to_begin(access_log);
        tried.map_err(|error| no_access_log(next, &error))?;
        self.admin.prepare(&next.admin).map(drop).map_err(failed)
    }

    /// Opens what another file needs. Clients may come to what is bound.
    ///
    /// # Errors
    /// Where something cannot be had.
    pub(super) fn open(&self, next: &Config) -> Result<OpenedParts, ReloadError> {
        let mut listeners = self.prepare_listeners(next)?;
        let access_log = self.access_logs.prepare(next.access_log.as_ref());
        let access_log = access_log.map_err(|error| no_access_log(next, &error))?;
        let admin = self.admin.prepare(&next.admin).map_err(failed)?;
        listeners.follow_files().map_err(no_tls)?;
        self.listeners.bind(&mut listeners).map_err(failed)?;
        Ok(OpenedParts {
            listeners,
            access_log,
            admin,
            log: next.log.clone(),
        })
    }

    /// Goes over to what was opened.
    pub(super) fn change(&self, opened: OpenedParts, next: &Config) {
        self.listeners.change(opened.listeners, next);
        if self.access_logs.change(opened.access_log) {
            self.workers
                .iter()
                .for_each(|worker| worker.follow_access_log());
        }
        self.admin.change(opened.admin);
        self.log.follow(&opened.log);
    }

    fn prepare_listeners(&self, next: &Config) -> Result<Prepared, ReloadError> {
        self.listeners.prepare(next).map_err(no_tls)
    }
}

fn no_tls(error: TlsError) -> ReloadError {
    ReloadError::Failed(format!("listen.tls: {error}"))
}

fn no_access_log(next: &Config, error: &io::Error) -> ReloadError {
    let to = next.access_log.as_ref().map(|log| log.to.to_string());
    let to = to.unwrap_or_default();
    ReloadError::Failed(format!(
        "access_log.to: nothing can be written to {to}: {error}"
    ))
}

/// With its cause.
fn failed(error: impl Error) -> ReloadError {
    let mut said = error.to_string();
    if let Some(cause) = error.source() {
        said += &format!(": {cause}");
    }
    ReloadError::Failed(said)
}
