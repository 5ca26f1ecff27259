//! What can go wrong with a question to resolvers, in a line that says what to do about it.

use std::{io, net::SocketAddr, time::Duration};

use hickory_proto::op::ResponseCode;

use crate::registry::RegistryError;

/// Why one resolver gave no answer.
#[derive(Debug)]
pub(super) enum Fault {
    /// It cannot be reached, or the connection broke.
    Connection(io::Error),
    /// Nothing came within this time.
    Silent(Duration),
    /// It answered with this code.
    Refused(ResponseCode),
    /// What it said is not the DNS's.
    Garbage(String),
    /// It names an alias or other servers, and leaves the rest to the client.
    Elsewhere,
}

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum Failure {
    /// The system's resolvers are not known: why.
    NoResolvers(String),
    /// It was waited for no longer than this, since there was another that would do.
    Late(Duration),
    /// No resolver gave one; at least one was asked.
    Unanswered(Vec<(SocketAddr, Fault)>),
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        Self::Connection(error)
    }
}

impl Fault {
    /// Whether the resolver itself seems to be away, whatever it is asked.
    pub(super) fn is_absence(&self) -> bool {
        matches!(self, Self::Connection(_) | Self::Silent(_))
    }

    /// What happened, as the rest of a sentence about the resolver.
    fn says(&self) -> String {
        match self {
            Self::Connection(error) => format!("cannot be asked: {error}"),
            Self::Silent(limit) => format!("gave no answer within {limit:?}"),
            Self::Refused(code) => format!("answered {}", code_name(*code)),
            Self::Garbage(error) => format!("answered something else than DNS: {error}"),
            Self::Elsewhere => "points to other servers, as one that resolves nothing".to_owned(),
        }
    }

    /// The key of the registry's table that is likely to be wrong.
    fn key(&self) -> Option<&'static str> {
        match self {
            Self::Refused(ResponseCode::Refused) => Some("query"),
            Self::Refused(_) => None,
            _ => Some("address"),
        }
    }
}

/// As it is written everywhere.
fn code_name(code: ResponseCode) -> String {
    match code {
        ResponseCode::FormErr => "FORMERR".to_owned(),
        ResponseCode::ServFail => "SERVFAIL".to_owned(),
        ResponseCode::NotImp => "NOTIMP".to_owned(),
        ResponseCode::Refused => "REFUSED".to_owned(),
        code => format!("{} ({code})", u16::from(code)),
    }
}

impl Failure {
    /// One line: who, what was asked, what came back, and the key to look at.
    pub(super) fn explain(&self, registry: &str, subject: &str) -> RegistryError {
        let (message, key) = match self {
            Self::NoResolvers(why) => (
                format!("{registry} was not asked for {subject}: {why}"),
                Some("address"),
            ),
            Self::Late(limit) => (
                format!("{registry} has no answer for {subject} within {limit:?}"),
                None,
            ),
            Self::Unanswered(faults) => {
                let said = faults
                    .iter()
                    .map(|(resolver, fault)| format!("{resolver} {}", fault.says()));
                let said: Vec<_> = said.collect();
                let key = faults.iter().find_map(|(_, fault)| fault.key());
                (
                    format!(
                        "{registry} has no answer for {subject}: {}",
                        said.join(", ")
                    ),
                    key,
                )
            }
        };
        RegistryError::new(message).naming(registry, key)
    }
}
