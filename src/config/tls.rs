//! `tls` of a client of ours: whom it trusts, and as whom it comes.

use std::path::{Path, PathBuf};

use super::{reader::Table, report::Wrong};

/// TLS of a client of ours.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientTls {
    /// A PEM file of certificate authorities; the system's where it is left out.
    pub ca: Option<PathBuf>,
    /// A PEM certificate chain and its key.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// Reads the `tls` of a client of the HTTP API at `address`.
pub(super) fn of_url(table: &mut Table<'_>, base: &Path, address: &str) -> ClientTls {
    if let Some(field) = table.take("tls")
        && !address.starts_with("https://")
    {
        let rest = address.trim_start_matches("http://");
        field.wrong(
            Wrong::new("`tls` needs an address of https")
                .suggest(format!("write `address = \"https://{rest}\"`")),
        );
    }
    table.within("tls", |table| client(table, base))
}

/// Reads the keys of a client's `tls`.
pub(super) fn client(table: &mut Table<'_>, base: &Path) -> ClientTls {
    let ca = table.file("ca", base, "\"ca.pem\"");
    let certificate = table.file("certificate", base, "\"client.pem\"");
    let key = table.file("key", base, "\"client-key.pem\"");
    for (one, other) in [("certificate", "key"), ("key", "certificate")] {
        if table.has(one) && !table.has(other) {
            let wrong = Wrong::new(format!("`{one}` is of no use without `{other}`"));
            table.absent(other, wrong.suggest(format!("add `{other} = \"….pem\"`")));
        }
    }
    ClientTls {
        ca,
        identity: certificate.zip(key),
    }
}
