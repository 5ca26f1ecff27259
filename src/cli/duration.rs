//! Durations on the command line, which are written as in proxy.toml.

use std::time::Duration;

use crate::config;

/// One that may be nothing.
pub(super) fn wait(text: &str) -> Result<Duration, String> {
    config::duration(text)
}

/// One that is more than nothing.
pub(super) fn some(text: &str) -> Result<Duration, String> {
    match config::duration(text)? {
        Duration::ZERO => Err("it must be more than nothing".to_owned()),
        duration => Ok(duration),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_needs_a_number_and_a_unit() {
        for (text, millis) in [("20s", 20_000), ("500ms", 500), ("1m30s", 90_000)] {
            assert_eq!(some(text), Ok(Duration::from_millis(millis)));
        }
        for text in ["", "s", "1.5s", "-1s", "20 s", "99999999999s"] {
            assert!(wait(text).is_err(), "{text}");
        }
        let error = wait("20").unwrap_err();
        assert!(
            error.ends_with("has no unit; write \"20s\" or \"20ms\""),
            "{error}"
        );
    }

    #[test]
    fn nothing_is_a_wait_and_no_more() {
        assert_eq!(wait("0s"), Ok(Duration::ZERO));
        assert!(some("0s").is_err());
    }
}
