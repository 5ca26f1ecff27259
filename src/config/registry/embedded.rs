//! `[registry.embedded]`: the registry that is built in.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
};

use crate::config::{Secret, claims::Claims, reader::Table};

/// `[registry.embedded]`
#[derive(Clone, Debug)]
pub struct Embedded {
    /// Where its HTTP API listens.
    pub address: SocketAddr,
    /// The folder that keeps its state.
    pub data: PathBuf,
    /// Needed for changes where the address is not a loopback one.
    pub token: Option<Secret>,
}

pub(super) fn read<'a>(table: &mut Table<'a>, base: &Path, claims: &mut Claims<'a>) -> Embedded {
    let default = SocketAddr::from((Ipv4Addr::LOCALHOST, 8500));
    Embedded {
        address: claims.server(table, "the embedded registry", default),
        data: table
            .file("data", base, "\"callboard-data\"")
            .unwrap_or_else(|| base.join("callboard-data")),
        token: table.secret("token", base),
    }
}
