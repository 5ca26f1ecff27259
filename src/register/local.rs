//! Which of this machine's addresses other machines call a provider at, where the operator gives
//! none. Knows nothing of providers.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use http::Uri;
use tokio::net::{UdpSocket, lookup_host};

use crate::{config::RegistryKind, control::server::reachable};

/// The address from which this machine reaches the registry, which is likely to be one at which
/// others reach this machine: 127.0.0.1 for a registry on loopback. Sends nothing.
///
/// # Errors
/// Where the registry's name cannot be resolved, or there is no way to it.
pub async fn local_ip(registry: &RegistryKind) -> io::Result<IpAddr> {
    let unknown = || io::Error::other("the registry's address has no host");
    let authority = match registry {
        RegistryKind::Embedded(settings) => Some(reachable(settings.address).to_string()),
        RegistryKind::Consul(settings) => settings.addresses.first().and_then(|url| of_url(url)),
        RegistryKind::Etcd(settings) | RegistryKind::Etcd2(settings) => {
            settings.addresses.first().and_then(|url| of_url(url))
        }
        RegistryKind::Eureka(settings) => settings.addresses.first().and_then(|url| of_url(url)),
        RegistryKind::ZooKeeper(settings) => settings.addresses.first().map(ToString::to_string),
        // A provider cannot sign in there.
        RegistryKind::Dns(_) | RegistryKind::File(_) => None,
    };
    let registry = lookup_host(authority.ok_or_else(unknown)?).await?;
    let registry = registry.into_iter().next().ok_or_else(unknown)?;
    if registry.ip().is_loopback() {
        return Ok(Ipv4Addr::LOCALHOST.into());
    }
    let any: IpAddr = match registry {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    // Connecting a UDP socket looks the way up, and no more.
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(registry).await?;
    Ok(socket.local_addr()?.ip())
}

/// The host and port of a URL.
fn of_url(url: &str) -> Option<String> {
    let url: Uri = url.parse().ok()?;
    let default = match url.scheme_str() {
        Some("https") => 443,
        _ => 80,
    };
    let port = url.port_u16().unwrap_or(default);
    Some(format!("{}:{port}", url.host()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    async fn of(address: &str) -> io::Result<IpAddr> {
        let text =
            format!("[registry.consul]\naddress = \"{address}\"\n[[route]]\nservice = \"a\"");
        let config = Config::parse(&text, "".as_ref()).unwrap();
        local_ip(&config.registries["consul"].kind).await
    }

    #[tokio::test]
    async fn beside_a_registry_on_loopback_it_is_loopback() {
        for address in [
            "http://127.0.0.1:8500",
            "http://localhost:8500/consul",
            "http://[::1]:8500",
            "https://127.0.0.9",
        ] {
            assert_eq!(of(address).await.unwrap(), Ipv4Addr::LOCALHOST, "{address}");
        }
    }

    #[tokio::test]
    async fn a_registry_that_is_nowhere_is_an_error() {
        assert!(
            of("http://there.is.no.such.host.invalid:8500")
                .await
                .is_err()
        );
    }

    #[test]
    fn a_url_has_its_schemes_port() {
        for (url, authority) in [
            ("http://consul:8500/x", "consul:8500"),
            ("https://consul.example.com", "consul.example.com:443"),
            ("http://[::1]", "[::1]:80"),
        ] {
            assert_eq!(of_url(url).as_deref(), Some(authority));
        }
    }
}
