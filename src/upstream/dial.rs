//! The socket of a connection to an endpoint, before anything is said on it but the PROXY header.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
};

use tokio::{io::AsyncWriteExt as _, net::TcpStream};

use super::names::{connect_to, connect_to_any};
use crate::{
    instance::Address,
    proxy_protocol::{self, Opener},
    unix,
};

/// In which version an endpoint is told whose connection it has.
pub(crate) type SendProxy = Option<proxy_protocol::Version>;

/// Connects to an address, and tells its endpoint whose connection it has where both are given. A reload may
/// ask for that when it is known of this connection no more.
///
/// # Errors
/// Where its name leads nowhere, or no connection is taken.
pub(super) async fn dial(
    address: &Address,
    send_proxy: SendProxy,
    opener: Option<Opener>,
) -> io::Result<TcpStream> {
    let mut socket = reach(address).await?;
    if let (Some(version), Some(opener)) = (send_proxy, opener) {
        // A unix socket has no address.
        let unknown = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        let server = socket.peer_addr().unwrap_or(unknown);
        let header = proxy_protocol::write(version, opener, server);
        socket.write_all(&header).await?;
    }
    Ok(socket)
}

/// Connects to an address of any kind, and says nothing.
///
/// # Errors
/// Where its name leads nowhere, or no connection is taken.
pub(crate) async fn reach(address: &Address) -> io::Result<TcpStream> {
    if let Some(path) = address.path() {
        return unix::connect(path).await;
    }
    let socket = match address.socket() {
        Some(socket) => connect_to_any(&[socket]).await?,
        None => connect_to(&address.host(), address.port()).await?,
    };
    socket.set_nodelay(true)?;
    Ok(socket)
}
