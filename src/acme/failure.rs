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
    pub(super) concerns: Concern,
}

/// What a failure concerns, and so what waits for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Concern {
    /// The name: all others are ordered.
    Name,
    /// The account: a limit, or an authority that is not reached. The next name would meet the same.
    Account,
    /// An account that the authority does not know.
    UnknownAccount,
    /// The folder: the authority was not asked for an order.
    Folder,
}

impl Failure {
    pub(super) fn new(words: impl Into<String>) -> Self {
        Self {
            words: words.into(),
            concerns: Concern::Name,
        }
    }

    /// Of the folder.
    pub(super) fn of_folder(words: impl Into<String>) -> Self {
        Self {
            concerns: Concern::Folder,
            ..Self::new(words)
        }
    }

    /// Of a step that opens or makes the account, which has no name in it.
    pub(super) fn of_opening(error: &Error) -> Self {
        let mut failure = Self::of(error);
        if failure.concerns == Concern::Name {
            failure.concerns = Concern::Account;
        }
        failure
    }

    /// Of a step that failed.
    pub(super) fn of(error: &Error) -> Self {
        let concerns = concern(error);
        let words = Self::new(Self::words(error)).words;
        Self { words, concerns }
    }

    fn words(error: &Error) -> String {
        match error {
            Error::Api(problem) => of_problem(problem),
            Error::Timeout(_) => "the authority has not come to an end in time".to_owned(),
            Error::Other(error) => {
                let error = with_causes(&**error);
                format!("the authority cannot be asked: {error}")
            }
            Error::Json(_) => format!("what answers is no authority: {error}"),
            error => error.to_string(),
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

/// Whether the authority has refused that an order replaces a certificate, and not the order (RFC 9773 5).
pub(super) fn refuses_replacing(error: &Error) -> bool {
    match error {
        // An account of its own has the certificate, where it says `unauthorized`.
        Error::Api(problem) => {
            let kinds = ["alreadyReplaced", "malformed", "conflict", "unauthorized"];
            kinds.contains(&kind(problem))
        }
        Error::Unsupported(_) => true,
        // The library's own word for an order that does not say what it replaces.
        Error::Other(error) => !error.is::<reqwest::Error>(),
        _ => false,
    }
}

fn concern(error: &Error) -> Concern {
    match error {
        Error::Api(problem) => match kind(problem) {
            "accountDoesNotExist" => Concern::UnknownAccount,
            "rateLimited"
            | "serverInternal"
            | "unauthorized"
            | "externalAccountRequired"
            | "invalidContact"
            | "unsupportedContact"
            | "userActionRequired" => Concern::Account,
            _ if matches!(problem.status, Some(429 | 500..)) => Concern::Account,
            _ => Concern::Name,
        },
        Error::Other(error) if error.is::<reqwest::Error>() => Concern::Account,
        // What stands in front of an authority that is away.
        Error::Json(_) => Concern::Account,
        _ => Concern::Name,
    }
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
        "unauthorized" => {
            "the authority does not let the account do that; where the account was deactivated, \
             another is made once its file `account.….json` is removed"
        }
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
        let deactivated = Failure::of(&Error::Api(problem("unauthorized", "deactivated")));
        assert!(
            deactivated.words.contains("is removed: deactivated"),
            "{}",
            deactivated.words
        );
        let limited = Error::Api(problem("rateLimited", "come\nlater"));
        let limited = Failure::of(&limited);
        assert_eq!(
            limited.words,
            "the authority was asked too often: come later"
        );
        assert_eq!(limited.concerns, Concern::Account);
        assert!(is_bad_nonce(&Error::Api(problem("badNonce", ""))));
        let long = Failure::of(&Error::Api(problem("malformed", &"x".repeat(1000))));
        assert!(long.words.len() < 500);
    }

    #[test]
    fn what_the_next_name_would_meet_as_well_concerns_the_account() {
        for (of, concerns) in [
            ("rateLimited", Concern::Account),
            ("serverInternal", Concern::Account),
            ("userActionRequired", Concern::Account),
            ("accountDoesNotExist", Concern::UnknownAccount),
            ("rejectedIdentifier", Concern::Name),
            ("caa", Concern::Name),
        ] {
            let failure = Failure::of(&Error::Api(problem(of, "")));
            assert_eq!(failure.concerns, concerns, "{of}");
        }
        let busy = Problem {
            status: Some(503),
            ..problem("other", "")
        };
        assert_eq!(Failure::of(&Error::Api(busy)).concerns, Concern::Account);
        let page = serde_json::from_str::<u8>("<html>").unwrap_err();
        assert_eq!(Failure::of(&Error::Json(page)).concerns, Concern::Account);
        let refused = Error::Api(problem("malformed", ""));
        assert_eq!(Failure::of_opening(&refused).concerns, Concern::Account);
        let late = Failure::of(&Error::Timeout(None));
        assert_eq!(late.concerns, Concern::Name);
    }

    #[test]
    fn an_order_is_made_again_only_where_its_replacing_was_refused() {
        for (of, is_refused) in [
            ("alreadyReplaced", true),
            ("malformed", true),
            ("conflict", true),
            ("rateLimited", false),
            ("serverInternal", false),
        ] {
            let error = Error::Api(problem(of, ""));
            assert_eq!(refuses_replacing(&error), is_refused, "{of}");
        }
        assert!(refuses_replacing(&Error::Unsupported("ARI")));
        assert!(refuses_replacing(&Error::Other("mismatch".into())));
        assert!(!refuses_replacing(&Error::Timeout(None)));
    }
}
