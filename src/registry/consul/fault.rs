//! What can go wrong with a question to Consul, in a line that says what to do about it.

use std::time::Duration;

use http::StatusCode;

use crate::registry::{RegistryError, error::root_cause};

/// What can go wrong with a question.
pub(super) enum Fault {
    /// The token cannot be read or sent.
    Token(String),
    /// No connection, or one that broke; made by [`Fault::connection`].
    Connection(reqwest::Error),
    /// No answer within this time.
    Silent(Duration),
    /// Any status but 200.
    Refused {
        status: StatusCode,
        /// The body, in a line.
        text: String,
        retry_after: Option<Duration>,
    },
    /// No valid index: what stood in its place.
    Index(Option<String>),
    /// The agent's access rules left nothing of the answer.
    Hidden,
    /// It has more bytes than this.
    TooLarge(usize),
    /// The body is not Consul's JSON.
    Garbage(String),
}

impl Fault {
    /// The URL is left out of the error: it may hold credentials.
    pub(super) fn connection(error: reqwest::Error) -> Self {
        Self::Connection(error.without_url())
    }

    /// One line: who, what was asked, what came back, and the key to look at.
    pub(super) fn explain(&self, registry: &str, shown: &str, subject: &str) -> RegistryError {
        let mut message = format!("{registry} at {shown} {}", self.says(subject));
        if let Some(key) = self.key() {
            message += &format!("; check registry.{registry}.{key}");
        }
        RegistryError {
            message,
            retry_after: self.retry_after(),
        }
    }

    /// Whether the agent does not know what it was asked for.
    pub(super) fn is_unknown(&self) -> bool {
        matches!(self, Self::Refused { status, .. } if *status == StatusCode::NOT_FOUND)
    }

    /// What happened, as the rest of a sentence about the registry.
    fn says(&self, subject: &str) -> String {
        match self {
            Self::Token(error) => format!("was not asked for {subject}: {error}"),
            Self::Connection(error) => {
                format!("cannot be asked for {subject}: {}", root_cause(error))
            }
            Self::Silent(deadline) => {
                format!(
                    "gave no answer for {subject} within {} s",
                    deadline.as_secs()
                )
            }
            Self::Refused { status, text, .. } => {
                format!("answered {} for {subject}: {text}", status.as_u16())
            }
            Self::Index(None) => format!("answered without X-Consul-Index for {subject}"),
            Self::Index(Some(index)) => {
                format!("answered with X-Consul-Index `{index}` for {subject}")
            }
            Self::Hidden => {
                format!("has an answer for {subject}, but the token's policies hide all of it")
            }
            Self::TooLarge(limit) => format!("answered more than {limit} bytes for {subject}"),
            Self::Garbage(error) => {
                format!("answered something else than Consul's JSON for {subject}: {error}")
            }
        }
    }

    /// How long the registry asked us to stay away.
    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// The key of the registry's table that is likely to be wrong.
    fn key(&self) -> Option<&'static str> {
        match self {
            Self::Token(_) | Self::Hidden => Some("token"),
            Self::Connection(error) => {
                let cause = root_cause(error).to_lowercase();
                let tls = ["certificate", "tls", "alert", "handshake"];
                let tls = tls.iter().any(|word| cause.contains(word));
                Some(if tls { "tls" } else { "address" })
            }
            Self::Refused { status, text, .. } => refused_key(*status, &text.to_lowercase()),
            Self::Index(_) | Self::Garbage(_) => Some("address"),
            Self::Silent(_) | Self::TooLarge(_) => None,
        }
    }
}

fn refused_key(status: StatusCode, text: &str) -> Option<&'static str> {
    let named = [
        ("datacenter", "datacenters"),
        ("partition", "partition"),
        ("namespace", "namespace"),
        ("\"ns\"", "namespace"),
        ("filter", "filter"),
        ("boolean expression", "filter"),
        ("selector", "filter"),
    ];
    match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Some("token"),
        StatusCode::NOT_FOUND => Some("address"),
        status if status.is_redirection() => Some("address"),
        _ => named
            .into_iter()
            .find_map(|(word, key)| text.contains(word).then_some(key)),
    }
}
