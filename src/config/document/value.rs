//! Texts with a meaning of their own: durations, addresses, networks, names. Knows nothing of
//! keys and tables.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use ipnet::IpNet;

use super::report::Wrong;

/// Longer than any useful setting, and short enough that adding it to a clock cannot overflow.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);

/// Whether a duration may be nothing.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Zero {
    Allowed,
    Refused,
}

/// `500ms`, `1s`, `2m`, `1h`, or several of them from the largest down: `1m30s`.
pub(crate) fn duration(text: &str, zero: Zero) -> Result<Duration, Wrong> {
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(Wrong::new(format!("the duration `{text}` has no unit"))
            .suggest(format!("write \"{text}s\" or \"{text}ms\"")));
    }
    let total = sum_of_units(text).ok_or_else(|| {
        let wrong = Wrong::new(format!("`{text}` is not a duration"));
        match meant_duration(text) {
            Some(meant) => wrong.suggest(format!("did you mean \"{meant}\"?")),
            None => wrong.suggest(
                "write whole numbers with their units, such as \"500ms\", \"30s\" or \"1m30s\"",
            ),
        }
    })?;
    if total.is_zero() && zero == Zero::Refused {
        return Err(Wrong::new("this duration must be more than nothing"));
    }
    if total > LONGEST {
        return Err(Wrong::new(format!("`{text}` is more than a year"))
            .suggest("write a shorter duration, at most \"8760h\""));
    }
    Ok(total)
}

fn sum_of_units(text: &str) -> Option<Duration> {
    const UNITS: [(&str, u64); 4] = [("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];
    let mut rest = text;
    let mut total: u64 = 0;
    let mut units = UNITS.iter();
    while !rest.is_empty() {
        let (number, tail) = split_at_first(rest, |c| !c.is_ascii_digit());
        let (unit, tail) = split_at_first(tail, |c| c.is_ascii_digit());
        let (_, millis) = units.find(|(name, _)| *name == unit)?;
        total = total.checked_add(number.parse::<u64>().ok()?.checked_mul(*millis)?)?;
        rest = tail;
    }
    (!text.is_empty()).then_some(Duration::from_millis(total))
}

/// A number with a unit as people write it elsewhere (`7d`, `5 s`, `1.5s`, `10 min`), as it is here.
fn meant_duration(text: &str) -> Option<String> {
    let (number, unit) = split_at_first(text.trim(), |c| !c.is_ascii_digit() && c != '.');
    let millis = match unit.trim().to_ascii_lowercase().as_str() {
        "ms" | "msec" | "millis" | "milliseconds" => 1.0,
        "s" | "sec" | "secs" | "second" | "seconds" => 1e3,
        "m" | "min" | "mins" | "minute" | "minutes" => 60e3,
        "h" | "hr" | "hour" | "hours" => 3600e3,
        "d" | "day" | "days" => 24.0 * 3600e3,
        "w" | "week" | "weeks" => 7.0 * 24.0 * 3600e3,
        _ => return None,
    };
    let millis = number.parse::<f64>().ok()? * millis;
    if !(1.0..1e12).contains(&millis) || millis.fract() != 0.0 {
        return None;
    }
    let millis = millis as u64;
    let units = [(3_600_000, "h"), (60_000, "m"), (1000, "s"), (1, "ms")];
    let (size, unit) = units
        .into_iter()
        .find(|(size, _)| millis.is_multiple_of(*size))?;
    Some(format!("{}{unit}", millis / size))
}

fn split_at_first(text: &str, stop: impl Fn(char) -> bool) -> (&str, &str) {
    text.split_at(text.find(stop).unwrap_or(text.len()))
}

/// An IP address and a port to listen on; port 0 takes a free one.
pub(crate) fn listen_address(text: &str) -> Result<SocketAddr, Wrong> {
    text.parse().map_err(|_| {
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) => (host, port),
            None if text.parse::<u16>().is_ok() => ("", text),
            None => (text, "8080"),
        };
        let host = match host {
            "localhost" => "127.0.0.1",
            "" | "*" => "0.0.0.0",
            host => host,
        };
        let wrong = Wrong::new(format!("`{text}` is not an IP address with a port"));
        match format!("{host}:{port}").parse::<SocketAddr>() {
            Ok(address) => wrong.suggest(format!("did you mean \"{address}\"?")),
            Err(_) => wrong.suggest("write it like \"127.0.0.1:8080\" or \"[::1]:8080\""),
        }
    })
}

/// The name of one machine, in lower case and without a port.
pub(crate) fn host_name(text: &str) -> Result<String, Wrong> {
    let is_label = |label: &str| {
        let mut bytes = label.bytes();
        !label.is_empty() && bytes.all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
    };
    if text.len() > 253 || !text.split('.').all(is_label) {
        return Err(Wrong::new(format!("`{text}` is not the name of a host"))
            .suggest("write it like \"callboard\" or \"proxy.internal\", without a port"));
    }
    Ok(text.to_ascii_lowercase())
}

