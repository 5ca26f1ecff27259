//! Version 1: a line of text.

use std::net::{IpAddr, SocketAddr};

use super::header::{Header, HeaderError, Opener, Parsed};

pub(super) const SIGNATURE: &[u8] = b"PROXY ";

/// Such a line takes at most so many bytes.
const LONGEST: usize = 107;

/// Reads a line that begins with the signature, or with a part of it that is all there is.
pub(super) fn parse(bytes: &[u8]) -> Result<Option<Parsed>, HeaderError> {
    let line = &bytes[..bytes.len().min(LONGEST)];
    let Some(end) = memchr::memchr(b'\n', line) else {
        return match line.len() < LONGEST {
            true => Ok(None),
            false => Err(HeaderError::TooLarge),
        };
    };
    let text = line[..end].strip_suffix(b"\r");
    let text = text.and_then(|text| text.strip_prefix(SIGNATURE));
    let text = text.and_then(|text| std::str::from_utf8(text).ok());
    let opener = text.and_then(opener).ok_or(HeaderError::Malformed)?;
    let header = Header { opener, tls: false };
    let length = end + 1;
    Ok(Some(Parsed { header, length }))
}

/// Who has opened the connection. This version has one word for a proxy's own and for a client whom it
/// does not name.
fn opener(text: &str) -> Option<Opener> {
    let mut words = text.split(' ');
    let is_v4 = match words.next()? {
        "TCP4" => true,
        "TCP6" => false,
        // What follows is to be ignored.
        "UNKNOWN" => return Some(Opener::Unnamed),
        _ => return None,
    };
    let mut address = || {
        let ip: IpAddr = words.next()?.parse().ok()?;
        (ip.is_ipv4() == is_v4).then_some(ip)
    };
    let [client, _] = [address()?, address()?];
    let mut port = || port(words.next()?);
    let [client_port, _] = [port()?, port()?];
    let client = SocketAddr::new(client, client_port);
    words.next().is_none().then(|| Opener::client(client))
}

/// A number without zeros before it, which some would take to be octal.
fn port(text: &str) -> Option<u16> {
    let is_sound = text.bytes().all(|byte| byte.is_ascii_digit());
    let is_sound = is_sound && (text == "0" || !text.starts_with('0'));
    text.parse().ok().filter(|_| is_sound)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(text: &str) -> Result<Option<String>, HeaderError> {
        let parsed = parse(text.as_bytes())?.expect("it is whole");
        assert_eq!(parsed.length, text.find('\n').unwrap() + 1);
        assert!(!parsed.header.tls);
        Ok(match parsed.header.opener {
            Opener::Client(client) => Some(client.to_string()),
            Opener::Unnamed => None,
            Opener::Proxy => panic!("a line does not say that"),
        })
    }

    #[test]
    fn a_line_names_the_client() {
        for (line, expected) in [
            (
                "PROXY TCP4 203.0.113.9 10.0.0.1 4000 80\r\nGET /",
                Some("203.0.113.9:4000"),
            ),
            (
                "PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n",
                Some("255.255.255.255:65535"),
            ),
            (
                "PROXY TCP6 2001:db8::9 ::1 4000 443\r\n",
                Some("[2001:db8::9]:4000"),
            ),
            (
                "PROXY TCP6 ::ffff:203.0.113.9 ::1 4000 443\r\n",
                Some("203.0.113.9:4000"),
            ),
            (
                "PROXY TCP4 203.0.113.9 10.0.0.1 0 0\r\n",
                Some("203.0.113.9:0"),
            ),
            ("PROXY UNKNOWN\r\n", None),
            (
                "PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n",
                None,
            ),
        ] {
            assert_eq!(client(line).unwrap().as_deref(), expected, "{line:?}");
        }
    }

    #[test]
    fn a_line_that_can_be_read_in_two_ways_is_none() {
        for line in [
            "PROXY TCP4 203.0.113.9 10.0.0.1 4000 80\n",
            "PROXY  TCP4 203.0.113.9 10.0.0.1 4000 80\r\n",
            "PROXY TCP4  203.0.113.9 10.0.0.1 4000 80\r\n",
            "PROXY TCP4 203.0.113.9 10.0.0.1 4000 80 \r\n",
            "PROXY TCP4 203.0.113.9 10.0.0.1 4000\r\n",
            "PROXY TCP4 203.0.113.9 10.0.0.1 4000 80 90\r\n",
            "PROXY TCP4 203.0.113.09 10.0.0.1 4000 80\r\n",
            "PROXY TCP4 203.0.113.9 10.0.0.1 04000 80\r\n",
            "PROXY TCP4 203.0.113.9 10.0.0.1 +4000 80\r\n",
            "PROXY TCP4 203.0.113.9 10.0.0.1 65536 80\r\n",
            "PROXY TCP4 203.0.113.9 10.0.0.1  80\r\n",
            "PROXY TCP4 2001:db8::9 ::1 4000 80\r\n",
            "PROXY TCP6 203.0.113.9 10.0.0.1 4000 80\r\n",
            "PROXY TCP4 203.0.113.9 ::1 4000 80\r\n",
            "PROXY UDP4 203.0.113.9 10.0.0.1 4000 80\r\n",
            "PROXY UNKNOWNS\r\n",
            "PROXY tcp4 203.0.113.9 10.0.0.1 4000 80\r\n",
            "PROXY \r\n",
            "PROXY TCP4 localhost 10.0.0.1 4000 80\r\n",
            "PROXY TCP4 203.0.113.9\u{a0}10.0.0.1 4000 80\r\n",
        ] {
            assert_eq!(client(line), Err(HeaderError::Malformed), "{line:?}");
        }
    }

    #[test]
    fn a_line_is_whole_at_its_end_and_has_one_in_time() {
        assert_eq!(
            parse(b"PROXY TCP4 203.0.113.9 10.0.0.1 4000 80\r"),
            Ok(None)
        );
        let long = |fill: usize| format!("PROXY UNKNOWN {}\r\n", "x".repeat(fill));
        assert_eq!(long(91).len(), LONGEST);
        assert!(parse(long(91).as_bytes()).unwrap().is_some());
        assert_eq!(parse(&long(91).as_bytes()[..106]), Ok(None));
        assert_eq!(parse(long(92).as_bytes()), Err(HeaderError::TooLarge));
    }
}
