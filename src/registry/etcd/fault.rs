//! What can go wrong with an etcd, in a line that says what to do about it.

use std::{error::Error, time::Duration};

use tonic::{Code, Status};

use crate::{
    error::root_cause,
    registry::{
        RegistryError,
        error::{key_of_connection, one_line},
    },
};

/// How long an etcd is left alone that does not let us in: each try of a password costs it a
/// slow hash, and a person must do something first.
const LOCKED_OUT: Duration = Duration::from_secs(5);

/// What can go wrong with a question.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// The password cannot be read.
    Password(String),
    /// No connection, or one that broke.
    Connection(String),
    /// A connection with TLS that broke before anything was answered.
    BrokenOff(String),
    /// No answer within this time.
    Silent(Duration),
    /// etcd itself says no.
    Refused { code: Code, text: String },
    /// Who answers is not who answered before, or has lost its data.
    Replaced(String),
}

impl Fault {
    /// A call that ended with this.
    pub(super) fn call(status: &Status) -> Self {
        match status.source() {
            // Only what was not said by the other side has a cause on this one.
            Some(cause) => Self::connection(cause),
            None => Self::Refused {
                code: status.code(),
                text: one_line(status.message()),
            },
        }
    }

    /// The innermost error says what happened; the outer ones say that something did.
    pub(super) fn connection(error: &(dyn Error + 'static)) -> Self {
        Self::Connection(one_line(&root_cause(error)))
    }

    /// A watch that etcd ends, with the reason that it gives: an error's text as Go prints it.
    pub(super) fn canceled(reason: &str) -> Self {
        let text = reason
            .split_once("desc = ")
            .map_or(reason, |(_, text)| text);
        let code = if text.contains("invalid auth token") {
            Code::Unauthenticated
        } else if text.contains("permission denied") {
            Code::PermissionDenied
        } else {
            Code::Cancelled
        };
        let text = one_line(text);
        Self::Refused { code, text }
    }

    /// Whether the token is no longer good, or one is needed by now.
    pub(super) fn is_stale_token(&self) -> bool {
        let Self::Refused { code, text } = self else {
            return false;
        };
        *code == Code::Unauthenticated
            || text.contains("revision of auth store is old")
            || text.contains("user name is empty")
    }

    /// Whether it is the member that is at fault, and another may do better.
    pub(super) fn is_the_members(&self) -> bool {
        match self {
            Self::Connection(_) | Self::BrokenOff(_) | Self::Silent(_) | Self::Replaced(_) => true,
            Self::Refused { code, .. } => matches!(code, Code::Unavailable | Code::DataLoss),
            Self::Password(_) => false,
        }
    }

    /// Whether etcd knows nothing of the lease that was asked for.
    pub(crate) fn is_not_found(&self) -> bool {
        matches!(self, Self::Refused { code, .. } if *code == Code::NotFound)
    }

    /// Whether it stands against the user, not against what was asked.
    fn locks_out(&self) -> bool {
        match self {
            Self::Password(_) => true,
            Self::Refused { code, text } => {
                let codes = [Code::Unauthenticated, Code::PermissionDenied];
                codes.contains(code) || text.contains("user") || text.contains("auth")
            }
            _ => false,
        }
    }

    /// What happened, as the rest of a sentence about the registry.
    fn says(&self, subject: &str) -> String {
        match self {
            Self::Password(error) => format!("was not asked for {subject}: {error}"),
            Self::Connection(cause) => format!("cannot be asked for {subject}: {cause}"),
            Self::BrokenOff(cause) => {
                format!("broke off before its first answer, for {subject}: {cause}")
            }
            Self::Silent(deadline) => format!(
                "gave no answer for {subject} within {} s",
                deadline.as_secs_f32()
            ),
            Self::Refused { code, text } => {
                format!("answered {code:?} for {subject}: {text}")
            }
            Self::Replaced(how) => format!("is not what it was for {subject}: {how}"),
        }
    }

    /// The key of the registry's table that is likely to be wrong.
    fn key(&self) -> Option<&'static str> {
        match self {
            Self::Password(_) => Some("password"),
            Self::Connection(cause) => Some(key_of_connection(cause)),
            Self::BrokenOff(_) => Some("tls"),
            Self::Refused { text, .. } if text.contains("password") => Some("password"),
            Self::Refused { .. } if self.locks_out() => Some("user"),
            // A server that answers so is no etcd.
            Self::Refused { code, .. } => {
                let strangers = [Code::Unimplemented, Code::Internal, Code::Unknown];
                strangers.contains(code).then_some("address")
            }
            Self::Silent(_) | Self::Replaced(_) => None,
        }
    }
}

