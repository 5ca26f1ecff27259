//! What can go wrong with a question to a Eureka server, in a line that says what to do about it.

use std::time::Duration;

use http::StatusCode;

use crate::{
    error::root_cause,
    registry::{error::key_of_connection, http_api::Broken, room::Stalled},
};

/// What can go wrong with a question.
pub(crate) enum Fault {
    /// The password cannot be read.
    Password(String),
    /// No connection, or one that broke; made by [`Fault::connection`].
    Connection(reqwest::Error),
    /// No answer within this time.
    Silent(Duration),
    /// An answer that began, and does not go on.
    Stalled(Stalled),
    /// A status that is no answer to what was asked.
    Refused {
        status: StatusCode,
        /// The body, in a line.
        text: String,
        retry_after: Option<Duration>,
    },
    /// It has more bytes than this.
    TooLarge(usize),
    /// The body is not Eureka's JSON or XML.
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

    /// What happened, as the rest of a sentence about a server.
    pub(super) fn says(&self, subject: &str) -> String {
        match self {
            Self::Password(error) => format!("was not asked for {subject}: {error}"),
            Self::Connection(error) => {
                format!("cannot be asked for {subject}: {}", root_cause(error))
            }
            Self::Silent(deadline) => {
                let seconds = deadline.as_secs();
                format!("gave no answer for {subject} within {seconds} s")
            }
            Self::Stalled(stalled) => format!("answered for {subject}, and {stalled}"),
            Self::Refused { status, text, .. } => {
                format!("answered {} for {subject}: {text}", status.as_u16())
            }
            Self::TooLarge(limit) => format!("answered more than {limit} bytes for {subject}"),
            Self::Garbage(error) => {
                format!("answered something else than Eureka's JSON or XML for {subject}: {error}")
            }
        }
    }

    /// How long the server asked us to stay away.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// Whether it stands against the user, not against what was asked.
    pub(super) fn is_of_the_user(&self) -> bool {
        match self {
            Self::Password(_) => true,
            Self::Refused { status, .. } => {
                [StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN].contains(status)
            }
            _ => false,
        }
    }

    /// The key of the registry's table that is likely to be wrong.
    pub(super) fn key(&self) -> Option<&'static str> {
        match self {
            Self::Password(_) => Some("password"),
            Self::Connection(error) => Some(key_of_connection(&root_cause(error))),
            Self::Refused { status, .. } => match *status {
                StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Some("user and password"),
                StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED => Some("address"),
                status if status.is_redirection() => Some("address"),
                _ => None,
            },
            Self::Garbage(_) => Some("address"),
            Self::Silent(_) | Self::Stalled(_) | Self::TooLarge(_) => None,
        }
    }
}
