//! `redirect_to_https`: where a client is sent that has come in the clear.

use http::{HeaderValue, uri::PathAndQuery};

use super::{Client, Scheme, admit::Head, local_reply::LocalReply};

/// The port that a URL of `https` need not name.
const DEFAULT_PORT: u16 = 443;

/// Where this request is to be made; `None` where it is answered as it came.
///
/// # Errors
/// Where it names no host.
pub(super) fn location(client: &Client, head: &Head<'_>) -> Result<Option<String>, LocalReply> {
    let Some(port) = client.listener.redirect_to_https else {
        return Ok(None);
    };
    // A proxy in front has ended its TLS, and says so in its PROXY header or in each request.
    let has_come_by_tls = client.scheme == Scheme::Https;
    if has_come_by_tls || client.peer.trusted && says_https(head) {
        return Ok(None);
    }
    let host = head.host().unwrap_or_default();
    if host.is_empty() {
        return Err(LocalReply::Malformed("there is no Host to redirect to"));
    }
    let target = head.parts.uri.path_and_query();
    let target = target.map_or("/", PathAndQuery::as_str);
    Ok(Some(url(host, port, target)))
}

fn says_https(head: &Head<'_>) -> bool {
    // The nearest proxy has the last word of the last line.
    let said = head.parts.headers.get_all("x-forwarded-proto");
    let last = said.iter().next_back().map(HeaderValue::as_bytes);
    let last = last.and_then(|line| line.rsplit(|byte| *byte == b',').next());
    last.is_some_and(|proto| proto.trim_ascii().eq_ignore_ascii_case(b"https"))
}

fn url(host: &str, port: u16, target: &str) -> String {
    // An IPv6 address has colons of its own, in brackets.
    let name = match host.rsplit_once(':') {
        Some((name, digits)) if digits.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    match port {
        DEFAULT_PORT => format!("https://{name}{target}"),
        port => format!("https://{name}:{port}{target}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_port_of_the_host_gives_way_to_that_of_https() {
        for (host, port, expected) in [
            ("example.com", 443, "https://example.com/a?b=c"),
            ("example.com:80", 443, "https://example.com/a?b=c"),
            ("example.com:8080", 8443, "https://example.com:8443/a?b=c"),
            ("[2001:db8::1]", 443, "https://[2001:db8::1]/a?b=c"),
            ("[2001:db8::1]:80", 8443, "https://[2001:db8::1]:8443/a?b=c"),
            ("10.0.0.7:80", 443, "https://10.0.0.7/a?b=c"),
        ] {
            assert_eq!(url(host, port, "/a?b=c"), expected);
        }
    }
}
