//! What can go wrong with an etcd's API v2, in a line that says what to do about it.

use std::time::Duration;

use http::StatusCode;

use crate::registry::{RegistryError, trouble::Trouble};

/// How long an etcd is left alone that does not let us in: each try of a password costs it a slow
/// hash, and a person must do something first.
const LOCKED_OUT: Duration = Duration::from_secs(5);

/// What can go wrong with a question.
#[derive(Debug)]
pub(super) enum Fault {
    /// There is no answer that could be understood.
    Trouble(Trouble),
    /// etcd itself says no.
    Refused {
        status: StatusCode,
        /// etcd's own, where it is the one who answers.
        code: Option<u64>,
        text: String,
    },
    /// No valid index.
    Index,
}

impl From<Trouble> for Fault {
    fn from(trouble: Trouble) -> Self {
        Self::Trouble(trouble)
    }
}

impl Fault {
    /// Whether it is the member that is at fault, and another may do better.
    pub(super) fn is_the_members(&self) -> bool {
        match self {
            Self::Trouble(trouble) => trouble.is_the_servers(),
            Self::Refused { status, .. } => status.is_server_error(),
            Self::Index => false,
        }
    }

    /// Whether etcd said this.
    pub(super) fn is(&self, wanted: u64) -> bool {
        matches!(self, Self::Refused { code, .. } if *code == Some(wanted))
    }

    fn locks_out(&self) -> bool {
        match self {
            Self::Trouble(trouble) => matches!(trouble, Trouble::Password(_)),
            Self::Refused { status, .. } => {
                [StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN].contains(status)
            }
            Self::Index => false,
        }
    }

    /// What happened, as the rest of a sentence about the registry.
    fn says(&self, subject: &str) -> String {
        match self {
            Self::Trouble(trouble) => trouble.says(subject),
            Self::Refused { status, text, .. } => {
                format!("answered {} for {subject}: {text}", status.as_u16())
            }
            Self::Index => format!("answered without a valid X-Etcd-Index for {subject}"),
        }
    }

    /// What to look at: a key of the registry's table, or more.
    fn advice(&self, registry: &str) -> Option<String> {
        let key = match self {
            Self::Trouble(trouble) => trouble.key()?,
            Self::Refused { .. } if self.locks_out() => "user",
            Self::Refused {
                status: StatusCode::NOT_FOUND,
                code: None,
                ..
            } => {
                return Some(format!(
                    "is it an etcd with --enable-v2? Else write kind = \"etcd\" in registry.{registry}"
                ));
            }
            Self::Refused { .. } => return None,
            Self::Index => "address",
        };
        Some(format!("check registry.{registry}.{key}"))
    }

    /// One line: who, what was asked, what came back, and what to look at.
    pub(super) fn explain(&self, registry: &str, member: &str, subject: &str) -> RegistryError {
        let mut message = format!("{registry} at {member} {}", self.says(subject));
        if let Some(advice) = self.advice(registry) {
            message += &format!("; {advice}");
        }
        RegistryError {
            message,
            retry_after: self.locks_out().then_some(LOCKED_OUT),
            refused: self.locks_out(),
        }
    }
}
