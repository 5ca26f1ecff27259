//! What can go wrong with a question to Consul, in a line that says what to do about it, and what
//! it says of the next question. Knows nothing of how a question is asked.

use std::time::Duration;

use http::StatusCode;

use super::http::Broken;
use crate::registry::{error::key_of_connection, room::Stalled};

/// How long an agent that is busy is left alone where it does not say.
const BUSY: Duration = Duration::from_secs(1);

/// An agent that gave no answer, and why.
#[derive(Debug)]
pub(super) struct Failed {
    /// Its place in the list.
    pub(super) agent: usize,
    pub(super) fault: Fault,
}

/// What can go wrong with a question.
#[derive(Debug)]
pub(super) enum Fault {
    /// The token cannot be read or sent.
    Token(String),
    /// No connection, or one that broke.
    Connection(Broken),
    /// No answer within this time.
    Silent(Duration),
    /// An answer that began, and does not go on.
    Stalled(Stalled),
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
    /// The list of services is empty, and the agent denies what no token allows.
    Nothing,
    /// It has more bytes than this.
    TooLarge(usize),
    /// The body is not Consul's JSON.
    Garbage(String),
}

impl From<Broken> for Fault {
    fn from(broken: Broken) -> Self {
        match broken {
            Broken::Silent(patience) => Self::Silent(patience),
            Broken::Stalled(stalled) => Self::Stalled(stalled),
            broken => Self::Connection(broken),
        }
    }
}

impl Fault {
    /// What happened, as the rest of a sentence about the registry.
    pub(super) fn says(&self, subject: &str) -> String {
        match self {
            Self::Token(error) => format!("was not asked for {subject}: {error}"),
            Self::Connection(error) => {
                format!("cannot be asked for {subject}: {error}")
            }
            Self::Silent(deadline) => {
                format!(
                    "gave no answer for {subject} within {} s",
                    deadline.as_secs()
                )
            }
            Self::Stalled(stalled) => format!("answered for {subject}, and {stalled}"),
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
            Self::Nothing => format!(
                "lists 0 services for {subject}, and denies by default: a token may be missing, or \
                 have no right to see them"
            ),
            Self::TooLarge(limit) => format!("answered more than {limit} bytes for {subject}"),
            Self::Garbage(error) => {
                format!("answered something else than Consul's JSON for {subject}: {error}")
            }
        }
    }

    /// How long the agent is to be left alone, by whatever question.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused { retry_after, .. } if retry_after.is_some() => *retry_after,
            Self::Refused { status, .. } if *status == StatusCode::TOO_MANY_REQUESTS => Some(BUSY),
            _ => None,
        }
    }

    /// Whether another agent may have the answer. A question or a token that is wrong is wrong at
    /// every agent, and the load of an agent that is busy is not passed on to its neighbours.
    pub(super) fn may_be_the_agents(&self) -> bool {
        match self {
            Self::Connection(_) | Self::Silent(_) | Self::Stalled(_) | Self::Index(_) => true,
            Self::Refused { status, .. } => {
                let ours = ["filter", "namespace", "partition"];
                let ours = self.key().is_some_and(|key| ours.contains(&key));
                let status_of_an_agent = status.is_server_error()
                    || status.is_redirection()
                    || *status == StatusCode::NOT_FOUND;
                status_of_an_agent && !ours && self.retry_after().is_none()
            }
            Self::Token(_)
            | Self::Hidden
            | Self::Nothing
            | Self::TooLarge(_)
            | Self::Garbage(_) => false,
        }
    }

    /// Whether a query that waits may have been ended by who stands before the agent, for nothing
    /// came for a while.
    pub(super) fn is_cut(&self) -> bool {
        let gateways = [StatusCode::BAD_GATEWAY, StatusCode::GATEWAY_TIMEOUT];
        match self {
            Self::Connection(Broken::Http(_)) => true,
            Self::Refused { status, .. } => gateways.contains(status),
            _ => false,
        }
    }

    /// Whether the agent itself is away, whatever it is asked.
    pub(super) fn is_away(&self) -> bool {
        matches!(
            self,
            Self::Connection(Broken::Connect(_) | Broken::Late | Broken::Tls(_))
        )
    }

    /// Whether the agent does not know what it was asked for.
    pub(super) fn is_absent(&self) -> bool {
        matches!(self, Self::Refused { status, .. } if *status == StatusCode::NOT_FOUND)
    }

    /// Whether the agent stands still, or is away.
    pub(super) fn says_nothing(&self) -> bool {
        self.is_away() || matches!(self, Self::Silent(_) | Self::Stalled(_))
    }

    /// Whether it is the token that is refused, or sees nothing.
    pub(super) fn is_denied(&self) -> bool {
        let denied = [StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN];
        match self {
            Self::Refused { status, .. } => denied.contains(status),
            Self::Hidden | Self::Nothing => true,
            _ => false,
        }
    }

    /// Whether the token is no token at all there, for this question or another.
    pub(super) fn is_unknown_token(&self) -> bool {
        let unknown = |text: &str| text.to_lowercase().contains("acl not found");
        match self {
            Self::Refused { status, text, .. } => {
                *status == StatusCode::UNAUTHORIZED || (self.is_denied() && unknown(text))
            }
            _ => false,
        }
    }

    /// The key of the registry's table that is likely to be wrong.
    pub(super) fn key(&self) -> Option<&'static str> {
        match self {
            Self::Token(_) | Self::Hidden | Self::Nothing => Some("token"),
            Self::Connection(error) => Some(key_of_connection(&error.to_string())),
            Self::Refused { status, text, .. } => refused_key(*status, &text.to_lowercase()),
            Self::Index(_) | Self::Garbage(_) => Some("address"),
            Self::Silent(_) | Self::Stalled(_) | Self::TooLarge(_) => None,
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
