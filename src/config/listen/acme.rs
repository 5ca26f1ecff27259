//! `listen.tls.acme`: certificates that the proxy orders itself, by ACME (RFC 8555): for which names, and of
//! whom. Knows nothing of how one is ordered.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    path::{Path, PathBuf},
};

use crate::config::{
    document::{field::Field, report::Wrong, table::Table, value},
    load::strict,
};

/// Let's Encrypt's, which is asked where no other is named.
const LETS_ENCRYPT: &str = "https://acme-v02.api.letsencrypt.org/directory";

/// Bytes of a name: the longest file that is named after it has 15 more, and 255 at the most.
const LONGEST_NAME: usize = 240;

/// Bytes of a label of a name (RFC 1035 2.3.4).
const LONGEST_LABEL: usize = 63;

/// `listen.tls.acme`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acme {
    /// The names that certificates are ordered for, one for each.
    pub domains: Domains,
    /// Of whom, and where they are kept.
    pub account: AcmeAccount,
}

/// `listen.tls.acme.domains`
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Domains {
    /// These, in lower case; at least one.
    Named(Vec<String>),
    /// The hosts that routes of the file name as a whole.
    OfRoutes,
}

/// An account at an authority. Listeners with equal ones share it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AcmeAccount {
    /// The URL of the authority's directory (RFC 8555 7.1.1).
    pub directory: String,
    /// Where the authority may write to.
    pub email: Option<String>,
    /// A PEM file of the authorities that the directory's own certificate is from; the system's where it is
    /// left out.
    pub ca: Option<PathBuf>,
    /// Where the account's key, and the certificates with theirs, are kept.
    pub folder: PathBuf,
}

impl Acme {
    /// The names that certificates are ordered for, where routes name these hosts as a whole.
    pub fn names<'h>(&self, hosts: impl Iterator<Item = &'h str>) -> BTreeSet<String> {
        match &self.domains {
            Domains::Named(names) => names.iter().cloned().collect(),
            // A name of one label is of no authority's business.
            Domains::OfRoutes => hosts
                .filter(|host| host.contains('.'))
                .filter_map(|host| domain(host).ok())
                .collect(),
        }
    }
}

/// Reads the `acme` of a listener's `tls`, where it has one.
pub(super) fn read(table: &mut Table<'_>, base: &Path) -> Option<Acme> {
    let field = table.take("acme")?;
    field.within(|table| {
        let domains = domains(table);
        let account = AcmeAccount {
            directory: table
                .take("directory")
                .and_then(|field| field.parse("a URL", &quoted(LETS_ENCRYPT), directory))
                .unwrap_or_else(|| LETS_ENCRYPT.to_owned()),
            email: table
                .take("email")
                .and_then(|field| field.parse("a mailbox", "\"ops@example.com\"", mailbox)),
            ca: authorities(table, base),
            folder: table
                .file("folder", base, &quoted(FOLDER))
                .unwrap_or_else(|| base.join(FOLDER)),
        };
        let domains = domains?;
        Some(Acme { domains, account })
    })
}

const FOLDER: &str = "callboard-data/acme";

fn quoted(text: &str) -> String {
    format!("\"{text}\"")
}

fn domains(table: &mut Table<'_>) -> Option<Domains> {
    let example = "[\"shop.example.com\"]";
    let field = table.required("domains", example)?;
    if field.is_text_of("routes") {
        return Some(Domains::OfRoutes);
    }
    if field.is_empty_array() {
        let wrong = Wrong::new("there is no name to have a certificate for");
        field.wrong(wrong.suggest(format!("write `domains = {example}`, or \"routes\"")));
        return None;
    }
    let read = |field: &Field<'_>| field.parse("a name", "\"shop.example.com\"", domain);
    let names = field.one_or_more("\"shop.example.com\"");
    Some(Domains::Named(names.iter().filter_map(read).collect()))
}

fn domain(text: &str) -> Result<String, Wrong> {
    let bare = text.trim_matches(['[', ']']);
    if bare.parse::<IpAddr>().is_ok() {
        let wrong = Wrong::new(format!("`{text}` is an address, and no name"));
        return Err(wrong.suggest("write the name that clients ask for"));
    }
    if text.starts_with("*.") {
        let wrong = Wrong::new(format!(
            "`{text}` needs a proof by DNS (dns-01), which is not given here"
        ));
        return Err(wrong.suggest(
            "write each name, or have another program get the certificate and write it in \
             `certificates`",
        ));
    }
    let name = value::host_name(text)?;
    let is_label = |label: &str| {
        let is_at_the_edge = label.starts_with('-') || label.ends_with('-');
        label.len() <= LONGEST_LABEL && !is_at_the_edge && !label.contains('_')
    };
    if name.len() > LONGEST_NAME {
        return Err(Wrong::new(format!(
            "`{text}` has more than {LONGEST_NAME} bytes, and the files of its certificate are named after it"
        )));
    }
    if name.split('.').all(is_label) {
        Ok(name)
    } else {
        let wrong = Wrong::new(format!("`{text}` is no name that a certificate can be for"));
        Err(wrong.suggest("write it as DNS has it, like \"shop.example.com\""))
    }
}

