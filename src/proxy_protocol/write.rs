//! A header of our own, of either version.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use super::v2;

/// In which version a header is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Version {
    /// A line of text.
    V1,
    /// Binary.
    V2,
}

/// The header of a connection to this server for a client, of which no port is known; or, without one, for
/// the proxy itself.
pub(crate) fn write(version: Version, client: Option<IpAddr>, server: SocketAddr) -> Vec<u8> {
    let both = client.map(|client| alike(client, server.ip()));
    match version {
        Version::V1 => write_v1(both, server.port()).into_bytes(),
        Version::V2 => write_v2(both, server.port()),
    }
}

fn write_v1(both: Option<[IpAddr; 2]>, port: u16) -> String {
    let Some([client, server]) = both else {
        return "PROXY UNKNOWN\r\n".to_owned();
    };
    let family = if client.is_ipv4() { "TCP4" } else { "TCP6" };
    format!("PROXY {family} {client} {server} 0 {port}\r\n")
}

fn write_v2(both: Option<[IpAddr; 2]>, port: u16) -> Vec<u8> {
    let (command, family, mut rest) = match both {
        None => (0x20, 0x00, Vec::new()),
        Some([IpAddr::V4(client), IpAddr::V4(server)]) => {
            (0x21, 0x11, [client.octets(), server.octets()].concat())
        }
        Some(both) => (0x21, 0x21, both.map(|ip| as_v6(ip).octets()).concat()),
    };
    if both.is_some() {
        rest.extend_from_slice(&[0, 0]);
        rest.extend_from_slice(&port.to_be_bytes());
    }
    // Two addresses of IPv6 and two ports are 36 bytes.
    let head = [command, family, 0, rest.len() as u8];
    [v2::SIGNATURE, &head, &rest].concat()
}

/// Both addresses in one family: that of IPv6 where one of them is.
fn alike(client: IpAddr, server: IpAddr) -> [IpAddr; 2] {
    let both = [client.to_canonical(), server.to_canonical()];
    match both[0].is_ipv4() == both[1].is_ipv4() {
        true => both,
        false => both.map(|ip| as_v6(ip).into()),
    }
}

fn as_v6(ip: IpAddr) -> Ipv6Addr {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy_protocol::{Header, Opener, Parsed, parse};

    #[test]
    fn what_is_written_is_read_again() {
        for version in [Version::V1, Version::V2] {
            for (client, server) in [
                (None, "10.0.0.1:80"),
                (Some("203.0.113.9"), "10.0.0.1:80"),
                (Some("2001:db8::9"), "[::1]:8080"),
                (Some("203.0.113.9"), "[2001:db8::1]:80"),
                (Some("2001:db8::9"), "10.0.0.1:65535"),
                (Some("::ffff:203.0.113.9"), "10.0.0.1:80"),
                (Some("203.0.113.9"), "0.0.0.0:0"),
            ] {
                let client: Option<IpAddr> = client.map(|client| client.parse().unwrap());
                let bytes = write(version, client, server.parse().unwrap());
                let Parsed { header, length } = parse(&bytes).unwrap().unwrap();
                assert_eq!(length, bytes.len());
                let opener = match (client, version) {
                    (Some(client), _) => Opener::Client(SocketAddr::new(client.to_canonical(), 0)),
                    (None, Version::V1) => Opener::Unnamed,
                    (None, Version::V2) => Opener::Proxy,
                };
                let expected = Header { opener, tls: false };
                assert_eq!(header, expected, "{version:?} {client:?} {server}");
            }
        }
        let server = "10.0.0.1:80".parse().unwrap();
        let line = write(Version::V1, Some([203, 0, 113, 9].into()), server);
        assert_eq!(line, b"PROXY TCP4 203.0.113.9 10.0.0.1 0 80\r\n");
    }
}