/// A network (`10.0.0.0/8`) or a single address.
pub(crate) fn network(text: &str) -> Result<IpNet, Wrong> {
    text.parse()
        .or_else(|_| text.parse::<IpAddr>().map(IpNet::from))
        .map(to_canonical)
        .map_err(|_| {
            Wrong::new(format!("`{text}` is not an IP address or a network"))
                .suggest("write it like \"10.0.0.0/8\" or \"192.168.1.7\"")
        })
}

/// A network of IPv4 that is written as one of IPv6 (`::ffff:10.0.0.0/104`) is one of IPv4, as addresses
/// are that are written so.
fn to_canonical(network: IpNet) -> IpNet {
    let IpNet::V6(written) = network else {
        return network;
    };
    let length = written.prefix_len().checked_sub(96);
    let mapped = length.zip(written.addr().to_ipv4_mapped());
    let of_v4 = mapped.and_then(|(length, ip)| IpNet::new(ip.into(), length).ok());
    of_v4.unwrap_or(network)
}

/// The base URL of an HTTP API, without a trailing slash.
pub(crate) fn base_url(text: &str) -> Result<String, Wrong> {
    let wrong = || Wrong::new(format!("`{text}` is not the URL of an HTTP API"));
    if !text.contains("://") {
        let with_scheme = format!("http://{text}");
        return Err(if with_scheme.parse::<http::Uri>().is_ok() {
            wrong().suggest(format!("did you mean \"{with_scheme}\"?"))
        } else {
            wrong().suggest("write it like \"http://127.0.0.1:8500\"")
        });
    }
    let url: http::Uri = text
        .parse()
        .map_err(|error| Wrong::new(format!("`{text}` is not a URL: {error}")))?;
    if !matches!(url.scheme_str(), Some("http" | "https")) {
        return Err(wrong().suggest("use \"http://\" or \"https://\""));
    }
    if url.authority().is_some_and(|a| a.as_str().contains('@')) {
        return Err(Wrong::new("a URL here holds no user and no password")
            .suggest("write `token = { file = \"…\" }` or `token = { env = \"…\" }`"));
    }
    if url.query().is_some() {
        return Err(wrong().suggest("leave out what stands after `?`"));
    }
    Ok(text.trim_end_matches('/').to_owned())
}

/// Bytes of a filter of the log, which stands in the status and in the log as well.
const LONGEST_FILTER: usize = 1024;

/// A `tracing` filter: a level (`info`) or a list such as `info,callboard::registry=debug`.
pub(crate) fn log_level(text: &str) -> Result<String, Wrong> {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    // A bare word that is no level would mean "everything of the module of that name".
    for word in text.split(',').map(str::trim) {
        let target = word.contains(['=', '[', ':']);
        if !target && !LEVELS.contains(&word.to_ascii_lowercase().as_str()) {
            let wrong = Wrong::new(format!("`{word}` is not a log level"));
            return Err(match nearest(word, LEVELS) {
                Some(level) => wrong.suggest(format!("did you mean `{level}`?")),
                None => wrong.suggest(format!("write one of {}", list(&LEVELS))),
            });
        }
    }
    if text.len() > LONGEST_FILTER {
        return Err(Wrong::new(format!(
            "a log filter has {LONGEST_FILTER} bytes at the most"
        )));
    }
    // A pattern may take as much time and memory as it likes.
    let filter = tracing_subscriber::EnvFilter::builder().with_regex(false);
    match filter.parse(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(error) => Err(Wrong::new(format!("`{text}` is not a log filter: {error}"))
            .suggest("write it like \"info\" or \"info,callboard::registry=debug\"")),
    }
}

/// Any text but an empty one.
pub(crate) fn filled(text: &str) -> Result<String, Wrong> {
    if text.trim().is_empty() {
        return Err(Wrong::new("this text is empty").suggest("fill it in, or leave the key out"));
    }
    Ok(text.to_owned())
}

/// The candidate that was probably meant, if any is near enough.
pub(crate) fn nearest<'c>(
    written: &str,
    candidates: impl IntoIterator<Item = &'c str>,
) -> Option<&'c str> {
    let written = written.to_lowercase();
    candidates
        .into_iter()
        .map(|candidate| {
            let distance = strsim::damerau_levenshtein(&written, &candidate.to_lowercase());
            (distance, candidate)
        })
        .filter(|(distance, candidate)| *distance <= candidate.chars().count().div_ceil(3))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// The candidate that was probably meant: near enough as it is spelled, or what other proxies call so.
