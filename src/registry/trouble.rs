//! What can go wrong with a question to an HTTP API before its answer means anything, in words that say
//! what to do about it. Knows nothing of what is asked.

use std::time::Duration;

use super::{error::key_of_connection, room::Stalled};
use crate::error::root_cause;

/// What went wrong with a question.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// The password cannot be read.
    Password(String),
    /// No connection, or one that broke: why. The URL, which may hold credentials, is no part of it.
    Connection(String),
    /// No answer within this time.
    Silent(Duration),
    /// An answer that began, and does not go on.
    Stalled(Stalled),
    /// It has more bytes than this.
    TooLarge(usize),
    /// The body is not in this format: why.
    Garbage(&'static str, String),
}

impl From<reqwest::Error> for Trouble {
    fn from(error: reqwest::Error) -> Self {
        Self::Connection(root_cause(&error.without_url()))
    }
}

impl From<Stalled> for Trouble {
    fn from(stalled: Stalled) -> Self {
        Self::Stalled(stalled)
    }
}

impl Trouble {
    /// What happened, as the rest of a sentence about a server.
    pub(super) fn says(&self, subject: &str) -> String {
        match self {
            Self::Password(error) => format!("was not asked for {subject}: {error}"),
            Self::Connection(cause) => format!("cannot be asked for {subject}: {cause}"),
            Self::Silent(deadline) => {
                let seconds = deadline.as_secs_f32();
                format!("gave no answer for {subject} within {seconds} s")
            }
            Self::Stalled(stalled) => format!("answered for {subject}, and {stalled}"),
            Self::TooLarge(limit) => format!("answered more than {limit} bytes for {subject}"),
            Self::Garbage(format, error) => {
                format!("answered something else than {format} for {subject}: {error}")
            }
        }
    }

    /// Whether it is the server that is at fault, and another may do better.
    pub(super) fn is_the_servers(&self) -> bool {
        matches!(
            self,
            Self::Connection(_) | Self::Silent(_) | Self::Stalled(_)
        )
    }

    /// The key of the registry's table that is likely to be wrong.
    pub(super) fn key(&self) -> Option<&'static str> {
        match self {
            Self::Password(_) => Some("password"),
            Self::Connection(cause) => Some(key_of_connection(cause)),
            Self::Garbage(..) => Some("address"),
            Self::Silent(_) | Self::Stalled(_) | Self::TooLarge(_) => None,
        }
    }
}
