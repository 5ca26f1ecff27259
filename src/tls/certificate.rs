//! What stands in a certificate: whom it is for, and until when. Knows nothing of whether it is believed.

use std::{
    fmt::Write as _,
    net::{Ipv4Addr, Ipv6Addr},
};

use aws_lc_rs::digest;
use x509_parser::{
    certificate::X509Certificate,
    extensions::GeneralName,
    oid_registry::{
        OID_DOMAIN_COMPONENT, OID_USERID, OID_X509_COMMON_NAME, OID_X509_COUNTRY_NAME,
        OID_X509_LOCALITY_NAME, OID_X509_ORGANIZATION_NAME, OID_X509_ORGANIZATIONAL_UNIT,
        OID_X509_STATE_OR_PROVINCE_NAME, OID_X509_STREET_ADDRESS, Oid,
    },
    prelude::FromDer,
    x509::X509Name,
};

/// What a certificate says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Certificate {
    /// Its subject, as RFC 4514 writes one.
    pub subject: String,
    /// Its alternative names, in its order.
    pub alternative_names: Vec<AlternativeName>,
    /// Unix time in seconds at which it begins to hold.
    pub not_before: i64,
    /// The same at which it holds no more.
    pub not_after: i64,
    /// The SHA-256 of all of it, in lower-case hexadecimal.
    pub fingerprint: String,
}

/// An alternative name of a certificate's subject (RFC 5280 4.2.1.6).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum AlternativeName {
    /// A host, in lower case; perhaps `*.` and a domain.
    Dns(String),
    /// A mailbox.
    Email(String),
    /// An IP address.
    Ip(String),
    /// A URI, such as a SPIFFE id.
    Uri(String),
}

impl Certificate {
    /// Reads one in DER form.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn parse(der: &[u8]) -> Result<Self, String> {
        let (_, parsed) = X509Certificate::from_der(der).map_err(|error| error.to_string())?;
        let names = parsed.subject_alternative_name();
        let names = names.map_err(|error| error.to_string())?;
        let names = names.iter().flat_map(|names| &names.value.general_names);
        let mut fingerprint = String::with_capacity(64);
        for byte in digest::digest(&digest::SHA256, der).as_ref() {
            // Writing to a text cannot fail.
            let _ = write!(fingerprint, "{byte:02x}");
        }
        Ok(Self {
            subject: subject(parsed.subject()),
            alternative_names: names.filter_map(alternative_name).collect(),
            not_before: parsed.validity().not_before.timestamp(),
            not_after: parsed.validity().not_after.timestamp(),
            fingerprint,
        })
    }

    /// The hosts that it is for.
    pub(crate) fn hosts(&self) -> impl Iterator<Item = &str> {
        self.alternative_names.iter().filter_map(|name| match name {
            AlternativeName::Dns(host) => Some(&**host),
            _ => None,
        })
    }
}

fn alternative_name(name: &GeneralName<'_>) -> Option<AlternativeName> {
    Some(match name {
        GeneralName::DNSName(host) => AlternativeName::Dns(host.to_ascii_lowercase()),
        GeneralName::RFC822Name(mailbox) => AlternativeName::Email((*mailbox).to_owned()),
        GeneralName::URI(uri) => AlternativeName::Uri((*uri).to_owned()),
        GeneralName::IPAddress(bytes) => {
            let four = <[u8; 4]>::try_from(*bytes).map(|bytes| Ipv4Addr::from(bytes).to_string());
            let sixteen =
                || <[u8; 16]>::try_from(*bytes).map(|bytes| Ipv6Addr::from(bytes).to_string());
            AlternativeName::Ip(four.or_else(|_| sixteen()).ok()?)
        }
        _ => return None,
    })
}

/// RFC 4514: the last part first, and what has a meaning escaped.
fn subject(name: &X509Name<'_>) -> String {
    let mut parts: Vec<_> = name
        .iter_rdn()
        .map(|part| {
            let values = part.iter().map(|value| {
                let kind = value.attr_type();
                let kind = short(kind).map_or_else(|| kind.to_id_string(), str::to_owned);
                let text = value.as_str().map(str::to_owned);
                let text =
                    text.unwrap_or_else(|_| String::from_utf8_lossy(value.as_slice()).into());
                format!("{kind}={}", escaped(&text))
            });
            values.collect::<Vec<_>>().join("+")
        })
        .collect();
    parts.reverse();
    parts.join(",")
}

/// The short names of RFC 4514, 3.
fn short(kind: &Oid<'_>) -> Option<&'static str> {
    let known = [
        (OID_X509_COMMON_NAME, "CN"),
        (OID_X509_LOCALITY_NAME, "L"),
        (OID_X509_STATE_OR_PROVINCE_NAME, "ST"),
        (OID_X509_ORGANIZATION_NAME, "O"),
        (OID_X509_ORGANIZATIONAL_UNIT, "OU"),
        (OID_X509_COUNTRY_NAME, "C"),
        (OID_X509_STREET_ADDRESS, "STREET"),
        (OID_DOMAIN_COMPONENT, "DC"),
        (OID_USERID, "UID"),
    ];
    known
        .iter()
        .find(|(oid, _)| oid == kind)
        .map(|(_, name)| *name)
}

fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let last = text.chars().count().saturating_sub(1);
    for (place, c) in text.chars().enumerate() {
        let at_the_edge = (c == ' ' && (place == 0 || place == last)) || (c == '#' && place == 0);
        if at_the_edge || matches!(c, '"' | '+' | ',' | ';' | '<' | '>' | '\\') {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair, SanType};

    use super::*;

    #[test]
    fn a_certificate_says_whom_it_is_for_and_until_when() {
        let mut params = CertificateParams::new(["Shop.Example.com".to_owned()]).unwrap();
        let uri = "spiffe://example.com/cart".try_into().unwrap();
        params.subject_alt_names.push(SanType::URI(uri));
        params
            .subject_alt_names
            .push(SanType::IpAddress([10, 0, 0, 7].into()));
        params.distinguished_name = rcgen::DistinguishedName::new();
        params
            .distinguished_name
            .push(DnType::OrganizationName, "Example, Inc.");
        params.distinguished_name.push(DnType::CommonName, "cart+1");
        params.not_before = rcgen::date_time_ymd(2026, 1, 1);
        params.not_after = rcgen::date_time_ymd(2026, 3, 1);
        let made = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        let read = Certificate::parse(made.der()).unwrap();
        assert_eq!(read.subject, "CN=cart\\+1,O=Example\\, Inc.");
        assert_eq!(
            read.alternative_names,
            [
                AlternativeName::Dns("shop.example.com".to_owned()),
                AlternativeName::Uri("spiffe://example.com/cart".to_owned()),
                AlternativeName::Ip("10.0.0.7".to_owned()),
            ]
        );
        assert_eq!(read.hosts().collect::<Vec<_>>(), ["shop.example.com"]);
        assert_eq!(read.not_after - read.not_before, 59 * 24 * 3600);
        assert_eq!(read.fingerprint.len(), 64);
        assert!(Certificate::parse(b"none").is_err());
    }
}