pub(crate) fn meant<'c>(
    written: &str,
    candidates: impl IntoIterator<Item = &'c str> + Clone,
) -> Option<&'c str> {
    let same = |word: &str| {
        let plain = |text: &str| text.to_lowercase().replace(['-', '_', ' '], "");
        plain(word) == plain(written)
    };
    let ours = ELSEWHERE
        .iter()
        .find(|(theirs, _)| theirs.split(' ').any(same));
    let ours = ours.and_then(|(_, ours)| candidates.clone().into_iter().find(|one| one == ours));
    ours.or_else(|| nearest(written, candidates))
}

/// Words of HAProxy, nginx, Envoy and Traefik, and ours for each.
const ELSEWHERE: [(&str, &str); 21] = [
    (
        "leastconn least_connections least_outstanding",
        "least_request",
    ),
    ("rr wrr weighted_round_robin static-rr", "round_robin"),
    (
        "consistent consistent_hash ring_hash maglev ip_hash source uri chash",
        "hash",
    ),
    ("ewma latency least_time", "peak_ewma"),
    ("power_of_two random_two_choices", "p2c"),
    ("cookie session affinity persistence", "sticky"),
    ("retries retry_policy num_retries", "retry"),
    ("retry_on statuses conditions", "on"),
    ("tries max_attempts num_retries", "attempts"),
    ("per_try_timeout", "try_timeout"),
    ("timeouts", "timeout"),
    ("check checks healthcheck health_checks", "health"),
    (
        "servers upstreams backends targets hosts addresses",
        "endpoints",
    ),
    ("upstream backend cluster target", "service"),
    (
        "algorithm lb lb_policy load_balancing strategy policy",
        "balance",
    ),
    ("outlier_detection circuit_breaker passive_health", "eject"),
    ("rate_limit ratelimit", "rate"),
    ("bind port listen url", "address"),
    ("prefix location match", "path"),
    ("max_connections maxconn", "connections"),
    ("strip stripprefix strip_path", "strip_prefix"),
];

/// What a table may look like, for one that is something else: something that can be pasted.
pub(crate) fn example_of_a_table(path: &str) -> Option<&'static str> {
    const TABLES: [(&str, &str); 17] = [
        ("listen.timeout", "{ header = \"10s\" }"),
        ("listen.limits", "{ connections = 20000 }"),
        ("timeout", "{ response = \"30s\" }"),
        ("retry", "{ attempts = 3 }"),
        ("budget", "{ ratio = 0.2 }"),
        ("pool", "{ idle = \"4s\" }"),
        ("limits", "{ concurrent = 100 }"),
        ("health", "{ kind = \"http\", path = \"/health\" }"),
        ("eject", "{ failures = 5 }"),
        ("guard", "{ share = 0.5 }"),
        ("acme", "{ domains = [\"shop.example.com\"] }"),
        ("tls", "{ ca = \"ca.pem\" }"),
        ("expose", "{ tags = [\"public\"] }"),
        ("log", "{ level = \"info\" }"),
        ("drain", "{ notice = \"3s\" }"),
        ("snapshot", "{ max_age = \"168h\" }"),
        ("split", "{ service = \"cart\", weight = 1 }"),
    ];
    let is_it = |name: &str| path == name || path.ends_with(&format!(".{name}"));
    let (_, example) = TABLES.iter().find(|(name, _)| is_it(name))?;
    Some(example)
}

