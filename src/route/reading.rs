//! How else a path may be read: endpoints decode escapes (once, some of them twice), merge slashes,
//! and take path parameters (`;…`) off, each in a way of its own. Where every reading leads to the same
//! route, it does not matter which an endpoint has. Knows nothing of routes.

/// A reading that goes up, or sideways, where the path itself does not: `.` and `..` as a segment, a
/// backslash, a NUL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Astray;

/// How far escapes are decoded. In what comes of it, escapes are left of those bytes only that cannot
/// stand in a path, in capital letters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Decoding {
    None,
    /// All but those of slashes.
    Segments,
    Once,
    /// Twice, and overlong UTF-8 as what it stands for.
    Twice,
}

/// The other readings of a path that holds `%`, `;` or `//`.
///
/// # Errors
/// Where one of them goes astray.
pub fn readings(path: &str) -> Result<Vec<String>, Astray> {
    let mut readings = Vec::new();
    let decodings: &[Decoding] = match path.contains('%') {
        false => &[Decoding::None],
        true if may_be_encoded_twice(path) => &[
            Decoding::None,
            Decoding::Segments,
            Decoding::Once,
            Decoding::Twice,
        ],
        true => &[Decoding::None, Decoding::Segments, Decoding::Once],
    };
    for &decoding in decodings {
        let decoded = decode(path, decoding);
        let mut variants = vec![decoded];
        if path.contains(';') || variants[0].contains(';') {
            // Most take parameters off what they then decode.
            let bare = decode(&without_parameters(path), decoding);
            let barer = without_parameters(&bare);
            variants.extend([bare, barer]);
        }
        for variant in variants {
            let merged = variant.contains("//").then(|| merged(&variant));
            for reading in merged.into_iter().chain([variant]) {
                if goes_astray(&reading) {
                    return Err(Astray);
                }
                if reading != path && !readings.contains(&reading) {
                    readings.push(reading);
                }
            }
        }
    }
    Ok(readings)
}

/// A segment as [`readings`] have it, where it is decoded.
pub(super) fn canonical(segment: &str) -> String {
    decode(segment, Decoding::Segments)
}

fn may_be_encoded_twice(path: &str) -> bool {
    // `%25`, and what begins overlong UTF-8: `%c0`, `%c1`, `%e0`, `%f0`.
    let mut escapes = path.as_bytes().windows(3);
    escapes.any(|escape| {
        let &[b'%', high, low] = escape else {
            return false;
        };
        matches!(
            (high.to_ascii_lowercase(), low),
            (b'2', b'5') | (b'c', b'0' | b'1') | (b'e' | b'f', b'0')
        )
    })
}

fn decode(path: &str, decoding: Decoding) -> String {
    let (slashes, bytes) = match decoding {
        Decoding::None => return path.to_owned(),
        Decoding::Segments => (false, path.as_bytes().to_vec()),
        Decoding::Once => (true, path.as_bytes().to_vec()),
        Decoding::Twice => {
            let once: Vec<u8> = percent_encoding::percent_decode_str(path).collect();
            (true, once)
        }
    };
    let mut out = Vec::with_capacity(bytes.len());
    let mut rest = &bytes[..];
    while let [byte, after @ ..] = rest {
        let escaped = (*byte == b'%').then(|| escaped(after)).flatten();
        let (byte, length) = escaped.map_or((*byte, 1), |byte| (byte, 3));
        match byte {
            b'/' if length == 3 && !slashes => out.extend_from_slice(b"%2F"),
            byte => out.push(byte),
        }
        rest = &rest[length..];
        // A `%` that was decoded, or is left, is no escape's beginning.
        if byte == b'%' {
            out.extend_from_slice(b"25");
        }
    }
    if decoding == Decoding::Twice {
        out = without_overlong(&out);
    }
    encoded(&out)
}

/// The byte that the two digits behind a `%` stand for.
fn escaped(digits: &[u8]) -> Option<u8> {
    let digit = |at: usize| char::from(*digits.get(at)?).to_digit(16);
    u8::try_from(digit(0)? << 4 | digit(1)?).ok()
}

/// ASCII in more bytes than it needs, which is no UTF-8, as what lenient decoders take it for.
fn without_overlong(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    loop {
        let (byte, length) = match rest {
            [high @ (0xc0 | 0xc1), low @ 0x80..=0xbf, ..] => ((high & 1) << 6 | low & 0x3f, 2),
            [0xe0, high @ (0x80 | 0x81), low @ 0x80..=0xbf, ..]
            | [0xf0, 0x80, high @ (0x80 | 0x81), low @ 0x80..=0xbf, ..] => {
                let length = if rest[0] == 0xe0 { 3 } else { 4 };
                ((high & 1) << 6 | low & 0x3f, length)
            }
            [byte, ..] => (*byte, 1),
            [] => return out,
        };
        out.push(byte);
        rest = &rest[length..];
    }
}

/// With escapes where a byte cannot stand in a path; those that are there stay.
fn encoded(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for &byte in bytes {
        if byte.is_ascii_alphanumeric() || b"/-._~!$&'()*+,;=:@%\\".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

fn without_parameters(path: &str) -> String {
    let segments = path.split('/');
    let bare = segments.map(|segment| segment.split(';').next().unwrap_or_default());
    bare.collect::<Vec<_>>().join("/")
}

fn merged(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    for character in path.chars() {
        if character != '/' || !out.ends_with('/') {
            out.push(character);
        }
    }
    out
}

fn goes_astray(reading: &str) -> bool {
    let mut segments = reading.split('/');
    segments.any(|segment| matches!(segment, "." | ".."))
        || reading.contains('\\')
        || reading.contains("%00")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_read_in_the_ways_that_endpoints_have() {
        for (path, expected) in [
            // npm, GitLab, RabbitMQ, S3.
            ("/@scope%2fname", &["/@scope%2Fname", "/@scope/name"][..]),
            ("/api/a%2Fb%20c", &["/api/a/b%20c"]),
            ("/q/%2F/x", &["/q/x", "/q///x"]),
            ("/bucket//key", &["/bucket/key"]),
            ("/%70rivate/x", &["/private/x"]),
            ("/caf%c3%a9", &["/caf%C3%A9"]),
            ("/private;a=b/x", &["/private/x"]),
            ("/a%3Bb", &["/a;b", "/a"]),
            ("/;/private/x", &["/private/x", "//private/x"]),
            ("/100%25", &["/100%25"][..0]),
            ("/a%252fb", &["/a/b"]),
            ("/a%c0%afb", &["/a%C0%AFb", "/a/b"]),
            ("/a%E0%80%AFb", &["/a/b"]),
            ("/plain", &[]),
        ] {
            assert_eq!(readings(path).unwrap(), expected, "{path}");
        }
    }

    #[test]
    fn what_leads_up_in_some_reading_goes_astray() {
        for path in [
            "/public/..;/admin",
            "/public/.;/x",
            "/..;a=b",
            "/%2e%2e/x",
            "/.%2E/x",
            "/public%2F..%2Fprivate",
            "/a/..%3Bx/b",
            "/%252e%252e/x",
            "/a%252f..%252fb",
            "/%c0%ae%c0%ae/x",
            "/%e0%80%ae./x",
            "/%f0%80%80%ae/x",
            "/a%255cb",
            "/a%2500",
        ] {
            assert_eq!(readings(path), Err(Astray), "{path}");
        }
        for path in [
            "/...;a",
            "/a%2e%2eb",
            "/a;b=..",
            "/%2e%2e%2e",
            "/a%c0%aeb",
            "/%25%25",
        ] {
            assert!(readings(path).is_ok(), "{path}");
        }
    }
}
