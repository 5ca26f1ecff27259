//! A header of our own, of either version.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use super::{Opener, v2};

/// In which version a header is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Version {
    /// A line of text.
    V1,
    /// Binary.
    V2,
}

/// The header of a connection to this server.
pub(crate) fn write(version: Version, opener: Opener, server: SocketAddr) -> Vec<u8> {
    match version {
        Version::V1 => write_v1(opener, server).into_bytes(),
        Version::V2 => write_v2(opener, server),
    }
}

fn write_v1(opener: Opener, server: SocketAddr) -> String {
    let Opener::Client(client) = opener else {
        return "PROXY UNKNOWN\r\n".to_owned();
    };
    let [from, to] = alike(client.ip(), server.ip());
    let family = if from.is_ipv4() { "TCP4" } else { "TCP6" };
    let ports = [client.port(), server.port()];
    format!("PROXY {family} {from} {to} {} {}\r\n", ports[0], ports[1])
}

fn write_v2(opener: Opener, server: SocketAddr) -> Vec<u8> {
    let (command, family, rest) = match opener {
        Opener::Proxy => (0x20, 0x00, Vec::new()),
        // Not the proxy's own, which would be believed as the proxy is.
        Opener::Unnamed => (0x21, 0x00, Vec::new()),
        Opener::Client(client) => {
            let (family, addresses) = match alike(client.ip(), server.ip()) {
                [IpAddr::V4(from), IpAddr::V4(to)] => (0x11, [from.octets(), to.octets()].concat()),
                both => (0x21, both.map(|ip| as_v6(ip).octets()).concat()),
            };
            let ports = [client.port(), server.port()].map(u16::to_be_bytes);
            (0x21, family, [addresses, ports.concat()].concat())
        }
    };
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
    use crate::proxy_protocol::{Header, Parsed, parse};

    #[test]
    fn what_is_written_is_read_again() {
        let client = |address: &str| Opener::Client(address.parse().unwrap());
        for version in [Version::V1, Version::V2] {
            for (opener, server, read) in [
                (Opener::Unnamed, "10.0.0.1:80", Opener::Unnamed),
                (
                    Opener::Proxy,
                    "10.0.0.1:80",
                    match version {
                        // It has no word for that.
                        Version::V1 => Opener::Unnamed,
                        Version::V2 => Opener::Proxy,
                    },
                ),
                (
                    client("203.0.113.9:0"),
                    "10.0.0.1:80",
                    client("203.0.113.9:0"),
                ),
                (
                    client("[2001:db8::9]:4000"),
                    "[::1]:8080",
                    client("[2001:db8::9]:4000"),
                ),
                (
                    client("203.0.113.9:0"),
                    "[2001:db8::1]:80",
                    client("203.0.113.9:0"),
                ),
                (
                    client("[2001:db8::9]:0"),
                    "10.0.0.1:65535",
                    client("[2001:db8::9]:0"),
                ),
                (
                    client("[::ffff:203.0.113.9]:0"),
                    "10.0.0.1:80",
                    client("203.0.113.9:0"),
                ),
                (
                    client("203.0.113.9:65535"),
                    "0.0.0.0:0",
                    client("203.0.113.9:65535"),
                ),
            ] {
                let bytes = write(version, opener, server.parse().unwrap());
                let Parsed { header, length } = parse(&bytes).unwrap().unwrap();
                assert_eq!(length, bytes.len());
                let expected = Header {
                    opener: read,
                    tls: false,
                };
                assert_eq!(header, expected, "{version:?} {opener:?} {server}");
            }
        }
        let server = "10.0.0.1:80".parse().unwrap();
        let line = write(Version::V1, client("203.0.113.9:0"), server);
        assert_eq!(line, b"PROXY TCP4 203.0.113.9 10.0.0.1 0 80\r\n");
    }
}
