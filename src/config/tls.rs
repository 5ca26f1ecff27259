//! `tls` of a client of ours: whom it trusts, and as whom it comes.

use std::path::{Path, PathBuf};

use rustls::pki_types::ServerName;

use super::{reader::Table, report::Wrong};

/// TLS of a client of ours.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct ClientTls {
    /// A PEM file of certificate authorities; the system's where it is left out.
    pub ca: Option<PathBuf>,
    /// A PEM certificate chain and its key.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// TLS towards those of a service's endpoints that speak it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct EndpointTls {
    /// Whom they must have their certificates from, and as whom we come.
    pub client: ClientTls,
    /// Who they must be, and are asked for (SNI); where it is left out, the host of each one's
    /// address.
    pub server_name: Option<ServerName<'static>>,
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

/// Reads the `tls` of a service, or of all; what it does not say is taken from `base`.
pub(super) fn of_endpoints(
    table: &mut Table<'_>,
    folder: &Path,
    base: &EndpointTls,
) -> EndpointTls {
    let ClientTls { ca, identity } = client(table, folder);
    let name = table.take("server_name");
    let name = name.and_then(|field| field.parse("a host name", "\"cart.internal\"", server_name));
    EndpointTls {
        client: ClientTls {
            ca: ca.or_else(|| base.client.ca.clone()),
            identity: identity.or_else(|| base.client.identity.clone()),
        },
        server_name: name.or_else(|| base.server_name.clone()),
    }
}

fn server_name(text: &str) -> Result<ServerName<'static>, Wrong> {
    ServerName::try_from(text.to_owned()).map_err(|_| {
        Wrong::new(format!("`{text}` is neither a host name nor an IP address"))
            .suggest("write it without a scheme and a port")
    })
}
