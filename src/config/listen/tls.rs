//! `listen.tls`: which certificates a listener shows, and what it asks of its clients. Knows nothing of
//! what stands in the files.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use http::HeaderValue;

use super::acme::{self, Acme};
use crate::config::{
    document::{report::Wrong, table::Table, value::Zero},
    load::strict,
};

/// `listen.tls`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenTls {
    /// At least one, where none is ordered. The first is shown to a client that names no host.
    pub certificates: Vec<CertificateFiles>,
    /// What certificates the proxy orders itself; `None` where it orders none.
    pub acme: Option<Acme>,
    /// What becomes of a client that names a host which no certificate is for.
    pub unknown_name: UnknownName,
    /// The oldest version that is spoken.
    pub min_version: TlsVersion,
    /// What is asked of clients' certificates; `None` where they are not asked for one.
    pub client: Option<ClientCertificates>,
    /// `tls.tickets.file`: the keys of session tickets; the process's own where it is left out.
    pub tickets: Option<PathBuf>,
    /// The `Strict-Transport-Security` of every answer that has none.
    pub hsts: Option<HeaderValue>,
}

/// One of `listen.tls.certificates`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFiles {
    /// A PEM file of the certificate and its chain.
    pub cert: PathBuf,
    /// A PEM file of its key.
    pub key: PathBuf,
}

/// `listen.tls.unknown_name`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnknownName {
    /// The client is shown the first certificate (the default).
    Default,
    /// The handshake is refused, and so is one without a name.
    Refuse,
}

/// `listen.tls.min_version`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsVersion {
    /// TLS 1.2 (the default of the profile `intermediate`).
    Tls12,
    /// TLS 1.3 (that of `modern`).
    Tls13,
}

/// `listen.tls.client`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientCertificates {
    /// A PEM file of the authorities that clients have their certificates from.
    pub ca: PathBuf,
    /// Whether a client without a certificate is turned away.
    pub required: bool,
}

/// Mozilla's names for what a server speaks; ciphers are those of the versions, all of them with forward
/// secrecy.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Profile {
    Modern,
    Intermediate,
}

const EXAMPLE: &str = "{ cert = \"cert.pem\", key = \"key.pem\" }";

/// Reads the `tls` of a listener, where it has one.
pub(super) fn read(table: &mut Table<'_>, base: &Path) -> Option<Arc<ListenTls>> {
    let field = table.take("tls")?;
    Some(Arc::new(field.within(|table| one(table, base))))
}

fn one(table: &mut Table<'_>, base: &Path) -> ListenTls {
    for key in ["cert", "key", "certificate"] {
        let wrong = Wrong::new("there may be several certificates");
        table.refuse(
            key,
            wrong.suggest(format!("write `certificates = [{EXAMPLE}]`")),
        );
    }
    let profile = table.choice(
        "profile",
        &[
            ("intermediate", Profile::Intermediate),
            ("modern", Profile::Modern),
        ],
        Profile::Intermediate,
    );
    let client = client(table, base);
    let acme = acme::read(table, base);
    ListenTls {
        certificates: certificates(table, base),
        acme,
        unknown_name: table.choice(
            "unknown_name",
            &[
                ("default", UnknownName::Default),
                ("refuse", UnknownName::Refuse),
            ],
            UnknownName::Default,
        ),
        min_version: min_version(table, profile),
        tickets: tickets(table, base, client.is_some()),
        client,
        hsts: hsts(table),
    }
}

