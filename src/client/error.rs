//! Why a service cannot be called, or a call brought no answer.

use std::{error::Error as StdError, sync::Arc};

use crate::{
    registry::BuildError,
    service::{Attempts, CallError, Service},
};

/// Why a call brought no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The request is none that can be sent.
    #[error("service `{service}`: the request cannot be sent: {reason}")]
    Malformed {
        /// Who was to be called.
        service: Arc<str>,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// No registry has said anything yet; it was waited for (`discovery_timeout`).
    #[error("service `{service}`: no registry could be read yet{}", because(.reasons))]
    NotRead {
        /// Who was to be called.
        service: Arc<str>,
        /// What its registries failed with last, as far as they did.
        reasons: Vec<String>,
    },
    /// The registry lists no endpoint that may be called.
    #[error("service `{service}` has no healthy instance")]
    NoEndpoints {
        /// Who was to be called.
        service: Arc<str>,
    },
    /// It works on as many requests as its `limits` allow.
    #[error("service `{service}` has as much to do as it may")]
    Shed {
        /// Who was to be called.
        service: Arc<str>,
    },
    /// Every attempt failed.
    #[error("service `{service}`: {attempts}{}", if .attempts.out_of_budget { "; the retry budget is spent" } else { "" })]
    Failed {
        /// Who was to be called.
        service: Arc<str>,
        /// Each of them.
        attempts: Attempts,
    },
    /// The request's own body failed.
    #[error("service `{service}`: the request's body broke off: {error}")]
    Body {
        /// Who was called.
        service: Arc<str>,
        /// What the body said.
        #[source]
        error: Box<dyn StdError + Send + Sync>,
    },
}

impl Error {
    /// Why a service has not answered.
    pub(super) fn of(service: &Service, error: CallError) -> Self {
        if matches!(error, CallError::NoEndpoints) && !service.is_read() {
            return Self::not_read(service);
        }
        let service = Arc::clone(service.name());
        match error {
            CallError::NoEndpoints => Self::NoEndpoints { service },
            CallError::Shed(_) => Self::Shed { service },
            CallError::BodyBroke(error) => Self::Body { service, error },
            CallError::Failed(attempts) => Self::Failed { service, attempts },
        }
    }

    /// None of a service's registries could be read yet.
    pub(super) fn not_read(service: &Service) -> Self {
        let watches = service.watches().iter();
        Self::NotRead {
            service: Arc::clone(service.name()),
            reasons: watches.filter_map(|watch| watch.snapshot().error).collect(),
        }
    }
}

fn because(reasons: &[String]) -> String {
    match reasons {
        [] => String::new(),
        reasons => format!(": {}", reasons.join("; ")),
    }
}

/// Why a client, or something of it, cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// A registry's settings cannot be used.
    #[error(transparent)]
    Registry(#[from] BuildError),
    /// A service's settings cannot be used, or there is no such registry.
    #[error(transparent)]
    Service(#[from] crate::discovery::StartError),
    /// There are several registries, and it is not said which one knows the service.
    #[error(
        "service `{0}`: there are several registries; write `registry = \"NAME\"` in \
         [service.{0}] or in [defaults]"
    )]
    WhichRegistry(Arc<str>),
}
