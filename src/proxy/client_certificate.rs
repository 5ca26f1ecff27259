//! What a client's certificate says, as its endpoints are told: an element of
//! `X-Forwarded-Client-Cert`, in Envoy's form. The value is safe whatever stands in the certificate.

use std::fmt::Write as _;

use crate::tls::{AlternativeName, Certificate};

/// The field's name.
pub(super) const NAME: &str = "x-forwarded-client-cert";

/// The field's value for this certificate.
pub(super) fn element(certificate: &Certificate) -> String {
    let mut element = format!(
        "Hash={};Subject={}",
        certificate.fingerprint,
        quoted(&certificate.subject, true, Percent::Escaped)
    );
    for name in &certificate.alternative_names {
        let (key, name, percent) = match name {
            AlternativeName::Dns(host) => ("DNS", host, Percent::Escaped),
            AlternativeName::Email(mailbox) => ("Email", mailbox, Percent::Escaped),
            AlternativeName::Ip(address) => ("IP", address, Percent::Escaped),
            AlternativeName::Uri(uri) => ("URI", uri, Percent::AsItIs),
        };
        // Writing to a text cannot fail.
        let _ = write!(element, ";{key}={}", quoted(name, false, percent));
    }
    element
}

/// What becomes of a percent sign.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Percent {
    /// It is encoded, so that what reads the field can tell it from what was encoded here.
    Escaped,
    /// A URI is percent-encoded already, and endpoints compare it as it is.
    AsItIs,
}

/// In quotes where that is needed, with what would end them escaped. What cannot stand in a field is
/// percent-encoded.
fn quoted(text: &str, always: bool, percent: Percent) -> String {
    let needs_quotes = always || text.contains([',', ';', '=', '"', '\\', ' ']);
    let mut out = String::with_capacity(text.len() + 2);
    if needs_quotes {
        out.push('"');
    }
    for byte in text.bytes() {
        match byte {
            b'"' | b'\\' => out.extend(['\\', char::from(byte)]),
            b'%' if percent == Percent::Escaped => out.push_str("%25"),
            b' '..=b'~' => out.push(char::from(byte)),
            _ => {
                let _ = write!(out, "%{byte:02X}");
            }
        }
    }
    if needs_quotes {
        out.push('"');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_element_says_who_the_client_is_and_cannot_be_broken_out_of() {
        let certificate = Certificate {
            subject: "CN=a\\,b\",O=\r\nX: y,OU=%0D".to_owned(),
            alternative_names: vec![
                AlternativeName::Uri("spiffe://example.com/a%20cart".to_owned()),
                AlternativeName::Dns("cart.internal;Hash=00,é".to_owned()),
                AlternativeName::Ip("10.0.0.7".to_owned()),
                AlternativeName::Email("a@b".to_owned()),
            ],
            not_before: 0,
            not_after: 0,
            fingerprint: "ab12".to_owned(),
        };
        assert_eq!(
            element(&certificate),
            "Hash=ab12;Subject=\"CN=a\\\\,b\\\",O=%0D%0AX: y,OU=%250D\";URI=spiffe://example.com/a%20cart;\
             DNS=\"cart.internal;Hash=00,%C3%A9\";IP=10.0.0.7;Email=a@b"
        );
    }
}