fn certificates(table: &mut Table<'_>, base: &Path) -> Vec<CertificateFiles> {
    let misspelt = ["cert", "key", "certificate"];
    let is_said = misspelt.iter().any(|key| table.has(key)) || table.has("acme");
    let field = if is_said {
        table.take("certificates")
    } else {
        table.required("certificates", &format!("[{EXAMPLE}]"))
    };
    let Some(field) = field else {
        return Vec::new();
    };
    let elements = field.elements(EXAMPLE);
    if field.is_empty_array() && !table.has("acme") {
        let wrong = Wrong::new("a listener with `tls` needs a certificate");
        field.wrong(wrong.suggest(format!("write `certificates = [{EXAMPLE}]`")));
    }
    let pair = |table: &mut Table<'_>| {
        let cert = file(table, base, "cert", "\"cert.pem\"", "CERTIFICATE");
        let key = file(table, base, "key", "\"key.pem\"", "PRIVATE KEY");
        let (cert, key) = cert.zip(key)?;
        Some(CertificateFiles { cert, key })
    };
    let pairs = elements.iter().filter_map(|element| {
        if !element.is_table() {
            element.expected("a certificate and its key", Some(EXAMPLE));
            return None;
        }
        element.within(pair)
    });
    pairs.collect()
}

/// A file that must be named. Whether it can be read is for `check`, and for the start.
fn file(
    table: &mut Table<'_>,
    base: &Path,
    key: &'static str,
    example: &str,
    wanted: &str,
) -> Option<PathBuf> {
    table.required(key, example)?;
    let path = table.file(key, base, example)?;
    if let Some(field) = table.take(key) {
        strict::check_file(&field, &path, wanted);
    }
    Some(path)
}

fn min_version(table: &mut Table<'_>, profile: Profile) -> TlsVersion {
    let default = match profile {
        Profile::Modern => TlsVersion::Tls13,
        Profile::Intermediate => TlsVersion::Tls12,
    };
    let words = [("1.2", TlsVersion::Tls12), ("1.3", TlsVersion::Tls13)];
    let version = table.choice("min_version", &words, default);
    if version == TlsVersion::Tls12
        && profile == Profile::Modern
        && let Some(field) = table.take("min_version")
    {
        let wrong = Wrong::new("the profile `modern` speaks TLS 1.3 alone");
        field
            .wrong(wrong.suggest("leave `min_version` out, or write `profile = \"intermediate\"`"));
    }
    version
}

fn client(table: &mut Table<'_>, base: &Path) -> Option<ClientCertificates> {
    let field = table.take("client")?;
    field.within(|table| {
        let ca = file(table, base, "ca", "\"clients.pem\"", "CERTIFICATE");
        let required = table.choice("mode", &[("required", true), ("optional", false)], true);
        let ca = ca?;
        Some(ClientCertificates { ca, required })
    })
}

fn tickets(table: &mut Table<'_>, base: &Path, asks_clients: bool) -> Option<PathBuf> {
    let field = table.take("tickets")?;
    if asks_clients {
        let wrong = Wrong::new("with `client` no session is resumed, and no key is used");
        field.wrong(wrong.suggest("leave `tickets` out"));
    }
    field.within(|table| {
        let example = "\"ticket-keys\"";
        table.required("file", example)?;
        let path = table.file("file", base, example)?;
        if let Some(field) = table.take("file") {
            strict::check_readable(&field, &path);
        }
        Some(path)
    })
}

