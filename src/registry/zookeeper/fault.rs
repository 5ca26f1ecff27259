//! What can go wrong with ZooKeeper, in a line that says what to do about it.

use std::time::Duration;

use zookeeper_client::Error;

use crate::registry::RegistryError;

/// Who is not let in is not asked again for this long: nothing but a person can change that.
const LET_IN: Duration = Duration::from_secs(5);

/// What can go wrong.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// The password cannot be read.
    Password(String),
    /// No server opens a session: what each did instead.
    Away(String),
    /// The connection is lost, or silent for too long, and the session with it.
    Lost,
    /// The user's name and password are not taken.
    Unknown,
    /// Our user has no right to this node.
    Denied {
        /// The node's path.
        path: String,
        /// The user that we signed in as.
        user: Option<String>,
    },
    /// Our own entry is no longer there.
    Gone {
        /// The node's path.
        path: String,
    },
    /// Tags were asked for.
    Tags,
    /// No node can have this path.
    Path {
        /// The path.
        path: String,
        /// Why.
        reason: &'static str,
    },
    /// Anything else that was asked about this node.
    Other {
        /// The node's path.
        path: String,
        /// What came back.
        error: Error,
    },
}

impl Fault {
    /// What came of a request about this node.
    pub(crate) fn of(path: &str, user: Option<&str>, error: Error) -> Self {
        let path = path.to_owned();
        match error {
            Error::NoAuth => Self::Denied {
                path,
                user: user.map(str::to_owned),
            },
            Error::AuthFailed => Self::Unknown,
            Error::ConnectionLoss
            | Error::SessionExpired
            | Error::SessionMoved
            | Error::ClientClosed => Self::Lost,
            Error::BadArguments(reason) => Self::Path { path, reason },
            error => Self::Other { path, error },
        }
    }

    /// One line: who, what was wanted, what came of it, and the key to look at.
    pub(crate) fn explain(&self, registry: &str, shown: &str, wanted: &str) -> RegistryError {
        let message = format!("{registry} at {shown} {wanted}: {}", self.cause());
        RegistryError {
            retry_after: self.retry_after(),
            refused: matches!(
                self,
                Self::Password(_) | Self::Unknown | Self::Denied { .. }
            ),
            ..RegistryError::new(message).naming(registry, self.key())
        }
    }

    /// Whether a new session may have another answer: the password may have been put right, or
    /// the client's own state may be wrong.
    pub(crate) fn is_of_the_session(&self) -> bool {
        matches!(self, Self::Denied { .. } | Self::Other { .. })
    }

    fn cause(&self) -> String {
        match self {
            Self::Password(error) => error.clone(),
            Self::Away(what) => format!("no session ({what})"),
            Self::Lost => "the connection was lost, or is silent".to_owned(),
            Self::Unknown => "the user and the password are not taken".to_owned(),
            Self::Denied { path, user: None } => {
                format!("{path} is not for everyone, and no user is configured")
            }
            Self::Denied {
                path,
                user: Some(user),
            } => format!("`{user}`, with this password, has no right to {path}"),
            Self::Gone { path } => format!("{path} was taken away"),
            Self::Tags => {
                "instances in ZooKeeper have no tags; take `tags` out of [service.NAME]".to_owned()
            }
            Self::Path { path, reason } => format!("{path} can be no node: {reason}"),
            Self::Other { path, error } => format!("{path}: {error}"),
        }
    }

    fn key(&self) -> Option<&'static str> {
        match self {
            Self::Password(_) | Self::Unknown | Self::Denied { user: Some(_), .. } => {
                Some("password")
            }
            Self::Denied { user: None, .. } => Some("user"),
            Self::Away(_) => Some("address"),
            Self::Lost
            | Self::Gone { .. }
            | Self::Tags
            | Self::Path { .. }
            | Self::Other { .. } => None,
        }
    }

    /// How long another question would fail in the same way.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Unknown | Self::Denied { .. } => Some(LET_IN),
            Self::Tags => Some(LET_IN * 60),
            _ => None,
        }
    }
}
