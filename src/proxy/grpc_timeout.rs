//! How long a client of gRPC waits: `grpc-timeout`, as gRPC's protocol over HTTP/2 has it (and
//! gRPC-Web, which comes over HTTP/1.1).

use std::time::Duration;

/// Up to eight digits and a unit; `None` for anything else, which gRPC's servers disregard too.
pub(super) fn of(value: &[u8]) -> Option<Duration> {
    let (unit, digits) = value.split_last()?;
    let is_number = (1..=8).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit);
    let number: u64 = std::str::from_utf8(digits)
        .ok()?
        .parse()
        .ok()
        .filter(|_| is_number)?;
    Some(match unit {
        b'H' => Duration::from_secs(number * 3600),
        b'M' => Duration::from_secs(number * 60),
        b'S' => Duration::from_secs(number),
        b'm' => Duration::from_millis(number),
        b'u' => Duration::from_micros(number),
        b'n' => Duration::from_nanos(number),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_and_its_unit() {
        for (text, millis) in [
            ("1H", 3_600_000),
            ("2M", 120_000),
            ("3S", 3_000),
            ("40m", 40),
        ] {
            assert_eq!(
                of(text.as_bytes()),
                Some(Duration::from_millis(millis)),
                "{text}"
            );
        }
        assert_eq!(of(b"5000u"), Some(Duration::from_millis(5)));
        assert_eq!(of(b"99999999n"), Some(Duration::from_nanos(99_999_999)));
        for text in [
            "",
            "S",
            "1",
            "1s",
            "-1S",
            "+1S",
            "1.5S",
            "123456789m",
            " 1S",
        ] {
            assert_eq!(of(text.as_bytes()), None, "{text}");
        }
    }
}
