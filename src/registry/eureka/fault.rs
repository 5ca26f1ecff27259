//! What can go wrong with a question to a Eureka server, in a line that says what to do about it.

use std::time::Duration;

use http::StatusCode;

use crate::registry::trouble::Trouble;

/// What can go wrong with a question.
pub(crate) enum Fault {
    /// There is no answer that could be understood.
    Trouble(Trouble),
    /// A status that is no answer to what was asked.
    Refused {
        status: StatusCode,
        /// The body, in a line.
        text: String,
        retry_after: Option<Duration>,
    },
}

impl From<Trouble> for Fault {
    fn from(trouble: Trouble) -> Self {
        Self::Trouble(trouble)
    }
}

impl Fault {
    /// What happened, as the rest of a sentence about a server.
    pub(super) fn says(&self, subject: &str) -> String {
        match self {
            Self::Trouble(trouble) => trouble.says(subject),
            Self::Refused { status, text, .. } => {
                format!("answered {} for {subject}: {text}", status.as_u16())
            }
        }
    }

    /// How long the server asked us to stay away.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused { retry_after, .. } => *retry_after,
            Self::Trouble(_) => None,
        }
    }

    /// Whether it stands against the user, not against what was asked.
    pub(super) fn is_of_the_user(&self) -> bool {
        match self {
            Self::Trouble(trouble) => matches!(trouble, Trouble::Password(_)),
            Self::Refused { status, .. } => {
                [StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN].contains(status)
            }
        }
    }

    /// The key of the registry's table that is likely to be wrong.
    pub(super) fn key(&self) -> Option<&'static str> {
        match self {
            Self::Trouble(trouble) => trouble.key(),
            Self::Refused { status, .. } => match *status {
                StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Some("user and password"),
                StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED => Some("address"),
                status if status.is_redirection() => Some("address"),
                _ => None,
            },
        }
    }
}