/// What went wrong, at one member after the other.
#[derive(Clone, Debug, Default)]
pub(crate) struct Failure(pub(super) Vec<(String, Fault)>);

impl Failure {
    /// One line: who, what was asked, what came back, and the key to look at.
    pub(crate) fn explain(&self, registry: &str, subject: &str) -> RegistryError {
        let faults = self.0.iter().enumerate();
        let lines = faults.map(|(index, (member, fault))| match (index, fault) {
            (0, _) => format!("{registry} at {member} {}", fault.says(subject)),
            (_, Fault::Connection(cause)) => format!("at {member}: {cause}"),
            _ => format!("at {member} it {}", fault.says(subject)),
        });
        let message = lines.collect::<Vec<_>>().join("; ");
        let key = self.0.iter().find_map(|(_, fault)| fault.key());
        let locked_out = self.0.iter().any(|(_, fault)| fault.locks_out());
        RegistryError {
            retry_after: locked_out.then_some(LOCKED_OUT),
            refused: locked_out,
            ..RegistryError::new(message).naming(registry, key)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn explain(faults: &[(&str, Fault)]) -> RegistryError {
        let faults = faults.iter().cloned();
        let faults = faults.map(|(member, fault)| (member.to_owned(), fault));
        Failure(faults.collect()).explain("main", "service `cart`")
    }

    fn refused(code: Code, text: &str) -> Fault {
        Fault::call(&Status::new(code, text))
    }

    #[test]
    fn an_error_names_who_what_and_where_to_look() {
        for (fault, says, locked_out) in [
            (
                refused(
                    Code::InvalidArgument,
                    "etcdserver: authentication failed, invalid user ID or password",
                ),
                "answered InvalidArgument for service `cart`: etcdserver: authentication failed, invalid user ID or password; check registry.main.password",
                true,
            ),
            (
                Fault::canceled(
                    "rpc error: code = PermissionDenied desc = etcdserver: permission denied",
                ),
                "answered PermissionDenied for service `cart`: etcdserver: permission denied; check registry.main.user",
                true,
            ),
            (
                refused(Code::Unavailable, "etcdserver: no leader"),
                "answered Unavailable for service `cart`: etcdserver: no leader",
                false,
            ),
            (
                Fault::Connection("received fatal alert: CertificateRequired".to_owned()),
                "cannot be asked for service `cart`: received fatal alert: CertificateRequired; check registry.main.tls",
                false,
            ),
            (
                Fault::Silent(Duration::from_secs(8)),
                "gave no answer for service `cart` within 8 s",
                false,
            ),
        ] {
            let error = explain(&[("http://a", fault)]);
            assert_eq!(error.message, format!("main at http://a {says}"));
            assert_eq!(error.retry_after.is_some(), locked_out, "{says}");
        }
    }

    #[test]
    fn each_member_that_was_tried_is_named() {
        let refused = || Fault::Connection("Connection refused".to_owned());
        let error = explain(&[("http://a", refused()), ("http://b", refused())]);
        assert_eq!(
            error.message,
            "main at http://a cannot be asked for service `cart`: Connection refused; at http://b: Connection refused; check registry.main.address"
        );
    }

    #[test]
    fn a_token_that_ran_out_is_told_from_a_wrong_password() {
        let stale = [
            refused(Code::Unauthenticated, "etcdserver: invalid auth token"),
            refused(
                Code::InvalidArgument,
                "etcdserver: revision of auth store is old",
            ),
            Fault::canceled(
                "rpc error: code = Unauthenticated desc = etcdserver: invalid auth token",
            ),
        ];
        assert!(stale.iter().all(Fault::is_stale_token));
        let wrong = refused(
            Code::InvalidArgument,
            "etcdserver: authentication failed, invalid user ID or password",
        );
        assert!(!wrong.is_stale_token());
    }
}
