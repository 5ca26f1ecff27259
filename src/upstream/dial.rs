//! The socket of a connection to an endpoint, before anything is said on it.

use std::io;

use tokio::net::TcpStream;

use super::names::connect_to;
use crate::{instance::Address, unix};

/// Connects to an address.
///
/// # Errors
/// Where its name leads nowhere, or no connection is taken.
pub(super) async fn dial(address: &Address) -> io::Result<TcpStream> {
    if let Some(path) = address.path() {
        return unix::connect(path).await;
    }
    let socket = match address.socket() {
        Some(socket) => TcpStream::connect(socket).await?,
        None => connect_to(&address.host(), address.port()).await?,
    };
    socket.set_nodelay(true)?;
    Ok(socket)
}