/// `a`, `b` or `c`, as it stands in a sentence.
pub(crate) fn list(names: &[&str]) -> String {
    match names {
        [] => String::new(),
        [only] => format!("`{only}`"),
        [first @ .., last] => {
            let first: Vec<_> = first.iter().map(|name| format!("`{name}`")).collect();
            format!("{} or `{last}`", first.join(", "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_whole_numbers_with_units_from_the_largest_down() {
        for (text, millis) in [
            ("500ms", 500),
            ("1s", 1000),
            ("2m", 120_000),
            ("1h", 3_600_000),
            ("1m30s", 90_000),
            ("1h1m1s1ms", 3_661_001),
        ] {
            let expected = Duration::from_millis(millis);
            assert_eq!(duration(text, Zero::Refused), Ok(expected), "{text}");
        }
        for text in [
            "",
            "s",
            "1",
            "1.5s",
            "-1s",
            "1d",
            "1 s",
            "30s1m",
            "1s1s",
            "ms1",
            "1s5",
            "1sm",
            "9999999999999999999h",
            "18446744073709551615s",
            "8761h",
        ] {
            assert!(duration(text, Zero::Allowed).is_err(), "{text}");
        }
        assert!(duration("0s", Zero::Refused).is_err());
        assert_eq!(duration("0ms", Zero::Allowed), Ok(Duration::ZERO));
    }

    #[test]
    fn a_bare_number_is_told_its_unit() {
        assert_eq!(
            duration("30", Zero::Refused)
                .unwrap_err()
                .suggestion
                .unwrap(),
            "write \"30s\" or \"30ms\""
        );
    }

    #[test]
    fn an_address_that_nearly_is_one_is_completed() {
        assert!(listen_address("[::1]:0").is_ok());
        for (text, meant) in [
            ("", "0.0.0.0:8080"),
            ("8080", "0.0.0.0:8080"),
            (":8080", "0.0.0.0:8080"),
            ("*:80", "0.0.0.0:80"),
            ("localhost:80", "127.0.0.1:80"),
            ("10.0.0.1", "10.0.0.1:8080"),
        ] {
            let wrong = listen_address(text).unwrap_err();
            assert_eq!(
                wrong.suggestion.unwrap(),
                format!("did you mean \"{meant}\"?"),
                "{text}"
            );
        }
        for text in ["example.com:80", "1.2.3.4:99999", "::1"] {
            let wrong = listen_address(text).unwrap_err();
            assert!(
                wrong.suggestion.unwrap().starts_with("write it like"),
                "{text}"
            );
        }
    }

    #[test]
    fn a_network_may_be_one_address() {
        assert_eq!(network("10.0.0.1").unwrap().to_string(), "10.0.0.1/32");
        for (written, is) in [
            ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
            ("::ffff:10.0.0.1", "10.0.0.1/32"),
            ("::ffff:0:0/96", "0.0.0.0/0"),
            // More than those.
            ("::/0", "::/0"),
            ("::ffff:0:0/95", "::ffff:0.0.0.0/95"),
            ("2001:db8::/32", "2001:db8::/32"),
        ] {
            let expected: IpNet = is.parse().unwrap();
            assert_eq!(network(written).unwrap(), expected, "{written}");
        }
        assert_eq!(network("fd00::/8").unwrap().to_string(), "fd00::/8");
        assert!(network("10.0.0.0/33").is_err());
        assert!(network("proxy.example.com").is_err());
    }

    #[test]
    fn a_base_url_is_http_and_holds_no_secret() {
        assert_eq!(
            base_url("https://consul:8501/").unwrap(),
            "https://consul:8501"
        );
        assert_eq!(base_url("http://h/consul").unwrap(), "http://h/consul");
        assert_eq!(
            base_url("127.0.0.1:8500").unwrap_err().suggestion.unwrap(),
            "did you mean \"http://127.0.0.1:8500\"?"
        );
        for text in [
            "",
            "http://",
            "ftp://h",
            "unix:///x",
            "http://u:p@h",
            "http://h/?a=1",
        ] {
            assert!(base_url(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_misspelt_level_is_not_taken_for_a_module() {
        for text in ["info", "WARN", "off", "warn,callboard::registry=debug"] {
            assert!(log_level(text).is_ok(), "{text}");
        }
        let wrong = log_level("inof").unwrap_err();
        assert_eq!(wrong.suggestion.unwrap(), "did you mean `info`?");
        for text in ["", "loud", "info,", "callboard=loud"] {
            assert!(log_level(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_word_of_another_proxy_is_known_where_ours_may_stand() {
        let balances = ["round_robin", "least_request", "hash", "p2c"];
        for (theirs, ours) in [
            ("leastconn", Some("least_request")),
            ("Least-Connections", Some("least_request")),
            ("consistent_hash", Some("hash")),
            ("roundrobin", Some("round_robin")),
            ("sticky_sessions", None),
        ] {
            assert_eq!(meant(theirs, balances), ours, "{theirs}");
        }
        assert_eq!(meant("retries", ["retry", "timeout"]), Some("retry"));
        assert_eq!(meant("retries", ["timeout"]), None);
    }

    #[test]
    fn a_duration_as_it_is_written_elsewhere_is_told_how_it_is_here() {
        for (text, meant) in [
            ("7d", "168h"),
            ("5 s", "5s"),
            ("1.5s", "1500ms"),
            ("10 min", "10m"),
            ("90sec", "90s"),
        ] {
            let suggestion = duration(text, Zero::Allowed).unwrap_err().suggestion;
            assert_eq!(suggestion.unwrap(), format!("did you mean \"{meant}\"?"));
            assert!(duration(meant, Zero::Allowed).is_ok(), "{meant}");
        }
    }

    #[test]
    fn only_a_near_name_is_suggested() {
        assert_eq!(nearest("servce", ["path", "service"]), Some("service"));
        assert_eq!(nearest("Host", ["path", "host"]), Some("host"));
        assert_eq!(nearest("frob", ["path", "service"]), None);
    }
}
