//! Why there is no certificate, in words that say what to look at.

use instant_acme::{ChallengeType, Error, Problem};

use crate::error::with_causes;

/// The kinds of problems that RFC 8555 6.7 lists begin so.
const KIND: &str = "urn:ietf:params:acme:error:";

/// An order that came to nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    /// Why.
    pub(super) words: String,
    /// Whether the authority does not know the account.
    pub(super) is_of_account: bool,
}

impl Failure {
    pub(super) fn new(words: impl Into<String>) -> Self {
        Self {
            words: words.into(),
            is_of_account: false,
        }
    }

    /// Of a step that failed.
    pub(super) fn of(error: &Error) -> Self {
        match error {
            Error::Api(problem) => Self {
                is_of_account: kind(problem) == "accountDoesNotExist",
                ..Self::new(of_problem(problem))
            },
            Error::Timeout(_) => Self::new("the authority has not come to an end in time"),
            Error::Other(error) => {
                let error = with_causes(&**error);
                Self::new(format!("the authority cannot be asked: {error}"))
            }
            Error::Json(_) => Self::new(format!("what answers is no authority: {error}")),
            error => Self::new(error.to_string()),
        }
    }

    /// Of a challenge that the authority has refused.
    pub(super) fn of_challenge(name: &str, by: &ChallengeType, problem: &Problem) -> Self {
        let at = match by {
            ChallengeType::TlsAlpn01 => "by TLS at port 443 (tls-alpn-01)",
            _ => "at port 80 (http-01)",
        };
        let what = match kind(problem) {
            "dns" => format!("the authority does not find {name} in DNS"),
            "connection" => format!("the authority does not reach {name} {at}"),
            "tls" => format!("the authority's handshake with {name} {at} failed"),
            "unauthorized" => {
                format!("what the authority reaches as {name} {at} is not this proxy")
            }
            "caa" => format!("DNS lets other authorities alone give certificates for {name} (CAA)"),
            _ => format!("the authority has refused the proof for {name} {at}"),
        };
        Self::new(format!("{what}: {}", detail(problem)))
    }
}

/// Whether a step is only to be tried again, with a nonce that the authority has just given.
pub(super) fn is_bad_nonce(error: &Error) -> bool {
    matches!(error, Error::Api(problem) if kind(problem) == "badNonce")
}

fn of_problem(problem: &Problem) -> String {
    let what = match kind(problem) {
        "rateLimited" => "the authority was asked too often",
        "rejectedIdentifier" => "the authority gives no certificate for this name",
        "accountDoesNotExist" => "the authority does not know the account",
        "externalAccountRequired" => {
            "the authority wants an account that was made elsewhere, which is not given here"
        }
        "invalidContact" | "unsupportedContact" => "the authority does not take `email`",
        "userActionRequired" => "the authority wants its terms to be agreed to anew",
        "serverInternal" => "the authority has a fault of its own",
        _ => "the authority has refused the order",
    };
    format!("{what}: {}", detail(problem))
}

fn kind(problem: &Problem) -> &str {
    let kind = problem.r#type.as_deref().unwrap_or_default();
    kind.strip_prefix(KIND).unwrap_or(kind)
}

/// What the authority says, in a line of bounded length.
fn detail(problem: &Problem) -> String {
    const MOST: usize = 400;
    let mut said = problem.detail.clone().unwrap_or_default();
    for part in &problem.subproblems {
        if let Some(more) = &part.detail {
            said = format!("{said} {more}");
        }
    }
    if said.is_empty() {
        said = format!("it says {} and no more", kind(problem));
    }
    let said = said.chars().map(|c| if c.is_control() { ' ' } else { c });
    said.take(MOST).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(kind: &str, detail: &str) -> Problem {
        Problem {
            r#type: Some(format!("{KIND}{kind}")),
            detail: Some(detail.to_owned()),
            status: None,
            subproblems: Vec::new(),
        }
    }

    #[test]
    fn a_failure_says_what_to_look_at() {
        let refused = problem("connection", "refused");
        for (by, says) in [
            (
                ChallengeType::Http01,
                "the authority does not reach a.b at port 80 (http-01): refused",
            ),
            (
                ChallengeType::TlsAlpn01,
                "the authority does not reach a.b by TLS at port 443 (tls-alpn-01): refused",
            ),
        ] {
            assert_eq!(Failure::of_challenge("a.b", &by, &refused).words, says);
        }
        let limited = Error::Api(problem("rateLimited", "come\nlater"));
        let limited = Failure::of(&limited);
        assert_eq!(
            limited.words,
            "the authority was asked too often: come later"
        );
        assert!(!limited.is_of_account);
        let gone = Failure::of(&Error::Api(problem("accountDoesNotExist", "who?")));
        assert!(gone.is_of_account);
        assert!(is_bad_nonce(&Error::Api(problem("badNonce", ""))));
        let long = Failure::of(&Error::Api(problem("malformed", &"x".repeat(1000))));
        assert!(long.words.len() < 500);
    }
}
