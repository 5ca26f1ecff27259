//! A change needs the token, which a client sends as it would to Consul. Knows nothing of what is
//! asked for.

use http::HeaderMap;

use crate::control::access::{self, Access, Denied};

/// Whether a change may be made, or why not.
pub(super) fn allows_change(gate: &Access, headers: &HeaderMap) -> Result<(), &'static str> {
    gate.admit(sent_token(headers))
        .map_err(|denied| match denied {
            Denied::NoneSet => {
                "Permission denied: a registry that listens beyond loopback takes changes \
                 only with a token, and none is set (registry.embedded.token)"
            }
            Denied::Missing => "Permission denied: changes need the registry's token",
            Denied::Wrong => "Permission denied: the token is not the registry's",
        })
}

/// The token that a client of Consul's sends.
pub(super) fn sent_token(headers: &HeaderMap) -> Option<&str> {
    match headers.get("x-consul-token") {
        Some(token) => token.to_str().ok().filter(|token| !token.is_empty()),
        None => access::bearer(headers),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_token_is_taken_from_consuls_header_before_a_bearers() {
        let gate = Access::new("127.0.0.1:1".parse().unwrap(), Some("s3cret".to_owned()));
        let allows = |sent: &[(&'static str, &str)]| {
            let headers = sent.iter();
            let headers = headers
                .map(|(name, value)| (http::HeaderName::from_static(name), value.parse().unwrap()));
            allows_change(&gate, &headers.collect()).is_ok()
        };
        assert!(allows(&[("x-consul-token", "s3cret")]));
        assert!(allows(&[("authorization", "Bearer s3cret")]));
        assert!(!allows(&[]));
        assert!(!allows(&[("x-consul-token", "")]));
        assert!(!allows(&[
            ("x-consul-token", "wrong"),
            ("authorization", "Bearer s3cret")
        ]));
    }
}
