//! Version 2: binary, with fields of type, length and value behind the addresses.

use super::header::{Header, HeaderError, LONGEST, Opener, Parsed};

pub(super) const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// The signature, what is passed on and how, and the length of what follows.
const FIXED: usize = 16;

/// `PP2_TYPE_CRC32C`
const CHECKSUM: u8 = 0x03;
/// `PP2_TYPE_SSL`
const TLS: u8 = 0x20;
/// `PP2_CLIENT_SSL`
const CLIENT_SPEAKS_TLS: u8 = 0x01;

/// Reads a header that begins with the signature, or with a part of it that is all there is.
pub(super) fn parse(bytes: &[u8]) -> Result<Option<Parsed>, HeaderError> {
    let Some((fixed, rest)) = bytes.split_first_chunk::<FIXED>() else {
        return Ok(None);
    };
    let is_local = match fixed[12] {
        0x20 => true,
        0x21 => false,
        _ => return Err(HeaderError::Malformed),
    };
    let carried = Carried::of(fixed[13]);
    if !is_local && carried.is_none() {
        return Err(HeaderError::Malformed);
    }
    let length = usize::from(u16::from_be_bytes([fixed[14], fixed[15]]));
    if FIXED + length > LONGEST {
        return Err(HeaderError::TooLarge);
    }
    let Some(rest) = rest.get(..length) else {
        return Ok(None);
    };
    let length = FIXED + length;
    let header = match carried {
        _ if is_local => local(rest, carried),
        Some(carried) => said(&bytes[..length], rest, carried).ok_or(HeaderError::Malformed)?,
        None => return Err(HeaderError::Malformed),
    };
    Ok(Some(Parsed { header, length }))
}

/// Of a connection of the proxy's own. What it says of addresses is to be ignored, and so is what cannot be
/// read; but HAProxy says it of clients at a unix socket, too, and of their TLS behind it.
fn local(rest: &[u8], carried: Option<Carried>) -> Header {
    let addresses = match carried {
        Some(Carried::V4) => 12,
        Some(Carried::V6) => 36,
        Some(Carried::Unix) => UNIX_ADDRESSES,
        Some(Carried::Unspecified) | None => 0,
    };
    let fields = Fields::read(rest.get(addresses..).unwrap_or_default());
    Header {
        opener: Opener::Proxy,
        tls: fields.unwrap_or_default().tls,
    }
}

/// What is passed on, by the family of its addresses.
#[derive(Clone, Copy)]
enum Carried {
    /// The sender does not know, or says no more than that.
    Unspecified,
    V4,
    V6,
    /// Sockets of one machine.
    Unix,
}

/// Two paths.
const UNIX_ADDRESSES: usize = 216;

impl Carried {
    /// By the byte of the address family and the transport protocol. Datagrams, as those of QUIC, have
    /// the addresses that connections have.
    fn of(byte: u8) -> Option<Self> {
        Some(match byte {
            0x11 | 0x12 => Self::V4,
            0x21 | 0x22 => Self::V6,
            0x31 | 0x32 => Self::Unix,
            _ if byte >> 4 <= 3 && byte & 0x0f <= 2 => Self::Unspecified,
            _ => return None,
        })
    }
}

/// What a whole header says whose addresses and fields are `rest`; `None` where it is malformed.
fn said(whole: &[u8], rest: &[u8], carried: Carried) -> Option<Header> {
    let (opener, fields) = match carried {
        Carried::Unspecified => {
            // How many bytes of addresses come first is not said. Senders write none; what cannot be read
            // so is to be ignored.
            let fields = Fields::read(rest).unwrap_or_default();
            return fields.header(Opener::Unnamed, whole);
        }
        Carried::V4 => {
            let (addresses, fields) = rest.split_first_chunk::<12>()?;
            let [a, b, c, d, .., high, low, _, _] = *addresses;
            let port = u16::from_be_bytes([high, low]);
            (Opener::client(([a, b, c, d], port).into()), fields)
        }
        Carried::V6 => {
            let (ip, rest) = rest.split_first_chunk::<16>()?;
            let (_, rest) = rest.split_first_chunk::<16>()?;
            let (ports, fields) = rest.split_first_chunk::<4>()?;
            let port = u16::from_be_bytes([ports[0], ports[1]]);
            (Opener::client((*ip, port).into()), fields)
        }
        Carried::Unix => (Opener::Unnamed, rest.get(UNIX_ADDRESSES..)?),
    };
    Fields::read(fields)?.header(opener, whole)
}

/// What the fields behind the addresses say.
#[derive(Default)]
struct Fields {
    tls: bool,
    /// How far before the header's end the checksum begins, and the checksum.
    checksum: Option<(usize, [u8; CHECKSUM_LENGTH])>,
}

const CHECKSUM_LENGTH: usize = 4;

