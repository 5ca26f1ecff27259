//! The demo's own proxy and admin server, and its registry, on ports that are free. The one file of the
//! demo that knows the app.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::Path,
};

use anyhow::Context;
use tempfile::TempDir;

use super::registry::RegistryProcess;
use crate::{
    app::App,
    config::{Config, ListenAddress},
};

/// What runs beside the providers.
pub(super) struct Servers {
    app: App,
    pub(super) proxy: SocketAddr,
    pub(super) registry: RegistryProcess,
    pub(super) admin: SocketAddr,
    /// What is not where it was wanted, one line each.
    pub(super) moved: Vec<String>,
    /// The registry's state, removed with this.
    _data: TempDir,
}

impl Servers {
    /// Starts them, the proxy on this port; a port that cannot be had is replaced by a free one.
    pub(super) async fn start(port: u16) -> anyhow::Result<Self> {
        let data = tempfile::Builder::new()
            .prefix("callboard-demo-")
            .tempdir()
            .context("cannot make a temporary folder")?;
        let wanted = match port {
            0 => [0; 3],
            port => [port, 8500, 9900],
        };
        // Another process may have taken one since it was looked at.
        let [first, second, third] = wanted.map(free_or_any);
        let registry = match RegistryProcess::start(second, data.path()).await {
            Ok(registry) => registry,
            Err(_) => RegistryProcess::start(0, data.path()).await?,
        };
        let app = match start([first, third], registry.address, data.path()).await {
            Ok(app) => app,
            Err(_) => start([0; 2], registry.address, data.path()).await?,
        };
        let first = app.listeners().first().and_then(ListenAddress::tcp);
        let proxy = first.context("no listener was started")?;
        let admin = app.admin();
        let moved = ["proxy", "registry", "admin server"]
            .iter()
            .zip(wanted)
            .zip([proxy, registry.address, admin])
            .filter(|((_, wanted), at)| *wanted != 0 && *wanted != at.port())
            .map(|((what, wanted), at)| {
                let port = at.port();
                format!("port {wanted} is taken: the {what} is at port {port} instead")
            })
            .collect();
        Ok(Self {
            app,
            proxy,
            registry,
            admin,
            moved,
            _data: data,
        })
    }

    /// Lets the requests under way finish, and stops.
    pub(super) async fn stop(self) {
        self.app.drain().await;
        self.registry.end().await;
    }
}

/// The port, or 0 where it cannot be had. The probe does not share ports, so that it sees another
/// Callboard too.
fn free_or_any(port: u16) -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).map_or(0, |_| port)
}

async fn start(ports: [u16; 2], registry: SocketAddr, data: &Path) -> anyhow::Result<App> {
    let config = Config::parse(&config(ports, registry), data)
        .map_err(|report| anyhow::anyhow!("the demo's own config is wrong: {report}"))?;
    Ok(App::start(config).await?)
}

/// The proxy.toml of the demo.
fn config([proxy, admin]: [u16; 2], registry: SocketAddr) -> String {
    format!(
        r#"
[[listen]]
address = "127.0.0.1:{proxy}"

[admin]
address = "127.0.0.1:{admin}"

[registry.consul]
address = "http://{registry}"

[drain]
notice = "0s"
deadline = "5s"

[[route]]
host = "{{service}}.localhost"
service = "{{service}}"

[[route]]
path = "/{{service}}"
service = "{{service}}"
strip_prefix = true
"#
    )
}

#[cfg(test)]
mod tests {
    use socket2::{Domain, Socket, Type};

    use super::*;

    #[test]
    fn a_port_that_is_taken_is_replaced() {
        let other = TcpListener::bind("127.0.0.1:0").unwrap();
        let taken = other.local_addr().unwrap().port();
        assert_eq!(free_or_any(taken), 0);
        drop(other);
        assert_eq!(free_or_any(taken), taken);
    }

    #[test]
    fn another_callboard_which_shares_its_port_is_seen() {
        let other = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        other.set_reuse_port(true).unwrap();
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        other.bind(&any.into()).unwrap();
        other.listen(1).unwrap();
        let taken = other.local_addr().unwrap().as_socket().unwrap().port();
        assert_eq!(free_or_any(taken), 0);
    }
}