fn hsts(table: &mut Table<'_>) -> Option<HeaderValue> {
    let field = table.take("hsts")?;
    field.within(|table| {
        let age = table.required("max_age", "\"8760h\"");
        let age = age.and_then(|field| field.duration(Zero::Allowed));
        let subdomains = table.flag("include_subdomains", false);
        let preload = table.flag("preload", false);
        let mut text = format!("max-age={}", age?.as_secs());
        if subdomains {
            text += "; includeSubDomains";
        }
        if preload {
            text += "; preload";
        }
        HeaderValue::from_str(&text).ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        cases::cases,
        config::testing::{ROUTE, config, error, errors},
    };

    const FILES: &str = "certificates = [{ cert = \"a.pem\", key = \"a-key.pem\" }]";

    fn listen(tls: &str) -> String {
        format!("[[listen]]\naddress = \"127.0.0.1:443\"\ntls = {{ {tls} }}\n{ROUTE}")
    }

    fn tls(text: &str) -> ListenTls {
        let config = config(&listen(text));
        let tls = config.listeners[0].tls.as_ref().unwrap();
        ListenTls::clone(tls)
    }

    #[test]
    fn a_certificate_and_its_key_are_enough() {
        let read = tls(FILES);
        assert_eq!(read.certificates.len(), 1);
        assert!(read.certificates[0].cert.ends_with("a.pem"));
        assert!(read.certificates[0].key.ends_with("a-key.pem"));
        assert_eq!(read.unknown_name, UnknownName::Default);
        assert_eq!(read.min_version, TlsVersion::Tls12);
        assert_eq!((read.client, read.tickets, read.hsts), (None, None, None));
        assert!(config(ROUTE).listeners[0].tls.is_none());
    }

    #[test]
    fn everything_that_can_be_said_is_understood() {
        let read = tls(&format!(
            "{FILES}, unknown_name = \"refuse\", profile = \"modern\", \
             client = {{ ca = \"ca.pem\", mode = \"optional\" }}, \
             hsts = {{ max_age = \"8760h\", include_subdomains = true, preload = true }}"
        ));
        assert_eq!(read.unknown_name, UnknownName::Refuse);
        assert_eq!(read.min_version, TlsVersion::Tls13);
        let client = read.client.unwrap();
        assert!(client.ca.ends_with("ca.pem") && !client.required);
        let hsts = "max-age=31536000; includeSubDomains; preload";
        assert_eq!(read.hsts.unwrap(), hsts);
        let shared = tls(&format!("{FILES}, tickets = {{ file = \"keys\" }}"));
        assert!(shared.tickets.unwrap().ends_with("keys"));
        let newer = tls(&format!("{FILES}, min_version = \"1.3\""));
        assert_eq!(newer.min_version, TlsVersion::Tls13);
        let required = tls(&format!("{FILES}, client = {{ ca = \"ca.pem\" }}"));
        assert!(required.client.unwrap().required);
    }

    #[test]
    fn every_wrong_value_is_named() {
        for (text, says) in cases(
            r#"
            unknown_name = "default"
            => listen.tls.certificates: the key `certificates` is missing; write `certificates = [{ cert = "cert.pem", key = "key.pem" }]`
            cert = "a.pem"
            => listen.tls.cert: there may be several certificates; write `certificates = [{ cert = "cert.pem", key = "key.pem" }]`
            certificates = []
            => listen.tls.certificates: a listener with `tls` needs a certificate; write `certificates = [{ cert = "cert.pem", key = "key.pem" }]`
            certificates = [{ cert = "a.pem" }]
            => listen.tls.certificates.key: the key `key` is missing; write `key = "key.pem"`
            "#,
        ) {
            let said = error(&listen(&text));
            assert!(said.ends_with(&says), "{text}: {said}");
        }
        for (text, says) in cases(
            r#"
            min_version = "1.1" => `1.1` is not known here
            profile = "modern", min_version = "1.2" => the profile `modern` speaks TLS 1.3 alone
            client = { mode = "optional" } => the key `ca` is missing
            client = { ca = "ca.pem", mode = "always" } => `always` is not known here
            hsts = { preload = true } => the key `max_age` is missing
            tickets = {} => the key `file` is missing
            client = { ca = "ca.pem" }, tickets = { file = "keys" }
            => with `client` no session is resumed
            ciphers = "all" => unknown key `ciphers`
            "#,
        ) {
            let said = errors(&listen(&format!("{FILES}, {text}")));
            assert!(
                said.len() == 1 && said[0].contains(&says),
                "{text}: {said:?}"
            );
        }
        let text = "certificates = [\"a.pem\"]";
        assert!(
            error(&listen(text)).contains("expected a certificate and its key"),
            "{text}"
        );
    }
}