impl Fields {
    /// Reads them; `None` where they are malformed.
    fn read(mut fields: &[u8]) -> Option<Self> {
        let mut read = Self::default();
        while let Some((head, rest)) = fields.split_first_chunk::<3>() {
            let length = usize::from(u16::from_be_bytes([head[1], head[2]]));
            let (value, behind) = rest.split_at_checked(length)?;
            match head[0] {
                // A second one would be of a header that has the first one in it.
                CHECKSUM if read.checksum.is_some() => return None,
                CHECKSUM => read.checksum = Some((rest.len(), value.try_into().ok()?)),
                // A byte of flags, and what has become of the client's certificate.
                TLS => read.tls = value.get(..5)?[0] & CLIENT_SPEAKS_TLS != 0,
                _ => {}
            }
            fields = behind;
        }
        fields.is_empty().then_some(read)
    }

    /// The header that they are of; `None` where their checksum is that of another.
    fn header(&self, opener: Opener, whole: &[u8]) -> Option<Header> {
        if let Some((from_end, checksum)) = self.checksum {
            // It is computed over the whole header, with zeros in its own place.
            let at = whole.len() - from_end;
            let own = at..at + CHECKSUM_LENGTH;
            let covered = whole.iter().enumerate();
            let covered = covered.map(|(index, byte)| match own.contains(&index) {
                true => 0,
                false => *byte,
            });
            (crc32c(covered) == u32::from_be_bytes(checksum)).then_some(())?;
        }
        let tls = self.tls;
        Some(Header { opener, tls })
    }
}

