//! `[registry.embedded]`: the registry that is built in.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
};

use crate::config::{
    Secret,
    addresses::{Claims, hosts},
    document::table::Table,
};

/// `[registry.embedded]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Embedded {
    /// Where its HTTP API listens.
    pub address: SocketAddr,
    /// The folder that keeps its state.
    pub data: PathBuf,
    /// Needed for changes where the address is not a loopback one.
    pub token: Option<Secret>,
    /// Names that requests may have as `Host` beside those of loopback and IP addresses.
    pub hosts: Vec<String>,
}

const ADDRESS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8500);
const OWNER: &str = "the embedded registry";

impl Embedded {
    /// Where the file names no registry.
    pub(super) fn by_default(base: &Path) -> Self {
        Self {
            address: ADDRESS,
            data: base.join("callboard-data"),
            token: None,
            hosts: Vec::new(),
        }
    }
}

/// Takes the address that it has by default.
pub(super) fn claim(claims: &mut Claims<'_>) {
    claims.add(ADDRESS.into(), OWNER, None);
}

pub(super) fn read<'a>(table: &mut Table<'a>, base: &Path, claims: &mut Claims<'a>) -> Embedded {
    let default = Embedded::by_default(base);
    Embedded {
        address: claims.server(table, OWNER, default.address),
        data: table
            .file("data", base, "\"callboard-data\"")
            .unwrap_or(default.data),
        token: table.secret("token", base),
        hosts: hosts(table),
    }
}
