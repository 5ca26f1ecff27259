//! What can go wrong with an etcd's API v2, in a line that says what to do about it.

use std::time::Duration;

use http::StatusCode;

use crate::{
    error::root_cause,
    registry::{RegistryError, error::key_of_connection, http_api::Broken, room::Stalled},
};

/// How long an etcd is left alone that does not let us in: each try of a password costs it a slow
/// hash, and a person must do something first.
const LOCKED_OUT: Duration = Duration::from_secs(5);

/// What can go wrong with a question.
#[derive(Debug)]
pub(super) enum Fault {
    /// The password cannot be read.
    Password(String),
    /// No connection, or one that broke; made by [`Fault::connection`].
    Connection(reqwest::Error),
    /// No answer within this time.
    Silent(Duration),
    /// An answer that began, and does not go on.
    Stalled(Stalled),
    /// etcd itself says no.
    Refused {
        status: StatusCode,
        /// etcd's own, where it is the one who answers.
        code: Option<u64>,
        text: String,
    },
    /// No valid index.
    Index,
    /// It has more bytes than this.
    TooLarge(usize),
    /// The body is not etcd's JSON.
    Garbage(String),
}

impl From<Broken> for Fault {
    fn from(broken: Broken) -> Self {
        match broken {
            Broken::Http(error) => Self::connection(error),
            Broken::Stalled(stalled) => Self::Stalled(stalled),
        }
    }
}

impl Fault {
    /// The URL is left out of the error: it may hold credentials.
    pub(super) fn connection(error: reqwest::Error) -> Self {
        Self::Connection(error.without_url())
    }

    /// Whether it is the member that is at fault, and another may do better.
    pub(super) fn is_the_members(&self) -> bool {
        match self {
            Self::Connection(_) | Self::Silent(_) | Self::Stalled(_) => true,
            Self::Refused { status, .. } => status.is_server_error(),
            _ => false,
        }
    }

    /// Whether etcd said this.
    pub(super) fn is(&self, wanted: u64) -> bool {
        matches!(self, Self::Refused { code, .. } if *code == Some(wanted))
    }

    fn locks_out(&self) -> bool {
        match self {
            Self::Password(_) => true,
            Self::Refused { status, .. } => {
                [StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN].contains(status)
            }
            _ => false,
        }
    }

    /// What happened, as the rest of a sentence about the registry.
    fn says(&self, subject: &str) -> String {
        match self {
            Self::Password(error) => format!("was not asked for {subject}: {error}"),
            Self::Connection(error) => {
                format!("cannot be asked for {subject}: {}", root_cause(error))
            }
            Self::Silent(deadline) => format!(
                "gave no answer for {subject} within {} s",
                deadline.as_secs_f32()
            ),
            Self::Stalled(stalled) => format!("answered for {subject}, and {stalled}"),
            Self::Refused { status, text, .. } => {
                format!("answered {} for {subject}: {text}", status.as_u16())
            }
            Self::Index => format!("answered without a valid X-Etcd-Index for {subject}"),
            Self::TooLarge(limit) => format!("answered more than {limit} bytes for {subject}"),
            Self::Garbage(error) => {
                format!("answered something else than etcd's JSON for {subject}: {error}")
            }
        }
    }

    /// What to look at: a key of the registry's table, or more.
    fn advice(&self, registry: &str) -> Option<String> {
        let key = match self {
            Self::Password(_) => "password",
            Self::Connection(error) => key_of_connection(&root_cause(error)),
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
            Self::Index | Self::Garbage(_) => "address",
            Self::Silent(_) | Self::Stalled(_) | Self::Refused { .. } | Self::TooLarge(_) => {
                return None;
            }
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