/// CRC-32C (RFC 3720 B.4), bit by bit: a header is short.
fn crc32c(bytes: impl Iterator<Item = u8>) -> u32 {
    const POLYNOMIAL: u32 = 0x82f6_3b78;
    let bit = |crc: u32| (crc >> 1) ^ (POLYNOMIAL & (crc & 1).wrapping_neg());
    !bytes.fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| bit(crc))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TCP4: &[u8] = &[203, 0, 113, 9, 10, 0, 0, 1, 0x0f, 0xa0, 0, 80];

    fn header(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = (rest.len() as u16).to_be_bytes();
        [SIGNATURE, &[command, family], &length, rest].concat()
    }

    fn field(kind: u8, value: &[u8]) -> Vec<u8> {
        [&[kind], &(value.len() as u16).to_be_bytes()[..], value].concat()
    }

    fn read(bytes: &[u8]) -> Result<(Opener, bool), HeaderError> {
        let parsed = parse(bytes)?.expect("it is whole");
        assert_eq!(parsed.length, bytes.len());
        let Header { opener, tls } = parsed.header;
        Ok((opener, tls))
    }

    fn client(address: &str) -> Opener {
        Opener::Client(address.parse().unwrap())
    }

    #[test]
    fn a_header_names_the_client() {
        let v4 = client("203.0.113.9:4000");
        assert_eq!(read(&header(0x21, 0x11, TCP4)), Ok((v4, false)));
        assert_eq!(read(&header(0x21, 0x12, TCP4)), Ok((v4, false)));
        let mut tcp6 = [0; 36];
        tcp6[..4].copy_from_slice(&[0x20, 0x01, 0x0d, 0xb8]);
        tcp6[15] = 9;
        tcp6[32..34].copy_from_slice(&4000u16.to_be_bytes());
        let v6 = client("[2001:db8::9]:4000");
        assert_eq!(read(&header(0x21, 0x21, &tcp6)), Ok((v6, false)));
        assert_eq!(read(&header(0x21, 0x22, &tcp6)), Ok((v6, false)));
        let mut mapped = [0; 36];
        mapped[10..16].copy_from_slice(&[0xff, 0xff, 203, 0, 113, 9]);
        mapped[32..34].copy_from_slice(&4000u16.to_be_bytes());
        assert_eq!(read(&header(0x21, 0x21, &mapped)), Ok((v4, false)));
    }

    #[test]
    fn what_is_local_is_the_proxys_own_and_a_client_of_no_ip_address_is_not() {
        for (opener, bytes) in [
            (Opener::Proxy, header(0x20, 0x00, &[])),
            (Opener::Proxy, header(0x20, 0x11, TCP4)),
            // Ignored are even a family that there is not, and what is cut off.
            (Opener::Proxy, header(0x20, 0xff, &[1, 2, 3])),
            (Opener::Unnamed, header(0x21, 0x00, &[])),
            (Opener::Unnamed, header(0x21, 0x00, &[1, 2, 3])),
            (Opener::Unnamed, header(0x21, 0x01, TCP4)),
            (Opener::Unnamed, header(0x21, 0x31, &[b'/'; 216])),
        ] {
            assert_eq!(read(&bytes), Ok((opener, false)), "{bytes:?}");
        }
    }

    #[test]
    fn that_a_client_speaks_tls_is_said_of_one_without_a_name_too() {
        let tls = field(TLS, &[1, 0, 0, 0, 0]);
        let named = client("203.0.113.9:4000");
        for (family, addresses, opener) in [
            (0x00, &[][..], Opener::Unnamed),
            (0x12, TCP4, named),
            (0x31, &[b'/'; 216], Opener::Unnamed),
        ] {
            let bytes = header(0x21, family, &[addresses, &tls].concat());
            assert_eq!(read(&bytes), Ok((opener, true)), "{family:#x}");
        }
        // A proxy's own connection has no client.
        assert_eq!(read(&header(0x20, 0x00, &tls)), Ok((Opener::Proxy, true)));
    }

    #[test]
    fn fields_say_whether_the_client_speaks_tls_and_the_rest_is_passed_over() {
        let with =
            |fields: &[Vec<u8>]| read(&header(0x21, 0x11, &[TCP4, &fields.concat()].concat()));
        let tls = |flags: u8| {
            field(
                TLS,
                &[
                    flags, 0, 0, 0, 0, 0x21, 0, 7, b'T', b'L', b'S', b'v', b'1', b'.', b'3',
                ],
            )
        };
        let authority = field(0x02, b"shop.example.com");
        let unknown = field(0xe0, &[0; 300]);
        for (fields, expected) in [
            (vec![authority.clone(), tls(1)], true),
            (vec![tls(7), unknown], true),
            (vec![tls(0), field(0x04, &[])], false),
            (vec![authority], false),
        ] {
            assert_eq!(
                with(&fields).map(|(_, tls)| tls),
                Ok(expected),
                "{fields:?}"
            );
        }
        for fields in [
            vec![1],
            vec![1, 0],
            vec![1, 0, 1],
            field(TLS, &[1, 0, 0, 0]),
        ] {
            let result = with(std::slice::from_ref(&fields));
            assert_eq!(result, Err(HeaderError::Malformed), "{fields:?}");
        }
    }

    #[test]
    fn a_checksum_is_that_of_its_header() {
        // RFC 3720 B.4
        assert_eq!(crc32c([0; 32].into_iter()), 0x8a91_36aa);
        assert_eq!(crc32c(0..32), 0x46dd_794e);
        let unknown = field(0xe0, b"more");
        let with = |sum: [u8; 4]| {
            header(
                0x21,
                0x11,
                &[TCP4, &field(CHECKSUM, &sum), &unknown].concat(),
            )
        };
        let sum = crc32c(with([0; 4]).into_iter());
        assert!(read(&with(sum.to_be_bytes())).is_ok());
        let wrong = read(&with((sum ^ 1).to_be_bytes()));
        assert_eq!(wrong, Err(HeaderError::Malformed));
        let short = header(0x21, 0x11, &[TCP4, &field(CHECKSUM, &[0; 3])].concat());
        assert_eq!(read(&short), Err(HeaderError::Malformed));
    }

    #[test]
    fn a_checksum_stands_in_a_header_once_and_counts_where_no_address_is_named_too() {
        let with = |family, addresses: &[u8], sum: [u8; 4], more: &[u8]| {
            let field = field(CHECKSUM, &sum);
            header(0x21, family, &[addresses, &field, more].concat())
        };
        for (family, addresses) in [(0x00, &[][..]), (0x11, TCP4), (0x31, &[b'/'; 216])] {
            let sum = crc32c(with(family, addresses, [0; 4], &[]).into_iter());
            let sound = with(family, addresses, sum.to_be_bytes(), &[]);
            assert!(read(&sound).is_ok(), "{family:#x}");
            let wrong = with(family, addresses, (sum ^ 1).to_be_bytes(), &[]);
            assert_eq!(read(&wrong), Err(HeaderError::Malformed), "{family:#x}");
        }
        // The first one is right where the second is passed over.
        let second = field(CHECKSUM, &[0; 4]);
        let sum = crc32c(with(0x11, TCP4, [0; 4], &second).into_iter());
        let first = with(0x11, TCP4, sum.to_be_bytes(), &second);
        assert_eq!(read(&first), Err(HeaderError::Malformed));
        // What a proxy says of its own connection is to be passed over.
        let local = header(0x20, 0x00, &field(CHECKSUM, &[0; 4]));
        assert_eq!(read(&local), Ok((Opener::Proxy, false)));
    }

    #[test]
    fn what_is_of_another_version_or_shorter_than_its_addresses_is_malformed() {
        for bytes in [
            header(0x11, 0x11, TCP4),
            header(0x31, 0x11, TCP4),
            header(0x22, 0x11, TCP4),
            header(0x21, 0x41, TCP4),
            header(0x21, 0x13, TCP4),
            header(0x21, 0x11, &TCP4[..11]),
            header(0x21, 0x21, &[0; 35]),
            header(0x21, 0x31, &[0; 215]),
        ] {
            assert_eq!(read(&bytes), Err(HeaderError::Malformed), "{bytes:?}");
        }
    }

    #[test]
    fn a_header_has_a_largest_length_which_it_says_before_it_has_come() {
        let most = LONGEST - FIXED;
        assert!(read(&header(0x20, 0, &vec![0; most])).is_ok());
        let more = header(0x20, 0, &vec![0; most + 1]);
        assert_eq!(parse(&more[..FIXED]), Err(HeaderError::TooLarge));
        assert_eq!(parse(&more[..FIXED - 1]), Ok(None));
        assert_eq!(parse(&header(0x21, 0x11, TCP4)[..27]), Ok(None));
    }
}
