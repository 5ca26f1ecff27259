//! Which addresses the file makes Callboard listen on, so that no two of them collide and none
//! is open to strangers by accident. Knows nothing of sockets.

use std::net::SocketAddr;

use super::{
    ListenAddress,
    document::{field::Field, report::Wrong, table::Table, value},
};

/// The addresses that are taken so far.
#[derive(Default)]
pub(super) struct Claims<'a>(Vec<Claim<'a>>);

struct Claim<'a> {
    address: ListenAddress,
    /// Who listens there, as it stands in a sentence.
    owner: &'static str,
    /// Where the file says so; none for a default.
    field: Option<Field<'a>>,
}

impl<'a> Claims<'a> {
    /// Takes an address for its owner. An address that another owner has is noted as wrong.
    pub(super) fn add(
        &mut self,
        address: ListenAddress,
        owner: &'static str,
        field: Option<Field<'a>>,
    ) {
        let taken = self.0.iter().find(|taken| taken.address.overlaps(&address));
        if let Some(taken) = taken {
            let wrong = Wrong::new(format!(
                "{owner} on {address} collides with {} on {}",
                taken.owner, taken.address
            ))
            .suggest(match address {
                ListenAddress::Tcp(_) => "give one of them another port",
                ListenAddress::Unix(_) => "give one of them another path",
            });
            // No two defaults collide, so one of the two stands in the file.
            if let Some(field) = field.as_ref().or(taken.field.as_ref()) {
                field.wrong(wrong);
            }
        }
        self.0.push(Claim {
            address,
            owner,
            field,
        });
    }

    /// Reads and takes the `address` of a server that may change things, and so needs a token
    /// where strangers reach it.
    pub(super) fn server(
        &mut self,
        table: &mut Table<'a>,
        owner: &'static str,
        default: SocketAddr,
    ) -> SocketAddr {
        let field = table.take("address");
        let example = format!("\"{default}\"");
        let address = field
            .as_ref()
            .and_then(|field| field.parse("an address", &example, value::listen_address))
            .unwrap_or(default);
        if let Some(field) = &field
            && !address.ip().is_loopback()
            && !table.has("token")
        {
            field.wrong(
                Wrong::new(format!("{owner} on {address} is open to strangers"))
                    .suggest("add `token = { file = \"…\" }`, or listen on 127.0.0.1"),
            );
        }
        self.add(address.into(), owner, field);
        address
    }
}

/// Reads the `hosts` of a server that may change things: its names, without a port.
pub(super) fn hosts(table: &mut Table<'_>) -> Vec<String> {
    let example = "\"callboard\"";
    let fields = table.take("hosts").map(|field| field.one_or_more(example));
    let name = |field: &Field<'_>| field.parse("a host name", example, value::host_name);
    fields.iter().flatten().filter_map(name).collect()
}

#[cfg(test)]
mod tests {
    use super::super::testing::{ROUTE, config, error};

    #[test]
    fn a_server_may_have_names() {
        let text = "[admin]\nhosts = [\"Callboard\"]\n[registry.embedded]\nhosts = \"registry\"\n";
        assert_eq!(config(&format!("{text}{ROUTE}")).admin.hosts, ["callboard"]);
        for wrong in ["*.internal", "callboard:9900"] {
            let text = format!("[admin]\nhosts = [\"{wrong}\"]\n{ROUTE}");
            assert!(error(&text).starts_with("2:10 admin.hosts: "), "{wrong}");
        }
    }
}