fn directory(text: &str) -> Result<String, Wrong> {
    let url: Option<http::Uri> = text.parse().ok();
    let is_one = |url: &http::Uri| url.scheme_str() == Some("https") && url.host().is_some();
    if url.as_ref().is_some_and(is_one) {
        Ok(text.to_owned())
    } else {
        let wrong = Wrong::new(format!(
            "`{text}` is not the URL of an authority's directory"
        ));
        Err(wrong.suggest(format!("write it like {}", quoted(LETS_ENCRYPT))))
    }
}

fn mailbox(text: &str) -> Result<String, Wrong> {
    let parts = text.split_once('@');
    if parts.is_some_and(|(name, host)| !name.is_empty() && value::host_name(host).is_ok()) {
        Ok(text.to_owned())
    } else {
        let wrong = Wrong::new(format!("`{text}` is not a mailbox"));
        Err(wrong.suggest("write it like \"ops@example.com\""))
    }
}

fn authorities(table: &mut Table<'_>, base: &Path) -> Option<PathBuf> {
    let path = table.file("ca", base, "\"ca.pem\"")?;
    if let Some(field) = table.take("ca") {
        strict::check_file(&field, &path, "CERTIFICATE");
    }
    Some(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        cases::cases,
        config::testing::{ROUTE, config, error, errors},
    };

    fn listen(port: u16, tls: &str) -> String {
        format!("[[listen]]\naddress = \"127.0.0.1:{port}\"\ntls = {{ {tls} }}\n")
    }

    fn text(acme: &str) -> String {
        format!("{}{ROUTE}", listen(443, &format!("acme = {{ {acme} }}")))
    }

    fn acme(text: &str) -> Acme {
        let tls = config(text).listeners[0].tls.clone().unwrap();
        assert!(tls.certificates.is_empty());
        tls.acme.clone().unwrap()
    }

    #[test]
    fn a_name_is_enough() {
        let read = acme(&text("domains = \"Shop.Example.com\""));
        assert_eq!(
            read.domains,
            Domains::Named(vec!["shop.example.com".to_owned()])
        );
        assert_eq!(read.account.directory, LETS_ENCRYPT);
        assert_eq!((&read.account.email, &read.account.ca), (&None, &None));
        let folder = Path::new("/etc/callboard/callboard-data/acme");
        assert_eq!(read.account.folder, folder);
    }

    #[test]
    fn everything_that_can_be_said_is_understood() {
        let read = acme(&text(
            "domains = [\"a.example.com\", \"b.example.com\"], email = \"ops@example.com\", \
             directory = \"https://127.0.0.1:14000/dir\", ca = \"ca.pem\", folder = \"x\"",
        ));
        assert_eq!(read.names(std::iter::empty()).len(), 2);
        assert_eq!(read.account.email.as_deref(), Some("ops@example.com"));
        assert_eq!(read.account.directory, "https://127.0.0.1:14000/dir");
        let path = |name: &str| Path::new("/etc/callboard").join(name);
        assert_eq!(read.account.ca, Some(path("ca.pem")));
        assert_eq!(read.account.folder, path("x"));
    }

    #[test]
    fn of_routes_it_is_the_hosts_that_are_named_as_a_whole() {
        let route = |host: &str, path: &str| {
            format!("[[route]]\nhost = \"{host}\"\npath = \"{path}\"\nservice = \"cart\"\n")
        };
        let routes = [
            route("shop.example.com", "/"),
            route("shop.example.com", "/cart"),
            route("*.example.com", "/"),
            route("localhost", "/"),
            "[[route]]\nservice = \"cart\"\n".to_owned(),
        ];
        let listen = listen(443, "acme = { domains = \"routes\" }");
        let config = config(&format!("{listen}{}", routes.concat()));
        let acme = config.listeners[0].tls.as_ref().unwrap().acme.clone();
        let names = config.names_to_order(&acme.unwrap());
        assert_eq!(names.into_iter().collect::<Vec<_>>(), ["shop.example.com"]);
    }

    #[test]
    fn every_wrong_value_is_named() {
        for (acme, says) in cases(
            r#"
            email = "a@b" => the key `domains` is missing
            domains = [] => there is no name to have a certificate for
            domains = ["10.0.0.7"] => `10.0.0.7` is an address
            domains = ["[::1]"] => `[::1]` is an address
            domains = ["*.example.com"] => needs a proof by DNS
            domains = ["a b"] => `a b` is not the name of a host
            domains = ["-a.example.com"] => is no name that a certificate
            domains = ["a"], directory = "http://a/b" => is not the URL
            domains = ["a"], email = "ops" => `ops` is not a mailbox
            domains = ["a"], key = "a.pem" => unknown key `key`
            "#,
        ) {
            let said = errors(&text(&acme));
            assert!(
                said.len() == 1 && said[0].contains(&says),
                "{acme}: {said:?}"
            );
        }
        let label = "a".repeat(60);
        let long = [&*label; 4].join(".");
        let said = errors(&text(&format!("domains = [\"{long}\"]")));
        assert!(said[0].contains("has more than 240 bytes"), "{said:?}");
        assert_eq!(
            acme(&text(&format!("domains = [\"{}\"]", &long[3..])))
                .names(std::iter::empty())
                .len(),
            1
        );
        let outside = format!("[[listen]]\naddress = \"127.0.0.1:1\"\nacme = {{}}\n{ROUTE}");
        assert!(error(&outside).contains("write `tls = { acme = "));
    }
}
